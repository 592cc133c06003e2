//! What a file says: TOML text becomes checked types, and every error that it has is found at once.
//!
//! A [`Section`] is a table of the file. Each key is taken out of it once, in the form it must have; what is left in
//! the end is unknown to this release and so an error. A key is named in one place only, together with its form and its
//! default. The forms are plain functions and not serde's, whose messages speak of types and not of what to
//! write instead; and a default can then be another value of the same type, such as `[guard]`'s for a route's.
//!
//! What several keys mean together is in `config.rs`, apart from what only a line number can tell well: that a route
//! names an upstream that is there, and that it can be reached.

use std::{cell::RefCell, net::SocketAddr, ops::RangeInclusive, time::Duration};

use http::{HeaderName, Method, StatusCode, Uri, uri::Authority};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use tracing_subscriber::EnvFilter;

use super::{
    Config, ConfigError, ConfigErrors, HostRule, Listener, Log, LogFormat, PathPattern, Route, Tracker, Upstream,
};
use crate::core::policy::{Comparison, MethodOverride, Missing, Mode, Policy, QueryRule, Verify};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The units of a duration, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// The units of a size, in bytes.
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB)];

/// The times that may be nothing at all.
const PAUSE: RangeInclusive<Duration> = Duration::ZERO..=DAY;
/// The times within which something has to happen.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
/// Bounded so that no arithmetic on a clock can overflow.
const AGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3650 * 24 * 60 * 60);

/// Reads a whole file.
pub(super) fn read(text: &str) -> Result<Config, ConfigErrors> {
    let findings = Findings { text, errors: RefCell::default() };
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map(|span| findings.line(span.start));
        ConfigErrors::one(line, "", error.message().to_owned())
    })?;
    let top = Place { key: String::new(), line: None };
    let config = config(Section::new(&findings, top, table.into_inner()));
    let mut errors = findings.errors.into_inner();
    if errors.is_empty() {
        return Ok(config);
    }
    errors.sort_by_key(|error| error.line);
    Err(ConfigErrors { errors })
}

// The sections, each with its keys. -----------------------------------------------------------------------------------

fn config(mut top: Section) -> Config {
    let listeners = top.sections("listeners");
    if listeners.as_ref().is_ok_and(Vec::is_empty) {
        top.error_at("listeners", "at least one is needed: [[listeners]] with an address");
    }
    let upstreams = upstreams(&mut top);
    let guard = guard(top.section("guard"), &Policy::default());
    let routes = routes(&mut top, &upstreams, guard);
    let config = Config {
        listeners: listeners.unwrap_or_default().into_iter().flatten().filter_map(listener).collect(),
        upstreams,
        routes,
        tracker: tracker(top.section("tracker")),
        log: log(top.section("log")),
        workers: top.value("workers", default_workers(), count(1..=1024)),
        drain_timeout: top.value("drain_timeout", 30 * SECOND, duration(TIMEOUT)),
        header_read_timeout: top.value("header_read_timeout", 10 * SECOND, duration(TIMEOUT)),
    };
    top.not_yet("admin");
    top.finish();
    config
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(1024))
}

fn listener(mut section: Section) -> Option<Listener> {
    let address = section.required("address", address);
    section.not_yet("tls");
    section.not_yet("proxy_protocol");
    section.finish();
    Some(Listener { address: address? })
}

fn upstreams(top: &mut Section) -> Vec<Upstream> {
    let Ok(section) = top.optional_section("upstreams") else {
        return Vec::new();
    };
    let named = section.map(Section::named).unwrap_or_default();
    if named.is_empty() {
        top.error_at("upstreams", "at least one is needed: [upstreams.<name>] with its servers");
    }
    named.into_iter().filter_map(|(name, section)| Some(upstream(name, section?))).collect()
}

fn upstream(name: String, mut section: Section) -> Upstream {
    if name.is_empty() {
        section.error("an upstream's name can't be empty");
    }
    let upstream = Upstream {
        name,
        servers: servers(&mut section),
        connect_timeout: section.value("connect_timeout", 2 * SECOND, duration(TIMEOUT)),
        response_timeout: section.value("response_timeout", 30 * SECOND, duration(TIMEOUT)),
        idle_timeout: section.value("idle_timeout", 4 * SECOND, duration(TIMEOUT)),
        host: section.value(
            "host",
            HostRule::Preserve,
            choice(&[("preserve", HostRule::Preserve), ("rewrite", HostRule::Rewrite)]),
        ),
    };
    section.not_yet("health");
    section.finish();
    upstream
}

fn servers(section: &mut Section) -> Vec<Authority> {
    let Ok(servers) = section.list("servers", |value| server(text(value)?)) else {
        return Vec::new();
    };
    let servers = servers.unwrap_or_default();
    if servers.is_empty() {
        section.error_at("servers", "at least one is needed; write it like servers = [\"http://10.0.0.1:3000\"]");
    }
    servers
}

fn routes(top: &mut Section, upstreams: &[Upstream], guard: Policy) -> Vec<Route> {
    let Ok(sections) = top.sections("routes") else {
        return Vec::new();
    };
    if sections.is_empty() {
        if upstreams.len() > 1 {
            top.error_at("routes", "routes are needed to choose between several upstreams");
        }
        return vec![Route { host: None, path: PathPattern::any(), upstream: 0, policy: guard }];
    }
    let mut routes: Vec<(String, Route)> = Vec::new();
    for section in sections.into_iter().flatten() {
        let (findings, place) = (section.findings, section.place.clone());
        let Some(route) = route(section, upstreams, &guard) else {
            continue;
        };
        if let Some((earlier, _)) = routes.iter().find(|(_, earlier)| earlier.covers(&route)) {
            findings.add(&place, format!("is never reached: {earlier} takes everything that it would match"));
        }
        routes.push((place.key, route));
    }
    routes.into_iter().map(|(_, route)| route).collect()
}

