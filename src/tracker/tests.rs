//! Turns, lines, old news and capacity, one rule after the other, in paused time.
//!
//! What races in reality is made to happen in order here: a future is polled once, or dropped, at the moment that matters.
//! Only the last test lets threads loose. Deliberately absent: the transitions of a record, which have their tables beside
//! [`Record`], and the question whether all this together loses no update, which is the simulation's.

use std::{
    pin::{Pin, pin},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
    task::{Context, Poll, Waker},
};

use tokio::time::{advance, sleep};

use super::*;
use crate::core::record::State;

mod observed;
mod related;

const WAIT: Duration = Duration::from_secs(10);
const HOLD: Duration = Duration::from_secs(5);
const CALLER: u64 = 1;

fn tracker() -> Arc<Tracker> {
    Arc::new(Tracker::new(100, 16))
}

fn key(n: u64) -> Key {
    Key { cell: [n, n << 32 | n], spelling: 7 }
}

fn ask(n: u64, access: Access) -> Ask {
    Ask { key: key(n), access, caller: CALLER, wait: WAIT, line: 128, hold: HOLD }
}

fn guarded() -> Ask {
    ask(1, Access::Guarded)
}

fn unguarded() -> Ask {
    ask(1, Access::Unguarded)
}

fn tag(text: &str) -> EntityTag {
    EntityTag::parse(format!("\"{text}\"").as_bytes()).expect("a tag")
}

fn seen(text: &str) -> Seen {
    Seen::Tag(tag(text), Some(1))
}

fn committed(text: &str) -> Outcome {
    Outcome::Committed(Some(tag(text)))
}

/// What is known, in one word: the tags, `unknown`, `absent`, or `busy` while a write is under way.
async fn known(tracker: &Tracker, key: Key) -> String {
    tracker.known(key, CALLER, None, in_a_word).await.unwrap_or_else(|| "busy".into())
}

fn in_a_word(view: View<'_>) -> String {
    match view.state {
        State::Unknown => "unknown".into(),
        State::Absent => "absent".into(),
        State::Current(set) => set.iter().map(|known| known.tag.to_string()).collect::<Vec<_>>().join(" "),
    }
}

async fn read(tracker: &Tracker, n: u64, text: &str) {
    let began = tracker.stamp().await;
    tracker.observe(key(n), began, seen(text), CALLER).await;
}

async fn turn(tracker: &Arc<Tracker>, ask: Ask) -> Turn {
    tracker.begin_write(ask).await.expect("a turn")
}

