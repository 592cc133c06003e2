//! Header lines -> what the client demands.
//!
//! The input's lines are header lines: the first byte of each chooses the field, the rest is the value. They are read by
//! `Demands::parse` and by a reference that works the other way round: it joins the lines as RFC 9110 §5.3 says, cuts the
//! result at the commas outside quotes, and holds each member against the grammar of §8.8.3. The two must agree on what
//! is refused, for which field, and on every tag. Dates are not read a second time here; that is `httpdate`'s work.

#![no_main]

use http::{
    HeaderName,
    header::{IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE},
};
use httpdate::HttpDate;
use ifmatch::core::{
    etag::EntityTag,
    fields::Fields,
    policy::Comparison,
    precondition::{Demands, Tags, Why},
    value::{FieldValue, Value},
};
use libfuzzer_sys::fuzz_target;

/// What the first byte of a line leaves when it is divided by three: 2 for `M`.
const FIRST_N: u8 = b'N' % 3;
const FIRST_U: u8 = b'U' % 3;
/// As many tags are compared with each other.
const COMPARED: usize = 8;

fuzz_target!(|input: &[u8]| {
    let headers = headers(input);
    let expected = [IF_MATCH, IF_NONE_MATCH].map(|field| reference(&headers, &field));
    match Demands::parse(&headers) {
        Ok(demands) => {
            let [if_match, if_none_match] = &expected;
            assert_agree(if_match, demands.if_match.as_ref());
            assert_agree(if_none_match, demands.if_none_match.as_ref());
            assert_eq!(demands.if_match.is_some(), headers.contains_key(IF_MATCH), "present and read as absent");
            assert_eq!(demands.if_none_match.is_some(), headers.contains_key(IF_NONE_MATCH), "present, read as absent");
            assert_date(&headers, &demands);
            assert_reads_back(&demands);
            assert_more_lines(&headers, &demands);
            assert_comparisons(&demands);
        }
        Err(malformed) => {
            let at_fault = if expected[0].is_err() { (IF_MATCH, &expected[0]) } else { (IF_NONE_MATCH, &expected[1]) };
            assert_eq!(malformed.field, at_fault.0);
            let Err(refusal) = at_fault.1 else { panic!("{malformed}: refused, and the reference reads {at_fault:?}") };
            assert_eq!(malformed.why == Why::Empty, *refusal == Refusal::Empty, "{malformed}: {refusal:?}");
            assert!(!malformed.to_string().is_empty());
        }
    }
});

/// `M…` is a line of If-Match, `N…` of If-None-Match and `U…` of If-Unmodified-Since; any other byte means one of them
/// too. A line feed can't stand in a field value, so that it costs nothing to part the lines with it.
fn headers(input: &[u8]) -> Fields {
    let mut headers = Fields::new();
    for line in input.split(|byte| *byte == b'\n') {
        let Some((first, value)) = line.split_first() else { continue };
        let Ok(value) = FieldValue::from_bytes(value) else { continue };
        let field = match first % 3 {
            FIRST_N => IF_NONE_MATCH,
            FIRST_U => IF_UNMODIFIED_SINCE,
            _ => IF_MATCH,
        };
        headers.append(field, value);
    }
    headers
}

// The reference. ------------------------------------------------------------------------------------------------------

/// What the reference reads: the members as they are written, `*` among them.
type Members = Vec<Vec<u8>>;

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// Not one member.
    Empty,
    /// A member is no tag, or `*` does not stand alone.
    Member,
}

/// `None`: the field is absent.
fn reference(headers: &Fields, field: &HeaderName) -> Result<Option<Members>, Refusal> {
    let lines: Vec<&[u8]> = headers.get_all(field).map(Value::as_bytes).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let mut members = cut_at_commas(&lines.join(&b", "[..]));
    members.retain(|member| !member.is_empty());
    if members.is_empty() {
        return Err(Refusal::Empty);
    }
    let star = members == [b"*"];
    (star || members.iter().all(|member| is_entity_tag(member))).then_some(Some(members)).ok_or(Refusal::Member)
}

/// The members of a list, without the white space around them (RFC 9110 §5.6.1, §5.6.3).
fn cut_at_commas(list: &[u8]) -> Members {
    let mut members = vec![Vec::new()];
    let mut quoted = false;
    for byte in list {
        quoted ^= *byte == b'"';
        if *byte == b',' && !quoted {
            members.push(Vec::new());
        } else if let Some(member) = members.last_mut() {
            member.push(*byte);
        }
    }
    let is_space = |byte: &u8| *byte == b' ' || *byte == b'\t';
    for member in &mut members {
        let after = member.iter().rposition(|byte| !is_space(byte)).map_or(0, |last| last + 1);
        member.truncate(after);
        let before = member.iter().take_while(|byte| is_space(byte)).count();
        member.drain(..before);
    }
    members
}

/// `entity-tag = [ %s"W/" ] DQUOTE *etagc DQUOTE` (RFC 9110 §8.8.3).
fn is_entity_tag(member: &[u8]) -> bool {
    let opaque_tag = if member.starts_with(b"W/") { &member[2..] } else { member };
    let inner = opaque_tag.len().checked_sub(1).and_then(|last| opaque_tag.get(1..last));
    let etagc = |byte: &u8| *byte > b' ' && *byte != b'"' && *byte != 0x7F;
    opaque_tag.first() == Some(&b'"')
        && opaque_tag.last() == Some(&b'"')
        && inner.is_some_and(|inner| inner.iter().all(etagc))
}

