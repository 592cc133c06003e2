//! A row for each line of the design's section 5 and for each sentence of RFC 9110 §13.1.1, §13.1.2, §13.1.4 and §13.2.2
//! that speaks of writes; then what must hold of every verdict.

use http::HeaderName;
use proptest::{collection::vec, prelude::*};

use super::{
    super::{
        etag::EntityTag,
        record::{Access, Outcome, Probed, Record, Seen, Source, Stamp},
    },
    *,
};
use crate::core::{fields::Fields, value::FieldValue};

const FORWARD: Verdict = Verdict::Forward;
const PROBE: Verdict = Verdict::Probe;
const STALE: Verdict = Verdict::Refuse(Refusal::Stale);
const EXISTS: Verdict = Verdict::Refuse(Refusal::Exists);
const UNVERIFIABLE: Verdict = Verdict::Refuse(Refusal::Unverifiable);
const MISSING: Verdict = Verdict::Refuse(Refusal::MissingPrecondition);

const ALL_VERIFY: [Verify; 4] = [Verify::Never, Verify::Unknown, Verify::Mismatch, Verify::Always];

const BEFORE: &str = "Sat, 29 Oct 1994 19:43:30 GMT";
const MODIFIED: &str = "Sat, 29 Oct 1994 19:43:31 GMT";
const AFTER: &str = "Sat, 29 Oct 1994 19:43:32 GMT";

const SOURCE: Source = Source { spelling: 0, caller: 0, now: 0 };

/// What a probe showed.
const GONE: Probe = Probe { exists: false, last_modified: None };
const UNDATED: Probe = Probe { exists: true, last_modified: None };

fn dated() -> Probe {
    Probe { exists: true, last_modified: MODIFIED.parse().ok() }
}

fn tag(text: &str) -> EntityTag {
    EntityTag::parse(text.as_bytes()).expect("a tag")
}

fn unknown() -> Record {
    Record::default()
}

fn absent() -> Record {
    let mut record = Record::default();
    assert!(record.learn(Probed::Absent, Stamp(1), SOURCE));
    record
}

/// These tags are current, each for another representation.
fn current(tags: &[&str]) -> Record {
    let mut record = Record::default();
    for (variant, text) in (1..).zip(tags) {
        assert!(record.observe(Seen::Tag(tag(text), Some(variant)), Stamp(variant), Stamp(variant), SOURCE));
    }
    record
}

/// `"old"` is superseded, and `"new"` current.
fn superseded() -> Record {
    let mut record = current(&["\"old\""]);
    record.begin(Access::Guarded);
    record.settle(Outcome::Committed(Some(tag("\"new\""))), Stamp(9), SOURCE);
    record.end();
    record
}

/// The demands of a request with these fields, written as `If-Match: "a" & If-None-Match: *`. Dates go by their names.
fn demands(fields: &str) -> Demands {
    let mut headers = Fields::new();
    for field in fields.split(" & ").filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once(": ").expect("a field");
        let value = match value {
            "BEFORE" => BEFORE,
            "MODIFIED" => MODIFIED,
            "AFTER" => AFTER,
            value => value,
        };
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a field name");
        headers.append(name, FieldValue::try_from(value).expect("a field value"));
    }
    let if_dav = Demands::parse_if(&headers, |reference| reference == b"/it").expect("well-formed");
    Demands { if_dav, ..Demands::parse(&headers).expect("well-formed") }
}

fn with(verify: Verify) -> Policy {
    Policy { verify, ..Policy::default() }
}

fn verdict(policy: &Policy, record: &Record, fields: &str, probe: Option<Probe>) -> Verdict {
    judge(policy, &demands(fields), true, record.view(SOURCE, None), probe)
}

/// The rule; what is known; the request's fields; the verdicts where `verify` is never, unknown, mismatch and always.
type Row = (&'static str, Record, &'static str, [Verdict; 4]);

fn check(rows: Vec<Row>) {
    for (rule, record, fields, verdicts) in rows {
        for (verify, expected) in ALL_VERIFY.into_iter().zip(verdicts) {
            assert_eq!(verdict(&with(verify), &record, fields, None), expected, "{rule}: {fields}, {verify:?}");
        }
    }
}

/// As [`Row`], with what the probe showed. The verdict is the same whatever `verify` says.
type ProbedRow = (&'static str, Record, Probe, &'static str, Verdict);

