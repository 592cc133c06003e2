//! The path of one request, top to bottom.
//!
//! [`Gateway::handle`] is the outer function: it always gives an answer, and sees to it that a refusal arrives. The inner
//! one reads like a list of steps: what the request is about (`Exchange::new`), then a read (`forward::read`) or a
//! write (`write::write`). Only `write` holds a turn; only `answer` builds a response that the backend did not send.

use std::{
    cmp,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;

use crate::{
    clock,
    config::{Config, HostRule},
    core::{
        fields::Fields,
        message::{Request, Response, request::Parts},
        policy::Policy,
        record::Stamp,
        resource::{Key, Namer, Target},
        value::FieldValue,
    },
    memory::{Memory, Origins},
    telemetry::{Telemetry, metrics::Connected, report::Report},
    tracker::{
        Busy, Tracker, Watcher,
        gate::{Gate, Pass, Since},
    },
    upstream::{Fleet, Progress, SendError, Upstream},
};

mod answer;
mod body;
mod boxed;
mod browsers;
mod client;
mod dav;
mod forward;
mod forwarded;
mod habits;
mod headers;
mod idempotency;
mod informational;
mod names;
mod probe;
mod related;
mod repeats;
mod replay;
mod route;
mod seen;
mod trailers;
mod tunnel;
mod unique;
mod versions;
mod write;

use answer::Sent;
use boxed::boxed;

pub use answer::{Failure, Repeat, Unexaminable};
pub use body::{Answer, Broken, FromClient};
pub use client::Client;
pub use informational::Early;
pub use seen::Delivery;
pub use tunnel::{Upgrade, Upgraded};

use informational::Preceding;
use names::Names;
use seen::{Instruments, Seen, UntilEnded};
use trailers::Trailers;
use tunnel::Wish;

/// What all workers share, whatever configuration they serve under.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The records of all resources.
    pub tracker: Arc<Tracker>,
    /// What is remembered of requests that may come again.
    pub memory: Arc<Memory>,
    /// What backends have said to pages of other origins.
    pub origins: Arc<Origins>,
    /// What gives them their names.
    pub namer: Namer,
    /// What is counted, and the access log.
    pub telemetry: Arc<Telemetry>,
    /// What all writes go through.
    pub gate: Arc<Gate>,
    /// How many writes are being sent, whether or not their clients are still there.
    writes: Arc<AtomicUsize>,
    /// How many tunnels are open.
    tunnels: Arc<AtomicUsize>,
}

/// One of what a stop waits for.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn among(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(all))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a worker needs to answer requests under one configuration. The connections to the backends are its own.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<Config>,
    tracker: Arc<Tracker>,
    namer: Namer,
    upstreams: Vec<Arc<Upstream>>,
    instruments: Arc<Instruments>,
    shared: Shared,
    names: Names,
    /// What the same worker serves with under the newest configuration. All that it ever serves with share this: if each
    /// held the next, one request that never ends would hold them all.
    newest: Arc<Mutex<Weak<Self>>>,
}

/// One request and what it is about.
struct Exchange {
    gateway: Arc<Gateway>,
    head: Box<Parts>,
    /// What it would go on with instead of HTTP.
    wish: Option<Wish>,
    /// The way back for what precedes its answer.
    preceding: Option<Preceding>,
    target: Target,
    /// The host that the client asked, as it wrote it.
    asked: FieldValue,
    /// The `Host` that the backend gets.
    host: FieldValue,
    /// The route's place in the configuration.
    route: usize,
    /// Which resource it is about.
    key: Key,
    /// Whose credentials it carries, as a hash.
    caller: u64,
    /// Where it comes from: the client's address, behind trusted proxies, for logs and limits.
    origin: forwarded::Origin,
    /// Whether it is a write that now goes on by itself, with or without its client.
    goes_on: AtomicBool,
    /// What is noted of it.
    seen: Arc<Seen>,
}

/// The first names of resources, before anything is served.
#[derive(Debug)]
pub struct FirstNames(Names);

impl FirstNames {
    /// Names under which what is learned may be recorded from the beginning.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self(Names::new(config))
    }

    /// Another process may be writing: the gate closes, and nothing is recorded until it opens.
    pub fn suspend(&mut self, gate: &Gate) {
        gate.share(self.0.suspend());
    }
}

/// How the names of resources change with a configuration.
#[derive(Debug)]
pub struct Succession {
    /// Whether some do, so that writes must wait for those under the old names.
    renames: bool,
    names: Names,
    fresh: Vec<Since>,
}

impl Succession {
    /// Closes the gate if need be. To be called after every worker's gateway has its successor, and before the first
    /// request goes there.
    pub fn begin(self, gate: &Gate) {
        if self.renames {
            gate.rename(self.fresh);
        }
    }
}

