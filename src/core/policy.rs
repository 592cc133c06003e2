//! A route's rules: what the operator chose, in checked types.
//!
//! The defaults are those of the file format. A policy is read once from the configuration and never changes while a
//! request is under way.

use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use super::{browsers::Browsers, profile::Service, repeats::Repeats, rollout::Rollout, version::Versions};

/// What a route's guard does with a write, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether verdicts are carried out, only reported, or not made.
    pub mode: Mode,
    /// The methods that are guarded even where no precondition is sent.
    pub methods: Vec<Method>,
    /// What becomes of a guarded write without a precondition.
    pub missing: Missing,
    /// The status of a refusal for a conflict: 409 or 412.
    pub conflict_status: StatusCode,
    /// How the tags of `If-Match` are compared.
    pub comparison: Comparison,
    /// Whether a tag that a compressing intermediary marked counts as the tag without the mark.
    pub encoding_suffixes: bool,
    /// When the backend is asked for the current tag.
    pub verify: Verify,
    /// How long knowledge is trusted; `None`: until a write or an eviction ends it.
    pub max_age: Option<Duration>,
    /// Which part of the query names the resource.
    pub query: QueryRule,
    /// Request fields whose values are part of the resource's name.
    pub partition: Vec<HeaderName>,
    /// What a method override on a POST means.
    pub method_override: MethodOverride,
    /// Whether the preconditions travel on to the backend.
    pub forward_preconditions: bool,
    /// How long a writer waits in line for a turn.
    pub wait: Duration,
    /// How many writers may wait in line for one resource.
    pub line: usize,
    /// How long a turn is held after a write whose outcome is in doubt.
    pub settle: Duration,
    /// Bodies of at most so many bytes are read whole before the turn is taken.
    pub buffer: usize,
    /// The bytes of a request's body; `None`: as many as there are.
    pub max_body: Option<u64>,
    /// How long a client may pause within a body.
    pub body_idle_timeout: Duration,
    /// How many bytes a second of a body must come on average, once `body_idle_timeout` is over; zero: any.
    pub body_rate: u64,
    /// How much of a refused request's body is read and dropped before the answer, in bytes.
    pub drain_bytes: u64,
    /// How long a refused request's body is read and dropped.
    pub drain_time: Duration,
    /// How long the rest of a body that nobody takes any more is read at most, beside an answer that is on its way.
    pub linger_time: Duration,
    /// What becomes of requests that come again.
    pub repeats: Repeats,
    /// Who is not asked for a precondition, and what is counted by client.
    pub rollout: Rollout,
    /// What is done for pages in browsers.
    pub browsers: Browsers,
    /// What is particular to the service.
    pub service: Service,
    /// Where a resource's version comes from.
    pub versions: Versions,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            methods: vec![Method::PUT, Method::PATCH, Method::DELETE],
            missing: Missing::Allow,
            conflict_status: StatusCode::CONFLICT,
            comparison: Comparison::Strong,
            encoding_suffixes: true,
            verify: Verify::Unknown,
            max_age: None,
            query: QueryRule::Include,
            partition: Vec::new(),
            method_override: MethodOverride::Honour,
            forward_preconditions: true,
            wait: Duration::from_secs(10),
            line: 128,
            settle: Duration::from_secs(5),
            buffer: 64 * 1024,
            max_body: None,
            body_idle_timeout: Duration::from_secs(30),
            body_rate: 1024,
            drain_bytes: 1024 * 1024,
            drain_time: Duration::from_secs(5),
            linger_time: Duration::from_secs(600),
            repeats: Repeats::default(),
            rollout: Rollout::default(),
            browsers: Browsers::default(),
            service: Service::default(),
            versions: Versions::default(),
        }
    }
}

/// What a route does with its verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A refused write does not reach the backend.
    Enforce,
    /// Every write is forwarded at once; what would have been refused is logged and counted.
    Observe,
    /// The same, and the client is told of it.
    Warn,
    /// Nothing is judged and nothing is learned.
    Off,
}

/// What becomes of a guarded write that carries no precondition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is forwarded, in turn.
    Allow,
    /// The same; the client is told of it, and it is counted.
    Warn,
    /// It is refused with 428 (RFC 6585 §3).
    Require,
}

/// How the tags of `If-Match` are compared (RFC 9110 §8.8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Both must be strong and equal to the byte, as RFC 9110 §13.1.1 asks.
    Strong,
    /// The opaque parts must be equal; for backends that send only weak tags.
    Weak,
}

/// When the backend is asked for the current tag before a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Never; what is not known is refused.
    Never,
    /// Where nothing is known.
    Unknown,
    /// Also where what is known does not match, unless the tag is known to be superseded.
    Mismatch,
    /// Before every conditional write.
    Always,
}

/// Which part of the query names the resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryRule {
    /// All of it.
    Include,
    /// None of it.
    Ignore,
    /// The parameters with these names (percent-decoded), in any order.
    Only(Vec<String>),
}

/// What a method override on a POST means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodOverride {
    /// The method it names decides whether the write is guarded.
    Honour,
    /// Such a request is refused with 400.
    Refuse,
}