fn check_probed(rows: Vec<ProbedRow>) {
    for (rule, record, probe, fields, expected) in rows {
        for verify in ALL_VERIFY {
            let found = verdict(&with(verify), &record, fields, Some(probe));
            assert_eq!(found, expected, "{rule}: {fields}, {verify:?}, {probe:?}");
        }
    }
}

/// The last row of the design's section 5, with `missing = "warn"`: who is asked for a precondition, and whether a write
/// without one is refused. What it has to say of a write is not here: nothing is decided by it.
#[test]
fn a_precondition_that_is_missing() {
    for (missing, asked, expected) in [
        (Missing::Allow, true, FORWARD),
        (Missing::Allow, false, FORWARD),
        (Missing::Warn, true, FORWARD),
        (Missing::Warn, false, FORWARD),
        (Missing::Require, true, MISSING),
        // A method that is not guarded, or a client that is exempt.
        (Missing::Require, false, FORWARD),
    ] {
        for (record, verify) in [unknown(), absent(), current(&["\"a\""])].into_iter().zip(ALL_VERIFY) {
            let policy = Policy { missing, ..with(verify) };
            let found = judge(&policy, &demands(""), asked, record.view(SOURCE, None), None);
            assert_eq!(found, expected, "{missing:?}, {asked}");
            // One that is there is judged, whoever sends it.
            let stale = judge(&policy, &demands("If-Match: \"x\""), asked, absent().view(SOURCE, None), None);
            assert_eq!(stale, if verify == Verify::Always { PROBE } else { STALE }, "{missing:?}, {asked}");
        }
    }
}

#[test]
fn what_stands_in_two_fields_must_hold_in_both() {
    let both = |one: &str, other: &str| {
        let tags = |value: &str| demands(&format!("If-Match: {value}")).if_match;
        Demands { and_match: tags(other), ..demands(&format!("If-Match: {one}")) }
    };
    for (record, one, other, expected) in [
        (current(&["\"a\""]), "\"a\"", "\"a\"", FORWARD),
        (current(&["\"a\"", "\"b\""]), "\"a\"", "\"b\"", FORWARD),
        (current(&["\"a\""]), "\"a-gzip\"", "\"a\"", FORWARD),
        (current(&["\"a\""]), "*", "\"a\"", FORWARD),
        (current(&["\"a\""]), "\"a\"", "*", FORWARD),
        (current(&["\"a\""]), "\"a\"", "\"x\"", STALE),
        (current(&["\"a\""]), "\"x\"", "\"a\"", STALE),
        (current(&["\"a\""]), "W/\"a\"", "\"a\"", STALE),
        (absent(), "*", "*", STALE),
        (unknown(), "\"a\"", "\"a\"", PROBE),
    ] {
        let found = judge(&Policy::default(), &both(one, other), true, record.view(SOURCE, None), None);
        assert_eq!(found, expected, "{one} and {other}");
    }
    let either = Demands { if_none_match: Some(Tags::Any), ..both("\"a\"", "\"a\"") };
    let found = judge(&Policy::default(), &either, true, current(&["\"a\""]).view(SOURCE, None), None);
    assert_eq!(found, EXISTS);
}

/// The design's section 5, its first four rows.
#[test]
fn if_match_by_what_is_known() {
    let sure = [FORWARD, FORWARD, FORWARD, PROBE];
    let mismatch = [STALE, STALE, PROBE, PROBE];
    let mismatch_or_strong = [STALE, PROBE, PROBE, PROBE];
    let conflict = [STALE, STALE, STALE, PROBE];
    let ask = [UNVERIFIABLE, PROBE, PROBE, PROBE];
    check(vec![
        ("Current: one of the tags matches", current(&["\"a\""]), "If-Match: \"a\"", sure),
        ("Current: one of the tags matches", current(&["\"a\"", "\"b\""]), "If-Match: \"b\"", sure),
        ("Current: one of the tags matches", current(&["\"a\""]), "If-Match: \"x\", \"a\"", sure),
        ("Current: *", current(&["\"a\""]), "If-Match: *", sure),
        ("Current: none matches", current(&["\"a\""]), "If-Match: \"x\"", mismatch),
        ("Current: none matches", current(&["\"a\"", "\"b\""]), "If-Match: \"x\", \"y\"", mismatch),
        ("Current: none matches, superseded", superseded(), "If-Match: \"old\"", conflict),
        ("Current: none matches, one superseded", superseded(), "If-Match: \"old\", \"x\"", mismatch),
        ("Current: one superseded, one matches", superseded(), "If-Match: \"old\", \"new\"", sure),
        ("Current: a weak tag may be strong by now", current(&["W/\"a\""]), "If-Match: \"a\"", mismatch_or_strong),
        ("Current: with a mark", current(&["W/\"a\""]), "If-Match: \"x\", \"a-gzip\"", mismatch_or_strong),
        ("Current: another weak tag", current(&["W/\"a\""]), "If-Match: \"x\"", mismatch),
        ("Current: a weak tag never matches", current(&["W/\"a\""]), "If-Match: W/\"a\"", mismatch),
        ("Current: a strong tag becomes no weak one", current(&["\"a\""]), "If-Match: W/\"a\"", mismatch),
        ("Absent: a tag", absent(), "If-Match: \"a\"", conflict),
        ("Absent: *", absent(), "If-Match: *", conflict),
        ("Unknown: a tag", unknown(), "If-Match: \"a\"", ask),
        ("Unknown: *", unknown(), "If-Match: *", ask),
    ]);
}

