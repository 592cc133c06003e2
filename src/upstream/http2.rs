//! HTTP/2 towards a backend: one connection for many requests of a worker.
//!
//! This speaks to h2 itself and not to hyper's client, which hides what a turn depends on. Read in hyper 1.12
//! (`proto/h2/client.rs`): a body that is still being sent when the answer has come belongs to a task of hyper's
//! (`PipeMap`) that is told of a cancellation only until then (`ResponseFutMap::cancel`); a backend that answers early and
//! takes no more could be stopped only by closing the connection under all others. And it hands whole pieces of a body to
//! h2 whatever the window, where nobody sees them any more. Read in h2 0.4.20: a request for which `send_request` gives an
//! error has queued nothing (`Streams::send_request`), so it may go elsewhere; after a GOAWAY every further one gets an
//! error (`ensure_no_conn_error`), while those that the backend accepted go on; what is queued of a stream is dropped when
//! it is reset (`Send::send_reset`), so that at most the frame goes out that is being written.
//!
//! Here a body is given to h2 only as far as the backend's window reaches ([`pour`]), by a task that lives until its last frame
//! was handed to the kernel ([`Sending`]). Whatever has been given to h2 counts as sent: a refused stream, or one beyond
//! a GOAWAY's last, too.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, Reason, RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
    ext::Protocol,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Body, Frame, SizeHint};
use tokio::{task::AbortHandle, time::Instant};

use super::{
    BoxError, Broken, Fault, MOST_INFORMATIONAL, Progress,
    connect::{Connected, Peer},
    fleet::Server,
    frames::{Frames, Sending, Streams},
    places::Place,
    pool::Line,
    wire::{Watch, Wire},
};
use crate::{
    config::Origin,
    core::{
        fields::Fields,
        message::{Request, Response, request::Parts},
    },
};

/// How many requests a connection carries at once, where the backend allows as many.
const MOST_STREAMS: usize = 100;
/// How much of an answer may come before its client takes it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Large enough for all streams: no answer that nobody takes may keep the others from coming.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 128;
/// How much of a request may wait to be sent, of each stream that the backend opens a window for and does not read.
const UNSENT: usize = 64 * 1024;
/// An answer's head.
const HEAD_BYTES: u32 = 256 * 1024;
/// How many requests a connection still carries while another worker waits for a place.
const SERVES_BEFORE_OTHERS: usize = 64;

/// A connection, as a pool has it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
    peer: Peer,
}

/// What a connection's requests share.
#[derive(Debug)]
struct Shared {
    streams: Arc<Streams>,
    server: Arc<Server>,
    line: Arc<Line>,
    task: AbortHandle,
    under_way: AtomicUsize,
    /// How many requests it has carried.
    served: AtomicUsize,
    /// It gets no more requests.
    retired: AtomicBool,
    /// Since when nothing is under way.
    idle: Mutex<Option<Instant>>,
}

/// Aborts a task unless it is kept.
pub(super) struct Unkept(Option<AbortHandle>);

impl Unkept {
    pub(super) fn of(task: AbortHandle) -> Self {
        Self(Some(task))
    }
}

impl Drop for Unkept {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// Begins to speak HTTP/2. Returns once the backend has shown that it does, too: a request that is sent before that to one
/// that does not would be in doubt.
pub(super) async fn handshake(
    connected: Connected,
    place: Option<Place>,
) -> Result<(SendRequest<Bytes>, Arc<Streams>, AbortHandle), Fault> {
    let broken = |error| Fault::Connection(Broken::Http2(error));
    let streams = Arc::new(Streams::default());
    let watch = Watch::Http2(Frames::new(Arc::clone(&streams)));
    let (sender, mut driver) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES)
        .initial_max_send_streams(MOST_STREAMS)
        .max_send_buffer_size(UNSENT)
        .enable_push(false)
        .handshake::<_, Bytes>(Wire { stream: connected.stream, watch, _place: place })
        .await
        .map_err(broken)?;
    let mut pings = driver.ping_pong().expect("nobody has taken it yet");
    let task = tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "a connection to a backend ended");
        }
    });
    let mut unkept = Unkept::of(task.abort_handle());
    // The backend's settings, which come first, are known with the answer.
    pings.ping(Ping::opaque()).await.map_err(broken)?;
    let task = unkept.0.take().expect("it was put there");
    Ok((sender, streams, task))
}

