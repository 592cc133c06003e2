//! Writes that need several turns.

use super::*;

/// A guarded write to 2 that changes 1 and 3, too.
fn several(tracker: &Arc<Tracker>) -> impl Future<Output = Result<Turn, Busy>> + use<> {
    beside(tracker, ask(2, Access::Guarded), &[3, 1, 3])
}

fn beside(tracker: &Arc<Tracker>, ask: Ask, related: &[u64]) -> impl Future<Output = Result<Turn, Busy>> + use<> {
    let (tracker, related) = (Arc::clone(tracker), related.iter().map(|n| key(*n)).collect::<Vec<_>>());
    async move { tracker.begin_write_beside(ask, &related).await }
}

fn writes(tracker: &Tracker) -> [Writes; 3] {
    [1, 2, 3].map(|n| {
        let shard = tracker.table.lock(Cell(key(n).cell));
        let place = shard.find(Cell(key(n).cell));
        place.map_or(Writes::Nothing, |place| shard.look(place, |slot| slot.record.writes()))
    })
}

const NOBODY: [Writes; 3] = [Writes::Nothing; 3];
const ALL: [Writes; 3] = [Writes::Unguarded(1), Writes::Guarded, Writes::Unguarded(1)];

#[tokio::test(start_paused = true)]
async fn a_write_has_its_own_turn_alone_and_shares_those_of_what_it_changes() {
    let tracker = tracker();
    let one = several(&tracker).await.expect("all turns");
    assert_eq!(writes(&tracker), ALL);
    let other = beside(&tracker, ask(4, Access::Guarded), &[1, 3]).await.expect("they are shared");
    assert_eq!(writes(&tracker)[0], Writes::Unguarded(2));
    for n in 1..=3 {
        assert!(waits(pin!(tracker.begin_write(ask(n, Access::Guarded)))), "{n}");
    }
    drop((one, other));
    assert_eq!(writes(&tracker), NOBODY);
}

#[tokio::test(start_paused = true)]
async fn where_a_related_resource_has_the_same_cell_the_own_turn_serves() {
    let tracker = tracker();
    let other_spelling = Key { spelling: 8, ..key(2) };
    let turn = tracker.begin_write_beside(ask(2, Access::Guarded), &[other_spelling, key(1), key(2)]).await;
    assert_eq!(writes(&tracker), [Writes::Unguarded(1), Writes::Guarded, Writes::Nothing]);
    drop(turn);
    assert_eq!(writes(&tracker), NOBODY);
}

