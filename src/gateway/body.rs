//! Bodies on their way: read ahead, passed on, or read and dropped.
//!
//! A request's body is passed on as complete only if the client's ended as such, and short of its announced length it
//! has not ended (the final chunk is the backend's sign to commit). Trailers do not pass yet: a trailer may bring any
//! field, `Content-Length` among them.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, Version, header::EXPECT, request::Parts};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep, timeout, timeout_at},
};

use super::{
    client::{Client, UntilAnswered},
    seen::Incoming,
};
use crate::{
    core::policy::Policy,
    upstream::{FromUpstream, Progress},
};

/// Why a client's body can't be passed on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client paused for too long.
    #[error("the request's body paused for longer than body_idle_timeout")]
    Idle,
    /// The connection broke, or the framing did.
    #[error("the request's body broke off")]
    Broken(#[source] hyper::Error),
    /// The client has ended its side of the connection in the midst of it.
    #[error("the client hung up in the midst of the request's body")]
    Gone,
    /// It ended before its announced length, or without the end that HTTP/2 marks.
    #[error("the request's body ended before it was complete")]
    Short,
}

impl BodyError {
    /// What the client is told, if it can still be told something.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Idle => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) | Self::Gone | Self::Short => StatusCode::BAD_REQUEST,
        }
    }
}

/// The body of a request to a backend.
#[derive(Debug)]
pub enum Outgoing {
    /// None.
    Empty,
    /// All of it is here.
    Whole(Bytes),
    /// More of it is still to come.
    Stream(Box<Stream>),
}

/// A body that is passed on while it is read.
pub struct Stream {
    /// What was read ahead.
    prefix: Bytes,
    /// `None` once it has broken off.
    rest: Option<Incoming>,
    is_http2: bool,
    /// Whether the client has not been asked for it yet, and waits for that.
    awaits_continue: bool,
    /// Runs while the client is waited for.
    idle: Pin<Box<Sleep>>,
    waiting: bool,
    idle_timeout: Duration,
    /// How long what is left of it is read after it was dropped.
    linger_time: Duration,
    progress: Arc<Progress>,
    /// Sent `true` once the body has ended as it should; dropped with the body otherwise.
    ended: Option<oneshot::Sender<bool>>,
    /// Ready once nothing more comes from the client.
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Outgoing {
    /// A body to be streamed. The receiver learns whether it ended as it should; it gets an error if it was dropped before.
    pub(super) fn stream(
        ahead: Bytes,
        rest: Inbound,
        policy: &Policy,
        progress: &Arc<Progress>,
    ) -> (Self, oneshot::Receiver<bool>) {
        let (ended, receiver) = oneshot::channel();
        let stream = Stream {
            prefix: ahead,
            rest: rest.body,
            is_http2: rest.is_http2,
            awaits_continue: rest.awaits_continue,
            idle: Box::pin(sleep(policy.body_idle_timeout)),
            waiting: false,
            idle_timeout: policy.body_idle_timeout,
            linger_time: policy.linger_time,
            progress: Arc::clone(progress),
            ended: Some(ended),
            gone: Box::pin(gone(rest.client)),
        };
        (Self::Stream(Box::new(stream)), receiver)
    }
}

/// Whoever drops a body before its end (a backend that can't be reached, or that answered early) leaves a client that may
/// still be sending. What it sends is read as long as it comes, so that its answer is not destroyed on its way: nobody
/// waits for that.
impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take_if(|rest| !rest.is_end_stream())
            && !self.awaits_continue
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(timeout(self.linger_time, swallow(rest, self.idle_timeout)));
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("ahead", &self.prefix.len()).finish_non_exhaustive()
    }
}