impl Connection {
    /// See [`handshake`].
    pub(super) async fn begin(
        connected: Connected,
        place: Place,
        server: &Arc<Server>,
        line: &Arc<Line>,
    ) -> Result<Self, Fault> {
        let peer = connected.peer;
        let (sender, streams, task) = handshake(connected, Some(place)).await?;
        let shared = Shared {
            streams,
            server: Arc::clone(server),
            line: Arc::clone(line),
            task,
            under_way: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            idle: Mutex::new(Some(Instant::now())),
        };
        Ok(Self { sender, shared: Arc::new(shared), peer })
    }

    /// Whether it may carry requests, now or when others have ended.
    pub(super) fn is_usable(&mut self) -> bool {
        let shared = &self.shared;
        !shared.retired.load(Ordering::Relaxed)
            && !shared.streams.is_closed()
            && !shared.task.is_finished()
            && self.peer.is_current(&shared.server)
    }

    /// Since when nothing is under way on it.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        *self.shared.idle()
    }

    #[cfg(test)]
    pub(super) fn followed_streams(&self) -> usize {
        self.shared.streams.followed()
    }

    /// A place for one more request, and whether it has carried one before.
    pub(super) fn slot(&self) -> Option<(Slot, bool)> {
        let shared = &self.shared;
        let most = MOST_STREAMS.min(self.sender.current_max_send_streams());
        if shared.under_way.load(Ordering::Relaxed) >= most {
            return None;
        }
        let served = shared.served.fetch_add(1, Ordering::Relaxed);
        if shared.line.others_wait() && served % SERVES_BEFORE_OTHERS == SERVES_BEFORE_OTHERS - 1 {
            // It ends when those that are under way have.
            shared.retired.store(true, Ordering::Relaxed);
        }
        shared.under_way.fetch_add(1, Ordering::Relaxed);
        *shared.idle() = None;
        let slot = Slot { sender: self.sender.clone(), shared: Arc::clone(shared) };
        Some((slot, served > 0))
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one request on a connection.
#[derive(Debug)]
pub(super) struct Slot {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let shared = &self.shared;
        if shared.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            *shared.idle() = Some(Instant::now());
            if shared.line.others_wait() {
                shared.retired.store(true, Ordering::Relaxed);
                shared.task.abort();
            }
        }
        shared.line.freed();
    }
}

/// A request that has begun on a connection. Dropped before its answer is there, it is cancelled.
#[derive(Debug)]
pub(super) struct Begun {
    answer: ResponseFuture,
    progress: Arc<Progress>,
    pub(super) sending: Arc<Sending>,
    /// Why the request's body broke off.
    cause: Arc<Mutex<Option<BoxError>>>,
    pub(super) slot: Arc<Slot>,
    heard: usize,
    is_answered: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.is_answered {
            self.sending.cancel();
        }
    }
}

impl Slot {
    /// Begins a request. It is handed back where nothing of it was sent. A body of which the backend takes nothing for much
    /// longer than `patience` is cut.
    pub(super) fn begin<B>(
        self,
        request: Request<B>,
        origin: &Origin,
        progress: &Arc<Progress>,
        patience: Duration,
    ) -> Result<Begun, Box<(Request<B>, h2::Error)>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let heard = self.shared.streams.heard();
        let begun = self.sender.clone().send_request(translated(&head, origin), !has_body);
        let (answer, stream) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                self.shared.retired.store(true, Ordering::Relaxed);
                return Err(Box::new((Request::from_parts(head, body), error)));
            }
        };
        let slot = Arc::new(self);
        let cause = Arc::default();
        let sending = if has_body {
            let sending = Sending::with_body();
            slot.shared.streams.follow(stream.stream_id().as_u32(), &sending);
            let out = Out { stream, sending: Arc::clone(&sending), cause: Arc::clone(&cause), slot: Arc::clone(&slot) };
            tokio::spawn(out.send(body, Arc::clone(progress), patience));
            sending
        } else {
            Sending::without_body()
        };
        let progress = Arc::clone(progress);
        Ok(Begun { answer, progress, sending, cause, slot, heard, is_answered: false })
    }
}

