//! What is counted, for Prometheus: OpenMetrics text 1.0.
//!
//! A request finds the counters of its route ready ([`Route`]); they are made once and shared by all workers, so that
//! counting is an atomic addition. The labels' values come from the configuration, from lists in here and from the three
//! digits of a status: no client can make them many. A label `route` is the host and the path of a route, as the file has
//! them, and `none` where no route was found.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Method, StatusCode};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::report::{Report, label};
use crate::{config, core::verdict::Refusal, tracker::Watcher};

mod counted;
mod habits;
mod remembered;
mod versions;

pub use habits::Habits;
pub use remembered::Remembered;
pub use versions::Untagged;

/// The media type of what `Metrics::scrape` gives.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds; from what memory answers in to what people wait for.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The methods that are told apart; all others are `other`.
const METHODS: [&str; 9] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "POST", "PATCH", "DELETE", "other"];
const OTHER_METHOD: usize = METHODS.len() - 1;

/// The statuses whose counters each route keeps at hand. The others are looked up.
const STATUSES: [u16; 28] = [
    101, 200, 201, 202, 204, 206, 207, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 412, 413, 422,
    428, 500, 502, 503, 504,
];

/// What the gateway decided about a write, as it is counted and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// It was judged, and forwarded.
    Forward,
    /// The resource has changed.
    Stale,
    /// The resource exists.
    Exists,
    /// The route asks for a precondition.
    MissingPrecondition,
    /// No turn was to be had.
    Busy,
    /// The resource's state can't be learned.
    Unverifiable,
    /// The precondition can't be read.
    Malformed,
    /// Forwarded by a route in `observe` mode; an enforcing one would have refused it.
    WouldRefuse,
    /// It came again, and was answered as before.
    Replayed,
    /// Its `Idempotency-Key` belongs to another request, or to one whose answer is not there.
    KeyUsed,
    /// What it would create is there.
    Duplicate,
}

impl Verdict {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Forward,
        Self::Stale,
        Self::Exists,
        Self::MissingPrecondition,
        Self::Busy,
        Self::Unverifiable,
        Self::Malformed,
        Self::WouldRefuse,
        Self::Replayed,
        Self::KeyUsed,
        Self::Duplicate,
    ];

    /// Its word in labels and lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Stale => "stale",
            Self::Exists => "exists",
            Self::MissingPrecondition => "missing_precondition",
            Self::Busy => "busy",
            Self::Unverifiable => "unverifiable",
            Self::Malformed => "malformed",
            Self::WouldRefuse => "would_refuse",
            Self::Replayed => "replayed",
            Self::KeyUsed => "key_used",
            Self::Duplicate => "duplicate",
        }
    }
}

/// What came of asking the backend for a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ProbeResult {
    /// The current tag.
    Tag,
    /// There is no such resource.
    Absent,
    /// The resource is there and shows no tag.
    Untagged,
    /// 401 or 403.
    Denied,
    /// Nothing that a verdict could rest on.
    Unknown,
    /// No answer.
    Failed,
}

impl ProbeResult {
    const ALL: [Self; 6] = [Self::Tag, Self::Absent, Self::Untagged, Self::Denied, Self::Unknown, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Absent => "absent",
            Self::Untagged => "untagged",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
    }
}

/// One server of an upstream, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// The upstream's name.
    pub upstream: String,
    /// The server's host and port.
    pub server: String,
    /// Connections to it, over all workers.
    pub open: usize,
    /// How many of them are idle.
    pub idle: usize,
    /// Whether requests are sent to it.
    pub healthy: bool,
    /// What has gone wrong with it, and how often. A request that another server answered then counts, too.
    pub failures: Vec<(&'static str, u64)>,
}

/// What is not counted, but looked at when it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// Records there are.
    pub records: usize,
    /// Records there may be.
    pub capacity: usize,
    /// All servers.
    pub servers: Vec<ServerState>,
    /// What is remembered of requests; `None` where nobody looked.
    pub memory: Option<Remembered>,
}

/// All that is counted.
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Every route that was ever configured, by its label; and every upstream, by its name.
    routes: Mutex<BTreeMap<String, Arc<Route>>>,
    upstreams: Mutex<BTreeMap<String, Arc<Upstream>>>,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

