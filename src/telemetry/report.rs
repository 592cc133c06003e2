//! What is counted by client, where an operator is on the way to refusing more: for `/report`, and in sums for `/metrics`.
//!
//! A client is known by the name that its `User-Agent` begins with, which anybody can choose; so there are only so many
//! names, and all others are one. What is counted stays when the configuration changes. There is one lock, which only
//! writes by routes that count take.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    config::{self, Route},
    core::policy::{Missing, Mode},
};

mod reads;

pub use reads::{Reads, Since};

/// What clients are called beyond those that are told apart, and without a name. Neither can be a product's name.
const OTHERS: &str = "(other)";
const NAMELESS: &str = "(none)";
/// The bytes of a name that are kept.
const NAME: usize = 64;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Count {
    /// A guarded write with a precondition.
    Conditional,
    /// One without.
    Unconditional,
    /// One without, by a client that is not asked for one. Not among those.
    Exempt,
    /// Refused, or would be: the resource has changed.
    Stale,
    /// The same: it exists.
    Exists,
    /// The same: its state can't be learned.
    Unverifiable,
    /// The same: there is no precondition.
    MissingPrecondition,
    /// The same: a precondition can't be read.
    Malformed,
    /// The same: the method is overridden.
    MethodOverride,
    /// Only observed: the backend would have been asked.
    Unsure,
    /// Only observed: another write was under way, and this one would have waited for it.
    Overlapping,
    /// Without a precondition it overwrote a state that its client had not seen, though an older one.
    Blind,
    /// Without a precondition it was applied, and no read by its client is remembered.
    Unread,
}

impl Count {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Conditional,
        Self::Unconditional,
        Self::Exempt,
        Self::Stale,
        Self::Exists,
        Self::Unverifiable,
        Self::MissingPrecondition,
        Self::Malformed,
        Self::MethodOverride,
        Self::Unsure,
        Self::Overlapping,
        Self::Blind,
        Self::Unread,
    ];

    /// Those that say why a write is refused, or would be.
    pub const REFUSALS: [Self; 6] = [
        Self::Stale,
        Self::Exists,
        Self::Unverifiable,
        Self::MissingPrecondition,
        Self::Malformed,
        Self::MethodOverride,
    ];

    /// Its word in the report and in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conditional => "with_precondition",
            Self::Unconditional => "without_precondition",
            Self::Exempt => "exempt",
            Self::Stale => "stale",
            Self::Exists => "exists",
            Self::Unverifiable => "unverifiable",
            Self::MissingPrecondition => "missing_precondition",
            Self::Malformed => "malformed",
            Self::MethodOverride => "method_override",
            Self::Unsure => "unsure",
            Self::Overlapping => "overlapping",
            Self::Blind => "blind_overwrites",
            Self::Unread => "unread",
        }
    }
}

/// How often each was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; Count::ALL.len()]);

impl Counts {
    /// How often this was counted.
    #[must_use]
    pub fn of(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }

    /// As members of a JSON object.
    fn write(&self, counts: impl Iterator<Item = Count>, out: &mut String) {
        let members = counts.map(|count| format!("\"{}\":{}", count.as_str(), self.of(count)));
        out.push_str(&members.collect::<Vec<_>>().join(","));
    }
}

/// All that is counted by client.
#[derive(Debug)]
pub struct Report {
    table: Mutex<Table>,
    clients: usize,
    /// Who has seen which state of what.
    pub reads: Reads,
}

#[derive(Debug, Default)]
struct Table {
    names: HashSet<Arc<str>>,
    /// Whether somebody has come that is not told apart.
    is_full: bool,
    /// By route and client.
    rows: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Counts>>,
}

impl Default for Report {
    fn default() -> Self {
        Self::new(config::Report { clients: 1, reads: 2 })
    }
}

impl Report {
    /// An empty one within these bounds.
    #[must_use]
    pub fn new(bounds: config::Report) -> Self {
        Self { table: Mutex::default(), clients: bounds.clients, reads: Reads::new(bounds.reads) }
    }

    /// Something happened to a write by this route, of a client with this `User-Agent`.
    pub fn count(&self, route: &Arc<str>, agent: Option<&[u8]>, what: &[Count]) {
        if what.is_empty() {
            return;
        }
        let name = name(agent);
        let mut table = self.table();
        let name = table.name(name, self.clients);
        let counts = table.rows.entry(Arc::clone(route)).or_default().entry(name).or_default();
        for count in what {
            counts.0[*count as usize] += 1;
        }
    }

    /// The sums of all clients, by route.
    #[must_use]
    pub fn sums(&self) -> BTreeMap<Arc<str>, Counts> {
        let sum = |clients: &BTreeMap<_, Counts>| {
            clients.values().fold(Counts::default(), |mut sum, counts| {
                sum.add(counts);
                sum
            })
        };
        self.table().rows.iter().map(|(route, clients)| (Arc::clone(route), sum(clients))).collect()
    }

    /// The report, with these routes, in JSON. It is written row by row, since it may be long; of a client it has only what
    /// was counted.
    #[must_use]
    pub fn describe(&self, routes: &[Route]) -> String {
        let mut out = "{\"routes\":[".to_owned();
        for (index, route) in routes.iter().enumerate() {
            out.push_str(if index == 0 { "\n" } else { ",\n" });
            self.describe_route(route, &mut out);
        }
        let _ = writeln!(out, "],\n\"clients_are_all_told_apart\":{}}}", !self.table().is_full);
        out
    }