#[test]
fn if_match_by_what_a_probe_showed() {
    let one = || current(&["\"a\""]);
    check_probed(vec![
        ("Current: one of the tags matches", one(), UNDATED, "If-Match: \"a\"", FORWARD),
        ("Current: *", one(), UNDATED, "If-Match: *", FORWARD),
        ("Current: none matches", one(), UNDATED, "If-Match: \"x\"", STALE),
        ("Current: none matches, superseded", superseded(), UNDATED, "If-Match: \"old\"", STALE),
        ("Current: still a weak tag", current(&["W/\"a\""]), UNDATED, "If-Match: \"a\"", STALE),
        ("Absent: a tag", absent(), GONE, "If-Match: \"a\"", STALE),
        ("Absent: *", absent(), GONE, "If-Match: *", STALE),
        ("a probe that can't tell: no tag", unknown(), UNDATED, "If-Match: \"a\"", UNVERIFIABLE),
        ("a probe that can't tell: no tag, but a date", unknown(), dated(), "If-Match: \"a\"", UNVERIFIABLE),
        ("a probe without a tag tells that it is there", unknown(), UNDATED, "If-Match: *", FORWARD),
        ("what the probe showed was overtaken", unknown(), GONE, "If-Match: *", UNVERIFIABLE),
        ("what the probe showed was overtaken", unknown(), GONE, "If-Match: \"a\"", UNVERIFIABLE),
    ]);
}

/// The design's section 5, its fifth and sixth rows.
#[test]
fn if_none_match_by_what_is_known() {
    let exists = [EXISTS, EXISTS, EXISTS, PROBE];
    let forward = [FORWARD, FORWARD, FORWARD, PROBE];
    let ask = [UNVERIFIABLE, PROBE, PROBE, PROBE];
    check(vec![
        ("*, Current: exists", current(&["\"a\""]), "If-None-Match: *", exists),
        ("*, Absent: forward", absent(), "If-None-Match: *", forward),
        ("*, Unknown: probe", unknown(), "If-None-Match: *", ask),
        ("a listed tag is current", current(&["\"a\"", "\"b\""]), "If-None-Match: \"x\", \"b\"", exists),
        ("a listed tag is current (weakly)", current(&["\"a\""]), "If-None-Match: W/\"a\"", exists),
        ("a listed tag is current (weakly)", current(&["W/\"a\""]), "If-None-Match: \"a\"", exists),
        ("no listed tag is current", current(&["\"a\""]), "If-None-Match: \"x\", \"y\"", forward),
        ("no listed tag is current: superseded", superseded(), "If-None-Match: \"old\"", forward),
        ("no listed tag is current: Absent", absent(), "If-None-Match: \"a\"", forward),
        ("whether a listed tag is current can't be told", unknown(), "If-None-Match: \"a\"", ask),
    ]);
}

#[test]
fn if_none_match_by_what_a_probe_showed() {
    check_probed(vec![
        ("*, Current: exists", current(&["\"a\""]), UNDATED, "If-None-Match: *", EXISTS),
        ("*, Absent: forward", absent(), GONE, "If-None-Match: *", FORWARD),
        ("*, there without a tag", unknown(), UNDATED, "If-None-Match: *", EXISTS),
        ("*, overtaken", unknown(), GONE, "If-None-Match: *", UNVERIFIABLE),
        ("a listed tag is current", current(&["\"a\""]), UNDATED, "If-None-Match: W/\"a\"", EXISTS),
        ("no listed tag is current", current(&["\"a\""]), UNDATED, "If-None-Match: \"x\"", FORWARD),
        ("no listed tag is current: Absent", absent(), GONE, "If-None-Match: \"a\"", FORWARD),
        ("there without a tag", unknown(), UNDATED, "If-None-Match: \"a\"", UNVERIFIABLE),
        ("overtaken", unknown(), GONE, "If-None-Match: \"a\"", UNVERIFIABLE),
    ]);
}

