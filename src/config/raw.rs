//! What a file says: TOML text becomes checked types, and every error that it has is found at once.
//!
//! Here are the tables of the file with their keys; [`section`] walks through a table, [`form`] knows what a value may look
//! like. A [`Section`] is a table of the file. Each key is taken out of it once, in the form it must have; what is left in
//! the end is unknown to this release and so an error. A key is named in one place only, together with its form and its
//! default. The forms are plain functions and not serde's, whose messages speak of types and not of what to
//! write instead; and a default can then be another value of the same type, such as `[guard]`'s for a route's.
//!
//! The files that the file names are not looked at here. What several keys mean together is in `config.rs`, apart from what only a line number can tell well: that a route
//! names an upstream that is there, and that it can be reached.

use std::{cell::RefCell, net::SocketAddr, path::Path};

use toml::de::DeTable;

use super::{
    Admin, CertificateFiles, Config, ConfigErrors, ForwardedRule, Forwarding, Limits, Listener, ListenerTls, Log,
    LogFormat, Memory, PathPattern, RelatedPath, Route, Tracker, Upstream,
};
use crate::core::{
    policy::{Comparison, MethodOverride, Missing, Mode, Policy, Verify},
    version,
};

mod browsers;
pub(super) mod form;
mod profile;
mod repeats;
mod rollout;
mod section;
#[cfg(test)]
mod tests;
mod upstream;
mod versions;

use form::*;
use section::{Findings, Place, Section};

/// Reads a whole file.
pub(super) fn read(text: &str, folder: &Path) -> Result<Config, ConfigErrors> {
    let findings = Findings { text, folder, errors: RefCell::default() };
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
    let upstreams = upstream::upstreams(&mut top);
    let guard = guard(top.section("guard"), &Policy::default());
    let routes = routes(&mut top, &upstreams, guard);
    let config = Config {
        listeners: listeners.unwrap_or_default().into_iter().flatten().filter_map(listener).collect(),
        upstreams,
        routes,
        forwarding: Forwarding {
            rule: top.value("forwarded", ForwardedRule::Replace, choice(&FORWARDED_RULES)),
            trusted: top.list("trusted_proxies", network).ok().flatten().unwrap_or_default(),
        },
        limits: limits(top.section("limits")),
        tracker: tracker(top.section("tracker")),
        memory: memory(top.section("memory")),
        report: rollout::report(top.section("report")),
        admin: top.optional_section("admin").ok().flatten().map(admin),
        log: log(top.section("log")),
        workers: top.value("workers", default_workers(), count(1..=1024)),
        drain_timeout: top.value("drain_timeout", 30 * SECOND, duration(TIMEOUT)),
        reload_interval: top.value("reload_interval", 2 * SECOND, duration(PAUSE)),
        takeover: top.path("takeover"),
    };
    let mut partitions = config.routes.iter().flat_map(|route| &route.policy.partition);
    if config.forwarding.rule != ForwardedRule::Off
        && let Some(name) = partitions.find(|name| is_forwarding(name))
    {
        let message = format!(
            "must be \"off\" where partition has {name}: else the backend does not get it as the client sends it, and it keeps \
             nothing apart there"
        );
        top.error_at("forwarded", &message);
    }
    let makes_tags = config.routes.iter().any(|route| route.policy.versions.source.is_made());
    if makes_tags && config.tracker.tag_bytes < version::LONGEST {
        let message = format!("must be {} at least where tags are made here (version)", version::LONGEST);
        top.findings.add(&Place { key: "tracker.tag_bytes".to_owned(), line: None }, message);
    }
    top.finish();
    config
}

const FORWARDED_RULES: [(&str, ForwardedRule); 3] =
    [("replace", ForwardedRule::Replace), ("append", ForwardedRule::Append), ("off", ForwardedRule::Off)];

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(1024))
}

fn listener(mut section: Section) -> Option<Listener> {
    let address = section.required("address", address);
    let tls = section.optional_section("tls").ok().flatten().map(listener_tls);
    let proxy_protocol = section.value("proxy_protocol", false, flag);
    section.finish();
    Some(Listener { address: address?, tls, proxy_protocol })
}