impl Shared {
    /// What the workers of a new process share.
    #[must_use]
    pub fn new(tracker: Tracker, memory: Arc<Memory>, namer: Namer, report: Report) -> Self {
        let telemetry = Arc::new(Telemetry::with(report));
        let watcher: Arc<dyn Watcher> = telemetry.metrics.clone();
        let tracker = Arc::new(tracker.watched_by(watcher));
        let gate = Gate::new(Arc::clone(&tracker));
        let (origins, writes, tunnels) = (Arc::default(), Arc::default(), Arc::default());
        Self { tracker, memory, origins, namer, telemetry, gate, writes, tunnels }
    }

    /// How many writes are being sent, under whatever configuration they began. A stop waits for them.
    #[must_use]
    pub fn writes_under_way(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// How many tunnels are open. A stop waits for them, too.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::SeqCst)
    }
}

impl Gateway {
    /// A gateway for one worker, under the process's first configuration. There is a fleet for each upstream of it, in its
    /// order.
    #[must_use]
    pub fn new(config: Arc<Config>, fleets: &[Arc<Fleet>], shared: Shared, first: &FirstNames) -> Arc<Self> {
        let upstreams = fleets.iter().cloned().map(Upstream::new).collect();
        Arc::new(Self::with(config, shared, upstreams, first.0.clone(), Arc::default()))
    }

    /// A gateway for the same worker under the configuration `new`. It keeps the connections to upstreams whose fleet is
    /// the same as before.
    #[must_use]
    pub fn succeed(&self, new: Arc<Config>, fleets: &[Arc<Fleet>], succession: &Succession) -> Arc<Self> {
        let upstreams = fleets.iter().map(|fleet| {
            let same = self.upstreams.iter().find(|upstream| Arc::ptr_eq(upstream.fleet(), fleet));
            same.map_or_else(|| Upstream::new(Arc::clone(fleet)), Arc::clone)
        });
        let upstreams = upstreams.collect();
        let (shared, names) = (self.shared.clone(), succession.names.clone());
        Arc::new(Self::with(new, shared, upstreams, names, Arc::clone(&self.newest)))
    }

    fn with(
        config: Arc<Config>,
        shared: Shared,
        upstreams: Vec<Arc<Upstream>>,
        names: Names,
        newest: Arc<Mutex<Weak<Self>>>,
    ) -> Self {
        let Shared { tracker, namer, telemetry, .. } = shared.clone();
        let instruments = Arc::new(Instruments::new(&config, &telemetry));
        Self { config, tracker, namer, upstreams, instruments, shared, names, newest }
    }

    /// How the names of resources change with the configuration `new`. The same for all workers.
    #[must_use]
    pub fn succession(&self, new: &Config) -> Succession {
        let (names, fresh) = self.names.succeed(&self.config, new);
        Succession { renames: names.generation > self.names.generation, names, fresh }
    }