async fn write(tracker: &Arc<Tracker>, n: u64, outcome: Outcome) {
    let mut turn = turn(tracker, ask(n, Access::Guarded)).await;
    turn.confirm().await.expect("it is ours");
    turn.settle(outcome).await;
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls once; for those who are to have a turn now.
fn has_turn(future: Pin<&mut impl Future<Output = Result<Turn, Busy>>>) -> Turn {
    match poll_once(future) {
        Poll::Ready(Ok(turn)) => turn,
        Poll::Ready(Err(busy)) => panic!("{busy}"),
        Poll::Pending => panic!("it still waits"),
    }
}

fn waits(future: Pin<&mut impl Future<Output = Result<Turn, Busy>>>) -> bool {
    poll_once(future).is_pending()
}

fn in_line(tracker: &Tracker, n: u64) -> usize {
    with_slot(tracker, n, |slot| slot.line.as_ref().map_or(0, |line| line.waiters.len()))
}

fn with_slot<R>(tracker: &Tracker, n: u64, look: impl FnOnce(&Slot) -> R) -> R {
    let shard = tracker.table.lock(Cell(key(n).cell));
    shard.look(shard.find(Cell(key(n).cell)).expect("a record"), look)
}

/// Evicts a record, used or not. Says whether there is none any more.
fn evict(tracker: &Tracker, n: u64) -> bool {
    let cell = Cell(key(n).cell);
    let mut shard = tracker.table.lock(cell);
    shard.find(cell).is_none_or(|place| tracker.evict(&mut shard, cell, place, true))
}

// ---- Turns and lines.

#[tokio::test(start_paused = true)]
async fn writers_get_the_turn_in_the_order_of_arrival() {
    let tracker = tracker();
    let first = turn(&tracker, guarded()).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut writers = Vec::new();
    for n in 0..5 {
        let (tracker, order) = (Arc::clone(&tracker), Arc::clone(&order));
        writers.push(tokio::spawn(async move {
            let turn = turn(&tracker, guarded()).await;
            order.lock().unwrap().push(n);
            sleep(Duration::from_millis(10 - n)).await;
            turn.settle(Outcome::NotApplied).await;
        }));
        tokio::task::yield_now().await;
    }
    assert_eq!(in_line(&tracker, 1), 5);
    first.settle(Outcome::NotApplied).await;
    for writer in writers {
        writer.await.expect("no panic");
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn resources_do_not_wait_for_each_other() {
    let tracker = tracker();
    let _one = turn(&tracker, guarded()).await;
    let _other = has_turn(pin!(tracker.begin_write(ask(2, Access::Guarded))));
}

#[tokio::test(start_paused = true)]
async fn spellings_of_one_cell_share_the_turn_but_not_what_is_known() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let other = Key { spelling: 8, ..key(1) };
    assert_eq!(known(&tracker, other).await, "unknown");
    let _turn = turn(&tracker, guarded()).await;
    assert!(waits(pin!(tracker.begin_write(Ask { key: other, ..guarded() }))));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_too_long_leaves_the_line() {
    let tracker = tracker();
    let first = turn(&tracker, guarded()).await;
    let began = Instant::now();
    let refused = tracker.begin_write(guarded()).await.expect_err("the turn is taken");
    assert_eq!((refused, began.elapsed()), (Busy::TimedOut, WAIT));
    assert_eq!(in_line(&tracker, 1), 0);
    first.settle(Outcome::NotApplied).await;
    let _next = has_turn(pin!(tracker.begin_write(guarded())));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_with_the_end_of_the_wait_is_not_lost() {
    let tracker = tracker();
    let first = turn(&tracker, guarded()).await;
    let mut late = pin!(tracker.begin_write(guarded()));
    assert!(waits(late.as_mut()));
    advance(WAIT).await;
    first.settle(Outcome::NotApplied).await;
    drop(has_turn(late));
    let _next = has_turn(pin!(tracker.begin_write(guarded())));
}

#[tokio::test(start_paused = true)]
async fn the_line_is_as_long_as_may_be_and_no_longer() {
    let tracker = tracker();
    let short = Ask { line: 2, ..guarded() };
    let _first = turn(&tracker, short).await;
    let mut second = Box::pin(tracker.begin_write(short));
    let mut third = pin!(tracker.begin_write(short));
    assert!(waits(second.as_mut()) && waits(third.as_mut()));
    assert_eq!(tracker.begin_write(short).await.expect_err("two are in line"), Busy::LineFull);
    drop(second);
    assert!(waits(pin!(tracker.begin_write(short))), "there is room again");
}

#[tokio::test(start_paused = true)]
async fn whoever_hangs_up_leaves_the_line() {
    let tracker = tracker();
    let first = turn(&tracker, guarded()).await;
    let mut second = Box::pin(tracker.begin_write(guarded()));
    let mut third = pin!(tracker.begin_write(guarded()));
    assert!(waits(second.as_mut()) && waits(third.as_mut()));
    drop(second);
    assert_eq!(in_line(&tracker, 1), 1);
    assert!(waits(third.as_mut()), "the turn is still taken");
    first.settle(Outcome::NotApplied).await;
    let _third = has_turn(third);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_as_its_writer_hangs_up_goes_to_the_next() {
    let tracker = tracker();
    let first = turn(&tracker, guarded()).await;
    let mut second = Box::pin(tracker.begin_write(guarded()));
    let mut third = pin!(tracker.begin_write(guarded()));
    assert!(waits(second.as_mut()) && waits(third.as_mut()));
    first.settle(Outcome::NotApplied).await;
    assert!(waits(third.as_mut()), "the second has the turn, though it was not told yet");
    drop(second);
    drop(has_turn(third));
    assert!(with_slot(&tracker, 1, Slot::is_idle));
}

#[tokio::test(start_paused = true)]
async fn unguarded_writes_run_beside_each_other_and_a_guarded_one_alone() {
    let tracker = tracker();
    let one = turn(&tracker, unguarded()).await;
    let other = has_turn(pin!(tracker.begin_write(unguarded())));
    let mut alone = pin!(tracker.begin_write(guarded()));
    assert!(waits(alone.as_mut()));
    let mut behind = pin!(tracker.begin_write(unguarded()));
    let mut beside = pin!(tracker.begin_write(unguarded()));
    assert!(waits(behind.as_mut()) && waits(beside.as_mut()), "nobody overtakes");
    one.settle(Outcome::Committed(None)).await;
    assert!(waits(alone.as_mut()), "one is still under way");
    other.settle(Outcome::Committed(None)).await;
    assert!(waits(behind.as_mut()), "it is not its turn");
    has_turn(alone).settle(Outcome::Committed(None)).await;
    let _both = (has_turn(behind), has_turn(beside));
}

#[tokio::test(start_paused = true)]
async fn when_a_guarded_writer_leaves_the_line_those_behind_it_may_go() {
    let tracker = tracker();
    let _one = turn(&tracker, unguarded()).await;
    let mut alone = Box::pin(tracker.begin_write(guarded()));
    let mut behind = pin!(tracker.begin_write(unguarded()));
    assert!(waits(alone.as_mut()) && waits(behind.as_mut()));
    drop(alone);
    let _behind = has_turn(behind);
}

// ---- How a turn ends.

#[tokio::test(start_paused = true)]
async fn a_turn_dropped_before_anything_was_sent_changes_nothing() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let first = turn(&tracker, guarded()).await;
    let mut next = pin!(tracker.begin_write(guarded()));
    assert!(waits(next.as_mut()));
    drop(first);
    assert_eq!(has_turn(next).known(None, in_a_word).await, "\"a\"");
    assert_eq!(known(&tracker, key(1)).await, "\"a\"");
}

#[tokio::test(start_paused = true)]
async fn a_turn_dropped_after_that_is_in_doubt_and_held() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let mut first = turn(&tracker, guarded()).await;
    first.confirm().await.expect("it is ours");
    let dropped = Instant::now();
    drop(first);
    let mut next = pin!(tracker.begin_write(guarded()));
    assert!(waits(next.as_mut()));
    assert_eq!(known(&tracker, key(1)).await, "busy");
    let next = next.await.expect("a turn");
    assert_eq!(dropped.elapsed(), HOLD);
    assert_eq!(next.known(None, in_a_word).await, "unknown");
}

/// The backend may apply the write until the hold is over, and what a read shows before that says nothing.
#[tokio::test(start_paused = true)]
async fn what_is_read_while_a_turn_is_held_is_not_recorded() {
    let tracker = tracker();
    let mut first = turn(&tracker, guarded()).await;
    first.confirm().await.expect("it is ours");
    drop(first);
    let during = tracker.stamp().await;
    read(&tracker, 1, "a").await;
    sleep(2 * HOLD).await;
    tracker.observe(key(1), during, seen("a"), CALLER).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown");
    read(&tracker, 1, "b").await;
    assert_eq!(known(&tracker, key(1)).await, "\"b\"");
}

#[tokio::test(start_paused = true)]
async fn an_unguarded_write_in_doubt_holds_guarded_ones_off() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let mut first = turn(&tracker, unguarded()).await;
    first.confirm().await.expect("it is ours");
    drop(first);
    drop(has_turn(pin!(tracker.begin_write(unguarded()))));
    let dropped = Instant::now();
    let next = turn(&tracker, guarded()).await;
    assert_eq!((dropped.elapsed(), next.known(None, in_a_word).await), (HOLD, "unknown".into()));
}

#[tokio::test(start_paused = true)]
async fn without_a_hold_a_turn_in_doubt_goes_on_at_once() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let mut first = turn(&tracker, Ask { hold: Duration::ZERO, ..guarded() }).await;
    first.confirm().await.expect("it is ours");
    drop(first);
    let next = has_turn(pin!(tracker.begin_write(guarded())));
    assert_eq!(next.known(None, in_a_word).await, "unknown");
}

#[tokio::test(start_paused = true)]
async fn settling_hands_the_turn_on_and_tells_the_next_in_one_step() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let mut first = turn(&tracker, guarded()).await;
    first.confirm().await.expect("it is ours");
    let mut next = pin!(tracker.begin_write(guarded()));
    assert!(waits(next.as_mut()));
    assert!(poll_once(pin!(first.settle(committed("b")))).is_ready());
    assert_eq!(has_turn(next).known(None, in_a_word).await, "\"b\"");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_known_from_outside_while_a_write_is_under_way() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    for access in [Access::Guarded, Access::Unguarded] {
        let turn = turn(&tracker, ask(1, access)).await;
        assert_eq!(known(&tracker, key(1)).await, "busy");
        drop(turn);
        assert_eq!(known(&tracker, key(1)).await, "\"a\"");
    }
}

