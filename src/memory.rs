//! What is remembered of requests, so that those that come again are known: one bounded memory for answers that may be
//! asked for again and for values that must not exist twice.
//!
//! It is kept apart from the [tracker](crate::tracker), whose records say what a resource is *now*; what is here says what
//! *happened*. What is forgotten, by its age or for room, was never there: the request runs as if it were new. Nothing here
//! is ever a reason to let through what the tracker would refuse.
//!
//! Whoever does something that must not be done twice at once holds a [`Claim`] on its name. Claims are no entries: they
//! are not evicted, and there are no more of them than requests under way. A claim that is dropped before
//! [`Claim::confirm`] leaves no trace. After that it leaves what it was told to leave where the outcome is in doubt.
//!
//! Every method is one atomic step under one lock, which is never held while anything waits. Routes that remember nothing
//! never take it ([`Memory::is_used`]).

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    mem::ManuallyDrop,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::{Instant, timeout},
};

use crate::core::fingerprint::{Fingerprint, Fingerprints};

mod origins;
mod recorded;
#[cfg(test)]
mod simulation;
mod store;
#[cfg(test)]
mod tests;

pub use origins::{Origins, Word};
pub use recorded::Recorded;
use store::{Moment, Name, NameHasher, Store};

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The last conditional write of a resource.
    Replay,
    /// A request with an `Idempotency-Key`.
    Key,
    /// A value that must not exist twice.
    Value,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Replay, Self::Key, Self::Value];

    /// Its word in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Key => "key",
            Self::Value => "value",
        }
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memo {
    /// How a request was answered.
    Answer(Identity, Kept),
    /// Where a value is.
    Value(Value),
}

/// Which request it was. A request is the same if both are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// What counts of its head.
    pub head: Fingerprint,
    /// Its body; `None`: nobody has read it to its end.
    pub body: Option<Fingerprint>,
}

/// What is left of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// All of it.
    Whole(Recorded),
    /// Its head; its body was too long, or broke off.
    Head(Recorded),
    /// There was none, and nobody knows what became of the request.
    InDoubt,
}

/// A value that exists, or may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The resource that has it, as a link; `None`: it is not known which.
    pub location: Option<Box<str>>,
    /// Who created it.
    pub caller: u64,
    /// The resource with which it ends.
    pub owner: Fingerprint,
    /// Whether any write to that resource ends it, since the backend is asked anyhow; else only its deletion does.
    pub is_asked_for: bool,
    /// Whether it may have come to nothing.
    pub in_doubt: bool,
}

impl Memo {
    fn heap_bytes(&self) -> usize {
        match self {
            Self::Answer(_, Kept::Whole(recorded) | Kept::Head(recorded)) => recorded.heap_bytes(),
            Self::Answer(_, Kept::InDoubt) => 0,
            Self::Value(value) => value.location.as_ref().map_or(0, |location| location.len()),
        }
    }

    /// With what it ends, and whether any write to that ends it.
    fn owner(&self) -> Option<(Fingerprint, bool)> {
        match self {
            Self::Answer(..) => None,
            Self::Value(value) => Some((value.owner, value.is_asked_for)),
        }
    }
}

/// The memory.
#[derive(Debug)]
pub struct Memory {
    inner: Mutex<Inner>,
    began: Instant,
    /// Set once, and for ever.
    is_used: AtomicBool,
    prints: Fingerprints,
    answers: [AtomicU64; Kind::ALL.len()],
    capacity: Capacity,
    #[cfg(test)]
    broken: Option<Broken>,
}

/// The rules that the simulation breaks, to show that it would notice. Nothing outside of tests can set one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// Whoever asks for a claim gets one.
    NoClaims,
    /// What nobody knows the outcome of may be done anew at once.
    DoubtFrees,
    /// A change of a resource leaves what was remembered of it.
    NothingIsForgotten,
    /// A claim is the client's, and goes with it although the backend may be at work.
    #[cfg(test)]
    ClaimEndsWithClient,
    /// The same write is the same whoever sends it.
    #[cfg(test)]
    CallerIgnored,
    /// A request is the same whatever its body.
    #[cfg(test)]
    BodyIgnored,
    /// The backend is asked for a value before that is claimed.
    #[cfg(test)]
    AskedTooEarly,
}

/// How much may be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// So many entries.
    pub entries: usize,
    /// So many bytes, all that an entry takes included.
    pub bytes: usize,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    under_way: HashMap<Name, UnderWay, BuildHasherDefault<NameHasher>>,
    next_id: u64,
}

