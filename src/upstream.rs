//! The backends: servers, connections, and when a request may be sent again.
//!
//! Each worker has its own connections ([`Upstream`], `pool`); how the servers are doing, how many connections each may
//! have and where it is found is shared by all workers ([`Fleet`]). A request is sent again, or to another server, only
//! where it is handed back unsent: then no byte of it has left (rule 5). Every other failure says whether a byte may have reached
//! the backend ([`SendError::sent`]), and what that means for a write is decided elsewhere.
//!
//! Deliberately absent: any retry that looks at a status, and any of a request whose first byte may have left.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, Method, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    uri::Authority,
};
use http_body::Body;
use tokio::time::{Instant, timeout};

use crate::{
    clock::{self, Alarm},
    config::{self, Protocol},
    core::{
        fields::Fields,
        message::{Request, Response},
        value::FieldValue,
    },
};

mod ahead;
mod condition;
mod connect;
mod fleet;
mod frames;
mod health;
pub mod http1;
mod http2;
mod names;
mod places;
mod pool;
mod received;
#[cfg(test)]
mod tests;
mod tunnel;
mod wire;

pub use ahead::Extent;
pub(crate) use connect::limit_unsent;
pub use fleet::{FailureKind, Fleet, Server};
use pool::{Pool, Ready};
pub use received::{AnswerError, FromUpstream};
use received::{Held, Source};
pub use tunnel::{Opened, Tunnel};
pub use wire::Handle;