/// `None` where it can't be told what the route matches; the error is recorded.
fn route(mut section: Section, upstreams: &[Upstream], defaults: &Policy) -> Option<Route> {
    let host = section.optional("host", host);
    let path = section.optional("path", |value| PathPattern::parse(text(value)?));
    let upstream = section.optional("upstream", |value| named(upstreams, text(value)?));
    if upstream == Ok(None) && upstreams.len() > 1 {
        section.error_at("upstream", &format!("is missing; there is a choice of {}", names(upstreams)));
    }
    let policy = guard(section.section("guard"), defaults);
    section.finish();
    Some(Route {
        host: host.ok()?,
        path: path.ok()?.unwrap_or_else(PathPattern::any),
        upstream: upstream.ok().flatten().unwrap_or_default(),
        policy,
    })
}

fn named(upstreams: &[Upstream], name: &str) -> Result<usize, String> {
    let place = upstreams.iter().position(|upstream| upstream.name == name);
    place.ok_or_else(|| format!("there is no upstream {name:?}; known: {}", names(upstreams)))
}

fn names(upstreams: &[Upstream]) -> String {
    if upstreams.is_empty() {
        return "none".to_owned();
    }
    quoted(upstreams.iter().map(|upstream| upstream.name.as_str()), ", ")
}

fn guard(mut section: Section, defaults: &Policy) -> Policy {
    let defaults = defaults.clone();
    let s = &mut section;
    let policy = Policy {
        mode: s.value("mode", defaults.mode, choice(&MODES)),
        methods: s.list("methods", method).ok().flatten().unwrap_or(defaults.methods),
        missing: s.value("missing", defaults.missing, choice(&MISSING)),
        conflict_status: s.value("conflict_status", defaults.conflict_status, conflict_status),
        comparison: s.value("comparison", defaults.comparison, choice(&COMPARISONS)),
        encoding_suffixes: s.value("encoding_suffixes", defaults.encoding_suffixes, flag),
        verify: s.value("verify", defaults.verify, choice(&VERIFY)),
        max_age: s.given("max_age", duration(AGE)).or(defaults.max_age),
        query: s.value("query", defaults.query, query_rule),
        partition: s.list("partition", header_name).ok().flatten().unwrap_or(defaults.partition),
        method_override: s.value("method_override", defaults.method_override, choice(&METHOD_OVERRIDES)),
        forward_preconditions: s.value("forward_preconditions", defaults.forward_preconditions, flag),
        wait: s.value("wait", defaults.wait, duration(PAUSE)),
        line: s.value("line", defaults.line, count(1..=100_000)),
        settle: s.value("settle", defaults.settle, duration(PAUSE)),
        buffer: s.value("buffer", defaults.buffer, size(0..=16 * MIB)),
        body_idle_timeout: s.value("body_idle_timeout", defaults.body_idle_timeout, duration(TIMEOUT)),
        drain_bytes: s.value("drain_bytes", defaults.drain_bytes, size(0..=GIB)),
        drain_time: s.value("drain_time", defaults.drain_time, duration(PAUSE)),
    };
    s.value("version", (), version);
    section.finish();
    policy
}

const MODES: [(&str, Mode); 3] = [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("off", Mode::Off)];
const MISSING: [(&str, Missing); 2] = [("allow", Missing::Allow), ("require", Missing::Require)];
const COMPARISONS: [(&str, Comparison); 2] = [("strong", Comparison::Strong), ("weak", Comparison::Weak)];
const VERIFY: [(&str, Verify); 4] = [
    ("never", Verify::Never),
    ("unknown", Verify::Unknown),
    ("mismatch", Verify::Mismatch),
    ("always", Verify::Always),
];
const METHOD_OVERRIDES: [(&str, MethodOverride); 2] =
    [("honour", MethodOverride::Honour), ("refuse", MethodOverride::Refuse)];

fn tracker(mut section: Section) -> Tracker {
    let tracker = Tracker {
        capacity: section.value("capacity", 1_000_000, count(1..=100_000_000)),
        tag_bytes: section.value("tag_bytes", 1024, size(1..=64 * KIB)),
    };
    section.finish();
    tracker
}

fn log(mut section: Section) -> Log {
    let log = Log {
        format: section.value(
            "format",
            LogFormat::Text,
            choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        ),
        level: section.value("level", "info".to_owned(), level),
    };
    section.finish();
    log
}

// The tables. ---------------------------------------------------------------------------------------------------------

/// The errors found so far. Shared by all sections, since an error in one does not keep the others from being read.
struct Findings<'t> {
    text: &'t str,
    errors: RefCell<Vec<ConfigError>>,
}

impl Findings<'_> {
    fn add(&self, place: &Place, message: String) {
        let Place { key, line } = place.clone();
        self.errors.borrow_mut().push(ConfigError { line, key, message });
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    fn place<T>(&self, key: String, value: &Spanned<T>) -> Place {
        Place { key, line: Some(self.line(value.span().start)) }
    }
}

/// Where a value stands: its full key and its line.
#[derive(Clone)]
struct Place {
    key: String,
    line: Option<usize>,
}

