//! What is known of a resource, and its transitions.
//!
//! A record changes in four ways: a write begins, a write ends, a response to somebody's read is observed, a probe is
//! learned by the writer who holds the turn. Each is one function here. Time comes in as [`Stamp`]s, which order events,
//! and as [`Seconds`], which only say how old knowledge is.
//!
//! What makes it safe is what is *refused*: an observation that could be older than the last change (rule 3) leaves no
//! trace, and whatever can't be told for certain leaves the record [`State::Unknown`], which costs a probe and no more.

use self::observed::Turnless;
use super::{etag::EntityTag, policy::Comparison, precondition::Tags};

mod observed;
mod packed;

pub use self::packed::Packed;

/// How many tags are kept as current, one for each representation.
const VARIANTS: usize = 8;
/// How many superseded tags are remembered.
const SUPERSEDED: usize = 8;

/// A moment: larger is later. Drawn from one source, so that no two events share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp(pub u64);

/// Seconds since the tracker began. Only for `max_age`; never used to order events.
pub type Seconds = u64;

/// What is known of one resource.
#[derive(Debug, Clone, Default)]
pub struct Record {
    state: State,
    /// The spelling through which `state` was learned; the others know nothing of it.
    spelling: u64,
    /// Whose probe found the resource absent; `None`: a DELETE made it so for everyone. A 404 may mean *not for you*.
    absent_for: Option<u64>,
    /// The last tags known to be current no longer, as fingerprints, oldest first.
    superseded: Vec<u64>,
    /// The last moment at which the resource changed, may have changed, or was found to have changed. A read that began
    /// before it is old news.
    changed: Stamp,
    /// When the newest read that was recorded began.
    observed: Stamp,
    under_way: UnderWay,
    /// The writes under way that have no turn.
    turnless: Turnless,
}

/// One of the three things a record can say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Nothing.
    #[default]
    Unknown,
    /// That there is no such resource.
    Absent,
    /// The tags of its representations; 1 to 8.
    Current(Vec<Known>),
}

/// A tag that is current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The tag.
    pub tag: EntityTag,
    /// Which representation it belongs to, where that was seen.
    pub variant: Option<u64>,
    /// Whose request it was learned from.
    pub caller: u64,
    /// When it was last seen.
    pub seen: Seconds,
}

/// The writes under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum UnderWay {
    #[default]
    Nothing,
    /// One guarded write. `disturbed`: meanwhile another resource's write was found to have changed this one.
    Guarded { disturbed: bool },
    /// So many unguarded ones.
    Unguarded(u32),
}

/// The writes under way, as an operator is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// None.
    Nothing,
    /// One guarded write.
    Guarded,
    /// So many unguarded ones.
    Unguarded(u32),
}

/// In which company a write may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A guarded write: alone.
    Guarded,
    /// An unguarded write: beside other unguarded ones. It is judged by nobody, but a guarded write must not be, either,
    /// while it can change the resource underneath.
    Unguarded,
    /// A write that is only observed: beside all others, and at once. No guarded write begins before it is over.
    Observed,
}

/// What a response to somebody's read showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A tag, and the representation it belongs to, where that can be told.
    Tag(EntityTag, Option<u64>),
    /// A representation without a tag.
    Untagged,
    /// A representation of which it can't be told what state it is of, but that it is none that has a tag.
    Unreadable,
    /// 404 or 410: no such resource, or none for this reader.
    Missing,
}

/// What a probe in the writer's own turn showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// The resource is there, with this tag.
    Tag(EntityTag),
    /// The resource is there, and shows no tag.
    Untagged,
    /// There is no such resource.
    Absent,
}

impl Probed {
    /// The same as somebody's read would have shown it.
    #[must_use]
    pub fn as_seen(&self) -> Seen {
        match self {
            Self::Tag(tag) => Seen::Tag(tag.clone(), None),
            Self::Untagged => Seen::Untagged,
            Self::Absent => Seen::Missing,
        }
    }
}

/// How a write ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied; its answer carried this tag of the new state, or none.
    Committed(Option<EntityTag>),
    /// It was applied, and the resource is gone.
    Deleted,
    /// It was not applied, and what was known still holds.
    NotApplied,
    /// It was not applied, and what was known was wrong: the backend answered 404 or 412.
    Contradicted,
    /// Nobody knows.
    InDoubt,
}

/// Who learned something, through which spelling, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// See [`Key::spelling`](super::resource::Key::spelling).
    pub spelling: u64,
    /// See [`Namer::caller`](super::resource::Namer::caller).
    pub caller: u64,
    /// The present.
    pub now: Seconds,
}

