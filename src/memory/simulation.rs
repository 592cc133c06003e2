//! A seeded simulation of the memory in virtual time: can any interleaving run a key twice, create a value twice, or answer
//! for a write that is not the last?
//!
//! A model backend does whatever reaches it, as the real ones do: it has no unique index and knows no keys. Clients send
//! requests with keys, create and delete resources with values, and write resources on condition; they hang up anywhere, and
//! come again. Answers are delayed, refused, lost before and after the request was applied, and late. The gateway's steps
//! around the real [`Memory`] (and the real [`Tracker`]'s turns) are in `steps`.
//!
//! All randomness comes from the seed, the runtime has one thread and its clock is paused: a seed is always the same story.
//! Deliberately absent: HTTP; and eviction, after which a request runs as if it were new, as it may.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Builder,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{Broken, Capacity, Memory};
use crate::{
    core::fingerprint::{Fingerprint, Fingerprints},
    tracker::Tracker,
};

mod steps;

const SEEDS: u64 = 192;
const CLIENTS: u64 = 18;
/// The longest way between gateway and backend, in milliseconds.
const WAY: u64 = 60;
/// A claim in doubt is held for longer than there and back.
const SETTLE: Duration = Duration::from_millis(4 * WAY);
/// For how long answers are remembered.
const TIME: Duration = Duration::from_millis(600);

#[test]
fn nothing_happens_twice_and_no_answer_is_a_lie() {
    let mut totals = Counts::new();
    for seed in 0..SEEDS {
        let report = simulate(seed, None);
        if let Some(violation) = report.violations.first() {
            panic!("seed {seed}: {violation}");
        }
        for (event, count) in report.counts {
            *totals.entry(event).or_default() += count;
        }
    }
    eprintln!("{totals:?}");
    let least = [
        (Event::Ran, 3000),
        (Event::RanAnew, 500),
        (Event::AnsweredAgain, 2000),
        (Event::Running, 500),
        (Event::OtherPayload, 500),
        (Event::InDoubt, 500),
        (Event::Created, 1000),
        (Event::Deleted, 200),
        (Event::Duplicate, 2000),
        (Event::FoundByAsking, 300),
        (Event::MayExist, 200),
        (Event::Committed, 2000),
        (Event::Stale, 1000),
        (Event::Replayed, 500),
        (Event::WaitedForTheAnswer, 30),
        (Event::HungUp, 1000),
    ];
    for (event, least) in least {
        let count = totals.get(&event).copied().unwrap_or_default();
        assert!(count >= least, "{event:?}: {count} are too few");
    }
}

#[test]
fn a_seed_is_always_the_same_story() {
    for seed in 0..4 {
        assert_eq!(simulate(seed, None).counts, simulate(seed, None).counts, "seed {seed}");
    }
}

/// The seeds that end in this violation where a rule is broken so.
fn assert_noticed(how: Broken, violation: fn(&Violation) -> bool) {
    let seen = (0..SEEDS).find(|seed| simulate(*seed, Some(how)).violations.iter().any(violation));
    assert!(seen.is_some(), "{how:?} goes unnoticed in {SEEDS} seeds");
}

fn is_two_runs(violation: &Violation) -> bool {
    matches!(violation, Violation::TwoRuns(_))
}

fn is_duplicate(violation: &Violation) -> bool {
    matches!(violation, Violation::Duplicate(_))
}

fn is_wrong_answer(violation: &Violation) -> bool {
    matches!(violation, Violation::WrongAnswer(_))
}

#[test]
fn would_notice_that_claims_do_not_exclude() {
    assert_noticed(Broken::NoClaims, is_two_runs);
    assert_noticed(Broken::NoClaims, is_duplicate);
}

#[test]
fn would_notice_that_what_is_in_doubt_may_be_done_anew() {
    assert_noticed(Broken::DoubtFrees, is_two_runs);
    assert_noticed(Broken::DoubtFrees, is_duplicate);
}

#[test]
fn would_notice_that_a_claim_ends_with_its_client() {
    assert_noticed(Broken::ClaimEndsWithClient, is_two_runs);
    assert_noticed(Broken::ClaimEndsWithClient, is_duplicate);
}

#[test]
fn would_notice_that_a_change_leaves_what_was_remembered() {
    assert_noticed(Broken::NothingIsForgotten, is_wrong_answer);
}

#[test]
fn would_notice_that_another_caller_is_answered() {
    assert_noticed(Broken::CallerIgnored, is_wrong_answer);
}

#[test]
fn would_notice_that_another_body_is_answered() {
    assert_noticed(Broken::BodyIgnored, is_wrong_answer);
}

#[test]
fn would_notice_that_the_backend_is_asked_before_the_claim() {
    assert_noticed(Broken::AskedTooEarly, is_duplicate);
}

