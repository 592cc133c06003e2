//! Which trace a request belongs to (W3C Trace Context).
//!
//! The gateway makes no span of its own. So a `traceparent` that can be read passes as it is, with its `tracestate`; one
//! that can't is dropped with it, and a new trace begun, as for a request without one. A trace that begins here says
//! *sampled*: to a tracer in the backend anything else means that somebody decided against recording, and most would then
//! record nothing of what comes through the gateway.

use std::{
    cell::Cell,
    fmt,
    hash::{BuildHasher, RandomState},
    str,
};

use http::HeaderName;

use crate::core::{
    fields::Fields,
    value::{FieldValue, Value},
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Where a trace id stands in a `traceparent`, and where the parent's follows.
const TRACE_ID: std::ops::Range<usize> = 3..35;
const PARENT_ID: std::ops::Range<usize> = 36..52;
/// The length of a `traceparent` of version 00. Later versions may be longer.
const LENGTH: usize = 55;

/// The trace that a request belongs to.
#[derive(Debug, Clone)]
pub struct Trace {
    parent: Parent,
    state: Vec<FieldValue>,
}

/// A `traceparent` that can be read.
#[derive(Debug, Clone)]
enum Parent {
    Given(FieldValue),
    Begun([u8; LENGTH]),
}

/// The 32 digits of a trace's id.
#[derive(Debug, Clone, Copy)]
pub struct TraceId<'a>(&'a str);

impl Trace {
    /// The trace that a request with these fields belongs to; a new one where they name none, or none that can be read.
    #[must_use]
    pub fn of(fields: &Fields) -> Self {
        let mut parents = fields.get_all(TRACEPARENT);
        match (parents.next(), parents.next()) {
            (Some(only), None) if is_valid(only.as_bytes()) => Self {
                parent: Parent::Given(only.into()),
                state: fields.get_all(TRACESTATE).map(FieldValue::from).collect(),
            },
            (None, _) | (Some(_), _) => Self::begin(),
        }
    }

    fn begin() -> Self {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        let [first, second, parent] = Numbers::draw();
        text[TRACE_ID.start..TRACE_ID.start + 16].copy_from_slice(&digits(first));
        text[TRACE_ID.start + 16..TRACE_ID.end].copy_from_slice(&digits(second));
        text[PARENT_ID].copy_from_slice(&digits(parent));
        Self { parent: Parent::Begun(text), state: Vec::new() }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TraceId<'_> {
        // Not all of it: what a later version adds may be any bytes.
        let parent = match &self.parent {
            Parent::Given(value) => value.as_bytes(),
            Parent::Begun(text) => text,
        };
        let digits = str::from_utf8(&parent[TRACE_ID]);
        TraceId(digits.expect("it was checked, or written here"))
    }

    /// Sets the fields of a request so.
    pub fn write(&self, fields: &mut Fields) {
        let parent = match &self.parent {
            Parent::Given(value) => value.as_value(),
            Parent::Begun(text) => Value::in_field(text),
        };
        fields.insert(TRACEPARENT, parent);
        fields.remove(TRACESTATE);
        for state in &self.state {
            fields.append(TRACESTATE, state);
        }
    }
}

impl TraceId<'_> {
    /// Its digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0
    }
}

impl fmt::Display for TraceId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Trace Context, section 3.2.
fn is_valid(parent: &[u8]) -> bool {
    let is_hex = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |bytes: &[u8]| is_hex(bytes) && bytes.iter().any(|byte| *byte != b'0');
    let Some((known, later)) = parent.split_at_checked(LENGTH) else { return false };
    let version = &known[..2];
    is_hex(version)
        && version != b"ff"
        && (later.is_empty() || version != b"00" && later.starts_with(b"-"))
        && [2, 35, 52].iter().all(|dash| known[*dash] == b'-')
        && is_id(&known[TRACE_ID])
        && is_id(&known[PARENT_ID])
        && is_hex(&known[53..])
}

/// The 16 digits of a number.
fn digits(number: u64) -> [u8; 16] {
    let mut out = [0; 16];
    let (first, second) = out.split_at_mut(8);
    first.copy_from_slice(&eight_digits((number >> 32) as u32));
    second.copy_from_slice(&eight_digits(number as u32));
    out
}