impl Place {
    /// A key is quoted where TOML would want it quoted.
    fn child(&self, key: &str) -> String {
        let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let key = if bare { key.to_owned() } else { format!("{key:?}") };
        if self.key.is_empty() { key } else { format!("{}.{key}", self.key) }
    }
}

/// Says that a value is wrong and that the error is already among the findings.
#[derive(Debug, PartialEq, Eq)]
struct Recorded;

/// A table of the file, less the keys that were taken from it. End with [`Section::finish`], or [`Section::named`].
#[must_use]
struct Section<'t> {
    findings: &'t Findings<'t>,
    place: Place,
    rest: DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    fn new(findings: &'t Findings<'t>, place: Place, table: DeTable<'t>) -> Self {
        Self { findings, place, rest: table, known: Vec::new() }
    }

    /// A key's value, or the default where it is absent or wrong.
    fn value<T>(&mut self, key: &'static str, default: T, form: impl Fn(&DeValue) -> Result<T, String>) -> T {
        self.given(key, form).unwrap_or(default)
    }

    /// A key's value, if it is there and right.
    fn given<T>(&mut self, key: &'static str, form: impl Fn(&DeValue) -> Result<T, String>) -> Option<T> {
        self.optional(key, form).ok().flatten()
    }

    /// A key's value, if it is right. It must be there.
    fn required<T>(&mut self, key: &'static str, form: impl Fn(&DeValue) -> Result<T, String>) -> Option<T> {
        let value = self.optional(key, form);
        if let Ok(None) = value {
            self.error_at(key, "is missing");
        }
        value.ok().flatten()
    }

    /// A key's value, if it is there.
    fn optional<T>(
        &mut self,
        key: &'static str,
        form: impl Fn(&DeValue) -> Result<T, String>,
    ) -> Result<Option<T>, Recorded> {
        let Some((place, value)) = self.take(key) else {
            return Ok(None);
        };
        form(&value).map(Some).map_err(|message| self.record(&place, message))
    }

    /// An array's elements, if it is there.
    fn list<T>(
        &mut self,
        key: &'static str,
        form: impl Fn(&DeValue) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, Recorded> {
        let Some((place, value)) = self.take(key) else {
            return Ok(None);
        };
        let DeValue::Array(elements) = value else {
            return Err(self.record(&place, expected("an array", &value)));
        };
        // Every element is read before the first wrong one makes the list wrong: all errors are to be found.
        let list: Vec<Result<T, Recorded>> = elements
            .iter()
            .enumerate()
            .map(|(index, element)| {
                let place = self.findings.place(format!("{}[{index}]", place.key), element);
                form(element.get_ref()).map_err(|message| self.record(&place, message))
            })
            .collect();
        list.into_iter().collect::<Result<_, _>>().map(Some)
    }

    /// A table below this one; an empty one where it is absent or wrong.
    fn section(&mut self, key: &'static str) -> Section<'t> {
        let absent = Place { key: self.place.child(key), line: self.place.line };
        let section = self.optional_section(key).ok().flatten();
        section.unwrap_or_else(|| Section::new(self.findings, absent, DeTable::new()))
    }

    fn optional_section(&mut self, key: &'static str) -> Result<Option<Section<'t>>, Recorded> {
        self.take(key).map(|(place, value)| self.table(place, value)).transpose()
    }

    /// An array of tables; empty where it is absent; `None` for what is no table.
    fn sections(&mut self, key: &'static str) -> Result<Vec<Option<Section<'t>>>, Recorded> {
        let Some((place, value)) = self.take(key) else {
            return Ok(Vec::new());
        };
        let DeValue::Array(elements) = value else {
            return Err(self.record(&place, expected(&format!("an array of tables: [[{key}]]"), &value)));
        };
        let sections = elements.into_iter().enumerate().map(|(index, element)| {
            let place = self.findings.place(format!("{}[{index}]", place.key), &element);
            self.table(place, element.into_inner()).ok()
        });
        Ok(sections.collect())
    }

    /// The tables in this one, which has no keys but their names, in the file's order; `None` for what is no table.
    fn named(mut self) -> Vec<(String, Option<Section<'t>>)> {
        let mut entries: Vec<_> = std::mem::take(&mut self.rest).into_iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let sections = entries.into_iter().map(|(name, value)| {
            let place = self.findings.place(self.place.child(name.get_ref()), &name);
            (name.into_inner().into_owned(), self.table(place, value.into_inner()).ok())
        });
        sections.collect()
    }

    fn table(&self, place: Place, value: DeValue<'t>) -> Result<Section<'t>, Recorded> {
        let DeValue::Table(table) = value else {
            return Err(self.record(&place, expected("a table", &value)));
        };
        Ok(Section::new(self.findings, place, table))
    }

    fn take(&mut self, key: &'static str) -> Option<(Place, DeValue<'t>)> {
        self.known.push(key);
        let value = self.rest.remove(key)?;
        Some((self.findings.place(self.place.child(key), &value), value.into_inner()))
    }

    /// Refuses a key that is promised for a later release, with words of its own.
    fn not_yet(&mut self, key: &'static str) {
        if let Some((name, _)) = self.rest.remove_entry(key) {
            let place = self.findings.place(self.place.child(key), &name);
            self.findings.add(&place, format!("this release does not support {key}"));
        }
    }

    fn error(&self, message: &str) {
        self.findings.add(&self.place, message.to_owned());
    }

    /// An error about a key that has no line of its own.
    fn error_at(&self, key: &str, message: &str) {
        let place = Place { key: self.place.child(key), line: self.place.line };
        self.findings.add(&place, message.to_owned());
    }

    fn record(&self, place: &Place, message: String) -> Recorded {
        self.findings.add(place, message);
        Recorded
    }

    /// Every key that was not taken is an error.
    fn finish(self) {
        for name in self.rest.keys() {
            let key = name.get_ref();
            let near = self.known.iter().filter(|known| is_near(known, key));
            let advice = match near.min_by_key(|known| edit_distance(known, key)) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the keys here are {}", self.known.join(", ")),
            };
            self.findings
                .add(&self.findings.place(self.place.child(key), name), format!("is not a known key; {advice}"));
        }
    }
}

/// Whether one may have been meant by the other: a third of it may differ, two letters at least.
fn is_near(known: &str, written: &str) -> bool {
    written.len() <= 2 * known.len() && edit_distance(known, written) <= (known.len() / 3).max(2)
}

/// How many letters must be added, dropped or changed to come from one to the other (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (dropped, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = dropped + 1;
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

// The forms of values: what is written -> what it means, or what would be right. --------------------------------------

fn text<'v>(value: &'v DeValue) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| expected("a string", value))
}

