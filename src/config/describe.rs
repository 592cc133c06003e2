//! What a configuration means, in words: what `ifmatch check` prints.

use std::{net::Ipv6Addr, time::Duration};

use super::{
    Balance, Config, Ejection, ForwardedRule, Forwarding, Health, HostRule, Limits, Listener, LogFormat, Protocol,
    RelatedPath, Upstream,
    raw::form::{duration_text, size_text},
};
use crate::core::{
    browsers::{Browsers, Cors},
    policy::{Comparison, MethodOverride, Missing, Mode, Policy, QueryRule, Verify},
    repeats::{Found, Repeats},
    resource::is_credential,
    rollout::{Exempt, Network},
    version::{Source, Versions},
};

mod profile;

const HIDDEN: &str = "Warning: behind a trusted proxy the exempt addresses are compared with the proxy's own, and one \
                      that fits it exempts everybody; forwarded = \"append\" would compare the client's.";

impl Config {
    /// What the configuration means, in words, for somebody who wants to know whether it says what they wanted.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut lines: Vec<String> = self.listeners.iter().map(Listener::describe).collect();
        lines.push(self.describe_forwarding());
        lines.extend(self.upstreams.iter().map(Upstream::describe));
        for (index, route) in self.routes.iter().enumerate() {
            let upstream = &self.upstreams[route.upstream].name;
            let host = route.host.as_deref().unwrap_or("any");
            lines.push(format!("Route {}: host {host}, path {}, to {upstream:?}.", index + 1, route.path));
            lines.extend(rules(&route.policy).into_iter().map(|rule| format!("    {rule}")));
            lines.extend(related(&route.also_changes).map(|rule| format!("    {rule}")));
            lines.extend(self.forwarding.hides_clients_from(&route.policy).then(|| format!("    {HIDDEN}")));
        }
        lines.push(self.describe_process());
        lines.join("\n") + "\n"
    }

    fn describe_forwarding(&self) -> String {
        let rule = match self.forwarding.rule {
            ForwardedRule::Replace => "what a client says itself is replaced",
            ForwardedRule::Append => "what a trusted proxy says is continued, what others say replaced",
            ForwardedRule::Off => "whatever a client says passes, and nothing is added",
        };
        let trusted = match self.forwarding.trusted.as_slice() {
            [] => "no proxy".to_owned(),
            trusted => listed(trusted, "and"),
        };
        format!("Forwarded and X-Forwarded-*: {rule}. Trusts {trusted}.")
    }

    fn describe_process(&self) -> String {
        let limits = self.limits.describe();
        let admin = self.admin.map_or_else(
            || "There is no admin listener.".to_owned(),
            |admin| format!("The admin listener is {}.", admin.address),
        );
        let reload = match self.reload_interval {
            Duration::ZERO => "on SIGHUP only".to_owned(),
            interval => format!("on SIGHUP, and looked at every {}", duration_text(interval)),
        };
        let takeover = self.takeover.as_ref().map_or_else(String::new, |lock| {
            format!("\nTakes over from another process by the lock {}.", lock.display())
        });
        format!(
            "{limits}\n\
             Remembers {} resources at most, with tags of up to {}; and {} requests and values, in {} at most; {} origins of \
             pages; for a report {} clients and {} reads. Logs {} at {:?}, {} access log. {admin}\n\
             Runs {} workers; the file is read again {reload}; a stop waits {} for what is under way.{takeover}",
            self.tracker.capacity,
            size_text(self.tracker.tag_bytes as u64),
            self.memory.entries,
            size_text(self.memory.bytes as u64),
            self.memory.origins,
            self.report.clients,
            self.report.reads,
            match self.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "JSON",
            },
            self.log.level,
            if self.log.access { "with an" } else { "without an" },
            self.workers,
            duration_text(self.drain_timeout),
        )
    }
}

impl Forwarding {
    /// Whether a client that is exempt by its address is looked for at that of a proxy.
    fn hides_clients_from(&self, policy: &Policy) -> bool {
        let goes_by_address = policy.rollout.exempt.iter().any(|exempt| exempt.network.is_some());
        goes_by_address && policy.mode != Mode::Off && !self.trusted.is_empty() && self.rule != ForwardedRule::Append
    }
}

impl Listener {
    fn describe(&self) -> String {
        let tls = self.tls.as_ref().map_or_else(String::new, |tls| {
            let count = tls.certificates.len();
            let certificates = if count == 1 { "a certificate".to_owned() } else { format!("{count} certificates") };
            let clients = if tls.client_ca.is_some() { ", asking clients for theirs" } else { "" };
            format!(" with TLS, {certificates}{clients}")
        });
        let proxy = if self.proxy_protocol { ", behind a proxy that speaks the PROXY protocol" } else { "" };
        format!("Listens on {}{tls}{proxy}.", self.address)
    }
}

