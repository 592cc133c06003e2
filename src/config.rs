//! What a configuration means: checked types only.
//!
//! Who holds a [`Config`] need not check it again: each part was brought into its final type while the file was read.
//! That is done in `config/raw.rs`, which knows the keys, their forms and their defaults. Nothing here touches the
//! network; a server's name is resolved when it is connected to.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use http::uri::{Authority, PathAndQuery};
use ipnet::IpNet;
use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::core::policy::Policy;

mod check;
mod describe;
mod pattern;
mod raw;
mod related;
#[cfg(test)]
mod tests;

pub use pattern::PathPattern;
pub use related::RelatedPath;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where clients are listened for; at least one.
    pub listeners: Vec<Listener>,
    /// The backends, each under its name; at least one.
    pub upstreams: Vec<Upstream>,
    /// Which request goes where; the first match wins; never empty.
    pub routes: Vec<Route>,
    /// What the backend is told of the client.
    pub forwarding: Forwarding,
    /// What clients may take.
    pub limits: Limits,
    /// The bounds of what is remembered.
    pub tracker: Tracker,
    /// The bounds of what is remembered of requests that may come again.
    pub memory: Memory,
    /// The bounds of what is remembered of clients that are watched.
    pub report: Report,
    /// Where an operator asks; `None`: nowhere.
    pub admin: Option<Admin>,
    /// How the log is written.
    pub log: Log,
    /// Worker threads, each with a runtime of its own; by default one a core.
    pub workers: usize,
    /// How long a stop waits for what is under way.
    pub drain_timeout: Duration,
    /// How often the file and the certificates are looked at for a change; zero: only on SIGHUP.
    pub reload_interval: Duration,
    /// The lock by which one process takes over from another; `None`: an address that is in use is refused.
    pub takeover: Option<PathBuf>,
}

/// One listening address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The address and port.
    pub address: SocketAddr,
    /// How connections are secured; `None`: not at all.
    pub tls: Option<ListenerTls>,
    /// Whether every connection begins with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,
}

/// How a listener's connections are secured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one. The first is shown to clients that name no server, or one that no certificate is for.
    pub certificates: Vec<CertificateFiles>,
    /// Whose client certificates are accepted; with it every client must show one.
    pub client_ca: Option<PathBuf>,
}

/// A certificate chain and its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What the backend is told of the client in `Forwarded` and `X-Forwarded-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// What becomes of what the client says itself.
    pub rule: ForwardedRule,
    /// The proxies before the gateway, whose word is believed.
    pub trusted: Vec<IpNet>,
}

/// What becomes of the `Forwarded` and `X-Forwarded-*` fields that a request comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedRule {
    /// They are replaced by what the gateway sees.
    Replace,
    /// A trusted proxy's are continued, everybody else's replaced.
    Append,
    /// They pass as they are, and nothing is added.
    Off,
}

/// What clients may take: time, space, connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long a request's head may take from its first byte, and how long a new connection may take for its first
    /// bytes, a PROXY header and a TLS handshake.
    pub header_read_timeout: Duration,
    /// How long a connection may lie idle between two requests.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub send_timeout: Duration,
    /// How long a client that has ended its side of the connection is waited for while it takes nothing.
    pub half_close_timeout: Duration,
    /// How long a request may take until the head of its answer; `None`: as long as the other limits allow.
    pub request_timeout: Option<Duration>,
    /// The bytes of a request's head.
    pub header_bytes: usize,
    /// The fields of a request's head.
    pub headers: usize,
    /// The bytes of a request's target.
    pub request_line: usize,
    /// Connections of all clients.
    pub connections: usize,
    /// Connections of one client address. Trusted proxies are not counted.
    pub connections_per_address: usize,
    /// Requests of one connection; after the last it is closed.
    pub requests_per_connection: usize,
    /// Requests of one HTTP/2 connection that may be under way at once.
    pub streams_per_connection: usize,
    /// How many writes of one connection may be under way at once, those included that go on without it.
    pub writes_per_connection: usize,
}

/// One backend: a name and the servers that serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The name that routes use.
    pub name: String,
    /// At least one.
    pub servers: Vec<Origin>,
    /// What is spoken with them.
    pub protocol: Protocol,
    /// How connections to `https` servers are secured.
    pub tls: UpstreamTls,
    /// Which server gets a request.
    pub balance: Balance,
    /// Which `Host` the backend sees.
    pub host: HostRule,
    /// Connections to each server, over all workers.
    pub max_connections: usize,
    /// How long a connection may take to be made, TLS included, or to become free where there are as many as may be.
    pub connect_timeout: Duration,
    /// How long the backend may take for the head of its answer, counted from the last byte that it took of the
    /// request.
    pub response_timeout: Duration,
    /// How long the backend may pause within the body of an answer.
    pub response_idle_timeout: Duration,
    /// How long nothing may pass through an upgraded connection, such as a WebSocket.
    pub tunnel_idle_timeout: Duration,
    /// How long a connection may lie idle before it is used again.
    pub idle_timeout: Duration,
    /// How long the addresses of a server's name are trusted.
    pub resolve_interval: Duration,
    /// Whether and how servers are asked for their health.
    pub health: Option<Health>,
    /// When a server that fails gets no requests for a while.
    pub ejection: Ejection,
}

