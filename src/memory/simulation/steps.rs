//! The gateway's steps around the memory, without HTTP, and what the backend makes of what reaches it.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{Event, Run, SETTLE, TIME, Violation, WAY, World, Written};
use crate::{
    core::{
        fields::Fields,
        record::{Access, Outcome},
        resource::Key,
    },
    memory::{Begun, Broken, Claim, Identity, InDoubt, Kept, Kind, Look, Memo, Recorded, Value},
    tracker::{Ask, Turn},
};

/// What a client wants.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request {
    Keyed { key: u64, payload: u64 },
    Create { caller: u64, value: u64 },
    Delete { number: u64 },
    Write { resource: u64, written: Written },
}

/// What becomes of a request at the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Refused,
    /// The gateway hears nothing, and it is not applied.
    LostBefore,
    /// The gateway hears nothing, and it is applied, perhaps later.
    LostAfter,
}

impl World {
    pub(super) fn a_request(&self, n: u64) -> Request {
        match n % 3 {
            0 => Request::Keyed { key: self.below(40), payload: u64::from(self.one_in(6)) },
            1 if self.one_in(4) => Request::Delete { number: self.below(self.backend().created + 1) },
            1 => Request::Create { caller: n, value: self.below(8) },
            _ => {
                let resource = self.below(2);
                let condition = self.backend().resources.get(&resource).map_or(0, |(version, _)| *version);
                // Some write the same as others.
                let body = if self.one_in(3) { 0 } else { self.next_body() + 1 };
                Request::Write { resource, written: Written { caller: n % 4, body, condition } }
            }
        }
    }

    pub(super) async fn carry_out(self: Arc<Self>, request: Request) {
        match request {
            Request::Keyed { key, payload } => self.keyed(key, payload).await,
            Request::Create { caller, value } => self.create(caller, value).await,
            Request::Delete { number } => self.delete(number).await,
            Request::Write { resource, written } => self.write(resource, written).await,
        }
    }

    fn a_fate(&self) -> Fate {
        [Fate::Answered, Fate::Answered, Fate::Answered, Fate::Refused, Fate::LostBefore, Fate::LostAfter]
            [self.dice.lock().unwrap().index(6)]
    }

    /// In a task of its own, which outlives the client, except where that rule is broken on purpose.
    async fn apart(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut waiting = Waiting(tokio::spawn(task), self.is_broken(Broken::ClaimEndsWithClient));
        (&mut waiting.0).await.expect("only who hangs up ends the task");
    }

    // ------------------------------------------------------------------------------------------ keys

    async fn keyed(self: Arc<Self>, key: u64, payload: u64) {
        let identity = Identity { head: self.name(&[0]), body: Some(self.name(&[payload])) };
        let claim = match self.memory.begin(Kind::Key, self.name(&[1, key])) {
            Begun::UnderWay(_) => return self.count(Event::Running),
            Begun::Known(Memo::Answer(known, kept)) => {
                return self.answered_again(key, payload, known == identity, &kept);
            }
            Begun::Known(Memo::Value(_)) => unreachable!("names of values are never those of keys"),
            Begun::Free(claim) => claim,
        };
        sleep(self.up_to(10)).await; // The body comes.
        let world = Arc::clone(&self);
        self.apart(async move { world.run_key(claim, identity, key, payload).await }).await;
    }

    fn answered_again(&self, key: u64, payload: u64, is_same: bool, kept: &Kept) {
        let is_same = is_same || self.is_broken(Broken::BodyIgnored);
        let Kept::Whole(recorded) = kept else { return self.count(Event::InDoubt) };
        if !is_same {
            return self.count(Event::OtherPayload);
        }
        self.count(Event::AnsweredAgain);
        if recorded.content() != answer_to(key, payload) {
            let why = format!("key {key} with payload {payload} got {recorded:?}");
            self.backend().violations.push(Violation::WrongAnswer(why));
        }
    }