/// Something that somebody has a claim on.
#[derive(Debug)]
struct UnderWay {
    id: u64,
    identity: Option<Identity>,
    ended: Arc<Notify>,
}

/// Over, those who wait for it go on, in the order in which they came.
impl Drop for UnderWay {
    fn drop(&mut self) {
        self.ended.notify_waiters();
    }
}

/// What is known under a name.
#[derive(Debug)]
pub enum Look {
    /// Nothing.
    Nothing,
    /// Somebody is at it.
    UnderWay(Option<Identity>, Waiting),
    /// This.
    Known(Memo),
}

/// What came of claiming a name.
#[derive(Debug)]
pub enum Begun {
    /// It was free.
    Free(Claim),
    /// Somebody else has it.
    UnderWay(Waiting),
    /// It is taken for good.
    Known(Memo),
}

/// What is there of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Of which kind.
    pub kind: Kind,
    /// Entries, expired ones included until somebody comes across them.
    pub entries: usize,
    /// What they take.
    pub bytes: usize,
    /// How many were dropped for room.
    pub evictions: u64,
    /// How many requests were answered by them.
    pub answers: u64,
}

impl Memory {
    /// An empty memory. Names in it are made under this seed.
    #[must_use]
    pub fn new(capacity: Capacity, seed: [u64; 2]) -> Arc<Self> {
        Arc::new(Self::with(capacity, seed))
    }

    fn with(capacity: Capacity, seed: [u64; 2]) -> Self {
        let Capacity { entries, bytes } = capacity;
        let inner = Inner { store: Store::new(entries, bytes), under_way: HashMap::default(), next_id: 0 };
        Self {
            inner: Mutex::new(inner),
            began: Instant::now(),
            is_used: AtomicBool::new(false),
            prints: Fingerprints::new(seed),
            answers: Default::default(),
            capacity,
            #[cfg(test)]
            broken: None,
        }
    }

    /// Whether anybody ever had something remembered. Until then there is nothing to forget.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// What takes fingerprints, of names and bodies alike.
    #[must_use]
    pub fn prints(&self) -> Fingerprints {
        self.prints
    }

    /// How much may be remembered.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// What is known under a name.
    #[must_use]
    pub fn look(&self, name: Fingerprint) -> Look {
        let now = self.now();
        let mut inner = self.inner();
        if let Some(under_way) = inner.under_way.get(&Name(name)) {
            return Look::UnderWay(under_way.identity, Waiting::until(under_way));
        }
        inner.store.find(name, now).map_or(Look::Nothing, |memo| Look::Known(memo.clone()))
    }

    /// Claims a name, unless it is claimed or known.
    #[must_use]
    pub fn begin(self: &Arc<Self>, kind: Kind, name: Fingerprint) -> Begun {
        let now = self.now();
        let mut inner = self.inner();
        if let Some(under_way) = inner.under_way.get(&Name(name)).filter(|_| !self.is_broken(Broken::NoClaims)) {
            return Begun::UnderWay(Waiting::until(under_way));
        }
        if let Some(memo) = inner.store.find(name, now) {
            return Begun::Known(memo.clone());
        }
        Begun::Free(self.claim(&mut inner, kind, name, None))
    }

    /// Claims a name whatever is known under it, which is forgotten, and whoever has it, who does so no more.
    pub fn supersede(self: &Arc<Self>, kind: Kind, name: Fingerprint, identity: Identity) -> Claim {
        let mut inner = self.inner();
        inner.store.forget(name);
        self.claim(&mut inner, kind, name, Some(identity))
    }

    fn claim(self: &Arc<Self>, inner: &mut Inner, kind: Kind, name: Fingerprint, identity: Option<Identity>) -> Claim {
        self.is_used.store(true, Ordering::Release);
        let id = inner.next_id;
        inner.next_id += 1;
        inner.under_way.insert(Name(name), UnderWay { id, identity, ended: Arc::default() });
        Claim { memory: Arc::clone(self), kind, name, id, in_doubt: None, is_over: false }
    }

    /// Forgets what is known under a name, and what somebody is about to remember.
    pub fn forget(&self, name: Fingerprint) {
        if self.is_broken(Broken::NothingIsForgotten) {
            return;
        }
        let mut inner = self.inner();
        inner.store.forget(name);
        inner.under_way.remove(&Name(name));
    }

