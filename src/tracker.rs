//! The records of all resources: atomic calls, turns, who waits, capacity.
//!
//! Every method is one atomic step: nothing reads a record and writes it back later, and no map guard leaves this file.
//! The gateway decides *what* happened; what follows from it for a record is decided in [`core::record`](crate::core::record).
//!
//! This is also the boundary behind which a store that several gateways share can be put. So what would be a round trip
//! to it is `async` here (and is ready at once), a turn must be confirmed before it is used ([`Turn::confirm`]), since a
//! lease can lapse, and nothing hands out a reference to a record: a view is only ever lent to a closure.
//!
//! Memory is bounded by `capacity`: the records that were not used for longest go first, and leave behind a floor, the
//! stamp up to which reads of such a resource are old news (rule 8). A record is never dropped while its turn is taken or
//! waited for; the number of those is bounded by the requests under way.

use std::{
    collections::VecDeque,
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    mem::ManuallyDrop,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::{DashMap, Entry};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::core::{
    etag::EntityTag,
    record::{Access, Outcome, Probed, Record, Seconds, Seen, Source, Stamp, State, View, Writes},
    resource::Key,
};

pub mod gate;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use gate::Pass;

/// How many floors there are. Resources that share one only make each other's reads unrecorded, and seldom.
const FLOORS: usize = 1024;
/// From this capacity on the order of eviction is kept in several queues, so that workers seldom meet at one.
const SHARDED_FROM: usize = 4096;
const QUEUES: usize = 64;
/// How many records are looked at for one that may go, when there is one too many.
const EVICTION_TRIES: usize = 16;

/// The records of all resources, and who waits for a turn.
#[derive(Debug)]
pub struct Tracker {
    slots: DashMap<Cell, Slot, BuildHasherDefault<CellHasher>>,
    /// The last stamp drawn.
    clock: AtomicU64,
    /// For resources without a record: the stamp up to which a read of one is old news.
    floors: Box<[AtomicU64]>,
    /// Every cell in `slots` once, the one to be dropped next in front. Never locked around a call into `slots`.
    queues: Box<[Mutex<VecDeque<Cell>>]>,
    /// How many records a queue may hold.
    queue_capacity: usize,
    tag_bytes: usize,
    began: Instant,
    watcher: Arc<dyn Watcher>,
    #[cfg(test)]
    broken: Option<Broken>,
}

/// Who is told what happens to turns and records, to count it. Never called while anything here is locked.
pub trait Watcher: fmt::Debug + Send + Sync {
    /// A writer stands in line.
    fn waits(&self) {}
    /// A writer is in line no longer, after this time: it has its turn, or has given up.
    fn waited(&self, _: Duration) {}
    /// A turn was taken, after so long a wait.
    fn taken(&self, _waited: Duration) {}
    /// A turn has ended that was held for so long, also after a write in doubt.
    fn ended(&self, _held: Duration) {}
    /// A record was dropped to make room.
    fn evicted(&self) {}
}

/// Nobody counts.
impl Watcher for () {}

/// What is known of one resource, for an operator: nothing is judged by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What is known through the spelling that was asked for. Tags are here whoever learned them.
    pub state: State,
    /// Whether something is known through another spelling only.
    pub other_spelling: bool,
    /// Whether the resource is only known to be absent for one caller.
    pub absent_for_one: bool,
    /// How many superseded tags are remembered.
    pub superseded: usize,
    /// The writes that have the turn.
    pub writes: Writes,
    /// How many writers stand in line.
    pub waiting: usize,
    /// The present, as the tags' times have it.
    pub now: Seconds,
}

/// A turn is taken or waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a write to this resource is under way")]
pub struct Taken;