// What must hold. -----------------------------------------------------------------------------------------------------

fn assert_agree(reference: &Result<Option<Members>, Refusal>, read: Option<&Tags>) {
    let read: Option<Members> = read.map(|tags| match tags {
        Tags::Any => vec![b"*".to_vec()],
        Tags::OneOf(tags) => tags.iter().map(EntityTag::to_bytes).collect(),
    });
    assert_eq!(reference.as_ref(), Ok(&read));
}

/// A date is demanded only where one line gives one, and nothing goes before it. One in the preferred form is read as
/// it is written.
fn assert_date(headers: &Fields, demands: &Demands) {
    let lines: Vec<Value<'_>> = headers.get_all(IF_UNMODIFIED_SINCE).collect();
    let Some(date) = demands.if_unmodified_since else { return };
    assert!(demands.if_match.is_none() && lines.len() == 1 && !demands.is_empty());
    let written = lines[0].as_bytes().trim_ascii();
    if written.len() == 29 {
        assert_eq!(date.to_string().as_bytes(), written);
    }
    assert_eq!(date.to_string().parse::<HttpDate>().ok(), Some(date));
}

/// What was read, printed as one line and as several, is read as the same.
fn assert_reads_back(demands: &Demands) {
    let mut one_line = Fields::new();
    let mut several = Fields::new();
    for (field, tags) in [(IF_MATCH, &demands.if_match), (IF_NONE_MATCH, &demands.if_none_match)] {
        let Some(tags) = tags else { continue };
        let printed: Vec<FieldValue> = match tags {
            Tags::Any => vec![FieldValue::from_static("*")],
            Tags::OneOf(tags) => tags.iter().map(EntityTag::to_header_value).collect(),
        };
        assert!(!printed.is_empty(), "a list without a tag");
        let list = printed.iter().map(FieldValue::as_bytes).collect::<Vec<_>>().join(&b","[..]);
        one_line.insert(&field, FieldValue::from_bytes(&list).expect("a list of field values is one"));
        for value in printed {
            several.append(&field, value);
        }
    }
    if let Some(date) = demands.if_unmodified_since {
        let date = FieldValue::try_from(date.to_string()).expect("a date is a field value");
        one_line.insert(IF_UNMODIFIED_SINCE, date.clone());
        several.insert(IF_UNMODIFIED_SINCE, date);
    }
    assert_eq!(Demands::parse(&one_line).as_ref(), Ok(demands));
    assert_eq!(Demands::parse(&several).as_ref(), Ok(demands));
}

/// A line of empty members changes nothing; a further `*` is always refused.
fn assert_more_lines(headers: &Fields, demands: &Demands) {
    for field in [IF_MATCH, IF_NONE_MATCH] {
        if !headers.contains_key(&field) {
            continue;
        }
        let mut more = headers.clone();
        more.append(&field, FieldValue::from_static("\t, ,"));
        assert_eq!(Demands::parse(&more).as_ref(), Ok(demands));
        more.append(&field, FieldValue::from_static("*"));
        let refused = Demands::parse(&more).expect_err("* beside something else");
        assert_eq!((refused.field, refused.why), (field, Why::StarInList));
    }
}

fn assert_comparisons(demands: &Demands) {
    let tags: Vec<&EntityTag> = [&demands.if_match, &demands.if_none_match]
        .into_iter()
        .flatten()
        .flat_map(|tags| match tags {
            Tags::Any => &[],
            Tags::OneOf(tags) => tags.as_slice(),
        })
        .take(COMPARED)
        .collect();
    for a in &tags {
        assert!(a.weak_eq(a) && a.strong_eq(a) != a.is_weak());
        assert_eq!(EntityTag::parse(&a.to_bytes()).as_ref(), Ok(*a));
        assert_eq!(a.to_bytes().len(), a.opaque_len() + if a.is_weak() { 4 } else { 2 });
        tags.iter().for_each(|b| assert_pair(a, b));
    }
}

fn assert_pair(a: &EntityTag, b: &EntityTag) {
    use Comparison::{Strong, Weak};
    assert!(!a.strong_eq(b) || a.weak_eq(b), "strong equality implies weak");
    assert_eq!(a.strong_eq(b), a == b && !a.is_weak());
    assert_eq!(a == b, a.weak_eq(b) && a.is_weak() == b.is_weak());
    assert_eq!(a.fingerprint() == b.fingerprint(), a == b);
    assert_eq!(a.matches(b, Strong, false), a.strong_eq(b));
    assert_eq!(a.matches(b, Weak, false), a.weak_eq(b));
    for suffixes in [false, true] {
        for comparison in [Strong, Weak] {
            assert_eq!(a.matches(b, comparison, suffixes), b.matches(a, comparison, suffixes), "not symmetric");
            assert!(!a.matches(b, comparison, false) || a.matches(b, comparison, suffixes), "suffixes only add");
        }
        assert!(!a.matches(b, Strong, suffixes) || a.matches(b, Weak, suffixes), "a strong match is a weak one");
        let strong = !a.is_weak() && !b.is_weak();
        assert_eq!(a.matches(b, Strong, suffixes), strong && a.matches(b, Weak, suffixes));
    }
}