#[tokio::test(start_paused = true)]
async fn the_holder_of_the_turn_learns_from_a_probe() {
    let tracker = tracker();
    let mut turn = turn(&tracker, guarded()).await;
    for (probed, word) in [(Probed::Tag(tag("a")), "\"a\""), (Probed::Absent, "absent"), (Probed::Untagged, "unknown")]
    {
        assert!(turn.learn(probed).await);
        assert_eq!(turn.known(None, in_a_word).await, word);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_too_long_ago_is_unknown() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let max_age = Some(Duration::from_secs(60));
    advance(Duration::from_secs(59)).await;
    assert_eq!(tracker.known(key(1), CALLER, max_age, in_a_word).await.as_deref(), Some("\"a\""));
    advance(Duration::from_secs(1)).await;
    assert_eq!(tracker.known(key(1), CALLER, max_age, in_a_word).await.as_deref(), Some("unknown"));
    assert_eq!(known(&tracker, key(1)).await, "\"a\"");
}

// ---- Old news.

#[tokio::test(start_paused = true)]
async fn a_read_that_overlaps_a_write_is_not_recorded() {
    for evicted in [false, true] {
        for tracked in [false, true] {
            let tracker = tracker();
            if tracked {
                read(&tracker, 1, "a").await;
            }
            let before = tracker.stamp().await;
            let mut turn = turn(&tracker, guarded()).await;
            turn.confirm().await.expect("it is ours");
            let during = tracker.stamp().await;
            read(&tracker, 1, "x").await;
            assert_ne!(turn.known(None, in_a_word).await, "\"x\"");
            turn.settle(Outcome::Committed(None)).await;
            if evicted {
                assert!(evict(&tracker, 1) && tracker.is_empty());
            }
            for began in [before, during] {
                tracker.observe(key(1), began, seen("a"), CALLER).await;
                assert_eq!(known(&tracker, key(1)).await, "unknown", "tracked {tracked}, evicted {evicted}");
            }
            read(&tracker, 1, "b").await;
            assert_eq!(known(&tracker, key(1)).await, "\"b\"", "tracked {tracked}, evicted {evicted}");
        }
    }
}

/// The write's own record is gone, and a later one, which begins with the floor, knows it too.
#[tokio::test(start_paused = true)]
async fn the_floor_outlives_the_next_record_too() {
    let tracker = tracker();
    let before = tracker.stamp().await;
    for _ in 0..2 {
        write(&tracker, 1, Outcome::Committed(None)).await;
        evict(&tracker, 1);
    }
    drop(turn(&tracker, guarded()).await);
    tracker.observe(key(1), before, seen("a"), CALLER).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown");
}

#[tokio::test(start_paused = true)]
async fn an_older_read_does_not_replace_what_a_later_one_showed() {
    for evicted in [false, true] {
        let tracker = tracker();
        let older = tracker.stamp().await;
        read(&tracker, 1, "b").await;
        if evicted {
            evict(&tracker, 1);
        }
        tracker.observe(key(1), older, seen("a"), CALLER).await;
        assert_eq!(known(&tracker, key(1)).await, if evicted { "unknown" } else { "\"b\"" });
    }
}

#[tokio::test(start_paused = true)]
async fn a_404_makes_older_reads_of_an_untracked_resource_old_news() {
    let tracker = tracker();
    let older = tracker.stamp().await;
    let missing = tracker.stamp().await;
    tracker.observe(key(1), missing, Seen::Missing, CALLER).await;
    assert!(tracker.is_empty(), "it is not worth a record");
    tracker.observe(key(1), older, seen("a"), CALLER).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown");
    read(&tracker, 1, "b").await;
    assert_eq!(known(&tracker, key(1)).await, "\"b\"");
}

/// The reader may simply not be allowed to see it.
#[tokio::test(start_paused = true)]
async fn a_404_makes_a_tracked_resource_unknown() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let missing = tracker.stamp().await;
    tracker.observe(key(1), missing, Seen::Missing, CALLER).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown");
}