    async fn run_key(&self, mut claim: Claim, identity: Identity, key: u64, payload: u64) {
        if !self.is_broken(Broken::ClaimEndsWithClient) {
            claim.confirm(InDoubt::Remembered(Memo::Answer(identity, Kept::InDoubt), Some(TIME)));
        }
        let fate = self.a_fate();
        self.way().await;
        if fate != Fate::LostBefore && fate != Fate::Refused {
            self.backend_runs(key, payload);
        }
        self.way().await;
        let known_until = Instant::now() + TIME;
        match fate {
            Fate::Refused => return claim.release(),
            Fate::Answered => {
                sleep(self.up_to(20)).await; // The answer's body comes.
                let known_until = Instant::now() + TIME;
                self.known_until(key, known_until);
                let recorded = Recorded::new(StatusCode::OK, &Fields::new(), &answer_to(key, payload));
                return claim.remember(Memo::Answer(identity, Kept::Whole(recorded)), Some(TIME));
            }
            Fate::LostBefore | Fate::LostAfter => self.known_until(key, known_until),
        }
        drop(claim);
    }

    fn known_until(&self, key: u64, until: Instant) {
        if let Some(run) = self.backend().runs.get_mut(&key) {
            run.known_until = Some(until);
        }
    }

    fn backend_runs(&self, key: u64, payload: u64) {
        let mut backend = self.backend();
        let before = backend.runs.insert(key, Run { payload, known_until: None });
        self.count(Event::Ran);
        match before {
            None => {}
            Some(Run { known_until: Some(until), .. }) if until <= Instant::now() => self.count(Event::RanAnew),
            Some(run) => {
                let why = format!("key {key}, payload {payload}, after {run:?} of payload {}", run.payload);
                backend.violations.push(Violation::TwoRuns(why));
            }
        }
    }

    // ------------------------------------------------------------------------------------------ values

    async fn create(self: Arc<Self>, caller: u64, value: u64) {
        let early = self.is_broken(Broken::AskedTooEarly);
        if early && self.is_there(value).await {
            return self.count(Event::FoundByAsking);
        }
        let name = self.name(&[2, value]);
        let claim = loop {
            match self.memory.begin(Kind::Value, name) {
                Begun::Free(claim) => break claim,
                Begun::Known(Memo::Value(Value { location: Some(_), .. })) => return self.count(Event::Duplicate),
                Begun::Known(_) => return self.count(Event::MayExist),
                Begun::UnderWay(waiting) => {
                    if !waiting.until_over(Duration::from_secs(10)).await {
                        return;
                    }
                }
            }
        };
        if self.asks && !early && self.is_there(value).await {
            return self.count(Event::FoundByAsking);
        }
        let world = Arc::clone(&self);
        self.apart(async move { world.create_at_backend(claim, caller, value).await }).await;
    }

    async fn is_there(&self, value: u64) -> bool {
        self.way().await;
        let is_there = self.backend().values.values().any(|known| *known == value);
        self.way().await;
        is_there
    }

    async fn create_at_backend(&self, mut claim: Claim, caller: u64, value: u64) {
        let is_asked_for = self.asks;
        let unknown = Value { location: None, caller, owner: self.name(&[3]), is_asked_for, in_doubt: true };
        if !self.is_broken(Broken::ClaimEndsWithClient) {
            claim.confirm(if is_asked_for {
                InDoubt::Held(SETTLE)
            } else {
                InDoubt::Remembered(Memo::Value(unknown.clone()), None)
            });
        }
        let fate = self.a_fate();
        self.way().await;
        match fate {
            Fate::Refused => claim.release(),
            Fate::LostBefore => drop(claim),
            Fate::LostAfter => {
                drop(claim);
                sleep(self.up_to(2 * WAY)).await;
                self.backend_creates(value);
            }
            Fate::Answered => {
                let number = self.backend_creates(value);
                self.way().await;
                let (location, owner) = (Some(format!("/{number}").into()), self.name(&[4, number]));
                claim.remember(Memo::Value(Value { location, owner, in_doubt: false, ..unknown }), None);
            }
        }
    }

    fn backend_creates(&self, value: u64) -> u64 {
        let mut backend = self.backend();
        backend.created += 1;
        let number = backend.created;
        if backend.values.values().any(|known| *known == value) {
            backend.violations.push(Violation::Duplicate(format!("{value}, as number {number}")));
        }
        backend.values.insert(number, value);
        self.count(Event::Created);
        number
    }

