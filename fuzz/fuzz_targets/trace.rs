//! Header lines -> the trace that a request belongs to.
//!
//! A line that begins with `S` is a `tracestate`, any other a `traceparent`. The reference cuts a `traceparent` at its
//! dashes, where the parser looks at places.

#![no_main]

use ifmatch::{
    core::{fields::Fields, value::FieldValue},
    telemetry::trace::Trace,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut fields = Fields::new();
    for line in input.split(|byte| *byte == b'\n') {
        let (name, value) = match line.strip_prefix(b"S") {
            Some(state) => ("tracestate", state),
            None => ("traceparent", line),
        };
        let Ok(value) = FieldValue::from_bytes(value) else { return };
        fields.append(name, value);
    }
    let trace = Trace::of(&fields);
    let mut out = fields.clone();
    trace.write(&mut out);

    let parents: Vec<_> = out.get_all("traceparent").collect();
    assert_eq!(parents.len(), 1);
    assert_eq!(reference(parents[0].as_bytes()), Some(trace.id().as_str().as_bytes()));
    let said: Vec<_> = fields.get_all("traceparent").collect();
    let states = |fields: &Fields| fields.get_all("tracestate").map(FieldValue::from).collect::<Vec<_>>();
    match said[..] {
        [only] if reference(only.as_bytes()).is_some() => {
            assert_eq!(parents[0], only);
            assert_eq!(states(&out), states(&fields));
        }
        _ => {
            assert!(!said.contains(&parents[0]), "a new trace is one that nobody named");
            assert_eq!(states(&out), Vec::<FieldValue>::new());
        }
    }
});

/// Trace Context, section 3.2: the trace's id.
fn reference(parent: &[u8]) -> Option<&[u8]> {
    let parts: Vec<_> = parent.split(|byte| *byte == b'-').collect();
    let [version, id, caller, flags, later @ ..] = &parts[..] else { return None };
    let is_hex = |part: &[u8], length| {
        part.len() == length && part.iter().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
    };
    let is_id = |part: &[u8], length| is_hex(part, length) && part.iter().any(|byte| *byte != b'0');
    let fits = is_hex(version, 2) && is_id(id, 32) && is_id(caller, 16) && is_hex(flags, 2);
    (fits && *version != b"ff" && (later.is_empty() || *version != b"00")).then_some(id)
}
