//! What is noted of one request on its way: for the counters, and for its line in the access log.
//!
//! Nothing is decided here, and nobody waits. The line is written when the answer's body has ended or was dropped, or when
//! the client is gone before there was an answer; what happens to a write after that is counted, but is in no line.

use std::{
    borrow::Cow,
    fmt,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderName, Method, StatusCode, Uri, Version,
    header::{HOST, IF_MATCH, USER_AGENT},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::{
    answer::{Failure, Repeat},
    body::{Answer, Broken, FromClient},
    client::Client,
    forward::Received,
    probe::Said,
};
use crate::{
    clock,
    config::{Config, Origin},
    core::{
        fields::Fields,
        message::{Response, request::Parts},
        record::{Probed, State, View},
        value::FieldValue,
    },
    telemetry::{
        Telemetry,
        access::{self, Line, Lines, Outside, Seconds},
        metrics::{self, Metrics, ProbeResult, Untagged, Verdict},
        trace::{Trace, TraceId},
    },
    upstream::SendError,
};

/// More of a value than a line tells need not be kept.
const KEPT: usize = 300;

/// The counters that a configuration's routes and upstreams use, at hand.
#[derive(Debug)]
pub(super) struct Instruments {
    metrics: Arc<Metrics>,
    routes: Vec<Arc<metrics::Route>>,
    /// For requests that take no route.
    no_route: Arc<metrics::Route>,
    upstreams: Vec<Arc<metrics::Upstream>>,
    /// The access log, if there is one.
    lines: Option<Lines>,
}

impl Instruments {
    pub(super) fn new(config: &Config, telemetry: &Telemetry) -> Self {
        let metrics = Arc::clone(&telemetry.metrics);
        Self {
            routes: config.routes.iter().map(|route| metrics.route(Some(route))).collect(),
            no_route: metrics.route(None),
            upstreams: config.upstreams.iter().map(|upstream| metrics.upstream(upstream)).collect(),
            lines: telemetry.access_log(&config.log),
            metrics,
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// One request, as it is seen from outside.
pub(super) struct Seen {
    instruments: Arc<Instruments>,
    client: Arc<Client>,
    began: Instant,
    method: Method,
    trace: Trace,
    /// The place of the route that it takes, or [`NO_ROUTE`].
    route: AtomicUsize,
    /// Whether it is in the report already: it may be routed anew.
    counted: AtomicBool,
    /// Bytes of its body that have come.
    received: AtomicU64,
    /// `None`: nobody wants a line.
    line: Option<Box<Noted>>,
}

const NO_ROUTE: usize = usize::MAX;

/// What only a line tells.
struct Noted {
    lines: Lines,
    time: SystemTime,
    version: Version,
    uri: Uri,
    host: Option<FieldValue>,
    if_match: Option<Vec<u8>>,
    agent: Option<FieldValue>,
    later: Mutex<Later>,
}

/// What turns out on the way.
#[derive(Default)]
struct Later {
    client: Option<IpAddr>,
    upstream: Option<String>,
    server: Option<String>,
    verdict: Option<Verdict>,
    problem: Option<&'static str>,
    known: Option<Vec<u8>>,
    waited: Option<Duration>,
    upstream_time: Option<Duration>,
}

impl Seen {
    /// A request comes from this client.
    pub(super) fn new(instruments: &Arc<Instruments>, client: Arc<Client>, head: &Parts) -> Arc<Self> {
        let fields = &head.headers;
        let noted = |lines: &Lines| Noted {
            lines: lines.clone(),
            time: SystemTime::now(),
            version: head.version,
            uri: head.uri.clone(),
            host: fields.get(HOST).map(FieldValue::from),
            if_match: joined(fields, &IF_MATCH),
            agent: fields.get(USER_AGENT).map(FieldValue::from),
            later: Mutex::default(),
        };
        Arc::new(Self {
            instruments: Arc::clone(instruments),
            client,
            began: clock::now(),
            method: head.method.clone(),
            trace: Trace::of(fields),
            route: AtomicUsize::new(NO_ROUTE),
            counted: AtomicBool::new(false),
            received: AtomicU64::new(0),
            line: instruments.lines.as_ref().map(|lines| Box::new(noted(lines))),
        })
    }

    /// Whose it is.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The trace that it belongs to.
    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The id of that.
    pub(super) fn trace_id(&self) -> TraceId<'_> {
        self.trace.id()
    }

    /// It takes this route, and comes from this client.
    pub(super) fn routed(&self, config: &Config, route: usize, client: IpAddr) {
        // A request that is routed anew, under another configuration, counts for the route that it took first.
        if self.route.load(Ordering::Relaxed) == NO_ROUTE {
            self.route.store(route, Ordering::Relaxed);
        }
        let upstream = &config.upstreams[config.routes[route].upstream].name;
        self.note(|later| (later.client, later.upstream) = (Some(client), Some(upstream.clone())));
    }

    /// The counters of the route that it takes.
    pub(super) fn route(&self) -> &metrics::Route {
        self.instruments.routes.get(self.route.load(Ordering::Relaxed)).unwrap_or(&self.instruments.no_route)
    }

    /// The name that its route is counted by.
    pub(super) fn route_label(&self) -> &Arc<str> {
        self.route().label()
    }

    /// Whether it is counted by its client for the first time.
    pub(super) fn is_counted_first(&self) -> bool {
        !self.counted.swap(true, Ordering::Relaxed)
    }

    /// Something was decided about it.
    pub(super) fn verdict(&self, verdict: Verdict) {
        self.route().decided(verdict);
        self.note(|later| later.verdict = Some(verdict));
    }

    /// It gets an answer of the gateway's own.
    pub(super) fn failed(&self, failure: &Failure) {
        tracing::debug!(trace = %self.trace_id(), ?failure, "refused");
        if let Some(verdict) = verdict(failure) {
            self.verdict(verdict);
        }
        let is_passed_on = matches!(failure, Failure::Relayed(_));
        self.note(|later| later.problem = (!is_passed_on).then(|| failure.kind()));
    }

    /// It is judged by what is known.
    pub(super) fn known(&self, view: View<'_>) {
        self.note(|later| later.known = Some(in_words(view.state)));
    }

    /// It stood in line for so long, perhaps not for the first time.
    pub(super) fn waited(&self, time: Duration) {
        self.note(|later| later.waited = Some(later.waited.unwrap_or_default() + time));
    }

    /// The backend was asked for a tag.
    pub(super) fn probed(&self, said: &Result<Said, Failure>) {
        self.route().probed(match said {
            Ok(Said::Shown(Probed::Tag(_), _)) => ProbeResult::Tag,
            Ok(Said::Shown(Probed::Absent, _)) => ProbeResult::Absent,
            Ok(Said::Shown(Probed::Untagged, _)) => ProbeResult::Untagged,
            Ok(Said::Nothing) => ProbeResult::Unknown,
            Err(Failure::Relayed(_)) => ProbeResult::Denied,
            Err(_) => ProbeResult::Failed,
        });
    }

    /// It is a read that gets no tag.
    pub(super) fn untagged(&self, why: Untagged) {
        self.route().untagged(why);
    }

    /// How long it has been under way.
    pub(super) fn elapsed(&self) -> Duration {
        clock::since(self.began)
    }

    /// It is a write that was sent, and nobody knows what became of it.
    pub(super) fn in_doubt(&self) {
        self.route().in_doubt();
    }

    /// A request is sent to an upstream for it.
    pub(super) fn asks<'a>(&'a self, instruments: &'a Instruments, upstream: usize) -> Asked<'a> {
        let counters = &instruments.upstreams[upstream];
        counters.asked();
        Asked { seen: self, counters, began: clock::now() }
    }

    /// This came of its body.
    fn counts(&self, frame: &Option<Result<Frame<Bytes>, Broken>>) {
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            self.received.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
    }

    fn note(&self, f: impl FnOnce(&mut Later)) {
        if let Some(noted) = &self.line {
            f(&mut noted.later.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// It is over.
    fn ended(&self, status: Option<StatusCode>, sent: u64, aborted: Option<&'static str>) {
        // What was computed belongs to it: of a refusal it may be all.
        let after = clock::exactly().saturating_duration_since(self.began);
        let received = self.received.load(Ordering::Relaxed);
        self.route().ended(after);
        self.instruments.metrics.bodies(received, sent);
        let Some(noted) = &self.line else { return };
        let later = noted.later.lock().unwrap_or_else(PoisonError::into_inner);
        let authority = noted.uri.authority().map(|authority| authority.as_str().as_bytes());
        let target = noted.uri.path_and_query().map_or("", |target| target.as_str());
        noted.lines.write(&Line {
            time: access::Time(noted.time),
            client: later.client.unwrap_or(self.client.ip),
            method: Outside(self.method.as_str().as_bytes()),
            host: authority.or(noted.host.as_ref().map(FieldValue::as_bytes)).map(Outside),
            target: access::Target(Outside(target.as_bytes())),
            protocol: protocol(noted.version),
            status: status.map(|status| status.as_u16()),
            verdict: later.verdict,
            problem: later.problem,
            if_match: noted.if_match.as_deref().map(Outside),
            known: later.known.as_deref().map(Outside),
            upstream: later.upstream.as_deref(),
            server: later.server.as_deref(),
            duration: Seconds(after),
            waited: later.waited.map(Seconds),
            upstream_time: later.upstream_time.map(Seconds),
            received,
            sent,
            trace: self.trace_id().as_str(),
            agent: noted.agent.as_ref().map(|agent| Outside(agent.as_bytes())),
            aborted,
        });
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").field("trace", &self.trace_id()).finish_non_exhaustive()
    }
}

/// A request to an upstream that is under way.
pub(super) struct Asked<'a> {
    seen: &'a Seen,
    counters: &'a metrics::Upstream,
    began: Instant,
}

impl Asked<'_> {
    /// This came of it, by this server.
    pub(super) fn ended(self, answer: &Result<Received, SendError>, server: Option<&Origin>) {
        self.seen.note(|later| later.server = server.map(|server| server.authority.to_string()));
        match answer {
            Ok(_) => {
                let after = clock::since(self.began);
                self.counters.answered(after);
                self.seen.note(|later| later.upstream_time = Some(after));
            }
            Err(error) => self.counters.failed(error.fault.kind()),
        }
    }
}

fn verdict(failure: &Failure) -> Option<Verdict> {
    match failure {
        Failure::Refused(refused) | Failure::Represented(_, refused) => Some(refused.why.into()),
        Failure::Busy(_) => Some(Verdict::Busy),
        Failure::Malformed(_) => Some(Verdict::Malformed),
        Failure::Repeat(repeat) => Some(match repeat {
            Repeat::Duplicate { .. } | Repeat::DuplicateInDoubt { .. } => Verdict::Duplicate,
            Repeat::Running => Verdict::Busy,
            Repeat::LookupFailed(_) => Verdict::Unverifiable,
            Repeat::MalformedKey(_) | Repeat::Unexaminable(_) => Verdict::Malformed,
            Repeat::OtherPayload | Repeat::InDoubt | Repeat::NotKept { .. } => Verdict::KeyUsed,
        }),
        Failure::Upstream(..)
        | Failure::Lost
        | Failure::Target(_)
        | Failure::TargetLength(_)
        | Failure::RequestTimeout(_)
        | Failure::OtherVersion(_)
        | Failure::Host
        | Failure::Expectation
        | Failure::Method
        | Failure::TransferCoding
        | Failure::Length
        | Failure::MethodOverride
        | Failure::Body(_)
        | Failure::NoRoute
        | Failure::Relayed(_) => None,
    }
}

fn in_words(state: &State) -> Vec<u8> {
    match state {
        State::Unknown => b"unknown".to_vec(),
        State::Absent => b"absent".to_vec(),
        State::Current(set) => list(set.iter().map(|known| Cow::Owned(known.tag.to_bytes()))).unwrap_or_default(),
    }
}

fn joined(fields: &Fields, name: &HeaderName) -> Option<Vec<u8>> {
    list(fields.get_all(name).map(|value| Cow::Borrowed(value.as_bytes())))
}

/// `a, b`, as far as it is told.
fn list<'a>(values: impl Iterator<Item = Cow<'a, [u8]>>) -> Option<Vec<u8>> {
    let mut all: Option<Vec<u8>> = None;
    for value in values {
        let all = match &mut all {
            Some(all) => {
                all.extend_from_slice(b", ");
                all
            }
            None => all.insert(Vec::new()),
        };
        all.extend_from_slice(&value[..value.len().min(KEPT)]);
        if all.len() > KEPT {
            break;
        }
    }
    all
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// The body of a request, whose bytes are counted as they come.
pub(super) struct Incoming {
    body: FromClient,
    seen: Arc<Seen>,
}

impl Incoming {
    pub(super) fn new(body: FromClient, seen: &Arc<Seen>) -> Self {
        Self { body, seen: Arc::clone(seen) }
    }

    /// Whose it is.
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.seen.client)
    }

    /// What comes next, unless nothing more comes from the client: then `None`. By the time that its end is seen, everything
    /// that came before it has been handed on, so that a frame that is there is found first.
    pub(super) async fn next(&mut self) -> Option<Option<Result<Frame<Bytes>, Broken>>> {
        let Self { body, seen } = self;
        tokio::select! {
            biased;
            frame = body.frame() => {
                seen.counts(&frame);
                Some(frame)
            }
            () = seen.client.gone() => None,
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.body.fmt(f)
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.seen.counts(&frame);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request until its end, however that comes.
pub(super) struct UntilEnded {
    seen: Arc<Seen>,
    /// `None` until there is an answer.
    status: Option<StatusCode>,
    sent: u64,
    aborted: Option<&'static str>,
}

impl UntilEnded {
    pub(super) fn new(seen: &Arc<Seen>) -> Self {
        Self { seen: Arc::clone(seen), status: None, sent: 0, aborted: Some("client") }
    }

    /// What a client sent could not be read as a request. It has been told so.
    pub(super) fn unread(instruments: &Arc<Instruments>, client: &Arc<Client>, status: StatusCode) {
        let method = Method::from_bytes(b"-").expect("a dash is a token");
        let head = Parts { method, uri: Uri::from_static("*"), ..Parts::default() };
        let seen = Seen::new(instruments, Arc::clone(client), &head);
        seen.route().answered(&seen.method, Some(status));
        let mut until_ended = Self::new(&seen);
        (until_ended.status, until_ended.aborted) = (Some(status), None);
    }

    pub(super) fn client(&self) -> &Client {
        self.seen.client()
    }

    /// There is an answer, which is on its way from here on.
    pub(super) fn deliver(mut self, response: Response<Answer>) -> Response<Delivery> {
        let status = response.status();
        self.status = Some(status);
        self.seen.route().answered(&self.seen.method, Some(status));
        // hyper does not ask for the body of an answer that has none.
        let bodiless = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || self.seen.method == Method::HEAD;
        if bodiless || response.body().is_end_stream() {
            self.aborted = None;
        }
        response.map(|answer| Delivery { answer, until_ended: self })
    }
}

impl Drop for UntilEnded {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.seen.route().answered(&self.seen.method, None);
        }
        self.seen.ended(self.status, self.sent, self.aborted);
    }
}

/// An answer's body on its way to the client.
pub struct Delivery {
    answer: Answer,
    until_ended: UntilEnded,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.answer.fmt(f)
    }
}

impl Body for Delivery {
    type Data = Bytes;
    type Error = <Answer as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.answer).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.until_ended.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => self.until_ended.aborted = Some("upstream"),
            None => self.until_ended.aborted = None,
        }
        if matches!(frame, Some(Ok(_))) && self.answer.is_end_stream() {
            self.until_ended.aborted = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