/// The design's section 5, its seventh row.
#[test]
fn if_unmodified_since_is_judged_on_a_probe() {
    let ask = [UNVERIFIABLE, PROBE, PROBE, PROBE];
    let empty = [FORWARD; 4];
    check(vec![
        ("Current", current(&["\"a\""]), "If-Unmodified-Since: AFTER", ask),
        ("Absent", absent(), "If-Unmodified-Since: AFTER", ask),
        ("Unknown", unknown(), "If-Unmodified-Since: AFTER", ask),
        ("ignored where invalid", unknown(), "If-Unmodified-Since: yesterday", empty),
    ]);
    check_probed(vec![
        ("modified before", current(&["\"a\""]), dated(), "If-Unmodified-Since: AFTER", FORWARD),
        ("modified then", current(&["\"a\""]), dated(), "If-Unmodified-Since: MODIFIED", FORWARD),
        ("modified after", current(&["\"a\""]), dated(), "If-Unmodified-Since: BEFORE", STALE),
        ("modified before, without a tag", unknown(), dated(), "If-Unmodified-Since: AFTER", FORWARD),
        ("modified after, without a tag", unknown(), dated(), "If-Unmodified-Since: BEFORE", STALE),
        ("there without a date", current(&["\"a\""]), UNDATED, "If-Unmodified-Since: AFTER", UNVERIFIABLE),
        ("gone", absent(), GONE, "If-Unmodified-Since: AFTER", STALE),
    ]);
}

/// The design's section 5, its last row. No probe is sent for it, and none changes it.
#[test]
fn a_write_without_a_precondition() {
    // The route's rule; whether it guards the method; the request's fields; the verdict.
    let rows = [
        (Missing::Allow, true, "", FORWARD),
        (Missing::Allow, false, "", FORWARD),
        (Missing::Require, true, "", MISSING),
        (Missing::Require, false, "", FORWARD),
        (Missing::Require, true, "If-Unmodified-Since: yesterday", MISSING),
        (Missing::Require, true, "If-Match: \"a\"", FORWARD),
        (Missing::Require, true, "If-None-Match: \"x\"", FORWARD),
        (Missing::Require, false, "If-Match: \"x\"", STALE),
        (Missing::Allow, false, "If-None-Match: *", EXISTS),
    ];
    for (missing, guarded_method, fields, expected) in rows {
        let record = current(&["\"a\""]);
        for verify in [Verify::Never, Verify::Unknown] {
            for probe in [None, Some(UNDATED)] {
                let policy = Policy { missing, verify, ..Policy::default() };
                let found = judge(&policy, &demands(fields), guarded_method, record.view(SOURCE, None), probe);
                assert_eq!(found, expected, "{missing:?} {guarded_method} {fields} {probe:?}");
            }
        }
    }
    for record in [unknown(), absent(), current(&["\"a\""])] {
        for verify in ALL_VERIFY {
            assert_eq!(verdict(&with(verify), &record, "", None), FORWARD, "{verify:?}");
            let policy = Policy { missing: Missing::Require, verify, ..Policy::default() };
            assert_eq!(verdict(&policy, &record, "", None), MISSING, "{verify:?}");
        }
    }
}

#[test]
fn rfc_9110_13_1_1_if_match() {
    let ab = || current(&["\"a\"", "\"b\""]);
    check_probed(vec![
        ("\"*\": true if there is a current representation", ab(), UNDATED, "If-Match: *", FORWARD),
        ("\"*\": false if there is none", absent(), GONE, "If-Match: *", STALE),
        ("a list: true if any of the tags matches", ab(), UNDATED, "If-Match: \"x\", \"b\"", FORWARD),
        ("several lines are one list (§5.3)", ab(), UNDATED, "If-Match: \"x\" & If-Match: \"b\"", FORWARD),
        ("otherwise, the condition is false", ab(), UNDATED, "If-Match: \"x\", \"y\"", STALE),
        ("a list: no representation has no tag", absent(), GONE, "If-Match: \"a\", \"b\"", STALE),
        ("MUST use the strong comparison function", ab(), UNDATED, "If-Match: W/\"a\"", STALE),
        ("of two weak ones, too", current(&["W/\"a\""]), UNDATED, "If-Match: W/\"a\"", STALE),
        ("a strong one never matches a weak one", current(&["W/\"a\""]), UNDATED, "If-Match: \"a\"", STALE),
        ("tags are opaque and case-sensitive", ab(), UNDATED, "If-Match: \"A\"", STALE),
        ("a comma may stand in a tag", current(&["\"a,b\""]), UNDATED, "If-Match: \"a,b\"", FORWARD),
        ("and does not part it", current(&["\"a\""]), UNDATED, "If-Match: \"a,b\"", STALE),
    ]);
}