impl Limits {
    fn describe(&self) -> String {
        let whole =
            self.request_timeout.map_or_else(String::new, |time| format!(", {} to be answered", duration_text(time)));
        format!(
            "A client has {} for a request's head{whole}, {} to take what it is sent, {} between requests.\n\
             A head has at most {} fields, {} in all and {} for the target. There are at most {} connections, {} of one \
             address, with {} requests each; over HTTP/2 {} at once, {} of them writes.",
            duration_text(self.header_read_timeout),
            duration_text(self.send_timeout),
            duration_text(self.idle_timeout),
            self.headers,
            size_text(self.header_bytes as u64),
            size_text(self.request_line as u64),
            self.connections,
            self.connections_per_address,
            self.requests_per_connection,
            self.streams_per_connection,
            self.writes_per_connection,
        )
    }
}

impl Upstream {
    fn describe(&self) -> String {
        let host = match self.host {
            HostRule::Preserve => "the client's Host",
            HostRule::Rewrite => "its own Host",
        };
        let protocol = match self.protocol {
            Protocol::Http1 => ", asked by HTTP/1.1",
            Protocol::Http2 => ", asked by HTTP/2",
            Protocol::Auto => "",
        };
        let balance = match (self.servers.len(), self.balance) {
            (1, _) => "",
            (_, Balance::RoundRobin) => ", each in its turn",
            (_, Balance::LeastConnections) => ", the least busy first",
        };
        let health = self.health.as_ref().map_or_else(String::new, Health::describe);
        format!(
            "Upstream {:?} is {}{balance}{protocol}, and sees {host}. It has {} to connect, {} to answer, {} between \
             parts of an answer; at most {} connections a server, kept {} when idle.{health}{}",
            self.name,
            listed(&self.servers, "or"),
            duration_text(self.connect_timeout),
            duration_text(self.response_timeout),
            duration_text(self.response_idle_timeout),
            self.max_connections,
            duration_text(self.idle_timeout),
            self.ejection.describe(),
        )
    }
}

impl Health {
    fn describe(&self) -> String {
        format!(
            " Each is asked for {} every {}: out after {} bad in a row, in again after {} good.",
            self.path,
            duration_text(self.interval),
            self.unhealthy,
            self.healthy,
        )
    }
}

impl Ejection {
    fn describe(&self) -> String {
        match self.failures {
            0 => " A server that fails is not left out.".to_owned(),
            failures => format!(
                " After {failures} failures in a row a server is left out for {}, at most {}.",
                duration_text(self.time),
                duration_text(self.max_time),
            ),
        }
    }
}

/// What a guard does, a sentence each. The main choices are always told, the rest where it differs from the default.
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
            Mode::Observe => {
                "Only observes: every write is forwarded at once; what would be refused is counted.".to_owned()
            }
            Mode::Warn => {
                "Only warns: every write is forwarded at once; what would be refused is counted, and its client \
                           told."
                    .to_owned()
            }
            Mode::Enforce | Mode::Off => format!("A conflict is answered {}.", policy.conflict_status.as_u16()),
        },
        match policy.missing {
            Missing::Require if policy.mode.only_observes() => {
                "A guarded write without a precondition is one that would be refused.".to_owned()
            }
            Missing::Allow | Missing::Warn if policy.mode.only_observes() => {
                "A guarded write without a precondition is none that would be refused.".to_owned()
            }
            Missing::Warn => {
                "A guarded write without a precondition is forwarded, in turn, and its client told.".to_owned()
            }
            Missing::Allow => "A guarded write without a precondition is forwarded, in turn.".to_owned(),
            Missing::Require => "A guarded write without a precondition is answered 428.".to_owned(),
        },
        match policy.verify {
            Verify::Never => "The backend is never asked for a tag: what is not known is a conflict.",
            Verify::Unknown => "The backend is asked for a tag that is not known.",
            Verify::Mismatch => "The backend is asked for a tag that is not known, and before a conflict is answered.",
            Verify::Always => "The backend is asked before every conditional write.",
        }
        .to_owned(),
    ];
    rules.extend(departures(policy));
    rules.extend(profile::profile(policy));
    let settings = settings(policy);
    if !settings.is_empty() {
        rules.push(format!("Also set: {}.", settings.join(", ")));
    }
    rules
}

/// What a write changes beside its target.
fn related(also_changes: &[RelatedPath]) -> Option<String> {
    let whose = match also_changes {
        [] => return None,
        [_] => "its",
        [_, _, ..] => "their",
    };
    let listed = listed(also_changes, "and");
    Some(format!("A write also changes {listed}: {whose} held tags are stale after it, and guarded writes there wait."))
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
        rules.push(format!("What was learned longer than {} ago is no longer trusted.", duration_text(age)));
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
    rules.extend(policy.rollout.exempt.iter().map(exempt));
    if policy.counts() {
        rules.push("Writes are counted by client, for ifmatch report.".to_owned());
    }
    rules.extend(profile::departures(policy));
    rules.extend(versions(&policy.versions));
    if policy.versions.source.is_in_body() && policy.verify == Verify::Never {
        let rule = "Nobody asks for it: after a write somebody has to read before the next conditional one.";
        rules.push(rule.to_owned());
    }
    rules.extend(repeats(&policy.repeats));
    rules.extend(browsers(&policy.browsers));
    rules
}