/// A wish for a WebSocket that has begun on a connection.
#[derive(Debug)]
pub(super) struct Asking {
    answer: ResponseFuture,
    out: SendStream<Bytes>,
    pub(super) slot: Arc<Slot>,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Asked {
    /// There is a tunnel: what the answer says, and both ways of it.
    Granted(Fields, SendStream<Bytes>, RecvStream),
    Declined(Response<Incoming>),
}

impl Slot {
    /// Asks for a WebSocket over a stream (RFC 8441). `None`: the backend does not offer that.
    pub(super) fn ask(self, head: &Parts, origin: &Origin) -> Option<Result<Asking, h2::Error>> {
        if !self.sender.is_extended_connect_protocol_enabled() {
            return None;
        }
        let mut request = translated(head, origin);
        *request.method_mut() = Method::CONNECT;
        request.headers_mut().remove(SEC_WEBSOCKET_KEY);
        request.headers_mut().remove(CONTENT_LENGTH);
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let begun = self.sender.clone().send_request(request, false);
        if begun.is_err() {
            self.shared.retired.store(true, Ordering::Relaxed);
        }
        Some(begun.map(|(answer, out)| Asking { answer, out, slot: Arc::new(self) }))
    }
}

impl Asking {
    /// Waits for the head of the answer.
    pub(super) async fn answer(&mut self) -> Result<http::Response<RecvStream>, Fault> {
        (&mut self.answer).await.map_err(|error| Fault::Connection(Broken::Http2(error)))
    }

    /// What the answer means.
    pub(super) fn asked(mut self, answer: http::Response<RecvStream>) -> (Asked, Arc<Slot>) {
        if answer.status().is_success() {
            let (head, incoming) = answer.into_parts();
            return (Asked::Granted((&head.headers).into(), self.out, incoming), self.slot);
        }
        // There is nothing to say any more. Where that comes too late the backend has ended the stream itself.
        let _ = self.out.send_data(Bytes::new(), true);
        (Asked::Declined(incoming(answer)), self.slot)
    }
}

impl Begun {
    /// Waits for the head of the answer.
    pub(super) async fn answer(&mut self) -> Result<Response<Incoming>, Fault> {
        let mut informed = 0;
        let answer = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(informational))) = self.answer.poll_informational(cx) {
                informed += 1;
                if informed > MOST_INFORMATIONAL {
                    return Poll::Ready(None);
                }
                let (head, ()) = informational.into_parts();
                self.progress.informed(head.status, Version::HTTP_2, &(&head.headers).into());
            }
            Pin::new(&mut self.answer).poll(cx).map(Some)
        });
        match answer.await {
            None => Err(Fault::BadAnswer),
            Some(Ok(response)) => {
                self.is_answered = true;
                Ok(incoming(response))
            }
            Some(Err(error)) => {
                let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(match cause {
                    Some(cause) => Fault::RequestBody(cause),
                    None => Fault::Connection(Broken::Http2(error)),
                })
            }
        }
    }

    /// There was no answer in time. If nothing at all has come since the request began, the connection may be dead, and
    /// others should not be sent into the same silence; those that are under way on it may still be answered.
    pub(super) fn timed_out(&self) {
        if self.slot.shared.streams.heard() == self.heard {
            self.slot.shared.retired.store(true, Ordering::Relaxed);
        }
    }
}

