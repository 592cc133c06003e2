//! Informational answers (1xx) on their way from a backend to a client, and a request's body that waits for one.
//!
//! hyper's server sends none but its own `100 Continue`. So what a backend says in advance (`103 Early Hints`, `102`) is
//! queued here, and the client's connection writes it where one message has ended and the next has not begun: while hyper
//! has nothing left to write and the answer is still to come. Over HTTP/2 each stream has a place for them of its own
//! ([`Early`]). They change nothing else: no turn ends by one, and no timeout begins anew.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{StatusCode, Version, header::CONTENT_LENGTH};
use tokio::{
    sync::Notify,
    time::{Sleep, sleep},
};

use super::{client::Client, headers, seen::Seen};
use crate::{core::fields::Fields, upstream::OnInformational};

/// How many a client is sent before one answer; the rest is dropped.
const MAX_ANSWERS: usize = 32;
/// How many bytes of them may wait to be written; over HTTP/2, how many there may be.
const MAX_BYTES: usize = 16 * 1024;
/// How long a body is held back from a backend that does not say `100 Continue`. Not all do.
const PATIENCE: Duration = Duration::from_secs(1);

/// Those that are on their way to one client. Nearly all answers have none before them, so who drives the connection, which
/// begins and ends with each request, locks nothing until something has been said.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The number of the last request, so that none gets what was meant for an earlier one.
    last: AtomicU64,
    /// That number while an answer is still to come, before which these may be sent; else 0.
    open: AtomicU64,
    /// Whether something was said since that request began.
    is_used: AtomicBool,
    state: Mutex<State>,
    written: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The request that these were meant for.
    request: u64,
    waiting: VecDeque<Bytes>,
    bytes: usize,
    answers: usize,
    /// Whether one is being written.
    is_writing: bool,
    /// Who writes the connection.
    writer: Option<Waker>,
}

impl State {
    fn begin(&mut self, request: u64) {
        *self = Self { request, writer: self.writer.take(), ..Self::default() };
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request began whose answer others may precede. Returns its number.
    pub(super) fn open(&self) -> u64 {
        let request = self.last.load(Ordering::Relaxed) + 1;
        self.last.store(request, Ordering::Relaxed);
        if self.is_used.load(Ordering::SeqCst) {
            self.state().begin(request);
            self.is_used.store(false, Ordering::SeqCst);
        }
        self.open.store(request, Ordering::SeqCst);
        request
    }

    /// What comes at the moment at which the answer does may stay here, where its number says that it is meant for nobody.
    fn push(&self, request: u64, answer: Bytes) {
        let mut state = self.state();
        if self.open.load(Ordering::SeqCst) != request {
            return;
        }
        if state.request != request {
            state.begin(request);
        }
        if state.answers < MAX_ANSWERS && state.bytes + answer.len() <= MAX_BYTES {
            state.answers += 1;
            state.bytes += answer.len();
            state.waiting.push_back(answer);
            // First: whoever is woken looks at it.
            self.is_used.store(true, Ordering::SeqCst);
            if let Some(writer) = &state.writer {
                writer.wake_by_ref();
            }
        }
    }

    /// Whether there is something to ask for, for who has asked before by the same waker.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::SeqCst)
    }

    /// The next to be written, asked for where a message may begin. The one before has been written. `writer` is woken
    /// when there is another.
    pub(super) fn next(&self, writer: &Waker) -> Option<Bytes> {
        let mut state = self.state();
        if state.writer.as_ref().is_none_or(|known| !known.will_wake(writer)) {
            state.writer = Some(writer.clone());
        }
        if self.open.load(Ordering::SeqCst) != state.request {
            return None;
        }
        let next = state.waiting.pop_front();
        state.bytes -= next.as_ref().map_or(0, Bytes::len);
        let was_writing = std::mem::replace(&mut state.is_writing, next.is_some());
        if was_writing && next.is_none() {
            self.written.notify_waiters();
        }
        next
    }

    /// Waits until all have been written. From then on there are no more: the answer follows.
    pub(super) async fn close(&self) {
        while self.is_used() {
            let written = self.written.notified();
            {
                let state = self.state();
                if self.open.load(Ordering::SeqCst) != state.request || state.waiting.is_empty() && !state.is_writing {
                    // Under the lock: nothing is said in between.
                    self.open.store(0, Ordering::SeqCst);
                    return;
                }
            }
            written.await;
        }
        self.open.store(0, Ordering::SeqCst);
    }
}

