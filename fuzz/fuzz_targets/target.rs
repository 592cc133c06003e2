//! Paths and queries -> the canonical target and its key.
//!
//! The input's first two lines are request targets. What `Target::parse` accepts is held against a reference that takes
//! RFC 3986 literally (`%2E` decoded, then the buffers of §5.2.4, then every escape decoded), and against the reading of
//! the most lenient backend, which must see no dot segment. Where it refuses, the reason must be true. Keys of the two
//! targets must be equal exactly where naive readings of them are. Hash collisions are not thought of: with 64 and 128
//! bits and a fixed seed, the first would be worth knowing.

#![no_main]

use http::uri::PathAndQuery;
use ifmatch::core::{
    fields::Fields,
    policy::QueryRule,
    resource::{Key, Namer, Target, TargetError},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(input) = std::str::from_utf8(input) else { return };
    let mut lines = input.split('\n');
    let targets: Vec<Target> = lines.by_ref().take(2).filter_map(read).collect();
    for target in &targets {
        assert_canonical(target);
        assert_spellings_share_a_cell(target);
    }
    if let [a, b] = targets.as_slice() {
        assert_keys(a, b);
    }
});

/// Reads one target in both ways, and checks what came of it against what was written.
fn read(line: &str) -> Option<Target> {
    if let Ok(whole) = PathAndQuery::try_from(line) {
        let target = Target::from_path_and_query(&whole);
        assert_eq!(target, Target::parse(whole.path(), whole.query()), "{line:?} is read in two ways");
    }
    let (path, query) = match line.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (line, None),
    };
    match Target::parse(path, query) {
        Ok(target) => {
            assert_nothing_refusable(path);
            assert_eq!(segments(target.path()), resolved(path), "{path:?} became {:?}", target.path());
            // `http` takes what follows a # for a fragment and drops it. Callers have done so before.
            if query.is_none_or(|query| !query.contains('#')) {
                assert_eq!(target.query(), query);
            }
            Some(target)
        }
        Err(error) => {
            assert_true_reason(path, query, error);
            None
        }
    }
}

// What must hold of a target. -----------------------------------------------------------------------------------------

fn assert_canonical(target: &Target) {
    let path = target.path();
    assert_eq!(Target::parse(path, target.query()).as_ref(), Ok(target), "not idempotent");
    assert_eq!(Target::from_path_and_query(target.as_path_and_query()).as_ref(), Ok(target), "not idempotent");
    let whole = target.as_path_and_query().as_str();
    let parts = target.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    assert_eq!(whole, parts);

    assert!(path.starts_with('/'), "{path}");
    let seen = lenient(path);
    assert!(!seen.iter().any(|segment| segment == b"." || segment == b".."), "{path} has dot segments");
    let mut rest = path.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'%' {
            let [high, low, after @ ..] = after else { panic!("{path} ends within an escape") };
            let upper = |digit: &u8| matches!(digit, b'0'..=b'9' | b'A'..=b'F');
            assert!(upper(high) && upper(low), "{path} has an escape that is none or in lower case");
            let value = hex(*high) << 4 | hex(*low);
            assert!(value != 0 && !is_unreserved(value), "{path} escapes the byte {value:02X}");
            rest = after;
        } else {
            assert!(is_unreserved(*byte) || b"/:@!$&'()*+,;=".contains(byte), "{path} holds the byte {byte:02X}");
        }
    }
}

/// What must not come through, however the rest of the path looks.
fn assert_nothing_refusable(path: &str) {
    assert!(path.starts_with('/') && escapes_are_whole(path), "{path:?}");
    assert!(!path.bytes().any(|byte| byte <= b' ' || byte == b'\\' || byte == 0x7F), "{path:?}");
    let decoded = decoded(path);
    assert!(!decoded.contains(&0), "{path:?} holds a NUL");
    assert!(!decoded.windows(2).any(is_overlong), "{path:?} holds overlong UTF-8");
}

fn assert_true_reason(path: &str, query: Option<&str>, error: TargetError) {
    let decoded = decoded(path);
    let holds = match error {
        TargetError::NotAbsolute => !path.starts_with('/'),
        TargetError::Escape => !escapes_are_whole(path),
        TargetError::Nul => decoded.contains(&0),
        TargetError::Byte(byte) => path.as_bytes().contains(&byte) && (byte <= b' ' || byte == b'\\' || byte == 0x7F),
        TargetError::Overlong => decoded.windows(2).any(is_overlong),
        TargetError::HiddenDots => {
            let separator = |byte: &u8| matches!(byte, b'/' | b'\\' | b';');
            decoded.split(separator).any(|part| part == b"." || part == b"..")
        }
        // Not said of a request's own target.
        TargetError::Destination => false,
        // The path is legal by then, so that only the query or the length can be wrong.
        TargetError::Invalid => query.is_some() || path.len() > 20_000,
    };
    assert!(holds, "{path:?} is refused, but it is not true that {error}");
}

/// Other ways of writing a path that some backend takes for the same resource.
fn assert_spellings_share_a_cell(target: &Target) {
    let path = target.path();
    let escaped: String = path
        .split('/')
        .skip(1)
        .flat_map(|segment| {
            let bytes = decoded(segment).into_iter().map(|byte| format!("%{byte:02x}"));
            std::iter::once("/".to_owned()).chain(bytes)
        })
        .collect();
    let other_case: String = path
        .chars()
        .map(|c| if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() })
        .collect();
    let hidden_slashes = format!("/{}", path[1..].replace('/', "%2f"));
    let spellings = [
        escaped,
        other_case,
        hidden_slashes,
        path.replace('/', "//"),
        format!("{path}/"),
        format!("{path};v=1"),
        path.replace('/', ";v=1/").replacen(";v=1/", "/", 1),
        format!("/./x/..{path}"),
    ];
    let key = key(target, &QueryRule::Include);
    for spelling in spellings {
        let other = Target::parse(&spelling, target.query());
        if other == Err(TargetError::Invalid) {
            // It became too long.
            continue;
        }
        let other = other.unwrap_or_else(|error| panic!("{spelling:?} of {path:?}: {error}"));
        assert_eq!(crate::key(&other, &QueryRule::Include).cell, key.cell, "{path} and {spelling}");
    }
}

