//! The backend, which applies whatever reaches it, and the model, which looks on.

use std::{collections::HashMap, sync::Arc};

use http::Method;
use tokio::{sync::oneshot, time::sleep};

use super::{
    Dice, Event, Target, Violation, World,
    clients::{Held, Write},
};
use crate::core::{
    etag::EntityTag,
    precondition::{Demands, Tags},
    record::{Access, Outcome, State, View},
};

/// What becomes of a write that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// A 4xx that says nothing of the state, or no byte was sent.
    Refused,
    /// 404 or 412.
    Contradicted,
    /// A 500.
    Failed {
        applied: bool,
    },
    Reset {
        applied: bool,
    },
    /// A 504, and if it is applied, then after that.
    Late {
        applied: bool,
    },
    /// The gateway does not wait until the answer comes.
    GivenUp,
}

impl World {
    pub(super) fn a_fate(&self) -> Fate {
        match self.below(20) {
            0..10 => Fate::Answered,
            10 => Fate::Refused,
            11 => Fate::Contradicted,
            12 | 13 => Fate::Failed { applied: self.one_in(2) },
            14 | 15 => Fate::Reset { applied: self.one_in(2) },
            16..19 => Fate::Late { applied: !self.one_in(3) },
            _ => Fate::GivenUp,
        }
    }

    /// What the backend does with a write. Whether anybody still waits for the answer makes no difference to it.
    pub(super) async fn process(self: Arc<Self>, write: Write, fate: Fate, answer: oneshot::Sender<Option<Outcome>>) {
        self.way().await;
        let outcome = match fate {
            Fate::Answered | Fate::GivenUp => Some(self.apply(&write)),
            Fate::Refused => Some(Outcome::NotApplied),
            Fate::Contradicted => Some(Outcome::Contradicted),
            Fate::Failed { applied } => {
                applied.then(|| self.apply(&write));
                Some(Outcome::InDoubt)
            }
            Fate::Reset { applied } => {
                applied.then(|| self.apply(&write));
                None
            }
            Fate::Late { .. } => None,
        };
        self.way().await;
        // Nobody may be there any more.
        let _ = answer.send(outcome);
        if fate == (Fate::Late { applied: true }) {
            let hold = u64::try_from(self.policy.settle.as_millis()).expect("short");
            sleep(self.up_to(hold - 1)).await;
            self.apply(&write);
        }
        self.backend().leave(&write);
    }

    fn apply(&self, write: &Write) -> Outcome {
        let variant = self.below(2);
        let outcome = self.backend().apply(write, variant, |event| self.count(event));
        self.tell(|| format!("applied, {outcome:?}: {write:?}"));
        outcome
    }
}

#[derive(Debug)]
pub(super) struct Backend {
    pub(super) resources: Vec<Resource>,
    /// The number of the last state, of whichever resource.
    pub(super) states: u64,
    /// By its number, what a write that was applied has found, and what it has left.
    applied: HashMap<u64, (Option<u64>, Option<u64>)>,
    pub(super) violations: Vec<Violation>,
}

#[derive(Debug)]
pub(super) struct Resource {
    /// `None`: there is none.
    pub(super) state: Option<u64>,
    variants: u64,
    tags_come_back: bool,
    /// Whether the answer to a write has the new tag.
    answers_with_tag: bool,
    pub(super) under_way: Vec<Access>,
    /// How often a write to another resource changed this one, and how often the tracker was told.
    related: u64,
    pub(super) reported: u64,
}

impl Resource {
    pub(super) fn new(state: u64, dice: &mut Dice) -> Self {
        Self {
            state: (dice.below(4) > 0).then_some(state),
            variants: 1 + dice.below(2),
            tags_come_back: dice.below(8) == 0,
            answers_with_tag: dice.below(3) > 0,
            under_way: Vec::new(),
            related: 0,
            reported: 0,
        }
    }

    /// The backend shows no tags: they are made of what it has, which comes back or does not.
    pub(super) fn has_no_tags(&mut self, dice: &mut Dice) {
        (self.tags_come_back, self.answers_with_tag) = (dice.below(2) == 0, false);
    }

    /// What a client gets that asks for this variant.
    pub(super) fn held(&self, variant: u64) -> Option<Held> {
        self.held_in(self.state, variant)
    }

    /// The same in another state.
    fn held_in(&self, state: Option<u64>, variant: u64) -> Option<Held> {
        let variant = variant % self.variants;
        let state = state.map(|state| if self.tags_come_back { state % 3 } else { state })?;
        let tag = EntityTag::parse(format!("\"{state}v{variant}\"").as_bytes()).expect("a tag");
        Some(Held { tag, variant })
    }

    fn has(&self, tag: &EntityTag) -> bool {
        (0..self.variants).any(|variant| self.held(variant).is_some_and(|held| held.tag == *tag))
    }

    /// Whether the resource was changed by a write to another one of which nothing was known yet when `reported` was
    /// the number of those that were. A writer who was judged then could not know better.
    fn unreported(&self, reported: u64) -> bool {
        self.related > reported
    }