/// How many informational answers may precede an answer. Without an end they would keep a worker from all else.
const MOST_INFORMATIONAL: usize = 256;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One backend, as one worker sees it.
#[derive(Debug)]
pub struct Upstream {
    fleet: Arc<Fleet>,
    /// One for each server.
    pools: Vec<Arc<Pool>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct SendError {
    /// What went wrong.
    #[source]
    pub fault: Fault,
    /// Whether a byte of the request may have reached the backend.
    pub sent: bool,
    /// Whether the connection had carried a request before; the backend may have been about to close it.
    pub reused: bool,
    /// The place of the server that was tried last among those of the upstream.
    pub server: Option<usize>,
}

/// What went wrong between the gateway and a backend.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The server's name has no address.
    #[error("{0} can't be resolved")]
    Resolve(Authority, #[source] io::Error),
    /// No connection could be made.
    #[error("no connection to {0} could be made")]
    Connect(Authority, #[source] io::Error),
    /// No connection could be made in time.
    #[error("no connection to {0} could be made in time")]
    ConnectTimeout(Authority),
    /// The connection could not be secured: the server's certificate is not believed, or the two do not agree.
    #[error("the connection to {0} could not be secured: {1}")]
    Tls(Authority, #[source] io::Error),
    /// The server has as many connections as it may, and none became free in time.
    #[error("all connections to {0} are in use")]
    Full(Authority),
    /// The health checks speak against every server.
    #[error("no server is healthy")]
    NoServer,
    /// The client's body broke off, so the request was broken off as well.
    #[error("the request's body broke off")]
    RequestBody(#[source] BoxError),
    /// The connection broke, or what came over it was not HTTP.
    #[error("the connection to the backend failed")]
    Connection(#[source] Broken),
    /// The answer can't be passed on: a transfer coding other than `chunked`, or an upgrade that nobody asked for.
    #[error("the backend's answer can't be passed on")]
    BadAnswer,
    /// The backend speaks HTTP/2 and takes no WebSocket over it (RFC 8441).
    #[error("the backend takes no upgrade over HTTP/2")]
    NoUpgrade,
    /// The head of the answer did not come in time.
    #[error("the backend did not answer in time")]
    ResponseTimeout,
    /// The answer has begun and paused for too long, before any of it was passed on.
    #[error("the backend's answer paused for longer than response_idle_timeout")]
    ResponseIdleTimeout,
}

impl Fault {
    /// In a word, as it is counted.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        let own = if matches!(self, Self::NoServer) { "no_server" } else { "request_body" };
        FailureKind::of(self).map_or(own, FailureKind::name)
    }
}

/// How a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It could not be read or written.
    #[error(transparent)]
    Io(io::Error),
    /// It was closed before the end of the answer.
    #[error("the connection was closed before the end of the answer")]
    Closed,
    /// What came over it was no answer.
    #[error("the backend's answer can't be read: {0}")]
    Malformed(http1::head::Malformed),
    /// As h2 tells it.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

/// In the extensions of a request: a server, by its place, that is only tried where there is no other.
#[derive(Debug, Clone, Copy)]
pub struct Avoid(pub usize);

/// An answer that precedes the answer (1xx).
#[derive(Debug, Clone, Copy)]
pub struct Informational<'a> {
    /// Its status.
    pub status: StatusCode,
    /// By which protocol it came.
    pub version: Version,
    /// Its fields.
    pub fields: &'a Fields,
}

type Informed = dyn Fn(Informational<'_>) + Send + Sync;

/// Whom to tell of informational answers, by either protocol.
pub struct OnInformational(Box<Informed>);

impl std::fmt::Debug for OnInformational {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnInformational").finish_non_exhaustive()
    }
}

impl OnInformational {
    /// With what is to be called.
    pub fn new(callback: impl Fn(Informational<'_>) + Send + Sync + 'static) -> Self {
        Self(Box::new(callback))
    }
}

/// How far a request's body has got, so that a slow client is not mistaken for a slow backend.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    /// When the backend last took something, in milliseconds after `began`.
    taken: AtomicU64,
    waits_for_client: AtomicBool,
    /// Who is told of what precedes the answer.
    listener: Option<OnInformational>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::telling(None)
    }
}

impl Progress {
    /// Of a request whose informational answers are told to this.
    #[must_use]
    pub fn telling(listener: Option<OnInformational>) -> Self {
        let (taken, waits_for_client) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { began: clock::now(), taken, waits_for_client, listener }
    }

    /// An informational answer has come.
    fn informed(&self, status: StatusCode, version: Version, fields: &Fields) {
        if let Some(OnInformational(listener)) = &self.listener {
            listener(Informational { status, version, fields });
        }
    }

    /// The backend took a part of the body.
    pub fn took(&self) {
        let millis = u64::try_from(clock::since(self.began).as_millis()).unwrap_or(u64::MAX);
        self.taken.store(millis, Ordering::Relaxed);
        self.waits_for_client.store(false, Ordering::Relaxed);
    }

    /// The backend would take more than the client has sent.
    pub fn waits_for_client(&self) {
        self.waits_for_client.store(true, Ordering::Relaxed);
    }

    /// Whether the backend has taken nothing for so long although there was something to take.
    #[must_use]
    pub fn is_stalled(&self, patience: Duration) -> bool {
        self.deadline(patience).is_some_and(|at| at <= clock::exactly())
    }

    /// Returns once the backend has taken nothing for so long although there was something to take.
    async fn stalls(&self, patience: Duration) {
        let mut alarm = Alarm::default();
        poll_fn(|cx| self.poll_stalled(cx, &mut alarm, patience)).await;
    }

    /// Ready once the backend has taken nothing for so long although there was something to take.
    fn poll_stalled(&self, cx: &mut Context<'_>, alarm: &mut Alarm, patience: Duration) -> Poll<()> {
        loop {
            ready!(alarm.poll(cx, self.deadline(patience).unwrap_or_else(|| clock::now() + patience)));
            if self.is_stalled(patience) {
                return Poll::Ready(());
            }
        }
    }

    /// Until when to wait for the backend; `None` while it is not the backend that is waited for.
    fn deadline(&self, patience: Duration) -> Option<Instant> {
        let taken = self.began + Duration::from_millis(self.taken.load(Ordering::Relaxed));
        (!self.waits_for_client.load(Ordering::Relaxed)).then_some(taken + patience)
    }
}

impl SendError {
    /// Whether a read may go once more: the backend may have been closing the connection, or refused to take on more by it, or
    /// it was another server's failure.
    #[must_use]
    pub fn may_repeat_read(&self, servers: usize) -> bool {
        match &self.fault {
            Fault::Connection(Broken::Http2(error)) if error.is_go_away() => true,
            Fault::Connection(Broken::Http2(error)) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => true,
            Fault::Connection(_) => self.reused || servers > 1,
            Fault::Resolve(..)
            | Fault::Connect(..)
            | Fault::ConnectTimeout(_)
            | Fault::Tls(..)
            | Fault::Full(_)
            | Fault::NoServer
            | Fault::RequestBody(_)
            | Fault::BadAnswer
            | Fault::NoUpgrade
            | Fault::ResponseTimeout
            | Fault::ResponseIdleTimeout => false,
        }
    }
}

impl Upstream {
    /// A backend as one worker sees it, without connections yet.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>) -> Arc<Self> {
        let pools = fleet.servers().iter().map(|server| Pool::new(&fleet, server)).collect();
        Arc::new(Self { fleet, pools })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &config::Upstream {
        self.fleet.config()
    }

    /// What it shares with the other workers.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Sends a request and waits for the head of its answer. It is in a box, since it is handed on from step to step;
    /// `progress` is moved on by its body. With `Upgrade` it goes by HTTP/1.1 where the configuration leaves a choice; a 101
    /// comes with a [`Tunnel`] in its extensions. Over HTTP/2 a WebSocket is asked for as RFC 8441 has it, and the answer is
    /// shown as the 101 that it stands for.
    ///
    /// # Errors
    ///
    /// See [`Fault`]. Where [`SendError::sent`] is false the backend has seen nothing of the request.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection or resets the stream; whether the backend has seen the request is then
    /// unknown.
    pub async fn send<B>(
        &self,
        mut request: Box<Request<B>>,
        progress: &Arc<Progress>,
    ) -> Result<Response<Box<FromUpstream>>, SendError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let avoid = request.extensions().get::<Avoid>().map(|avoid| avoid.0);
        let mut candidates = self.fleet.candidates(avoid);
        if candidates.len() > 1 {
            // Nobody waits for one server while another has room.
            candidates.to_mut().sort_by_key(|&at| !self.pools[at].has_room());
        }
        let mut last = SendError { fault: Fault::NoServer, sent: false, reused: false, server: None };
        for &at in &*candidates {
            match self.send_to(at, request, progress).await {
                Ok(response) => return Ok(response),
                Err(Failed::Unsent(handed_back, fault)) => {
                    request = handed_back;
                    last = SendError { fault, sent: false, reused: false, server: Some(at) };
                }
                Err(Failed::Over(error)) => return Err(error),
            }
        }
        Err(last)
    }

    /// Sends a request to one server.
    async fn send_to<B>(
        &self,
        at: usize,
        mut request: Box<Request<B>>,
        progress: &Arc<Progress>,
    ) -> Result<Response<Box<FromUpstream>>, Failed<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let pool = &self.pools[at];
        let server = &pool.server;
        let mut under_way = server.begin();
        let asked = Asked::by(&request);
        loop {
            let (ready, reused) = match pool.ready(asked.upgrade && self.config().protocol != Protocol::Http2).await {
                Ok(ready) => ready,
                Err(fault) => {
                    self.fleet.failed(server, &fault, false);
                    return Err(Failed::Unsent(request, fault));
                }
            };
            // What was computed up to here is not the backend's time.
            clock::exactly();
            progress.took();
            let sent = match ready {
                Ready::Http1(connection) => self.by_http1(pool, connection, request, &asked, progress, under_way).await,
                Ready::Http2(slot) if asked.websocket => {
                    Box::pin(self.tunnel_by_http2(slot, request, server, under_way)).await
                }
                Ready::Http2(slot) => self.by_http2(slot, request, server, progress, under_way).await,
            };
            match sent {
                Ok(response) => {
                    server.condition.succeeded();
                    return Ok(response);
                }
                // Only a connection that has served before may be found closed; a new one that is has its reasons. One that does
                // not take an upgrade is not closed, and would be found again.
                Err(Undone::Unsent(handed_back, fault)) if reused && !matches!(fault, Fault::NoUpgrade) => {
                    request = handed_back;
                    under_way = server.begin();
                }
                Err(Undone::Unsent(handed_back, fault)) => {
                    self.fleet.failed(server, &fault, false);
                    return Err(Failed::Unsent(handed_back, fault));
                }
                Err(Undone::Lost(fault)) => return Err(self.over(at, fault, false, reused)),
                Err(Undone::Sent(fault)) => return Err(self.over(at, fault, true, reused)),
            }
        }
    }

