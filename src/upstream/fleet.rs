//! What all workers share of an upstream: which servers it has, how they are doing, how much they have to do.
//!
//! It is made once from the configuration and outlives the gateways that use it, so a reload that leaves an upstream
//! as it is forgets nothing of its servers.

use std::{
    borrow::Cow,
    io,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use rustls::pki_types::ServerName;
use tokio::time::Instant;

use super::{
    Fault,
    condition::Condition,
    names::{self, Names, Resolver},
    places::Places,
};
use crate::{
    config::{self, Balance, Origin},
    telemetry::Causes,
    tls::upstream::{self as tls, ClientError},
};

/// The servers of one upstream.
#[derive(Debug)]
pub struct Fleet {
    config: config::Upstream,
    servers: Vec<Arc<Server>>,
    /// The server whose turn is next.
    next: AtomicUsize,
    /// Whether somebody asks for the servers' health.
    is_checked: AtomicBool,
}

/// One server.
#[derive(Debug)]
pub struct Server {
    pub(super) origin: Origin,
    pub(super) condition: Condition,
    pub(super) names: Arc<Names>,
    pub(super) places: Arc<Places>,
    /// What connections are secured with; `None`: they are not.
    pub(super) tls: Option<Tls>,
    /// What the server agreed on last, where it has a choice.
    pub(super) agreed: AtomicAgreed,
    pub(super) numbers: Numbers,
}

/// What a server's connections are secured with.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) name: ServerName<'static>,
    client: RwLock<tls::Client>,
}

/// What there is to count of a server.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    under_way: AtomicUsize,
    failures: [AtomicU64; FailureKind::ALL.len()],
}

/// What goes wrong between the gateway and a server, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Its name can't be resolved.
    Resolve,
    /// No connection could be made.
    Connect,
    /// No connection could be made in time.
    ConnectTimeout,
    /// The connection could not be secured.
    Tls,
    /// It has as many connections as it may, and none became free.
    Full,
    /// A connection broke before there was an answer.
    Broken,
    /// The answer could not be used.
    BadAnswer,
    /// There was no answer in time.
    ResponseTimeout,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Resolve,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Tls,
        Self::Full,
        Self::Broken,
        Self::BadAnswer,
        Self::ResponseTimeout,
    ];

    /// Its name in a metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::Full => "full",
            Self::Broken => "broken",
            Self::BadAnswer => "bad_answer",
            Self::ResponseTimeout => "response_timeout",
        }
    }

    /// What a fault is counted as; `None`: it is not the server's.
    pub(super) fn of(fault: &Fault) -> Option<Self> {
        Some(match fault {
            Fault::Resolve(..) => Self::Resolve,
            Fault::Connect(..) => Self::Connect,
            Fault::ConnectTimeout(_) => Self::ConnectTimeout,
            Fault::Tls(..) => Self::Tls,
            Fault::Full(_) => Self::Full,
            Fault::Connection(_) => Self::Broken,
            Fault::BadAnswer | Fault::NoUpgrade => Self::BadAnswer,
            Fault::ResponseTimeout | Fault::ResponseIdleTimeout => Self::ResponseTimeout,
            Fault::RequestBody(_) | Fault::NoServer => return None,
        })
    }

    /// Whether it speaks against the server, and not only against one answer of it or for its being busy.
    fn ejects(self) -> bool {
        match self {
            Self::Resolve | Self::Connect | Self::ConnectTimeout | Self::Tls | Self::Broken | Self::ResponseTimeout => {
                true
            }
            Self::Full | Self::BadAnswer => false,
        }
    }
}

/// What a server with a choice of protocols agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreed {
    Unknown,
    Http1,
    Http2,
}

/// The same, changed by whoever connects.
#[derive(Debug, Default)]
pub(super) struct AtomicAgreed(AtomicUsize);

impl AtomicAgreed {
    pub(super) fn load(&self) -> Agreed {
        match self.0.load(Ordering::Relaxed) {
            1 => Agreed::Http1,
            2 => Agreed::Http2,
            _ => Agreed::Unknown,
        }
    }

    pub(super) fn store(&self, is_http2: bool) {
        self.0.store(if is_http2 { 2 } else { 1 }, Ordering::Relaxed);
    }
}

impl Fleet {
    /// What the workers are to share of this upstream. Reads the files that `tls` names.
    ///
    /// # Errors
    ///
    /// A file that can't be used.
    pub fn new(config: config::Upstream) -> Result<Arc<Self>, ClientError> {
        Self::with_resolver(config, &names::system())
    }

    /// As [`Fleet::new`], with an error that names the upstream.
    ///
    /// # Errors
    ///
    /// A file that can't be used.
    pub fn of(config: &config::Upstream) -> io::Result<Arc<Self>> {
        let named = |error| io::Error::other(format!("upstreams.{}.tls: {error}", config.name));
        Self::new(config.clone()).map_err(named)
    }

    /// All that the configuration names, in its order.
    ///
    /// # Errors
    ///
    /// A file that can't be used; the error names it, and the upstream.
    pub fn all(upstreams: &[config::Upstream]) -> io::Result<Vec<Arc<Self>>> {
        upstreams.iter().map(Self::of).collect()
    }