/// All at once: each in a byte of one number.
fn eight_digits(number: u32) -> [u8; 8] {
    let mut each = u64::from(number);
    each = (each | each << 16) & 0x0000_ffff_0000_ffff;
    each = (each | each << 8) & 0x00ff_00ff_00ff_00ff;
    each = (each | each << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // From ten on the fifth bit is set by six more, and the letters begin 39 behind where the figures would end.
    let letters = (each + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (each + 0x3030_3030_3030_3030 + letters * 39).to_be_bytes()
}

/// What the ids of a thread are made of.
struct Numbers {
    keyed: RandomState,
    secrets: [u64; 2],
    drawn: Cell<u64>,
}

thread_local! {
    static NUMBERS: Numbers = {
        let keyed = RandomState::new();
        Numbers { secrets: ["before", "behind"].map(|secret| keyed.hash_one(secret)), keyed, drawn: Cell::new(0) }
    };
}

impl Numbers {
    /// A trace's two, and its parent's. None is zero, which is no id. The second nobody outside can foretell; the first comes
    /// no second time, so that no two traces of a thread are one; and the parent's has to differ within its trace alone.
    fn draw() -> [u64; 3] {
        NUMBERS.with(|numbers| {
            let drawn = numbers.drawn.replace(numbers.drawn.get().wrapping_add(1));
            let unforeseen = numbers.keyed.hash_one(drawn);
            let [before, behind] = numbers.secrets;
            [mixed(drawn ^ before) ^ behind, unforeseen, mixed(unforeseen ^ before)].map(|number| number.max(1))
        })
    }
}

/// Another number for each, with no likeness to it (the last step of SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn fields(parents: &[&str]) -> Fields {
        let mut fields = Fields::new();
        for parent in parents {
            fields.append(TRACEPARENT, FieldValue::from_bytes(parent.as_bytes()).expect("a field value"));
        }
        fields.append(TRACESTATE, FieldValue::from_static("a=1"));
        fields.append(TRACESTATE, FieldValue::from_static("b=2"));
        fields
    }

    #[test]
    fn what_can_be_read_passes_as_it_is() {
        let later = format!("cc{}-what-comes-later", &PARENT[2..]);
        let odd = format!("cc{}-caf\u{e9}", &PARENT[2..]);
        for parent in [PARENT, &PARENT.replace("-00f0", "-10f0"), &later, &odd] {
            let trace = Trace::of(&fields(&[parent]));
            assert_eq!(trace.id().as_str(), "4bf92f3577b34da6a3ce929d0e0e4736");
            let mut out = Fields::new();
            trace.write(&mut out);
            assert_eq!(out.get(TRACEPARENT).unwrap(), *parent);
            assert_eq!(out.get_all(TRACESTATE).collect::<Vec<_>>(), ["a=1", "b=2"]);
        }
    }

    #[test]
    fn what_cannot_be_read_begins_a_new_trace() {
        let rows: [&[&str]; 12] = [
            &[],
            &[PARENT, PARENT],
            &[""],
            &["00"],
            &[&PARENT[..54]],
            &[&format!("{PARENT}-more")],
            &[&PARENT.replacen("00", "ff", 1)],
            &[&PARENT.replace("4bf9", "4BF9")],
            &[&PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000")],
            &[&PARENT.replace("00f067aa0ba902b7", "0000000000000000")],
            &[&PARENT.replace("-00f0", "_00f0")],
            &[&format!("cc{}.later", &PARENT[2..])],
        ];
        for parents in rows {
            let trace = Trace::of(&fields(parents));
            let mut out = fields(parents);
            trace.write(&mut out);
            assert_eq!(out.get_all(TRACEPARENT).count(), 1, "{parents:?}");
            assert!(is_valid(out.get(TRACEPARENT).unwrap().as_bytes()), "{parents:?}: {out:?}");
            assert_ne!(trace.id().as_str(), "4bf92f3577b34da6a3ce929d0e0e4736", "{parents:?}");
            assert!(!out.contains_key(TRACESTATE), "{parents:?}");
        }
        let again = Trace::of(&Fields::new());
        assert_ne!(Trace::of(&Fields::new()).id().as_str(), again.id().as_str());
    }
    #[test]
    fn an_id_is_in_lower_case_digits_of_all_its_numbers() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x9999_aaaa_0f0f_f0f0, u64::MAX] {
            assert_eq!(str::from_utf8(&digits(number)), Ok(&*format!("{number:016x}")));
        }
        let drawn: std::collections::HashSet<_> = (0..1000).flat_map(|_| Numbers::draw()).collect();
        assert_eq!(drawn.len(), 3000);
    }
}