impl Record {
    /// A record of a resource of which nothing is known, and of which reads that began up to `floor` are old news.
    #[must_use]
    pub fn new(floor: Stamp) -> Self {
        Self { changed: floor, ..Self::default() }
    }

    /// What is known, as far as `viewer` may use it: through the same spelling, not older than `max_age`, and nothing while
    /// a write without a turn is under way, which may have changed it.
    #[must_use]
    pub fn view(&self, viewer: Source, max_age: Option<Seconds>) -> View<'_> {
        let fresh = |known: &Known| max_age.is_none_or(|max| viewer.now.saturating_sub(known.seen) < max);
        let usable = self.turnless.is_nothing()
            && self.spelling == viewer.spelling
            && match &self.state {
                State::Unknown => true,
                State::Absent => max_age.is_none() && self.absent_for.is_none_or(|caller| caller == viewer.caller),
                State::Current(set) => set.iter().all(fresh),
            };
        if usable { View { state: &self.state, superseded: &self.superseded } } else { View::NOTHING }
    }

    /// The spelling through which the state was learned.
    #[must_use]
    pub fn spelling(&self) -> u64 {
        self.spelling
    }

    /// What is known through [`Record::spelling`], whoever learned it. Nothing may be judged by it: see [`Record::view`].
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether the resource is known to be absent for one caller only.
    #[must_use]
    pub fn is_absent_for_one(&self) -> bool {
        self.state == State::Absent && self.absent_for.is_some()
    }

    /// How many superseded tags are remembered.
    #[must_use]
    pub fn superseded(&self) -> usize {
        self.superseded.len()
    }

    /// The writes under way.
    #[must_use]
    pub fn writes(&self) -> Writes {
        match self.under_way {
            UnderWay::Nothing => Writes::Nothing,
            UnderWay::Guarded { .. } => Writes::Guarded,
            UnderWay::Unguarded(n) => Writes::Unguarded(n),
        }
    }

    /// Whether a write may begin now.
    #[must_use]
    pub fn admits(&self, access: Access) -> bool {
        match (self.under_way, access) {
            (UnderWay::Nothing, Access::Guarded) => self.turnless.is_nothing(),
            (_, Access::Observed) | (UnderWay::Nothing | UnderWay::Unguarded(_), Access::Unguarded) => true,
            (UnderWay::Guarded { .. }, _) | (UnderWay::Unguarded(_), Access::Guarded) => false,
        }
    }

    /// Whether a guarded write is under way, and no other resource's write was found to have changed this one meanwhile.
    #[must_use]
    pub fn is_undisturbed(&self) -> bool {
        self.under_way == UnderWay::Guarded { disturbed: false }
    }

    /// Whether nothing is under way, so that the record may be dropped (rule 8).
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.under_way == UnderWay::Nothing && self.turnless.is_nothing()
    }

    /// The stamp up to which reads are old news once the record is forgotten.
    #[must_use]
    pub fn floor(&self) -> Stamp {
        self.changed.max(self.observed)
    }

    /// A write begins. The caller has asked [`Record::admits`].
    pub fn begin(&mut self, access: Access) {
        if access == Access::Observed {
            self.begin_observed();
            return;
        }
        self.turnless.meets_another();
        self.under_way = match (access, self.under_way) {
            (Access::Guarded, _) => UnderWay::Guarded { disturbed: false },
            (Access::Unguarded | Access::Observed, UnderWay::Unguarded(n)) => UnderWay::Unguarded(n + 1),
            (Access::Unguarded | Access::Observed, UnderWay::Nothing | UnderWay::Guarded { .. }) => {
                UnderWay::Unguarded(1)
            }
        };
    }

    /// A write is under way no longer. Says nothing of how it ended.
    pub fn end(&mut self) {
        self.under_way = match self.under_way {
            UnderWay::Unguarded(n) if n > 1 => UnderWay::Unguarded(n - 1),
            UnderWay::Unguarded(_) | UnderWay::Guarded { .. } | UnderWay::Nothing => UnderWay::Nothing,
        };
    }

    /// How a write that was forwarded ended, as the table of the design's section 5 has it. `at` is a new stamp: reads
    /// that began before it overlapped the write, whatever became of it.
    pub fn settle(&mut self, outcome: Outcome, at: Stamp, source: Source) {
        // Of two writes that overlap, nobody can tell which the backend applied last.
        let alone = self.under_way == UnderWay::Guarded { disturbed: false };
        self.settle_as(alone, outcome, at, source);
    }

    fn settle_as(&mut self, alone: bool, outcome: Outcome, at: Stamp, source: Source) {
        self.changed = at;
        match outcome {
            Outcome::NotApplied => {}
            Outcome::Contradicted | Outcome::InDoubt => self.state = State::Unknown,
            Outcome::Committed(Some(tag)) if alone => self.replace(tag, None, source),
            Outcome::Deleted if alone => {
                self.supersede_by(State::Absent, source.spelling);
                self.absent_for = None;
            }
            Outcome::Committed(_) | Outcome::Deleted => self.supersede_by(State::Unknown, source.spelling),
        }
    }

    /// How a write to another resource ended that changes this one, too. It says nothing of what there is now; and where
    /// what was known of its own resource was wrong, so may be what is known of this one.
    pub fn settle_beside(&mut self, outcome: &Outcome, at: Stamp) {
        match outcome {
            Outcome::NotApplied => self.changed = at,
            Outcome::Contradicted | Outcome::InDoubt => self.forget(at),
            Outcome::Committed(_) | Outcome::Deleted => self.change(at),
        }
    }

    /// The resource changed by a write to another one (rule 6): its tags are superseded.
    pub fn change(&mut self, at: Stamp) {
        self.changed = at;
        self.disturb();
        self.supersede_by(State::Unknown, self.spelling);
    }

    /// The holder of the turn asked the backend. There is no write under way but the holder's own, which has not been
    /// sent yet, so this is the newest there is, and all that is known: the other tags may be as old as they like. Returns
    /// false, and leaves all as it is, where another write came between: another resource's, or one without a turn.
    #[must_use]
    pub fn learn(&mut self, probed: Probed, at: Stamp, source: Source) -> bool {
        if !self.turnless.is_nothing() || self.under_way == (UnderWay::Guarded { disturbed: true }) {
            return false;
        }
        self.changed = at;
        match probed {
            Probed::Untagged => self.state = State::Unknown,
            Probed::Absent => {
                self.supersede_by(State::Absent, source.spelling);
                self.absent_for = Some(source.caller);
            }
            Probed::Tag(tag) => match self.current_through(source.spelling) {
                Some(set) if set.iter().any(|known| known.tag == tag) => {
                    set.retain(|known| known.tag == tag);
                    set.truncate(1);
                    set.iter_mut().for_each(|known| (known.caller, known.seen) = (source.caller, source.now));
                }
                Some(_) | None => self.replace(tag, None, source),
            },
        }
        true
    }

    /// A response to a read came. `began` is the stamp that the read drew before it was forwarded, `at` a new one.
    /// Returns whether anything was recorded.
    pub fn observe(&mut self, seen: Seen, began: Stamp, at: Stamp, source: Source) -> bool {
        if !self.is_idle() || began <= self.changed {
            return false;
        }
        if began < self.observed {
            return self.join(seen, source);
        }
        self.observed = began;
        match (seen, &self.state) {
            (Seen::Missing, State::Absent) | (Seen::Untagged, State::Unknown | State::Current(_)) => {}
            (Seen::Missing, State::Unknown | State::Current(_))
            | (Seen::Untagged, State::Absent)
            | (Seen::Unreadable, State::Unknown | State::Current(_) | State::Absent) => self.forget(at),
            (Seen::Tag(tag, variant), _) => self.see(tag, variant, at, source),
        }
        true
    }

    /// Whether this read, the newest, shows a superseded tag to one caller where all that is current was shown to others.
    /// Once it may come from a replica that lags behind; where it happens again and again, each caller has tags of its own.
    #[must_use]
    pub fn is_flipped_by(&self, seen: &Seen, began: Stamp, source: Source) -> bool {
        let (Seen::Tag(tag, _), State::Current(set)) = (seen, &self.state) else { return false };
        self.is_idle()
            && began > self.changed.max(self.observed)
            && self.spelling == source.spelling
            && set.iter().all(|known| known.caller != source.caller)
            && self.superseded.contains(&tag.fingerprint())
    }

    /// The newest read's tag: it is current, and what it can't stand beside is superseded. But one that is superseded
    /// itself may come from a replica or a cache that lags behind; a probe will tell.
    fn see(&mut self, tag: EntityTag, variant: Option<u64>, at: Stamp, source: Source) {
        if self.spelling == source.spelling && self.superseded.contains(&tag.fingerprint()) {
            self.forget(at);
            return;
        }
        let Some(set) = self.current_through(source.spelling) else {
            self.replace(tag, variant, source);
            return;
        };
        let known = source.known(tag, variant);
        if let Some(same) = set.iter_mut().find(|k| k.tag == known.tag && (k.variant == variant || k.variant.is_none()))
        {
            *same = known;
        } else if variant.is_none() && find(set, &known.tag).is_some() {
            // A 304 says that the tag still holds, not whose it is.
            if let Some(same) = find(set, &known.tag) {
                (same.caller, same.seen) = (known.caller, known.seen);
            }
        } else if variant.is_none() || set.iter().any(|k| k.variant == variant) {
            self.changed = at;
            self.replace(known.tag, variant, source);
        } else {
            // One without a variant may be this one's tag or another's; it is not known to be superseded.
            set.retain(|k| k.variant.is_some());
            if set.len() == VARIANTS {
                set.remove(0);
            }
            set.push(known);
        }
    }

    /// An older read's tag: it may stand beside what a later read showed, as another representation's, and no more.
    fn join(&mut self, seen: Seen, source: Source) -> bool {
        let Seen::Tag(tag, Some(variant)) = seen else { return false };
        let is_superseded = self.superseded.contains(&tag.fingerprint());
        let Some(set) = self.current_through(source.spelling) else { return false };
        let has_room = set.len() < VARIANTS && set.iter().all(|k| k.variant.is_some_and(|v| v != variant));
        let joins = has_room && !is_superseded;
        if joins {
            set.push(source.known(tag, Some(variant)));
        }
        joins
    }

    /// What was known may be wrong, and so may what is still on its way.
    fn forget(&mut self, at: Stamp) {
        self.state = State::Unknown;
        self.changed = at;
    }

    fn current_through(&mut self, spelling: u64) -> Option<&mut Vec<Known>> {
        match &mut self.state {
            State::Current(set) if self.spelling == spelling => Some(set),
            State::Current(_) | State::Unknown | State::Absent => None,
        }
    }

    fn replace(&mut self, tag: EntityTag, variant: Option<u64>, source: Source) {
        self.supersede_by(State::Current(vec![source.known(tag, variant)]), source.spelling);
    }

    /// The new state takes the place of the old one, whose tags are superseded unless they are among the new ones.
    fn supersede_by(&mut self, state: State, spelling: u64) {
        if self.spelling != spelling {
            // The old tags belong to another spelling, which may be another resource.
            self.superseded.clear();
            self.state = State::Unknown;
            self.spelling = spelling;
        }
        if let State::Current(old) = std::mem::replace(&mut self.state, state) {
            for known in &old {
                self.remember(known.tag.fingerprint());
            }
        }
        if let State::Current(new) = &self.state {
            for known in new {
                let fingerprint = known.tag.fingerprint();
                self.superseded.retain(|superseded| *superseded != fingerprint);
            }
        }
    }

    fn remember(&mut self, fingerprint: u64) {
        if self.superseded.contains(&fingerprint) {
            return;
        }
        if self.superseded.len() == SUPERSEDED {
            self.superseded.remove(0);
        }
        self.superseded.push(fingerprint);
    }
}

