//! A row for each rule of the design's sections 2 and 4 and for each row of its settle table; then what must hold
//! whatever happens, and what must be true as long as nothing changes behind the gateway's back.

use std::mem;

use proptest::{collection::vec, prelude::*};

use super::{
    Outcome::{Committed, Contradicted, Deleted, InDoubt, NotApplied},
    *,
};

/// Two spellings.
const HERE: u64 = 1;
const ELSEWHERE: u64 = 2;
/// Callers.
const ALICE: u64 = 10;
const BOB: u64 = 11;
const CAROL: u64 = 12;

/// What happens to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A read is forwarded and answered at once.
    Read(Seen),
    /// The read with this number is forwarded.
    Start(usize),
    /// Its answer comes.
    Answer(usize, Seen),
    Begin(Access),
    Settle(Outcome),
    End,
    /// A write begins, is settled and ends.
    Write(Access, Outcome),
    /// The holder of the turn asked the backend.
    Learn(Probed),
    /// A turn is taken for a probe, and no write is sent.
    Probe(Probed),
    /// A write to another resource changed this one.
    Change,
    /// What follows comes through this spelling.
    Through(u64),
    /// The record is forgotten, and another one begun.
    Evict,
}
use Step::{Answer, Begin, Change, End, Evict, Learn, Probe, Read, Settle, Start, Through, Write};

const UNTAGGED: Step = Read(Seen::Untagged);
const UNREADABLE: Step = Read(Seen::Unreadable);
const MISSING: Step = Read(Seen::Missing);

fn tag(name: &str) -> EntityTag {
    EntityTag::parse(format!("\"{name}\"").as_bytes()).expect("a tag")
}

fn committed(name: &str) -> Outcome {
    Committed(Some(tag(name)))
}

fn read(name: &str, variant: u64) -> Step {
    Read(Seen::Tag(tag(name), Some(variant)))
}

fn not_modified(name: &str) -> Step {
    Read(Seen::Tag(tag(name), None))
}

fn answer(number: usize, name: &str, variant: u64) -> Step {
    Answer(number, Seen::Tag(tag(name), Some(variant)))
}

fn guarded(outcome: Outcome) -> Step {
    Write(Access::Guarded, outcome)
}

fn unguarded(outcome: Outcome) -> Step {
    Write(Access::Unguarded, outcome)
}

fn commit(name: &str) -> Step {
    guarded(committed(name))
}

fn probe(name: &str) -> Step {
    Probe(Probed::Tag(tag(name)))
}

fn viewer(spelling: u64, now: Seconds) -> Source {
    Source { spelling, caller: ALICE, now }
}

/// A record, and the source of its stamps.
#[derive(Debug, Clone)]
struct Resource {
    record: Record,
    clock: u64,
    started: [Stamp; 3],
    source: Source,
}

impl Resource {
    fn new() -> Self {
        let source = Source { spelling: HERE, caller: ALICE, now: 0 };
        Self { record: Record::default(), clock: 0, started: [Stamp(0); 3], source }
    }

    fn after(steps: &[Step]) -> Self {
        let mut resource = Self::new();
        for step in steps {
            resource.take(step.clone());
        }
        resource
    }

    fn stamp(&mut self) -> Stamp {
        self.clock += 1;
        Stamp(self.clock)
    }

    /// Returns whether a read's answer was recorded; for every other step, true.
    fn take(&mut self, step: Step) -> bool {
        let at = self.stamp();
        match step {
            Read(seen) => {
                let answered = self.stamp();
                return self.record.observe(seen, at, answered, self.source);
            }
            Start(number) => self.started[number] = at,
            Answer(number, seen) => return self.record.observe(seen, self.started[number], at, self.source),
            Begin(access) => self.record.begin(access),
            Settle(outcome) => self.record.settle(outcome, at, self.source),
            End => self.record.end(),
            Write(access, outcome) => {
                self.record.begin(access);
                self.record.settle(outcome, at, self.source);
                self.record.end();
            }
            Learn(probed) => return self.record.learn(probed, at, self.source),
            Probe(probed) => {
                self.record.begin(Access::Guarded);
                assert!(self.record.learn(probed, at, self.source));
                self.record.end();
            }
            Change => self.record.change(at),
            Through(spelling) => self.source.spelling = spelling,
            Evict => self.record = Record::new(self.record.floor()),
        }
        true
    }

    /// What is known through a spelling, as `tag/variant tag/variant`.
    fn known(&self, spelling: u64) -> String {
        match self.record.view(viewer(spelling, 0), None).state {
            State::Unknown => "Unknown".into(),
            State::Absent => "Absent".into(),
            State::Current(set) => set.iter().map(in_words).collect::<Vec<_>>().join(" "),
        }
    }
}

fn in_words(known: &Known) -> String {
    let tag = known.tag.to_string();
    let variant = known.variant.map_or("-".into(), |variant| variant.to_string());
    format!("{}/{variant}", tag.trim_matches('"'))
}

fn fingerprints(names: &str) -> Vec<u64> {
    names.split_whitespace().map(|name| tag(name).fingerprint()).collect()
}