/// What becomes of the others' records, by what became of the write.
#[tokio::test(start_paused = true)]
async fn what_a_write_also_changes_ends_as_it_does() {
    for (outcome, own, others, superseded) in [
        (Some(committed("new")), "\"new\"", "unknown", true),
        (Some(Outcome::Committed(None)), "unknown", "unknown", true),
        (Some(Outcome::Deleted), "absent", "unknown", true),
        (Some(Outcome::NotApplied), "\"a\"", "\"a\"", false),
        (Some(Outcome::Contradicted), "unknown", "unknown", false),
        (Some(Outcome::InDoubt), "unknown", "unknown", false),
        (None, "unknown", "unknown", false),
    ] {
        let tracker = tracker();
        for n in 1..=3 {
            read(&tracker, n, "a").await;
        }
        let before = tracker.stamp().await;
        let mut turn = several(&tracker).await.expect("all turns");
        turn.confirm().await.expect("they are ours");
        let during = tracker.stamp().await;
        read(&tracker, 1, "x").await;
        match outcome.clone() {
            Some(outcome) => turn.settle(outcome).await,
            None => drop(turn),
        }
        if outcome.is_none() {
            // Held, all of them.
            sleep(HOLD - Duration::from_millis(1)).await;
            assert_eq!(writes(&tracker), ALL);
            sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(writes(&tracker), NOBODY, "{outcome:?}");
        for (n, word) in [(1, others), (2, own), (3, others)] {
            assert_eq!(known(&tracker, key(n)).await, word, "{n} after {outcome:?}");
        }
        let is_superseded = with_slot(&tracker, 3, |slot| slot.record.superseded() > 0);
        assert_eq!(is_superseded, superseded, "{outcome:?}");
        for began in [before, during] {
            tracker.observe(key(1), began, seen("x"), CALLER).await;
            assert_eq!(known(&tracker, key(1)).await, others, "old news after {outcome:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_can_not_have_all_turns_has_none() {
    for held in 1..=3 {
        let tracker = tracker();
        let holder = turn(&tracker, ask(held, Access::Guarded)).await;
        // The wait is over, and it is one for all.
        let since = Instant::now();
        assert_eq!(several(&tracker).await.err(), Some(Busy::TimedOut));
        assert_eq!(since.elapsed(), WAIT);
        // Hung up in line between two turns.
        {
            let mut in_line_of_one = pin!(several(&tracker));
            assert!(waits(in_line_of_one.as_mut()));
            assert_eq!(in_line(&tracker, held), 1);
        }
        // The line is full.
        let no_line = Ask { line: 0, ..ask(2, Access::Guarded) };
        assert_eq!(beside(&tracker, no_line, &[1, 3]).await.err(), Some(Busy::LineFull));
        let mut expected = NOBODY;
        expected[usize::try_from(held - 1).expect("few")] = Writes::Guarded;
        assert_eq!((writes(&tracker), in_line(&tracker, held)), (expected, 0));
        drop(holder);
        assert_eq!(writes(&tracker), NOBODY);
        drop(several(&tracker).await.expect("all turns"));
    }
}

#[tokio::test(start_paused = true)]
async fn two_lines_that_are_waited_for_take_one_wait() {
    let tracker = tracker();
    let (first, second) =
        (turn(&tracker, ask(1, Access::Guarded)).await, turn(&tracker, ask(3, Access::Guarded)).await);
    let since = Instant::now();
    let waiting = tokio::spawn(several(&tracker));
    sleep(WAIT / 2).await;
    drop(first);
    assert_eq!(waiting.await.expect("no panic").err(), Some(Busy::TimedOut));
    assert_eq!(since.elapsed(), WAIT);
    drop(second);
    assert_eq!(writes(&tracker), NOBODY);
}

/// A turn that is granted at the very moment at which its writer goes away.
#[tokio::test(start_paused = true)]
async fn who_hangs_up_as_a_later_turn_comes_gives_back_all() {
    let tracker = tracker();
    let holder = turn(&tracker, ask(3, Access::Guarded)).await;
    {
        let mut waiting = pin!(several(&tracker));
        assert!(waits(waiting.as_mut()));
        assert_eq!(writes(&tracker), [Writes::Unguarded(1), Writes::Guarded, Writes::Guarded]);
        drop(holder);
        assert_eq!(writes(&tracker), ALL);
    }
    assert_eq!(writes(&tracker), NOBODY);
}

/// Each of two resources changes the other, and both a third; a third kind of writer only stands in the lines.
#[tokio::test(start_paused = true)]
async fn writes_that_change_each_others_resources_never_wait_for_each_other() {
    let tracker = tracker();
    let patient = |n, access| Ask { wait: Duration::from_secs(3600), line: 300, ..ask(n, access) };
    let mut writers = Vec::new();
    for n in 0..300 {
        let tracker = Arc::clone(&tracker);
        writers.push(tokio::spawn(async move {
            sleep(Duration::from_millis(n / 10)).await;
            let mut turn = match n % 3 {
                0 => beside(&tracker, patient(1, Access::Guarded), &[2, 3]).await,
                1 => beside(&tracker, patient(2, Access::Guarded), &[3, 1]).await,
                _ => {
                    beside(&tracker, patient(3, [Access::Guarded, Access::Unguarded][usize::from(n % 2 == 0)]), &[])
                        .await
                }
            }
            .expect("all turns, in time");
            turn.confirm().await.expect("they are ours");
            sleep(Duration::from_millis(1)).await;
            turn.settle(Outcome::Committed(None)).await;
        }));
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    assert_eq!(writes(&tracker), NOBODY);
}
