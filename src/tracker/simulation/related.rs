//! Writes that change other resources, too, as their routes say: can any interleaving of those lose an update?
//!
//! The same world, in which a write to a resource may change up to three others, often crosswise. What it changes beside
//! its own is changed in the same moment, and nothing of that is exempt: the tracker has a turn for each. In every third
//! world writers wait for a turn longer than the story lasts, so that two that wait for each other are noticed
//! ([`Violation::Stuck`]).

use std::time::Duration;

use tokio::runtime::Builder;

use super::{Dice, Event, Report, SEEDS, Target, Violation, World, backend::Backend, clients::Write, tell_all};
use crate::{
    core::{record::Access, resource::Key},
    tracker::{Broken, Busy},
};

#[test]
fn no_update_is_lost_where_writes_change_other_resources() {
    let replayed = std::env::var("IFMATCH_SEED").ok().map(|seed| seed.parse::<u64>().expect("a seed is a number"));
    let seeds = replayed.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut totals = super::Counts::default();
    for seed in seeds {
        let report = simulate(seed, None, replayed.is_some());
        if replayed.is_some() {
            eprintln!("{}", report.story.join("\n"));
        }
        if let Some(violation) = report.violations.first() {
            let test = "no_update_is_lost_where_writes_change_other_resources";
            panic!(
                "seed {seed}: {violation}\nthe whole story: IFMATCH_SEED={seed} cargo test --lib {test} -- --nocapture"
            );
        }
        totals.add(&report.counts);
    }
    eprintln!("{totals:?}");
    if replayed.is_none() {
        for (event, least) in [
            (Event::Beside, 4000),
            (Event::Committed, 2000),
            (Event::FromMemory, 300),
            (Event::Stale, 1000),
            (Event::Busy, 200),
            (Event::InDoubt, 500),
            (Event::HungUpInLine, 200),
            (Event::Renamed, 100),
        ] {
            assert!(totals.of(event) >= least, "{event:?}: {} are too few", totals.of(event));
        }
    }
}

#[test]
fn would_notice_that_related_turns_are_not_taken() {
    assert_noticed(Broken::NoSharedTurns, |violation| matches!(violation, Violation::LostUpdate(_)));
}

#[test]
fn would_notice_that_what_a_write_also_changes_counts_as_it_was() {
    assert_noticed(Broken::RelatedUnchanged, |violation| matches!(violation, Violation::LostUpdate(_)));
}

#[test]
fn would_notice_that_turns_are_taken_in_any_order() {
    assert_noticed(Broken::NoOrder, |violation| matches!(violation, Violation::Stuck(_)));
}

fn assert_noticed(how: Broken, is_it: impl Fn(&Violation) -> bool) {
    for seed in 0..SEEDS {
        let report = simulate(seed, Some(how), false);
        if let Some(violation) = report.violations.iter().find(|violation| is_it(violation)) {
            eprintln!("{how:?}, seed {seed}: {violation}");
            return;
        }
    }
    panic!("{how:?} goes unnoticed in {SEEDS} seeds");
}

fn simulate(seed: u64, broken: Option<Broken>, told: bool) -> Report {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(seed, broken, told, None);
        // By dice of their own, so that the other simulation's stories stay what they are.
        world.relate(&mut Dice(!seed));
        tell_all(world).await
    })
}

impl World {
    fn relate(&mut self, dice: &mut Dice) {
        for (resource, beside) in self.beside.iter_mut().enumerate() {
            for _ in 0..dice.below(4) {
                let other = self.targets[dice.index(self.targets.len())];
                let is_new = |known: &Target| known.resource != other.resource;
                if other.resource != resource && beside.iter().all(is_new) {
                    beside.push(other);
                }
            }
        }
        if dice.below(3) == 0 {
            self.policy.wait = Duration::from_secs(7200);
        }
    }

    /// Waits until what the write changes beside its target may be written to under the names that it has for that.
    pub(super) async fn enter_beside(&self, write: &Write) -> Result<(), Busy> {
        for name in &write.names_beside {
            drop(self.gate.enter(&name.since, self.policy.wait).await?);
        }
        Ok(())
    }

    /// Whoever takes no turn there can at least say afterwards what has changed. It is not enough.
    pub(super) async fn tell_of_those_without_a_turn(&self, write: &Write) {
        if self.broken == Some(Broken::NoSharedTurns) {
            for key in write.keys_beside() {
                self.tracker.change(key).await;
            }
        }
    }
}

impl Write {
    pub(super) fn keys_beside(&self) -> Vec<Key> {
        self.names_beside.iter().map(|name| name.key).collect()
    }
}

impl Backend {
    pub(super) fn arrive_beside(&mut self, write: &Write) {
        for beside in &write.beside {
            let under_way = &mut self.resources[beside.resource].under_way;
            if under_way.contains(&Access::Guarded) {
                self.violations.push(Violation::Together(format!("{write:?} and a guarded write to {beside:?}")));
            }
            under_way.push(Access::Unguarded);
        }
    }

    pub(super) fn leave_beside(&mut self, write: &Write) {
        for beside in &write.beside {
            let under_way = &mut self.resources[beside.resource].under_way;
            let place = under_way.iter().position(|access| *access == Access::Unguarded).expect("it arrived");
            under_way.swap_remove(place);
        }
    }

    pub(super) fn change_beside(&mut self, write: &Write) {
        for beside in &write.beside {
            self.states += 1;
            self.resources[beside.resource].state = Some(self.states);
        }
    }
}