/// The connection-specific fields, which HTTP/2 does not have (RFC 9113 §8.2.2).
const SPECIFIC: [HeaderName; 6] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// The head as HTTP/2 has it (RFC 9113 §8.3.1): the host is part of the target.
pub(super) fn translated(head: &Parts, origin: &Origin) -> http::Request<()> {
    let host = head.headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if origin.https { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(host.unwrap_or_else(|| origin.authority.clone()));
    let root = || PathAndQuery::from_static("/");
    uri.path_and_query = Some(head.uri.path_and_query().cloned().unwrap_or_else(root));
    let mut request = http::Request::new(());
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_parts(uri).expect("it has all three parts");
    let fields = request.headers_mut();
    fields.reserve(head.headers.len());
    for (name, value) in &head.headers {
        let is_te = name == TE && !value.as_bytes().eq_ignore_ascii_case(b"trailers");
        if name != HOST && !is_te && !SPECIFIC.iter().any(|specific| name == specific) {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("the same bytes may stand in a field");
            fields.append(HeaderName::from(name), value);
        }
    }
    request
}

/// The task that sends a body.
struct Out {
    stream: SendStream<Bytes>,
    sending: Arc<Sending>,
    cause: Arc<Mutex<Option<BoxError>>>,
    /// The request is under way until its body is through, even if its answer was sooner.
    slot: Arc<Slot>,
}

enum Stopped {
    /// By the backend, or with the connection.
    There,
    /// The client's body broke off.
    Here(BoxError),
}

impl From<h2::Error> for Stopped {
    fn from(_: h2::Error) -> Self {
        Self::There
    }
}

impl Out {
    async fn send<B>(self, body: B, progress: Arc<Progress>, patience: Duration)
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let sending = Arc::clone(&self.sending);
        let (streams, stream) = (Arc::clone(&self.slot.shared.streams), self.stream.stream_id());
        // Who waits for the answer or holds a turn gives up sooner. Of a read that has its answer nobody else looks after the
        // body.
        let watch = async {
            progress.stalls(patience * 2).await;
            sending.cancel();
            std::future::pending().await
        };
        tokio::select! {
            () = self.send_all(body, &progress) => {}
            () = watch => {}
        }
        // Where the backend has ended it, no frame does.
        streams.forget(stream.as_u32());
    }

    async fn send_all<B>(mut self, body: B, progress: &Progress)
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let sending = Arc::clone(&self.sending);
        let poured = tokio::select! {
            biased;
            () = sending.cancelled() => return self.cancel(),
            poured = pour(&mut self.stream, body, progress) => poured,
        };
        match poured {
            Ok(()) => tokio::select! {
                biased;
                _ = sending.all_sent() => {}
                () = sending.cancelled() => self.cancel(),
                _ = poll_fn(|cx| self.stream.poll_reset(cx)) => sending.given_up(),
            },
            Err(Stopped::There) => sending.given_up(),
            Err(Stopped::Here(cause)) => {
                *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
                self.cancel();
            }
        }
        drop(self.slot);
    }

    fn cancel(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
        self.sending.given_up();
    }
}

/// Gives a body to h2, piece by piece, as far as the backend takes it.
async fn pour<B>(stream: &mut SendStream<Bytes>, body: B, progress: &Progress) -> Result<(), Stopped>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    loop {
        // Not sooner, so that the client is not asked for more than the backend takes.
        room(stream, 1).await?;
        let frame = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Stopped::There));
            }
            body.as_mut().poll_frame(cx).map(Ok)
        });
        let frame = match frame.await? {
            Some(frame) => frame.map_err(|cause| Stopped::Here(cause.into()))?,
            None => return Ok(stream.send_data(Bytes::new(), true)?),
        };
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => return Ok(stream.send_trailers(trailers)?),
                Err(_) => continue,
            },
        };
        let is_last = body.is_end_stream();
        while !data.is_empty() {
            let room = room(stream, data.len()).await?;
            let piece = data.split_to(room.min(data.len()));
            progress.took();
            stream.send_data(piece, is_last && data.is_empty())?;
            if is_last && data.is_empty() {
                return Ok(());
            }
        }
        if is_last {
            return Ok(stream.send_data(Bytes::new(), true)?);
        }
    }
}

/// Waits until the backend takes something.
async fn room(stream: &mut SendStream<Bytes>, wanted: usize) -> Result<usize, Stopped> {
    stream.reserve_capacity(wanted);
    loop {
        // h2 tells of a change only, so what there is comes first.
        let room = stream.capacity();
        if room > 0 {
            return Ok(room);
        }
        poll_fn(|cx| stream.poll_capacity(cx)).await.ok_or(Stopped::There)??;
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: RecvStream,
    /// What is left of the announced length.
    left: Option<u64>,
    data_ended: bool,
    ended: bool,
}

fn incoming(response: http::Response<RecvStream>) -> Response<Incoming> {
    let response = Response::from(response);
    let left = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    response.map(|stream| Incoming { left, data_ended: false, ended: stream.is_end_stream(), stream })
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    // It is on its way to the client.
                    self.stream.flow_control().release_capacity(data.len())?;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Of an end that is a reset, whatever its reason, nothing is known to be whole.
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers: Option<HeaderMap> = ready!(self.stream.poll_trailers(cx))?;
        self.ended = true;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
