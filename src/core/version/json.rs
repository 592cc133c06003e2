//! Where things stand in a JSON document, in bytes: nothing is decoded but the names on the way, and nothing rewritten.
//!
//! A document that is brought into another form loses what that form does not have: digits of a number, the second of two
//! members of one name. So a version is made of the bytes as they came, some of them left out. What is no JSON (RFC 8259)
//! to the letter, or deeper than [`DEPTH`], has no places.

use std::{borrow::Cow, ops::Range};

use crate::core::pointer::{self, Pointer};

/// How deep a document may be.
const DEPTH: usize = 128;

/// What stands at some places of a document.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The values there, as they are written.
    pub(super) values: Vec<Range<usize>>,
    /// What has to be left out to have the document without them, in order: names, values, and one comma each.
    pub(super) members: Vec<Range<usize>>,
    /// Whether a name on the way stands twice in one object, so that readers differ in what is there.
    pub(super) is_ambiguous: bool,
}

/// What stands at these places; `None`: the bytes are not JSON, or too deep.
pub(super) fn find(bytes: &[u8], places: &[Pointer]) -> Option<Found> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut scanner = Scanner { text, at: 0, found: Found::default() };
    scanner.value(0, &places.iter().collect::<Vec<_>>())?;
    scanner.space();
    (scanner.at == text.len()).then_some(scanner.found)
}

struct Scanner<'t> {
    text: &'t str,
    at: usize,
    found: Found,
}

/// The elements of one object or array, as they are passed.
struct Elements {
    /// Where the one begins that is passed, behind the comma before it.
    start: usize,
    /// The comma behind the last that stays.
    comma: Option<usize>,
}

impl<'t> Scanner<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    /// A value so deep in the document, on the way to these places.
    fn value(&mut self, depth: usize, places: &[&Pointer]) -> Option<()> {
        self.space();
        match self.peek()? {
            _ if depth > DEPTH => None,
            b'{' => self.object(depth, places),
            b'[' => self.array(depth, places),
            b'"' => self.string().map(drop),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is_it = self.text[self.at..].starts_with(word);
        self.at += word.len();
        is_it.then_some(())
    }

    fn number(&mut self) -> Option<()> {
        self.takes(b'-');
        if !self.takes(b'0') {
            self.digits()?;
        }
        if self.takes(b'.') {
            self.digits()?;
        }
        if self.takes(b'e') || self.takes(b'E') {
            let _sign = self.takes(b'+') || self.takes(b'-');
            self.digits()?;
        }
        Some(())
    }

    /// A string, as it is written between its quotes.
    fn string(&mut self) -> Option<&'t str> {
        if !self.takes(b'"') {
            return None;
        }
        let from = self.at;
        loop {
            match self.take()? {
                b'"' => return Some(&self.text[from..self.at - 1]),
                b'\\' => match self.take()? {
                    b'u' => {
                        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
                        self.at += 4;
                        digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                    }
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    _ => return None,
                },
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    fn object(&mut self, depth: usize, places: &[&Pointer]) -> Option<()> {
        self.at += 1;
        let mut elements = Elements { start: self.at, comma: None };
        let mut passed = vec![false; places.len()];
        self.space();
        if self.takes(b'}') {
            return Some(());
        }
        loop {
            self.space();
            let name = decoded(self.string()?);
            self.space();
            self.takes(b':').then_some(())?;
            let mut further = Vec::new();
            for (place, passed) in places.iter().zip(&mut passed) {
                if name.as_ref().is_some_and(|name| *name == place.tokens()[depth]) {
                    self.found.is_ambiguous |= std::mem::replace(passed, true);
                    further.push(*place);
                }
            }
            if self.element(&mut elements, depth, &further, b'}')? {
                return Some(());
            }
        }
    }

    fn array<'p>(&mut self, depth: usize, places: &[&'p Pointer]) -> Option<()> {
        self.at += 1;
        let mut elements = Elements { start: self.at, comma: None };
        self.space();
        if self.takes(b']') {
            return Some(());
        }
        let at = |place: &&'p Pointer| Some((pointer::position(&place.tokens()[depth])?, *place));
        let mut positions: Vec<_> = places.iter().filter_map(at).collect();
        positions.sort_by_key(|(position, _)| *position);
        let mut ahead = positions.into_iter().peekable();
        for index in 0.. {
            let mut further = Vec::new();
            while let Some((_, place)) = ahead.next_if(|(position, _)| *position == index) {
                further.push(place);
            }
            if self.element(&mut elements, depth, &further, b']')? {
                break;
            }
        }
        Some(())
    }

    /// The value of an element that lies on the way to these places, and what is behind it. Says whether it was the last.
    fn element(&mut self, elements: &mut Elements, depth: usize, places: &[&Pointer], close: u8) -> Option<bool> {
        let is_place = places.iter().any(|place| place.tokens().len() == depth + 1);
        self.space();
        let from = self.at;
        self.value(depth + 1, if is_place { &[] } else { places })?;
        let end = self.at;
        if is_place {
            self.found.values.push(from..end);
        }
        self.space();
        match self.take()? {
            b',' if is_place => self.leave_out(elements.start..self.at),
            b',' => elements.comma = Some(self.at - 1),
            byte if byte == close => {
                if is_place {
                    // The last one that stays has no comma behind it; all between that and here is left out, too.
                    self.leave_out(elements.comma.unwrap_or(elements.start)..end);
                }
                return Some(true);
            }
            _ => return None,
        }
        elements.start = self.at;
        Some(false)
    }

    fn leave_out(&mut self, range: Range<usize>) {
        let members = &mut self.found.members;
        while members.pop_if(|earlier| earlier.start >= range.start).is_some() {}
        members.push(range);
    }
}