    /// The request can't be sent again.
    fn over<B>(&self, at: usize, fault: Fault, sent: bool, reused: bool) -> Failed<B> {
        self.fleet.failed(&self.pools[at].server, &fault, reused);
        Failed::Over(SendError { fault, sent, reused, server: Some(at) })
    }

    async fn by_http1<B>(
        &self,
        pool: &Pool,
        connection: Box<http1::Connection>,
        request: Box<Request<B>>,
        asked: &Asked,
        progress: &Arc<Progress>,
        under_way: fleet::Counted,
    ) -> Result<Response<Box<FromUpstream>>, Undone<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let answered = connection.send(request, progress, self.config().response_timeout).await;
        let http1::Answered { head, body, handle } = match answered {
            Ok(answered) => answered,
            Err(http1::Failed { fault, sent: true }) => return Err(Undone::Sent(fault)),
            Err(http1::Failed { fault, sent: false }) => return Err(Undone::Lost(fault)),
        };
        let patience = self.config().response_idle_timeout;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let (wire, ahead) = body.into_wire().filter(|_| asked.upgrade).ok_or(Undone::Sent(Fault::BadAnswer))?;
            let body = FromUpstream::nothing(&pool.server, handle, patience);
            let mut response = with_head(head, body);
            response.extensions_mut().insert(Tunnel::over_http1(wire, ahead, under_way));
            return Ok(response);
        }
        // A backend that sends the body which it announces where there is none must not have it read as the answer to a write.
        let has_none = asked.head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let may_send_more = has_none && announces_body(&head.fields);
        let idle_timeout = if may_send_more { Duration::ZERO } else { self.config().idle_timeout };
        let held = Held::Connection { limit: keep_alive(&head.fields, idle_timeout) };
        let body = FromUpstream::new(Source::Http1(body), Some(held), under_way, handle, patience);
        Ok(with_head(head, body))
    }

    async fn tunnel_by_http2<B>(
        &self,
        slot: http2::Slot,
        request: Box<Request<B>>,
        server: &Arc<Server>,
        under_way: fleet::Counted,
    ) -> Result<Response<Box<FromUpstream>>, Undone<B>> {
        let (head, body) = request.into_parts();
        let unsent = |fault| Undone::Unsent(Box::new(Request::from_parts(head.clone(), body)), fault);
        let mut asking = match slot.ask(&head, &server.origin) {
            None => return Err(unsent(Fault::NoUpgrade)),
            Some(Err(error)) => return Err(unsent(Fault::Connection(Broken::Http2(error)))),
            Some(Ok(asking)) => asking,
        };
        let answer = match timeout(self.config().response_timeout, asking.answer()).await {
            Ok(answer) => answer.map_err(Undone::Sent)?,
            Err(_) => return Err(Undone::Sent(Fault::ResponseTimeout)),
        };
        let handle = Handle::sent();
        let patience = self.config().response_idle_timeout;
        match asking.asked(answer) {
            (http2::Asked::Granted(fields, out, incoming), slot) => {
                let stream = tunnel::Stream { out, incoming, rest: Bytes::new(), _slot: slot, _under_way: under_way };
                let body = FromUpstream::nothing(server, handle, patience);
                let mut response = Response::new(body);
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.version_mut() = Version::HTTP_2;
                *response.headers_mut() = fields;
                response.headers_mut().insert(UPGRADE, FieldValue::from_static("websocket"));
                response.extensions_mut().insert(Tunnel::over_http2(stream));
                Ok(response)
            }
            (http2::Asked::Declined(response), slot) => {
                let held = Some(Held::Slot(slot));
                let body = |incoming| FromUpstream::new(Source::Http2(incoming), held, under_way, handle, patience);
                Ok(response.map(body))
            }
        }
    }

    async fn by_http2<B>(
        &self,
        slot: http2::Slot,
        request: Box<Request<B>>,
        server: &Server,
        progress: &Arc<Progress>,
        under_way: fleet::Counted,
    ) -> Result<Response<Box<FromUpstream>>, Undone<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut begun = match slot.begin(*request, &server.origin, progress, self.config().response_timeout) {
            Ok(begun) => begun,
            Err(handed_back) => {
                let (request, error) = *handed_back;
                return Err(Undone::Unsent(Box::new(request), Fault::Connection(Broken::Http2(error))));
            }
        };
        let patience = self.config().response_timeout;
        let in_time = tokio::select! {
            biased;
            answer = begun.answer() => Some(answer),
            () = progress.stalls(patience) => None,
        };
        let Some(answer) = in_time else {
            begun.timed_out();
            return Err(Undone::Sent(Fault::ResponseTimeout));
        };
        let response = answer.map_err(Undone::Sent)?;
        if response.status().is_informational() {
            return Err(Undone::Sent(Fault::BadAnswer));
        }
        let handle = Handle::of(Arc::clone(&begun.sending));
        let held = Some(Held::Slot(Arc::clone(&begun.slot)));
        let patience = self.config().response_idle_timeout;
        Ok(response.map(|incoming| FromUpstream::new(Source::Http2(incoming), held, under_way, handle, patience)))
    }

    /// Closes the connections that have been idle for too long, and looks names up again that are old. Meant to be called
    /// now and then, within a runtime.
    pub fn close_expired(&self) {
        self.fleet.renew_names();
        for pool in &self.pools {
            pool.close_expired();
        }
    }
}