/// The rule; what happens; what is known afterwards; the superseded tags, oldest first.
type Row = (&'static str, Vec<Step>, &'static str, &'static str);

fn check(rows: Vec<Row>) {
    for (rule, steps, known, superseded) in rows {
        let resource = Resource::after(&steps);
        assert_eq!(resource.known(HERE), known, "{rule}: {steps:?}");
        let found = resource.record.view(viewer(HERE, 0), None).superseded;
        assert_eq!(found, fingerprints(superseded), "{rule}, superseded: {steps:?}");
    }
}

#[test]
fn one_state_has_a_tag_for_each_representation() {
    let nine = (1..=9).map(|n| read(&format!("t{n}"), n)).collect::<Vec<_>>();
    check(vec![
        ("nothing is known at first", vec![], "Unknown", ""),
        ("a read's tag is current", vec![read("a", 1)], "a/1", ""),
        ("the same again", vec![read("a", 1), read("a", 1)], "a/1", ""),
        ("another variant's tag joins", vec![read("a", 1), read("b", 2)], "a/1 b/2", ""),
        ("one tag may have two variants", vec![read("a", 1), read("a", 2)], "a/1 a/2", ""),
        ("8 variants stay", nine[..8].to_vec(), "t1/1 t2/2 t3/3 t4/4 t5/5 t6/6 t7/7 t8/8", ""),
        ("at most 8; the oldest goes", nine, "t2/2 t3/3 t4/4 t5/5 t6/6 t7/7 t8/8 t9/9", ""),
        (
            "the same variant with another tag replaces the set",
            vec![read("a", 1), read("b", 2), read("c", 1)],
            "c/1",
            "a b",
        ),
        ("a tag that stays in the set is not superseded", vec![read("a", 1), read("b", 2), read("b", 1)], "b/1", "a"),
    ]);
}

/// It need not be superseded: it may be another representation's.
#[test]
fn a_tag_without_a_variant_is_replaced_by_the_next_that_differs() {
    check(vec![
        ("a write's tag", vec![commit("n"), read("m", 1)], "m/1", ""),
        ("a probe's tag", vec![probe("n"), read("m", 1)], "m/1", ""),
        ("a 304's tag", vec![not_modified("n"), read("m", 1)], "m/1", ""),
        ("by a tag without a variant", vec![commit("n"), not_modified("m")], "m/-", "n"),
        ("the same tag tells the variant", vec![commit("n"), read("n", 1)], "n/1", ""),
        ("and then another joins", vec![commit("n"), read("n", 1), read("m", 2)], "n/1 m/2", ""),
        ("a 304 with a current tag leaves the set", vec![read("a", 1), read("b", 2), not_modified("b")], "a/1 b/2", ""),
        ("a 304 with another replaces it", vec![read("a", 1), read("b", 2), not_modified("c")], "c/-", "a b"),
    ]);
}

#[test]
fn a_304_confirms_a_tag_and_does_not_hide_a_change() {
    let mut resource = Resource::after(&[read("a", 1), read("b", 2)]);
    (resource.source.caller, resource.source.now) = (BOB, 50);
    assert!(resource.take(not_modified("a")));
    let State::Current(set) = &resource.record.state else { panic!("current") };
    assert_eq!((set[0].caller, set[0].seen, set[0].variant), (BOB, 50, Some(1)));
    assert_eq!((set[1].caller, set[1].seen, set[1].variant), (ALICE, 0, Some(2)));
    resource.take(read("c", 1));
    assert_eq!(resource.known(HERE), "c/1");
}

#[test]
fn the_last_8_superseded_tags_are_remembered() {
    let commits = |count: usize| (0..count).map(|n| commit(&format!("t{n}"))).collect::<Vec<_>>();
    let confirmed = commits(9).into_iter().chain([read("t8", 1)]).collect();
    check(vec![
        ("8 are kept", commits(9), "t8/-", "t0 t1 t2 t3 t4 t5 t6 t7"),
        ("the oldest goes", commits(11), "t10/-", "t2 t3 t4 t5 t6 t7 t8 t9"),
        ("a tag that only tells its variant pushes none out", confirmed, "t8/1", "t0 t1 t2 t3 t4 t5 t6 t7"),
        ("current again, by a write", vec![commit("a"), commit("b"), commit("a")], "a/-", "b"),
        ("by a probe", vec![commit("a"), commit("b"), probe("a")], "a/-", "b"),
        ("not by a read alone", vec![commit("a"), commit("b"), read("a", 1)], "Unknown", "a"),
        ("but by a probe after it", vec![commit("a"), commit("b"), read("a", 1), probe("a")], "a/-", ""),
        ("not where nothing is known", vec![commit("a"), guarded(Committed(None)), read("a", 1)], "Unknown", "a"),
        ("not as another variant's tag", vec![read("a", 1), read("b", 1), read("a", 2)], "Unknown", "a"),
        (
            "nor as an older read's tag",
            vec![read("a", 1), read("b", 1), Start(0), read("c", 2), answer(0, "a", 3)],
            "b/1 c/2",
            "a",
        ),
        (
            "superseded twice, it is the newest",
            vec![commit("a"), commit("b"), commit("a"), commit("c"), commit("d")],
            "d/-",
            "b a c",
        ),
    ]);
}

#[test]
fn absent_is_learned_only_from_a_delete_and_a_probe() {
    check(vec![
        ("2xx to DELETE", vec![read("a", 1), guarded(Deleted)], "Absent", "a"),
        ("a probe", vec![read("a", 1), Probe(Probed::Absent)], "Absent", "a"),
        ("404 to a read where a tag was current", vec![read("a", 1), MISSING], "Unknown", ""),
        ("404 to a read where nothing was known", vec![MISSING], "Unknown", ""),
        ("404 to a read of what is absent", vec![guarded(Deleted), MISSING], "Absent", ""),
        ("404 to a write", vec![read("a", 1), guarded(Contradicted)], "Unknown", ""),
        ("a representation of what was absent", vec![guarded(Deleted), UNTAGGED], "Unknown", ""),
        ("one of which no state can be told, too", vec![guarded(Deleted), UNREADABLE], "Unknown", ""),
        ("and what was known is no longer so", vec![read("a", 1), UNREADABLE], "Unknown", ""),
        ("a tag of what was absent", vec![guarded(Deleted), read("a", 1)], "a/1", ""),
        ("created", vec![guarded(Deleted), commit("a")], "a/-", ""),
    ]);
}

/// A 404 may mean *not for you*; after a DELETE it is gone for everyone.
#[test]
fn what_a_probe_found_absent_is_absent_for_its_caller_only() {
    let bob = Source { caller: BOB, ..viewer(HERE, 0) };
    for (steps, for_bob) in [(vec![Probe(Probed::Absent)], State::Unknown), (vec![guarded(Deleted)], State::Absent)] {
        let resource = Resource::after(&steps);
        assert_eq!(resource.record.view(viewer(HERE, 0), None).state, &State::Absent);
        assert_eq!(resource.record.view(bob, None).state, &for_bob, "{steps:?}");
    }
}

#[test]
fn a_probe_in_the_writers_turn_is_the_newest_there_is() {
    check(vec![
        ("of the unknown", vec![probe("a")], "a/-", ""),
        ("of what is absent", vec![guarded(Deleted), probe("a")], "a/-", ""),
        ("with the current tag", vec![read("a", 1), probe("a")], "a/1", ""),
        ("with another", vec![read("a", 1), read("b", 2), probe("c")], "c/-", "a b"),
        ("without a tag", vec![read("a", 1), Probe(Probed::Untagged)], "Unknown", ""),
        ("without a tag, of what was absent", vec![guarded(Deleted), Probe(Probed::Untagged)], "Unknown", ""),
    ]);
    let mut resource = Resource::after(&[read("a", 1)]);
    (resource.source.caller, resource.source.now) = (BOB, 50);
    resource.take(probe("a"));
    let State::Current(set) = &resource.record.state else { panic!("current") };
    assert_eq!((set[0].caller, set[0].seen), (BOB, 50));
}

/// The settle table of the design's section 5, for a guarded write.
#[test]
fn a_guarded_write_settles() {
    let from_current = |outcome| vec![read("a", 1), read("b", 2), guarded(outcome)];
    let from_absent = |outcome| vec![guarded(Deleted), guarded(outcome)];
    check(vec![
        ("2xx with a tag", from_current(committed("n")), "n/-", "a b"),
        ("2xx with a tag that was current", from_current(committed("a")), "a/-", "b"),
        ("2xx or 3xx without one", from_current(Committed(None)), "Unknown", "a b"),
        ("2xx to DELETE", from_current(Deleted), "Absent", "a b"),
        ("412 or 404", from_current(Contradicted), "Unknown", ""),
        ("other 4xx; or no byte was sent", from_current(NotApplied), "a/1 b/2", ""),
        ("5xx, a reset, a timeout", from_current(InDoubt), "Unknown", ""),
        ("2xx with a tag, from Absent", from_absent(committed("n")), "n/-", ""),
        ("2xx without one, from Absent", from_absent(Committed(None)), "Unknown", ""),
        ("412 or 404, from Absent", from_absent(Contradicted), "Unknown", ""),
        ("other 4xx, from Absent", from_absent(NotApplied), "Absent", ""),
        ("5xx, from Absent", from_absent(InDoubt), "Unknown", ""),
        ("2xx with a tag, from Unknown", vec![commit("n")], "n/-", ""),
        ("other 4xx, from Unknown", vec![guarded(NotApplied)], "Unknown", ""),
    ]);
}

/// Nobody judged it, and of two that overlap nobody can tell which was applied last.
#[test]
fn an_unguarded_write_never_makes_a_tag_current_or_a_resource_absent() {
    let from_current = |outcome| vec![read("a", 1), read("b", 2), unguarded(outcome)];
    let from_absent = |outcome| vec![guarded(Deleted), unguarded(outcome)];
    let overlapping = vec![
        Begin(Access::Unguarded),
        Begin(Access::Unguarded),
        Settle(committed("a")),
        End,
        Settle(committed("b")),
        End,
    ];
    check(vec![
        ("2xx with a tag", from_current(committed("n")), "Unknown", "a b"),
        ("2xx or 3xx without one", from_current(Committed(None)), "Unknown", "a b"),
        ("2xx to DELETE", from_current(Deleted), "Unknown", "a b"),
        ("412 or 404", from_current(Contradicted), "Unknown", ""),
        ("other 4xx; or no byte was sent", from_current(NotApplied), "a/1 b/2", ""),
        ("5xx, a reset, a timeout", from_current(InDoubt), "Unknown", ""),
        ("2xx, from Absent", from_absent(committed("n")), "Unknown", ""),
        ("2xx to DELETE, from Absent", from_absent(Deleted), "Unknown", ""),
        ("other 4xx, from Absent", from_absent(NotApplied), "Absent", ""),
        ("two that overlap", overlapping, "Unknown", ""),
    ]);
}

/// Rule 3, the first half.
#[test]
fn a_read_that_overlapped_a_write_is_not_recorded() {
    let outcomes = [committed("n"), Committed(None), Deleted, NotApplied, Contradicted, InDoubt];
    for access in [Access::Guarded, Access::Unguarded] {
        for outcome in outcomes.clone() {
            let write = [Begin(access), Settle(outcome), End];
            // The read starts before this step of the write, and is answered after that one.
            for (start, end) in [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)] {
                let mut with_read = write.to_vec();
                with_read.insert(end, answer(0, "old", 1));
                with_read.insert(start, Start(0));
                with_read.insert(0, read("a", 1));
                let mut without = write.to_vec();
                without.insert(0, read("a", 1));
                let (with_read, without) = (Resource::after(&with_read), Resource::after(&without));
                assert_eq!(with_read.record.state, without.record.state, "{write:?} {start} {end}");
                assert_eq!(with_read.record.superseded, without.record.superseded, "{write:?} {start} {end}");
            }
        }
    }
    check(vec![
        ("answered before the write", vec![Start(0), answer(0, "a", 1), Begin(Access::Guarded)], "a/1", ""),
        ("started after the write", vec![guarded(InDoubt), Start(0), answer(0, "a", 1)], "a/1", ""),
        ("a turn in which nothing was sent", vec![Start(0), Begin(Access::Guarded), End, answer(0, "a", 1)], "a/1", ""),
    ]);
}