    /// From here on writes that have not begun may begin anew with the successor.
    pub fn be_succeeded_by(&self, successor: &Arc<Self>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(successor);
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Answers a request. What precedes the answer goes to `early`, where there is such a way to the client; HTTP/1.1 has
    /// one by its connection.
    ///
    /// # Cancel safety
    ///
    /// Dropped, a read is given up, and so is a write that is not being sent yet. A write that is being sent goes on in a
    /// task of its own.
    pub fn handle(
        self: Arc<Self>,
        client: Arc<Client>,
        head: Box<Parts>,
        body: FromClient,
        early: Option<Arc<Early>>,
    ) -> impl Future<Output = Response<Delivery>> {
        let seen = Seen::new(&self.instruments, client, &head);
        let until_ended = UntilEnded::new(&seen);
        let offers_switch = tunnel::is_offered(&head);
        // In a box: it would be moved about, and have room kept for it on every connection, idle ones too.
        let answer = boxed(move || self.answer(head, body, early, seen));
        async move {
            let mut response = answer.await;
            until_ended.client().informational.close().await;
            if offers_switch {
                tunnel::close_unless_switched(&mut response);
            }
            until_ended.deliver(response)
        }
    }

    async fn answer(
        self: Arc<Self>,
        mut head: Box<Parts>,
        body: FromClient,
        early: Option<Arc<Early>>,
        mut seen: Arc<Seen>,
    ) -> Response<Answer> {
        let mut body = body::Inbound::new(body, &head, &seen);
        let mut gateway = self;
        loop {
            let subject = match Subject::of(&gateway.config, &mut head) {
                Ok(subject) => subject,
                Err(failure) => {
                    let limits = Policy::default();
                    return boxed(|| gateway.refuse(&seen, &head, failure, &mut body, &limits)).await;
                }
            };
            let exchange = Exchange::new(gateway, head, subject, early.as_ref(), seen);
            let answer = {
                let carried = pin!(carry(&exchange, &mut body));
                match exchange.gateway.config.limits.request_timeout {
                    None => carried.await,
                    Some(limit) => clock::timeout(limit, carried).await.unwrap_or_else(|_| Err(exchange.out_of_time())),
                }
            };
            match answer {
                Ok(response) => return browsers::dress(&exchange, response),
                Err(failure) => {
                    let is_renamed = matches!(failure, Failure::Busy(Busy::Renamed));
                    let newest = if is_renamed { exchange.gateway.newest() } else { None };
                    let Some(newest) = newest else {
                        return boxed(|| exchange.refuse(failure, &mut body)).await;
                    };
                    gateway = newest;
                    (head, seen) = (exchange.head.clone(), Arc::clone(&exchange.seen));
                }
            }
        }
    }

    /// What the same worker serves with now, if it is no longer this.
    fn newest(&self) -> Option<Arc<Self>> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).upgrade()?;
        (!std::ptr::eq(self, Arc::as_ptr(&newest))).then_some(newest)
    }

    /// Leave to begin a write under the names of this configuration.
    async fn enter(&self, route: usize, wait: Duration) -> Result<Pass, Busy> {
        let named = self.names.since(self.config.routes[route].upstream);
        loop {
            let pass = self.shared.gate.enter(named, wait).await?;
            match pass.generation().cmp(&self.names.generation) {
                cmp::Ordering::Equal => return Ok(pass),
                cmp::Ordering::Greater => return Err(Busy::Renamed),
                // Between two steps of a reload, which takes no time.
                cmp::Ordering::Less => tokio::task::yield_now().await,
            }
        }
    }

    /// Leave to begin a write that waits for nobody, under the names of this configuration.
    async fn enter_at_once(&self) -> Result<Pass, Busy> {
        loop {
            let pass = self.shared.gate.enter_at_once();
            match pass.generation().cmp(&self.names.generation) {
                cmp::Ordering::Equal => return Ok(pass),
                cmp::Ordering::Greater => return Err(Busy::Renamed),
                cmp::Ordering::Less => tokio::task::yield_now().await,
            }
        }
    }

    /// Whether there are newer names than those of this configuration.
    fn is_renamed(&self) -> bool {
        self.shared.gate.generation() > self.names.generation
    }

    /// Whether what a read by this route shows may be recorded that began at this moment.
    fn may_record(&self, route: usize, began: Stamp) -> bool {
        self.names.may_record(self.config.routes[route].upstream, began)
    }

    /// Answers with a refusal that arrives: what the client still sends is read first, and the connection closes where
    /// that is too much.
    async fn refuse(
        &self,
        seen: &Seen,
        head: &Parts,
        failure: Failure,
        body: &mut body::Inbound,
        limits: &Policy,
    ) -> Response<Answer> {
        seen.failed(&failure);
        habits::refused(seen, &failure);
        let rest =
            if failure.is_late() { body.take_rest() } else { body.drain(limits.drain_bytes, limits.drain_time).await };
        let closes = rest.is_some() || failure.ends_connection();
        if let Some(rest) = rest {
            tokio::spawn(body::linger(rest, limits.drain_time));
        }
        answer::build(&answer::About::new(head, limits), failure, closes)
    }

    /// The key of a resource that `route` leads to, for a request with these fields.
    fn key(&self, fields: &Fields, host: &FieldValue, target: &Target, route: usize) -> Key {
        let route = &self.config.routes[route];
        let upstream = self.names.scope(route.upstream);
        let host = host.to_str().unwrap_or_default();
        self.namer.key(upstream, host, target, &route.policy.query, &route.policy.partition, fields)
    }

    /// The resource that a request for this target with these fields would be about: its route, and its key.
    #[must_use]
    pub fn resource(&self, asked: &FieldValue, target: &Target, fields: &Fields) -> Option<(usize, Key)> {
        let route = route::find(&self.config.routes, asked, target)?;
        Some((route, self.key(fields, &self.forwarded_host(route, asked), target, route)))
    }

    /// A client has connected. What is returned lives as long as its connection.
    #[must_use]
    pub fn connection_begins(&self) -> Connected {
        self.instruments.metrics().connection()
    }

    /// A client has been told this of what it sent, which could not be read as a request: it counts as one, and is in the
    /// access log, without a method or target.
    pub fn could_not_read(&self, client: &Arc<Client>, status: StatusCode) {
        UntilEnded::unread(&self.instruments, client, status);
    }

    /// The `Host` that the backend gets of a request that asked for this one.
    fn forwarded_host(&self, route: usize, asked: &FieldValue) -> FieldValue {
        let upstream = &self.config.upstreams[self.config.routes[route].upstream];
        match (upstream.host, asked.is_empty()) {
            (HostRule::Preserve, false) => asked.clone(),
            (HostRule::Preserve, true) | (HostRule::Rewrite, _) => {
                FieldValue::try_from(upstream.servers[0].authority.as_str()).expect("an authority may stand in a field")
            }
        }
    }

    fn write_begins(&self) -> UnderWay {
        UnderWay::among(&self.shared.writes)
    }

    fn tunnel_begins(&self) -> UnderWay {
        UnderWay::among(&self.shared.tunnels)
    }

    /// Closes connections to backends that have been idle for too long.
    pub fn close_expired(&self) {
        for upstream in &self.upstreams {
            upstream.close_expired();
        }
    }
}