/// What precedes the answer to one request, until whoever sends that answer takes it. h2 does not say what of it has been
/// written, so there is a bound for all.
#[derive(Debug, Default)]
pub struct Early(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    is_closed: bool,
    waiting: VecDeque<(StatusCode, Fields)>,
    bytes: usize,
    answers: usize,
    /// Who sends the answer.
    sender: Option<Waker>,
}

impl Early {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next to be sent. `sender` is woken when there is another.
    pub fn next(&self, sender: &Waker) -> Option<(StatusCode, Fields)> {
        let mut said = self.said();
        let next = said.waiting.pop_front();
        if next.is_none() && said.sender.as_ref().is_none_or(|before| !before.will_wake(sender)) {
            said.sender = Some(sender.clone());
        }
        next
    }

    /// The answer follows, and nothing may come before it any more.
    pub fn close(&self) {
        *self.said() = Said { is_closed: true, ..Said::default() };
    }

    /// The client should send its body.
    pub fn go_on(&self) {
        self.said().push(StatusCode::CONTINUE, Fields::new());
    }

    fn push(&self, status: StatusCode, fields: Fields) {
        let mut said = self.said();
        // As HTTP/2 counts them (RFC 9113 §6.5.2).
        let length: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        if said.answers < MAX_ANSWERS && said.bytes + length <= MAX_BYTES {
            said.answers += 1;
            said.bytes += length;
            said.push(status, fields);
        }
    }
}

impl Said {
    fn push(&mut self, status: StatusCode, fields: Fields) {
        if !self.is_closed {
            self.waiting.push_back((status, fields));
            if let Some(sender) = self.sender.take() {
                sender.wake();
            }
        }
    }
}

/// The way back to the client for what precedes the answer to one request.
#[derive(Debug, Clone)]
pub(super) enum Preceding {
    /// By its connection, which carries one request at a time.
    Connection {
        request: u64,
    },
    Stream(Arc<Early>),
}

impl Preceding {
    /// The way back for this request, which has just begun. HTTP/1.0 knows no such answers (RFC 9110 §15.2).
    pub(super) fn to(client: &Client, version: Version, early: Option<&Arc<Early>>) -> Option<Self> {
        let by_connection = || Self::Connection { request: client.informational.open() };
        early.cloned().map(Self::Stream).or_else(|| (version == Version::HTTP_11).then(by_connection))
    }

    fn pass_on(&self, client: &Client, status: StatusCode, version: Version, fields: &Fields) {
        let mut fields = headers::for_client(fields.clone(), version);
        fields.remove(CONTENT_LENGTH);
        match self {
            Self::Connection { request } => client.informational.push(*request, in_words(status, &fields)),
            Self::Stream(early) => early.push(status, fields),
        }
    }
}

fn in_words(status: StatusCode, fields: &Fields) -> Bytes {
    let mut answer = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    answer.reserve(64 * fields.len());
    let mut answer = answer.into_bytes();
    for (name, value) in fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            answer.extend_from_slice(part);
        }
    }
    answer.extend_from_slice(b"\r\n");
    answer.into()
}

/// Who sees to it that what the backend says before its answer gets where it should: `100` to the body that waits for it,
/// `101` nowhere, the rest to the client.
pub(super) fn listener(to: Option<&Preceding>, seen: &Arc<Seen>, held: Option<Arc<Held>>) -> Option<OnInformational> {
    if to.is_none() && held.is_none() {
        return None;
    }
    let (to, seen) = (to.cloned(), Arc::clone(seen));
    Some(OnInformational::new(move |answer| match (answer.status, &held, &to) {
        (StatusCode::CONTINUE, Some(held), _) => {
            held.ask();
        }
        (StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS, ..) | (_, _, None) => {}
        (status, _, Some(to)) => to.pass_on(seen.client(), status, answer.version, answer.fields),
    }))
}

/// Whether a body that is held back has been asked for.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Asked>);

#[derive(Debug)]
enum Asked {
    NotYet(Option<Waker>),
    Yes,
    Never,
}