#[derive(Debug, Clone)]
struct Families {
    requests: Family<RequestLabels, Counter>,
    durations: Histograms<RouteLabels>,
    verdicts: Family<VerdictLabels, Counter>,
    probes: Family<ProbeLabels, Counter>,
    in_doubt: Family<RouteLabels, Counter>,
    untagged: Family<versions::Labels, Counter>,
    turns: Counter,
    turns_waiting: Gauge,
    turns_held: Gauge,
    turn_waits: Histogram,
    turn_holds: Histogram,
    records: Gauge,
    capacity: Gauge,
    evictions: Counter,
    memory: remembered::Families,
    counted: counted::Families,
    habits: habits::Families,
    upstream_requests: Family<UpstreamLabels, Counter>,
    upstream_errors: Family<ErrorLabels, Counter>,
    upstream_responses: Histograms<UpstreamLabels>,
    upstream_connections: Family<ConnectionLabels, Gauge>,
    upstream_healthy: Family<ServerLabels, Gauge>,
    upstream_failures: Family<FailureLabels, Counter>,
    client_connections: Gauge,
    client_connections_accepted: Counter,
    received: Counter,
    sent: Counter,
    access_log_dropped: Counter,
    reloads: Family<ReloadLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    method: &'static str,
    status: Status,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    route: Arc<str>,
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    route: Arc<str>,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    upstream: Arc<str>,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    upstream: String,
    server: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    upstream: String,
    server: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    upstream: String,
    server: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

/// A status, or `none` where the client was gone before there was an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Status(Option<u16>);

impl EncodeLabelValue for Status {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => write!(encoder, "{status}"),
            None => encoder.write_str("none"),
        }
    }
}