fn listener_tls(mut section: Section) -> ListenerTls {
    let mut certificates: Vec<_> = certificate(&mut section).into_iter().collect();
    for mut other in section.sections("certificates").unwrap_or_default().into_iter().flatten() {
        certificates.extend(certificate(&mut other));
        other.finish();
    }
    if certificates.is_empty() {
        section.error("needs a cert and its key, or certificates with several");
    }
    let tls = ListenerTls { certificates, client_ca: section.path("client_ca") };
    section.finish();
    tls
}

/// The keys `cert` and `key`: both, or neither.
fn certificate(section: &mut Section) -> Option<CertificateFiles> {
    match (section.path("cert"), section.path("key")) {
        (Some(cert), Some(key)) => return Some(CertificateFiles { cert, key }),
        (Some(_), None) => section.error_at("key", "is missing; it goes with cert"),
        (None, Some(_)) => section.error_at("cert", "is missing; it goes with key"),
        (None, None) => {}
    }
    None
}

fn limits(mut section: Section) -> Limits {
    let s = &mut section;
    let limits = Limits {
        header_read_timeout: s.value("header_read_timeout", 10 * SECOND, duration(TIMEOUT)),
        idle_timeout: s.value("idle_timeout", 60 * SECOND, duration(TIMEOUT)),
        send_timeout: s.value("send_timeout", 60 * SECOND, duration(TIMEOUT)),
        half_close_timeout: s.value("half_close_timeout", 60 * SECOND, duration(TIMEOUT)),
        request_timeout: s.given("request_timeout", duration(TIMEOUT)),
        header_bytes: s.value("header_bytes", 64 * 1024, size(8 * KIB..=16 * MIB)),
        headers: s.value("headers", 100, count(1..=10_000)),
        request_line: s.value("request_line", 8 * 1024, size(64..=60 * KIB)),
        connections: s.value("connections", 16_384, count(1..=10_000_000)),
        connections_per_address: s.value("connections_per_address", 1024, count(1..=10_000_000)),
        requests_per_connection: s.value("requests_per_connection", 10_000, count(1..=1_000_000_000)),
        streams_per_connection: s.value("streams_per_connection", 256, count(1..=10_000)),
        writes_per_connection: s.value("writes_per_connection", 256, count(1..=100_000)),
    };
    section.finish();
    limits
}

fn admin(mut section: Section) -> Admin {
    let admin = Admin { address: section.value("address", SocketAddr::from(([127, 0, 0, 1], 9901)), address) };
    section.finish();
    admin
}