    async fn delete(self: Arc<Self>, number: u64) {
        let world = Arc::clone(&self);
        self.apart(async move {
            world.way().await;
            let was_there = world.backend().values.remove(&number).is_some();
            world.way().await;
            if was_there {
                world.count(Event::Deleted);
                world.memory.forget_owned(world.name(&[4, number]), true);
            }
        })
        .await;
    }

    // ------------------------------------------------------------------------------------------ writes

    fn identity(&self, written: Written) -> Identity {
        let caller = if self.is_broken(Broken::CallerIgnored) { 0 } else { written.caller };
        let body = if self.is_broken(Broken::BodyIgnored) { 0 } else { written.body };
        Identity { head: self.name(&[caller, written.condition]), body: Some(self.name(&[body])) }
    }

    async fn write(self: Arc<Self>, resource: u64, written: Written) {
        let name = self.name(&[5, resource]);
        let identity = self.identity(written);
        let ask = Ask {
            key: Key { cell: [resource, resource], spelling: 0 },
            access: Access::Guarded,
            caller: written.caller,
            wait: Duration::from_secs(20),
            line: 128,
            hold: SETTLE,
        };
        let Ok(turn) = self.tracker.begin_write(ask).await else { return };
        match self.memory.look(name) {
            Look::Known(Memo::Answer(known, Kept::Whole(_))) if known == identity => {
                return self.replayed(resource, written);
            }
            Look::UnderWay(Some(known), waiting) if known == identity => {
                // Judged now: what comes after it does not make it untrue.
                self.replayed(resource, written);
                drop(turn);
                self.count(Event::WaitedForTheAnswer);
                waiting.until_over(Duration::from_secs(10)).await;
                return;
            }
            Look::Known(_) | Look::UnderWay(..) | Look::Nothing => {}
        }
        self.way().await;
        let current = self.backend().resources.get(&resource).map_or(0, |(version, _)| *version);
        if current != written.condition {
            return self.count(Event::Stale);
        }
        let world = Arc::clone(&self);
        self.apart(async move { world.write_in_turn(turn, resource, written).await }).await;
    }

    fn replayed(&self, resource: u64, written: Written) {
        self.count(Event::Replayed);
        let mut backend = self.backend();
        let last = backend.resources.get(&resource).map(|(_, last)| *last);
        if last != Some(written) {
            let why = format!("{written:?} of {resource} was answered for {last:?}");
            backend.violations.push(Violation::WrongAnswer(why));
        }
    }

    async fn write_in_turn(&self, mut turn: Turn, resource: u64, written: Written) {
        let name = self.name(&[5, resource]);
        turn.confirm().await.expect("a turn in this process is not lost");
        let fate = self.a_fate();
        self.way().await;
        if matches!(fate, Fate::Answered | Fate::LostAfter) {
            let mut backend = self.backend();
            let version = backend.resources.get(&resource).map_or(0, |(version, _)| *version) + 1;
            backend.resources.insert(resource, (version, written));
            self.count(Event::Committed);
        }
        self.way().await;
        match fate {
            Fate::Refused => turn.settle(Outcome::NotApplied).await,
            Fate::LostBefore | Fate::LostAfter => {
                self.memory.forget(name);
                drop(turn);
            }
            Fate::Answered => {
                self.memory.forget(name);
                let claim = self.memory.supersede(Kind::Replay, name, self.identity(written));
                turn.settle(Outcome::Committed(None)).await;
                sleep(self.up_to(20)).await; // The answer's body comes.
                let recorded = Recorded::new(StatusCode::OK, &Fields::new(), b"");
                claim.remember(Memo::Answer(self.identity(written), Kept::Whole(recorded)), Some(TIME));
            }
        }
    }
}

fn answer_to(key: u64, payload: u64) -> Vec<u8> {
    format!("{key} {payload}").into_bytes()
}

/// A client that waits for an answer.
struct Waiting(JoinHandle<()>, bool);

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.1 {
            self.0.abort();
        }
    }
}
