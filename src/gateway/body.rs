//! Bodies on their way: read ahead, passed on, or read and dropped.
//!
//! A request's body is passed on as complete only if the client's ended as such, and short of its announced length it
//! has not ended (the final chunk is the backend's sign to commit). Trailers pass through a list
//! ([`Trailers`]), behind bodies that do not say how long they are.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, Version, header::EXPECT, request::Parts};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep, timeout, timeout_at},
};

use super::{
    client::{Client, UntilAnswered},
    informational::{Held, UntilAsked},
    seen::Incoming,
    trailers::Trailers,
};
use crate::{
    core::policy::Policy,
    upstream::{self, AnswerError, FromUpstream, Progress},
};

/// The limits before a route is known.
static DEFAULT: LazyLock<Policy> = LazyLock::new(Policy::default);

/// Why a client's body can't be passed on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client paused for too long.
    #[error("the request's body paused for longer than body_idle_timeout")]
    Idle,
    /// The client did not pause for so long, but sent too little all the same.
    #[error("the request's body came more slowly than body_rate")]
    Slow,
    /// There is more of it than so many bytes.
    #[error("the request's body is longer than the {0} bytes of max_body")]
    TooLong(u64),
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
            Self::Idle | Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Broken(_) | Self::Gone | Self::Short => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether there may be more of the body, which nobody will take.
    pub(super) fn leaves_a_rest(&self) -> bool {
        match self {
            Self::Idle | Self::Slow | Self::TooLong(_) => true,
            Self::Broken(_) | Self::Gone | Self::Short => false,
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
    /// All of it is here, and trailers are.
    Trailed(Bytes, Option<Box<HeaderMap>>),
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
    /// What may stand behind it.
    trailers: Trailers,
    /// Whether it does not say how long it is, and so may have something behind it.
    is_open: bool,
    /// Whether the client has not been asked for it yet, and waits for that.
    awaits_continue: bool,
    /// Held back until the backend asks for it.
    until_asked: Option<UntilAsked>,
    allowance: Allowance,
    /// Runs while the client is waited for, and what it then has failed to do.
    patience: Pin<Box<Sleep>>,
    late: Option<BodyError>,
    /// How long what is left of it is read after it was dropped.
    linger_time: Duration,
    /// How long what is left of it is read after the client was refused for it.
    drain_time: Duration,
    progress: Arc<Progress>,
    /// Sent `true` once the body has ended as it should; dropped with the body otherwise.
    ended: Option<oneshot::Sender<bool>>,
    /// Ready once nothing more comes from the client.
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Outgoing {
    /// A body to be streamed. The receiver learns whether it ended as it should; it gets an error if it was dropped before.
    /// Where the client waits to be asked and `can_ask` says that the backend can, it is not asked before.
    pub(super) fn stream(
        ahead: Bytes,
        rest: Inbound,
        policy: &Policy,
        progress: &Arc<Progress>,
        can_ask: bool,
    ) -> (Self, oneshot::Receiver<bool>) {
        let (ended, receiver) = oneshot::channel();
        let is_open = rest.trailers.are_announced() || !rest.is_sized();
        let stream = Stream {
            prefix: ahead,
            rest: rest.body,
            is_http2: rest.is_http2,
            trailers: rest.trailers,
            is_open,
            awaits_continue: rest.awaits_continue,
            until_asked: (can_ask && rest.awaits_continue).then(UntilAsked::new),
            allowance: rest.allowance,
            patience: Box::pin(sleep(Duration::ZERO)),
            late: None,
            linger_time: policy.linger_time,
            drain_time: policy.drain_time,
            progress: Arc::clone(progress),
            ended: Some(ended),
            gone: Box::pin(gone(rest.client)),
        };
        (Self::Stream(Box::new(stream)), receiver)
    }

    /// What was read ahead, as all there is.
    pub(super) fn whole(ahead: Ahead) -> Self {
        match ahead {
            Ahead { bytes, trailers: Some(trailers) } => Self::Trailed(bytes, Some(Box::new(trailers))),
            Ahead { bytes, trailers: None } if bytes.is_empty() => Self::Empty,
            Ahead { bytes, trailers: None } => Self::Whole(bytes),
        }
    }

    /// What may stand behind it, as far as it is known.
    pub(super) fn trailers(&self) -> Trailers {
        match self {
            Self::Empty | Self::Whole(_) | Self::Trailed(_, None) => Trailers::default(),
            Self::Trailed(_, Some(trailers)) => Trailers::known(trailers),
            Self::Stream(stream) if stream.is_open => stream.trailers.clone(),
            Self::Stream(_) => Trailers::default(),
        }
    }

    /// Whether it is held back until the backend asks for it.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        match self {
            Self::Empty | Self::Whole(_) | Self::Trailed(..) => None,
            Self::Stream(stream) => stream.until_asked.as_ref().map(|until| Arc::clone(until.held())),
        }
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
            runtime.spawn(timeout(self.linger_time, swallow(rest, self.allowance.idle)));
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("ahead", &self.prefix.len()).finish_non_exhaustive()
    }
}

