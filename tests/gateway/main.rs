//! The gateway between real sockets: what a client is told, and what reaches the backend.

mod support;

mod race;
mod related;
mod replay;
mod turns;

mod half_close;
mod hangup;
mod learning;
mod outcome;
mod probe;

mod precondition;
mod target;
mod versions;

mod body;
mod body_limits;
mod forwarded;
mod refusal;
mod ways_around;
mod webdav;

mod idempotency;
mod unique;

mod browsers;

mod grpc;
mod informational;
mod streaming;
mod trailers;
mod upgrade;

mod access_log;
mod admin;
mod limits;
mod metrics;
mod proxy_protocol;
mod tls;

mod commands;
mod drain;
mod hygiene;
mod intermediary;
mod load;
mod policy;
mod profiles;
mod recovery;
mod reload;
mod report;
mod rollout;
mod stop;
mod systemd;
mod takeover;

mod h2_upstream;
mod servers;
mod upstream_tls;
