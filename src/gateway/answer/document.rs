//! The body of an answer of the gateway's own: one JSON object, written as it is made. What is in it is not decided here.

use bytes::Bytes;

/// What most refusals fit in.
const ROOM: usize = 1024;

/// An object that is being written.
pub(super) struct Object {
    out: Vec<u8>,
}

impl Object {
    pub(super) fn begin() -> Self {
        Self { out: Vec::with_capacity(ROOM) }
    }

    /// A member that is a text.
    pub(super) fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        self.quote(text.as_bytes());
    }

    /// The same for one of the gateway's own, in parts, none of which needs an escape.
    pub(super) fn words(&mut self, name: &'static str, parts: &[&'static str]) {
        self.name(name);
        self.out.push(b'"');
        for part in parts {
            debug_assert!(!part.bytes().any(needs_escape), "{part:?} needs an escape");
            self.out.extend_from_slice(part.as_bytes());
        }
        self.out.push(b'"');
    }

    /// A member that is a list of texts. Bytes that are none are replaced.
    pub(super) fn texts<T: AsRef<[u8]>>(&mut self, name: &'static str, texts: impl Iterator<Item = T>) {
        self.name(name);
        let mut before = b'[';
        for text in texts {
            self.out.push(before);
            match std::str::from_utf8(text.as_ref()) {
                Ok(text) => self.quote(text.as_bytes()),
                Err(_) => self.quote(String::from_utf8_lossy(text.as_ref()).as_bytes()),
            }
            before = b',';
        }
        if before == b'[' {
            self.out.push(b'[');
        }
        self.out.push(b']');
    }

    /// A member that is a number, in digits.
    pub(super) fn number(&mut self, name: &'static str, digits: &str) {
        self.name(name);
        self.out.extend_from_slice(digits.as_bytes());
    }

    pub(super) fn end(mut self) -> Bytes {
        if self.out.is_empty() {
            self.out.push(b'{');
        }
        self.out.push(b'}');
        Bytes::from(self.out)
    }

    fn name(&mut self, name: &'static str) {
        self.out.extend_from_slice(if self.out.is_empty() { b"{\"" } else { b",\"" });
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Of UTF-8, whose bytes beyond ASCII are written as they are.
    fn quote(&mut self, text: &[u8]) {
        self.out.push(b'"');
        let mut rest = text;
        while let Some(at) = rest.iter().position(|byte| needs_escape(*byte)) {
            self.out.extend_from_slice(&rest[..at]);
            escape(&mut self.out, rest[at]);
            rest = &rest[at + 1..];
        }
        self.out.extend_from_slice(rest);
        self.out.push(b'"');
    }
}

/// What may not stand in a text as it is (RFC 8259 §7), looked up: three comparisons of each byte cost more.
static ESCAPED: [bool; 256] = {
    let mut escaped = [false; 256];
    let mut byte = 0;
    while byte < b' ' {
        escaped[byte as usize] = true;
        byte += 1;
    }
    escaped[b'"' as usize] = true;
    escaped[b'\\' as usize] = true;
    escaped
};

fn needs_escape(byte: u8) -> bool {
    ESCAPED[usize::from(byte)]
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| HEX[usize::from(value & 15)];
    match byte {
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0C => out.extend_from_slice(b"\\f"),
        ..b' ' => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)]),
        _ => out.extend_from_slice(&[b'\\', byte]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_empty_is_written_as_such() {
        assert_eq!(Object::begin().end(), "{}");
        let mut object = Object::begin();
        object.texts("none", [""; 0].iter());
        object.text("nothing", "");
        object.words("no", &["thing", ""]);
        assert_eq!(object.end(), r#"{"none":[],"nothing":"","no":"thing"}"#);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut object = Object::begin();
        object.texts("texts", [&b"\"\xff\""[..], b"a"].into_iter());
        assert_eq!(object.end(), "{\"texts\":[\"\\\"\u{FFFD}\\\"\",\"a\"]}");
    }

    proptest! {
        #[test]
        fn it_is_written_as_others_write_it(text in "[\\x00-\\x7f\u{80}-\u{ff}\u{2028}\u{1f600}]{0,60}", texts in prop::collection::vec(".{0,20}", 0..4)) {
            let mut object = Object::begin();
            object.text("text", &text);
            object.number("number", "409");
            object.texts("texts", texts.iter());
            let mut expected = format!("{{\"text\":{},\"number\":409,", serde_json::json!(text));
            expected.push_str(&format!("\"texts\":{}}}", serde_json::json!(texts)));
            prop_assert_eq!(object.end(), expected);
        }
    }
}
