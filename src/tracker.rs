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
    mem::ManuallyDrop,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::{
    clock,
    core::{
        etag::EntityTag,
        record::{Access, Outcome, Packed, Probed, Record, Seconds, Seen, Source, Stamp, State, View, Writes},
        resource::Key,
    },
};

pub mod gate;
mod related;
#[cfg(test)]
mod simulation;
mod table;
#[cfg(test)]
mod tests;

use gate::Pass;
use table::{Cell, Place, Shard, Table};

/// How many floors there are. Resources that share one only make each other's reads unrecorded, and seldom.
const FLOORS: usize = 1024;
/// From this capacity on the records are kept in several shards, so that workers seldom meet at one.
const SHARDED_FROM: usize = 4096;
const SHARDS: usize = 64;
/// How many records are looked at for one that may go, when there is one too many.
const EVICTION_TRIES: usize = 16;

/// The records of all resources, and who waits for a turn.
#[derive(Debug)]
pub struct Tracker {
    table: Table,
    /// The last stamp drawn.
    clock: AtomicU64,
    /// For resources without a record: the stamp up to which a read of one is old news.
    floors: Box<[AtomicU64]>,
    /// How many records a shard may hold.
    shard_capacity: usize,
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
    /// How many writes are under way that are only observed, and have no turn.
    pub observed: u32,
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
    /// Of the turns that a write needs, it takes only its own.
    NoSharedTurns,
    /// They are taken in the order in which the write names them.
    NoOrder,
    /// What a write changes beside its own resource counts as it was.
    RelatedUnchanged,
    /// What reads show is recorded under new names while writes under old ones are under way.
    #[cfg(test)]
    EarlyNames,
    /// A write is sent by a verdict under an old name.
    #[cfg(test)]
    OldVerdict,
    /// What a write's answer shows is taken for the version of the state that it has left.
    #[cfg(test)]
    VersionOfAnswer,
    /// What is read after a write is recorded once its turn is over.
    #[cfg(test)]
    ReadAfterTurn,
    /// What is read after a write is told although another resource's write came between.
    #[cfg(test)]
    ReadWhenDisturbed,
    /// What is read after a write may be what was there before.
    #[cfg(test)]
    ReadFromBefore,
}

/// A record, and who waits for its turn.
#[derive(Debug)]
struct Slot {
    record: Record,
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
        let shards = if capacity < SHARDED_FROM { 1 } else { SHARDS };
        Self {
            table: Table::new(shards),
            clock: AtomicU64::new(0),
            floors: (0..FLOORS).map(|_| AtomicU64::new(0)).collect(),
            shard_capacity: capacity.div_ceil(shards).max(1),
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
        self.shard_capacity * self.table.shards()
    }