/// What is done for pages in browsers.
fn browsers(browsers: &Browsers) -> Vec<String> {
    let mut rules = Vec::new();
    if browsers.cors == Cors::Follow {
        let rule = "Where the backend lets a page of another origin in, it can read and send tags, and read refusals.";
        rules.push(rule.to_owned());
    }
    if let Some(name) = &browsers.tag_header {
        rules.push(format!("{name} carries a copy of each ETag, and is taken for If-Match."));
    }
    rules
}

/// Where versions come from.
fn versions(versions: &Versions) -> Vec<String> {
    let mut rules = match &versions.source {
        Source::Etag => Vec::new(),
        Source::Body => vec![match versions.ignore.as_slice() {
            [] => "A version is a hash of the body.".to_owned(),
            places => format!("A version is a hash of the body without {}.", listed(places, "and")),
        }],
        Source::Header(name) => vec![format!("A version is what the field {name} says.")],
        Source::Json(place) => vec![format!("A version is what stands at {place} in the JSON body.")],
        Source::LastModified => {
            vec!["A version is the date in Last-Modified, once it is more than a second old.".to_owned()]
        }
    };
    if versions.source.is_in_body() {
        let limit = size_text(versions.body_limit as u64);
        rules.push(format!("Bodies are asked for uncompressed; one of more than {limit} has no version."));
    }
    if versions.source.is_made() {
        rules.push("The ETag is made here; the service's own is not passed on, and it sees no tag.".to_owned());
    }
    if versions.reads_after_write {
        rules.push("After a PUT or PATCH whose answer has no tag the resource is read for it, in turn.".to_owned());
    }
    rules
}

fn exempt(exempt: &Exempt) -> String {
    let network = exempt.network.map(|network| format!(" at {}", network_text(network)));
    let header = exempt.header.as_ref().map(|(name, pattern)| match pattern.0.as_str() {
        "*" => format!(" that sends {name}"),
        // It may be a secret.
        _ if is_credential(name) => format!(" with a certain {name}"),
        value => format!(" with {name}: {value}"),
    });
    let who = [network, header].into_iter().flatten().collect::<Vec<_>>().join(" and");
    format!("A client{who} is not asked for a precondition.")
}

/// As the file writes it.
fn network_text(network: Network) -> String {
    let first = Ipv6Addr::from_bits(network.first);
    let (first, offset) = match first.to_ipv4_mapped().filter(|_| network.prefix >= 96) {
        Some(first) => (first.to_string(), 96),
        None => (first.to_string(), 0),
    };
    if network.prefix == 128 { first } else { format!("{first}/{}", network.prefix - offset) }
}

/// What becomes of requests that come again.
fn repeats(repeats: &Repeats) -> Vec<String> {
    let mut rules = Vec::new();
    if let Some(time) = repeats.replay {
        let time = duration_text(time);
        rules.push(format!("The last conditional PUT or DELETE is answered again within {time} if it comes again."));
    }
    if let Some(time) = repeats.idempotency {
        let time = duration_text(time);
        rules.push(format!("A POST or PATCH with an Idempotency-Key runs once; its answer is kept for {time}."));
    }
    if !repeats.unique.is_empty() {
        let memory = match repeats.memory_of_values(!repeats.unique_lookup.is_empty()) {
            None => "as long as there is room".to_owned(),
            Some(time) => format!("for {}", duration_text(time)),
        };
        let places = listed(&repeats.unique, "and");
        rules.push(format!(
            "A POST creates nothing whose {places} is there already; what was created is known {memory}."
        ));
    }
    if !repeats.unique_lookup.is_empty() {
        let found = match &repeats.unique_found {
            Found::Json => "a JSON array or object that is not empty".to_owned(),
            Found::At(place) => format!("JSON with something at {place}"),
            Found::Status => "a 2xx".to_owned(),
        };
        let asked = listed(&repeats.unique_lookup, "and");
        rules.push(format!("Before that the backend is asked for {asked}; {found} means that it is there."));
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
        ("linger_time", policy.linger_time, standard.linger_time),
    ];
    let sizes = [
        ("buffer", policy.buffer as u64, standard.buffer as u64),
        ("answer_bytes", policy.repeats.answer_bytes as u64, standard.repeats.answer_bytes as u64),
        ("drain_bytes", policy.drain_bytes, standard.drain_bytes),
        ("body_rate", policy.body_rate, standard.body_rate),
    ];
    let max_body = policy.max_body.map(|bytes| format!("max_body {}", size_text(bytes)));
    let line = (policy.line != standard.line).then(|| format!("line {}", policy.line));
    let durations = durations.iter().filter(|(_, value, standard)| value != standard);
    let sizes = sizes.iter().filter(|(_, value, standard)| value != standard);
    durations
        .map(|(key, value, _)| format!("{key} {}", duration_text(*value)))
        .chain(sizes.map(|(key, value, _)| format!("{key} {}", size_text(*value))))
        .chain(max_body)
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