#[derive(Debug, thiserror::Error)]
enum Violation {
    #[error("a key ran twice: {0}")]
    TwoRuns(String),
    #[error("a value exists twice: {0}")]
    Duplicate(String),
    #[error("an answer is not the request's: {0}")]
    WrongAnswer(String),
    #[error("somebody waits for ever: {0}")]
    Stuck(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ran,
    /// After its time was over, or because nothing had happened.
    RanAnew,
    AnsweredAgain,
    Running,
    OtherPayload,
    InDoubt,
    Created,
    Deleted,
    Duplicate,
    FoundByAsking,
    MayExist,
    Committed,
    Stale,
    Replayed,
    WaitedForTheAnswer,
    HungUp,
}

type Counts = BTreeMap<Event, u64>;

struct Report {
    violations: Vec<Violation>,
    counts: Counts,
}

fn simulate(seed: u64, broken: Option<Broken>) -> Report {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let world = Arc::new(World::new(seed, broken));
        world.run().await;
        let violations = std::mem::take(&mut world.backend().violations);
        Report { violations, counts: std::mem::take(&mut *world.counts.lock().unwrap()) }
    })
}

/// What reached the service, and what it made of it.
#[derive(Default)]
struct Backend {
    /// The runs of each key: which payload, and until when it must be known.
    runs: HashMap<u64, Run>,
    /// What exists: resources by number, with their value.
    values: BTreeMap<u64, u64>,
    created: u64,
    /// Each resource's version, and who wrote it what.
    resources: HashMap<u64, (u64, Written)>,
    violations: Vec<Violation>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    payload: u64,
    /// `None`: for as long as it is under way.
    known_until: Option<Instant>,
}

/// A write: whose, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Written {
    caller: u64,
    body: u64,
    condition: u64,
}

struct World {
    memory: Arc<Memory>,
    tracker: Arc<Tracker>,
    prints: Fingerprints,
    broken: Option<Broken>,
    /// Whether the backend is asked before each creation.
    asks: bool,
    backend: Mutex<Backend>,
    dice: Mutex<Dice>,
    counts: Mutex<Counts>,
    bodies: AtomicU64,
}

impl World {
    fn new(seed: u64, broken: Option<Broken>) -> Self {
        let mut dice = Dice(seed);
        let capacity = Capacity { entries: 100_000, bytes: 1 << 30 };
        let memory = Arc::new(Memory { broken, ..Memory::with(capacity, [seed, 1]) });
        Self {
            prints: memory.prints(),
            memory,
            tracker: Arc::new(Tracker::new(1000, 64)),
            broken,
            asks: dice.below(2) == 0 || broken == Some(Broken::AskedTooEarly),
            backend: Mutex::default(),
            dice: Mutex::new(dice),
            counts: Mutex::default(),
            bodies: AtomicU64::new(0),
        }
    }

    async fn run(self: &Arc<Self>) {
        let everybody: Vec<JoinHandle<()>> = (0..CLIENTS).map(|n| tokio::spawn(Arc::clone(self).client(n))).collect();
        let all = async {
            for one in everybody {
                one.await.expect("nobody panics");
            }
        };
        if timeout(Duration::from_secs(3600), all).await.is_err() {
            self.backend().violations.push(Violation::Stuck("a client".into()));
        }
        sleep(4 * SETTLE).await;
        if self.memory.under_way() > 0 {
            self.backend().violations.push(Violation::Stuck(format!("{:?}", self.memory)));
        }
        let mut values = HashSet::new();
        let mut backend = self.backend();
        if let Some(twice) = backend.values.values().copied().find(|value| !values.insert(*value)) {
            backend.violations.push(Violation::Duplicate(format!("{twice} in the end")));
        }
    }

    /// One after the other; some are given up in the midst, and come again at once.
    async fn client(self: Arc<Self>, n: u64) {
        for _ in 0..20 {
            sleep(self.up_to(150)).await;
            let request = self.a_request(n);
            for _ in 0..=self.below(3) {
                let patience = if self.one_in(3) { self.up_to(2 * WAY) } else { Duration::from_secs(60) };
                let done = timeout(patience, Arc::clone(&self).carry_out(request)).await;
                if done.is_err() {
                    self.count(Event::HungUp);
                }
            }
        }
    }

    fn backend(&self) -> MutexGuard<'_, Backend> {
        self.backend.lock().unwrap()
    }

    fn name(&self, parts: &[u64]) -> Fingerprint {
        let bytes: Vec<_> = parts.iter().map(|part| part.to_be_bytes()).collect();
        self.prints.of(bytes.iter().map(|part| &part[..]))
    }

    fn is_broken(&self, how: Broken) -> bool {
        self.broken == Some(how)
    }

    fn count(&self, event: Event) {
        *self.counts.lock().unwrap().entry(event).or_default() += 1;
    }

    fn below(&self, n: u64) -> u64 {
        self.dice.lock().unwrap().below(n)
    }

    fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn up_to(&self, milliseconds: u64) -> Duration {
        Duration::from_millis(self.below(milliseconds + 1))
    }

    async fn way(&self) {
        let longest = [1, 5, 20, WAY][self.dice.lock().unwrap().index(4)];
        sleep(self.up_to(longest)).await;
    }

    fn next_body(&self) -> u64 {
        self.bodies.fetch_add(1, Ordering::Relaxed)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): short, and the same on every machine.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % n
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("less than a length")
    }
}
