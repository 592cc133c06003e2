//! Fields beside what `http` and a parser make of the same.

use proptest::prelude::*;

use super::*;
use crate::core::value::FieldValue;

/// Two of them have the same mark.
const NAMES: [&str; 5] = ["etag", "x-a", "x_long-name", "content-length", "ea-g"];

#[derive(Debug, Clone)]
enum Step {
    Append(usize, u16),
    Insert(usize, u16),
    AddMissing(usize, u16),
    Remove(usize),
    /// The fields are put behind a copy of those with this name.
    Double(usize),
    /// What is written is read.
    Read,
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let field = || (0..NAMES.len(), any::<u16>());
    prop_oneof![
        4 => field().prop_map(|(name, value)| Step::Append(name, value)),
        2 => field().prop_map(|(name, value)| Step::Insert(name, value)),
        2 => field().prop_map(|(name, value)| Step::AddMissing(name, value)),
        2 => (0..NAMES.len()).prop_map(Step::Remove),
        1 => (0..NAMES.len()).prop_map(Step::Double),
        1 => Just(Step::Read),
        1 => Just(Step::Clear),
    ]
}

fn told(fields: &Fields) -> Vec<(&str, &[u8])> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

fn all<'a>(fields: &'a Fields, name: &str) -> Vec<&'a [u8]> {
    fields.get_all(name).map(Value::as_bytes).collect()
}

fn written(fields: &Fields) -> Vec<u8> {
    let mut out = Vec::new();
    fields.write(&mut out, |_| true);
    out
}

/// As a parser finds them.
fn read(part: &[u8]) -> Fields {
    let mut room = [httparse::EMPTY_HEADER; 256];
    let (_, headers) = httparse::parse_headers(part, &mut room).unwrap().unwrap();
    let mut fields = Fields::from_iter([("left-over", Value::in_field(b"1"))]);
    fields.copy(part, headers.len());
    for header in headers {
        fields.read(part, header.name, header.value).unwrap();
    }
    fields
}

proptest! {
    #[test]
    fn what_is_found_is_what_a_map_would_find(steps in prop::collection::vec(step(), 0..30)) {
        let (mut fields, mut map) = (Fields::new(), HeaderMap::new());
        for step in steps {
            match step {
                Step::Append(name, value) => {
                    let value = value.to_string();
                    let (first, last) = value.as_bytes().split_at(value.len() / 2);
                    fields.append_parts(NAMES[name], [first, b"", last].map(Value::in_field));
                    map.append(NAMES[name], HeaderValue::try_from(value).unwrap());
                }
                Step::Insert(name, value) => {
                    fields.insert(NAMES[name], FieldValue::from(u64::from(value)));
                    map.insert(NAMES[name], value.into());
                }
                Step::AddMissing(name, value) => {
                    fields.add_missing(NAMES[name], || FieldValue::from(u64::from(value)));
                    map.entry(NAMES[name]).or_insert_with(|| value.into());
                }
                Step::Remove(name) => {
                    fields.remove(NAMES[name]);
                    map.remove(NAMES[name]);
                }
                Step::Double(name) => {
                    let mut double = Fields::new();
                    double.append_from(&fields, |other, _| other == NAMES[name]);
                    double.append_from(&fields, |_, _| true);
                    fields = double;
                    let values: Vec<_> = map.get_all(NAMES[name]).iter().cloned().collect();
                    for value in values {
                        map.append(NAMES[name], value);
                    }
                }
                Step::Read => fields = read(&[&written(&fields)[..], b"\r\n"].concat()),
                Step::Clear => {
                    fields.clear();
                    map.clear();
                }
            }
            prop_assert_eq!((fields.len(), fields.is_empty()), (map.len(), map.is_empty()));
            for name in NAMES {
                let values: Vec<_> = map.get_all(name).iter().map(HeaderValue::as_bytes).collect();
                prop_assert_eq!(fields.get(name).map(Value::as_bytes), values.first().copied());
                prop_assert_eq!(fields.contains_key(HeaderName::from_static(name)), map.contains_key(name));
                prop_assert!(fields.may_have(Marks::of(&[name])) || values.is_empty());
                prop_assert_eq!(all(&fields, name), values);
            }
            prop_assert_eq!(&HeaderMap::from(fields.clone()), &map);
            let lines = |(name, value): (&str, &[u8])| [name.as_bytes(), b": ", value, b"\r\n"].concat();
            prop_assert_eq!(written(&fields), told(&fields).into_iter().flat_map(lines).collect::<Vec<_>>());
        }
        let again = Fields::from(&map);
        prop_assert_eq!(again.may_be_underscored(), map.contains_key(NAMES[2]));
        prop_assert!(NAMES.iter().all(|name| all(&fields, name) == all(&again, name)));
    }

    #[test]
    fn what_is_read_is_what_the_parser_found(
        lines in prop::collection::vec(("[A-Za-z_-]{1,20}", " {0,2}", "[ -~]{0,40}", " ?", "\r?\n"), 0..8)
    ) {
        let part: String =
            lines.iter().map(|(name, before, value, behind, end)| [name, ":", before, value, behind, end].concat()).collect();
        let fields = read([&part, "\r\n"].concat().as_bytes());
        let expected: Vec<_> =
            lines.iter().map(|(name, _, value, _, _)| (name.to_ascii_lowercase(), value.trim().as_bytes())).collect();
        prop_assert_eq!(told(&fields), expected.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>());
        prop_assert!(fields.may_be_underscored() || !lines.iter().any(|(name, ..)| name.contains('_')));
    }
}

