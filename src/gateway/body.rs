//! Bodies on their way: a request's to the backend. What a client sends is in `inbound`, what it is sent in `answer`.
//!
//! A request's body is passed on as complete only if the client's ended as such, and short of its announced length it
//! has not ended (the final chunk is the backend's sign to commit). Trailers pass through a list
//! ([`Trailers`]), behind bodies that do not say how long they are.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    informational::{Held, UntilAsked},
    seen::Incoming,
    trailers::Trailers,
};
use crate::{
    clock::Alarm,
    core::{
        fingerprint::{Fingerprint, Printing},
        policy::Policy,
    },
    upstream::Progress,
};

mod answer;
mod from_client;
mod inbound;
mod recording;

pub use answer::Answer;
pub use from_client::{Broken, FromClient};
pub(super) use inbound::{Ahead, Inbound, linger};
use inbound::{Allowance, gone, is_short, swallow};
pub(super) use recording::Keep;

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
    Broken(#[source] Broken),
    /// The client has ended its side of the connection in the midst of it.
    #[error("the client hung up in the midst of the request's body")]
    Gone,
    /// It ended before its announced length.
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
pub(super) enum Outgoing {
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
pub(super) struct Stream {
    /// What was read ahead.
    prefix: Bytes,
    /// `None` once it has broken off.
    rest: Option<Incoming>,
    /// What may stand behind it.
    trailers: Trailers,
    /// Whether it does not say how long it is, and so may have something behind it.
    is_open: bool,
    /// Whether the client has not been asked for it yet, and waits for that.
    awaits_continue: bool,
    /// Held back until the backend asks for it.
    until_asked: Option<UntilAsked>,
    allowance: Allowance,
    /// Until when the client is waited for, while it is, and what it then has failed to do.
    late: Option<(Instant, BodyError)>,
    alarm: Alarm,
    /// How long what is left of it is read after it was dropped.
    linger_time: Duration,
    /// How long what is left of it is read after the client was refused for it.
    drain_time: Duration,
    progress: Arc<Progress>,
    /// Sent `true` once the body has ended as it should; dropped with the body otherwise.
    ended: Option<oneshot::Sender<bool>>,
    /// Taken of it while it passes.
    printing: Option<Printed>,
    /// Ready once nothing more comes from the client.
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A fingerprint that is being taken, and where it goes.
struct Printed {
    printing: Printing,
    printed: Arc<OnceLock<Fingerprint>>,
}

impl Outgoing {
    /// A body to be streamed. The receiver learns whether it ended as it should; it gets an error if it was dropped before.
    /// With `until_asked` the client is not asked for it before the backend does.
    pub(super) fn stream(
        ahead: Bytes,
        rest: Box<Inbound>,
        policy: &Policy,
        progress: &Arc<Progress>,
        until_asked: Option<UntilAsked>,
    ) -> (Self, oneshot::Receiver<bool>) {
        let (ended, receiver) = oneshot::channel();
        let is_open = rest.trailers.are_announced() || !rest.is_sized();
        let gone = gone(rest.body.as_ref().map(Incoming::client));
        let stream = Stream {
            prefix: ahead,
            rest: rest.body,
            trailers: rest.trailers,
            is_open,
            awaits_continue: rest.awaits_continue,
            until_asked,
            allowance: rest.allowance,
            late: None,
            alarm: Alarm::default(),
            linger_time: policy.linger_time,
            drain_time: policy.drain_time,
            progress: Arc::clone(progress),
            ended: Some(ended),
            printing: None,
            gone: Box::pin(gone),
        };
        (Self::Stream(Box::new(stream)), receiver)
    }

    /// What was read ahead, as all there is.
    pub(super) fn whole(ahead: Ahead) -> Self {
        match ahead {
            Ahead { bytes, trailers: Some(trailers) } => Self::Trailed(bytes, Some(trailers)),
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

    /// Has its fingerprint taken while it passes, if it is still to come.
    pub(super) fn print(&mut self, printing: Printing, printed: &Arc<OnceLock<Fingerprint>>) {
        match self {
            Self::Empty | Self::Whole(_) | Self::Trailed(..) => {}
            Self::Stream(stream) => stream.printing = Some(Printed { printing, printed: Arc::clone(printed) }),
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
                let (until, _) = *self.late.get_or_insert_with(|| {
                    self.progress.waits_for_client();
                    self.allowance.waits()
                });
                if self.gone.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Err(BodyError::Gone)));
                }
                ready!(self.alarm.poll(cx, until));
                return Poll::Ready(self.late.take().map(|(_, late)| Err(late)));
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
                None if is_short(rest) => Some(Err(BodyError::Short)),
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
        if let Some(Printed { printing, printed }) = self.printing.take() {
            // It is taken once.
            let _ = printed.set(printing.finish());
        }
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
                if let (Some(Ok(frame)), Some(Printed { printing, .. })) = (&next, &mut stream.printing) {
                    printing.piece(frame.data_ref().map_or(&[], |data| data));
                }
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
