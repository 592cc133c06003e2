//! Record + demands + policy -> verdict, in the order of RFC 9110 §13.2.2; WebDAV's `If` comes last.
//!
//! A write is judged by what is known first ([`judge`] without a probe) and, where that is not enough, once more by what
//! a probe showed. Every branch that can't be sure of a match picks the conflict.

use httpdate::HttpDate;

use super::{
    dav,
    etag::EntityTag,
    policy::{Comparison, Missing, Policy, Verify},
    precondition::{Demands, Tags},
    record::{Known, State, View},
};

/// What the gateway decides about a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The backend gets it.
    Forward,
    /// What is known does not suffice; ask the backend and judge again. Only without a probe.
    Probe,
    /// The client gets a refusal.
    Refuse(Refusal),
}

/// Why a write is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The resource is no longer in the state that the client names.
    Stale,
    /// The resource exists, or is in the state in which the client does not want to write.
    Exists,
    /// The resource's state can't be learned.
    Unverifiable,
    /// The route asks for a precondition, and there is none.
    MissingPrecondition,
}

/// What a probe showed beside the tag, which is in the record by the time that the write is judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Whether the resource is there.
    pub exists: bool,
    /// When the backend says that it was last modified.
    pub last_modified: Option<HttpDate>,
}

/// Judges a write. `asked` says whether the route asks this client for a precondition to this method where `missing` is
/// "require"; `probe` is what a probe showed in the same turn, if there was one.
#[must_use]
pub fn judge(policy: &Policy, demands: &Demands, asked: bool, view: View<'_>, probe: Option<Probe>) -> Verdict {
    if demands.is_empty() {
        return match policy.missing {
            Missing::Require if asked => Verdict::Refuse(Refusal::MissingPrecondition),
            Missing::Require | Missing::Warn | Missing::Allow => Verdict::Forward,
        };
    }
    if policy.verify == Verify::Always && probe.is_none() {
        return Verdict::Probe;
    }
    let case = Case { policy, view, probe };
    // §13.2.2 step 1, else step 2.
    let first = match (&demands.if_match, demands.if_unmodified_since) {
        (Some(tags), _) => case.if_match(tags),
        (None, Some(date)) => case.if_unmodified_since(date),
        (None, None) => Verdict::Forward,
    };
    let first = match (first, &demands.and_match) {
        (Verdict::Forward, Some(tags)) => case.if_match(tags),
        (Verdict::Forward, None) | (Verdict::Probe | Verdict::Refuse(_), _) => first,
    };
    // Step 3, where the first condition holds.
    let second = match (first, &demands.if_none_match) {
        (Verdict::Forward, Some(tags)) => case.if_none_match(tags),
        (Verdict::Forward, None) | (Verdict::Probe | Verdict::Refuse(_), _) => first,
    };
    // §13.2.2 leaves the place of an extension's conditions to it, and RFC 4918 §10.4 says nothing of it. All must hold.
    match (second, &demands.if_dav) {
        (Verdict::Forward, Some(demand)) => case.if_dav(demand),
        (Verdict::Forward, None) | (Verdict::Probe | Verdict::Refuse(_), _) => second,
    }
}

struct Case<'a> {
    policy: &'a Policy,
    view: View<'a>,
    probe: Option<Probe>,
}