impl Source {
    fn known(self, tag: EntityTag, variant: Option<u64>) -> Known {
        Known { tag, variant, caller: self.caller, seen: self.now }
    }
}

fn find<'a>(set: &'a mut [Known], tag: &EntityTag) -> Option<&'a mut Known> {
    set.iter_mut().find(|known| known.tag == *tag)
}

/// What a record says to one writer.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What is known.
    pub state: &'a State,
    superseded: &'a [u64],
}

impl View<'_> {
    /// What is known of a resource without a record.
    pub const NOTHING: View<'static> = View { state: &State::Unknown, superseded: &[] };

    /// Whether every one of these tags is known to be superseded. Never so for `*`.
    #[must_use]
    pub fn supersedes(&self, tags: &Tags) -> bool {
        match tags {
            Tags::Any => false,
            Tags::OneOf(tags) => tags.iter().all(|tag| self.superseded.contains(&tag.fingerprint())),
        }
    }

    /// Whether one of the current tags is among `tags`. `*` matches whatever is current.
    #[must_use]
    pub fn matches(&self, tags: &Tags, comparison: Comparison, encoding_suffixes: bool) -> bool {
        match (self.state, tags) {
            (State::Unknown | State::Absent, _) => false,
            (State::Current(_), Tags::Any) => true,
            (State::Current(set), Tags::OneOf(tags)) => {
                set.iter().any(|k| tags.iter().any(|t| k.tag.matches(t, comparison, encoding_suffixes)))
            }
        }
    }

    /// The current tags that this caller may be told (rule 9).
    #[must_use]
    pub fn tags_for(&self, caller: u64) -> Vec<EntityTag> {
        match self.state {
            State::Unknown | State::Absent => Vec::new(),
            State::Current(set) => {
                let mut tags: Vec<EntityTag> = Vec::new();
                for known in set.iter().filter(|k| k.caller == caller) {
                    if !tags.contains(&known.tag) {
                        tags.push(known.tag.clone());
                    }
                }
                tags
            }
        }
    }
}

#[cfg(test)]
mod tests;