    /// Forgets the values that end with this resource: all of them where it is gone, else those that are asked for anyhow.
    pub fn forget_owned(&self, owner: Fingerprint, is_gone: bool) {
        self.inner().store.forget_owned(owner, is_gone);
    }

    /// A request was answered by what is remembered.
    pub fn answered(&self, kind: Kind) {
        self.answers[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What is there, by kind.
    #[must_use]
    pub fn usage(&self) -> [Usage; Kind::ALL.len()] {
        let inner = self.inner();
        Kind::ALL.map(|kind| {
            let queue = inner.store.queue(kind);
            let answers = self.answers[kind as usize].load(Ordering::Relaxed);
            Usage { kind, entries: queue.entries, bytes: queue.bytes, evictions: queue.evictions, answers }
        })
    }

    /// How many claims there are.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.inner().under_way.len()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    #[cfg(test)]
    fn is_broken(&self, how: Broken) -> bool {
        self.broken == Some(how)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "its double in the tests looks at the memory")]
    const fn is_broken(&self, _: Broken) -> bool {
        false
    }

    fn end(&self, claim: &Claim, left: Option<(Memo, Option<Duration>)>) {
        let now = self.now();
        let mut inner = self.inner();
        // Superseded or forgotten meanwhile, it has nothing more to say.
        if inner.under_way.get(&Name(claim.name)).is_none_or(|under_way| under_way.id != claim.id) {
            return;
        }
        inner.under_way.remove(&Name(claim.name));
        if let Some((memo, time)) = left {
            let expires = time.map(|time| now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
            inner.store.insert(claim.kind, claim.name, memo, expires, now);
        }
    }
}

/// The right to do something that must not be done twice at once.
#[derive(Debug)]
#[must_use = "a claim that is dropped is given up"]
pub struct Claim {
    memory: Arc<Memory>,
    kind: Kind,
    name: Fingerprint,
    id: u64,
    /// What it leaves if it is dropped.
    in_doubt: Option<InDoubt>,
    is_over: bool,
}

/// What is left of something of which nobody knows what became.
#[derive(Debug)]
pub enum InDoubt {
    /// It is remembered so, for so long.
    Remembered(Memo, Option<Duration>),
    /// The claim itself, for so long: after that somebody else may find out.
    Held(Duration),
}

impl Claim {
    /// From here on it may happen. Dropped, the claim leaves this.
    pub fn confirm(&mut self, in_doubt: InDoubt) {
        self.in_doubt = Some(in_doubt);
    }

    /// What happened, to be remembered for so long.
    pub fn remember(mut self, memo: Memo, time: Option<Duration>) {
        self.is_over = true;
        self.memory.end(&self, Some((memo, time)));
    }

    /// Nothing happened: it may be done anew.
    pub fn release(mut self) {
        self.is_over = true;
        self.memory.end(&self, None);
    }

    /// Gives it up after this time.
    fn hold(&self, time: Duration) {
        let again = Self { memory: Arc::clone(&self.memory), in_doubt: None, is_over: false, ..*self };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !time.is_zero() => {
                // Where the runtime ends before that, it is not given up.
                let again = ManuallyDrop::new(again);
                runtime.spawn(async move {
                    tokio::time::sleep(time).await;
                    ManuallyDrop::into_inner(again).release();
                });
            }
            // Without a runtime there is nobody who could be let in too early.
            Ok(_) | Err(_) => again.release(),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        match self.in_doubt.take().filter(|_| !self.memory.is_broken(Broken::DoubtFrees)) {
            None => self.memory.end(self, None),
            Some(InDoubt::Remembered(memo, time)) => self.memory.end(self, Some((memo, time))),
            Some(InDoubt::Held(time)) => self.hold(time),
        }
    }
}

/// A place to wait until a claim is over.
#[derive(Debug)]
pub struct Waiting {
    ended: Pin<Box<OwnedNotified>>,
    /// How many wait for the same.
    pub others: usize,
}

impl Waiting {
    fn until(under_way: &UnderWay) -> Self {
        let others = Arc::strong_count(&under_way.ended) - 1;
        // It is told of the end from now on, whether or not it waits yet.
        Self { ended: Box::pin(Arc::clone(&under_way.ended).notified_owned()), others }
    }

    /// Returns whether it was over within this time.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped waits no more.
    pub async fn until_over(self, time: Duration) -> bool {
        timeout(time, self.ended).await.is_ok()
    }
}
