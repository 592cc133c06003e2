//! The gateway between real sockets: what a client is told, and what reaches the backend.

mod support;

mod race;
mod turns;

mod half_close;
mod hangup;
mod learning;
mod outcome;
mod probe;

mod precondition;
mod target;

mod body;
mod refusal;
mod ways_around;

mod access_log;
mod admin;
mod limits;
mod metrics;
mod proxy_protocol;
mod tls;

mod commands;
mod drain;
mod intermediary;
mod policy;
mod reload;
mod stop;
mod systemd;
mod takeover;
