//! What is seen from outside: the log, what is counted, the access log, trace ids.
//!
//! The log is quiet by default: starting, stopping, writes in doubt. A refusal is a normal answer and is logged at `debug`;
//! what a route that only observes would have refused is logged at `info`, since that is what the mode is for. How often each
//! thing happened is counted in [`metrics`], and nowhere else.

use std::{
    error::Error,
    fmt,
    io::{self, IsTerminal},
    sync::{Arc, OnceLock},
};

use tracing_subscriber::fmt as format;

use crate::config::{Log, LogFormat};

pub mod access;
pub mod metrics;
mod output;
pub mod report;
pub mod trace;

use access::AccessLog;
use metrics::{Metrics, Now};
use output::Output;
use report::Report;

/// The log, once it has begun.
static LOG: OnceLock<Output> = OnceLock::new();

/// Writes the log to standard error from here on.
///
/// # Errors
///
/// A filter that can't be read, or a log that was begun before.
pub fn init(log: &Log) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter = log.filter()?;
    let writer = LOG.get_or_init(|| Output::to("log", io::stderr())).writer();
    let builder =
        format().with_env_filter(filter).with_writer(move || writer.clone()).with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
}

/// Has all of the log written that is waiting, before the process ends. Blocks, but not for long. Nothing is logged after
/// that.
pub fn finish() {
    if let Some(log) = LOG.get() {
        log.finish();
    }
}

/// An error with what led to it, in one line.
#[derive(Debug, Clone, Copy)]
pub struct Causes<'a>(pub &'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors tell of their cause themselves.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            cause = error.source();
        }
        Ok(())
    }
}

/// Everything that is shared between workers, and outlives a change of the configuration.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is counted by client.
    pub report: Arc<Report>,
    /// Open from the first configuration on that asks for it.
    access: OnceLock<AccessLog>,
}

impl Telemetry {
    /// With this report.
    #[must_use]
    pub fn with(report: Report) -> Self {
        Self { report: Arc::new(report), ..Self::default() }
    }

    /// Where the lines of this configuration go, if it asks for any.
    pub fn access_log(&self, log: &Log) -> Option<access::Lines> {
        log.access.then(|| self.access.get_or_init(AccessLog::to_stdout).lines(log.format))
    }

    /// Has all written that is still to be told, the sums of what was counted among it. Blocks, but not for long.
    pub fn finish(&self) {
        self.metrics.log();
        if let Some(access) = self.access.get() {
            access.finish();
        }
    }

    /// All that was counted, as OpenMetrics text.
    #[must_use]
    pub fn scrape(&self, now: Now) -> String {
        self.metrics.scrape(now, self.access.get().map_or(0, AccessLog::dropped), &self.report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_are_told_once_each() {
        let with = |text, cause| Some(Box::new(Layer(text, cause)));
        for (error, told) in [
            (Layer("a", None), "a"),
            (Layer("a", with("b", with("c", None))), "a: b: c"),
            (Layer("a: b", with("b", with("c", None))), "a: b: c"),
            (Layer("a", with("a", None)), "a"),
        ] {
            assert_eq!(Causes(&error).to_string(), told);
        }
    }
}