/// The rules that the simulation breaks, to show that it would notice. Nothing outside of tests can set one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// Rule 1: every writer gets a turn at once.
    NoTurns,
    /// Rule 2: a turn that is dropped while its write is under way goes to the next at once, as if nothing had been sent.
    TurnEndsWithClient,
    /// Rule 3: whatever a read shows is recorded, however old.
    OldNews,
    /// Rule 4: after a write in doubt the old tag still holds.
    DoubtKeepsTags,
    /// Rule 8: an eviction leaves no floor.
    ForgottenFloors,
    /// Writes do not wait at the gate for those under old names.
    OpenGate,
    /// What reads show is recorded under new names while writes under old ones are under way.
    EarlyNames,
}

/// A record, and who waits for its turn.
#[derive(Debug)]
struct Slot {
    record: Record,
    /// Whether it was used since eviction last looked at it.
    used: bool,
    line: Option<Box<Line>>,
}

#[derive(Debug, Default)]
struct Line {
    waiters: VecDeque<Waiter>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    access: Access,
    granted: oneshot::Sender<()>,
}

/// Which turn a writer asks for, and on what terms.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The resource.
    pub key: Key,
    /// Alone, or beside other unguarded writes.
    pub access: Access,
    /// Whose write it is.
    pub caller: u64,
    /// How long to wait in line.
    pub wait: Duration,
    /// How many may stand in line.
    pub line: usize,
    /// How long the turn is held once the outcome is in doubt.
    pub hold: Duration,
}

/// Why there is no turn to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// As many writers as may are in line already.
    #[error("too many writers are waiting for this resource")]
    LineFull,
    /// The wait was over before the turn came.
    #[error("another write to this resource is still under way")]
    TimedOut,
    /// The wait was over before writes were let through at all: the gateway is being taken over, or its configuration
    /// replaced, and writes are under way that this one could meet.
    #[error("writes from before a change of the configuration, or of another process, are still under way")]
    Closed,
    /// The resource got another name before the turn was taken. Nothing was sent, and under the new name it may be.
    #[error("the configuration changed before the write could begin")]
    Renamed,
}

/// The turn was lost before anything was sent: its lease lapsed. Never so while records live in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the turn was lost")]
pub struct TurnLost;

impl Tracker {
    /// A tracker for at most `capacity` records, which remembers no tag that is longer than `tag_bytes`.
    #[must_use]
    pub fn new(capacity: usize, tag_bytes: usize) -> Self {
        let queues = if capacity < SHARDED_FROM { 1 } else { QUEUES };
        Self {
            slots: DashMap::default(),
            clock: AtomicU64::new(0),
            floors: (0..FLOORS).map(|_| AtomicU64::new(0)).collect(),
            queues: (0..queues).map(|_| Mutex::default()).collect(),
            queue_capacity: capacity.div_ceil(queues).max(1),
            tag_bytes,
            began: Instant::now(),
            watcher: Arc::new(()),
            #[cfg(test)]
            broken: None,
        }
    }

    /// Has this watcher told what happens.
    #[must_use]
    pub fn watched_by(self, watcher: Arc<dyn Watcher>) -> Self {
        Self { watcher, ..self }
    }

