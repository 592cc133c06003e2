//! The tables of the backends.

use http::uri::PathAndQuery;

use super::{certificate, form::*, section::Section};
use crate::config::{Balance, Ejection, Health, HostRule, Origin, Protocol, Upstream, UpstreamTls};

pub(super) fn upstreams(top: &mut Section) -> Vec<Upstream> {
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
    let s = &mut section;
    let upstream = Upstream {
        name,
        servers: servers(s),
        protocol: s.value("protocol", Protocol::Auto, choice(&PROTOCOLS)),
        tls: tls(s.section("tls")),
        balance: s.value("balance", Balance::RoundRobin, choice(&BALANCES)),
        host: s.value("host", HostRule::Preserve, choice(&HOST_RULES)),
        max_connections: s.value("max_connections", 1024, count(1..=1_000_000)),
        connect_timeout: s.value("connect_timeout", 2 * SECOND, duration(TIMEOUT)),
        response_timeout: s.value("response_timeout", 30 * SECOND, duration(TIMEOUT)),
        response_idle_timeout: s.value("response_idle_timeout", 300 * SECOND, duration(TIMEOUT)),
        tunnel_idle_timeout: s.value("tunnel_idle_timeout", 3600 * SECOND, duration(TIMEOUT)),
        idle_timeout: s.value("idle_timeout", 4 * SECOND, duration(TIMEOUT)),
        resolve_interval: s.value("resolve_interval", 30 * SECOND, duration(TIMEOUT)),
        health: s.optional_section("health").ok().flatten().map(health),
        ejection: ejection(s.section("ejection")),
    };
    section.finish();
    upstream
}

const PROTOCOLS: [(&str, Protocol); 3] =
    [("http1", Protocol::Http1), ("h2", Protocol::Http2), ("auto", Protocol::Auto)];
const BALANCES: [(&str, Balance); 2] =
    [("round_robin", Balance::RoundRobin), ("least_connections", Balance::LeastConnections)];
const HOST_RULES: [(&str, HostRule); 2] = [("preserve", HostRule::Preserve), ("rewrite", HostRule::Rewrite)];

fn servers(section: &mut Section) -> Vec<Origin> {
    let Ok(servers) = section.list("servers", |value| server(text(value)?)) else {
        return Vec::new();
    };
    let servers = servers.unwrap_or_default();
    if servers.is_empty() {
        section.error_at("servers", "at least one is needed; write it like servers = [\"http://10.0.0.1:3000\"]");
    }
    servers
}

fn tls(mut section: Section) -> UpstreamTls {
    let tls = UpstreamTls {
        ca: section.path("ca"),
        certificate: certificate(&mut section),
        server_name: section.given("server_name", host),
    };
    section.finish();
    tls
}

fn health(mut section: Section) -> Health {
    let health = Health {
        path: section.value("path", PathAndQuery::from_static("/"), health_path),
        interval: section.value("interval", 5 * SECOND, duration(TIMEOUT)),
        timeout: section.value("timeout", 2 * SECOND, duration(TIMEOUT)),
        healthy: section.value("healthy", 2, count(1..=1000)),
        unhealthy: section.value("unhealthy", 3, count(1..=1000)),
    };
    section.finish();
    health
}

fn ejection(mut section: Section) -> Ejection {
    let ejection = Ejection {
        failures: section.value("failures", 5, count(0..=1000)),
        time: section.value("time", 5 * SECOND, duration(TIMEOUT)),
        max_time: section.value("max_time", 300 * SECOND, duration(TIMEOUT)),
    };
    section.finish();
    ejection
}
