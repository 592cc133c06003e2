//! A client's body: what it may take, read ahead, put back, or read and dropped.

use std::{
    future::{pending, poll_fn},
    pin::pin,
    sync::{Arc, LazyLock},
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Version, header::EXPECT};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    super::{
        client::Client,
        seen::{Incoming, Seen},
        trailers::Trailers,
    },
    BodyError, Broken, FromClient,
};
use crate::{
    clock,
    core::{
        fingerprint::{Fingerprint, Printing},
        message::request::Parts,
        policy::Policy,
    },
};

/// The limits before a route is known.
static DEFAULT: LazyLock<Policy> = LazyLock::new(Policy::default);

/// A client's body, as far as nobody has taken it.
#[derive(Debug)]
pub(in crate::gateway) struct Inbound {
    pub(super) body: Option<Incoming>,
    /// What was read ahead of it and put back.
    ahead: Ahead,
    /// Whether the client sends nothing before it is asked to, which the first look at the body does.
    pub(super) awaits_continue: bool,
    /// What may stand behind it.
    pub(super) trailers: Trailers,
    pub(super) allowance: Allowance,
}

/// What a client may take for its body, and what it has taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// The bytes of it.
    max: Option<u64>,
    /// The longest pause; and how long nobody asks how much came on average.
    pub(super) idle: Duration,
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
    pub(super) fn waits(&mut self) -> (Instant, BodyError) {
        let since = *self.since.get_or_insert_with(clock::now);
        let deserved = self.received.saturating_mul(1000).checked_div(self.rate).map(Duration::from_millis);
        match deserved.map(|time| time.max(self.idle).saturating_sub(self.waited)) {
            Some(left) if left < self.idle => (since + left, BodyError::Slow),
            Some(_) | None => (since + self.idle, BodyError::Idle),
        }
    }

    /// The client is not waited for any more.
    pub(super) fn waited(&mut self) {
        self.waited += self.since.take().map_or(Duration::ZERO, clock::since);
    }

    /// So much has come.
    pub(super) fn took(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.received = self.received.saturating_add(bytes as u64);
        self.admits(self.received)
    }

    fn admits(&self, bytes: u64) -> Result<(), BodyError> {
        self.max.filter(|max| bytes > *max).map_or(Ok(()), |max| Err(BodyError::TooLong(max)))
    }
}

/// What was read of a body before it is passed on.
#[derive(Debug, Default, Clone)]
pub(in crate::gateway) struct Ahead {
    pub(in crate::gateway) bytes: Bytes,
    /// What stood behind it, if that was all of it.
    pub(in crate::gateway) trailers: Option<Box<HeaderMap>>,
}

impl Inbound {
    /// The body of the request with this head.
    pub(in crate::gateway) fn new(body: FromClient, head: &Parts, seen: &Arc<Seen>) -> Self {
        // HTTP/1.0 does not know of it (RFC 9110 §10.1.1).
        let may_wait = head.headers.contains_key(EXPECT) && head.version > Version::HTTP_10;
        let body = (!body.is_end_stream()).then(|| Incoming::new(body, seen));
        let awaits_continue = may_wait && body.is_some();
        Self {
            body,
            ahead: Ahead::default(),
            awaits_continue,
            trailers: Trailers::default(),
            allowance: Allowance::of(&DEFAULT),
        }
    }

