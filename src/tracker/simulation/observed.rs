//! The same for writes that are only observed: they come at any moment beside everybody, and nothing that is known may be
//! wrong for that.
//!
//! One resource, whose states have a tag each. What can't be prevented is that an observed write comes between a guarded
//! one's verdict and its arrival; the model lets that pass, and nothing else.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Builder, time::sleep};

use super::{Dice, SEEDS, WAY};
use crate::{
    core::{
        etag::EntityTag,
        record::{Access, Outcome, Probed, Seen, State, View},
        resource::Key,
    },
    tracker::{Ask, Broken, Tracker, Turn},
};

const KEY: Key = Key { cell: [1, 1], spelling: 1 };
const HOLD: Duration = Duration::from_millis(3 * WAY);
const CALLER: u64 = 0;

/// What the gateway does otherwise than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Tracker(Broken),
    /// The record is told of a change before an observed write and after it, and not that it is under way.
    OnlyChanges,
}

#[derive(Debug, Default)]
struct Model {
    state: u64,
    /// How many observed writes have begun.
    begun: u64,
    violations: Vec<String>,
    /// Guarded writes that were applied; those of them that no observed write met; and observed writes.
    guarded: u64,
    undisturbed: u64,
    observed: u64,
    from_memory: u64,
}

struct World {
    tracker: Arc<Tracker>,
    model: Mutex<Model>,
    dice: Mutex<Dice>,
    fault: Option<Fault>,
    running: AtomicU64,
}

fn tag(state: u64) -> EntityTag {
    EntityTag::parse(format!("\"{state}\"").as_bytes()).expect("a tag")
}

fn simulate(seed: u64, fault: Option<Fault>) -> Model {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let broken = match fault {
            Some(Fault::Tracker(broken)) => Some(broken),
            Some(Fault::OnlyChanges) | None => None,
        };
        let world = Arc::new(World {
            tracker: Arc::new(Tracker::breaking(100, broken)),
            model: Mutex::default(),
            dice: Mutex::new(Dice(seed)),
            fault,
            running: AtomicU64::new(0),
        });
        for n in 0..9 {
            world.running.fetch_add(1, Ordering::Relaxed);
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                for _ in 0..15 {
                    sleep(world.up_to(200)).await;
                    match n % 3 {
                        0 => world.guarded().await,
                        1 => world.observed().await,
                        _ => world.read().await,
                    }
                }
                world.running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        while world.running.load(Ordering::Relaxed) > 0 {
            sleep(world.up_to(40)).await;
            if world.below(4) == 0 {
                world.tracker.evict_now(KEY);
            }
        }
        sleep(2 * HOLD + Duration::from_millis(2 * WAY)).await;
        world.tracker.table.each(|slot| assert!(slot.is_idle() && slot.line.is_none(), "seed {seed}: {slot:?}"));
        std::mem::take(&mut *world.model())
    })
}