/// Rule 3, the second half: of reads and of changes learned otherwise.
#[test]
fn an_older_read_joins_and_never_replaces() {
    let eight = (1..=8).map(|n| read(&format!("t{n}"), n));
    let full = std::iter::once(Start(0)).chain(eight).chain([answer(0, "t9", 9)]).collect();
    let older = |newer: Step, older: Step| vec![Start(0), newer, older];
    check(vec![
        ("as another variant's", older(read("b", 2), answer(0, "a", 1)), "b/2 a/1", ""),
        ("not in the same variant's place", older(read("b", 1), answer(0, "a", 1)), "b/1", ""),
        ("the same tag again", older(read("a", 1), answer(0, "a", 1)), "a/1", ""),
        ("not a ninth", full, "t1/1 t2/2 t3/3 t4/4 t5/5 t6/6 t7/7 t8/8", ""),
        ("not beside a tag without a variant", older(not_modified("b"), answer(0, "a", 1)), "b/-", ""),
        ("not without a variant", older(read("b", 1), Answer(0, Seen::Tag(tag("a"), None))), "b/1", ""),
        ("a 404", older(read("b", 1), Answer(0, Seen::Missing)), "b/1", ""),
        ("beside nothing", older(MISSING, answer(0, "a", 1)), "Unknown", ""),
        ("not older than a write", vec![Start(0), commit("n"), read("n", 1), answer(0, "a", 2)], "n/1", ""),
        ("not older than a change elsewhere", older(Change, answer(0, "a", 1)), "Unknown", ""),
        ("not older than what a probe showed", older(probe("p"), answer(0, "a", 1)), "p/-", ""),
        ("not older than absence", older(Probe(Probed::Absent), answer(0, "a", 1)), "Absent", ""),
        ("not older than an untagged probe", older(Probe(Probed::Untagged), answer(0, "a", 1)), "Unknown", ""),
    ]);
    check(vec![
        ("a change that a read showed", vec![read("a", 1), Start(0), read("b", 1), answer(0, "a", 1)], "b/1", "a"),
        ("for other variants, too", vec![read("a", 1), Start(0), read("b", 1), answer(0, "c", 2)], "b/1", "a"),
        (
            "the change is learned when the answer comes",
            vec![read("a", 1), Start(0), Start(1), answer(0, "b", 1), answer(1, "c", 2)],
            "b/1",
            "a",
        ),
    ]);
}