    pub(super) fn with_resolver(config: config::Upstream, resolver: &Resolver) -> Result<Arc<Self>, ClientError> {
        let any_https = config.servers.iter().any(|origin| origin.https);
        let client = any_https.then(|| tls::Client::new(&config.tls)).transpose()?;
        let server = |origin: &Origin| -> Result<_, ClientError> {
            let tls = match &client {
                Some(client) if origin.https => Some(Tls {
                    name: tls::server_name(&config.tls, &origin.authority)?,
                    client: RwLock::new(client.clone()),
                }),
                Some(_) | None => None,
            };
            let default_port = if origin.https { 443 } else { 80 };
            Ok(Arc::new(Server {
                origin: origin.clone(),
                condition: Condition::default(),
                names: Arc::new(Names::new(&origin.authority, default_port, Arc::clone(resolver))),
                places: Arc::new(Places::new(config.max_connections)),
                tls,
                agreed: AtomicAgreed::default(),
                numbers: Numbers::default(),
            }))
        };
        let servers = config.servers.iter().map(server).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { config, servers, next: AtomicUsize::new(0), is_checked: AtomicBool::new(false) }))
    }

    /// Reads the files that `tls` names again. Connections that are there stay as they are.
    ///
    /// # Errors
    ///
    /// A file that can't be used; what was read before stays in use.
    pub fn renew_tls(&self) -> Result<(), ClientError> {
        if self.servers.iter().any(|server| server.tls.is_some()) {
            let client = tls::Client::new(&self.config.tls)?;
            for tls in self.servers.iter().filter_map(|server| server.tls.as_ref()) {
                *tls.client.write().unwrap_or_else(PoisonError::into_inner) = client.clone();
            }
        }
        Ok(())
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    /// The servers, in the order of the configuration.
    #[must_use]
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// Whether a server is there that the health checks do not speak against.
    #[must_use]
    pub fn any_healthy(&self) -> bool {
        self.servers.iter().any(|server| server.is_healthy())
    }

    /// The servers that may get a request, in the order in which they should be tried; none at all where the health checks
    /// speak against every one. Ejection is no such verdict: a server is only passed over for another. Where all are
    /// ejected, all are tried: it is better to ask a server that has failed than to refuse everybody for certain.
    pub(super) fn candidates(&self, avoid: Option<usize>) -> Cow<'static, [usize]> {
        let count = self.servers.len();
        if let [only] = &self.servers[..] {
            return if only.is_healthy() { Cow::Borrowed(&[0]) } else { Cow::Borrowed(&[]) };
        }
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..count).map(|step| first.wrapping_add(step) % count);
        let mut healthy: Vec<usize> = in_turn.filter(|&at| self.servers[at].is_healthy()).collect();
        if !healthy.iter().all(|&at| self.servers[at].is_ejected()) {
            healthy.retain(|&at| !self.servers[at].is_ejected());
        }
        match self.config.balance {
            Balance::RoundRobin => {}
            // The sort is stable: those with as many take turns.
            Balance::LeastConnections => healthy.sort_by_key(|&at| self.servers[at].under_way()),
        }
        if let Some(avoid) = avoid {
            healthy.sort_by_key(|&at| at == avoid);
        }
        healthy.into()
    }

    /// Whether nobody asks for the servers' health yet. From here on somebody does.
    pub(super) fn begin_checks(&self) -> bool {
        !self.is_checked.swap(true, Ordering::Relaxed)
    }

    /// Looks names up again whose addresses are old. To be called now and then, within a runtime.
    pub(super) fn renew_names(&self) {
        for server in &self.servers {
            server.names.renew(self.config.resolve_interval);
        }
    }

    /// How it went with a server.
    pub(super) fn failed(&self, server: &Server, fault: &Fault, reused: bool) {
        let Some(kind) = FailureKind::of(fault) else { return };
        server.numbers.failures[kind as usize].fetch_add(1, Ordering::Relaxed);
        // That a server closes a connection which has served is its right.
        let was_closing = reused && kind == FailureKind::Broken;
        if kind.ejects()
            && !was_closing
            && let Some(time) = server.condition.failed(&self.config.ejection, Instant::now())
        {
            let (upstream, server, last) = (&self.config.name, &server.origin, Causes(fault));
            tracing::warn!(upstream, %server, ?time, %last, "a server failed too often in a row; it gets no requests for a while");
        }
    }
}

impl Server {
    /// Its scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What the health checks say; true where there are none.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.condition.is_healthy()
    }

    /// Whether it has failed so often that it is passed over for a while.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.condition.is_ejected(Instant::now())
    }

    /// Connections, those that are being made included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.places.taken()
    }

    /// Connections on which nothing is under way.
    #[must_use]
    pub fn idle_connections(&self) -> usize {
        self.places.idle()
    }

    /// Requests that are under way, from the search for a connection to the end of the answer.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.numbers.under_way.load(Ordering::Relaxed)
    }

    /// How often this has gone wrong.
    #[must_use]
    pub fn failures(&self, kind: FailureKind) -> u64 {
        self.numbers.failures[kind as usize].load(Ordering::Relaxed)
    }

    /// A request begins, and lasts until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Counted {
        self.numbers.under_way.fetch_add(1, Ordering::Relaxed);
        Counted { server: Arc::clone(self), is_over: false }
    }
}

impl Tls {
    pub(super) fn client(&self) -> tls::Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A request to a server, counted among those that are under way until it is over.
#[derive(Debug)]
pub(super) struct Counted {
    server: Arc<Server>,
    is_over: bool,
}

impl Counted {
    /// One that somebody else counts, or nobody any more.
    pub(super) fn over(server: &Arc<Server>) -> Self {
        Self { server: Arc::clone(server), is_over: true }
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// It is over.
    pub(super) fn end(&mut self) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.server.numbers.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end();
    }
}
