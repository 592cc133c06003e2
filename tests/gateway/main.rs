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
mod metrics;

mod commands;
mod intermediary;
mod policy;
mod stop;