/// What a probe shows is all that is known afterwards, and whatever was under way before it is old news.
#[test]
fn a_probe_vouches_for_its_own_tag_only() {
    check(vec![
        ("not for the other variants' tags", vec![read("b", 2), read("a", 1), probe("a")], "a/1", ""),
        ("not for what a read saw before it", vec![read("a", 1), Start(0), probe("a"), answer(0, "b", 1)], "a/1", ""),
    ]);
    let mut disturbed = Resource::after(&[read("a", 1), Begin(Access::Guarded), Change]);
    assert!(!disturbed.take(Learn(Probed::Tag(tag("a")))));
    assert_eq!(disturbed.known(HERE), "Unknown");
}

/// A 404 may have been a deletion: a read from before it must not join what a read from after it showed.
#[test]
fn an_older_read_does_not_join_across_a_404() {
    check(vec![("a 404 between", vec![Start(0), MISSING, read("new", 1), answer(0, "old", 2)], "new/1", "")]);
}

/// Rules 3 and 8.
#[test]
fn old_news_stays_old_where_the_record_was_forgotten() {
    let forgotten = |step: Step| vec![Start(0), step, Evict, answer(0, "old", 1)];
    check(vec![
        ("after a write", forgotten(commit("n")), "Unknown", ""),
        ("after a write that was not applied", forgotten(guarded(NotApplied)), "Unknown", ""),
        ("after a newer read", forgotten(read("a", 1)), "Unknown", ""),
        ("after a change elsewhere", forgotten(Change), "Unknown", ""),
        ("a later read", vec![commit("n"), Evict, read("a", 1)], "a/1", ""),
    ]);
    let source = Source { spelling: HERE, caller: ALICE, now: 0 };
    for (began, recorded) in [(4, false), (5, false), (6, true)] {
        let mut record = Record::new(Stamp(5));
        assert_eq!(record.observe(Seen::Tag(tag("a"), None), Stamp(began), Stamp(9), source), recorded, "{began}");
        assert_eq!(record.state != State::Unknown, recorded, "{began}");
    }
    assert_eq!(Record::new(Stamp(5)).floor(), Stamp(5));
    // The changes up to 2, and a read that began at 5.
    assert_eq!(Resource::after(&[Change, Change, Start(0), Start(1), read("a", 1)]).record.floor(), Stamp(5));
}

/// Rule 6.
#[test]
fn a_change_by_another_resources_write_leaves_it_unknown() {
    check(vec![
        ("its tags are superseded", vec![read("a", 1), read("b", 2), Change], "Unknown", "a b"),
        ("it is there no less than before", vec![guarded(Deleted), Change], "Unknown", ""),
        ("while an unguarded write is under way", vec![read("a", 1), Begin(Access::Unguarded), Change], "Unknown", "a"),
    ]);
    for outcome in [committed("n"), Committed(None), Deleted, NotApplied, Contradicted, InDoubt] {
        let steps = vec![read("a", 1), Begin(Access::Guarded), Change, Settle(outcome), End];
        check(vec![("during a turn, whatever becomes of the write", steps, "Unknown", "a")]);
    }
    for probed in [Probed::Tag(tag("p")), Probed::Absent, Probed::Untagged] {
        let steps = vec![read("a", 1), Begin(Access::Guarded), Change, Learn(probed), End];
        check(vec![("during a turn, whatever the probe showed", steps, "Unknown", "a")]);
    }
    check(vec![
        ("before the turn", vec![Change, commit("n")], "n/-", ""),
        ("in the turn before", vec![Begin(Access::Guarded), Change, End, commit("n")], "n/-", ""),
        ("in the turn before a probe", vec![Begin(Access::Guarded), Change, End, probe("p")], "p/-", ""),
    ]);
}

