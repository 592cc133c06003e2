//! The backends: servers, connections, and when a request may be sent again.
//!
//! Each worker owns its connections; nothing here is shared between cores. A request is sent again, or to another server,
//! only where hyper hands it back unsent: then no byte of it has left (rule 5). Every other failure says whether a byte
//! may have reached the backend ([`SendError::sent`]), and what that means for a write is decided elsewhere.
//!
//! Absent for now: health checks, HTTP/2 and TLS towards backends.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    uri::Authority,
};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use crate::config;

mod wire;

pub use wire::Handle;
use wire::Wire;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One backend, as one worker sees it. `B` is the body of the requests it is sent.
#[derive(Debug)]
pub struct Upstream<B> {
    config: config::Upstream,
    servers: Vec<Server<B>>,
    /// The server whose turn is next.
    next: AtomicUsize,
}

#[derive(Debug)]
struct Server<B> {
    authority: Authority,
    /// Connections on which nothing is under way, the one used last at the end.
    idle: Arc<Mutex<Vec<Idle<B>>>>,
}

#[derive(Debug)]
struct Idle<B> {
    connection: Connection<B>,
    until: Instant,
}

/// A connection and the task that drives it. Dropping the sender lets the task finish.
#[derive(Debug)]
struct Connection<B> {
    sender: SendRequest<B>,
    handle: Handle,
}

/// What a request asks for that its answer is judged by.
#[derive(Debug, Clone, Copy)]
struct Asks {
    head: bool,
    upgrade: bool,
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
    /// The client's body broke off, so the request was broken off as well.
    #[error("the request's body broke off")]
    RequestBody(#[source] hyper::Error),
    /// The connection broke, or what came over it was not HTTP.
    #[error("the connection to the backend failed")]
    Connection(#[source] hyper::Error),
    /// The answer can't be passed on: a transfer coding that hyper does not undo, or an upgrade that nobody asked for.
    #[error("the backend's answer can't be passed on")]
    BadAnswer,
    /// The head of the answer did not come in time.
    #[error("the backend did not answer in time")]
    ResponseTimeout,
}

impl Fault {
    /// In a word, as it is counted.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Resolve(..) => "resolve",
            Self::Connect(..) => "connect",
            Self::ConnectTimeout(_) => "connect_timeout",
            Self::RequestBody(_) => "request_body",
            Self::Connection(_) => "connection",
            Self::BadAnswer => "bad_answer",
            Self::ResponseTimeout => "response_timeout",
        }
    }
}

/// How far a request's body has got, so that a slow client is not mistaken for a slow backend.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    /// When the backend last took something, in milliseconds after `began`.
    taken: AtomicU64,
    waits_for_client: AtomicBool,
}

impl Default for Progress {
    fn default() -> Self {
        Self { began: Instant::now(), taken: AtomicU64::new(0), waits_for_client: AtomicBool::new(false) }
    }
}

impl Progress {
    /// The backend took a part of the body.
    pub fn took(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
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
        self.deadline(patience).is_some_and(|at| at <= Instant::now())
    }

