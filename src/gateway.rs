//! The path of one request, top to bottom.
//!
//! [`Gateway::handle`] is the outer function: it always gives an answer, and sees to it that a refusal arrives. The inner
//! one reads like a list of steps: what the request is about (`Exchange::new`), then a read (`forward::read`) or a
//! write (`write::write`). Only `write` holds a turn; only `answer` builds a response that the backend did not send.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, request::Parts};
use hyper::body::Incoming;

use crate::{
    config::{Config, HostRule},
    core::{
        policy::Policy,
        resource::{Key, Namer, Target},
    },
    telemetry::Counters,
    tracker::Tracker,
    upstream,
};

mod answer;
mod body;
mod client;
mod forward;
mod headers;
mod informational;
mod probe;
mod route;
mod trailers;
mod tunnel;
mod write;

pub use answer::Failure;
pub use body::Answer;
pub use client::Client;
use informational::Preceding;
use trailers::Trailers;
use tunnel::Wish;

type Upstream = upstream::Upstream<body::Outgoing>;

/// What a worker needs to answer requests. The tracker and the counters are shared between workers, the connections to
/// the backends are its own.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<Config>,
    tracker: Arc<Tracker>,
    namer: Namer,
    upstreams: Vec<Arc<Upstream>>,
    counters: Arc<Counters>,
    /// Held by each write that is being sent, whether or not its client is still there, and by each tunnel.
    writes: Arc<()>,
}

/// One request and what it is about.
struct Exchange {
    gateway: Arc<Gateway>,
    client: Arc<Client>,
    head: Parts,
    /// What it would go on with instead of HTTP.
    wish: Option<Wish>,
    /// The way back for what precedes its answer.
    preceding: Option<Preceding>,
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
}

impl Gateway {
    /// A gateway for one worker. There is a fleet for each upstream of the configuration, in its order.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        fleets: &[Arc<upstream::Fleet>],
        tracker: Arc<Tracker>,
        namer: Namer,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let upstreams = fleets.iter().cloned().map(Upstream::new).collect();
        Arc::new(Self { config, tracker, namer, upstreams, counters, writes: Arc::default() })
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
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Answer>> {
        // Before the future is first polled: the end of the client's connection may be seen before that.
        let until_answered = client.begin_exchange();
        async move {
            let offered = tunnel::Offered::by(&request);
            let mut response = self.answer(Arc::clone(&client), request).await;
            client.informational.close().await;
            if let Some(offered) = offered {
                offered.declined(&mut response, Policy::default().linger_time);
            }
            response.map(|body| body.until_answered(until_answered))
        }
    }

    async fn answer(self: Arc<Self>, client: Arc<Client>, request: Request<Incoming>) -> Response<Answer> {
        let (head, body) = request.into_parts();
        let about = answer::About::new(&head);
        let mut body = body::Inbound::new(body, &head, &client);
        let exchange = match Exchange::new(&self, client, head) {
            Ok(exchange) => Arc::new(exchange),
            Err(failure) => return self.refuse(&about, failure, body, &Policy::default()).await,
        };
        body.let_through(Trailers::of(&exchange.head.headers, exchange.head.version, &exchange.policy().partition));
        let answer = if exchange.head.method.is_safe() {
            forward::read(&exchange, &mut body).await
        } else {
            write::write(&exchange, &mut body).await
        };
        match answer {
            Ok(response) => response,
            Err(failure) => self.refuse(&about, failure, body, exchange.policy()).await,
        }
    }

    /// Answers with a refusal that arrives: what the client still sends is read first, and the connection closes where
    /// that is too much.
    async fn refuse(
        &self,
        about: &answer::About,
        failure: Failure,
        body: body::Inbound,
        limits: &Policy,
    ) -> Response<Answer> {
        self.counters.count(&failure);
        let rest = body.drain(limits.drain_bytes, limits.drain_time).await;
        let closes = rest.is_some() || failure.ends_connection();
        if let Some(rest) = rest {
            tokio::spawn(body::linger(rest, limits.drain_time));
        }
        answer::build(about, failure, closes)
    }

    /// How many writes are being sent and tunnels are open. A stop waits for them.
    #[must_use]
    pub fn writes_under_way(&self) -> usize {
        Arc::strong_count(&self.writes) - 1
    }

    /// The key of a resource that `route` leads to, for a request with this head.
    fn key(&self, head: &Parts, host: &HeaderValue, target: &Target, route: usize) -> Key {
        let route = &self.config.routes[route];
        let upstream = &self.config.upstreams[route.upstream].name;
        let host = host.to_str().unwrap_or_default();
        self.namer.key(upstream, host, target, &route.policy.query, &route.policy.partition, &head.headers)
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
    fn new(gateway: &Arc<Gateway>, client: Arc<Client>, mut head: Parts) -> Result<Self, Failure> {
        let wish = Wish::of(&mut head)?;
        answer::check_expectation(&head)?;
        route::check_framing(&head)?;
        let asked = route::asked_host(&head)?;
        let target = route::target(&head)?;
        let route = route::find(&gateway.config.routes, &asked, &target).ok_or(Failure::NoRoute)?;
        let upstream = &gateway.config.upstreams[gateway.config.routes[route].upstream];
        let host = match (upstream.host, asked.is_empty()) {
            (HostRule::Preserve, false) => asked.clone(),
            (HostRule::Preserve, true) | (HostRule::Rewrite, _) => {
                HeaderValue::from_str(upstream.servers[0].authority.as_str())
                    .expect("an authority may stand in a field")
            }
        };
        let key = gateway.key(&head, &host, &target, route);
        let caller = gateway.namer.caller(&head.headers);
        let preceding = Preceding::to(&client, head.version);
        Ok(Self {
            gateway: Arc::clone(gateway),
            client,
            head,
            wish,
            preceding,
            target,
            asked,
            host,
            route,
            key,
            caller,
        })
    }

    fn policy(&self) -> &Policy {
        &self.gateway.config.routes[self.route].policy
    }

    fn upstream(&self) -> &Upstream {
        &self.gateway.upstreams[self.gateway.config.routes[self.route].upstream]
    }
}