#[tokio::test(start_paused = true)]
async fn a_change_by_another_write_supersedes_and_makes_reads_old_news() {
    for tracked in [false, true] {
        let tracker = tracker();
        if tracked {
            read(&tracker, 1, "a").await;
        }
        let before = tracker.stamp().await;
        tracker.change(key(1)).await;
        assert_eq!((known(&tracker, key(1)).await, tracker.len()), ("unknown".into(), usize::from(tracked)));
        tracker.observe(key(1), before, seen("a"), CALLER).await;
        assert_eq!(known(&tracker, key(1)).await, "unknown", "tracked {tracked}");
        read(&tracker, 1, "b").await;
        assert_eq!(known(&tracker, key(1)).await, "\"b\"", "tracked {tracked}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_comes_during_a_write_leaves_nothing_known() {
    let tracker = tracker();
    let mut turn = turn(&tracker, guarded()).await;
    turn.confirm().await.expect("it is ours");
    tracker.change(key(1)).await;
    turn.settle(committed("b")).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown");
}

// ---- What is kept.

#[tokio::test(start_paused = true)]
async fn there_are_never_more_records_than_may_be() {
    // The second is large enough for several shards.
    for (capacity, keys) in [(100, 10_000), (SHARDED_FROM, 20_000)] {
        let tracker = Arc::new(Tracker::new(capacity, 16));
        for n in 0..keys {
            let n = n * 0x9E37_79B9;
            if n % 2 == 0 {
                read(&tracker, n, "a").await
            } else {
                write(&tracker, n, committed("a")).await
            }
            assert!(tracker.len() <= capacity, "{} records", tracker.len());
        }
        assert!(tracker.len() > capacity / 2, "{} records", tracker.len());
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_are_used_outlive_those_that_are_not() {
    let tracker = tracker();
    for n in 0..1000 {
        read(&tracker, n, "a").await;
        read(&tracker, 0, "a").await;
    }
    assert_eq!(known(&tracker, key(0)).await, "\"a\"");
    assert_eq!(known(&tracker, key(1)).await, "unknown");
}

#[tokio::test(start_paused = true)]
async fn records_in_use_survive_a_flood() {
    let tracker = tracker();
    let mut taken = Vec::new();
    for n in 0..20 {
        taken.push(turn(&tracker, ask(n, Access::Guarded)).await);
    }
    let mut waiting = pin!(tracker.begin_write(ask(0, Access::Guarded)));
    assert!(waits(waiting.as_mut()));
    for n in 1000..11_000 {
        read(&tracker, n, "a").await;
        assert!(tracker.len() <= 100 + taken.len(), "{} records", tracker.len());
    }
    for turn in taken {
        assert!(tracker.table.lock(Cell(turn.0.ask.key.cell)).find(Cell(turn.0.ask.key.cell)).is_some());
        turn.settle(committed("b")).await;
    }
    assert_eq!(has_turn(waiting).known(None, in_a_word).await, "\"b\"");
}

#[tokio::test(start_paused = true)]
async fn tags_that_are_too_long_are_as_none() {
    let tracker = tracker();
    let (longest, too_long) = ("x".repeat(16), "x".repeat(17));
    read(&tracker, 1, &longest).await;
    assert_eq!(known(&tracker, key(1)).await, format!("\"{longest}\""));
    read(&tracker, 1, &too_long).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown", "the old one does not stand, either");
    read(&tracker, 2, &too_long).await;
    assert_eq!(tracker.len(), 1);

    let mut turn = turn(&tracker, guarded()).await;
    assert!(turn.learn(Probed::Tag(tag("a"))).await);
    assert!(turn.learn(Probed::Tag(tag(&too_long))).await);
    assert_eq!(turn.known(None, in_a_word).await, "unknown");
    assert!(turn.learn(Probed::Tag(tag("a"))).await);
    turn.settle(committed(&too_long)).await;
    assert_eq!(known(&tracker, key(1)).await, "unknown");
}

// ---- What an operator sees and does.

#[tokio::test(start_paused = true)]
async fn an_operator_sees_what_is_known_whoever_learned_it() {
    let tracker = tracker();
    assert_eq!(tracker.inspect(key(1)).await, None);
    read(&tracker, 1, "a").await;
    advance(Duration::from_secs(3)).await;
    let known = tracker.inspect(key(1)).await.expect("a record");
    let State::Current(set) = &known.state else { panic!("{known:?}") };
    assert_eq!((set.len(), set[0].tag.clone(), known.now - set[0].seen), (1, tag("a"), 3));
    assert_eq!((known.writes, known.waiting, known.other_spelling), (Writes::Nothing, 0, false));

    let other = Key { spelling: 8, ..key(1) };
    let elsewhere = tracker.inspect(other).await.expect("a record");
    assert_eq!((elsewhere.state, elsewhere.other_spelling), (State::Unknown, true));

    let held = turn(&tracker, guarded()).await;
    let mut waiting = pin!(tracker.begin_write(unguarded()));
    assert!(waits(waiting.as_mut()));
    let known = tracker.inspect(key(1)).await.expect("a record");
    assert_eq!((known.writes, known.waiting), (Writes::Guarded, 1));
    held.settle(Outcome::Deleted).await;
    let known = tracker.inspect(key(1)).await.expect("a record");
    assert_eq!((known.state, known.superseded, known.absent_for_one), (State::Absent, 1, false));
    assert_eq!((known.writes, known.waiting), (Writes::Unguarded(1), 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_unknown_and_what_was_read_before_stays_out() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let (tracked, untracked) = (tracker.stamp().await, tracker.stamp().await);
    assert_eq!(tracker.forget(key(1)).await, Ok(true));
    assert_eq!(tracker.forget(key(2)).await, Ok(false));
    assert_eq!(known(&tracker, key(1)).await, "unknown");
    for (key, began) in [(key(1), tracked), (key(2), untracked)] {
        tracker.observe(key, began, seen("old"), CALLER).await;
        assert_eq!(known(&tracker, key).await, "unknown");
    }
    read(&tracker, 1, "b").await;
    read(&tracker, 2, "b").await;
    assert_eq!(known(&tracker, key(1)).await, "\"b\"");
    assert_eq!(known(&tracker, key(2)).await, "\"b\"");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_forgotten_while_a_turn_is_taken() {
    let tracker = tracker();
    read(&tracker, 1, "a").await;
    let mut first = turn(&tracker, guarded()).await;
    assert_eq!(tracker.forget(key(1)).await, Err(Taken));
    let mut second = pin!(tracker.begin_write(guarded()));
    assert!(waits(second.as_mut()));
    first.confirm().await.expect("it is ours");
    first.settle(committed("b")).await;
    // Granted, though nobody has looked yet.
    assert_eq!(tracker.forget(key(1)).await, Err(Taken));
    drop(has_turn(second));
    assert_eq!(known(&tracker, key(1)).await, "\"b\"");

    let mut doubtful = turn(&tracker, guarded()).await;
    doubtful.confirm().await.expect("it is ours");
    drop(doubtful);
    assert_eq!(tracker.forget(key(1)).await, Err(Taken));
    sleep(HOLD + WAIT).await;
    assert_eq!(tracker.forget(key(1)).await, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn forgetting_does_not_make_room_for_more_than_may_be() {
    let tracker = Arc::new(Tracker::new(4, 16));
    for n in 0..50 {
        read(&tracker, n, "a").await;
        tracker.forget(key(n)).await.expect("no turn is taken");
        read(&tracker, n, "b").await;
    }
    assert_eq!(tracker.len(), 4);
}

/// Counts what it is told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<&'static str>>, Mutex<Vec<Duration>>);

impl Watcher for Told {
    fn waits(&self) {
        self.0.lock().unwrap().push("waits");
    }

    fn waited(&self, time: Duration) {
        self.0.lock().unwrap().push("waited");
        self.1.lock().unwrap().push(time);
    }

    fn taken(&self, waited: Duration) {
        self.0.lock().unwrap().push("taken");
        self.1.lock().unwrap().push(waited);
    }

    fn ended(&self, held: Duration) {
        self.0.lock().unwrap().push("ended");
        self.1.lock().unwrap().push(held);
    }

    fn evicted(&self) {
        self.0.lock().unwrap().push("evicted");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_is_told_of_turns_and_evictions() {
    let told = Arc::new(Told::default());
    let watcher: Arc<dyn Watcher> = told.clone();
    let tracker = Arc::new(Tracker::new(1, 16).watched_by(watcher));
    let events = || std::mem::take(&mut *told.0.lock().unwrap());
    let times = || std::mem::take(&mut *told.1.lock().unwrap());

    let first = turn(&tracker, guarded()).await;
    let mut second = pin!(tracker.begin_write(guarded()));
    assert!(waits(second.as_mut()));
    advance(Duration::from_secs(2)).await;
    first.settle(Outcome::NotApplied).await;
    let mut second = has_turn(second);
    assert_eq!(events(), ["taken", "waits", "ended", "waited", "taken"]);
    assert_eq!(times(), [0, 2, 2, 2].map(Duration::from_secs));

    // In doubt it is held for longer.
    second.confirm().await.expect("it is ours");
    drop(second);
    assert!(events().is_empty());
    sleep(2 * HOLD).await;
    assert_eq!((events(), times()), (vec!["ended"], vec![HOLD]));

    {
        let held = turn(&tracker, guarded()).await;
        let mut gives_up = Box::pin(tracker.begin_write(guarded()));
        assert!(waits(gives_up.as_mut()));
        drop(gives_up);
        drop(held);
    }
    assert_eq!(events(), ["taken", "waits", "waited", "ended"]);

    read(&tracker, 2, "a").await;
    assert_eq!(events(), ["evicted"]);
}

// ---- Threads.

const KEYS: u64 = 5;
const WRITERS: u64 = 3000;

/// Who is inside, by key.
#[derive(Default)]
struct Inside {
    guarded: [AtomicBool; KEYS as usize],
    unguarded: [AtomicUsize; KEYS as usize],
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_keep_apart_and_nobody_waits_for_ever() {
    let tracker = Arc::new(Tracker::new(2, 16));
    let inside = Arc::new(Inside::default());
    let mut everybody = Vec::new();
    for n in 0..WRITERS {
        everybody.push(tokio::spawn(a_writer(Arc::clone(&tracker), Arc::clone(&inside), n)));
        everybody.push(tokio::spawn(a_reader(Arc::clone(&tracker), n)));
    }
    let all = async {
        for one in everybody {
            one.await.expect("no panic");
        }
    };
    timeout(Duration::from_secs(60), all).await.expect("nobody waits for ever");
    tracker.table.each(|slot| assert!(slot.is_idle() && slot.line.is_none(), "{slot:?}"));
}

async fn a_writer(tracker: Arc<Tracker>, inside: Arc<Inside>, n: u64) {
    let access = match n % 6 {
        0 | 3 => Access::Unguarded,
        5 => Access::Observed,
        _ => Access::Guarded,
    };
    let ask = Ask { wait: Duration::from_secs(60), line: 10_000, hold: Duration::ZERO, ..ask(n % KEYS, access) };
    // Every seventh hangs up, in line or with the turn.
    let patience = if n.is_multiple_of(7) { Duration::from_micros(n) } else { Duration::MAX };
    let _ = timeout(patience, async {
        let mut turn = turn(&tracker, ask).await;
        let entered = Entered::new(&inside, n % KEYS, access);
        tokio::task::yield_now().await;
        turn.confirm().await.expect("it is ours");
        tokio::task::yield_now().await;
        drop(entered);
        match n % 4 {
            0 => drop(turn),
            1 => turn.settle(Outcome::InDoubt).await,
            _ => turn.settle(committed("b")).await,
        }
    })
    .await;
}

async fn a_reader(tracker: Arc<Tracker>, n: u64) {
    let began = tracker.stamp().await;
    tokio::task::yield_now().await;
    tracker.observe(key(n % (2 * KEYS)), began, seen("a"), CALLER).await;
    let _ = known(&tracker, key(n % KEYS)).await;
    match n % 10 {
        0 => tracker.change(key(n % KEYS)).await,
        1 => drop(evict(&tracker, n % KEYS)),
        _ => {}
    }
}

/// Is inside until it is dropped, which is before its turn is.
struct Entered<'a> {
    inside: &'a Inside,
    key: usize,
    access: Access,
}

impl<'a> Entered<'a> {
    fn new(inside: &'a Inside, key: u64, access: Access) -> Self {
        let key = usize::try_from(key).expect("few keys");
        match access {
            Access::Guarded => {
                assert!(!inside.guarded[key].swap(true, Ordering::SeqCst), "two guarded writes at once");
                assert_eq!(inside.unguarded[key].load(Ordering::SeqCst), 0, "beside an unguarded one");
            }
            // Beside whatever there is.
            Access::Observed => {}
            Access::Unguarded => {
                inside.unguarded[key].fetch_add(1, Ordering::SeqCst);
                assert!(!inside.guarded[key].load(Ordering::SeqCst), "beside a guarded one");
            }
        }
        Self { inside, key, access }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        match self.access {
            Access::Observed => {}
            Access::Guarded => self.inside.guarded[self.key].store(false, Ordering::SeqCst),
            Access::Unguarded => drop(self.inside.unguarded[self.key].fetch_sub(1, Ordering::SeqCst)),
        }
    }
}