    /// Until when to wait for the backend; `None` while it is not the backend that is waited for.
    fn deadline(&self, patience: Duration) -> Option<Instant> {
        let taken = self.began + Duration::from_millis(self.taken.load(Ordering::Relaxed));
        (!self.waits_for_client.load(Ordering::Relaxed)).then_some(taken + patience)
    }
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// A backend without connections yet.
    #[must_use]
    pub fn new(config: config::Upstream) -> Arc<Self> {
        let servers = config
            .servers
            .iter()
            .map(|origin| Server { authority: origin.authority.clone(), idle: Arc::default() })
            .collect::<Vec<_>>();
        Arc::new(Self { config, servers, next: AtomicUsize::new(0) })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    /// Sends a request and waits for the head of its answer. `progress` is moved on by the request's body.
    ///
    /// # Errors
    ///
    /// See [`Fault`]. Where [`SendError::sent`] is false the backend has seen nothing of the request.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; whether the backend has seen the request is then unknown.
    pub async fn send(
        &self,
        mut request: Request<B>,
        progress: &Progress,
    ) -> Result<Response<FromUpstream<B>>, SendError> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let server = &self.servers[first.wrapping_add(tried) % self.servers.len()];
            let (mut connection, reused) = match self.connection(server).await {
                Ok(connection) => connection,
                Err(fault) => {
                    tried += 1;
                    if tried < self.servers.len() {
                        continue;
                    }
                    return Err(SendError { fault, sent: false, reused: false });
                }
            };
            progress.took();
            let asks =
                Asks { head: request.method() == Method::HEAD, upgrade: request.headers().contains_key(UPGRADE) };
            let answer = self.answer(connection.sender.try_send_request(request), progress).await;
            match answer {
                Ok(response) => return self.received(response, server, connection, asks, reused),
                // Only a connection that has served before may be found closed; a new one that is has its reasons.
                Err(Failed::Unsent(handed_back, _)) if reused => request = *handed_back,
                Err(Failed::Unsent(_, fault)) => return Err(SendError { fault, sent: false, reused }),
                Err(Failed::Fault(fault)) => {
                    // Whatever of the request is still being sent must not reach the backend any more.
                    connection.handle.abort();
                    return Err(SendError { fault, sent: true, reused });
                }
            }
        }
    }

    /// Waits for the head of an answer for as long as the backend has something to answer.
    async fn answer(
        &self,
        answer: impl Future<Output = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<B>>>>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, Failed<B>> {
        let patience = self.config.response_timeout;
        let mut answer = pin!(answer);
        loop {
            let deadline = progress.deadline(patience).unwrap_or_else(|| Instant::now() + patience);
            match timeout_at(deadline, &mut answer).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(mut error)) => {
                    let handed_back = error.take_message();
                    let fault = fault(error.into_error());
                    return Err(match handed_back {
                        Some(request) => Failed::Unsent(Box::new(request), fault),
                        None => Failed::Fault(fault),
                    });
                }
                Err(_) if progress.is_stalled(patience) => {
                    return Err(Failed::Fault(Fault::ResponseTimeout));
                }
                Err(_) => {}
            }
        }
    }

    fn received(
        &self,
        response: Response<Incoming>,
        server: &Server<B>,
        connection: Connection<B>,
        asks: Asks,
        reused: bool,
    ) -> Result<Response<FromUpstream<B>>, SendError> {
        if !can_be_passed_on(&response, asks.upgrade) {
            connection.handle.abort();
            return Err(SendError { fault: Fault::BadAnswer, sent: true, reused });
        }
        let handle = connection.handle.clone();
        // A backend that sends the body which it announces to HEAD must not have it read as the answer to a write.
        let may_send_more =
            asks.head && announces_body(response.headers()) || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let idle_timeout = if may_send_more { Duration::ZERO } else { self.config.idle_timeout };
        let lease = Lease {
            limit: keep_alive(response.headers(), idle_timeout),
            idle: Arc::downgrade(&server.idle),
            connection: Some(connection),
        };
        Ok(response.map(|incoming| FromUpstream::new(incoming, lease, handle)))
    }

    /// A connection to use: the idle one used last, or a new one.
    async fn connection(&self, server: &Server<B>) -> Result<(Connection<B>, bool), Fault> {
        if let Some(connection) = poll_fn(|cx| Poll::Ready(server.take_idle(cx))).await {
            return Ok((connection, true));
        }
        let stream = timeout(self.config.connect_timeout, connect(&server.authority))
            .await
            .map_err(|_| Fault::ConnectTimeout(server.authority.clone()))??;
        let unsent = Arc::default();
        let wire = Wire { stream, unsent: Arc::clone(&unsent) };
        let (sender, driver) = http1::Builder::new()
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(Fault::Connection)?;
        let task = tokio::spawn(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "a connection to a backend ended");
            }
        });
        Ok((Connection { sender, handle: Handle { unsent, task: task.abort_handle() } }, false))
    }

    /// Closes the connections that have been idle for too long. Meant to be called now and then.
    pub fn close_expired(&self) {
        for server in &self.servers {
            server.with_idle(|idle| {
                let now = Instant::now();
                idle.retain(|i| i.until > now && !i.connection.sender.is_closed());
            });
        }
    }
}