#[test]
fn rfc_9110_13_1_2_if_none_match() {
    let ab = || current(&["\"a\"", "\"b\""]);
    check_probed(vec![
        ("\"*\": false if there is a current representation", ab(), UNDATED, "If-None-Match: *", EXISTS),
        ("\"*\": true if there is none", absent(), GONE, "If-None-Match: *", FORWARD),
        ("a list: false if one of the tags matches", ab(), UNDATED, "If-None-Match: \"x\", \"b\"", EXISTS),
        ("otherwise, the condition is true", ab(), UNDATED, "If-None-Match: \"x\", \"y\"", FORWARD),
        ("a list: no representation has no tag", absent(), GONE, "If-None-Match: \"a\"", FORWARD),
        ("MUST use the weak comparison function", ab(), UNDATED, "If-None-Match: W/\"a\"", EXISTS),
        ("of a weak tag, too", current(&["W/\"a\""]), UNDATED, "If-None-Match: \"a\"", EXISTS),
        ("of two weak ones, too", current(&["W/\"a\""]), UNDATED, "If-None-Match: W/\"a\"", EXISTS),
    ]);
}

#[test]
fn rfc_9110_13_1_4_if_unmodified_since() {
    let one = || current(&["\"a\""]);
    check_probed(vec![
        (
            "MUST ignore it if the request contains If-Match",
            one(),
            dated(),
            "If-Match: \"a\" & If-Unmodified-Since: BEFORE",
            FORWARD,
        ),
        (
            "MUST ignore it if the request contains If-Match",
            one(),
            dated(),
            "If-Match: \"x\" & If-Unmodified-Since: AFTER",
            STALE,
        ),
        ("MUST ignore it if it is not a valid date", one(), dated(), "If-Unmodified-Since: 0", FORWARD),
        (
            "including a list of dates",
            one(),
            dated(),
            "If-Unmodified-Since: BEFORE & If-Unmodified-Since: BEFORE",
            FORWARD,
        ),
        ("true if last modified earlier", one(), dated(), "If-Unmodified-Since: AFTER", FORWARD),
        ("or then", one(), dated(), "If-Unmodified-Since: MODIFIED", FORWARD),
        ("otherwise, false", one(), dated(), "If-Unmodified-Since: BEFORE", STALE),
        (
            // The RFC ignores it here. Ignored, it would not protect whoever sent it.
            "no modification date is available",
            one(),
            UNDATED,
            "If-Unmodified-Since: AFTER",
            UNVERIFIABLE,
        ),
        (
            "the obsolete forms are dates (§5.6.7)",
            one(),
            dated(),
            "If-Unmodified-Since: Saturday, 29-Oct-94 19:43:30 GMT",
            STALE,
        ),
    ]);
}

