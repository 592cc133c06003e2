//! Versions that the gateway makes: tags are those of a few contents, so that they come back, and no answer to a write
//! shows one. With `after_write` the resource is read again in the turn; the client goes on by the tag that it got so.
//!
//! One thing more can go wrong here: that a client is told a tag of a state which is not the one that its write has left
//! ([`Violation::Misinformed`]). What it writes next would undo a change that it has not seen, with the right tag.

use http::Method;

use super::{Broken, Event, Report, SEEDS, Violation, World, clients::Held, clients::Write, simulate_with};
use crate::{
    core::{
        policy::Comparison,
        precondition::Tags,
        record::{Outcome, Seen, View},
    },
    tracker::Turn,
};

/// How versions are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Making {
    /// Whether resources are read again after writes.
    after_write: bool,
}

fn made(seed: u64, broken: Option<Broken>, after_write: bool) -> Report {
    simulate_with(seed, broken, false, Some(Making { after_write }))
}

#[test]
fn no_update_is_lost_by_made_versions() {
    let (mut tagged, mut committed) = (0, 0);
    for seed in 0..SEEDS / 2 {
        for after_write in [false, true] {
            let report = made(seed, None, after_write);
            if let Some(violation) = report.violations.first() {
                panic!("seed {seed}, after_write {after_write}: {violation}");
            }
            committed += report.counts.of(Event::Committed);
            let told = report.counts.of(Event::ToldAfterWrite);
            assert!(after_write || told == 0);
            tagged += told;
        }
    }
    eprintln!("{committed} committed, {tagged} told their tags");
    assert!(committed > 4000 && tagged > 1000, "{committed} and {tagged} are too few");
}

fn assert_noticed(how: Broken, after_write: bool, is_it: impl Fn(&Violation) -> bool) {
    for seed in 0..SEEDS {
        if let Some(found) = made(seed, Some(how), after_write).violations.iter().find(|violation| is_it(violation)) {
            eprintln!("{how:?}, seed {seed}: {found}");
            return;
        }
    }
    panic!("{how:?} goes unnoticed in {SEEDS} seeds");
}

fn is_lost(violation: &Violation) -> bool {
    matches!(violation, Violation::LostUpdate(_))
}

fn is_misinformed(violation: &Violation) -> bool {
    matches!(violation, Violation::Misinformed(_))
}

#[test]
fn would_notice_that_a_version_is_learned_from_a_write_s_answer() {
    assert_noticed(Broken::VersionOfAnswer, false, is_lost);
}

#[test]
fn would_notice_that_the_read_after_a_write_is_recorded_after_its_turn() {
    assert_noticed(Broken::ReadAfterTurn, true, is_lost);
}

#[test]
fn would_notice_that_the_read_after_a_write_counts_although_another_came_between() {
    assert_noticed(Broken::ReadWhenDisturbed, true, is_misinformed);
}

#[test]
fn would_notice_that_the_read_after_a_write_may_be_from_before_it() {
    assert_noticed(Broken::ReadFromBefore, true, is_misinformed);
    assert_noticed(Broken::ReadFromBefore, true, is_lost);
}

impl World {
    /// The end of a write that was answered: its turn, and what its client is told.
    pub(super) async fn end(&self, turn: Turn, write: &Write, outcome: Outcome) {
        if self.broken == Some(Broken::ReadAfterTurn) {
            turn.settle(outcome.clone()).await;
            if let Some(held) = self.read_after(write, &outcome).await {
                // As if it had been sent only now.
                let (began, seen) = (self.tracker.stamp().await, Seen::Tag(held.tag, None));
                self.tracker.observe(write.name.key, began, seen, write.caller).await;
            }
            return;
        }
        let mut outcome = outcome;
        if self.broken == Some(Broken::VersionOfAnswer) && outcome == Outcome::Committed(None) {
            outcome = Outcome::Committed(self.backend().before(write).map(|held| held.tag));
        }
        let told = self.after_write(&turn, write, &outcome).await;
        if let Some(held) = &told {
            outcome = Outcome::Committed(Some(held.tag.clone()));
        }
        turn.settle(outcome).await;
        if let Some(held) = told {
            self.count(Event::ToldAfterWrite);
            self.tell(|| format!("told {:?}: {write:?}", held.tag));
            self.held.lock().unwrap()[write.target.resource].push(held);
        }
    }

    /// The gateway's steps of the same name.
    async fn after_write(&self, turn: &Turn, write: &Write, outcome: &Outcome) -> Option<Held> {
        if !turn.is_alone().await {
            return None;
        }
        let held = self.read_after(write, outcome).await?;
        let tags = Tags::OneOf(vec![held.tag.clone()]);
        let was_there = |view: View<'_>| view.matches(&tags, Comparison::Weak, true) || view.supersedes(&tags);
        if turn.known(None, was_there).await && self.broken != Some(Broken::ReadFromBefore) {
            return None;
        }
        if !turn.is_alone().await && self.broken != Some(Broken::ReadWhenDisturbed) {
            return None;
        }
        self.backend().check_told(write, &held);
        Some(held)
    }

    /// A read of the gateway's own, of which some are answered by a replica that lags.
    async fn read_after(&self, write: &Write, outcome: &Outcome) -> Option<Held> {
        let is_wanted = self.making.is_some_and(|making| making.after_write)
            && *outcome == Outcome::Committed(None)
            && [Method::PUT, Method::PATCH].contains(&write.method);
        if !is_wanted {
            return None;
        }
        self.way().await;
        let lags = self.one_in(4);
        let held = {
            let backend = self.backend();
            let now = backend.resources[write.target.resource].held(write.variant);
            if lags { backend.before_by_a_known_tag(write).or(now) } else { now }
        };
        self.way().await;
        held.filter(|_| !self.one_in(10))
    }
}