impl Stream {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if !self.prefix.is_empty() {
            self.progress.took();
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.prefix))));
        }
        loop {
            let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
            self.awaits_continue = false;
            let Poll::Ready(frame) = Pin::new(&mut *rest).poll_frame(cx) else {
                if !self.waiting {
                    self.waiting = true;
                    self.idle.as_mut().reset(Instant::now() + self.idle_timeout);
                    self.progress.waits_for_client();
                }
                if self.gone.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Err(BodyError::Gone)));
                }
                ready!(self.idle.as_mut().poll(cx));
                return Poll::Ready(Some(Err(BodyError::Idle)));
            };
            self.waiting = false;
            self.progress.took();
            return Poll::Ready(match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(Ok(data)),
                    Err(_trailers) => continue,
                },
                Some(Err(error)) => Some(Err(BodyError::Broken(error))),
                None if is_short(rest, self.is_http2) => Some(Err(BodyError::Short)),
                None => {
                    self.finish();
                    None
                }
            });
        }
    }

    fn is_at_end(&self) -> bool {
        self.prefix.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    /// There is nothing more to read, and nobody may take this for the end.
    fn break_off(&mut self) {
        (self.rest, self.ended) = (None, None);
    }

    fn finish(&mut self) {
        if let Some(ended) = self.ended.take() {
            // Nobody listens any more where the answer came first and the turn is over.
            let _ = ended.send(true);
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(_) => match std::mem::replace(&mut *self, Self::Empty) {
                Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Self::Empty | Self::Stream(_) => Poll::Ready(None),
            },
            Self::Stream(stream) => {
                let data = ready!(stream.poll_data(cx));
                if let Some(Err(_)) = data {
                    stream.break_off();
                } else if stream.is_at_end() {
                    stream.finish();
                }
                Poll::Ready(data.map(|data| data.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => match stream.rest.as_ref().and_then(|rest| rest.size_hint().exact()) {
                Some(rest) => SizeHint::with_exact(rest + stream.prefix.len() as u64),
                None => SizeHint::default(),
            },
        }
    }
}

/// A client's body, as far as nobody has taken it.
#[derive(Debug)]
pub(super) struct Inbound {
    body: Option<Incoming>,
    /// Whether the client sends nothing before it is asked to, which the first look at the body does.
    awaits_continue: bool,
    is_http2: bool,
    client: Arc<Client>,
}

impl Inbound {
    /// The body of the request with this head.
    pub(super) fn new(body: Incoming, head: &Parts, client: &Arc<Client>) -> Self {
        let awaits_continue = head.headers.contains_key(EXPECT) && !body.is_end_stream();
        let is_http2 = head.version == Version::HTTP_2;
        Self { body: Some(body), awaits_continue, is_http2, client: Arc::clone(client) }
    }

    /// Whether the client has not been asked for its body yet, and waits for that.
    pub(super) fn awaits_continue(&self) -> bool {
        self.awaits_continue
    }

    /// Whether its length is known beforehand.
    pub(super) fn is_sized(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.size_hint().exact().is_some())
    }

    /// What is left of it; `None` if that is nothing.
    pub(super) fn take(&mut self) -> Option<Self> {
        let body = self.body.take().filter(|body| !body.is_end_stream())?;
        Some(Self { body: Some(body), client: Arc::clone(&self.client), ..*self })
    }

    /// Reads it ahead. What is more than `limit` bytes is left, and not asked for where its length says so beforehand.
    ///
    /// # Errors
    ///
    /// A client that pauses for longer than `idle`, or whose body breaks off.
    pub(super) async fn read_ahead(&mut self, limit: usize, idle: Duration) -> Result<Bytes, BodyError> {
        let Some(mut body) = self.body.take_if(|body| body.size_hint().lower() <= limit as u64) else {
            return Ok(Bytes::new());
        };
        self.awaits_continue = false;
        let mut ahead = Pieces::default();
        while !body.is_end_stream() {
            if ahead.len() > limit {
                self.body = Some(body);
                break;
            }
            let frame = timeout(idle, next_frame(&mut body, &self.client)).await.map_err(|_| BodyError::Idle)?;
            match frame? {
                Some(Ok(frame)) => ahead.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(BodyError::Broken(error)),
                None if is_short(&body, self.is_http2) => return Err(BodyError::Short),
                None => break,
            }
        }
        Ok(ahead.joined())
    }

    /// Reads and drops what a refused request still sends, so that the answer is not destroyed on its way by the reset
    /// that follows closing on unread bytes. Returns the body if there was more than `bytes` of it, or more than came
    /// within `time`. Of a client that was not asked for its body nothing is read.
    pub(super) async fn drain(mut self, bytes: u64, time: Duration) -> Option<Incoming> {
        if self.awaits_continue {
            return None;
        }
        let mut body = self.body.take()?;
        let deadline = Instant::now() + time;
        let mut dropped = 0;
        while dropped <= bytes {
            match timeout_at(deadline, next_frame(&mut body, &self.client)).await {
                Ok(Ok(Some(Ok(frame)))) => dropped += frame.data_ref().map_or(0, |data| data.len() as u64),
                Ok(Ok(Some(Err(_)) | None) | Err(_)) => return None,
                Err(_) => break,
            }
        }
        Some(body)
    }
}

/// Pieces of a body. Most bodies come in one, which is passed on without a copy.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Pieces {
    fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    fn extend(&mut self, piece: Bytes) {
        if self.first.is_empty() {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&piece);
    }

    fn joined(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// Whether a body that says that it is at its end has not come to it: it is shorter than its length, or its HTTP/2 stream
/// was reset, which hyper shows as an end where the reset is without an error.
fn is_short(body: &Incoming, is_http2: bool) -> bool {
    body.size_hint().lower() > 0 || is_http2 && !body.is_end_stream()
}

/// What comes next of a body, unless nothing more comes. By the time that a client's end is seen, everything that came
/// before it has been handed on, so that a frame that is there is found first.
async fn next_frame(
    body: &mut Incoming,
    client: &Client,
) -> Result<Option<Result<Frame<Bytes>, hyper::Error>>, BodyError> {
    tokio::select! {
        biased;
        frame = body.frame() => Ok(frame),
        () = client.gone() => Err(BodyError::Gone),
    }
}

async fn gone(client: Arc<Client>) {
    client.gone().await;
}

/// Goes on reading and dropping beside the answer, which says that the connection closes: for a client that reads the
/// answer only after it has sent everything, this is the difference between an answer and a broken connection.
pub(super) async fn linger(body: Incoming, time: Duration) {
    // Over time or at the end, there is nothing left to do for the answer.
    let _ = timeout(time, swallow(body, time)).await;
}

async fn swallow(mut body: Incoming, idle: Duration) {
    while let Ok(Some(Ok(_))) = timeout(idle, body.frame()).await {}
}

/// The body of an answer to a client.
#[derive(Debug)]
pub struct Answer {
    source: Source,
    until_answered: Option<UntilAnswered>,
}

#[derive(Debug)]
enum Source {
    Own(Bytes),
    Backend(FromUpstream<Outgoing>),
}

impl Answer {
    /// A body of the gateway's own.
    pub(super) fn own(bytes: Bytes) -> Self {
        Self { source: Source::Own(bytes), until_answered: None }
    }

    /// The backend's.
    pub(super) fn backend(body: FromUpstream<Outgoing>) -> Self {
        Self { source: Source::Backend(body), until_answered: None }
    }

    pub(super) fn until_answered(mut self, until_answered: UntilAnswered) -> Self {
        self.until_answered = Some(until_answered);
        self
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.source {
            Source::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Backend(body) => loop {
                match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    Some(Ok(frame)) if frame.is_trailers() => {}
                    other => return Poll::Ready(other),
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Backend(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Backend(body) => body.size_hint(),
        }
    }
}