/// Steps 1 to 3 and 6; the others are about GET.
#[test]
fn rfc_9110_13_2_2_precedence() {
    let one = || current(&["\"a\""]);
    check_probed(vec![
        ("1: If-Match is true, go on to 3: true", one(), UNDATED, "If-Match: \"a\" & If-None-Match: \"x\"", FORWARD),
        ("1: If-Match is true, go on to 3: false", one(), UNDATED, "If-Match: \"a\" & If-None-Match: \"a\"", EXISTS),
        ("1: If-Match is true, go on to 3: *", one(), UNDATED, "If-Match: * & If-None-Match: *", EXISTS),
        ("1: If-Match is false, 3 would be true", one(), UNDATED, "If-Match: \"x\" & If-None-Match: \"x\"", STALE),
        ("1: If-Match is false, 3 would be false", one(), UNDATED, "If-Match: \"x\" & If-None-Match: \"a\"", STALE),
        ("1: If-Match is false: there is nothing", absent(), GONE, "If-Match: * & If-None-Match: *", STALE),
        ("1 can't be told", unknown(), UNDATED, "If-Match: \"a\" & If-None-Match: *", UNVERIFIABLE),
        ("1 is true, 3 can't be told", unknown(), UNDATED, "If-Match: * & If-None-Match: \"a\"", UNVERIFIABLE),
        (
            "2: If-Unmodified-Since is true, go on to 3: true",
            one(),
            dated(),
            "If-Unmodified-Since: AFTER & If-None-Match: \"x\"",
            FORWARD,
        ),
        (
            "2: If-Unmodified-Since is true, go on to 3: false",
            one(),
            dated(),
            "If-Unmodified-Since: AFTER & If-None-Match: \"a\"",
            EXISTS,
        ),
        (
            "2: If-Unmodified-Since is false",
            one(),
            dated(),
            "If-Unmodified-Since: BEFORE & If-None-Match: \"x\"",
            STALE,
        ),
        ("3: If-None-Match alone, true", one(), UNDATED, "If-None-Match: \"x\"", FORWARD),
        ("3: If-None-Match alone, false", one(), UNDATED, "If-None-Match: \"a\"", EXISTS),
        ("6: otherwise, perform the method", one(), UNDATED, "", FORWARD),
    ]);
    check(vec![
        (
            "a sure conflict in 1 needs no probe for 3",
            superseded(),
            "If-Match: \"old\" & If-None-Match: *",
            [STALE, STALE, STALE, PROBE],
        ),
        (
            "2 needs a probe, whatever 3 says",
            one(),
            "If-Unmodified-Since: AFTER & If-None-Match: \"x\"",
            [UNVERIFIABLE, PROBE, PROBE, PROBE],
        ),
    ]);
}

/// RFC 4918 §10.4, as far as it can be judged here.
#[test]
fn webdavs_if() {
    let ab = || current(&["\"a\"", "\"b\""]);
    let sure = [FORWARD, FORWARD, FORWARD, PROBE];
    let mismatch = [STALE, STALE, PROBE, PROBE];
    let conflict = [STALE, STALE, STALE, PROBE];
    let ask = [UNVERIFIABLE, PROBE, PROBE, PROBE];
    check(vec![
        ("its tag is current", ab(), "if: ([\"a\"])", sure),
        ("one of two lists holds", ab(), "if: ([\"x\"]) ([\"b\"])", sure),
        ("a list about the target", ab(), "if: </it> ([\"a\"])", sure),
        ("a token may hold, and the tag does", ab(), "if: (<urn:uuid:1> [\"a\"])", sure),
        ("no list holds", ab(), "if: ([\"x\"]) ([\"y\"])", mismatch),
        ("a list holds only whole", ab(), "if: ([\"a\"] [\"x\"])", mismatch),
        ("a token does not help a tag", ab(), "if: (<urn:uuid:1> [\"x\"])", mismatch),
        ("the tag must not be current, and is", ab(), "if: (Not [\"a\"])", mismatch),
        ("the tag must not be current, and is, weakly", ab(), "if: (Not [W/\"a\"])", mismatch),
        ("the tag must not be current, and is not", ab(), "if: (Not [\"x\"])", sure),
        ("DAV:no-lock holds for nobody", ab(), "if: (<DAV:no-lock> [\"a\"])", mismatch),
        ("there is nothing", absent(), "if: ([\"a\"])", conflict),
        ("there is nothing, and so not this", absent(), "if: (Not [\"a\"])", sure),
        ("nothing is known", unknown(), "if: ([\"a\"])", ask),
        ("nothing is known of what must not be", unknown(), "if: (Not [\"a\"])", ask),
        ("If-Match holds, and this does not", ab(), "If-Match: \"a\" & if: ([\"x\"])", mismatch),
        ("this holds, and If-Match does not", ab(), "If-Match: \"x\" & if: ([\"a\"])", mismatch),
        ("both hold", ab(), "If-Match: \"a\" & if: ([\"b\"])", sure),
    ]);
    let strong_by_now = [STALE, PROBE, PROBE, PROBE];
    let weak = || current(&["W/\"a\""]);
    check(vec![
        ("a weak tag may be strong by now", weak(), "if: ([\"x\"]) (<urn:uuid:1> [\"a\"])", strong_by_now),
        ("but it helps no other tag", weak(), "if: ([\"a\"] [\"x\"])", mismatch),
        ("nor what must not be", weak(), "if: ([\"a\"] Not [\"a\"])", mismatch),
        ("nor what never holds", weak(), "if: (<DAV:no-lock> [\"a\"])", mismatch),
        ("a weak tag never matches", weak(), "if: ([W/\"a\"])", mismatch),
    ]);
    let nothing = [FORWARD; 4];
    check(vec![
        ("a token alone is the backend's to judge", ab(), "if: (<urn:uuid:1>)", nothing),
        ("another list may hold", ab(), "if: ([\"x\"]) (<urn:uuid:1>)", nothing),
        ("another resource's list may hold", ab(), "if: </other> ([\"x\"])", nothing),
    ]);
    check_probed(vec![
        ("there without a tag", unknown(), UNDATED, "if: ([\"a\"])", UNVERIFIABLE),
        ("there without a tag", unknown(), UNDATED, "if: (Not [\"a\"])", UNVERIFIABLE),
        ("a probe decides", ab(), UNDATED, "if: ([\"x\"])", STALE),
        ("If-None-Match comes first", ab(), UNDATED, "If-None-Match: * & if: ([\"x\"])", EXISTS),
        ("still a weak tag", weak(), UNDATED, "if: ([\"a\"])", STALE),
        ("a weak tag, compared strongly", current(&["W/\"a\""]), UNDATED, "if: ([W/\"a\"])", STALE),
    ]);
    let weak = Policy { comparison: Comparison::Weak, ..Policy::default() };
    assert_eq!(verdict(&weak, &current(&["W/\"a\""]), "if: ([\"a\"])", None), FORWARD);
    let required = Policy { missing: Missing::Require, ..Policy::default() };
    assert_eq!(verdict(&required, &ab(), "if: ([\"a\"])", None), FORWARD, "it is a precondition");
    assert_eq!(verdict(&required, &ab(), "if: (<urn:uuid:1>)", None), MISSING, "it says nothing of the state");
}