fn flag(value: &DeValue) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| expected("true or false", value))
}

fn integer(value: &DeValue) -> Result<u64, String> {
    let integer = value.as_integer().ok_or_else(|| expected("an integer", value))?;
    u64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| format!("{integer} is out of range"))
}

fn count(range: RangeInclusive<usize>) -> impl Fn(&DeValue) -> Result<usize, String> {
    move |value| {
        let count = usize::try_from(integer(value)?).ok().filter(|count| range.contains(count));
        count.ok_or_else(|| format!("must be from {} to {}", range.start(), range.end()))
    }
}

fn choice<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&DeValue) -> Result<T, String> {
    move |value| {
        let text = text(value)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        let known = || quoted(choices.iter().map(|(name, _)| *name), " or ");
        found.map(|(_, choice)| *choice).ok_or_else(|| format!("{text:?} is not known; write {}", known()))
    }
}

fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue) -> Result<Duration, String> {
    move |value| {
        if let Some(number) = value.as_integer() {
            return Err(format!("{number} has no unit; write it like \"{number}s\""));
        }
        let text = text(value)?;
        let duration = quantity(text, &DURATION_UNITS).map(Duration::from_millis);
        let duration = duration.ok_or_else(|| format!("{text:?} is not a duration; write it like \"10s\""))?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (duration_text(*range.start()), duration_text(*range.end()));
        Err(format!("{text:?} is out of range; at least {least} and at most {most}"))
    }
}

/// A number of bytes. The range keeps it within `T`.
fn size<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&DeValue) -> Result<T, String> {
    move |value| {
        let bytes = match value.as_str() {
            Some(text) => quantity(text, &SIZE_UNITS)
                .ok_or_else(|| format!("{text:?} is not a size; write it like \"64KiB\", or a number of bytes"))?,
            None => integer(value).map_err(|_| expected("a size such as \"64KiB\" or a number of bytes", value))?,
        };
        let size = Some(bytes).filter(|bytes| range.contains(bytes)).and_then(|bytes| T::try_from(bytes).ok());
        size.ok_or_else(|| format!("must be from {} to {}", size_text(*range.start()), size_text(*range.end())))
    }
}

fn address(value: &DeValue) -> Result<SocketAddr, String> {
    let text = text(value)?;
    text.parse().map_err(|_| format!("{text:?} is not an address and port; write it like \"0.0.0.0:8080\""))
}

/// `http://host[:port]` and nothing else, as `host:port`.
pub(super) fn server(text: &str) -> Result<Authority, String> {
    if text.contains('@') {
        // Not repeated here: it may hold a password, and errors are logged.
        return Err("a server's address can't have user information (what stands before the @)".to_owned());
    }
    let form = |why: &str| format!("{text:?} {why}; write it like \"http://10.0.0.1:3000\"");
    // `Uri` drops a fragment without a word.
    let uri = text.parse::<Uri>().ok().filter(|_| !text.contains('#'));
    let uri = uri.ok_or_else(|| form("is not a server's address"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(format!("{text:?}: https is not supported yet; write it with http")),
        Some(_) | None => return Err(form("does not begin with http://")),
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(form("has a path or a query, which a server can't have"));
    }
    let authority = uri.authority().ok_or_else(|| form("has no host"))?;
    with_port(authority).ok_or_else(|| form("has a host or a port that can't be"))
}

fn with_port(authority: &Authority) -> Option<Authority> {
    let host = authority.host();
    let port: u16 = match authority.as_str().strip_prefix(host)? {
        "" => 80,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
    };
    is_host(host).then(|| format!("{}:{port}", host.to_ascii_lowercase()).parse().ok())?
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    }
}

fn host(value: &DeValue) -> Result<String, String> {
    let text = text(value)?;
    if is_host(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("{text:?} is not a host; write it like \"api.example.com\", without a port or a wildcard"))
}

fn method(value: &DeValue) -> Result<Method, String> {
    let text = text(value)?;
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is not a method"))?;
    if method.is_safe() {
        return Err(format!("{text} only reads; there is nothing to guard"));
    }
    if method == Method::CONNECT {
        return Err("CONNECT opens a tunnel; it writes no resource that could be guarded".to_owned());
    }
    let upper = text.to_ascii_uppercase();
    if ["PUT", "PATCH", "DELETE", "POST"].contains(&upper.as_str()) && upper != text {
        return Err(format!("{text:?} is not {upper}: the case of a method counts"));
    }
    Ok(method)
}