#[test]
fn fields_keep_their_order_and_their_place() {
    let lines = [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4")];
    let mut fields: Fields = lines.iter().map(|(name, value)| (*name, FieldValue::from_static(value))).collect();
    assert_eq!(told(&fields), [("b", &b"1"[..]), ("a", b"2"), ("b", b"3"), ("c", b"4")]);
    fields.insert("b", FieldValue::from_static("5"));
    assert_eq!(told(&fields), [("b", &b"5"[..]), ("a", b"2"), ("c", b"4")]);
    assert_eq!(written(&fields), b"b: 5\r\na: 2\r\nc: 4\r\n");
    fields.retain(|name, _| name != "a");
    assert_eq!(told(&fields), [("b", &b"5"[..]), ("c", b"4")]);
    assert_eq!(fields, Fields::from_iter([("b", Value::in_field(b"5")), ("c", Value::in_field(b"4"))]));
}

#[test]
fn a_mark_is_the_same_in_whatever_case() {
    for name in ["ETag", "Content-Length", "X-Ünlike", ""] {
        assert_eq!(mark(name.as_bytes()), mark(name.to_ascii_lowercase().as_bytes()), "{name}");
    }
    assert_eq!(mark(NAMES[0].as_bytes()), mark(NAMES[4].as_bytes()));
}

/// So that what is read can be given to HTTP/2.
#[test]
fn what_a_parser_lets_through_is_a_name_and_a_value() {
    for byte in 0..=u8::MAX {
        for line in [[b"a", &[byte][..], b"b: 1\r\n\r\n"].concat(), [b"a: 1", &[byte][..], b"2\r\n\r\n"].concat()] {
            let mut room = [httparse::EMPTY_HEADER; 2];
            let Ok(httparse::Status::Complete((_, [found]))) = httparse::parse_headers(&line, &mut room) else {
                continue;
            };
            let mut fields = Fields::new();
            fields.copy(&line, 1);
            fields.read(&line, found.name, found.value).unwrap();
            let map = HeaderMap::from(fields);
            assert_eq!(map.get(found.name).map(HeaderValue::as_bytes), Some(found.value), "{byte:#x}");
        }
    }
    let longest = ["a".repeat(usize::from(u16::MAX)), "b".repeat(usize::from(u16::MAX) + 1)];
    let [fits, does_not] = longest.map(|name| {
        let line = format!("{name}: 1\r\n\r\n");
        let mut fields = Fields::new();
        fields.copy(line.as_bytes(), 1);
        fields.read(line.as_bytes(), &line[..name.len()], &line.as_bytes()[name.len() + 2..][..1]).map(|()| fields)
    });
    assert_eq!(fits.map(HeaderMap::from).unwrap().len(), 1);
    assert!(does_not.is_none());
}

#[test]
fn letters_are_made_small_and_no_others() {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    for (from, length) in [(0, 256), (0, 128), (3, 91), (60, 5), (64, 8), (65, 9), (251, 5), (0, 0)] {
        let mut text = all[from..].to_vec();
        let underscored = to_lowercase(&mut text, length);
        let expected = [&all[from..from + length].to_ascii_lowercase()[..], &all[from + length..]].concat();
        assert_eq!(text, expected, "{from} {length}");
        assert!(underscored || !all[from..from + length].contains(&b'_'));
    }
    assert!(!to_lowercase(&mut b"Content-Length: 5".to_vec(), 14));
    assert!(to_lowercase(&mut b"Content_Length: 5".to_vec(), 14));
}