impl Default for Asked {
    fn default() -> Self {
        Self::NotYet(None)
    }
}

impl Held {
    fn state(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for it. Returns whether it has been asked for in time.
    fn ask(&self) -> bool {
        let mut state = self.state();
        if let Asked::NotYet(waiting) = &mut *state {
            let waiting = waiting.take();
            *state = Asked::Yes;
            if let Some(waiting) = waiting {
                waiting.wake();
            }
        }
        matches!(*state, Asked::Yes)
    }

    /// The answer is there. Returns whether the body has not been asked for; then it never will be.
    pub(super) fn give_up(&self) -> bool {
        let mut state = self.state();
        if matches!(*state, Asked::NotYet(_)) {
            *state = Asked::Never;
        }
        matches!(*state, Asked::Never)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.state() {
            Asked::NotYet(waiting) => {
                *waiting = Some(cx.waker().clone());
                Poll::Pending
            }
            Asked::Yes => Poll::Ready(()),
            Asked::Never => Poll::Pending,
        }
    }
}

/// Waits until a body that is held back is asked for, or [`PATIENCE`] is at its end.
#[derive(Debug)]
pub(super) struct UntilAsked {
    held: Arc<Held>,
    /// Runs from when the backend has been sent the head.
    patience: Option<Pin<Box<Sleep>>>,
}

impl UntilAsked {
    pub(super) fn new() -> Self {
        Self { held: Arc::default(), patience: None }
    }

    pub(super) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Ready once the body may be sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.held.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        ready!(patience.as_mut().poll(cx));
        if self.held.ask() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_belongs_to_one_request() {
        let queue = Queue::default();
        let next = || queue.next(Waker::noop()).map(|answer| answer.len());
        let first = queue.open();
        queue.push(first, vec![0; MAX_BYTES].into());
        queue.push(first, vec![0; 1].into());
        assert_eq!((next(), next()), (Some(MAX_BYTES), None), "as many bytes as may wait");
        queue.push(first, vec![0; MAX_BYTES + 1].into());
        assert_eq!(next(), None, "one that is too long");
        for _ in 0..2 * MAX_ANSWERS {
            queue.push(first, vec![0; 1].into());
        }
        assert_eq!(std::iter::from_fn(next).count(), MAX_ANSWERS - 1, "as many as may be sent at all");

        let second = queue.open();
        queue.push(first, vec![0; 1].into());
        assert_eq!(next(), None, "meant for the request before");
        queue.push(second, vec![0; 2].into());
        assert_eq!(next(), Some(2));
    }

    #[tokio::test]
    async fn the_answer_waits_for_what_precedes_it_and_nothing_follows_that() {
        let queue = Queue::default();
        let request = queue.open();
        queue.push(request, vec![0; 1].into());
        let mut closed = Box::pin(queue.close());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(closed.as_mut().poll(&mut cx).is_pending(), "one waits");
        assert!(queue.next(Waker::noop()).is_some());
        assert!(closed.as_mut().poll(&mut cx).is_pending(), "it is being written");
        assert!(queue.next(Waker::noop()).is_none());
        assert!(closed.as_mut().poll(&mut cx).is_ready());
        queue.push(request, vec![0; 1].into());
        assert!(queue.next(Waker::noop()).is_none());
    }

    /// As if it had been said while the answer before came, and not been seen then.
    #[test]
    fn what_was_said_too_late_precedes_no_other_answer() {
        let queue = Queue::default();
        let first = queue.open();
        queue.push(first, vec![0; 1].into());
        queue.is_used.store(false, Ordering::SeqCst);
        queue.open();
        assert_eq!(queue.next(Waker::noop()), None);
        queue.is_used.store(true, Ordering::SeqCst);
        let mut closed = Box::pin(queue.close());
        assert!(closed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        let third = queue.open();
        assert_eq!(queue.next(Waker::noop()), None);
        queue.push(third, vec![0; 3].into());
        assert_eq!(queue.next(Waker::noop()).map(|answer| answer.len()), Some(3));
    }

    #[test]
    fn a_body_is_asked_for_or_it_is_not() {
        let held = Held::default();
        assert!(held.ask() && held.ask() && !held.give_up());
        let held = Held::default();
        assert!(held.give_up() && held.give_up() && !held.ask());
    }
}