impl<B> Server<B> {
    fn take_idle(&self, cx: &mut Context<'_>) -> Option<Connection<B>> {
        self.with_idle(|idle| {
            let now = Instant::now();
            let mut at = idle.len();
            while at > 0 {
                at -= 1;
                let candidate = &mut idle[at];
                match candidate.connection.sender.poll_ready(cx) {
                    Poll::Ready(Ok(())) if candidate.until > now => return Some(idle.swap_remove(at).connection),
                    Poll::Ready(_) => drop(idle.swap_remove(at)),
                    // Its last answer is through, but the rest of the request it answered is not.
                    Poll::Pending => {}
                }
            }
            None
        })
    }

    fn with_idle<R>(&self, f: impl FnOnce(&mut Vec<Idle<B>>) -> R) -> R {
        f(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

enum Failed<B> {
    /// No byte has left; here is the request again.
    Unsent(Box<Request<B>>, Fault),
    Fault(Fault),
}

fn fault(error: hyper::Error) -> Fault {
    if error.is_user() || error.is_body_write_aborted() { Fault::RequestBody(error) } else { Fault::Connection(error) }
}

async fn connect(authority: &Authority) -> Result<TcpStream, Fault> {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(80);
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![(address, port).into()],
        Err(_) => tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| Fault::Resolve(authority.clone(), error))?
            .collect(),
    };
    let stream = TcpStream::connect(&addresses[..]).await.map_err(|error| Fault::Connect(authority.clone(), error))?;
    // Without this a small body that follows its head waits for the head's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    Ok(stream)
}

/// hyper undoes `chunked` and no other transfer coding, and hands on an upgrade whether asked for or not.
fn can_be_passed_on(response: &Response<Incoming>, asks_upgrade: bool) -> bool {
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    let chunked_only = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    let switches = asks_upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS;
    chunked_only && (switches || !response.status().is_informational())
}

fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// How long the connection may lie idle: a little less than the backend says that it will keep it.
fn keep_alive(headers: &HeaderMap, limit: Duration) -> Duration {
    let seconds = headers
        .get("keep-alive")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")))
        .and_then(|seconds| seconds.trim().parse::<u64>().ok());
    match seconds {
        Some(seconds) => limit.min(Duration::from_secs(seconds).saturating_sub(Duration::from_secs(1))),
        None => limit,
    }
}

/// The body of an answer. Read to its end, it gives the connection back; dropped before that, it closes it.
#[derive(Debug)]
pub struct FromUpstream<B> {
    incoming: Incoming,
    lease: Lease<B>,
    connection: Handle,
}

#[derive(Debug)]
struct Lease<B> {
    connection: Option<Connection<B>>,
    idle: Weak<Mutex<Vec<Idle<B>>>>,
    limit: Duration,
}

impl<B> FromUpstream<B> {
    fn new(incoming: Incoming, mut lease: Lease<B>, connection: Handle) -> Self {
        if incoming.is_end_stream() {
            lease.give_back();
        }
        Self { incoming, lease, connection }
    }

    /// The connection that it comes by.
    #[must_use]
    pub fn connection(&self) -> &Handle {
        &self.connection
    }
}

impl<B> Lease<B> {
    fn give_back(&mut self) {
        let (Some(connection), Some(idle)) = (self.connection.take(), self.idle.upgrade()) else { return };
        if !connection.sender.is_closed() && !self.limit.is_zero() {
            let until = Instant::now() + self.limit;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(Idle { connection, until });
        }
    }
}

impl<B> Body for FromUpstream<B>
where
    B: Unpin,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if frame.is_none() || self.incoming.is_end_stream() {
            self.lease.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