    /// A new stamp. A read draws one before it is forwarded; it needs no record for that.
    pub async fn stamp(&self) -> Stamp {
        self.tick()
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A response to a read came that drew the stamp `began`. What rule 3 forbids is not recorded. Returns whether a tag came
    /// back by it that another caller's read had superseded ([`Record::is_flipped_by`]).
    pub async fn observe(&self, key: Key, began: Stamp, seen: Seen, caller: u64) -> bool {
        let too_long = matches!(&seen, Seen::Tag(tag, _) if !self.fits(tag));
        let seen = if too_long { Seen::Unreadable } else { seen };
        let began = if self.is_broken(Broken::OldNews) { self.tick() } else { began };
        let source = self.source(key, caller);
        let cell = Cell(key.cell);
        let mut shard = self.table.lock(cell);
        if let Some(place) = shard.find(cell) {
            shard.set_used(place, true);
            return !shard.sees_again(place, &seen, began, source)
                && shard.change(place, |slot| {
                    let flips = slot.record.is_flipped_by(&seen, began, source);
                    slot.record.observe(seen, began, self.tick(), source);
                    flips
                });
        }
        match seen {
            Seen::Untagged => {}
            Seen::Unreadable | Seen::Missing => self.raise_floor(key.cell, self.tick()),
            Seen::Tag(..) => {
                let mut record = Record::new(self.floor(key.cell));
                if record.observe(seen, began, self.tick(), source) {
                    self.insert(shard, cell, Slot::new(record));
                }
            }
        }
        false
    }

    /// Lends what is known to `judge`, unless a write is under way, after which it may be otherwise: then `None`.
    pub async fn known<R>(
        &self,
        key: Key,
        caller: u64,
        max_age: Option<Duration>,
        judge: impl FnOnce(View<'_>) -> R,
    ) -> Option<R> {
        let cell = Cell(key.cell);
        let shard = self.table.lock(cell);
        let Some(place) = shard.find(cell) else { return Some(judge(View::NOTHING)) };
        shard.look(place, |slot| slot.record.is_idle().then(|| judge(self.view(&slot.record, key, caller, max_age))))
    }

    /// A write to another resource changed this one (rule 6): what was known of it is superseded, and reads under way
    /// are old news.
    pub async fn change(&self, key: Key) {
        let cell = Cell(key.cell);
        let mut shard = self.table.lock(cell);
        match shard.find(cell) {
            Some(place) => shard.change(place, |slot| slot.record.change(self.tick())),
            None => self.raise_floor(key.cell, self.tick()),
        }
    }

    /// What is known of a resource, for an operator; `None`: there is no record of it.
    pub async fn inspect(&self, key: Key) -> Option<Inspection> {
        let cell = Cell(key.cell);
        let shard = self.table.lock(cell);
        Some(shard.look(shard.find(cell)?, |slot| self.inspected(slot, key)))
    }

    fn inspected(&self, slot: &Slot, key: Key) -> Inspection {
        let record = &slot.record;
        let is_this = record.spelling() == key.spelling;
        let nothing_known = *record.state() == State::Unknown;
        Inspection {
            state: if is_this { record.state().clone() } else { State::Unknown },
            other_spelling: !is_this && !nothing_known,
            absent_for_one: is_this && record.is_absent_for_one(),
            superseded: if is_this { record.superseded() } else { 0 },
            writes: record.writes(),
            observed: record.observed_writes(),
            waiting: slot.line.as_ref().map_or(0, |line| line.waiters.len()),
            now: self.now(),
        }
    }

    /// Forgets what is known of a resource, through all its spellings, because an operator knows better. What a read shows
    /// that is under way is old news from here on, as after an eviction (rule 8). Returns whether there was a record.
    ///
    /// # Errors
    ///
    /// [`Taken`]: a record is not dropped from under a write.
    pub async fn forget(&self, key: Key) -> Result<bool, Taken> {
        let cell = Cell(key.cell);
        let mut shard = self.table.lock(cell);
        let Some(place) = shard.find(cell) else {
            self.raise_floor(key.cell, self.tick());
            return Ok(false);
        };
        shard.change(place, |slot| {
            if !slot.is_idle() {
                return Err(Taken);
            }
            // The record goes, its place stays: that is for eviction to give up.
            slot.record = Record::new(self.tick());
            Ok(true)
        })
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
        let mut shard = self.table.lock(cell);
        let Some(place) = shard.find(cell) else {
            let mut record = Record::new(self.floor(cell.0));
            record.begin(ask.access);
            self.insert(shard, cell, Slot::new(record));
            return Ok(Ok(Turn::new(Arc::clone(self), ask)));
        };
        shard.set_used(place, true);
        let waiting = shard.change(place, |slot| {
            if self.admits(slot, ask.access) {
                slot.record.begin(ask.access);
                return Ok(None);
            }
            let line = slot.line.get_or_insert_default();
            if line.waiters.len() >= ask.line {
                return Err(Busy::LineFull);
            }
            let (granted, receiver) = oneshot::channel();
            let id = line.next_id;
            line.next_id += 1;
            line.waiters.push_back(Waiter { id, access: ask.access, granted });
            Ok(Some((id, receiver)))
        })?;
        drop(shard);
        Ok(match waiting {
            None => Ok(Turn::new(Arc::clone(self), ask)),
            Some((id, receiver)) => Err((InLine::new(Arc::clone(self), ask.key, id), receiver)),
        })
    }

    /// Nobody overtakes who waits already.
    fn admits(&self, slot: &Slot, access: Access) -> bool {
        self.is_broken(Broken::NoTurns)
            || access == Access::Observed
            || slot.record.admits(access) && slot.line.as_ref().is_none_or(|line| line.waiters.is_empty())
    }

    /// Ends a write whose turn was taken at `since`, and hands the turn on. `outcome` says what became of it, if it was
    /// sent.
    fn release(&self, ask: &Ask, outcome: Option<Outcome>, since: Instant) {
        self.change_if_there(ask.key, |slot| {
            if let Some(outcome) = outcome {
                slot.settle(ask.access, outcome, self.tick(), self.source(ask.key, ask.caller));
            }
            slot.pass_on_from(ask.access);
        });
        if ask.access != Access::Observed {
            self.watcher.ended(clock::since(since));
        }
    }

    /// Records what became of a write, whose turn goes on.
    fn doubt(&self, ask: &Ask) {
        self.change_if_there(ask.key, |slot| {
            let outcome = self.misjudged(Outcome::InDoubt);
            slot.settle(ask.access, outcome, self.tick(), self.source(ask.key, ask.caller));
        });
    }

    /// A writer goes away. If its turn came at this very moment, the next in line gets it.
    fn leave(&self, key: Key, id: u64) {
        self.change_if_there(key, |slot| {
            let waiting = slot.line.as_mut().is_some_and(|line| {
                let before = line.waiters.len();
                line.waiters.retain(|waiter| waiter.id != id);
                line.waiters.len() < before
            });
            if waiting { slot.grant() } else { slot.pass_on() }
        });
    }

    /// Where a turn is taken or waited for, there is a record.
    fn change_if_there<R>(&self, key: Key, change: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        let cell = Cell(key.cell);
        let mut shard = self.table.lock(cell);
        let place = shard.find(cell)?;
        Some(shard.change(place, change))
    }

    fn fits(&self, tag: &EntityTag) -> bool {
        tag.opaque_len() <= self.tag_bytes
    }

    fn tick(&self) -> Stamp {
        Stamp(self.clock.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn now(&self) -> Seconds {
        clock::since(self.began).as_secs()
    }

    fn view<'a>(&self, record: &'a Record, key: Key, caller: u64, max_age: Option<Duration>) -> View<'a> {
        // The time is only looked at where somebody asks how old knowledge is.
        let now = max_age.map_or(0, |_| self.now());
        let viewer = Source { spelling: key.spelling, caller, now };
        record.view(viewer, max_age.map(|age| age.as_secs()))
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

    /// Puts a new record in its place, and makes room for the next.
    fn insert(&self, mut shard: MutexGuard<'_, Shard>, cell: Cell, slot: Slot) {
        shard.insert(cell, slot);
        let evicted = self.make_room(&mut shard);
        drop(shard);
        for _ in 0..evicted {
            self.watcher.evicted();
        }
    }

    /// Drops records until the shard holds no more than it may. Those that are in use, and at first those that were used
    /// lately, are passed over. Returns how many were dropped.
    fn make_room(&self, shard: &mut Shard) -> usize {
        let mut evicted = 0;
        for tries in 0..EVICTION_TRIES {
            if shard.len() <= self.shard_capacity {
                break;
            }
            if let Some((cell, place)) = shard.pass() {
                evicted += usize::from(self.evict(shard, cell, place, tries >= EVICTION_TRIES / 2));
            }
        }
        evicted
    }

    /// Drops a record and leaves its floor, both under the shard's lock, so that no observation can come between.
    fn evict(&self, shard: &mut Shard, cell: Cell, place: Place, even_if_used: bool) -> bool {
        let used = shard.is_used(place);
        shard.set_used(place, false);
        let floor = shard.look(place, |slot| slot.is_idle().then(|| slot.record.floor()));
        let Some(floor) = floor.filter(|_| even_if_used || !used) else { return false };
        if !self.is_broken(Broken::ForgottenFloors) {
            self.raise_floor(cell.0, floor);
        }
        shard.remove(place);
        true
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
        Self { record, line: None }
    }

    fn packed(&self) -> Option<Packed> {
        if self.line.is_none() { Packed::of(&self.record) } else { None }
    }

    fn is_idle(&self) -> bool {
        self.record.is_idle() && self.line.as_ref().is_none_or(|line| line.waiters.is_empty())
    }

    /// A write that has, or had, such a turn has ended so.
    fn settle(&mut self, access: Access, outcome: Outcome, at: Stamp, source: Source) {
        match access {
            Access::Guarded | Access::Unguarded => self.record.settle(outcome, at, source),
            Access::Observed => self.record.settle_observed(outcome, at, source),
        }
    }

    /// The same for any kind of write.
    fn pass_on_from(&mut self, access: Access) {
        match access {
            Access::Guarded | Access::Unguarded => self.pass_on(),
            Access::Observed => {
                self.record.end_observed();
                self.grant();
            }
        }
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
    key: Key,
    id: u64,
    since: Instant,
}

impl InLine {
    fn new(tracker: Arc<Tracker>, key: Key, id: u64) -> Self {
        tracker.watcher.waits();
        Self { tracker: Some(tracker), key, id, since: clock::now() }
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
            tracker.leave(self.key, self.id);
            tracker.watcher.waited(self.since.elapsed());
        }
    }
}

/// The right to have a write under way; of one that is only observed ([`Access::Observed`]), no more than word of it.
///
/// Dropped before [`Turn::confirm`], nothing was sent: the next in line gets it and what is known stays known. Dropped
/// after that without [`Turn::settle`], the write is in doubt: what was known is forgotten, and the turn is held for a
/// while, since the backend may still be at work.
#[derive(Debug)]
#[must_use = "a turn that is dropped is given up"]
pub struct Turn(Box<Tenure>);

/// What a turn is, in a box: it is handed on a dozen times from when it is taken until it is settled.
#[derive(Debug)]
struct Tenure {
    tracker: Arc<Tracker>,
    ask: Ask,
    phase: Phase,
    since: Instant,
    /// The turns of the resources that the write changes beside its own; they end as this one does.
    shared: Vec<Turn>,
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
        Self(Box::new(Tenure {
            tracker,
            ask,
            phase: Phase::Taken,
            since: clock::now(),
            shared: Vec::new(),
            pass: None,
        }))
    }

    /// Tells the watcher of it. Not while the record is locked.
    fn told(self, waited: Duration) -> Self {
        if self.0.ask.access != Access::Observed {
            self.0.tracker.watcher.taken(waited);
        }
        self
    }

    /// Keeps a pass until the turn is over, the hold after a write in doubt included.
    pub fn keep(&mut self, pass: Pass) {
        self.0.pass = Some(pass);
    }

    /// Lends what is known to `judge`.
    pub async fn known<R>(&self, max_age: Option<Duration>, judge: impl FnOnce(View<'_>) -> R) -> R {
        let cell = Cell(self.0.ask.key.cell);
        let shard = self.0.tracker.table.lock(cell);
        let Some(place) = shard.find(cell) else { return judge(View::NOTHING) };
        shard.look(place, |slot| judge(self.0.tracker.view(&slot.record, self.0.ask.key, self.0.ask.caller, max_age)))
    }

    /// Records what a probe in this turn showed. Returns false where it was overtaken: another resource's write changed
    /// this one meanwhile, and nothing may be decided by the probe.
    #[must_use]
    pub async fn learn(&mut self, probed: Probed) -> bool {
        let too_long = matches!(&probed, Probed::Tag(tag) if !self.0.tracker.fits(tag));
        let probed = if too_long { Probed::Untagged } else { probed };
        let source = self.0.tracker.source(self.0.ask.key, self.0.ask.caller);
        let learn = |slot: &mut Slot| slot.record.learn(probed, self.0.tracker.tick(), source);
        self.0.tracker.change_if_there(self.0.ask.key, learn).unwrap_or(false)
    }

    /// Whether the writer has been alone so far: nobody else's write can have changed the resource that its own has not.
    #[must_use]
    pub async fn is_alone(&self) -> bool {
        let cell = Cell(self.0.ask.key.cell);
        let shard = self.0.tracker.table.lock(cell);
        shard.find(cell).is_some_and(|place| shard.look(place, |slot| slot.record.is_undisturbed()))
    }

    /// The write is about to be sent. From here on the turn must be settled.
    ///
    /// # Errors
    ///
    /// [`TurnLost`]: somebody else may have the turn, and the write must not be sent.
    pub async fn confirm(&mut self) -> Result<(), TurnLost> {
        self.0.phase = Phase::Sending;
        for turn in &mut self.0.shared {
            turn.0.phase = Phase::Sending;
        }
        Ok(())
    }

    /// How the write ended. The record says so, and the next in line begins, in one step.
    pub async fn settle(mut self, outcome: Outcome) {
        self.0.phase = Phase::Settled;
        for mut turn in std::mem::take(&mut self.0.shared) {
            turn.0.phase = Phase::Settled;
            self.0.tracker.release_shared(&turn.0.ask, &outcome, turn.0.since);
        }
        let too_long = matches!(&outcome, Outcome::Committed(Some(tag)) if !self.0.tracker.fits(tag));
        let outcome = if too_long { Outcome::Committed(None) } else { outcome };
        self.0.tracker.release(&self.0.ask, Some(self.0.tracker.misjudged(outcome)), self.0.since);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        match self.0.phase {
            Phase::Settled => {}
            Phase::Sending if self.0.tracker.is_broken(Broken::TurnEndsWithClient) => {
                self.0.tracker.release(&self.0.ask, None, self.0.since)
            }
            Phase::Taken => self.0.tracker.release(&self.0.ask, None, self.0.since),
            Phase::Sending => {
                self.0.tracker.doubt(&self.0.ask);
                let (tracker, ask, since) = (Arc::clone(&self.0.tracker), self.0.ask, self.0.since);
                match tokio::runtime::Handle::try_current() {
                    Ok(runtime) if !ask.hold.is_zero() => {
                        // Where the runtime ends before the hold, neither the turn nor the pass is given back.
                        let pass = ManuallyDrop::new(self.0.pass.take());
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
