//! What a configuration means: checked types only.
//!
//! Who holds a [`Config`] need not check it again: each part was brought into its final type while the file was read, in
//! `config/raw.rs`, which also knows the keys, their forms and their defaults. Nothing here touches the network; a
//! server's name is resolved when it is connected to.

use std::{fmt, fs::File, io::Read, net::SocketAddr, path::Path, time::Duration};

use http::uri::Authority;

use crate::core::{
    policy::{Comparison, MethodOverride, Missing, Mode, Policy, QueryRule, Verify},
    resource::Target,
};

mod raw;

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
    /// How long the backend may take for the head of its answer, counted from the last byte that it took of the request.
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

/// A path pattern: segments, each literal, `{name}` (one segment) or, at the end, `{*rest}` (all that remain).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// In the canonical form of request paths; empty before a trailing `/`.
    Literal(String),
    /// With its name, which only people read.
    One(String),
    Rest(String),
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

impl Config {
    /// Reads and checks the text of a file.
    ///
    /// # Errors
    ///
    /// All that is wrong with the text, in the order of its lines.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        if text.len() > MAX_FILE_BYTES {
            let limit = raw::size_text(MAX_FILE_BYTES as u64);
            return Err(ConfigErrors::one(None, "", format!("a configuration has at most {limit}")));
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
            // Cut in the middle, the text may end within a letter; its size is what is to be told.
            bytes.fill(b' ');
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
        let server = raw::server(upstream).map_err(|message| ConfigErrors::one(None, "--upstream", message))?;
        let listener = format!("[[listeners]]\naddress = \"{listen}\"\n");
        Self::parse(&format!("{listener}[upstreams.backend]\nservers = [\"http://{server}\"]\n"))
    }

    /// What the configuration means, in words, for somebody who wants to know whether it says what they wanted.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut lines: Vec<String> =
            self.listeners.iter().map(|listener| format!("Listens on {}.", listener.address)).collect();
        lines.extend(self.upstreams.iter().map(Upstream::describe));
        for (index, route) in self.routes.iter().enumerate() {
            let upstream = &self.upstreams[route.upstream].name;
            let host = route.host.as_deref().unwrap_or("any");
            lines.push(format!("Route {}: host {host}, path {}, to {upstream:?}.", index + 1, route.path));
            lines.extend(rules(&route.policy).into_iter().map(|rule| format!("    {rule}")));
        }
        lines.push(self.describe_process());
        lines.join("\n") + "\n"
    }

    fn describe_process(&self) -> String {
        format!(
            "Remembers {} resources at most, with tags of up to {}. Logs {} at {:?}.\n\
             Runs {} workers; a request's head may take {}; a stop waits {} for what is under way.",
            self.tracker.capacity,
            raw::size_text(self.tracker.tag_bytes as u64),
            match self.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "JSON",
            },
            self.log.level,
            self.workers,
            raw::duration_text(self.header_read_timeout),
            raw::duration_text(self.drain_timeout),
        )
    }
}

impl Upstream {
    fn describe(&self) -> String {
        let host = match self.host {
            HostRule::Preserve => "the client's Host",
            HostRule::Rewrite => "its own Host",
        };
        format!(
            "Upstream {:?} is {}, and sees {host}. It has {} to connect and {} to answer; an idle connection is kept {}.",
            self.name,
            listed(&self.servers, "or"),
            raw::duration_text(self.connect_timeout),
            raw::duration_text(self.response_timeout),
            raw::duration_text(self.idle_timeout),
        )
    }
}

impl Route {
    /// Whether this route takes every request that the other would take.
    fn covers(&self, other: &Self) -> bool {
        (self.host.is_none() || self.host == other.host) && self.path.covers(&other.path)
    }
}