impl Stream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.prefix.is_empty() {
            self.progress.took();
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.prefix)))));
        }
        if let Some(until_asked) = &mut self.until_asked {
            // Nobody but the gateway keeps the backend waiting.
            self.progress.waits_for_client();
            ready!(until_asked.poll(cx));
            self.until_asked = None;
            self.progress.took();
        }
        loop {
            let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
            self.awaits_continue = false;
            let Poll::Ready(frame) = Pin::new(&mut *rest).poll_frame(cx) else {
                if self.late.is_none() {
                    let (until, late) = self.allowance.waits();
                    self.patience.as_mut().reset(until);
                    self.late = Some(late);
                    self.progress.waits_for_client();
                }
                if self.gone.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Err(BodyError::Gone)));
                }
                ready!(self.patience.as_mut().poll(cx));
                return Poll::Ready(self.late.take().map(Err));
            };
            self.late = None;
            self.allowance.waited();
            self.progress.took();
            return Poll::Ready(match frame {
                Some(Ok(frame)) => match frame.into_trailers() {
                    // They come at the very end, which is checked there.
                    Ok(trailers) => match self.trailers.filter(&trailers).filter(|_| !self.falls_short()) {
                        Some(trailers) => {
                            self.finish();
                            Some(Ok(Frame::trailers(trailers)))
                        }
                        None => continue,
                    },
                    Err(frame) => {
                        let received = frame.data_ref().map_or(0, Bytes::len);
                        Some(self.allowance.took(received).map(|()| frame))
                    }
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

    /// A body that says how long it is has ended with its last byte, whatever still comes behind that.
    fn is_at_end(&self) -> bool {
        let is_whole = |rest: &Incoming| !self.is_open && rest.size_hint().exact() == Some(0);
        self.prefix.is_empty() && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream() || is_whole(rest))
    }

    fn falls_short(&self) -> bool {
        self.rest.as_ref().is_none_or(|rest| rest.size_hint().lower() > 0)
    }

    /// There is nothing more to pass on, and nobody may take this for the end. What the client still sends is read for a
    /// while, as in [`Inbound::drain`].
    fn break_off(&mut self, leaves_a_rest: bool) {
        self.ended = None;
        if let Some(rest) = self.rest.take()
            && leaves_a_rest
        {
            tokio::spawn(linger(rest, self.drain_time));
        }
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
                Self::Empty | Self::Trailed(..) | Self::Stream(_) => Poll::Ready(None),
            },
            Self::Trailed(bytes, trailers) if bytes.is_empty() => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Self::Trailed(bytes, _) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => {
                let next = ready!(stream.poll_next(cx));
                if let Some(Err(error)) = &next {
                    stream.break_off(error.leaves_a_rest());
                } else if stream.is_at_end() {
                    stream.finish();
                }
                Poll::Ready(next)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Trailed(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
            Self::Stream(stream) => stream.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // With a length there would be no place for trailers.
            Self::Trailed(..) => SizeHint::default(),
            Self::Stream(stream) if stream.is_open => SizeHint::default(),
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
    /// What was read ahead of it and put back.
    ahead: Ahead,
    /// Whether the client sends nothing before it is asked to, which the first look at the body does.
    awaits_continue: bool,
    is_http2: bool,
    /// What may stand behind it.
    trailers: Trailers,
    client: Arc<Client>,
    allowance: Allowance,
}

/// What a client may take for its body, and what it has taken.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    /// The bytes of it.
    max: Option<u64>,
    /// The longest pause; and how long nobody asks how much came on average.
    idle: Duration,
    /// The bytes a second on average; zero: any.
    rate: u64,
    received: u64,
    /// How long the client has been waited for in all. Time that the backend takes is not the client's.
    waited: Duration,
    /// Since when it is waited for.
    since: Option<Instant>,
}

impl Allowance {
    fn of(policy: &Policy) -> Self {
        Self {
            max: policy.max_body,
            idle: policy.body_idle_timeout,
            rate: policy.body_rate,
            received: 0,
            waited: Duration::ZERO,
            since: None,
        }
    }

    /// The client is waited for from now on. Returns until when, and what it has failed to do by then.
    fn waits(&mut self) -> (Instant, BodyError) {
        let since = *self.since.get_or_insert_with(Instant::now);
        let deserved = self.received.saturating_mul(1000).checked_div(self.rate).map(Duration::from_millis);
        match deserved.map(|time| time.max(self.idle).saturating_sub(self.waited)) {
            Some(left) if left < self.idle => (since + left, BodyError::Slow),
            Some(_) | None => (since + self.idle, BodyError::Idle),
        }
    }

    /// The client is not waited for any more.
    fn waited(&mut self) {
        self.waited += self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// So much has come.
    fn took(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.received = self.received.saturating_add(bytes as u64);
        self.admits(self.received)
    }

    fn admits(&self, bytes: u64) -> Result<(), BodyError> {
        self.max.filter(|max| bytes > *max).map_or(Ok(()), |max| Err(BodyError::TooLong(max)))
    }
}

/// What was read of a body before it is passed on.
#[derive(Debug, Default, Clone)]
pub(super) struct Ahead {
    pub(super) bytes: Bytes,
    /// What stood behind it, if that was all of it.
    pub(super) trailers: Option<HeaderMap>,
}

impl Inbound {
    /// The body of the request with this head.
    pub(super) fn new(body: Incoming, head: &Parts, client: &Arc<Client>) -> Self {
        // HTTP/1.0 does not know of it (RFC 9110 §10.1.1).
        let may_wait = head.headers.contains_key(EXPECT) && head.version > Version::HTTP_10;
        let awaits_continue = may_wait && !body.is_end_stream();
        let is_http2 = head.version == Version::HTTP_2;
        Self {
            body: Some(body),
            ahead: Ahead::default(),
            awaits_continue,
            is_http2,
            trailers: Trailers::default(),
            client: Arc::clone(client),
            allowance: Allowance::of(&DEFAULT),
        }
    }

    /// What may stand behind it. Before this is said, nothing may.
    pub(super) fn let_through(&mut self, trailers: Trailers) {
        self.trailers = trailers;
    }

    /// Has its route's limits hold for it.
    ///
    /// # Errors
    ///
    /// A length that is over them. Nothing of the body has been asked for then.
    pub(super) fn limit(&mut self, policy: &Policy) -> Result<(), BodyError> {
        let ahead = self.ahead.bytes.len() as u64;
        self.allowance = Allowance { received: ahead, ..Allowance::of(policy) };
        let rest = self.body.as_ref().map_or(0, |body| body.size_hint().lower());
        self.allowance.admits(ahead.saturating_add(rest))
    }

    /// Whether the client has not been asked for its body yet, and waits for that.
    pub(super) fn awaits_continue(&self) -> bool {
        self.awaits_continue
    }

    /// Whether its length is known beforehand.
    pub(super) fn is_sized(&self) -> bool {
        !self.ahead.bytes.is_empty()
            || self.ahead.trailers.is_some()
            || self.body.as_ref().is_some_and(|body| body.size_hint().exact().is_some())
    }

    /// What is left of it; `None` if that is nothing.
    pub(super) fn take(&mut self) -> Option<Self> {
        let body = self.body.take().filter(|body| !body.is_end_stream())?;
        let (trailers, client) = (self.trailers.clone(), Arc::clone(&self.client));
        Some(Self { body: Some(body), ahead: Ahead::default(), trailers, client, ..*self })
    }

    /// Reads it ahead. What is more than `limit` bytes is left, and not asked for where its length says so beforehand.
    ///
    /// # Errors
    ///
    /// A client that pauses for too long, is too slow or sends too much, or whose body breaks off.
    ///
    /// # Cancel safety
    ///
    /// What has been read is lost; the rest can still be drained.
    pub(super) async fn read_ahead(&mut self, limit: usize) -> Result<Ahead, BodyError> {
        let before = std::mem::take(&mut self.ahead);
        let Some(body) = self.body.as_mut().filter(|body| body.size_hint().lower() <= limit as u64) else {
            return Ok(before);
        };
        self.awaits_continue = false;
        let (mut ahead, mut trailers) = (Pieces { first: before.bytes, ..Pieces::default() }, before.trailers);
        while !body.is_end_stream() {
            if ahead.len() > limit {
                return Ok(Ahead { bytes: ahead.joined(), trailers: None });
            }
            let (until, late) = self.allowance.waits();
            let frame = timeout_at(until, next_frame(body, &self.client)).await.map_err(|_| late)?;
            self.allowance.waited();
            match frame? {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.allowance.took(data.len())?;
                        ahead.extend(data);
                    }
                    Err(frame) => trailers = frame.trailers_ref().and_then(|came| self.trailers.filter(came)),
                },
                Some(Err(error)) => return Err(BodyError::Broken(error)),
                None if is_short(body, self.is_http2) => return Err(BodyError::Short),
                None => break,
            }
        }
        self.body = None;
        Ok(Ahead { bytes: ahead.joined(), trailers })
    }

    /// What is left of a body whose sender is not waited for any more. None of a client that was not asked for it.
    pub(super) fn into_rest(self) -> Option<Incoming> {
        self.body.filter(|body| !self.awaits_continue && !body.is_end_stream())
    }

    /// Puts back what was read ahead, for somebody else to read.
    pub(super) fn put_back(&mut self, ahead: Ahead) {
        self.ahead = ahead;
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
    /// What of the backend's may stand behind it.
    trailers: Trailers,
    until_answered: Option<UntilAnswered>,
    cut: Option<Cut>,
}

#[derive(Debug)]
enum Source {
    Own(Bytes),
    Backend(FromUpstream<Outgoing>),
    /// None, although its length is said: what a 304 says is that of the representation (RFC 9110 §8.6). hyper says only
    /// what a body says of itself.
    Elsewhere(u64),
}

/// Closes the backend's connection once the answer is through, since the request that it answers never will be.
#[derive(Debug)]
struct Cut(upstream::Handle);

impl Drop for Cut {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Answer {
    /// A body of the gateway's own.
    pub(super) fn own(bytes: Bytes) -> Self {
        Self::of(Source::Own(bytes))
    }

    /// The backend's, without its trailers.
    pub(super) fn backend(body: FromUpstream<Outgoing>) -> Self {
        Self::of(Source::Backend(body))
    }

    /// None, of a representation of so many bytes.
    pub(super) fn elsewhere(length: u64) -> Self {
        Self::of(Source::Elsewhere(length))
    }

    fn of(source: Source) -> Self {
        Self { source, trailers: Trailers::default(), until_answered: None, cut: None }
    }

    /// With these trailers.
    pub(super) fn let_through(mut self, trailers: Trailers) -> Self {
        self.trailers = trailers;
        self
    }

    /// The connection that it comes by is closed when it is through.
    pub(super) fn cutting(mut self, connection: upstream::Handle) -> Self {
        self.cut = Some(Cut(connection));
        self
    }

    pub(super) fn until_answered(mut self, until_answered: UntilAnswered) -> Self {
        self.until_answered = Some(until_answered);
        self
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match &mut self.source {
            Source::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Elsewhere(_) => Poll::Ready(None),
            Source::Backend(body) => match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => {
                        // Nothing follows; looking for it gives the connection back.
                        let _ = Pin::new(body).poll_frame(cx);
                        Poll::Ready(self.trailers.filter(&trailers).map(|trailers| Ok(Frame::trailers(trailers))))
                    }
                    Err(frame) => Poll::Ready(Some(Ok(frame))),
                },
                end => Poll::Ready(end),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Backend(body) => body.is_end_stream(),
            Source::Elsewhere(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Backend(body) => body.size_hint(),
            Source::Elsewhere(length) => SizeHint::with_exact(*length),
        }
    }
}