impl Families {
    fn new() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            verdicts: Family::default(),
            probes: Family::default(),
            in_doubt: Family::default(),
            untagged: Family::default(),
            turns: Counter::default(),
            turns_waiting: Gauge::default(),
            turns_held: Gauge::default(),
            turn_waits: seconds(),
            turn_holds: seconds(),
            records: Gauge::default(),
            capacity: Gauge::default(),
            evictions: Counter::default(),
            memory: remembered::Families::default(),
            counted: counted::Families::default(),
            habits: habits::Families::default(),
            upstream_requests: Family::default(),
            upstream_errors: Family::default(),
            upstream_responses: Family::new_with_constructor(seconds),
            upstream_connections: Family::default(),
            upstream_healthy: Family::default(),
            upstream_failures: Family::default(),
            client_connections: Gauge::default(),
            client_connections_accepted: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            access_log_dropped: Counter::default(),
            reloads: Family::default(),
        }
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("ifmatch");
        self.register_requests(&mut registry);
        self.register_turns(&mut registry);
        self.register_connections(&mut registry);
        registry.register("reloads", "Times that the file was read again", self.reloads.clone());
        registry.register("build", "What is running", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let since = Gauge::<f64, AtomicU64>::default();
        since.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
        registry.register_with_unit("start_time", "When this process began, since 1970", Unit::Seconds, since);
        registry
    }

    fn register_requests(&self, registry: &mut Registry) {
        registry.register("requests", "Requests answered", self.requests.clone());
        registry.register("verdicts", "What was decided about writes", self.verdicts.clone());
        registry.register("probes", "Questions for the current tag, by what came of them", self.probes.clone());
        registry.register("in_doubt", "Writes of which nobody knows what became", self.in_doubt.clone());
        self.habits.register(registry);
        let help = "Reads without the version that their route makes";
        registry.register("untagged", help, self.untagged.clone());
        let help = "Lines of the access log for which there was no room";
        registry.register("access_log_dropped", help, self.access_log_dropped.clone());
        let help = "Time from a request's head to the end of its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, self.durations.clone());
        registry.register_with_unit("received", "Bytes of requests' bodies", Unit::Bytes, self.received.clone());
        registry.register_with_unit("sent", "Bytes of answers' bodies", Unit::Bytes, self.sent.clone());
    }

    fn register_turns(&self, registry: &mut Registry) {
        registry.register("turns", "Turns taken", self.turns.clone());
        registry.register("turns_waiting", "Writers that stand in line now", self.turns_waiting.clone());
        registry.register("turns_held", "Turns that are taken now, those in doubt included", self.turns_held.clone());
        let help = "Time in line for the turns that were taken";
        registry.register_with_unit("turn_wait", help, Unit::Seconds, self.turn_waits.clone());
        registry.register_with_unit("turn_hold", "Time that turns were held", Unit::Seconds, self.turn_holds.clone());
        registry.register("records", "Resources that are remembered now", self.records.clone());
        registry.register("records_capacity", "Resources that can be remembered", self.capacity.clone());
        registry.register("evictions", "Records dropped to make room", self.evictions.clone());
        self.memory.register(registry);
        self.counted.register(registry);
    }

    fn register_connections(&self, registry: &mut Registry) {
        registry.register("upstream_requests", "Requests sent, probes included", self.upstream_requests.clone());
        registry.register("upstream_errors", "Requests without an answer", self.upstream_errors.clone());
        let help = "Time from a request to the head of its answer";
        registry.register_with_unit("upstream_response", help, Unit::Seconds, self.upstream_responses.clone());
        let help = "Connections to servers now";
        registry.register("upstream_connections", help, self.upstream_connections.clone());
        registry.register("upstream_healthy", "Whether requests are sent to a server", self.upstream_healthy.clone());
        let help = "What went wrong with a server, retried or not";
        registry.register("upstream_failures", help, self.upstream_failures.clone());
        registry.register("client_connections", "Connections of clients now", self.client_connections.clone());
        let help = "Connections of clients";
        registry.register("client_connections_accepted", help, self.client_connections_accepted.clone());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let families = Families::new();
        for is_applied in [true, false] {
            // Both are there from the beginning: what appears with its first failure is hard to raise an alarm on.
            let _ = families.reloads.get_or_create(&reload(is_applied));
        }
        Self { registry: families.registry(), families, routes: Mutex::default(), upstreams: Mutex::default() }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// The counters of a route; `None`: of the requests for which no route was found. They are the same for all workers,
    /// and after a change of the configuration that leaves the route its host and path.
    pub fn route(&self, route: Option<&config::Route>) -> Arc<Route> {
        let label = route.map_or_else(|| "none".to_owned(), label);
        let mut routes = locked(&self.routes);
        let made = routes.entry(label).or_insert_with_key(|label| Arc::new(Route::new(&self.families, label)));
        Arc::clone(made)
    }

    /// The counters of an upstream.
    pub fn upstream(&self, upstream: &config::Upstream) -> Arc<Upstream> {
        let mut upstreams = locked(&self.upstreams);
        let made = upstreams.entry(upstream.name.clone());
        Arc::clone(made.or_insert_with_key(|name| Arc::new(Upstream::new(&self.families, name))))
    }

    /// A client has connected. What is returned lives as long as its connection.
    #[must_use]
    pub fn connection(&self) -> Connected {
        self.families.client_connections_accepted.inc();
        self.families.client_connections.inc();
        Connected(self.families.client_connections.clone())
    }

    /// The file was read again, and is served under or refused.
    pub fn reloaded(&self, is_applied: bool) {
        self.families.reloads.get_or_create(&reload(is_applied)).inc();
    }

    /// The bodies of a request and its answer are through, with so many bytes.
    pub fn bodies(&self, received: u64, sent: u64) {
        for (family, bytes) in [(&self.families.received, received), (&self.families.sent, sent)] {
            // Most requests have no body.
            if bytes > 0 {
                family.inc_by(bytes);
            }
        }
    }

    /// All of it as text, with what is only known at this moment.
    pub(super) fn scrape(&self, now: Now, dropped_lines: usize, report: &Report) -> String {
        let families = &self.families;
        families.counted.set(report);
        families.records.set(signed(now.records));
        families.capacity.set(signed(now.capacity));
        families.access_log_dropped.inner().store(dropped_lines as u64, Ordering::Relaxed);
        if let Some(remembered) = &now.memory {
            families.memory.set(remembered);
        }
        families.upstream_connections.clear();
        families.upstream_healthy.clear();
        families.upstream_failures.clear();
        for ServerState { upstream, server, open, idle, healthy, failures } in now.servers {
            for (kind, count) in failures {
                let labels = FailureLabels { upstream: upstream.clone(), server: server.clone(), kind };
                families.upstream_failures.get_or_create(&labels).inner().store(count, Ordering::Relaxed);
            }
            for (state, count) in [("open", open), ("idle", idle)] {
                let labels = ConnectionLabels { upstream: upstream.clone(), server: server.clone(), state };
                families.upstream_connections.get_or_create(&labels).set(signed(count));
            }
            families.upstream_healthy.get_or_create(&ServerLabels { upstream, server }).set(i64::from(healthy));
        }
        let mut out = String::with_capacity(16 * 1024);
        text::encode(&mut out, &self.registry).expect("a string takes everything");
        out
    }

    /// Writes the sums of what was decided to the log.
    pub fn log(&self) {
        let routes = locked(&self.routes);
        let of = |verdict: Verdict| routes.values().map(|route| route.verdict_count(verdict)).sum::<u64>();
        tracing::info!(
            forward = of(Verdict::Forward),
            stale = of(Verdict::Stale),
            exists = of(Verdict::Exists),
            unverifiable = of(Verdict::Unverifiable),
            missing_precondition = of(Verdict::MissingPrecondition),
            busy = of(Verdict::Busy),
            malformed = of(Verdict::Malformed),
            would_refuse = of(Verdict::WouldRefuse),
            replayed = of(Verdict::Replayed),
            key_used = of(Verdict::KeyUsed),
            duplicate = of(Verdict::Duplicate),
            in_doubt = routes.values().map(|route| route.in_doubt.get()).sum::<u64>(),
            "verdicts since the start"
        );
    }
}

impl Watcher for Metrics {
    fn waits(&self) {
        self.families.turns_waiting.inc();
    }

    fn waited(&self, _: Duration) {
        self.families.turns_waiting.dec();
    }