    fn describe_route(&self, route: &Route, out: &mut String) {
        let label = label(route);
        // Copied, so that no write waits while it is put into words.
        let rows = self.table().rows.get(label.as_str()).cloned().unwrap_or_default();
        let mut all = Counts::default();
        rows.values().for_each(|counts| all.add(counts));
        let (mode, missing) = (mode(route.policy.mode), missing(route.policy.missing));
        let (label, counted) = (quoted(&label), route.policy.counts());
        let _ = write!(
            out,
            "{{\"route\":{label},\"mode\":\"{mode}\",\"missing\":\"{missing}\",\"counted\":{counted},\"all\":{{"
        );
        all.write(Count::ALL.into_iter(), out);
        out.push_str("},\"clients\":[");
        for (index, (client, counts)) in rows.iter().enumerate() {
            let _ = write!(out, "{}\n{{\"client\":{},", if index == 0 { "" } else { "," }, quoted(client));
            counts.write(Count::ALL.into_iter().filter(|count| counts.of(*count) > 0), out);
            out.push('}');
        }
        out.push_str("]}");
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn name(&mut self, name: &str, limit: usize) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        if name == NAMELESS {
            return NAMELESS.into();
        }
        if self.names.len() >= limit {
            self.is_full = true;
            return OTHERS.into();
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }
}

/// As a string of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The first product that a `User-Agent` names (RFC 9110 §10.1.5), without its version.
fn name(agent: Option<&[u8]>) -> &str {
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let agent = agent.unwrap_or_default();
    let end = agent.iter().position(|byte| !is_of_token(byte)).unwrap_or(agent.len()).min(NAME);
    match std::str::from_utf8(&agent[..end]) {
        Ok(name) if !name.is_empty() => name,
        Ok(_) | Err(_) => NAMELESS,
    }
}

/// A route's name in labels and in the report.
#[must_use]
pub fn label(route: &Route) -> String {
    format!("{}{}", route.host.as_deref().unwrap_or_default(), route.path)
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Warn => "warn",
        Mode::Observe => "observe",
        Mode::Off => "off",
    }
}

fn missing(missing: Missing) -> &'static str {
    match missing {
        Missing::Allow => "allow",
        Missing::Warn => "warn",
        Missing::Require => "require",
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn route() -> Arc<str> {
        "/a".into()
    }

    fn clients(report: &Report) -> Vec<(String, u64)> {
        let rows = report.table().rows.clone();
        let rows = rows.values().flatten();
        rows.map(|(client, counts)| (client.to_string(), counts.of(Count::Exempt))).collect()
    }

    #[test]
    fn a_client_is_its_first_product_without_a_version() {
        for (agent, expected) in [
            ("curl/8.5.0", "curl"),
            ("curl", "curl"),
            ("Mozilla/5.0 (X11; Linux) Gecko", "Mozilla"),
            ("nightly-job 2", "nightly-job"),
            ("(other)", NAMELESS),
            ("", NAMELESS),
            (" curl", NAMELESS),
            ("\u{e9}t\u{e9}", NAMELESS),
        ] {
            assert_eq!(name(Some(agent.as_bytes())), expected, "{agent}");
        }
        assert_eq!(name(None), NAMELESS);
        assert_eq!(name(Some(&[b'x'; 1000])).len(), NAME);
    }

    proptest! {
        #[test]
        fn whatever_a_client_calls_itself_its_name_is_short_and_plain(agent in vec(any::<u8>(), 0..200)) {
            let found = name(Some(&agent));
            prop_assert!(found.len() <= NAME && found.bytes().all(|byte| byte.is_ascii_graphic()), "{found}");
            prop_assert!(found == NAMELESS || agent.starts_with(found.as_bytes()));
            prop_assert_ne!(found, OTHERS);
        }
    }

    #[test]
    fn the_longest_report_is_short() {
        let report = Report::new(config::Report { clients: 1000, reads: 2 });
        let routes: String =
            (0..20).map(|n| format!("[[routes]]\npath = \"/{n}\"\nguard = {{ mode = \"observe\" }}\n")).collect();
        let file =
            format!("[[listeners]]\naddress = \"127.0.0.1:1\"\n[upstreams.a]\nservers = [\"http://h\"]\n{routes}");
        let config = config::Config::parse(&file).expect("a configuration");
        for route in &config.routes {
            for client in 0..1100 {
                let agent = format!("{client:x<64}");
                report.count(&label(route).into(), Some(agent.as_bytes()), &[Count::Conditional, Count::Stale]);
            }
        }
        let told = report.describe(&config.routes);
        assert!(told.len() < 20 * 1001 * 128, "{}", told.len());
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        let routes = told["routes"].as_array().expect("routes");
        assert_eq!((routes.len(), &told["clients_are_all_told_apart"]), (20, &false.into()));
        for route in routes {
            assert_eq!(route["clients"].as_array().map(Vec::len), Some(1001));
            assert_eq!((&route["all"]["stale"], &route["all"]["unread"]), (&1100.into(), &0.into()));
        }
    }

    #[test]
    fn clients_beyond_the_limit_are_one() {
        let report = Report::new(config::Report { clients: 2, reads: 2 });
        for n in (0..1000).chain([0]) {
            report.count(&route(), Some(format!("client{n}/1").as_bytes()), &[Count::Exempt]);
        }
        report.count(&route(), None, &[Count::Exempt]);
        report.count(&"/b".into(), Some(b"client1"), &[Count::Exempt]);
        let found = clients(&report);
        let expected = [("(none)", 1), ("(other)", 998), ("client0", 2), ("client1", 1), ("client1", 1)];
        assert_eq!(found, expected.map(|(name, count)| (name.to_owned(), count)));
        assert_eq!(report.sums()["/a"].of(Count::Exempt), 1002);
    }
}