fn routes(top: &mut Section, upstreams: &[Upstream], guard: Policy) -> Vec<Route> {
    let Ok(sections) = top.sections("routes") else {
        return Vec::new();
    };
    if sections.is_empty() {
        if upstreams.len() > 1 {
            top.error_at("routes", "routes are needed to choose between several upstreams");
        }
        let also_changes = Vec::new();
        return vec![Route { host: None, path: PathPattern::any(), upstream: 0, also_changes, policy: guard }];
    }
    let (findings, all) = (top.findings, sections.len());
    let mut routes: Vec<(Place, Route)> = Vec::new();
    for section in sections.into_iter().flatten() {
        let place = section.place.clone();
        let Some(route) = route(section, upstreams, &guard) else {
            continue;
        };
        if let Some((earlier, _)) = routes.iter().find(|(_, earlier)| earlier.covers(&route)) {
            let message = format!("is never reached: {} takes everything that it would match", earlier.key);
            findings.add(&place, message);
        }
        routes.push((place, route));
    }
    if routes.len() == all {
        check_related(findings, &routes);
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
    let path = path.map(|path| path.unwrap_or_else(PathPattern::any));
    let also_changes = also_changes(&mut section, path.as_ref().ok());
    let policy = guard(section.section("guard"), defaults);
    section.finish();
    Some(Route {
        host: host.ok()?,
        path: path.ok()?,
        upstream: upstream.ok().flatten().unwrap_or_default(),
        also_changes,
        policy,
    })
}

/// Each is a turn that a write takes beside its own.
const MOST_RELATED: usize = 16;

/// Nothing is said of the names in them where the path that they are of can't be read.
fn also_changes(section: &mut Section, path: Option<&PathPattern>) -> Vec<RelatedPath> {
    let related = section.list("also_changes", |value| {
        let text = text(value)?;
        path.map(|path| RelatedPath::parse(text, path)).transpose()
    });
    let related: Vec<_> = related.ok().flatten().unwrap_or_default().into_iter().flatten().collect();
    if related.len() > MOST_RELATED {
        section.error_at("also_changes", &format!("has {} paths; {MOST_RELATED} are the most", related.len()));
    }
    if (1..related.len()).any(|place| related[..place].contains(&related[place])) {
        section.error_at("also_changes", "names a path more than once");
    }
    related
}

/// A path that no request can have is a mistake.
fn check_related(findings: &Findings, routes: &[(Place, Route)]) {
    for (place, route) in routes {
        let meets = |host: &Option<String>| host.is_none() || route.host.is_none() || *host == route.host;
        for related in &route.also_changes {
            if !routes.iter().any(|(_, other)| meets(&other.host) && related.may_be_by(&other.path)) {
                let place = Place { key: place.child("also_changes"), ..place.clone() };
                findings.add(&place, format!("no route leads to {related}"));
            }
        }
    }
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
    let s = &mut section;
    let defaults = profile::defaults(s, defaults);
    let mut policy = Policy {
        mode: s.value("mode", defaults.mode, choice(&MODES)),
        methods: s.list("methods", method).ok().flatten().unwrap_or(defaults.methods),
        missing: s.value("missing", defaults.missing, choice(&MISSING)),
        conflict_status: s.value("conflict_status", defaults.conflict_status, conflict_status),
        comparison: s.value("comparison", defaults.comparison, choice(&COMPARISONS)),
        encoding_suffixes: s.value("encoding_suffixes", defaults.encoding_suffixes, flag),
        verify: s.value("verify", defaults.verify, choice(&VERIFY)),
        max_age: s.given("max_age", duration(AGE)).or(defaults.max_age),
        query: s.value("query", defaults.query, query_rule),
        partition: s.list("partition", partition_field).ok().flatten().unwrap_or(defaults.partition),
        method_override: s.value("method_override", defaults.method_override, choice(&METHOD_OVERRIDES)),
        forward_preconditions: s.value("forward_preconditions", defaults.forward_preconditions, flag),
        wait: s.value("wait", defaults.wait, duration(PAUSE)),
        line: s.value("line", defaults.line, count(1..=100_000)),
        settle: s.value("settle", defaults.settle, duration(PAUSE)),
        buffer: s.value("buffer", defaults.buffer, size(0..=16 * MIB)),
        max_body: s.given("max_body", size(0..=u64::MAX)).or(defaults.max_body),
        body_idle_timeout: s.value("body_idle_timeout", defaults.body_idle_timeout, duration(TIMEOUT)),
        body_rate: s.value("body_rate", defaults.body_rate, size(0..=GIB)),
        drain_bytes: s.value("drain_bytes", defaults.drain_bytes, size(0..=GIB)),
        drain_time: s.value("drain_time", defaults.drain_time, duration(PAUSE)),
        linger_time: s.value("linger_time", defaults.linger_time, duration(PAUSE)),
        repeats: repeats::repeats(s, defaults.repeats),
        rollout: rollout::rollout(s, defaults.rollout),
        browsers: browsers::browsers(s, defaults.browsers),
        service: profile::service(s, &defaults.service),
        versions: defaults.versions,
    };
    policy.versions = versions::versions(s, policy.versions, policy.comparison);
    browsers::check(s, &policy);
    profile::check(s, &policy);
    section.finish();
    policy
}

const MODES: [(&str, Mode); 4] =
    [("enforce", Mode::Enforce), ("warn", Mode::Warn), ("observe", Mode::Observe), ("off", Mode::Off)];
const MISSING: [(&str, Missing); 3] =
    [("allow", Missing::Allow), ("warn", Missing::Warn), ("require", Missing::Require)];
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

fn memory(mut section: Section) -> Memory {
    let memory = Memory {
        entries: section.value("entries", 1_000_000, count(1..=100_000_000)),
        bytes: section.value("bytes", 256 * 1024 * 1024, size(4 * MIB..=1024 * GIB)),
        origins: section.value("origins", 100_000, count(2..=100_000_000)),
    };
    section.finish();
    memory
}

fn log(mut section: Section) -> Log {
    let log = Log {
        format: section.value(
            "format",
            LogFormat::Text,
            choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        ),
        level: section.value("level", "info".to_owned(), level),
        access: section.value("access", false, flag),
    };
    section.finish();
    log
}
