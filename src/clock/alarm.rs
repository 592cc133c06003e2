//! One clock for all that a connection waits for.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// Rings at a deadline, or before it: it is left to run from one wait to the next, since to set it anew for every request
/// would cost more than to look at the deadline again when it rings.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Who is woken by it.
    waker: Option<Waker>,
}

impl Alarm {
    /// Ready at the deadline of what is waited for now.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        let is_known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if sleep.deadline() <= deadline && is_known && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        if !is_known {
            self.waker = Some(cx.waker().clone());
        }
        loop {
            if sleep.deadline() > deadline {
                sleep.as_mut().reset(deadline);
            }
            // Also for a task that has done as much as tokio lets one do at once: it would not be set then, and never ring.
            ready!(Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, time::Duration};

    use tokio::{
        task::{consume_budget, coop::has_budget_remaining},
        time::timeout,
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_time_whenever_the_alarm_of_another_rings() {
        let mut alarm = Alarm::default();
        let began = Instant::now();
        let head = began + 10 * SECOND;
        assert!(timeout(5 * SECOND, poll_fn(|cx| alarm.poll(cx, head))).await.is_err(), "a head that came");
        let idle = Instant::now() + 60 * SECOND;
        poll_fn(|cx| alarm.poll(cx, idle)).await;
        assert_eq!(began.elapsed().as_secs(), 65);

        let idle = Instant::now() + 60 * SECOND;
        assert!(timeout(20 * SECOND, poll_fn(|cx| alarm.poll(cx, idle))).await.is_err(), "one that began");
        let head = Instant::now() + 10 * SECOND;
        poll_fn(|cx| alarm.poll(cx, head)).await;
        assert_eq!(began.elapsed().as_secs(), 95);
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_also_for_who_has_done_much_at_once() {
        let mut alarm = Alarm::default();
        let deadline = Instant::now() + SECOND;
        let rings = poll_fn(|cx| {
            while has_budget_remaining() {
                let _ = pin!(consume_budget()).poll(cx);
            }
            alarm.poll(cx, deadline)
        });
        timeout(5 * SECOND, rings).await.expect("it rings");
        assert!(Instant::now() >= deadline);
    }
}