    fn meets(&self, demands: &Demands) -> bool {
        let exists = self.state.is_some();
        let if_match = match &demands.if_match {
            None => true,
            Some(Tags::Any) => exists,
            Some(Tags::OneOf(tags)) => tags.iter().any(|tag| self.has(tag)),
        };
        let if_none_match = match &demands.if_none_match {
            None => true,
            Some(Tags::Any) => !exists,
            Some(Tags::OneOf(tags)) => self.variants > 1 || !tags.iter().any(|tag| self.has(tag)),
        };
        if_match && if_none_match
    }
}

impl Backend {
    pub(super) fn new(resources: Vec<Resource>) -> Self {
        Self { states: resources.len() as u64, resources, applied: HashMap::new(), violations: Vec::new() }
    }

    /// What was there before a write that was applied.
    pub(super) fn before(&self, write: &Write) -> Option<Held> {
        let (before, _) = self.applied.get(&write.number)?;
        self.resources[write.target.resource].held_in(*before, write.variant)
    }

    /// The same, where the gateway can know of it: the write has named the only tag that there was.
    pub(super) fn before_by_a_known_tag(&self, write: &Write) -> Option<Held> {
        let is_known = self.resources[write.target.resource].variants == 1
            && matches!(write.demands.if_match, Some(Tags::OneOf(_)));
        self.before(write).filter(|_| is_known)
    }

    /// Whether a write's client is told what it has left. A related change that is not reported yet may have come between.
    pub(super) fn check_told(&mut self, write: &Write, told: &Held) {
        let resource = &self.resources[write.target.resource];
        let left = self.applied.get(&write.number).and_then(|(_, left)| resource.held_in(*left, told.variant));
        let is_so = left.is_some_and(|left| left.tag == told.tag);
        if !is_so && !resource.unreported(resource.reported) {
            self.violations
                .push(Violation::Misinformed(format!("{told:?} after {write:?}, but there is {resource:?}")));
        }
    }

    pub(super) fn would_hold(&self, write: &Write) -> bool {
        self.resources[write.target.resource].meets(&write.demands)
    }

    pub(super) fn arrive(&mut self, write: &Write) {
        let under_way = &mut self.resources[write.target.resource].under_way;
        let guarded = write.access() == Access::Guarded;
        if under_way.iter().any(|other| guarded || *other == Access::Guarded) {
            self.violations.push(Violation::Together(format!("{write:?} and {under_way:?}")));
        }
        under_way.push(write.access());
        self.arrive_beside(write);
    }

    fn leave(&mut self, write: &Write) {
        let under_way = &mut self.resources[write.target.resource].under_way;
        let place = under_way.iter().position(|access| *access == write.access()).expect("it arrived");
        under_way.swap_remove(place);
        self.leave_beside(write);
    }

    /// Blind, as real ones are. Only the model looks at the condition.
    fn apply(&mut self, write: &Write, variant: u64, count: impl Fn(Event)) -> Outcome {
        let resource = &self.resources[write.target.resource];
        let missing = resource.state.is_none() && matches!(write.method, Method::PATCH | Method::DELETE);
        if resource.unreported(write.reported) {
            count(Event::Exempt);
        } else if !resource.meets(&write.demands) {
            self.violations.push(Violation::LostUpdate(format!("{write:?} is applied to {resource:?}")));
        }
        if missing {
            return Outcome::Contradicted;
        }
        count_application(write, count);
        self.change_related(write);
        self.change_beside(write);
        self.change(write, variant)
    }

    fn change_related(&mut self, write: &Write) {
        if let Some(related) = write.related {
            self.states += 1;
            let resource = &mut self.resources[related.resource];
            resource.state = Some(self.states);
            resource.related += 1;
        }
    }

    fn change(&mut self, write: &Write, variant: u64) -> Outcome {
        self.states += 1;
        let resource = &mut self.resources[write.target.resource];
        let before = resource.state;
        resource.state = (write.method != Method::DELETE).then_some(self.states);
        self.applied.insert(write.number, (before, resource.state));
        let tag = resource.held(variant).filter(|_| resource.answers_with_tag).map(|held| held.tag);
        match write.method {
            Method::DELETE => Outcome::Deleted,
            Method::POST => Outcome::Committed(None),
            _ => Outcome::Committed(tag),
        }
    }

    /// What is known is never wrong, except for related changes that are not reported yet.
    pub(super) fn check_knowledge(&mut self, target: Target, view: View<'_>) {
        let resource = &self.resources[target.resource];
        let holds = match view.state {
            State::Unknown => true,
            State::Absent => resource.state.is_none(),
            State::Current(set) => set.iter().all(|known| resource.has(&known.tag)),
        };
        if !holds && !resource.unreported(resource.reported) {
            self.violations.push(Violation::Lie(format!("{target:?} is {resource:?}, not {:?}", view.state)));
        }
    }
}

fn count_application(write: &Write, count: impl Fn(Event)) {
    let demands = &write.demands;
    if demands.if_match.is_some() {
        count(Event::Committed);
    }
    if demands.if_none_match == Some(Tags::Any) {
        count(Event::Created);
    }
    if write.method == Method::DELETE {
        count(Event::Deleted);
    }
    if write.access() == Access::Unguarded {
        count(Event::Unguarded);
    }
    if write.related.is_some() {
        count(Event::Related);
    }
    if !write.beside.is_empty() {
        count(Event::Beside);
    }
}