impl World {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().expect("nobody panics")
    }

    fn below(&self, n: u64) -> u64 {
        self.dice.lock().expect("nobody panics").below(n)
    }

    fn up_to(&self, milliseconds: u64) -> Duration {
        Duration::from_millis(self.below(milliseconds + 1))
    }

    async fn way(&self) {
        sleep(self.up_to(WAY)).await;
    }

    fn ask(access: Access) -> Ask {
        Ask { key: KEY, access, caller: CALLER, wait: Duration::from_secs(5), line: 100, hold: HOLD }
    }

    async fn read(&self) {
        let began = self.tracker.stamp().await;
        self.way().await;
        let state = self.model().state;
        self.way().await;
        self.tracker.observe(KEY, began, Seen::Tag(tag(state), Some(1)), CALLER).await;
    }

    /// What is lent is true, whatever is under way.
    fn check(&self, view: View<'_>) -> Option<EntityTag> {
        let mut model = self.model();
        let State::Current(set) = view.state else { return None };
        let current = tag(model.state);
        for known in set.iter().filter(|known| known.tag != current) {
            let lie = format!("{} is known, and the state is {current}", known.tag);
            model.violations.push(lie);
        }
        Some(set[0].tag.clone())
    }

    async fn guarded(&self) {
        let held = tag(self.model().state);
        self.way().await;
        let _ = self.tracker.known(KEY, CALLER, None, |view| self.check(view)).await;
        let Ok(mut turn) = self.tracker.begin_write(Self::ask(Access::Guarded)).await else { return };
        let begun = self.model().begun;
        let known = match turn.known(None, |view| self.check(view)).await {
            Some(known) => {
                self.model().from_memory += 1;
                known
            }
            None => match self.probe(&mut turn).await {
                Some(known) => known,
                None => return,
            },
        };
        if known != held {
            return;
        }
        turn.confirm().await.expect("it is ours");
        self.way().await;
        let outcome = {
            let mut model = self.model();
            let is_met = model.begun > begun;
            if !is_met && held != tag(model.state) {
                let lost = format!("applied to {}, written for {held}", model.state);
                model.violations.push(lost);
            }
            model.guarded += 1;
            model.undisturbed += u64::from(!is_met);
            model.state += 1;
            Outcome::Committed(Some(tag(model.state)))
        };
        self.way().await;
        turn.settle(outcome).await;
    }

    async fn probe(&self, turn: &mut Turn) -> Option<EntityTag> {
        self.way().await;
        let state = self.model().state;
        self.way().await;
        turn.learn(Probed::Tag(tag(state))).await.then(|| tag(state))
    }

    async fn observed(&self) {
        let turn = if self.fault == Some(Fault::OnlyChanges) {
            self.tracker.change(KEY).await;
            None
        } else {
            let mut turn = self.tracker.begin_write(Self::ask(Access::Observed)).await.expect("it waits for nobody");
            turn.confirm().await.expect("it is ours");
            Some(turn)
        };
        self.model().begun += 1;
        self.way().await;
        let fate = self.below(6);
        let outcome = match fate {
            0 => Outcome::NotApplied,
            1 => Outcome::Contradicted,
            // In doubt, and applied.
            2 => {
                self.model().state += 1;
                Outcome::InDoubt
            }
            // The same, later than that.
            3 => Outcome::InDoubt,
            _ => {
                let mut model = self.model();
                model.state += 1;
                Outcome::Committed((fate == 4).then(|| tag(model.state)))
            }
        };
        self.model().observed += 1;
        self.way().await;
        match (turn, fate) {
            (None, _) => self.tracker.change(KEY).await,
            (Some(turn), 3) => {
                drop(turn);
                sleep(self.up_to(2 * WAY)).await;
                self.model().state += 1;
            }
            (Some(turn), _) => turn.settle(outcome).await,
        }
    }
}

#[test]
fn nothing_that_is_known_is_wrong_for_an_observed_write() {
    let (mut guarded, mut undisturbed, mut observed, mut from_memory) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let model = simulate(seed, None);
        assert_eq!(model.violations, [""; 0], "seed {seed}");
        guarded += model.guarded;
        undisturbed += model.undisturbed;
        observed += model.observed;
        from_memory += model.from_memory;
    }
    let counts = [guarded, undisturbed, observed, from_memory];
    assert!(guarded > 1000 && undisturbed > 500 && observed > 5000 && from_memory > 500, "{counts:?}");
}

#[test]
fn would_notice_what_is_wrong_for_an_observed_write() {
    for fault in [
        Fault::OnlyChanges,
        Fault::Tracker(Broken::NoTurns),
        Fault::Tracker(Broken::OldNews),
        Fault::Tracker(Broken::DoubtKeepsTags),
        Fault::Tracker(Broken::TurnEndsWithClient),
    ] {
        let is_noticed = |seed| !simulate(seed, Some(fault)).violations.is_empty();
        assert!((0..SEEDS).any(is_noticed), "{fault:?} goes unnoticed in {SEEDS} seeds");
    }
}