/// Keys are equal where, and only where, a naive reading of the two targets is.
fn assert_keys(a: &Target, b: &Target) {
    for rule in [QueryRule::Include, QueryRule::Ignore, QueryRule::Only(vec!["id".to_owned(), "a b".to_owned()])] {
        let (one, other) = (key(a, &rule), key(b, &rule));
        let same_cell = folded(a.path()) == folded(b.path()) && parameters(a, &rule) == parameters(b, &rule);
        assert_eq!(one.cell == other.cell, same_cell, "{a:?} {b:?} {rule:?}");
        let same_spelling = a.path() == b.path() && written(a, &rule) == written(b, &rule);
        assert_eq!(one.spelling == other.spelling, same_spelling, "{a:?} {b:?} {rule:?}");
        assert!(a != b || one == other, "{a:?} has two keys");
        assert_eq!(one, key(a, &rule), "{a:?} has two keys");
    }
}

fn key(target: &Target, rule: &QueryRule) -> Key {
    Namer::new([1, 2]).key("upstream", "host", target, rule, &[], &Fields::new())
}

// The reference. ------------------------------------------------------------------------------------------------------

/// The segments that a path means: `%2E` decoded, dot segments removed to the letter of RFC 3986 §5.2.4, and then every
/// escape decoded.
fn resolved(path: &str) -> Vec<Vec<u8>> {
    let mut input = path.replace("%2e", ".").replace("%2E", ".");
    let mut output = String::new();
    while !input.is_empty() {
        if input.starts_with("/./") {
            input.drain(..2);
        } else if input == "/." {
            input = "/".to_owned();
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", input.get(4..).unwrap_or_default());
            output.truncate(output.rfind('/').unwrap_or_default());
        } else {
            let end = input[1..].find('/').map_or(input.len(), |next| next + 1);
            output.extend(input.drain(..end));
        }
    }
    segments(&output)
}

fn segments(path: &str) -> Vec<Vec<u8>> {
    path.split('/').skip(1).map(decoded).collect()
}

/// The segments as the most lenient backend reads them.
fn lenient(path: &str) -> Vec<Vec<u8>> {
    let decoded = decoded(path);
    let segments = decoded.split(|byte| matches!(byte, b'/' | b'\\'));
    segments.filter_map(|segment| segment.split(|byte| *byte == b';').next()).map(<[u8]>::to_vec).collect()
}

/// The same, decoded to the end, where neither case counts, nor `+` against a space, dots and spaces at the ends of
/// segments, and empty segments.
fn folded(path: &str) -> Vec<Vec<u8>> {
    let mut bytes = path.as_bytes().to_vec();
    loop {
        let further = decoded(&bytes);
        if further == bytes {
            break;
        }
        bytes = further;
    }
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => text.to_lowercase().into_bytes(),
        Err(error) => error.into_bytes().to_ascii_lowercase(),
    };
    let segments = bytes.split(|byte| matches!(byte, b'/' | b'\\')).map(|segment| {
        let mut name = segment.split(|byte| *byte == b';').next().unwrap_or_default().to_vec();
        name.iter_mut().filter(|byte| **byte == b'+').for_each(|byte| *byte = b' ');
        while name.last().is_some_and(|byte| matches!(byte, b'.' | b' ')) {
            name.pop();
        }
        name
    });
    segments.filter(|name| !name.is_empty()).collect()
}

/// The parameters that count, as they are written.
fn written<'t>(target: &'t Target, rule: &QueryRule) -> Vec<&'t str> {
    let all = target.query().unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty());
    match rule {
        QueryRule::Include => all.collect(),
        QueryRule::Ignore => Vec::new(),
        QueryRule::Only(names) => all
            .filter(|parameter| {
                let name = parameter.split_once('=').map_or(*parameter, |(name, _)| name);
                names.iter().any(|known| form_decoded(name) == known.as_bytes())
            })
            .collect(),
    }
}

/// The parameters that count, decoded, in no order.
fn parameters(target: &Target, rule: &QueryRule) -> Vec<Vec<u8>> {
    let mut parameters: Vec<Vec<u8>> = written(target, rule).into_iter().map(form_decoded).collect();
    parameters.sort();
    parameters
}

fn form_decoded(text: &str) -> Vec<u8> {
    decoded(&text.replace('+', "%20"))
}

/// What is no escape stays as it is.
fn decoded(text: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = text.as_ref();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if is_escape(bytes, at) {
            out.push(hex(bytes[at + 1]) << 4 | hex(bytes[at + 2]));
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

fn escapes_are_whole(path: &str) -> bool {
    let bytes = path.as_bytes();
    (0..bytes.len()).all(|at| bytes[at] != b'%' || is_escape(bytes, at))
}

fn is_escape(bytes: &[u8], at: usize) -> bool {
    bytes[at] == b'%' && bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The beginning of a sequence that is longer than its character needs (RFC 3629 §3).
fn is_overlong(pair: &[u8]) -> bool {
    let continues = pair[1] & 0xC0 == 0x80;
    continues && (pair[0] & 0xFE == 0xC0 || pair[0] == 0xE0 && pair[1] < 0xA0 || pair[0] == 0xF0 && pair[1] < 0x90)
}