    /// Whether there is nothing more to come of it.
    pub(in crate::gateway) fn is_over(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// What may stand behind it. Before this is said, nothing may.
    pub(in crate::gateway) fn let_through(&mut self, trailers: Trailers) {
        self.trailers = trailers;
    }

    /// Has its route's limits hold for it.
    ///
    /// # Errors
    ///
    /// A length that is over them. Nothing of the body has been asked for then.
    pub(in crate::gateway) fn limit(&mut self, policy: &Policy) -> Result<(), BodyError> {
        let ahead = self.ahead.bytes.len() as u64;
        self.allowance = Allowance { received: ahead, ..Allowance::of(policy) };
        let rest = self.body.as_ref().map_or(0, |body| body.size_hint().lower());
        self.allowance.admits(ahead.saturating_add(rest))
    }

    /// Whether the client has not been asked for its body yet, and waits for that.
    pub(in crate::gateway) fn awaits_continue(&self) -> bool {
        self.awaits_continue
    }

    /// Whether its length is known beforehand.
    pub(in crate::gateway) fn is_sized(&self) -> bool {
        !self.ahead.bytes.is_empty()
            || self.ahead.trailers.is_some()
            || self.body.as_ref().is_none_or(|body| body.size_hint().exact().is_some())
    }

    /// What is left of it, in a box, since it is handed on from step to step; `None` if that is nothing.
    pub(in crate::gateway) fn take(&mut self) -> Option<Box<Self>> {
        let body = self.body.take().filter(|body| !body.is_end_stream())?;
        Some(Box::new(Self { body: Some(body), ahead: Ahead::default(), trailers: self.trailers.clone(), ..*self }))
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
    pub(in crate::gateway) async fn read_ahead(&mut self, limit: usize) -> Result<Ahead, BodyError> {
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
            let frame = match at_once(next_frame(body)).await {
                Some(frame) => frame?,
                None => {
                    let (until, late) = self.allowance.waits();
                    let frame = timeout_at(until, next_frame(body)).await.map_err(|_| late)?;
                    self.allowance.waited();
                    frame?
                }
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.allowance.took(data.len())?;
                        ahead.extend(data);
                    }
                    Err(frame) => {
                        trailers = frame.trailers_ref().and_then(|came| self.trailers.filter(came)).map(Box::new)
                    }
                },
                Some(Err(error)) => return Err(BodyError::Broken(error)),
                None if is_short(body) => return Err(BodyError::Short),
                None => break,
            }
        }
        self.body = None;
        Ok(Ahead { bytes: ahead.joined(), trailers })
    }

    /// Whether nothing of it is left to be read.
    pub(in crate::gateway) fn is_read(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Reads all of it and drops it, but for its fingerprint.
    ///
    /// # Errors
    ///
    /// As [`Inbound::read_ahead`].
    ///
    /// # Cancel safety
    ///
    /// As [`Inbound::read_ahead`].
    pub(in crate::gateway) async fn fingerprint(&mut self, mut printing: Printing) -> Result<Fingerprint, BodyError> {
        printing.piece(&std::mem::take(&mut self.ahead).bytes);
        self.awaits_continue = false;
        while let Some(body) = self.body.as_mut().filter(|body| !body.is_end_stream()) {
            let (until, late) = self.allowance.waits();
            let frame = timeout_at(until, next_frame(body)).await.map_err(|_| late)?;
            self.allowance.waited();
            match frame? {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    self.allowance.took(data.len())?;
                    printing.piece(data);
                }
                Some(Err(error)) => return Err(BodyError::Broken(error)),
                None if is_short(body) => return Err(BodyError::Short),
                None => break,
            }
        }
        self.body = None;
        Ok(printing.finish())
    }

    /// What is left of a body whose sender is not waited for any more. None of a client that was not asked for it.
    pub(in crate::gateway) fn take_rest(&mut self) -> Option<Incoming> {
        self.body.take().filter(|body| !self.awaits_continue && !body.is_end_stream())
    }

    /// Puts back what was read ahead, for somebody else to read.
    pub(in crate::gateway) fn put_back(&mut self, ahead: Ahead) {
        self.ahead = ahead;
    }

    /// Reads and drops what a refused request still sends, so that the answer is not destroyed on its way by the reset
    /// that follows closing on unread bytes. Returns the body if there was more than `bytes` of it, or more than came
    /// within `time`. Of a client that was not asked for its body nothing is read.
    pub(in crate::gateway) async fn drain(&mut self, bytes: u64, time: Duration) -> Option<Incoming> {
        if self.awaits_continue {
            return None;
        }
        let mut body = self.body.take()?;
        let (mut deadline, mut dropped) = (None, 0);
        while dropped <= bytes {
            if body.is_end_stream() {
                return None;
            }
            let next = match at_once(next_frame(&mut body)).await {
                Some(next) => next,
                None => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + time);
                    let Ok(next) = timeout_at(until, next_frame(&mut body)).await else { break };
                    next
                }
            };
            match next {
                Ok(Some(Ok(frame))) => dropped += frame.data_ref().map_or(0, |data| data.len() as u64),
                Ok(Some(Err(_)) | None) | Err(_) => return None,
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

/// Whether a body that says that it is at its end has not come to it: it is shorter than its length.
pub(super) fn is_short(body: &Incoming) -> bool {
    body.size_hint().lower() > 0
}

/// What comes next of a body.
async fn next_frame(body: &mut Incoming) -> Result<Option<Result<Frame<Bytes>, Broken>>, BodyError> {
    body.next().await.ok_or(BodyError::Gone)
}

/// What is there already: most bodies come with their heads, and no clock need run for them. Only for what may be dropped.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        })
    })
    .await
}

/// Returns once nothing more comes from who sends a body; never, where there is none.
pub(super) async fn gone(client: Option<Arc<Client>>) {
    match client {
        Some(client) => client.gone().await,
        None => pending().await,
    }
}

/// Goes on reading and dropping beside the answer, which says that the connection closes: for a client that reads the
/// answer only after it has sent everything, this is the difference between an answer and a broken connection.
pub(in crate::gateway) async fn linger(body: Incoming, time: Duration) {
    // Over time or at the end, there is nothing left to do for the answer.
    let _ = timeout(time, swallow(body, time)).await;
}

pub(super) async fn swallow(mut body: Incoming, idle: Duration) {
    while let Ok(Some(Ok(_))) = timeout(idle, body.frame()).await {}
}