/// A string that is written so between its quotes; `None`: it is none of Unicode, and no place's name.
fn decoded(written: &str) -> Option<Cow<'_, str>> {
    if !written.contains('\\') {
        return Some(Cow::Borrowed(written));
    }
    let mut units = Vec::with_capacity(written.len());
    let mut rest = written.chars();
    while let Some(letter) = rest.next() {
        let letter = match letter {
            '\\' => match rest.next()? {
                'u' => {
                    units.push(u16::from_str_radix(rest.as_str().get(..4)?, 16).ok()?);
                    rest = rest.as_str()[4..].chars();
                    continue;
                }
                'b' => '\u{8}',
                'f' => '\u{C}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                itself => itself,
            },
            letter => letter,
        };
        units.extend_from_slice(letter.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(places: &[&str]) -> Vec<Pointer> {
        places.iter().map(|place| Pointer::parse(place).expect("a pointer")).collect()
    }

    /// What is left of a document without what stands at these places.
    fn without(text: &str, at: &[&str]) -> Option<String> {
        let found = find(text.as_bytes(), &places(at))?;
        let mut left = String::new();
        let mut from = 0;
        for range in found.members {
            left.push_str(&text[from..range.start]);
            from = range.end;
        }
        left.push_str(&text[from..]);
        Some(left)
    }

    #[test]
    fn members_are_left_out_and_all_else_stays_as_it_is() {
        for (text, at, left) in [
            (r#"{"a":1,"t":5}"#, &["/t"][..], r#"{"a":1}"#),
            (r#"{"t":5,"a":1}"#, &["/t"], r#"{"a":1}"#),
            (r#"{"a":1,"t":5,"b":2}"#, &["/t"], r#"{"a":1,"b":2}"#),
            (r#"{"t":5}"#, &["/t"], "{}"),
            (r#"{"t":5,"u":6}"#, &["/t", "/u"], "{}"),
            (r#"{"a":1,"t":5,"u":6}"#, &["/t", "/u"], r#"{"a":1}"#),
            (r#"{"t":5,"a":1,"u":6}"#, &["/t", "/u"], r#"{"a":1}"#),
            (r#"{"a":{"t":1,"x":2},"t":5}"#, &["/a/t", "/t"], r#"{"a":{"x":2}}"#),
            (r#"{"t":{"u":1}}"#, &["/t", "/t/u"], "{}"),
            (r#"{"t":1,"a":2,"t":3}"#, &["/t"], r#"{"a":2}"#),
            (r#"{"m":{"t":1},"m":{"t":2,"x":3}}"#, &["/m/t"], r#"{"m":{},"m":{"x":3}}"#),
            (r#"{"a":1,"\u0074":5}"#, &["/t"], r#"{"a":1}"#),
            (r#"{"a":1,"a/b":{"~":5}}"#, &["/a~1b/~0"], r#"{"a":1,"a/b":{}}"#),
            (r#"{"T":5}"#, &["/t"], r#"{"T":5}"#),
            (r#"{"l":[1,{"t":2,"x":3}]}"#, &["/l/1/t"], r#"{"l":[1,{"x":3}]}"#),
            (r"[1,2,3]", &["/0", "/2"], "[2]"),
            (r"[1,2,3]", &["/2", "/0", "/2", "/9", "/00", "/x"], "[2]"),
            (r#"[1,[2,{"t":3}],4]"#, &["/1/1/t", "/2", "/1/0"], "[1,[{}]]"),
            ("{\n  \"a\": 1,\n  \"t\": 2\n}\n", &["/t"], "{\n  \"a\": 1\n}\n"),
            ("{\n  \"t\": 2,\n  \"a\": 1\n}\n", &["/t"], "{\n  \"a\": 1\n}\n"),
            (
                r#"{"n":1.50,"m":1e2,"n":100000000000000000001}"#,
                &["/t"],
                r#"{"n":1.50,"m":1e2,"n":100000000000000000001}"#,
            ),
            (r#"{"x":{"t":1}}"#, &["/t"], r#"{"x":{"t":1}}"#),
            (r#""t""#, &["/t"], r#""t""#),
            (r#"{"a":{"t":{"b":1}},"c":2}"#, &["/a/t"], r#"{"a":{},"c":2}"#),
            (r#"{"\ud800":1,"t":2}"#, &["/t"], r#"{"\ud800":1}"#),
        ] {
            assert_eq!(without(text, at).as_deref(), Some(left), "{text} without {at:?}");
        }
    }

    #[test]
    fn what_is_no_json_has_no_places() {
        let deep = "[".repeat(DEPTH + 2) + &"]".repeat(DEPTH + 2);
        for text in [
            "",
            " ",
            "{",
            "}",
            "{]",
            "[}",
            "[1,]",
            "{\"t\":1,}",
            "{,\"t\":1}",
            "{\"t\" 1}",
            "{t:1}",
            "{\"t\":01}",
            "{\"t\":1.}",
            "{\"t\":.5}",
            "{\"t\":+1}",
            "{\"t\":1e}",
            "{\"t\":tru}",
            "{\"t\":1} x",
            "{\"t\":1}{}",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "'t'",
            "\u{FEFF}{}",
            "{\"t\":1",
            "[1",
            "nul",
            "-",
            "NaN",
            "{1:2}",
            deep.as_str(),
        ] {
            assert_eq!(find(text.as_bytes(), &places(&["/t"])), None, "{text}");
        }
        assert_eq!(find(b"{\"t\":\"\xFF\"}", &places(&["/t"])), None);
        assert!(find(("[".repeat(DEPTH) + &"]".repeat(DEPTH)).as_bytes(), &places(&["/t"])).is_some());
    }

    #[test]
    fn values_are_found_as_they_are_written() {
        let of = |text: &str, at: &str| {
            let found = find(text.as_bytes(), &places(&[at])).expect("JSON");
            let values = found.values.into_iter().map(|range| text[range].to_owned()).collect::<Vec<_>>();
            (values, found.is_ambiguous)
        };
        let one = |value: &str| (vec![value.to_owned()], false);
        assert_eq!(of(r#"{"meta":{"version": 7.10 }}"#, "/meta/version"), one("7.10"));
        assert_eq!(of(r#"{"v":"a\u0062"}"#, "/v"), one(r#""a\u0062""#));
        assert_eq!(of(r#"[{"v":null}]"#, "/0/v"), one("null"));
        assert_eq!(of(r#"{"x":1}"#, "/v"), (vec![], false));
        assert_eq!(of(r#"{"v":1,"v":2}"#, "/v"), (vec!["1".to_owned(), "2".to_owned()], true));
        assert_eq!(of(r#"{"m":{"v":1},"m":{}}"#, "/m/v"), (vec!["1".to_owned()], true));
        assert!(!of(r#"{"x":1,"x":2,"v":1}"#, "/v").1);
    }

    /// A document as text, with the members named `t` or without them.
    fn document() -> impl Strategy<Value = (String, String)> {
        let leaf = prop_oneof![
            "(0|-?[1-9][0-9]{0,20})(\\.[0-9]{1,3})?(e[+-]?[0-9])?",
            "\"([a-z,:{}\\[\\]]|\\\\\"|\\\\\\\\|\\\\u0074){0,6}\"",
            Just("true".to_owned()),
            Just("null".to_owned()),
        ]
        .prop_map(|text| (text.clone(), text));
        let space = || prop_oneof![Just(""), Just(" "), Just("\n\t")];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let member =
                (prop_oneof![Just("t"), Just("\\u0074"), Just("a"), Just("b"), Just("T")], space(), inner.clone());
            let object = (proptest::collection::vec(member, 0..5), space()).prop_map(|(members, space)| {
                let text =
                    |(name, before, value): (&str, &str, &str)| format!("{before}\"{name}\"{space}:{space}{value}");
                let all = members.iter().map(|(name, before, (value, _))| text((name, before, value)));
                let left = members.iter().filter(|(name, ..)| !matches!(*name, "t" | "\\u0074"));
                let left = left.map(|(name, before, (_, left))| text((name, before, left)));
                (
                    format!("{{{}}}", all.collect::<Vec<_>>().join(",")),
                    format!("{{{}}}", left.collect::<Vec<_>>().join(",")),
                )
            });
            object.boxed()
        })
    }

    proptest! {
        /// The document without its ignored members is to the byte the document that never had them. So two documents of
        /// which the same is left differ in ignored members alone.
        #[test]
        fn what_is_left_is_the_document_without_them((text, left) in document()) {
            let tokens = ["t", "a", "b", "T"];
            let mut at: Vec<String> = vec!["/t".to_owned()];
            for a in &tokens[1..] {
                at.push(format!("/{a}/t"));
                for b in &tokens[1..] {
                    at.push(format!("/{a}/{b}/t"));
                    for c in &tokens[1..] {
                        at.push(format!("/{a}/{b}/{c}/t"));
                    }
                }
            }
            let at: Vec<&str> = at.iter().map(String::as_str).collect();
            prop_assert_eq!(without(&text, &at), Some(left));
        }

        #[test]
        fn whatever_has_places_is_json(text in "[\\[\\]{}\",:0-9a-z\\\\ .e-]{0,24}") {
            if find(text.as_bytes(), &places(&["/t"])).is_some() {
                // A number may be too large for that reader, which is not what it is asked for.
                let read = serde_json::from_str::<serde::de::IgnoredAny>(&text);
                prop_assert!(read.is_ok() || text.contains('e'), "{}", text);
            } else {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_err(), "{}", text);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = find(&bytes, &places(&["/t", "/0"]));
        }
    }
}
