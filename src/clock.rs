//! What time it is for a task, and the alarm of what it waits for.
//!
//! A request asks for the time a dozen times, and mostly has only computed a little since it last did. So the tasks that
//! handle requests run [`steadily`]: for as long as one runs without waiting, [`now`] is the time at which it first asked.
//! What was computed since is missing from it; a wait that begins so ends that much earlier. Who wants to know how
//! long the computing took asks with [`exactly`]. Anywhere else the clock is read each time.
//!
//! Deliberately absent: the time of day, and any wait but that of an [`Alarm`].

use std::{cell::Cell, pin::pin, task::Poll, time::Duration};

use tokio::time::{Instant, error::Elapsed};

mod alarm;

pub(crate) use alarm::Alarm;

/// What is known of the time on this thread.
#[derive(Clone, Copy)]
enum Reading {
    /// Nothing: whoever runs does not do so steadily.
    None,
    /// Nothing yet.
    Due,
    At(Instant),
}

thread_local! {
    static READING: Cell<Reading> = const { Cell::new(Reading::None) };
}

/// Forgets what was read, also where a task panics.
struct Run;

impl Drop for Run {
    fn drop(&mut self) {
        READING.set(Reading::None);
    }
}

/// Runs this with one reading of the clock. It is to be what a task does between two waits.
pub(crate) fn steadily<T>(run: impl FnOnce() -> T) -> T {
    READING.set(Reading::Due);
    let _ends = Run;
    run()
}

/// The time at which the task that runs first asked for it; now, where it does not run [`steadily`].
pub(crate) fn now() -> Instant {
    match READING.get() {
        Reading::At(now) => now,
        Reading::None | Reading::Due => exactly(),
    }
}

/// The time now, and for the task that runs from now on.
pub(crate) fn exactly() -> Instant {
    let now = Instant::now();
    if !matches!(READING.get(), Reading::None) {
        READING.set(Reading::At(now));
    }
    now
}

/// How long it has been, by [`now`].
pub(crate) fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// As tokio's, without an alarm where there is nothing to wait for.
///
/// # Cancel safety
///
/// That of the future.
pub(crate) async fn timeout<T>(time: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut future = pin!(future);
    match std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => tokio::time::timeout(time, future).await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_runs_steadily_has_one_time_until_it_waits() {
        let began = Instant::now();
        let second = Duration::from_secs(1);
        let mut passes = pin!(async {
            for _ in 0..3 {
                advance(second).await;
            }
        });
        let mut seen = Vec::new();
        std::future::poll_fn(|cx| {
            steadily(|| {
                let before = since(began);
                // It moves the clock before it waits.
                let done = passes.as_mut().poll(cx);
                seen.push((before, since(began), exactly() - began, since(began)));
                done
            })
        })
        .await;
        let seconds: Vec<_> = seen.iter().map(|&(a, b, c, d)| [a, b, c, d].map(|time| time.as_secs())).collect();
        assert_eq!(seconds, [[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3], [3, 3, 3, 3]]);
        let before = now();
        advance(second).await;
        assert_eq!(since(before), second, "it is read each time where nobody runs steadily");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_ends_with_a_panic() {
        let panicked = std::panic::catch_unwind(|| {
            steadily(|| {
                now();
                panic!("as one would");
            })
        });
        assert!(panicked.is_err());
        let before = now();
        advance(Duration::from_secs(1)).await;
        assert_eq!(since(before).as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_to_be_waited_for_is_waited_for_so_long() {
        let began = Instant::now();
        assert_eq!(timeout(Duration::ZERO, async { 1 }).await, Ok(1));
        let late = timeout(Duration::from_secs(2), std::future::pending::<()>()).await;
        assert!(late.is_err());
        assert_eq!(since(began).as_secs(), 2);
    }
}