/// What a guard does, a sentence each. What is always the same is told always, the rest where it differs from the default.
fn rules(policy: &Policy) -> Vec<String> {
    if policy.mode == Mode::Off {
        return vec!["Not guarded: everything is forwarded, nothing is learned.".to_owned()];
    }
    let mut rules = vec![
        match policy.methods.as_slice() {
            [] => "Guards every write that has a precondition, and no other.".to_owned(),
            methods => format!("Guards {}, and every write that has a precondition.", listed(methods, "and")),
        },
        match policy.mode {
            Mode::Observe => "Only observes: a conflict is logged and counted, and the write is forwarded.".to_owned(),
            Mode::Enforce | Mode::Off => format!("A conflict is answered {}.", policy.conflict_status.as_u16()),
        },
        match policy.missing {
            Missing::Allow => "A guarded write without a precondition is forwarded, in turn.".to_owned(),
            Missing::Require => "A guarded write without a precondition is answered 428.".to_owned(),
        },
        match policy.verify {
            Verify::Never => "The backend is never asked for a tag: what is not known is a conflict.",
            Verify::Unknown => "The backend is asked for a tag that is not known.",
            Verify::Mismatch => "The backend is asked for a tag that is not known, and before a conflict is answered.",
            Verify::Always => "The backend is asked for its tag before every conditional write.",
        }
        .to_owned(),
    ];
    rules.extend(departures(policy));
    let settings = settings(policy);
    if !settings.is_empty() {
        rules.push(format!("Also set: {}.", settings.join(", ")));
    }
    rules
}

/// The choices that are not the default ones.
fn departures(policy: &Policy) -> Vec<String> {
    let mut rules = Vec::new();
    if policy.comparison == Comparison::Weak {
        rules.push("If-Match is compared weakly: W/\"x\" matches \"x\".".to_owned());
    }
    if !policy.encoding_suffixes {
        rules.push("A tag such as \"x-gzip\" is not taken for \"x\".".to_owned());
    }
    if let Some(age) = policy.max_age {
        rules.push(format!("What was learned longer than {} ago is no longer trusted.", raw::duration_text(age)));
    }
    match &policy.query {
        QueryRule::Include => {}
        QueryRule::Ignore => rules.push("The query does not tell resources apart.".to_owned()),
        QueryRule::Only(names) => rules.push(format!("Of the query, only {names:?} tells resources apart.")),
    }
    if !policy.partition.is_empty() {
        rules.push(format!("Resources are kept apart by {}.", listed(&policy.partition, "and")));
    }
    if policy.method_override == MethodOverride::Refuse {
        rules.push("A POST that overrides its method is answered 400.".to_owned());
    }
    if !policy.forward_preconditions {
        rules.push("The backend does not see the preconditions.".to_owned());
    }
    rules
}

/// The numbers that are not the default ones, as the file writes them.
fn settings(policy: &Policy) -> Vec<String> {
    let standard = Policy::default();
    let durations = [
        ("wait", policy.wait, standard.wait),
        ("settle", policy.settle, standard.settle),
        ("body_idle_timeout", policy.body_idle_timeout, standard.body_idle_timeout),
        ("drain_time", policy.drain_time, standard.drain_time),
    ];
    let sizes = [
        ("buffer", policy.buffer as u64, standard.buffer as u64),
        ("drain_bytes", policy.drain_bytes, standard.drain_bytes),
    ];
    let line = (policy.line != standard.line).then(|| format!("line {}", policy.line));
    let durations = durations.iter().filter(|(_, value, standard)| value != standard);
    let sizes = sizes.iter().filter(|(_, value, standard)| value != standard);
    durations
        .map(|(key, value, _)| format!("{key} {}", raw::duration_text(*value)))
        .chain(sizes.map(|(key, value, _)| format!("{key} {}", raw::size_text(*value))))
        .chain(line)
        .collect()
}

/// `a, b and c`.
fn listed<T: ToString>(things: &[T], last: &str) -> String {
    let things: Vec<String> = things.iter().map(ToString::to_string).collect();
    match things.as_slice() {
        [things @ .., end] if !things.is_empty() => format!("{} {last} {end}", things.join(", ")),
        things => things.concat(),
    }
}