    /// How many records there may be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.queue_capacity * self.queues.len()
    }

    /// A new stamp. A read draws one before it is forwarded; it needs no record for that.
    pub async fn stamp(&self) -> Stamp {
        self.tick()
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// A response to a read came that drew the stamp `began`. What rule 3 forbids is not recorded.
    pub async fn observe(&self, key: Key, began: Stamp, seen: Seen, caller: u64) {
        let too_long = matches!(&seen, Seen::Tag(tag, _) if !self.fits(tag));
        let seen = if too_long { Seen::Missing } else { seen };
        let began = if self.is_broken(Broken::OldNews) { self.tick() } else { began };
        let source = self.source(key, caller);
        let inserted = match self.slots.entry(Cell(key.cell)) {
            Entry::Occupied(mut slot) => {
                let slot = slot.get_mut();
                slot.used = true;
                slot.record.observe(seen, began, self.tick(), source);
                return;
            }
            Entry::Vacant(vacant) => match seen {
                Seen::Untagged => return,
                Seen::Missing => {
                    self.raise_floor(key.cell, self.tick());
                    return;
                }
                Seen::Tag(..) => {
                    let mut record = Record::new(self.floor(key.cell));
                    if !record.observe(seen, began, self.tick(), source) {
                        return;
                    }
                    vacant.insert(Slot::new(record));
                    self.enqueue(Cell(key.cell))
                }
            },
        };
        self.make_room(inserted);
    }

    /// Lends what is known to `judge`, unless a write is under way, after which it may be otherwise: then `None`.
    pub async fn known<R>(
        &self,
        key: Key,
        caller: u64,
        max_age: Option<Duration>,
        judge: impl FnOnce(View<'_>) -> R,
    ) -> Option<R> {
        match self.slots.get(&Cell(key.cell)) {
            Some(slot) if !slot.record.is_idle() => None,
            Some(slot) => Some(judge(slot.record.view(self.source(key, caller), max_age.map(|age| age.as_secs())))),
            None => Some(judge(View::NOTHING)),
        }
    }

    /// A write to another resource changed this one (rule 6): what was known of it is superseded, and reads under way
    /// are old news.
    pub async fn change(&self, key: Key) {
        match self.slots.entry(Cell(key.cell)) {
            Entry::Occupied(mut slot) => slot.get_mut().record.change(self.tick()),
            Entry::Vacant(_) => self.raise_floor(key.cell, self.tick()),
        }
    }

    /// What is known of a resource, for an operator; `None`: there is no record of it.
    pub async fn inspect(&self, key: Key) -> Option<Inspection> {
        let slot = self.slots.get(&Cell(key.cell))?;
        let record = &slot.record;
        let is_this = record.spelling() == key.spelling;
        let nothing_known = *record.state() == State::Unknown;
        Some(Inspection {
            state: if is_this { record.state().clone() } else { State::Unknown },
            other_spelling: !is_this && !nothing_known,
            absent_for_one: is_this && record.is_absent_for_one(),
            superseded: if is_this { record.superseded() } else { 0 },
            writes: record.writes(),
            waiting: slot.line.as_ref().map_or(0, |line| line.waiters.len()),
            now: self.now(),
        })
    }

    /// Forgets what is known of a resource, through all its spellings, because an operator knows better. What a read shows
    /// that is under way is old news from here on, as after an eviction (rule 8). Returns whether there was a record.
    ///
    /// # Errors
    ///
    /// [`Taken`]: a record is not dropped from under a write.
    pub async fn forget(&self, key: Key) -> Result<bool, Taken> {
        match self.slots.entry(Cell(key.cell)) {
            Entry::Occupied(slot) if !slot.get().is_idle() => Err(Taken),
            // The record goes, its place stays: that is the queues' to give up.
            Entry::Occupied(mut slot) => {
                slot.get_mut().record = Record::new(self.tick());
                Ok(true)
            }
            Entry::Vacant(_) => {
                self.raise_floor(key.cell, self.tick());
                Ok(false)
            }
        }
    }

    /// Takes the turn, or stands in line for it, in order of arrival.
    ///
    /// # Errors
    ///
    /// [`Busy`], after which the caller is no longer in line.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped leaves the line. If the turn came at that moment, it goes to the next.
    pub async fn begin_write(self: &Arc<Self>, ask: Ask) -> Result<Turn, Busy> {
        let (in_line, granted) = match self.take_or_queue(ask)? {
            Ok(taken) => return Ok(taken.told(Duration::ZERO)),
            Err(waiting) => waiting,
        };
        match timeout(ask.wait, granted).await {
            Ok(Ok(())) => Ok(in_line.into_turn(ask)),
            // The sender is only dropped with the slot, and a slot in which somebody waits is not dropped.
            Ok(Err(_)) | Err(_) => Err(Busy::TimedOut),
        }
    }

    fn take_or_queue(self: &Arc<Self>, ask: Ask) -> Result<Result<Turn, (InLine, oneshot::Receiver<()>)>, Busy> {
        let cell = Cell(ask.key.cell);
        let inserted = {
            let (mut slot, inserted) = match self.slots.entry(cell) {
                Entry::Occupied(slot) => (slot.into_ref(), None),
                Entry::Vacant(vacant) => {
                    let slot = vacant.insert(Slot::new(Record::new(self.floor(cell.0))));
                    (slot, Some(self.enqueue(cell)))
                }
            };
            slot.used |= inserted.is_none();
            if !self.admits(&slot, ask.access) {
                let line = slot.line.get_or_insert_default();
                if line.waiters.len() >= ask.line {
                    return Err(Busy::LineFull);
                }
                let (granted, receiver) = oneshot::channel();
                let id = line.next_id;
                line.next_id += 1;
                line.waiters.push_back(Waiter { id, access: ask.access, granted });
                drop(slot);
                return Ok(Err((InLine::new(Arc::clone(self), cell, id), receiver)));
            }
            slot.record.begin(ask.access);
            inserted
        };
        if let Some(queue) = inserted {
            self.make_room(queue);
        }
        Ok(Ok(Turn::new(Arc::clone(self), ask)))
    }

    /// Nobody overtakes who waits already.
    fn admits(&self, slot: &Slot, access: Access) -> bool {
        self.is_broken(Broken::NoTurns)
            || slot.record.admits(access) && slot.line.as_ref().is_none_or(|line| line.waiters.is_empty())
    }

    /// Ends a write whose turn was taken at `since`, and hands the turn on. `outcome` says what became of it, if it was
    /// sent.
    fn release(&self, ask: &Ask, outcome: Option<Outcome>, since: Instant) {
        if let Some(mut slot) = self.slots.get_mut(&Cell(ask.key.cell)) {
            if let Some(outcome) = outcome {
                slot.record.settle(outcome, self.tick(), self.source(ask.key, ask.caller));
            }
            slot.pass_on();
        }
        self.watcher.ended(since.elapsed());
    }

    /// Records what became of a write, whose turn goes on.
    fn doubt(&self, ask: &Ask) {
        if let Some(mut slot) = self.slots.get_mut(&Cell(ask.key.cell)) {
            slot.record.settle(self.misjudged(Outcome::InDoubt), self.tick(), self.source(ask.key, ask.caller));
        }
    }

    /// A writer goes away. If its turn came at this very moment, the next in line gets it.
    fn leave(&self, cell: Cell, id: u64) {
        let Some(mut slot) = self.slots.get_mut(&cell) else { return };
        let waiting = slot.line.as_mut().is_some_and(|line| {
            let before = line.waiters.len();
            line.waiters.retain(|waiter| waiter.id != id);
            line.waiters.len() < before
        });
        if waiting { slot.grant() } else { slot.pass_on() }
    }

    fn fits(&self, tag: &EntityTag) -> bool {
        tag.opaque_len() <= self.tag_bytes
    }

    fn tick(&self) -> Stamp {
        Stamp(self.clock.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn now(&self) -> Seconds {
        self.began.elapsed().as_secs()
    }

    fn source(&self, key: Key, caller: u64) -> Source {
        Source { spelling: key.spelling, caller, now: self.now() }
    }

    fn floor_of(&self, cell: [u64; 2]) -> &AtomicU64 {
        let index = usize::try_from(cell[1] % FLOORS as u64).expect("less than FLOORS");
        &self.floors[index]
    }

    fn floor(&self, cell: [u64; 2]) -> Stamp {
        Stamp(self.floor_of(cell).load(Ordering::SeqCst))
    }

    fn raise_floor(&self, cell: [u64; 2], to: Stamp) {
        self.floor_of(cell).fetch_max(to.0, Ordering::SeqCst);
    }

    /// Notes a new record in the order of eviction. Returns the queue.
    fn enqueue(&self, cell: Cell) -> usize {
        let queue = usize::try_from(cell.0[1] >> 32).unwrap_or(0) % self.queues.len();
        self.queue(queue, |cells| cells.push_back(cell));
        queue
    }

    fn queue<R>(&self, queue: usize, f: impl FnOnce(&mut VecDeque<Cell>) -> R) -> R {
        f(&mut self.queues[queue].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Drops records until the queue holds no more than it may. Those that are in use, and at first those that were used
    /// lately, go to the back instead.
    fn make_room(&self, queue: usize) {
        for tries in 0..EVICTION_TRIES {
            let surplus =
                self.queue(queue, |cells| if cells.len() > self.queue_capacity { cells.pop_front() } else { None });
            let Some(cell) = surplus else { return };
            if !self.evict(cell, tries >= EVICTION_TRIES / 2) {
                self.queue(queue, |cells| cells.push_back(cell));
            }
        }
    }

    /// Drops a record and leaves its floor, both under the map's lock, so that no observation can come between.
    fn evict(&self, cell: Cell, even_if_used: bool) -> bool {
        let mut may_go = false;
        let dropped = self.slots.remove_if_mut(&cell, |_, slot| {
            may_go = slot.is_idle() && (even_if_used || !slot.used);
            slot.used = false;
            if may_go && !self.is_broken(Broken::ForgottenFloors) {
                self.raise_floor(cell.0, slot.record.floor());
            }
            may_go
        });
        if dropped.is_some() {
            self.watcher.evicted();
        }
        dropped.is_some() || !self.slots.contains_key(&cell)
    }

    fn misjudged(&self, outcome: Outcome) -> Outcome {
        let keeps = outcome == Outcome::InDoubt && self.is_broken(Broken::DoubtKeepsTags);
        if keeps { Outcome::NotApplied } else { outcome }
    }

    #[cfg(test)]
    fn is_broken(&self, how: Broken) -> bool {
        self.broken == Some(how)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "its double in the tests looks at the tracker")]
    const fn is_broken(&self, _: Broken) -> bool {
        false
    }
}

impl Slot {
    fn new(record: Record) -> Self {
        Self { record, used: false, line: None }
    }

    fn is_idle(&self) -> bool {
        self.record.is_idle() && self.line.as_ref().is_none_or(|line| line.waiters.is_empty())
    }

    /// A write is over: whoever is next in line may begin.
    fn pass_on(&mut self) {
        self.record.end();
        self.grant();
    }

    /// Lets those begin who stand in front, as far as they may be under way together.
    fn grant(&mut self) {
        let Some(line) = &mut self.line else { return };
        while let Some(waiter) = line.waiters.pop_front_if(|waiter| self.record.admits(waiter.access)) {
            self.record.begin(waiter.access);
            // The receiver lives as long as the writer is in line: `leave` takes both away under the same lock.
            let _ = waiter.granted.send(());
        }
        if line.waiters.is_empty() {
            self.line = None;
        }
    }
}

/// A place in line. Dropped, the writer leaves it.
struct InLine {
    /// `None` once the place has become a turn.
    tracker: Option<Arc<Tracker>>,
    cell: Cell,
    id: u64,
    since: Instant,
}

impl InLine {
    fn new(tracker: Arc<Tracker>, cell: Cell, id: u64) -> Self {
        tracker.watcher.waits();
        Self { tracker: Some(tracker), cell, id, since: Instant::now() }
    }

    fn into_turn(mut self, ask: Ask) -> Turn {
        let tracker = self.tracker.take().expect("a place becomes a turn once");
        let waited = self.since.elapsed();
        tracker.watcher.waited(waited);
        Turn::new(tracker, ask).told(waited)
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        if let Some(tracker) = &self.tracker {
            tracker.leave(self.cell, self.id);
            tracker.watcher.waited(self.since.elapsed());
        }
    }
}

/// The right to have a write under way.
///
/// Dropped before [`Turn::confirm`], nothing was sent: the next in line gets it and what is known stays known. Dropped
/// after that without [`Turn::settle`], the write is in doubt: what was known is forgotten, and the turn is held for a
/// while, since the backend may still be at work.
#[derive(Debug)]
#[must_use = "a turn that is dropped is given up"]
pub struct Turn {
    tracker: Arc<Tracker>,
    ask: Ask,
    phase: Phase,
    since: Instant,
    /// Given back last of all.
    pass: Option<Pass>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Taken,
    Sending,
    Settled,
}

impl Turn {
    fn new(tracker: Arc<Tracker>, ask: Ask) -> Self {
        Self { tracker, ask, phase: Phase::Taken, since: Instant::now(), pass: None }
    }

    /// Tells the watcher of it. Not while the record is locked.
    fn told(self, waited: Duration) -> Self {
        self.tracker.watcher.taken(waited);
        self
    }

    /// Keeps a pass until the turn is over, the hold after a write in doubt included.
    pub fn keep(&mut self, pass: Pass) {
        self.pass = Some(pass);
    }

    /// Lends what is known to `judge`.
    pub async fn known<R>(&self, max_age: Option<Duration>, judge: impl FnOnce(View<'_>) -> R) -> R {
        match self.tracker.slots.get(&Cell(self.ask.key.cell)) {
            Some(slot) => {
                let max_age = max_age.map(|age| age.as_secs());
                judge(slot.record.view(self.tracker.source(self.ask.key, self.ask.caller), max_age))
            }
            None => judge(View::NOTHING),
        }
    }

    /// Records what a probe in this turn showed. Returns false where it was overtaken: another resource's write changed
    /// this one meanwhile, and nothing may be decided by the probe.
    #[must_use]
    pub async fn learn(&mut self, probed: Probed) -> bool {
        let too_long = matches!(&probed, Probed::Tag(tag) if !self.tracker.fits(tag));
        let probed = if too_long { Probed::Untagged } else { probed };
        self.tracker.slots.get_mut(&Cell(self.ask.key.cell)).is_some_and(|mut slot| {
            let source = self.tracker.source(self.ask.key, self.ask.caller);
            slot.record.learn(probed, self.tracker.tick(), source)
        })
    }

    /// The write is about to be sent. From here on the turn must be settled.
    ///
    /// # Errors
    ///
    /// [`TurnLost`]: somebody else may have the turn, and the write must not be sent.
    pub async fn confirm(&mut self) -> Result<(), TurnLost> {
        self.phase = Phase::Sending;
        Ok(())
    }

    /// How the write ended. The record says so, and the next in line begins, in one step.
    pub async fn settle(mut self, outcome: Outcome) {
        self.phase = Phase::Settled;
        let too_long = matches!(&outcome, Outcome::Committed(Some(tag)) if !self.tracker.fits(tag));
        let outcome = if too_long { Outcome::Committed(None) } else { outcome };
        self.tracker.release(&self.ask, Some(self.tracker.misjudged(outcome)), self.since);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        match self.phase {
            Phase::Settled => {}
            Phase::Sending if self.tracker.is_broken(Broken::TurnEndsWithClient) => {
                self.tracker.release(&self.ask, None, self.since)
            }
            Phase::Taken => self.tracker.release(&self.ask, None, self.since),
            Phase::Sending => {
                self.tracker.doubt(&self.ask);
                let (tracker, ask, since) = (Arc::clone(&self.tracker), self.ask, self.since);
                match tokio::runtime::Handle::try_current() {
                    Ok(runtime) if !ask.hold.is_zero() => {
                        // Where the runtime ends before the hold, neither the turn nor the pass is given back.
                        let pass = ManuallyDrop::new(self.pass.take());
                        runtime.spawn(async move {
                            tokio::time::sleep(ask.hold).await;
                            tracker.release(&ask, Some(Outcome::InDoubt), since);
                            drop(ManuallyDrop::into_inner(pass));
                        });
                    }
                    // Without a runtime there is nobody to wait, and nobody who could be let in too early.
                    Ok(_) | Err(_) => tracker.release(&ask, None, since),
                }
            }
        }
    }
}

/// A key's cell in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell([u64; 2]);

impl Hash for Cell {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// Cells are keyed hashes already.
#[derive(Debug, Default)]
struct CellHasher(u64);

impl Hasher for CellHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.is_empty(), "only a cell's first half is hashed");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
