//! The path of one request, top to bottom.
//!
//! [`Gateway::handle`] is the outer function: it always gives an answer, and sees to it that a refusal arrives. The inner
//! one reads like a list of steps: what the request is about (`Exchange::new`), then a read (`forward::read`) or a
//! write (`write::write`). Only `write` holds a turn; only `answer` builds a response that the backend did not send.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, request::Parts};

use crate::{
    config::{Config, HostRule},
    core::{
        policy::Policy,
        resource::{Key, Namer, Target},
    },
    telemetry::{Telemetry, metrics::Connected},
    tracker::Tracker,
    upstream::{self, Progress, SendError},
};

mod answer;
mod body;
mod client;
mod forward;
mod headers;
mod probe;
mod route;
mod seen;
mod write;

pub use answer::Failure;
pub use body::Answer;
pub use client::Client;
pub use seen::Delivery;

use seen::{Instruments, Seen, UntilEnded};

type Upstream = upstream::Upstream<body::Outgoing>;

/// What a worker needs to answer requests. The tracker and what is counted are shared between workers, the connections to
/// the backends are its own.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<Config>,
    tracker: Arc<Tracker>,
    namer: Namer,
    upstreams: Vec<Arc<Upstream>>,
    instruments: Arc<Instruments>,
    /// Held by each write that is being sent, whether or not its client is still there.
    writes: Arc<()>,
}

/// One request and what it is about.
struct Exchange {
    gateway: Arc<Gateway>,
    client: Arc<Client>,
    head: Parts,
    target: Target,
    /// The host that the client asked, as it wrote it.
    asked: HeaderValue,
    /// The `Host` that the backend gets.
    host: HeaderValue,
    /// The route's place in the configuration.
    route: usize,
    /// Which resource it is about.
    key: Key,
    /// Whose credentials it carries, as a hash.
    caller: u64,
    /// What is noted of it.
    seen: Arc<Seen>,
}

