//! What a file says: TOML text becomes checked types, and every error that it has is found at once.
//!
//! Here are the tables of the file with their keys; [`section`] walks through a table, [`form`] knows what a value may look
//! like. A [`Section`] is a table of the file. Each key is taken out of it once, in the form it must have; what is left in
//! the end is unknown to this release and so an error. A key is named in one place only, together with its form and its
//! default. The forms are plain functions and not serde's, whose messages speak of types and not of what to
//! write instead; and a default can then be another value of the same type, such as `[guard]`'s for a route's.
//!
//! What several keys mean together is in `config.rs`, apart from what only a line number can tell well: that a route
//! names an upstream that is there, and that it can be reached.

use std::cell::RefCell;

use http::uri::Authority;
use toml::de::DeTable;

use super::{Config, ConfigErrors, HostRule, Listener, Log, LogFormat, PathPattern, Route, Tracker, Upstream};
use crate::core::policy::{Comparison, MethodOverride, Missing, Mode, Policy, Verify};

pub(super) mod form;
mod section;
#[cfg(test)]
mod tests;

use form::*;
use section::{Findings, Place, Section};

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
        half_close_timeout: top.value("half_close_timeout", 60 * SECOND, duration(TIMEOUT)),
        writes_per_connection: top.value("writes_per_connection", 256, count(1..=100_000)),
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
        linger_time: s.value("linger_time", defaults.linger_time, duration(PAUSE)),
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
