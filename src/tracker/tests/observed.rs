//! Writes that are only observed: they wait for nobody, and what is known stays true.

use super::*;

fn observed() -> Ask {
    Ask { wait: Duration::ZERO, line: 0, ..ask(1, Access::Observed) }
}

async fn begun(tracker: &Arc<Tracker>) -> Turn {
    let mut turn = tracker.begin_write(observed()).await.expect("it waits for nobody");
    turn.confirm().await.expect("it is ours");
    turn
}

async fn read(tracker: &Tracker, text: &str) {
    let began = tracker.stamp().await;
    tracker.observe(key(1), began, seen(text), CALLER).await;
}

#[tokio::test]
async fn one_that_is_alone_says_what_is_current() {
    for (outcome, expected) in [
        (committed("b"), "\"b\""),
        (Outcome::Committed(None), "unknown"),
        (Outcome::Deleted, "absent"),
        (Outcome::NotApplied, "\"a\""),
        (Outcome::Contradicted, "unknown"),
        (Outcome::InDoubt, "unknown"),
    ] {
        let tracker = tracker();
        read(&tracker, "a").await;
        let write = begun(&tracker).await;
        assert_eq!(known(&tracker, key(1)).await, "busy");
        write.settle(outcome.clone()).await;
        assert_eq!(known(&tracker, key(1)).await, expected, "{outcome:?}");
    }
}

#[tokio::test]
async fn of_two_that_overlap_nobody_knows_which_was_last() {
    let tracker = tracker();
    let (first, second) = (begun(&tracker).await, begun(&tracker).await);
    first.settle(committed("b")).await;
    assert_eq!(known(&tracker, key(1)).await, "busy");
    second.settle(committed("c")).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown");
    // Nor of one beside an unguarded write, whichever began first.
    for observed_first in [true, false] {
        let mut turns = Vec::new();
        if observed_first {
            turns.push(begun(&tracker).await);
        }
        turns.push(tracker.begin_write(unguarded()).await.expect("a shared turn"));
        turns.push(begun(&tracker).await);
        for turn in turns {
            turn.settle(committed("d")).await;
        }
        assert_eq!(known(&tracker, key(1)).await, "unknown");
    }
    begun(&tracker).await.settle(committed("e")).await;
    assert_eq!(known(&tracker, key(1)).await, "\"e\"");
}

#[tokio::test]
async fn what_a_read_showed_that_overlapped_is_not_recorded() {
    let tracker = tracker();
    let (before, write) = (tracker.stamp().await, begun(&tracker).await);
    // It lies within.
    read(&tracker, "old").await;
    let within = tracker.stamp().await;
    tracker.observe(key(1), before, seen("old"), CALLER).await;
    write.settle(Outcome::NotApplied).await;
    tracker.observe(key(1), within, seen("old"), CALLER).await;
    tracker.observe(key(1), before, seen("old"), CALLER).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown");
    read(&tracker, "new").await;
    assert_eq!(known(&tracker, key(1)).await, "\"new\"");
}

#[tokio::test]
async fn it_does_not_wait_for_who_has_the_turn_who_is_told() {
    let tracker = tracker();
    read(&tracker, "a").await;
    let mut holder = turn(&tracker, guarded()).await;
    let mut waiting = pin!(tracker.begin_write(guarded()));
    assert!(poll_once(waiting.as_mut()).is_pending());
    let write = begun(&tracker).await;
    // Nothing is judged by what it may be changing, nor by a question that it may have overtaken.
    assert_eq!(holder.known(None, in_a_word).await, "unknown");
    assert!(!holder.learn(Probed::Tag(tag("a"))).await);
    holder.confirm().await.expect("it is ours");
    holder.settle(committed("b")).await;
    assert!(poll_once(waiting.as_mut()).is_pending(), "nobody is judged beside it");
    write.settle(committed("c")).await;
    let next = waiting.await.expect("a turn");
    assert_eq!(next.known(None, in_a_word).await, "unknown");
}

/// It is under way itself, and may be applied before the question or after it.
#[tokio::test]
async fn nothing_is_learned_by_one_that_asks() {
    let tracker = tracker();
    let mut write = begun(&tracker).await;
    assert!(!write.learn(Probed::Tag(tag("a"))).await);
    write.settle(Outcome::NotApplied).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown");
}

#[tokio::test(start_paused = true)]
async fn one_in_doubt_keeps_others_out_for_a_while() {
    let tracker = tracker();
    read(&tracker, "a").await;
    drop(begun(&tracker).await);
    let since = Instant::now();
    let next = turn(&tracker, guarded()).await;
    assert_eq!(since.elapsed(), HOLD);
    assert_eq!(next.known(None, in_a_word).await, "unknown");
}

#[tokio::test]
async fn one_that_was_not_sent_leaves_no_trace() {
    let tracker = tracker();
    read(&tracker, "a").await;
    drop(tracker.begin_write(observed()).await.expect("it waits for nobody"));
    assert_eq!(known(&tracker, key(1)).await, "\"a\"");
}

#[tokio::test]
async fn it_is_not_evicted_from_under() {
    let tracker = tracker();
    let write = begun(&tracker).await;
    assert!(!evict(&tracker, 1));
    write.settle(Outcome::NotApplied).await;
    assert!(evict(&tracker, 1));
}
