//! What is remembered, for how long, and what goes first.

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn memory(entries: usize, bytes: usize) -> Arc<Memory> {
    Memory::new(Capacity { entries, bytes }, [1, 2])
}

fn name(n: u64) -> Fingerprint {
    Fingerprints::new([3, 4]).of([&n.to_be_bytes()[..]])
}

fn recorded(content: &[u8]) -> Recorded {
    Recorded::new(http::StatusCode::CREATED, &crate::core::fields::Fields::new(), content)
}

fn answer(content: &[u8]) -> Memo {
    Memo::Answer(Identity { head: name(0), body: Some(name(1)) }, Kept::Whole(recorded(content)))
}

fn value(owner: u64, is_asked_for: bool) -> Memo {
    Memo::Value(Value {
        location: Some("/users/7".into()),
        caller: 1,
        owner: name(owner),
        is_asked_for,
        in_doubt: false,
    })
}

fn claimed(memory: &Arc<Memory>, kind: Kind, n: u64) -> Claim {
    let Begun::Free(claim) = memory.begin(kind, name(n)) else { panic!("{n} is not free") };
    claim
}

fn remember(memory: &Arc<Memory>, kind: Kind, n: u64, memo: Memo, time: Option<Duration>) {
    claimed(memory, kind, n).remember(memo, time);
}

fn knows(memory: &Memory, n: u64) -> bool {
    matches!(memory.look(name(n)), Look::Known(_))
}

