//! Logs, and what is counted.
//!
//! Quiet by default: starting, stopping, writes in doubt. A refusal is a normal answer and is logged at `debug`; what a
//! route in `observe` mode would have refused is logged at `info`, since that is what the mode is for.

use std::{
    fmt,
    io::{self, IsTerminal},
    sync::atomic::{AtomicU64, Ordering},
};

use tracing_subscriber::fmt as output;

use crate::{
    config::{Log, LogFormat},
    core::verdict::Refusal,
    gateway::Failure,
};

/// Writes the log to standard error from here on.
///
/// # Errors
///
/// A filter that can't be read, or a log that was begun before.
pub fn init(log: &Log) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let builder = output().with_env_filter(log.filter()?).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
}

/// How often each verdict was given since the start. Written to the log when the process stops.
#[derive(Debug, Default)]
pub struct Counters {
    stale: Count,
    exists: Count,
    unverifiable: Count,
    missing_precondition: Count,
    busy: Count,
    malformed: Count,
    would_refuse: Count,
    in_doubt: Count,
}

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load(Ordering::Relaxed).fmt(f)
    }
}

impl Counters {
    /// A request got an answer of the gateway's own.
    pub fn count(&self, failure: &Failure) {
        tracing::debug!(?failure, "refused");
        match failure {
            Failure::Refused(refused) => self.refusal(refused.why).add(),
            Failure::Represented(..) => self.stale.add(),
            Failure::Busy(_) => self.busy.add(),
            Failure::Malformed(_) => self.malformed.add(),
            Failure::Upstream(..)
            | Failure::Lost
            | Failure::Target(_)
            | Failure::TargetLength(_)
            | Failure::RequestTimeout(_)
            | Failure::Host
            | Failure::Expectation
            | Failure::Method
            | Failure::TransferCoding
            | Failure::Length
            | Failure::MethodOverride
            | Failure::Body(_)
            | Failure::NoRoute
            | Failure::Relayed(_) => {}
        }
    }

    /// A write was forwarded that an enforcing route would have refused.
    pub fn would_refuse(&self) {
        self.would_refuse.add();
    }

    /// A write was sent, and nobody knows what became of it.
    pub fn in_doubt(&self) {
        self.in_doubt.add();
    }

    fn refusal(&self, why: Refusal) -> &Count {
        match why {
            Refusal::Stale => &self.stale,
            Refusal::Exists => &self.exists,
            Refusal::Unverifiable => &self.unverifiable,
            Refusal::MissingPrecondition => &self.missing_precondition,
        }
    }

    /// Writes the counts to the log.
    pub fn log(&self) {
        tracing::info!(
            stale = %self.stale,
            exists = %self.exists,
            unverifiable = %self.unverifiable,
            missing_precondition = %self.missing_precondition,
            busy = %self.busy,
            malformed = %self.malformed,
            would_refuse = %self.would_refuse,
            in_doubt = %self.in_doubt,
            "verdicts since the start"
        );
    }
}
