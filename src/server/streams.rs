//! The requests of one HTTP/2 connection: how many are under way, and whether their answers are taken.
//!
//! hyper runs each in a task by way of [`Streams`], the tasks of tunnels included, so that what is under way can be
//! counted. An answer of which its client takes nothing for `send_timeout` (it opens no window, while the connection is
//! alive) ends with a reset of its stream, which lets go of the backend. hyper offers no way to do that but to drop the
//! task.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::{
    sync::Notify,
    task_local,
    time::{Instant, Sleep, sleep_until, timeout},
};

use crate::{gateway::Delivery, upstream::AnswerError};

/// How many more requests a client may give up than it lets be answered. Each costs the backend a request.
const GIVEN_UP: usize = 200;
/// An answer is handed on in pieces of this size, so that it shows when a slow client takes something.
const PIECE: usize = 16 * 1024;

task_local! {
    /// The answer of the stream whose task this is.
    static SENDING: Arc<Sending>;
}

/// The requests of a connection.
#[derive(Debug, Clone)]
pub(super) struct Streams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    send_timeout: Duration,
    under_way: AtomicUsize,
    begun: AtomicUsize,
    /// How many more were given up than answered.
    given_up: AtomicUsize,
    /// Has word of each change. Only the connection's own task waits.
    changed: Notify,
}

/// Whether the client is waited for.
#[derive(Debug, Default)]
struct Sending(Mutex<Option<Instant>>);

impl Streams {
    pub(super) fn new(send_timeout: Duration) -> Self {
        Self(Arc::new(Shared {
            send_timeout,
            under_way: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            changed: Notify::new(),
        }))
    }

    /// A request begins. What is returned is told when it has its answer.
    pub(super) fn begin(&self) -> Unanswered {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.changed.notify_one();
        Unanswered(Some(Arc::clone(&self.0)))
    }

    /// Waits until the connection has had so many requests, or none was under way for so long, or its client only begins
    /// requests to give them up.
    pub(super) async fn over(&self, most: usize, idle: Duration) -> Over {
        loop {
            if self.0.given_up.load(Ordering::Relaxed) > GIVEN_UP {
                return Over::GivenUp;
            }
            if self.0.begun.load(Ordering::Relaxed) >= most {
                return Over::UsedUp;
            }
            let changed = self.0.changed.notified();
            if self.0.under_way.load(Ordering::Relaxed) > 0 {
                changed.await;
            } else if timeout(idle, changed).await.is_err() {
                return Over::Idle;
            }
        }
    }
}

/// Why a connection should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    UsedUp,
    Idle,
    GivenUp,
}

/// A request without an answer. Dropped as such, it was given up.
#[derive(Debug)]
pub(super) struct Unanswered(Option<Arc<Shared>>);

impl Unanswered {
    /// Its answer.
    pub(super) fn answered(mut self, answer: Delivery) -> Watched {
        if let Some(shared) = self.0.take() {
            let one_less = |count: usize| Some(count.saturating_sub(1));
            // Always some.
            let _ = shared.given_up.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        }
        Watched { answer: Some(answer), rest: Bytes::new(), sending: SENDING.try_with(Arc::clone).ok() }
    }

    /// The answer to a head with too many fields: the same as h2 gives by itself to one with too many bytes.
    pub(super) fn too_many_fields(self) -> Response<Watched> {
        // It counts as given up: it cost something, and nothing was asked for.
        let mut answer = Response::new(Watched { answer: None, rest: Bytes::new(), sending: None });
        *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        answer
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.given_up.fetch_add(1, Ordering::Relaxed);
            shared.changed.notify_one();
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let sending = Arc::<Sending>::default();
        let future = Box::pin(SENDING.scope(Arc::clone(&sending), future));
        tokio::spawn(Stream { future, sending, until: None, _under_way: UnderWay::new(&self.0) });
    }
}

#[derive(Debug)]
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.under_way.fetch_add(1, Ordering::Relaxed);
        shared.changed.notify_one();
        Self(Arc::clone(shared))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

/// One of hyper's tasks, which ends where the client takes nothing for too long.
struct Stream<F> {
    future: Pin<Box<F>>,
    sending: Arc<Sending>,
    until: Option<Pin<Box<Sleep>>>,
    _under_way: UnderWay,
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { future, sending, until, _under_way } = &mut *self;
        if future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = sending.since() else { return Poll::Pending };
        let deadline = since + _under_way.0.send_timeout;
        let until = until.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if until.deadline() != deadline {
            until.as_mut().reset(deadline);
        }
        ready!(until.as_mut().poll(cx));
        tracing::debug!("a client took nothing of an answer for send_timeout");
        Poll::Ready(())
    }
}

impl Sending {
    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// An answer that notes when a piece of it was handed on and the next has not been asked for.
#[derive(Debug)]
pub(super) struct Watched {
    /// `None`: there is no body.
    answer: Option<Delivery>,
    rest: Bytes,
    sending: Option<Arc<Sending>>,
}

impl Watched {
    fn waits_for_client(&self, since: Option<Instant>) {
        if let Some(sending) = &self.sending {
            sending.set(since);
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        self.waits_for_client(None);
        if self.rest.is_empty() {
            let Some(answer) = &mut self.answer else { return Poll::Ready(None) };
            match ready!(Pin::new(answer).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end @ (None | Some(Err(_))) => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        self.waits_for_client(Some(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.answer.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let answer = self.answer.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let rest = self.rest.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(answer.lower() + rest);
        if let Some(upper) = answer.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