/// A server: its scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whether TLS is spoken.
    pub https: bool,
    /// `host:port`.
    pub authority: Authority,
}

/// Which HTTP is spoken with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge where the connection is not secured.
    Http2,
    /// What ALPN agrees on; HTTP/1.1 where the connection is not secured.
    Auto,
}

/// How connections to `https` servers are secured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The authorities that are believed, as a PEM file; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// What the gateway shows.
    pub certificate: Option<CertificateFiles>,
    /// The name that the server's certificate must be for, and that it is asked for (SNI); `None`: its host.
    pub server_name: Option<String>,
}

/// Which server gets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Each in its turn.
    RoundRobin,
    /// The one with the fewest requests under way.
    LeastConnections,
}

/// How servers are asked for their health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is asked for; a 2xx or 3xx is a good sign.
    pub path: PathAndQuery,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How many good signs in a row make a server healthy.
    pub healthy: usize,
    /// How many bad ones in a row make it unhealthy.
    pub unhealthy: usize,
}

/// When a server that fails gets no requests for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    /// How many failures in a row; zero: never.
    pub failures: usize,
    /// For how long at first; twice as long each time that it fails again.
    pub time: Duration,
    /// For how long at most.
    pub max_time: Duration,
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
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The host it is for, lower case and without a port; `None`: any.
    pub host: Option<String>,
    /// The path it is for.
    pub path: PathPattern,
    /// The upstream's place in [`Config::upstreams`].
    pub upstream: usize,
    /// The resources that a write to one of its resources changes, too.
    pub also_changes: Vec<RelatedPath>,
    /// The rules.
    pub policy: Policy,
}

/// The bounds of what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracker {
    /// Records.
    pub capacity: usize,
    /// The longest tag that is remembered, in bytes; a longer one counts as none.
    pub tag_bytes: usize,
}

/// The bounds of what is remembered of requests that may come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Answers and values.
    pub entries: usize,
    /// The bytes that they take.
    pub bytes: usize,
    /// What backends have said to pages of other origins.
    pub origins: usize,
}

/// The bounds of what is remembered of clients that are watched, for `ifmatch report`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Clients that are told apart by name.
    pub clients: usize,
    /// Reads and writes by which blind overwrites are told.
    pub reads: usize,
}

/// Where an operator asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admin {
    /// The address and port.
    pub address: SocketAddr,
}

/// How the log is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// One line of text or one JSON object an event.
    pub format: LogFormat,
    /// The least severe level that is written, or a filter such as `info,ifmatch=debug`.
    pub level: String,
    /// Whether each request is told of, on standard output.
    pub access: bool,
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

/// Opens a file to be read, and nothing that has no end, or that has its reader wait: neither a pipe nor a device.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    File::open(path)
}

impl Config {
    /// Reads and checks the text of a file. The files that it names are taken from the working directory.
    ///
    /// # Errors
    ///
    /// All that is wrong with the text, in the order of its lines.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        if text.len() > MAX_FILE_BYTES {
            return Err(ConfigErrors::too_large());
        }
        raw::read(text, Path::new(""))
    }

    /// Reads and checks a file. The files that it names are taken from its own folder.
    ///
    /// # Errors
    ///
    /// That the file can't be read, or all that is wrong with it. They do not name the file.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::of(path, File::open(path))
    }

    /// As [`Config::load`], but of what is there while the gateway runs, which must be a file: whoever has made it a pipe
    /// could have the reader wait for ever.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load_again(path: &Path) -> Result<Self, ConfigErrors> {
        Self::of(path, open_file(path))
    }

    fn of(path: &Path, opened: io::Result<File>) -> Result<Self, ConfigErrors> {
        let mut bytes = Vec::new();
        opened
            .and_then(|file| file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| ConfigErrors::one(None, "", format!("can't be read: {error}")))?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err(ConfigErrors::too_large());
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let line = 1 + bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
            ConfigErrors::one(Some(line), "", "the file is not UTF-8".to_owned())
        })?;
        raw::read(text, path.parent().unwrap_or(Path::new("")))
    }

    /// One listener and one upstream, all else by default: what `--listen` and `--upstream` say.
    ///
    /// # Errors
    ///
    /// That the upstream is not of the form `http://host[:port]` or `https://host[:port]`.
    pub fn single(listen: SocketAddr, upstream: &str) -> Result<Self, ConfigErrors> {
        let server = raw::form::server(upstream).map_err(|message| ConfigErrors::one(None, "--upstream", message))?;
        let listener = format!("[[listeners]]\naddress = \"{listen}\"\n");
        Self::parse(&format!("{listener}[upstreams.backend]\nservers = [\"{server}\"]\n"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority)
    }
}

impl Forwarding {
    /// Whether what comes from this address is believed.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }
}

impl Route {
    /// Whether there may be a request that both would take.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let any_host = self.host.is_none() || other.host.is_none();
        (any_host || self.host == other.host) && self.path.overlaps(&other.path)
    }

    /// Whether this route takes every request that the other would take.
    pub(crate) fn covers(&self, other: &Self) -> bool {
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
