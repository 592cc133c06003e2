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

mod limits;
mod proxy_protocol;
mod tls;

mod commands;
mod intermediary;
mod policy;
mod stop;

mod h2_upstream;
mod servers;
mod upstream_tls;