/// Everything that happens within `request_timeout`. Dropped, it is as if the client had hung up.
async fn carry(exchange: &Arc<Exchange>, body: &mut body::Inbound) -> Result<Response<Answer>, Failure> {
    if !body.is_over() {
        let trailers = Trailers::of(&exchange.head.headers, exchange.head.version, &exchange.policy().partition);
        body.let_through(trailers.without(browsers::tag_header(exchange)));
    }
    body.limit(exchange.policy()).map_err(Failure::Body)?;
    if exchange.is_read() && !write::rollout::may_write(exchange) {
        forward::read(exchange, body).await
    } else {
        // In a box, so that a read has no room for it.
        boxed(|| write::write(exchange, body)).await
    }
}

/// What a request names, once it is found to be one that can be understood.
struct Subject {
    wish: Option<Wish>,
    asked: FieldValue,
    target: Target,
    route: usize,
}

impl Subject {
    fn of(config: &Config, head: &mut Parts) -> Result<Self, Failure> {
        let wish = Wish::of(head)?;
        route::check_target(head, config.limits.request_line)?;
        answer::check_expectation(head)?;
        route::check_framing(head)?;
        let asked = route::asked_host(head)?;
        let target = route::target(head)?;
        let route = route::find(&config.routes, &asked, &target).ok_or(Failure::NoRoute)?;
        Ok(Self { wish, asked, target, route })
    }
}

impl Exchange {
    fn new(
        gateway: Arc<Gateway>,
        head: Box<Parts>,
        subject: Subject,
        early: Option<&Arc<Early>>,
        seen: Arc<Seen>,
    ) -> Arc<Self> {
        let Subject { wish, asked, target, route } = subject;
        let origin = forwarded::origin(&gateway.config.forwarding, seen.client(), &head.headers);
        seen.routed(&gateway.config, route, origin.address);
        let host = gateway.forwarded_host(route, &asked);
        let key = gateway.key(&head.headers, &host, &target, route);
        let caller = gateway.namer.caller(&head.headers);
        let preceding = Preceding::to(seen.client(), head.version, early);
        let goes_on = AtomicBool::new(false);
        Arc::new(Self {
            gateway,
            head,
            wish,
            preceding,
            target,
            asked,
            host,
            route,
            key,
            caller,
            origin,
            goes_on,
            seen,
        })
    }

    async fn refuse(&self, failure: Failure, body: &mut body::Inbound) -> Response<Answer> {
        let voice = browsers::Voice::of(&failure);
        let refusal = self.gateway.refuse(&self.seen, &self.head, failure, body, self.policy()).await;
        browsers::dress_refusal(self, refusal, voice).await
    }

    fn out_of_time(&self) -> Failure {
        Failure::RequestTimeout(match (self.is_read(), self.goes_on.load(Ordering::Relaxed)) {
            (true, _) => Sent::Read,
            (false, true) => Sent::Write,
            (false, false) => Sent::Probe,
        })
    }

    /// Whether it changes nothing (RFC 9110 §9.2.1), by its method alone or because the route says so of it.
    fn is_read(&self) -> bool {
        self.head.method.is_safe() || self.policy().service.safe_methods.contains(&self.head.method)
    }

    fn client(&self) -> &Client {
        self.seen.client()
    }

    fn policy(&self) -> &Policy {
        &self.gateway.config.routes[self.route].policy
    }

    /// Sends a request to the route's upstream.
    async fn send(
        &self,
        request: Box<Request<body::Outgoing>>,
        progress: &Arc<Progress>,
    ) -> Result<forward::Received, SendError> {
        let upstream = self.gateway.config.routes[self.route].upstream;
        let asked = self.seen.asks(&self.gateway.instruments, upstream);
        let answer = self.upstream().send(request, progress).await;
        let server = match &answer {
            Ok(received) => Some(received.body().server().origin()),
            Err(error) => error.server.map(|at| &self.upstream().config().servers[at]),
        };
        asked.ended(&answer, server);
        answer
    }

    fn upstream(&self) -> &Upstream {
        &self.gateway.upstreams[self.gateway.config.routes[self.route].upstream]
    }
}