/// Spellings share a record and a turn; what one of them knows is nothing to another.
#[test]
fn knowledge_is_of_one_spelling() {
    let elsewhere = |step: Step| vec![read("a", 1), read("b", 1), Through(ELSEWHERE), step];
    // The rule; what happens; what is known and superseded here; the same elsewhere.
    type BySpelling = (&'static str, Vec<Step>, (&'static str, &'static str), (&'static str, &'static str));
    let rows: Vec<BySpelling> = vec![
        ("a read", vec![read("a", 1), read("b", 1)], ("b/1", "a"), ("Unknown", "")),
        ("absence", vec![guarded(Deleted)], ("Absent", ""), ("Unknown", "")),
        ("a read elsewhere", elsewhere(read("c", 1)), ("Unknown", ""), ("c/1", "")),
        ("of another variant", elsewhere(read("c", 2)), ("Unknown", ""), ("c/2", "")),
        ("with the same tag", elsewhere(read("b", 1)), ("Unknown", ""), ("b/1", "")),
        ("a 304 elsewhere", elsewhere(not_modified("b")), ("Unknown", ""), ("b/-", "")),
        ("a write elsewhere", elsewhere(commit("n")), ("Unknown", ""), ("n/-", "")),
        ("a write without a tag", elsewhere(guarded(Committed(None))), ("Unknown", ""), ("Unknown", "")),
        ("a delete elsewhere", elsewhere(guarded(Deleted)), ("Unknown", ""), ("Absent", "")),
        ("an unguarded write", elsewhere(unguarded(committed("n"))), ("Unknown", ""), ("Unknown", "")),
        ("a probe elsewhere", elsewhere(probe("b")), ("Unknown", ""), ("b/-", "")),
        ("absence elsewhere", elsewhere(Probe(Probed::Absent)), ("Unknown", ""), ("Absent", "")),
        ("a write that was not applied", elsewhere(guarded(NotApplied)), ("b/1", "a"), ("Unknown", "")),
        ("a change elsewhere", elsewhere(Change), ("Unknown", "a b"), ("Unknown", "")),
    ];
    for (rule, steps, here, elsewhere) in rows {
        let resource = Resource::after(&steps);
        for (spelling, (known, superseded)) in [(HERE, here), (ELSEWHERE, elsewhere)] {
            assert_eq!(resource.known(spelling), known, "{rule}, spelling {spelling}");
            let found = resource.record.view(viewer(spelling, 0), None).superseded;
            assert_eq!(found, fingerprints(superseded), "{rule}, superseded, spelling {spelling}");
        }
    }
    for (rule, step) in [
        ("404 elsewhere", MISSING),
        ("404 or 412 to a write", guarded(Contradicted)),
        ("in doubt", guarded(InDoubt)),
        ("an untagged probe", Probe(Probed::Untagged)),
    ] {
        let resource = Resource::after(&elsewhere(step));
        assert_eq!((resource.known(HERE), resource.known(ELSEWHERE)), ("Unknown".into(), "Unknown".into()), "{rule}");
    }
}

#[test]
fn rule_3_holds_across_spellings() {
    let around = |step: Step| vec![Start(0), Through(ELSEWHERE), step, Through(HERE), answer(0, "a", 1)];
    check(vec![
        ("a write elsewhere", around(commit("n")), "Unknown", ""),
        ("a write in doubt elsewhere", around(guarded(InDoubt)), "Unknown", ""),
        ("a probe elsewhere", around(probe("p")), "Unknown", ""),
        ("a newer read elsewhere", around(read("b", 2)), "Unknown", ""),
        ("a newer write elsewhere, during the read", around(Begin(Access::Unguarded)), "Unknown", ""),
    ]);
    assert_eq!(Resource::after(&around(read("b", 2))).known(ELSEWHERE), "b/2");
}

#[test]
fn knowledge_older_than_max_age_is_not_used() {
    let at = |steps: &[(Seconds, Step)]| {
        let mut resource = Resource::new();
        for (now, step) in steps {
            resource.source.now = *now;
            resource.take(step.clone());
        }
        resource.record
    };
    let one = at(&[(100, read("a", 1))]);
    let two = at(&[(100, read("a", 1)), (108, read("b", 2))]);
    let confirmed = at(&[(100, read("a", 1)), (108, not_modified("a"))]);
    let seen_again = at(&[(100, read("a", 1)), (108, read("a", 1))]);
    let probed = at(&[(100, read("a", 1)), (108, probe("a"))]);
    let absent = at(&[(100, guarded(Deleted))]);
    // What, the record, the present, max_age, whether it is used.
    let rows = [
        ("for ever", &one, 1_000_000, None, true),
        ("within", &one, 109, Some(10), true),
        ("at its end", &one, 110, Some(10), false),
        ("long after", &one, 1_000_000, Some(10), false),
        ("a clock that went back", &one, 90, Some(10), true),
        ("all of the set", &two, 109, Some(10), true),
        ("a part of the set", &two, 112, Some(10), false),
        ("confirmed by a 304", &confirmed, 112, Some(10), true),
        ("seen again", &seen_again, 112, Some(10), true),
        ("confirmed by a probe", &probed, 112, Some(10), true),
        ("absent for ever", &absent, 1_000_000, None, true),
        ("absent long ago", &absent, 1_000_000, Some(10), false),
    ];
    for (what, record, now, max_age, used) in rows {
        let view = record.view(viewer(HERE, now), max_age);
        assert_eq!(*view.state != State::Unknown, used, "{what}");
    }
}

#[test]
fn a_guarded_write_is_alone_and_unguarded_ones_may_overlap() {
    use Access::{Guarded, Unguarded};
    // What is under way; whether a guarded write may begin, and an unguarded one.
    let rows: [(&[Step], bool, bool); 6] = [
        (&[], true, true),
        (&[Begin(Guarded)], false, false),
        (&[Begin(Guarded), Change], false, false),
        (&[Begin(Guarded), Settle(InDoubt)], false, false),
        (&[Begin(Unguarded)], false, true),
        (&[Begin(Unguarded), Begin(Unguarded), End], false, true),
    ];
    for (steps, guarded, unguarded) in rows {
        let record = Resource::after(steps).record;
        assert_eq!((record.admits(Guarded), record.admits(Unguarded)), (guarded, unguarded), "{steps:?}");
        assert_eq!(record.is_idle(), steps.is_empty(), "{steps:?}");
    }
}

#[test]
fn each_write_ends_once() {
    let mut resource = Resource::after(&[Begin(Access::Unguarded), Begin(Access::Unguarded), Begin(Access::Unguarded)]);
    for idle in [false, false, true, true] {
        resource.take(End);
        assert_eq!(resource.record.is_idle(), idle);
    }
    resource.take(Begin(Access::Guarded));
    assert!(!resource.record.is_idle());
    resource.take(End);
    assert!(resource.record.is_idle());
    resource.take(Begin(Access::Unguarded));
    resource.take(End);
    assert!(resource.record.admits(Access::Guarded));
}

/// Rule 9.
#[test]
fn a_caller_is_told_the_tags_that_it_was_shown() {
    let told = |steps: &[(u64, Step)], caller| {
        let mut resource = Resource::new();
        for (by, step) in steps {
            resource.source.caller = *by;
            resource.take(step.clone());
        }
        let tags = resource.record.view(viewer(HERE, 0), None).tags_for(caller);
        tags.iter().map(|tag| tag.to_string().replace('"', "")).collect::<Vec<_>>().join(" ")
    };
    let both = [(ALICE, read("a", 1)), (BOB, read("b", 2))];
    let confirmed = [(ALICE, read("a", 1)), (BOB, not_modified("a"))];
    let probed = [(ALICE, read("a", 1)), (BOB, probe("a"))];
    let written = [(ALICE, read("a", 1)), (BOB, commit("b"))];
    let deleted = [(ALICE, read("a", 1)), (ALICE, guarded(Deleted))];
    let twice = [(ALICE, read("a", 1)), (ALICE, read("b", 2)), (ALICE, read("a", 3))];
    // What is done by whom; who asks; which tags that caller is told.
    type ToldRow<'a> = (&'a [(u64, Step)], u64, &'static str);
    let rows: [ToldRow<'_>; 12] = [
        (&both, ALICE, "a"),
        (&both, BOB, "b"),
        (&both, CAROL, ""),
        (&confirmed, ALICE, ""),
        (&confirmed, BOB, "a"),
        (&probed, ALICE, ""),
        (&probed, BOB, "a"),
        (&written, ALICE, ""),
        (&written, BOB, "b"),
        (&deleted, ALICE, ""),
        (&twice, ALICE, "a b"),
        (&[], ALICE, ""),
    ];
    for (steps, caller, tags) in rows {
        assert_eq!(told(steps, caller), tags, "{steps:?} {caller}");
    }
}

#[test]
fn tags_are_superseded_only_if_every_one_is() {
    let resource = Resource::after(&[commit("a"), commit("b"), commit("c")]);
    let view = resource.record.view(viewer(HERE, 0), None);
    let one_of = |names: &[&str]| Tags::OneOf(names.iter().map(|name| tag(name)).collect());
    let weak = Tags::OneOf(vec![EntityTag::parse(b"W/\"a\"").expect("a tag")]);
    let rows = [
        (one_of(&["a"]), true),
        (one_of(&["a", "b"]), true),
        (one_of(&["c"]), false),
        (one_of(&["a", "c"]), false),
        (one_of(&["a", "never-seen"]), false),
        (weak, false),
        (Tags::Any, false),
    ];
    for (tags, superseded) in rows {
        assert_eq!(view.supersedes(&tags), superseded, "{tags:?}");
        assert!(!View::NOTHING.supersedes(&tags), "{tags:?}");
    }
}

#[test]
fn only_what_is_current_matches() {
    let sent = Tags::OneOf(vec![tag("x"), tag("b")]);
    // What is known; whether the tags match; whether `*` does.
    let rows: [(&[Step], bool, bool); 6] = [
        (&[], false, false),
        (&[guarded(Deleted)], false, false),
        (&[read("a", 1), read("b", 2)], true, true),
        (&[read("a", 1)], false, true),
        (&[commit("b"), commit("c")], false, true),
        (&[read("b", 1), guarded(InDoubt)], false, false),
    ];
    for (steps, of_tags, of_any) in rows {
        let resource = Resource::after(steps);
        let view = resource.record.view(viewer(HERE, 0), None);
        let found = [&sent, &Tags::Any].map(|tags| view.matches(tags, Comparison::Strong, true));
        assert_eq!(found, [of_tags, of_any], "{steps:?}");
    }
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let tagged =
        ("[a-l]", proptest::option::weighted(0.8, 0..12u64)).prop_map(|(name, variant)| Seen::Tag(tag(&name), variant));
    prop_oneof![10 => tagged, 1 => Just(Seen::Untagged), 1 => Just(Seen::Unreadable), 1 => Just(Seen::Missing)]
}

fn any_access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Guarded), Just(Access::Unguarded)]
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        "[a-l]".prop_map(|name| committed(&name)),
        Just(Committed(None)),
        Just(Deleted),
        Just(NotApplied),
        Just(Contradicted),
        Just(InDoubt),
    ]
}

