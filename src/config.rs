//! What a configuration means: checked types only.
//!
//! Who holds a [`Config`] need not check it again: each part was brought into its final type while the file was read.
//! That is done in `config/raw.rs`, which knows the keys, their forms and their defaults. Nothing here touches the
//! network; a server's name is resolved when it is connected to.

use std::{fmt, fs::File, io::Read, net::SocketAddr, path::Path, time::Duration};

use http::uri::Authority;
use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::core::policy::Policy;

mod describe;
mod pattern;
mod raw;
#[cfg(test)]
mod tests;

pub use pattern::PathPattern;

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients are listened for; at least one.
    pub listeners: Vec<Listener>,
    /// The backends, each under its name; at least one.
    pub upstreams: Vec<Upstream>,
    /// Which request goes where; the first match wins; never empty.
    pub routes: Vec<Route>,
    /// The bounds of what is remembered.
    pub tracker: Tracker,
    /// How the log is written.
    pub log: Log,
    /// Worker threads, each with a runtime of its own; by default one a core.
    pub workers: usize,
    /// How long a stop waits for what is under way.
    pub drain_timeout: Duration,
    /// How long a client may take to send a request's head, and a new connection its first bytes.
    pub header_read_timeout: Duration,
    /// How long a client that has ended its side of the connection is waited for while it takes nothing.
    pub half_close_timeout: Duration,
    /// How many writes of one connection may be under way at once, those included that go on without it.
    pub writes_per_connection: usize,
}

/// One listening address.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The address and port.
    pub address: SocketAddr,
}

/// One backend: a name and the servers that serve it.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The name that routes use.
    pub name: String,
    /// `host:port` of each server; at least one.
    pub servers: Vec<Authority>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long the backend may take for the head of its answer, counted from the last byte that it took of the
    /// request.
    pub response_timeout: Duration,
    /// How long a connection may lie idle before it is used again.
    pub idle_timeout: Duration,
    /// Which `Host` the backend sees.
    pub host: HostRule,
}

/// Which `Host` the backend sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostRule {
    /// The client's.
    Preserve,
    /// The server's own.
    Rewrite,
}

/// Which requests go to which upstream under which rules.
#[derive(Debug, Clone)]
pub struct Route {
    /// The host it is for, lower case and without a port; `None`: any.
    pub host: Option<String>,
    /// The path it is for.
    pub path: PathPattern,
    /// The upstream's place in [`Config::upstreams`].
    pub upstream: usize,
    /// The rules.
    pub policy: Policy,
}

/// The bounds of what is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Tracker {
    /// Records.
    pub capacity: usize,
    /// The longest tag that is remembered, in bytes; a longer one counts as none.
    pub tag_bytes: usize,
}

/// How the log is written.
#[derive(Debug, Clone)]
pub struct Log {
    /// One line of text or one JSON object an event.
    pub format: LogFormat,
    /// The least severe level that is written, or a filter such as `info,ifmatch=debug`.
    pub level: String,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Why a configuration can't be used: every error found, each with its place.
#[derive(Debug)]
pub struct ConfigErrors {
    /// Never empty.
    pub errors: Vec<ConfigError>,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The line, counted from 1, where known.
    pub line: Option<usize>,
    /// The key's full name, such as `guard.wait` or `routes[2].path`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A file beyond this is taken for a mistake and not read further.
const MAX_FILE_BYTES: usize = 1024 * 1024;

impl Log {
    /// What of the log is written.
    ///
    /// # Errors
    ///
    /// None where the level was read from a file, which checks it.
    pub fn filter(&self) -> Result<EnvFilter, ParseError> {
        raw::form::log_filter(&self.level)
    }
}

impl Config {
    /// Reads and checks the text of a file.
    ///
    /// # Errors
    ///
    /// All that is wrong with the text, in the order of its lines.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        if text.len() > MAX_FILE_BYTES {
            return Err(ConfigErrors::too_large());
        }
        raw::read(text)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// That the file can't be read, or all that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| ConfigErrors::one(None, "", format!("{} can't be read: {error}", path.display())))?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err(ConfigErrors::too_large());
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let line = 1 + bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
            ConfigErrors::one(Some(line), "", "the file is not UTF-8".to_owned())
        })?;
        Self::parse(text)
    }

    /// One listener and one upstream, all else by default: what `--listen` and `--upstream` say.
    ///
    /// # Errors
    ///
    /// That the upstream is not of the form `http://host[:port]`.
    pub fn single(listen: SocketAddr, upstream: &str) -> Result<Self, ConfigErrors> {
        let server = raw::form::server(upstream).map_err(|message| ConfigErrors::one(None, "--upstream", message))?;
        let listener = format!("[[listeners]]\naddress = \"{listen}\"\n");
        Self::parse(&format!("{listener}[upstreams.backend]\nservers = [\"http://{server}\"]\n"))
    }
}

impl Route {
    /// Whether this route takes every request that the other would take.
    fn covers(&self, other: &Self) -> bool {
        (self.host.is_none() || self.host == other.host) && self.path.covers(&other.path)
    }
}

impl ConfigErrors {
    fn one(line: Option<usize>, key: &str, message: String) -> Self {
        Self { errors: vec![ConfigError { line, key: key.to_owned(), message }] }
    }

    fn too_large() -> Self {
        let limit = raw::form::size_text(MAX_FILE_BYTES as u64);
        Self::one(None, "", format!("the file is too large: a configuration has at most {limit}"))
    }
}

impl fmt::Display for ConfigErrors {
    /// A line for each error, without a line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}