/// What of a request its answer is judged by.
struct Asked {
    head: bool,
    upgrade: bool,
    websocket: bool,
}

impl Asked {
    fn by<B>(request: &Request<B>) -> Self {
        let upgrade = request.headers().get(UPGRADE);
        Self {
            head: request.method() == Method::HEAD,
            upgrade: upgrade.is_some(),
            websocket: request.method() == Method::GET
                && upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket")),
        }
    }
}

/// A server did not answer.
enum Failed<B> {
    /// No byte has left; here is the request again.
    Unsent(Box<Request<B>>, Fault),
    Over(SendError),
}

/// A request was not answered on its connection.
enum Undone<B> {
    /// No byte has left; here is the request again.
    Unsent(Box<Request<B>>, Fault),
    /// No byte has left, but its body is gone.
    Lost(Fault),
    Sent(Fault),
}

fn with_head(head: http1::head::Head, body: Box<FromUpstream>) -> Response<Box<FromUpstream>> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.version_mut() = head.version;
    *response.headers_mut() = head.fields;
    response
}

fn announces_body(headers: &Fields) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// How long the connection may lie idle: a little less than the backend says that it will keep it.
fn keep_alive(headers: &Fields, limit: Duration) -> Duration {
    let seconds = headers
        .get(KEEP_ALIVE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")))
        .and_then(|seconds| seconds.trim().parse::<u64>().ok());
    match seconds {
        Some(seconds) => limit.min(Duration::from_secs(seconds).saturating_sub(Duration::from_secs(1))),
        None => limit,
    }
}