fn any_probed() -> impl Strategy<Value = Probed> {
    prop_oneof![
        3 => "[a-l]".prop_map(|name| Probed::Tag(tag(&name))),
        1 => Just(Probed::Absent),
        1 => Just(Probed::Untagged),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => any_seen().prop_map(Read),
        6 => (0..3usize).prop_map(Start),
        12 => (0..3usize, any_seen()).prop_map(|(number, seen)| Answer(number, seen)),
        2 => any_access().prop_map(Begin),
        2 => any_outcome().prop_map(Settle),
        4 => Just(End),
        3 => (any_access(), any_outcome()).prop_map(|(access, outcome)| Write(access, outcome)),
        1 => any_probed().prop_map(Learn),
        1 => any_probed().prop_map(Probe),
        1 => Just(Change),
        1 => prop_oneof![4 => Just(HERE), 1 => Just(ELSEWHERE)].prop_map(Through),
        1 => Just(Evict),
    ]
}

fn check_shape(record: &Record) -> Result<(), TestCaseError> {
    prop_assert!(record.superseded.len() <= 8);
    let State::Current(set) = &record.state else { return Ok(()) };
    prop_assert!((1..=8).contains(&set.len()));
    for (index, known) in set.iter().enumerate() {
        prop_assert!(!record.superseded.contains(&known.tag.fingerprint()), "both current and superseded");
        prop_assert!(set[..index].iter().all(|other| other.variant != known.variant), "two tags of one variant");
        prop_assert!(known.variant.is_some() || set.len() == 1, "a tag without a variant beside others");
    }
    Ok(())
}

