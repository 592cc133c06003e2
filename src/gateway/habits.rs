//! What a route's service does that speaks against the route's rules: it shows only weak tags where they are compared
//! strongly, or one tag to one caller and another to the next. An operator is told once, by a line in the log; each refusal that
//! may come of it says so in its `detail`, and there are metrics.
//!
//! Nothing is decided by it.

use super::{
    Exchange,
    answer::{Because, Failure},
    seen::Seen,
};
use crate::core::{etag::EntityTag, policy::Comparison};

/// The service has shown this tag.
pub(super) fn shown(exchange: &Exchange, tag: &EntityTag) {
    let compares_strongly = exchange.policy().comparison == Comparison::Strong;
    let habits = &exchange.seen.route().habits;
    if !tag.is_weak() {
        habits.shows_strong();
    } else if habits.shows_weak(compares_strongly) {
        tell_of_weak_tags(&exchange.seen);
    }
}

/// Whether a refusal of this route may come of weak tags, compared strongly. Nothing is told here: a record may be locked.
pub(super) fn are_weak(exchange: &Exchange) -> bool {
    exchange.policy().comparison == Comparison::Strong && exchange.seen.route().habits.shows_only_weak()
}

/// A client is told of this.
pub(super) fn refused(seen: &Seen, failure: &Failure) {
    if let Failure::Refused(refused) | Failure::Represented(_, refused) = failure
        && refused.because == Some(Because::WeakShown)
        && seen.route().habits.tell_of_weak()
    {
        tell_of_weak_tags(seen);
    }
}

/// A tag that was known to be superseded came back with another caller's read.
pub(super) fn flipped(exchange: &Exchange) {
    let route = exchange.seen.route();
    if route.habits.flips() {
        tracing::warn!(
            route = &**route.label(),
            "this route seems to show other tags to other callers, so that each makes the others' stale: see `partition` in its \
             guard, or let the service name in Vary what its answers depend on"
        );
    }
}

/// Whether a refusal of this route may come of tags that differ by caller.
pub(super) fn differ_by_caller(exchange: &Exchange) -> bool {
    exchange.seen.route().habits.differ_by_caller()
}

fn tell_of_weak_tags(seen: &Seen) {
    tracing::warn!(
        route = &**seen.route().label(),
        "this route has only shown weak tags, which If-Match never matches by strong comparison: see `profile` and `comparison` \
         in its guard"
    );
}