impl Case<'_> {
    /// RFC 9110 §13.1.1.
    fn if_match(&self, tags: &Tags) -> Verdict {
        match self.view.state {
            State::Absent => Verdict::Refuse(Refusal::Stale),
            State::Current(_) if self.matches(tags) => Verdict::Forward,
            State::Current(_) => match self.policy.verify {
                Verify::Mismatch if self.probe.is_none() && !self.view.supersedes(tags) => Verdict::Probe,
                Verify::Unknown | Verify::Mismatch if self.probe.is_none() && self.may_be_strong_now(tags) => {
                    Verdict::Probe
                }
                Verify::Never | Verify::Unknown | Verify::Mismatch | Verify::Always => Verdict::Refuse(Refusal::Stale),
            },
            State::Unknown => match (self.probe, tags) {
                (None, _) => self.ask(),
                (Some(probe), Tags::Any) if probe.exists => Verdict::Forward,
                (Some(_), _) => Verdict::Refuse(Refusal::Unverifiable),
            },
        }
    }

    /// RFC 9110 §13.1.4. Where the backend shows no date the RFC would ignore the field; the client asked to be
    /// protected, and that can't be done, so it is told so.
    fn if_unmodified_since(&self, date: HttpDate) -> Verdict {
        match self.probe {
            None => self.ask(),
            Some(probe) if !probe.exists => Verdict::Refuse(Refusal::Stale),
            Some(probe) => match probe.last_modified {
                Some(modified) if modified <= date => Verdict::Forward,
                Some(_) => Verdict::Refuse(Refusal::Stale),
                None => Verdict::Refuse(Refusal::Unverifiable),
            },
        }
    }

    /// RFC 9110 §13.1.2: weak comparison, whatever the route's.
    fn if_none_match(&self, tags: &Tags) -> Verdict {
        let weak = Comparison::Weak;
        match self.view.state {
            State::Absent => Verdict::Forward,
            State::Current(_) if self.view.matches(tags, weak, self.policy.encoding_suffixes) => {
                Verdict::Refuse(Refusal::Exists)
            }
            State::Current(_) => Verdict::Forward,
            State::Unknown => match (self.probe, tags) {
                (None, _) => self.ask(),
                (Some(probe), Tags::Any) if probe.exists => Verdict::Refuse(Refusal::Exists),
                (Some(_), _) => Verdict::Refuse(Refusal::Unverifiable),
            },
        }
    }

    /// RFC 4918 §10.4: one of the lists must hold.
    fn if_dav(&self, demand: &dav::Demand) -> Verdict {
        let alternatives = demand.alternatives();
        match self.view.state {
            State::Absent | State::Current(_) if alternatives.iter().any(|list| self.holds(list)) => Verdict::Forward,
            State::Absent => Verdict::Refuse(Refusal::Stale),
            State::Current(_) => match self.policy.verify {
                Verify::Mismatch if self.probe.is_none() => Verdict::Probe,
                Verify::Unknown if self.probe.is_none() && alternatives.iter().any(|list| self.may_hold_now(list)) => {
                    Verdict::Probe
                }
                Verify::Never | Verify::Unknown | Verify::Mismatch | Verify::Always => Verdict::Refuse(Refusal::Stale),
            },
            State::Unknown if self.probe.is_none() => self.ask(),
            State::Unknown => Verdict::Refuse(Refusal::Unverifiable),
        }
    }

    fn holds(&self, list: &dav::Alternative) -> bool {
        self.holds_where(list, |tags| self.matches(tags))
    }

    fn may_hold_now(&self, list: &dav::Alternative) -> bool {
        self.holds_where(list, |tags| self.matches(tags) || self.may_be_strong_now(tags))
    }

    /// A tag that must not be current is compared weakly, whatever the route's comparison: so it is found more often.
    fn holds_where(&self, list: &dav::Alternative, is_current: impl Fn(&Tags) -> bool) -> bool {
        let suffixes = self.policy.encoding_suffixes;
        !list.never
            && list.current.iter().all(is_current)
            && !list.not_current.iter().any(|tags| self.view.matches(tags, Comparison::Weak, suffixes))
    }

    fn matches(&self, tags: &Tags) -> bool {
        self.view.matches(tags, self.policy.comparison, self.policy.encoding_suffixes)
    }

    /// Whether one of these strong tags is that of a state whose tag was weak when it was last seen. Some backends tag a
    /// state weakly in its first moments only (RFC 9110 §8.8.1 has the reason), and the client may have read it later, in
    /// an answer that nothing is learned from.
    fn may_be_strong_now(&self, tags: &Tags) -> bool {
        let (State::Current(set), Tags::OneOf(tags)) = (self.view.state, tags) else { return false };
        let suffixes = self.policy.encoding_suffixes;
        let is_same = |known: &Known, tag: &EntityTag| {
            known.tag.is_weak() && !tag.is_weak() && known.tag.matches(tag, Comparison::Weak, suffixes)
        };
        self.policy.comparison == Comparison::Strong
            && set.iter().any(|known| tags.iter().any(|tag| is_same(known, tag)))
    }

    fn ask(&self) -> Verdict {
        match self.policy.verify {
            Verify::Never => Verdict::Refuse(Refusal::Unverifiable),
            Verify::Unknown | Verify::Mismatch | Verify::Always => Verdict::Probe,
        }
    }
}

#[cfg(test)]
mod tests;