/// What a read's answer may do to a record.
fn check_answer(before: &Record, after: &Record, began: Stamp, recorded: bool) -> Result<(), TestCaseError> {
    if !before.is_idle() || began <= before.changed {
        prop_assert!(!recorded);
        prop_assert_eq!(format!("{before:?}"), format!("{after:?}"), "old news left a trace");
    } else if began < before.observed {
        match (&before.state, &after.state) {
            (State::Current(old), State::Current(new)) => prop_assert!(new.starts_with(old), "an older read replaced"),
            (old, new) => prop_assert_eq!(old, new),
        }
        prop_assert_eq!((before.changed, before.observed), (after.changed, after.observed));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_a_record_keeps_its_shape(steps in vec(any_step(), 0..60)) {
        let mut resource = Resource::new();
        for step in steps {
            let before = resource.clone();
            let recorded = resource.take(step.clone());
            check_shape(&resource.record)?;
            match &step {
                Read(_) => check_answer(&before.record, &resource.record, Stamp(before.clock + 1), recorded)?,
                Answer(number, _) => {
                    check_answer(&before.record, &resource.record, before.started[*number], recorded)?;
                }
                Start(_) | Begin(_) | Settle(_) | End | Write(..) | Learn(_) | Probe(_) | Change | Through(_) | Evict => {}
            }
            if resource.record.state == State::Absent && before.record.state != State::Absent {
                let may = matches!(
                    step,
                    Settle(Deleted) | Write(Access::Guarded, Deleted) | Learn(Probed::Absent) | Probe(Probed::Absent)
                );
                prop_assert!(may, "absent by {step:?}");
            }
            prop_assert!(resource.record.changed >= before.record.changed, "time went back");
            prop_assert!(resource.record.floor() >= before.record.floor(), "the floor sank");
        }
    }
}

/// A backend with one resource, whose every change passes the gateway, and what is under way to it.
struct World {
    resource: Resource,
    /// The content; `None`: absent. The tag of a representation follows from it, so that tags come back.
    content: Option<u8>,
    reads: [Option<OnItsWay>; 3],
    writes: [Option<Sent>; 2],
    /// Whether a write to another resource was applied to this one, and the gateway has not been told yet.
    untold: bool,
}

struct OnItsWay {
    began: Stamp,
    /// What the backend answered.
    seen: Option<Seen>,
}

struct Sent {
    access: Access,
    /// What a probe showed, which is on its way.
    probed: Option<Probed>,
    /// What the backend answered, once it applied the write.
    applied: Option<Outcome>,
}

#[derive(Debug, Clone)]
enum Event {
    ReadStarts(usize),
    BackendReads(usize, u64),
    ReadIsAnswered(usize),
    WriteBegins(usize, Access),
    BackendIsProbed(usize),
    ProbeIsAnswered(usize),
    BackendWrites(usize, Option<u8>, bool),
    WriteIsAnswered(usize, Outcome),
    ChangesByAnother(Option<u8>),
    AnotherIsAnswered,
    Evicted,
}

fn any_event() -> impl Strategy<Value = Event> {
    let content = || proptest::option::weighted(0.8, 0..3u8);
    let not_applied = prop_oneof![Just(NotApplied), Just(Contradicted), Just(InDoubt)];
    prop_oneof![
        4 => (0..3usize).prop_map(Event::ReadStarts),
        4 => (0..3usize, 0..4u64).prop_map(|(read, variant)| Event::BackendReads(read, variant)),
        4 => (0..3usize).prop_map(Event::ReadIsAnswered),
        2 => (0..2usize, any_access()).prop_map(|(write, access)| Event::WriteBegins(write, access)),
        1 => (0..2usize).prop_map(Event::BackendIsProbed),
        1 => (0..2usize).prop_map(Event::ProbeIsAnswered),
        2 => (0..2usize, content(), any::<bool>()).prop_map(|(write, to, tag)| Event::BackendWrites(write, to, tag)),
        2 => (0..2usize, not_applied).prop_map(|(write, outcome)| Event::WriteIsAnswered(write, outcome)),
        1 => content().prop_map(Event::ChangesByAnother),
        2 => Just(Event::AnotherIsAnswered),
        1 => Just(Event::Evicted),
    ]
}

fn tag_of(content: u8, variant: u64) -> EntityTag {
    tag(&format!("content-{content}-variant-{variant}"))
}

impl World {
    fn new() -> Self {
        Self {
            resource: Resource::new(),
            content: Some(0),
            reads: [const { None }; 3],
            writes: [const { None }; 2],
            untold: false,
        }
    }

    fn shown(&self, variant: u64) -> Seen {
        match (self.content, variant) {
            (None, _) => Seen::Missing,
            (Some(content), 0 | 1) => Seen::Tag(tag_of(content, variant), Some(variant)),
            (Some(content), 2) => Seen::Tag(tag_of(content, 0), None),
            (Some(_), _) => Seen::Untagged,
        }
    }

    fn happens(&mut self, event: Event) {
        let at = self.resource.stamp();
        match event {
            Event::ReadStarts(read) => self.reads[read] = Some(OnItsWay { began: at, seen: None }),
            Event::BackendReads(read, variant) => {
                let shown = self.shown(variant);
                if let Some(read) = &mut self.reads[read] {
                    read.seen = Some(shown);
                }
            }
            Event::ReadIsAnswered(read) => {
                if let Some(OnItsWay { began, seen: Some(seen) }) = self.reads[read].take() {
                    self.resource.record.observe(seen, began, at, self.resource.source);
                }
            }
            Event::WriteBegins(write, access) => {
                if self.writes[write].is_none() && self.resource.record.admits(access) {
                    self.resource.record.begin(access);
                    self.writes[write] = Some(Sent { access, probed: None, applied: None });
                }
            }
            Event::BackendIsProbed(write) => {
                let probed = self.content.map_or(Probed::Absent, |content| Probed::Tag(tag_of(content, 0)));
                if let Some(Sent { access: Access::Guarded, probed: slot, applied: None }) = &mut self.writes[write] {
                    *slot = Some(probed);
                }
            }
            Event::ProbeIsAnswered(write) => {
                if let Some(probed) = self.writes[write].as_mut().and_then(|write| write.probed.take()) {
                    // One that was overtaken teaches nothing, and nothing is judged here.
                    let _ = self.resource.record.learn(probed, at, self.resource.source);
                }
            }
            Event::BackendWrites(write, to, tagged) => self.backend_writes(write, to, tagged),
            Event::WriteIsAnswered(write, if_not_applied) => {
                if let Some(write) = self.writes[write].take() {
                    let outcome = write.applied.filter(|_| if_not_applied != InDoubt).unwrap_or(if_not_applied);
                    self.resource.record.settle(outcome, at, self.resource.source);
                    self.resource.record.end();
                }
            }
            Event::ChangesByAnother(to) => (self.content, self.untold) = (to, true),
            Event::AnotherIsAnswered => {
                if mem::take(&mut self.untold) {
                    self.resource.record.change(at);
                }
            }
            Event::Evicted => {
                if self.resource.record.is_idle() {
                    self.resource.record = Record::new(self.resource.record.floor());
                }
            }
        }
    }

    fn backend_writes(&mut self, write: usize, to: Option<u8>, tagged: bool) {
        if let Some(write @ Sent { applied: None, .. }) = &mut self.writes[write] {
            write.probed = None;
            write.applied = Some(match to {
                Some(content) => Committed(tagged.then(|| tag_of(content, 0))),
                None => Deleted,
            });
            self.content = to;
        }
    }

    /// Whether what is known is so, where every change has been told.
    fn check(&self) -> Result<(), TestCaseError> {
        if self.untold || self.writes.iter().flatten().any(|write| write.applied.is_some()) {
            return Ok(());
        }
        match self.resource.record.view(viewer(HERE, 0), None).state {
            State::Unknown => {}
            State::Absent => prop_assert_eq!(self.content, None),
            State::Current(set) => {
                for known in set {
                    let real = self.content.is_some_and(|c| (0..2).any(|variant| tag_of(c, variant) == known.tag));
                    prop_assert!(real, "{:?} is taken for current, and the content is {:?}", known, self.content);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_known_is_true_as_long_as_every_change_passes(events in vec(any_event(), 0..80)) {
        let mut world = World::new();
        for event in events {
            world.happens(event);
            world.check()?;
        }
    }
}

/// What is seen; by whom; when that read began; whether it is a superseded tag that came back to another caller.
#[test]
fn a_tag_that_comes_back_with_another_callers_read_is_a_flip() {
    let by = |caller| Source { spelling: 0, caller, now: 0 };
    let seen = |text: &str| Seen::Tag(EntityTag::parse(text.as_bytes()).expect("a tag"), Some(1));
    let mut record = Record::default();
    assert!(record.observe(seen("\"a\""), Stamp(1), Stamp(2), by(1)));
    assert!(record.observe(seen("\"b\""), Stamp(3), Stamp(4), by(2)));
    for (rule, text, caller, began, flips) in [
        ("it was superseded by another caller's read", "\"a\"", 1, 5, true),
        ("whoever of the others sees it", "\"a\"", 3, 5, true),
        ("the same caller sees it come back: a replica that lags", "\"a\"", 2, 5, false),
        ("it is current", "\"b\"", 1, 5, false),
        ("it is new", "\"c\"", 1, 5, false),
        ("the read began before the change", "\"a\"", 1, 4, false),
        ("and before a later read", "\"a\"", 1, 3, false),
    ] {
        assert_eq!(record.is_flipped_by(&seen(text), Stamp(began), by(caller)), flips, "{rule}");
    }
    let elsewhere = Source { spelling: 9, ..by(1) };
    assert!(!record.is_flipped_by(&seen("\"a\""), Stamp(5), elsewhere), "another spelling may be another resource");
    assert!(!record.is_flipped_by(&Seen::Missing, Stamp(5), by(1)));
    record.begin(Access::Guarded);
    assert!(!record.is_flipped_by(&seen("\"a\""), Stamp(5), by(1)), "a write is under way");
    record.end();
    record.settle(Outcome::InDoubt, Stamp(6), by(1));
    assert!(!record.is_flipped_by(&seen("\"a\""), Stamp(7), by(1)), "nothing is current");
}