#[test]
fn tags_are_compared_as_the_route_says() {
    use Comparison::{Strong, Weak};
    // The current tag; that of the field; comparison; encoding suffixes; whether If-Match finds it; If-None-Match, which
    // compares weakly whatever the route says.
    let rows = [
        ("\"x\"", "\"x\"", Strong, false, true, true),
        ("\"x\"", "W/\"x\"", Strong, true, false, true),
        ("W/\"x\"", "\"x\"", Strong, true, false, true),
        ("W/\"x\"", "W/\"x\"", Strong, true, false, true),
        ("\"x\"", "W/\"x\"", Weak, false, true, true),
        ("W/\"x\"", "\"x\"", Weak, false, true, true),
        ("W/\"x\"", "W/\"x\"", Weak, false, true, true),
        ("W/\"x\"", "W/\"y\"", Weak, true, false, false),
        ("\"x\"", "\"x-gzip\"", Strong, true, true, true),
        ("\"x\"", "\"x-br\"", Strong, true, true, true),
        ("\"x\"", "\"x-zstd\"", Strong, true, true, true),
        ("\"x\"", "\"x-deflate\"", Strong, true, true, true),
        ("\"x\"", "\"x;gzip\"", Strong, true, true, true),
        ("\"x\"", "\"x--gzip\"", Strong, true, true, true),
        ("\"x-gzip\"", "\"x\"", Strong, true, true, true),
        ("\"x\"", "\"x-gzip\"", Strong, false, false, false),
        ("\"x\"", "W/\"x-gzip\"", Strong, true, false, true),
        ("\"x\"", "W/\"x-gzip\"", Weak, true, true, true),
        ("W/\"x\"", "\"x-gzip\"", Weak, false, false, false),
        ("\"x\"", "\"y-gzip\"", Weak, true, false, false),
        ("\"x\"", "\"x-identity\"", Weak, true, false, false),
    ];
    for (known, sent, comparison, encoding_suffixes, matches, matches_weakly) in rows {
        let policy = Policy { comparison, encoding_suffixes, ..Policy::default() };
        let row = format!("{known} {sent} {comparison:?} {encoding_suffixes}");
        let found = verdict(&policy, &current(&[known]), &format!("If-Match: {sent}"), None);
        // What was weak may be strong by now.
        let is_asked = matches_weakly && comparison == Strong && !sent.starts_with('W');
        let unmatched = if is_asked { PROBE } else { STALE };
        assert_eq!(found, if matches { FORWARD } else { unmatched }, "{row}");
        let found = verdict(&policy, &current(&[known]), &format!("If-None-Match: {sent}"), None);
        assert_eq!(found, if matches_weakly { EXISTS } else { FORWARD }, "{row}");
    }
}

