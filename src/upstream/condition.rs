//! How a server is doing: what its health checks say, and how often it has failed those who used it.
//!
//! Failures count where the server, or the way to it, failed: no connection, a broken connection, no answer in time. An
//! answer is none, whatever its status: a 503 may be meant for one resource, and a server that says so is there.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::config::{Ejection, Health};

/// A server's condition. Shared between workers.
#[derive(Debug)]
pub(super) struct Condition {
    /// What the health checks say. A server is taken for healthy until they have said otherwise.
    healthy: AtomicBool,
    /// Failures in a row.
    failures: AtomicUsize,
    ejected: AtomicBool,
    ejection: Mutex<Ejected>,
    signs: Mutex<Signs>,
}

#[derive(Debug, Default)]
struct Ejected {
    until: Option<Instant>,
    /// For how long it was ejected last.
    last: Duration,
}

/// Signs in a row.
#[derive(Debug, Default)]
struct Signs {
    good: usize,
    bad: usize,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            healthy: AtomicBool::new(true),
            failures: AtomicUsize::new(0),
            ejected: AtomicBool::new(false),
            ejection: Mutex::default(),
            signs: Mutex::default(),
        }
    }
}

impl Condition {
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected.load(Ordering::Relaxed) && self.ejection().until.is_some_and(|until| now < until)
    }

    /// It did what it should.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected.store(false, Ordering::Relaxed);
            *self.ejection() = Ejected::default();
        }
    }

    /// It failed. Returns for how long it gets no requests, if that begins now. A server that fails at once when its time
    /// is over has not got better: it is ejected again, for twice as long.
    pub(super) fn failed(&self, rule: &Ejection, now: Instant) -> Option<Duration> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if rule.failures == 0 || failures < rule.failures {
            return None;
        }
        let mut ejection = self.ejection();
        // What was under way when it was ejected says nothing new.
        if ejection.until.is_some_and(|until| now < until) {
            return None;
        }
        let time = if ejection.last.is_zero() { rule.time } else { ejection.last.saturating_mul(2) };
        let time = time.min(rule.max_time.max(rule.time));
        *ejection = Ejected { until: Some(now + time), last: time };
        self.ejected.store(true, Ordering::Relaxed);
        Some(time)
    }

    /// A health check has ended so. Returns what it is from now on, if that is something new.
    pub(super) fn checked(&self, rule: &Health, is_good: bool) -> Option<bool> {
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        if is_good {
            *signs = Signs { good: signs.good.saturating_add(1), bad: 0 };
        } else {
            *signs = Signs { good: 0, bad: signs.bad.saturating_add(1) };
        }
        let is = if is_good { signs.good >= rule.healthy } else { signs.bad < rule.unhealthy };
        let was = self.healthy.load(Ordering::Relaxed);
        // Between the thresholds it stays what it is.
        (is == is_good && is != was).then(|| {
            self.healthy.store(is, Ordering::Relaxed);
            is
        })
    }

    fn ejection(&self) -> std::sync::MutexGuard<'_, Ejected> {
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rule(failures: usize) -> Ejection {
        Ejection { failures, time: 5 * SECOND, max_time: 15 * SECOND }
    }

    #[test]
    fn a_server_is_ejected_for_longer_each_time_until_it_succeeds() {
        let condition = Condition::default();
        let mut now = Instant::now();
        assert_eq!(condition.failed(&rule(3), now), None);
        assert_eq!(condition.failed(&rule(3), now), None);
        assert_eq!(condition.failed(&rule(3), now), Some(5 * SECOND));
        assert!(condition.is_ejected(now));
        assert_eq!(condition.failed(&rule(3), now), None, "it was under way");
        for seconds in [10, 15, 15] {
            now += 15 * SECOND;
            assert!(!condition.is_ejected(now));
            assert_eq!(condition.failed(&rule(3), now), Some(seconds * SECOND));
        }
        condition.succeeded();
        assert!(!condition.is_ejected(now));
        assert_eq!(condition.failed(&rule(3), now), None);
        assert_eq!(condition.failed(&rule(3), now), None);
        assert_eq!(condition.failed(&rule(3), now), Some(5 * SECOND));
    }

    #[test]
    fn failures_that_are_not_in_a_row_do_not_eject_and_neither_does_a_rule_of_none() {
        let condition = Condition::default();
        let now = Instant::now();
        for _ in 0..10 {
            assert_eq!(condition.failed(&rule(2), now), None);
            condition.succeeded();
        }
        for _ in 0..10 {
            assert_eq!(condition.failed(&rule(0), now), None);
        }
    }

    #[test]
    fn health_turns_after_so_many_signs_in_a_row() {
        let rule = Health {
            path: PathAndQuery::from_static("/"),
            interval: SECOND,
            timeout: SECOND,
            healthy: 2,
            unhealthy: 3,
        };
        let condition = Condition::default();
        let told: Vec<_> = [false, false, true, false, false, false, false, true, false, true, true, true]
            .map(|is_good| condition.checked(&rule, is_good))
            .into();
        let mut expected = vec![None; 12];
        (expected[5], expected[10]) = (Some(false), Some(true));
        assert_eq!(told, expected);
        assert!(condition.is_healthy());
    }
}