impl Gateway {
    /// A gateway for one worker.
    #[must_use]
    pub fn new(config: Arc<Config>, tracker: Arc<Tracker>, namer: Namer, telemetry: &Telemetry) -> Arc<Self> {
        let upstreams = config.upstreams.iter().cloned().map(Upstream::new).collect();
        let instruments = Arc::new(Instruments::new(&config, telemetry));
        Arc::new(Self { config, tracker, namer, upstreams, instruments, writes: Arc::default() })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Answers a request.
    ///
    /// # Cancel safety
    ///
    /// Dropped, a read is given up, and so is a write that is not being sent yet. A write that is being sent goes on in a
    /// task of its own.
    pub fn handle(
        self: Arc<Self>,
        client: Arc<Client>,
        request: Request<hyper::body::Incoming>,
    ) -> impl Future<Output = Response<Delivery>> {
        // Before the future is first polled: the end of the client's connection may be seen before that.
        let until_answered = client.begin_exchange();
        let seen = Seen::new(&self.instruments, client.ip, &request);
        let until_ended = UntilEnded::new(&seen);
        async move {
            let response = self.answer(client, request, seen).await;
            until_ended.deliver(response.map(|body| body.until_answered(until_answered)))
        }
    }

    async fn answer(
        self: Arc<Self>,
        client: Arc<Client>,
        request: Request<hyper::body::Incoming>,
        seen: Arc<Seen>,
    ) -> Response<Answer> {
        let (head, body) = request.into_parts();
        let body = seen::Incoming::new(body, &seen);
        let about = answer::About::new(&head);
        let mut body = body::Inbound::new(body, &head, &client);
        let exchange = match Exchange::new(&self, client, head, &seen) {
            Ok(exchange) => Arc::new(exchange),
            Err(failure) => return self.refuse(&seen, &about, failure, body, &Policy::default()).await,
        };
        let answer = if exchange.head.method.is_safe() {
            forward::read(&exchange, &mut body).await
        } else {
            write::write(&exchange, &mut body).await
        };
        match answer {
            Ok(response) => response,
            Err(failure) => self.refuse(&seen, &about, failure, body, exchange.policy()).await,
        }
    }

    /// Answers with a refusal that arrives: what the client still sends is read first, and the connection closes where
    /// that is too much.
    async fn refuse(
        &self,
        seen: &Seen,
        about: &answer::About,
        failure: Failure,
        body: body::Inbound,
        limits: &Policy,
    ) -> Response<Answer> {
        seen.failed(&failure);
        let rest = body.drain(limits.drain_bytes, limits.drain_time).await;
        let closes = rest.is_some() || failure.ends_connection();
        if let Some(rest) = rest {
            tokio::spawn(body::linger(rest, limits.drain_time));
        }
        answer::build(about, failure, closes)
    }

    /// How many writes are being sent. A stop waits for them.
    #[must_use]
    pub fn writes_under_way(&self) -> usize {
        Arc::strong_count(&self.writes) - 1
    }

    /// The key of a resource that `route` leads to, for a request with these fields.
    fn key(&self, fields: &HeaderMap, host: &HeaderValue, target: &Target, route: usize) -> Key {
        let route = &self.config.routes[route];
        let upstream = &self.config.upstreams[route.upstream].name;
        let host = host.to_str().unwrap_or_default();
        self.namer.key(upstream, host, target, &route.policy.query, &route.policy.partition, fields)
    }

    /// The resource that a request for this target with these fields would be about: its route, and its key.
    #[must_use]
    pub fn resource(&self, asked: &HeaderValue, target: &Target, fields: &HeaderMap) -> Option<(usize, Key)> {
        let route = route::find(&self.config.routes, asked, target)?;
        Some((route, self.key(fields, &self.forwarded_host(route, asked), target, route)))
    }

    /// A client has connected. What is returned lives as long as its connection.
    #[must_use]
    pub fn connection_begins(&self) -> Connected {
        self.instruments.metrics().connection()
    }

    /// The `Host` that the backend gets of a request that asked for this one.
    fn forwarded_host(&self, route: usize, asked: &HeaderValue) -> HeaderValue {
        let upstream = &self.config.upstreams[self.config.routes[route].upstream];
        match (upstream.host, asked.is_empty()) {
            (HostRule::Preserve, false) => asked.clone(),
            (HostRule::Preserve, true) | (HostRule::Rewrite, _) => {
                HeaderValue::from_str(upstream.servers[0].authority.as_str())
                    .expect("an authority may stand in a field")
            }
        }
    }

    fn write_begins(&self) -> Arc<()> {
        Arc::clone(&self.writes)
    }

    /// Closes connections to backends that have been idle for too long.
    pub fn close_expired(&self) {
        for upstream in &self.upstreams {
            upstream.close_expired();
        }
    }
}

impl Exchange {
    fn new(gateway: &Arc<Gateway>, client: Arc<Client>, head: Parts, seen: &Arc<Seen>) -> Result<Self, Failure> {
        if head.method == Method::CONNECT {
            return Err(Failure::Method);
        }
        answer::check_expectation(&head)?;
        route::check_framing(&head)?;
        let asked = route::asked_host(&head)?;
        let target = route::target(&head)?;
        let route = route::find(&gateway.config.routes, &asked, &target).ok_or(Failure::NoRoute)?;
        seen.routed(&gateway.config, route, client.ip);
        let host = gateway.forwarded_host(route, &asked);
        let key = gateway.key(&head.headers, &host, &target, route);
        let caller = gateway.namer.caller(&head.headers);
        let seen = Arc::clone(seen);
        Ok(Self { gateway: Arc::clone(gateway), client, head, target, asked, host, route, key, caller, seen })
    }

    fn policy(&self) -> &Policy {
        &self.gateway.config.routes[self.route].policy
    }

    /// Sends a request to the route's upstream.
    async fn send(
        &self,
        request: Request<body::Outgoing>,
        progress: &Progress,
    ) -> Result<forward::Received, SendError> {
        let asked = self.seen.asks(self.gateway.config.routes[self.route].upstream);
        let answer = self.upstream().send(request, progress).await;
        asked.ended(&answer);
        answer
    }

    fn upstream(&self) -> &Upstream {
        &self.gateway.upstreams[self.gateway.config.routes[self.route].upstream]
    }
}
