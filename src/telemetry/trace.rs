//! Which trace a request belongs to (W3C Trace Context).
//!
//! The gateway makes no span of its own. So a `traceparent` that can be read passes as it is, with its `tracestate`; one
//! that can't is dropped with it, and a new trace begun, as for a request without one. A trace that begins here says
//! *sampled*: to a tracer in the backend anything else means that somebody decided against recording, and most would then
//! record nothing of what comes through the gateway.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderName, HeaderValue};

use crate::core::fields::Fields;

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
    /// Always one that can be read.
    parent: HeaderValue,
    state: Vec<HeaderValue>,
}

/// The 32 digits of a trace's id.
#[derive(Debug, Clone, Copy)]
pub struct TraceId<'a>(&'a str);

impl Trace {
    /// The trace that a request with these fields belongs to; a new one where they name none, or none that can be read.
    #[must_use]
    pub fn of(fields: &Fields) -> Self {
        let mut parents = fields.get_all(TRACEPARENT).iter();
        match (parents.next(), parents.next()) {
            (Some(only), None) if is_valid(only.as_bytes()) => {
                Self { parent: only.clone(), state: fields.get_all(TRACESTATE).iter().cloned().collect() }
            }
            (None, _) | (Some(_), _) => Self::begin(),
        }
    }

    fn begin() -> Self {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        for at in [TRACE_ID.start, TRACE_ID.start + 16, PARENT_ID.start] {
            write_digits(&mut text[at..at + 16], random());
        }
        Self { parent: HeaderValue::from_bytes(&text).expect("digits are plain"), state: Vec::new() }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TraceId<'_> {
        // Not all of it: what a later version adds may be any bytes.
        let digits = std::str::from_utf8(&self.parent.as_bytes()[TRACE_ID]);
        TraceId(digits.expect("it was checked, or written here"))
    }

    /// Sets the fields of a request so.
    pub fn write(&self, fields: &mut Fields) {
        fields.insert(TRACEPARENT, self.parent.clone());
        fields.remove(TRACESTATE);
        for state in &self.state {
            fields.append(TRACESTATE, state.clone());
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
fn write_digits(out: &mut [u8], number: u64) {
    for (digits, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        *digits = [byte >> 4, byte & 15].map(|nibble| b"0123456789abcdef"[usize::from(nibble)]);
    }
}

/// A number that nobody outside can foretell. Never zero, which is no id.
fn random() -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    SEED.hash_one(DRAWN.fetch_add(1, Ordering::Relaxed)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn fields(parents: &[&str]) -> Fields {
        let mut fields = Fields::new();
        for parent in parents {
            fields.append(TRACEPARENT, HeaderValue::from_bytes(parent.as_bytes()).expect("a field value"));
        }
        fields.append(TRACESTATE, HeaderValue::from_static("a=1"));
        fields.append(TRACESTATE, HeaderValue::from_static("b=2"));
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
            assert_eq!(out[TRACEPARENT], parent);
            assert_eq!(out.get_all(TRACESTATE).iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
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
            assert_eq!(out.get_all(TRACEPARENT).iter().count(), 1, "{parents:?}");
            assert!(is_valid(out[TRACEPARENT].as_bytes()), "{parents:?}: {out:?}");
            assert_ne!(trace.id().as_str(), "4bf92f3577b34da6a3ce929d0e0e4736", "{parents:?}");
            assert!(!out.contains_key(TRACESTATE), "{parents:?}");
        }
        let again = Trace::of(&Fields::new());
        assert_ne!(Trace::of(&Fields::new()).id().as_str(), again.id().as_str());
    }
}