fn header_name(value: &DeValue) -> Result<HeaderName, String> {
    let text = text(value)?;
    text.parse().map_err(|_| format!("{text:?} is not the name of a header field"))
}

fn conflict_status(value: &DeValue) -> Result<StatusCode, String> {
    match integer(value)? {
        409 => Ok(StatusCode::CONFLICT),
        412 => Ok(StatusCode::PRECONDITION_FAILED),
        other => Err(format!("{other} is not one of 409 and 412")),
    }
}

fn query_rule(value: &DeValue) -> Result<QueryRule, String> {
    let known = "\"include\", \"ignore\" or an array of parameter names";
    if let Some(names) = value.as_array() {
        let names = names.iter().map(|name| Ok(text(name.get_ref())?.to_owned()));
        return names.collect::<Result<_, String>>().map(QueryRule::Only);
    }
    match value.as_str() {
        Some("include") => Ok(QueryRule::Include),
        Some("ignore") => Ok(QueryRule::Ignore),
        Some(other) => Err(format!("{other:?} is not known; write {known}")),
        None => Err(expected(known, value)),
    }
}

fn version(value: &DeValue) -> Result<(), String> {
    match value.as_str() {
        Some("etag") => Ok(()),
        Some(_) | None => Err("only \"etag\" is supported in this release".to_owned()),
    }
}

fn level(value: &DeValue) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];
    let text = text(value)?;
    // A filter may also be a bare word, which names a module: a misspelt level would silence everything else.
    let is_filter = text.contains(['=', '[', ',']) && EnvFilter::try_new(text).is_ok();
    if LEVELS.contains(&text) || is_filter {
        return Ok(text.to_owned());
    }
    let known = quoted(LEVELS.iter().copied(), ", ");
    Err(format!("{text:?} is neither a level ({known}) nor a filter such as \"info,ifmatch=debug\""))
}

fn expected(what: &str, found: &DeValue) -> String {
    format!("must be {what}; here it is of the type {}", found.type_str())
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>, between: &str) -> String {
    names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(between)
}

/// A number and a unit without anything between: `10s`.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The number in the largest unit that leaves no fraction.
fn in_units(number: u64, units: &[(&str, u64)]) -> String {
    let largest = units.iter().rev().find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor));
    largest.map_or_else(|| "0".to_owned(), |(unit, factor)| format!("{}{unit}", number / factor))
}

/// A duration as the file writes it.
pub(super) fn duration_text(duration: Duration) -> String {
    in_units(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS)
}