fn entries(memory: &Memory) -> usize {
    memory.usage().iter().map(|usage| usage.entries).sum()
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_known_until_its_time_is_over() {
    let memory = memory(10, 1 << 20);
    assert!(!memory.is_used());
    remember(&memory, Kind::Key, 1, answer(b"x"), Some(seconds(30)));
    remember(&memory, Kind::Value, 2, value(9, false), None);
    tokio::time::advance(seconds(29)).await;
    assert!(matches!(memory.begin(Kind::Key, name(1)), Begun::Known(known) if known == answer(b"x")));
    tokio::time::advance(seconds(1)).await;
    assert!(!knows(&memory, 1) && knows(&memory, 2) && memory.is_used());
    tokio::time::advance(seconds(1_000_000)).await;
    assert!(knows(&memory, 2));
    drop(claimed(&memory, Kind::Key, 1));
}

#[tokio::test]
async fn a_claim_is_had_by_one_and_leaves_no_trace_if_nothing_happened() {
    let memory = memory(10, 1 << 20);
    let claim = claimed(&memory, Kind::Key, 1);
    assert!(matches!(memory.begin(Kind::Key, name(1)), Begun::UnderWay(_)));
    assert!(matches!(memory.look(name(1)), Look::UnderWay(None, _)));
    assert_eq!((memory.under_way(), entries(&memory)), (1, 0));
    drop(claim);
    let mut claim = claimed(&memory, Kind::Key, 1);
    claim.confirm(InDoubt::Remembered(answer(b""), None));
    claim.release();
    assert!(matches!(memory.look(name(1)), Look::Nothing));
    assert_eq!(memory.under_way(), 0);
}

#[tokio::test]
async fn a_claim_that_is_dropped_once_it_may_have_happened_is_in_doubt() {
    let memory = memory(10, 1 << 20);
    let in_doubt = Memo::Answer(Identity { head: name(0), body: None }, Kept::InDoubt);
    let mut claim = claimed(&memory, Kind::Key, 1);
    claim.confirm(InDoubt::Remembered(in_doubt.clone(), None));
    drop(claim);
    assert!(matches!(memory.begin(Kind::Key, name(1)), Begun::Known(known) if known == in_doubt));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_held_ends_by_itself() {
    let memory = memory(10, 1 << 20);
    let mut claim = claimed(&memory, Kind::Value, 1);
    claim.confirm(InDoubt::Held(seconds(5)));
    drop(claim);
    let Begun::UnderWay(waiting) = memory.begin(Kind::Value, name(1)) else { panic!("it is held") };
    let began = Instant::now();
    assert!(waiting.until_over(seconds(60)).await);
    assert_eq!(began.elapsed().as_secs(), 5);
    drop(claimed(&memory, Kind::Value, 1));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_when_it_is_over_and_gives_up_when_it_is_not() {
    let memory = memory(10, 1 << 20);
    let claim = claimed(&memory, Kind::Value, 1);
    let Begun::UnderWay(first) = memory.begin(Kind::Value, name(1)) else { panic!("it is claimed") };
    let Begun::UnderWay(second) = memory.begin(Kind::Value, name(1)) else { panic!("it is claimed") };
    assert_eq!((first.others, second.others), (0, 1));
    assert!(!first.until_over(seconds(10)).await);
    let waits = tokio::spawn(second.until_over(seconds(10)));
    tokio::task::yield_now().await;
    claim.remember(value(9, false), None);
    assert!(waits.await.expect("a task"));
}

#[tokio::test]
async fn what_was_superseded_or_forgotten_meanwhile_is_not_remembered() {
    let memory = memory(10, 1 << 20);
    let identity = Identity { head: name(0), body: Some(name(1)) };
    let first = memory.supersede(Kind::Replay, name(1), identity);
    assert!(matches!(memory.look(name(1)), Look::UnderWay(Some(known), _) if known == identity));
    let second = memory.supersede(Kind::Replay, name(1), identity);
    first.remember(answer(b"first"), None);
    assert!(matches!(memory.look(name(1)), Look::UnderWay(..)));
    second.remember(answer(b"second"), None);
    assert!(matches!(memory.look(name(1)), Look::Known(known) if known == answer(b"second")));

    let third = memory.supersede(Kind::Replay, name(1), identity);
    assert!(matches!(memory.look(name(1)), Look::UnderWay(..)), "what was known is known no more");
    memory.forget(name(1));
    third.remember(answer(b"third"), None);
    assert!(matches!(memory.look(name(1)), Look::Nothing));
}

#[tokio::test]
async fn values_end_with_their_resource() {
    let memory = memory(10, 1 << 20);
    remember(&memory, Kind::Value, 1, value(100, true), None);
    remember(&memory, Kind::Value, 2, value(100, false), None);
    remember(&memory, Kind::Value, 3, value(101, true), None);
    memory.forget_owned(name(100), false);
    assert_eq!([1, 2, 3].map(|n| knows(&memory, n)), [false, true, true]);
    memory.forget_owned(name(100), true);
    assert_eq!([1, 2, 3].map(|n| knows(&memory, n)), [false, false, true]);
    memory.forget_owned(name(100), true);
    remember(&memory, Kind::Value, 2, value(101, false), None);
    memory.forget_owned(name(101), true);
    assert_eq!(entries(&memory), 0);
}

#[tokio::test]
async fn the_oldest_make_room() {
    let memory = memory(3, 1 << 20);
    for n in 0..5 {
        remember(&memory, Kind::Key, n, answer(b""), None);
    }
    assert_eq!([0, 1, 2, 3, 4].map(|n| knows(&memory, n)), [false, false, true, true, true]);
    assert_eq!(memory.usage()[Kind::Key as usize].evictions, 2);
    memory.forget(name(3));
    remember(&memory, Kind::Key, 5, answer(b""), None);
    assert_eq!([2, 3, 4, 5].map(|n| knows(&memory, n)), [true, false, true, true]);
}

#[tokio::test]
async fn a_flood_of_one_kind_does_not_push_out_the_others_nor_grow_past_the_bounds() {
    let bytes = 1 << 20;
    let memory = memory(1000, bytes);
    remember(&memory, Kind::Replay, 1, answer(b"kept"), None);
    remember(&memory, Kind::Value, 2, value(9, false), None);
    let claim = claimed(&memory, Kind::Key, 3);
    for n in 10..5000 {
        remember(&memory, Kind::Key, n, answer(&[b'x'; 4000]), Some(seconds(3600)));
        let taken: usize = memory.usage().iter().map(|usage| usage.bytes).sum();
        assert!(entries(&memory) <= 1000 && taken <= bytes, "{taken} bytes");
    }
    assert!(knows(&memory, 1) && knows(&memory, 2));
    assert!(matches!(memory.look(name(3)), Look::UnderWay(..)), "what is under way is no entry");
    claim.remember(answer(b"late"), None);
    assert!(knows(&memory, 3) && knows(&memory, 4999) && !knows(&memory, 10));
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_goes_before_what_has_not() {
    let memory = memory(4, 1 << 20);
    remember(&memory, Kind::Replay, 1, answer(b""), Some(seconds(1)));
    remember(&memory, Kind::Replay, 2, answer(b""), Some(seconds(1)));
    remember(&memory, Kind::Key, 3, answer(b""), Some(seconds(100)));
    tokio::time::advance(seconds(2)).await;
    for n in 4..7 {
        remember(&memory, Kind::Key, n, answer(b""), Some(seconds(100)));
    }
    assert_eq!([1, 2, 3, 4, 5, 6].map(|n| knows(&memory, n)), [false, false, true, true, true, true]);
}

/// Against a plain list that does the same.
#[tokio::test(start_paused = true)]
async fn the_store_does_what_a_list_would() {
    for seed in 0..64 {
        let mut dice = simulation::Dice(seed);
        let most = 1 + dice.index(6);
        let memory = memory(most, usize::MAX >> 1);
        let mut list: Vec<(u64, Option<Instant>)> = Vec::new();
        for _ in 0..300 {
            let n = dice.below(8);
            match dice.below(5) {
                0 => {
                    memory.forget(name(n));
                    list.retain(|(other, _)| *other != n);
                }
                1 => tokio::time::advance(Duration::from_millis(500)).await,
                _ => {
                    let time = [None, Some(seconds(1)), Some(seconds(3))][dice.index(3)];
                    let identity = Identity { head: name(0), body: None };
                    memory.supersede(Kind::Key, name(n), identity).remember(answer(b""), time);
                    list.retain(|(other, _)| *other != n);
                    // Of those that have expired at most two make room each time, if they are the oldest.
                    for _ in 0..2 {
                        if list.first().is_some_and(|(_, until)| until.is_some_and(|until| until <= Instant::now())) {
                            list.remove(0);
                        }
                    }
                    list.push((n, time.map(|time| Instant::now() + time)));
                    if list.len() > most {
                        list.remove(0);
                    }
                }
            }
            assert_eq!(entries(&memory), list.len());
            for n in 0..8 {
                let listed =
                    list.iter().any(|(other, until)| *other == n && until.is_none_or(|until| until > Instant::now()));
                assert_eq!(knows(&memory, n), listed, "seed {seed}, {n}");
                if !listed {
                    list.retain(|(other, _)| *other != n);
                }
            }
        }
    }
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).expect("a second number").parse().expect("a number");
    pages * 4096
}

/// `cargo test --release --lib a_million_keys -- --ignored --nocapture`: alone, since it looks at the whole process.
#[tokio::test]
#[ignore = "it measures the process, and must be alone in it"]
async fn a_million_keys_take_what_is_said_of_them_and_more_of_them_no_more() {
    const KEYS: u64 = 1_000_000;
    let bytes = 1 << 30;
    let memory = memory(1_000_000, bytes);
    let mut fields = crate::core::fields::Fields::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("location", "/orders/8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("via", "1.1 ifmatch"),
    ] {
        fields.append(name, value.parse::<crate::core::value::FieldValue>().expect("a value"));
    }
    let answer = || {
        let recorded = Recorded::new(http::StatusCode::CREATED, &fields, &[b'x'; 200]);
        Memo::Answer(Identity { head: name(0), body: Some(name(1)) }, Kept::Whole(recorded))
    };
    let before = resident();
    let began = std::time::Instant::now();
    for n in 0..KEYS {
        remember(&memory, Kind::Key, n, answer(), Some(seconds(86_400)));
    }
    let (full, time) = (resident() - before, began.elapsed());
    let said = memory.usage()[Kind::Key as usize];
    assert_eq!(said.entries, 1_000_000);
    for n in KEYS..2 * KEYS {
        remember(&memory, Kind::Key, n, answer(), Some(seconds(86_400)));
    }
    let flooded = resident() - before;
    let keys = 1_000_000;
    eprintln!(
        "{} bytes a key, of which {} are its answer; {} are accounted for; {:?} each; {} a key after as many again",
        full / keys,
        answer().heap_bytes(),
        said.bytes / keys,
        time / 1_000_000,
        flooded / keys,
    );
    assert!(full <= said.bytes && flooded <= said.bytes + said.bytes / 10, "{full}, {flooded} of {}", said.bytes);
}