    fn taken(&self, waited: Duration) {
        self.families.turns.inc();
        self.families.turns_held.inc();
        self.families.turn_waits.observe(waited.as_secs_f64());
    }

    fn ended(&self, held: Duration) {
        self.families.turns_held.dec();
        self.families.turn_holds.observe(held.as_secs_f64());
    }

    fn evicted(&self) {
        self.families.evictions.inc();
    }
}

/// Lives as long as a client's connection.
#[derive(Debug)]
pub struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The counters of one route.
#[derive(Debug)]
pub struct Route {
    label: Arc<str>,
    /// For those that are not at hand.
    requests: Family<RequestLabels, Counter>,
    at_hand: [[OnceLock<Counter>; STATUSES.len()]; METHODS.len()],
    duration: Histogram,
    verdicts: [Counter; Verdict::ALL.len()],
    probes: [Counter; ProbeResult::ALL.len()],
    in_doubt: Counter,
    /// What its service does that speaks against its rules.
    pub habits: Habits,
    untagged: [Counter; Untagged::ALL.len()],
}

impl Route {
    fn new(families: &Families, label: &str) -> Self {
        let label: Arc<str> = label.into();
        let route = || Arc::clone(&label);
        let verdict = |verdict: Verdict| VerdictLabels { route: route(), verdict: verdict.as_str() };
        let probe = |result: ProbeResult| ProbeLabels { route: route(), result: result.as_str() };
        Self {
            requests: families.requests.clone(),
            at_hand: Default::default(),
            duration: families.durations.get_or_create_owned(&RouteLabels { route: route() }),
            verdicts: Verdict::ALL.map(|v| families.verdicts.get_or_create_owned(&verdict(v))),
            probes: ProbeResult::ALL.map(|result| families.probes.get_or_create_owned(&probe(result))),
            in_doubt: families.in_doubt.get_or_create_owned(&RouteLabels { route: route() }),
            habits: Habits::new(&families.habits, &label),
            untagged: versions::counters(&families.untagged, &label),
            label,
        }
    }

    /// A request has its answer; `None`: its client was gone before that.
    pub fn answered(&self, method: &Method, status: Option<StatusCode>) {
        let method = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(OTHER_METHOD);
        let status = status.map(|status| status.as_u16());
        let counter = || {
            let labels =
                RequestLabels { route: Arc::clone(&self.label), method: METHODS[method], status: Status(status) };
            self.requests.get_or_create_owned(&labels)
        };
        match status.and_then(|status| STATUSES.iter().position(|common| *common == status)) {
            Some(at) => self.at_hand[method][at].get_or_init(counter).inc(),
            None => counter().inc(),
        };
    }

    /// An answer is through, or given up, so long after its request came.
    pub fn ended(&self, after: Duration) {
        self.duration.observe(after.as_secs_f64());
    }

    /// Something was decided about a write.
    pub fn decided(&self, verdict: Verdict) {
        self.verdicts[verdict as usize].inc();
    }

    /// The backend was asked for a tag.
    pub fn probed(&self, result: ProbeResult) {
        self.probes[result as usize].inc();
    }

    /// A write was sent, and nobody knows what became of it.
    pub fn in_doubt(&self) {
        self.in_doubt.inc();
    }

    /// Its name in labels: its host and path, as the file has them.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// A read has no tag.
    pub fn untagged(&self, why: Untagged) {
        self.untagged[why as usize].inc();
    }

    fn verdict_count(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict as usize].get()
    }
}

/// The counters of one upstream.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    requests: Counter,
    errors: Family<ErrorLabels, Counter>,
    response: Histogram,
}

impl Upstream {
    fn new(families: &Families, name: &str) -> Self {
        let name: Arc<str> = name.into();
        let labels = UpstreamLabels { upstream: Arc::clone(&name) };
        Self {
            requests: families.upstream_requests.get_or_create_owned(&labels),
            response: families.upstream_responses.get_or_create_owned(&labels),
            errors: families.upstream_errors.clone(),
            name,
        }
    }

    /// A request is sent.
    pub fn asked(&self) {
        self.requests.inc();
    }

    /// The head of its answer came, after so long.
    pub fn answered(&self, after: Duration) {
        self.response.observe(after.as_secs_f64());
    }

    /// There is no answer. `kind` is one of a list.
    pub fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorLabels { upstream: Arc::clone(&self.name), kind }).inc();
    }
}

fn reload(is_applied: bool) -> ReloadLabels {
    ReloadLabels { result: if is_applied { "applied" } else { "refused" } }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Refusal> for Verdict {
    fn from(why: Refusal) -> Self {
        match why {
            Refusal::Stale => Self::Stale,
            Refusal::Exists => Self::Exists,
            Refusal::Unverifiable => Self::Unverifiable,
            Refusal::MissingPrecondition => Self::MissingPrecondition,
        }
    }
}