fn any_tag() -> impl Strategy<Value = EntityTag> {
    "(W/)?\"[a-c](-gzip)?\"".prop_map(|text| tag(&text))
}

fn any_tags() -> impl Strategy<Value = Tags> {
    prop_oneof![1 => Just(Tags::Any), 3 => vec(any_tag(), 1..3).prop_map(Tags::OneOf)]
}

fn any_date() -> impl Strategy<Value = Option<HttpDate>> {
    proptest::option::of(
        prop_oneof![Just(BEFORE), Just(MODIFIED), Just(AFTER)].prop_map(|date| date.parse().expect("a date")),
    )
}

fn any_demands() -> impl Strategy<Value = Demands> {
    let tags = || proptest::option::of(any_tags());
    (tags(), tags(), any_date(), tags()).prop_map(|(if_match, if_none_match, if_unmodified_since, other)| {
        let and_match = other.filter(|_| if_match.is_some());
        Demands { if_match, if_none_match, if_unmodified_since, and_match, if_dav: None }
    })
}

fn any_record() -> impl Strategy<Value = Record> {
    let texts = vec("(W/)?\"[a-c](-gzip)?\"", 1..3);
    prop_oneof![
        Just(unknown()),
        Just(absent()),
        Just(superseded()),
        texts.prop_map(|texts| current(&texts.iter().map(String::as_str).collect::<Vec<_>>())),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let verify = proptest::sample::select(ALL_VERIFY.to_vec());
    let comparison = prop_oneof![Just(Comparison::Strong), Just(Comparison::Weak)];
    let missing = prop_oneof![Just(Missing::Allow), Just(Missing::Require)];
    (verify, comparison, missing, any::<bool>()).prop_map(|(verify, comparison, missing, encoding_suffixes)| Policy {
        verify,
        comparison,
        missing,
        encoding_suffixes,
        ..Policy::default()
    })
}

fn any_probe() -> impl Strategy<Value = Option<Probe>> {
    proptest::option::of(
        (any::<bool>(), any_date()).prop_map(|(exists, date)| Probe { exists, last_modified: date.filter(|_| exists) }),
    )
}

/// Whether one of the tags is current, said anew and without [`View`].
fn is_current(state: &State, tags: &[EntityTag], policy: &Policy) -> bool {
    let State::Current(set) = state else { return false };
    set.iter()
        .flat_map(|known| tags.iter().map(|tag| (&known.tag, tag)))
        .any(|(known, tag)| known.matches(tag, policy.comparison, policy.encoding_suffixes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_forwarded_is_certain(
        policy in any_policy(),
        demands in any_demands(),
        guarded_method: bool,
        record in any_record(),
        probe in any_probe(),
    ) {
        let view = record.view(SOURCE, None);
        let found = judge(&policy, &demands, guarded_method, view, probe);
        if probe.is_some() || policy.verify == Verify::Never {
            prop_assert_ne!(found, PROBE, "asked twice, or where it may not be asked");
        }
        prop_assert_eq!(
            found == MISSING,
            demands.is_empty() && guarded_method && policy.missing == Missing::Require
        );
        if found == FORWARD {
            for demanded in [&demands.if_match, &demands.and_match] {
                match demanded {
                    Some(Tags::OneOf(tags)) => prop_assert!(is_current(view.state, tags, &policy)),
                    Some(Tags::Any) => prop_assert!(
                        matches!(view.state, State::Current(_))
                            || *view.state == State::Unknown && probe.is_some_and(|probe| probe.exists)
                    ),
                    None => {}
                }
            }
            match &demands.if_none_match {
                Some(Tags::OneOf(tags)) => {
                    let weak = Policy { comparison: Comparison::Weak, ..policy.clone() };
                    prop_assert!(*view.state != State::Unknown && !is_current(view.state, tags, &weak));
                }
                Some(Tags::Any) => prop_assert_eq!(view.state, &State::Absent),
                None => {}
            }
            if let (None, Some(date)) = (&demands.if_match, demands.if_unmodified_since) {
                prop_assert!(probe.and_then(|probe| probe.last_modified).is_some_and(|modified| modified <= date));
            }
            if policy.verify == Verify::Always && !demands.is_empty() {
                prop_assert!(probe.is_some(), "not verified");
            }
        }
    }
}