/// A size as the file writes it.
pub(super) fn size_text(bytes: u64) -> String {
    in_units(bytes, &SIZE_UNITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four lines without an error.
    const BASE: &str = "[[listeners]]\naddress = \"127.0.0.1:80\"\n[upstreams.a]\nservers = [\"http://h\"]\n";

    fn errors(text: &str) -> Vec<ConfigError> {
        read(text).expect_err(text).errors
    }

    /// One error, at this line, for this key, with this in its message.
    fn assert_error(text: &str, line: usize, key: &str, part: &str) {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{text}\n{errors:?}");
        assert_eq!((errors[0].line, errors[0].key.as_str()), (Some(line), key), "{text}\n{errors:?}");
        assert!(errors[0].message.contains(part), "{text}\n{errors:?} lacks {part:?}");
    }

    /// Rows of one line in `[guard]`, its key there, and a part of the message.
    fn assert_guard_errors(rows: &[(&str, &str, &str)]) {
        for (text, key, part) in rows {
            assert_error(&format!("{BASE}[guard]\n{text}\n"), 6, &format!("guard.{key}"), part);
        }
    }

    fn assert_errors_after_base(rows: &[(&str, usize, &str, &str)]) {
        for (text, line, key, part) in rows {
            assert_error(&format!("{BASE}{text}\n"), *line, key, part);
        }
    }

    #[test]
    fn a_syntax_error_is_one_error_whatever_else_is_wrong() {
        assert_errors_after_base(&[
            ("[guard]\nwait = \nlien = 3", 6, "", "string"),
            ("[guard]\nwait = \"1s\"\nwait = \"2s\"", 7, "", "duplicate key"),
        ]);
    }

    #[test]
    fn unknown_keys_in_each_kind_of_table() {
        assert_guard_errors(&[
            ("colour = 1", "colour", "the keys here are mode, methods"),
            // Near to mode too.
            ("mine = 1", "mine", "did you mean line?"),
        ]);
        assert_errors_after_base(&[
            ("[gaurd]", 5, "gaurd", "did you mean guard?"),
            ("[guard]\n\nwiat = \"1s\"", 7, "guard.wiat", "did you mean wait?"),
            ("[guard]\n\"a b\" = 1", 6, "guard.\"a b\"", "is not a known key"),
            ("[log]\nlevle = \"info\"", 6, "log.levle", "did you mean level?"),
            ("[tracker]\nsize = 3", 6, "tracker.size", "the keys here are capacity, tag_bytes"),
            ("[[routes]]\nhots = \"h\"", 6, "routes[0].hots", "did you mean host?"),
            ("[[routes]]\nguard = { verfy = \"always\" }", 6, "routes[0].guard.verfy", "did you mean verify?"),
            ("[[listeners]]\naddress = \"[::1]:80\"\nport = 1", 7, "listeners[1].port", "the keys here are address"),
            (
                "[upstreams.b]\nservers = [\"http://h\"]\nserver = 1\n[[routes]]\nupstream = \"a\"",
                7,
                "upstreams.b.server",
                "did you mean servers?",
            ),
        ]);
    }

    #[test]
    fn keys_of_later_work() {
        assert_errors_after_base(&[
            ("[admin]\naddress = \"127.0.0.1:1\"", 5, "admin", "this release does not support admin"),
            (
                "[[listeners]]\naddress = \"[::1]:80\"\ntls = {}",
                7,
                "listeners[1].tls",
                "this release does not support tls",
            ),
            (
                "[[listeners]]\naddress = \"[::1]:80\"\nproxy_protocol = true",
                7,
                "listeners[1].proxy_protocol",
                "this release does not support",
            ),
            ("[upstreams.a.health]\npath = \"/\"", 5, "upstreams.a.health", "this release does not support health"),
        ]);
    }

    #[test]
    fn values_of_another_type() {
        assert_guard_errors(&[
            ("mode = 3", "mode", "must be a string; here it is of the type integer"),
            ("encoding_suffixes = \"yes\"", "encoding_suffixes", "must be true or false"),
            ("methods = \"PUT\"", "methods", "must be an array"),
            ("line = \"5\"", "line", "must be an integer"),
        ]);
        assert_errors_after_base(&[
            ("[[guard]]\nline = 5", 5, "guard", "must be a table; here it is of the type array"),
            ("[routes]\npath = \"/\"", 5, "routes", "must be an array of tables: [[routes]]"),
            ("[[routes]]\nguard = 1", 6, "routes[0].guard", "must be a table"),
        ]);
    }

    #[test]
    fn choices_that_are_not_there() {
        assert_guard_errors(&[
            ("mode = \"on\"", "mode", "\"on\" is not known; write \"enforce\" or \"observe\" or \"off\""),
            ("missing = \"Allow\"", "missing", "\"allow\" or \"require\""),
            ("comparison = \"\"", "comparison", "\"strong\" or \"weak\""),
            ("verify = \"no\"", "verify", "\"never\" or \"unknown\" or \"mismatch\" or \"always\""),
            ("method_override = \"honor\"", "method_override", "\"honour\" or \"refuse\""),
            ("conflict_status = 410", "conflict_status", "410 is not one of 409 and 412"),
            ("conflict_status = \"409\"", "conflict_status", "must be an integer"),
            ("version = \"json\"", "version", "only \"etag\" is supported in this release"),
            ("version = {}", "version", "only \"etag\" is supported in this release"),
            ("query = \"some\"", "query", "write \"include\", \"ignore\" or an array of parameter names"),
            ("query = [\"a\", 1]", "query", "must be a string"),
            ("query = false", "query", "must be \"include\""),
            ("methods = [\"OPTIONS\"]", "methods[0]", "OPTIONS only reads"),
            ("methods = [\"CONNECT\"]", "methods[0]", "opens a tunnel"),
            ("methods = [\"PUT IT\"]", "methods[0]", "\"PUT IT\" is not a method"),
            ("methods = [\"put\"]", "methods[0]", "\"put\" is not PUT"),
            ("partition = [\"X-A\", \"a b\"]", "partition[1]", "\"a b\" is not the name of a header field"),
        ]);
        assert_errors_after_base(&[(
            "[guard]\nmethods = [\n\"PUT\",\n\"GET\"]",
            8,
            "guard.methods[1]",
            "GET only reads",
        )]);
    }

    #[test]
    fn durations_that_are_refused() {
        assert_guard_errors(&[
            ("wait = \"10 parsecs\"", "wait", "\"10 parsecs\" is not a duration; write it like \"10s\""),
            ("wait = \"s\"", "wait", "is not a duration"),
            ("wait = \"1.5s\"", "wait", "is not a duration"),
            ("wait = \"-1s\"", "wait", "is not a duration"),
            ("wait = \"\"", "wait", "is not a duration"),
            ("wait = \"99999999999999999999s\"", "wait", "is not a duration"),
            ("wait = \"99999999999999999d\"", "wait", "is not a duration"),
            ("wait = 10", "wait", "10 has no unit; write it like \"10s\""),
            ("wait = 1.5", "wait", "must be a string; here it is of the type float"),
            ("wait = \"25h\"", "wait", "\"25h\" is out of range; at least 0 and at most 1d"),
            ("settle = \"2d\"", "settle", "at most 1d"),
            ("drain_time = \"2d\"", "drain_time", "at most 1d"),
            ("body_idle_timeout = \"0s\"", "body_idle_timeout", "at least 1ms and at most 1d"),
            ("max_age = \"0s\"", "max_age", "at least 1ms"),
            ("max_age = \"4000d\"", "max_age", "at most 3650d"),
        ]);
    }

    #[test]
    fn sizes_and_counts_that_are_refused() {
        assert_guard_errors(&[
            ("buffer = \"64 KiB\"", "buffer", "\"64 KiB\" is not a size; write it like \"64KiB\""),
            ("buffer = \"64KB\"", "buffer", "is not a size"),
            ("buffer = true", "buffer", "must be a size such as"),
            ("buffer = \"17MiB\"", "buffer", "must be from 0 to 16MiB"),
            ("drain_bytes = \"2GiB\"", "drain_bytes", "must be from 0 to 1GiB"),
            ("line = 0", "line", "must be from 1 to 100000"),
            ("line = 100_001", "line", "must be from 1 to 100000"),
            ("line = -1", "line", "-1 is out of range"),
        ]);
        assert_errors_after_base(&[
            ("[tracker]\ncapacity = 0", 6, "tracker.capacity", "must be from 1 to 100000000"),
            ("[tracker]\ncapacity = 100_000_001", 6, "tracker.capacity", "must be from 1 to 100000000"),
            ("[tracker]\ntag_bytes = \"0B\"", 6, "tracker.tag_bytes", "must be from 1B to 64KiB"),
            ("[tracker]\ntag_bytes = \"65KiB\"", 6, "tracker.tag_bytes", "must be from 1B to 64KiB"),
        ]);
    }

    #[test]
    fn what_is_wrong_with_the_log() {
        assert_errors_after_base(&[
            ("[log]\nformat = \"xml\"", 6, "log.format", "\"text\" or \"json\""),
            ("[log]\nlevel = \"warning\"", 6, "log.level", "\"warning\" is neither a level"),
            ("[log]\nlevel = \"ifmatch=loud\"", 6, "log.level", "nor a filter such as"),
        ]);
    }

    #[test]
    fn what_is_wrong_with_a_route() {
        assert_errors_after_base(&[
            ("[[routes]]\nhost = \"h:80\"", 6, "routes[0].host", "without a port"),
            ("[[routes]]\nhost = \"*.h\"", 6, "routes[0].host", "or a wildcard"),
            ("[[routes]]\nhost = \"\"", 6, "routes[0].host", "is not a host"),
            ("[[routes]]\npath = \"users\"", 6, "routes[0].path", "does not begin with /"),
            ("[[routes]]\nupstream = \"b\"", 6, "routes[0].upstream", "there is no upstream \"b\"; known: \"a\""),
            (
                "[upstreams.b]\nservers = [\"http://h\"]\n[[routes]]",
                7,
                "routes[0].upstream",
                "there is a choice of \"a\", \"b\"",
            ),
            ("[[routes]]\n[[routes]]\nhost = \"h\"", 6, "routes[1]", "is never reached: routes[0]"),
            ("[[routes]]\n[[routes]]\npath = \"/a\"", 6, "routes[1]", "is never reached: routes[0] takes everything"),
            ("[[routes]]\npath = \"/{*all}\"\n[[routes]]", 7, "routes[1]", "is never reached"),
            ("[[routes]]\npath = \"/a/{id}\"\n[[routes]]\npath = \"/a/b\"", 7, "routes[1]", "is never reached"),
            ("[[routes]]\nhost = \"h\"\n[[routes]]\nhost = \"H\"", 7, "routes[1]", "is never reached"),
            (
                "[upstreams.\"\"]\nservers = [\"http://h\"]\n[[routes]]\nupstream = \"a\"",
                5,
                "upstreams.\"\"",
                "can't be empty",
            ),
        ]);
    }

    #[test]
    fn every_kind_of_error_at_the_top() {
        for (text, key, part) in [
            ("workers = 0", "workers", "must be from 1 to 1024"),
            ("workers = 1025", "workers", "must be from 1 to 1024"),
            ("drain_timeout = \"0s\"", "drain_timeout", "at least 1ms"),
            ("drain_timeout = \"2d\"", "drain_timeout", "at most 1d"),
            ("header_read_timeout = 10", "header_read_timeout", "10 has no unit"),
            ("header_read_timeout = \"0ms\"", "header_read_timeout", "at least 1ms"),
            ("worker = 3", "worker", "did you mean workers?"),
            ("guard.wait = \"1\"", "guard.wait", "is not a duration"),
        ] {
            assert_error(&format!("{text}\n{BASE}"), 1, key, part);
        }
    }

    #[test]
    fn what_is_wrong_with_a_listener() {
        for (listener, line, key, part) in [
            ("[[listeners]]", 1, "listeners[0].address", "is missing"),
            ("[[listeners]]\naddress = 80", 2, "listeners[0].address", "must be a string"),
            ("[[listeners]]\naddress = \"localhost:80\"", 2, "listeners[0].address", "write it like \"0.0.0.0:8080\""),
            ("[[listeners]]\naddress = \":80\"", 2, "listeners[0].address", "is not an address and port"),
            ("[listeners]\naddress = \"[::]:80\"", 1, "listeners", "must be an array of tables: [[listeners]]"),
            ("listeners = [\n3]", 2, "listeners[0]", "must be a table"),
        ] {
            assert_error(&format!("{listener}\n[upstreams.a]\nservers = [\"http://h\"]"), line, key, part);
        }
    }

    #[test]
    fn what_is_wrong_with_an_upstream() {
        const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:80\"\n";
        for (upstream, line, key, part) in [
            ("[upstreams.a]", 3, "upstreams.a.servers", "at least one is needed"),
            ("[upstreams.a]\nservers = []", 3, "upstreams.a.servers", "at least one is needed"),
            ("[upstreams.a]\nservers = \"http://h\"", 4, "upstreams.a.servers", "must be an array"),
            ("[upstreams.a]\nservers = [\n\"http://h\",\n3]", 6, "upstreams.a.servers[1]", "must be a string"),
            ("[upstreams.\"a.b\"]\nservers = [3]", 4, "upstreams.\"a.b\".servers[0]", "must be a string"),
            (
                "[upstreams.a]\nservers = [\"http://h\"]\nconnect_timeout = \"0s\"",
                5,
                "upstreams.a.connect_timeout",
                "at least 1ms",
            ),
            (
                "[upstreams.a]\nservers = [\"http://h\"]\nresponse_timeout = \"0s\"",
                5,
                "upstreams.a.response_timeout",
                "at least 1ms",
            ),
            (
                "[upstreams.a]\nservers = [\"http://h\"]\nidle_timeout = \"0s\"",
                5,
                "upstreams.a.idle_timeout",
                "at least 1ms",
            ),
            (
                "[upstreams.a]\nservers = [\"http://h\"]\nhost = \"h\"",
                5,
                "upstreams.a.host",
                "\"preserve\" or \"rewrite\"",
            ),
            ("[[upstreams]]\nservers = [\"http://h\"]", 3, "upstreams", "must be a table"),
            ("[upstreams]\na = 3", 4, "upstreams.a", "must be a table"),
        ] {
            assert_error(&format!("{LISTENER}{upstream}"), line, key, part);
        }
    }

    #[test]
    fn servers_that_are_refused() {
        for (text, part) in [
            ("", "is not a server's address"),
            ("10.0.0.1:3000", "does not begin with http://"),
            ("h", "does not begin with http://"),
            ("/a", "does not begin with http://"),
            ("ftp://h", "does not begin with http://"),
            ("https://h", "https is not supported yet"),
            ("http://", "is not a server's address"),
            ("http://h#part", "is not a server's address"),
            ("http://h h", "is not a server's address"),
            ("http://h/api", "has a path or a query"),
            ("http://h?a", "has a path or a query"),
            ("http://user@h", "can't have user information"),
            ("https://user:secret@h", "can't have user information"),
            ("http://h:", "has a host or a port that can't be"),
            ("http://h:0", "has a host or a port that can't be"),
            ("http://h:65536", "has a host or a port that can't be"),
            ("http://h:http", "has a host or a port that can't be"),
            ("http://:80", "has a host or a port that can't be"),
            ("http://h*", "has a host or a port that can't be"),
            ("http://[::1", "is not a server's address"),
            ("http://[::z]:1", "has a host or a port that can't be"),
        ] {
            let message = server(text).expect_err(text);
            assert!(message.contains(part) && !message.contains("secret"), "{text}: {message}");
        }
    }

    #[test]
    fn servers_that_are_accepted() {
        for (text, meant) in [
            ("http://h", "h:80"),
            ("http://h/", "h:80"),
            ("http://h:3000", "h:3000"),
            ("HTTP://Api.Example.COM:3000/", "api.example.com:3000"),
            ("http://10.0.0.1:1", "10.0.0.1:1"),
            ("http://[::1]", "[::1]:80"),
            ("http://[::1]:3000", "[::1]:3000"),
            ("http://a_b-c.d", "a_b-c.d:80"),
        ] {
            assert_eq!(server(text).as_ref().map(Authority::as_str), Ok(meant), "{text}");
        }
    }

    #[test]
    fn all_errors_at_once_in_the_order_of_lines() {
        let text = "workers = 0\n[guard]\nwait = 1\nlien = 3\n\
                    [[routes]]\nupstream = \"x\"\nguard = { missing = 1, wait = \"1\" }\n\
                    [upstreams.a]\nservers = [\"https://h\", \"h\"]\n";
        let places: Vec<_> = errors(text).into_iter().map(|error| (error.line, error.key)).collect();
        let expected = [
            (None, "listeners"),
            (Some(1), "workers"),
            (Some(3), "guard.wait"),
            (Some(4), "guard.lien"),
            (Some(6), "routes[0].upstream"),
            (Some(7), "routes[0].guard.missing"),
            (Some(7), "routes[0].guard.wait"),
            (Some(9), "upstreams.a.servers[0]"),
            (Some(9), "upstreams.a.servers[1]"),
        ];
        let expected = expected.map(|(line, key)| (line, key.to_owned()));
        assert_eq!(places, expected);
    }

    #[test]
    fn what_is_missing_has_no_line() {
        for (text, key, part) in [
            ("[upstreams.a]\nservers = [\"http://h\"]", "listeners", "at least one is needed"),
            ("listeners = []\n[upstreams.a]\nservers = [\"http://h\"]", "listeners", "at least one is needed"),
            ("[[listeners]]\naddress = \"[::]:80\"", "upstreams", "at least one is needed"),
            ("[[listeners]]\naddress = \"[::]:80\"\n[upstreams]", "upstreams", "at least one is needed"),
            (&format!("{BASE}[upstreams.b]\nservers = [\"http://h\"]"), "routes", "routes are needed"),
        ] {
            let errors = errors(text);
            assert_eq!((errors.len(), errors[0].line, errors[0].key.as_str()), (1, None, key), "{errors:?}");
            assert!(errors[0].message.contains(part), "{errors:?}");
        }
    }

    #[test]
    fn a_number_and_a_unit_are_written_as_they_were_read() {
        for text in ["1ms", "1500ms", "10s", "90s", "5m", "36h", "1d", "3650d"] {
            assert_eq!(quantity(text, &DURATION_UNITS).map(|ms| in_units(ms, &DURATION_UNITS)), Some(text.to_owned()));
        }
        for text in ["1B", "1000B", "64KiB", "1025KiB", "16MiB", "1GiB"] {
            assert_eq!(quantity(text, &SIZE_UNITS).map(|bytes| in_units(bytes, &SIZE_UNITS)), Some(text.to_owned()));
        }
        assert_eq!(duration_text(Duration::from_secs(3600)), "1h");
        assert_eq!(size_text(0), "0");
    }

    #[test]
    fn a_distant_key_is_not_suggested() {
        for (known, written, near) in [
            ("wait", "wiat", true),
            ("wait", "wait_time", false),
            ("line", "lines", true),
            ("body_idle_timeout", "body_timeout", true),
            ("mode", "model_of_everything", false),
            ("max_age", "maxage", true),
        ] {
            assert_eq!(is_near(known, written), near, "{known} {written}");
        }
    }
}