impl PathPattern {
    /// Reads a pattern such as `/users/{id}` or `/files/{*path}`. The literal segments become canonical, as request paths
    /// do: in any other form they would never match.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written = text.strip_prefix('/').ok_or_else(|| format!("{text:?} does not begin with /"))?;
        if text.contains(['?', '#']) {
            return Err(format!("{text:?} has a query or a fragment; a pattern is a path only"));
        }
        let written: Vec<Option<Segment>> = written.split('/').map(placeholder).collect::<Result<_, _>>()?;
        if written.iter().rev().skip(1).any(|segment| matches!(segment, Some(Segment::Rest(_)))) {
            return Err(format!("{text:?} goes on after {{*…}}, which takes all that remains"));
        }
        let canonical = canonical_segments(text, &written)?;
        let segments = written.into_iter().zip(canonical);
        Ok(Self { segments: segments.map(|(name, text)| name.unwrap_or(Segment::Literal(text))).collect() })
    }

    /// The pattern of all paths, also of what is not a path, such as the `*` of OPTIONS.
    fn any() -> Self {
        Self { segments: vec![Segment::Rest("path".to_owned())] }
    }

    fn is_any(&self) -> bool {
        matches!(self.segments.as_slice(), [Segment::Rest(_)])
    }

    /// Whether a canonical path is meant, in the same case. `/a/{*rest}` means `/a/` and all below it, but not `/a`.
    #[must_use]
    pub fn matches(&self, canonical_path: &str) -> bool {
        if self.is_any() {
            return true;
        }
        let Some(path) = canonical_path.strip_prefix('/') else {
            return false;
        };
        let mut written = path.split('/');
        for segment in &self.segments {
            let matches = match (segment, written.next()) {
                (Segment::Rest(_), Some(_)) => return true,
                (Segment::One(_), Some(text)) => !text.is_empty(),
                (Segment::Literal(literal), Some(text)) => literal == text,
                (_, None) => false,
            };
            if !matches {
                return false;
            }
        }
        written.next().is_none()
    }

    /// Whether every path that the other matches is matched by this one too.
    fn covers(&self, other: &Self) -> bool {
        let mut others = other.segments.iter();
        for segment in &self.segments {
            let covers = match (segment, others.next()) {
                (Segment::Rest(_), Some(_)) => return true,
                (Segment::One(_), Some(Segment::One(_))) => true,
                (Segment::One(_), Some(Segment::Literal(text))) => !text.is_empty(),
                (Segment::Literal(literal), Some(Segment::Literal(text))) => literal == text,
                (_, Some(_) | None) => false,
            };
            if !covers {
                return false;
            }
        }
        others.next().is_none()
    }
}

/// `{name}` or `{*name}`; `None` for a literal.
fn placeholder(segment: &str) -> Result<Option<Segment>, String> {
    let Some(inner) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) else {
        let literal = !segment.contains(['{', '}']);
        return literal.then_some(None).ok_or_else(|| format!("{segment:?} is not a whole segment; write {{name}}"));
    };
    let name = inner.strip_prefix('*').unwrap_or(inner);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(format!("{segment:?} has no name of letters, digits and _"));
    }
    let segment = if inner == name { Segment::One } else { Segment::Rest };
    Ok(Some(segment(name.to_owned())))
}

/// The canonical text of each segment, with a stand-in for each placeholder.
fn canonical_segments(text: &str, written: &[Option<Segment>]) -> Result<Vec<String>, String> {
    let path: String = text
        .split('/')
        .skip(1)
        .zip(written)
        .flat_map(|(text, placeholder)| ["/", if placeholder.is_some() { "x" } else { text }])
        .collect();
    let target = Target::parse(&path, None).map_err(|error| format!("{text:?}: {error}"))?;
    let segments: Vec<String> = target.path().split('/').skip(1).map(str::to_owned).collect();
    if segments.len() == written.len() {
        return Ok(segments);
    }
    Err(format!("{text:?} has dot segments; no request keeps them"))
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::One(name) => write!(f, "/{{{name}}}"),
            Segment::Rest(name) => write!(f, "/{{*{name}}}"),
        })
    }
}

impl ConfigErrors {
    fn one(line: Option<usize>, key: &str, message: String) -> Self {
        Self { errors: vec![ConfigError { line, key: key.to_owned(), message }] }
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
