//! The header field `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07).
//!
//! Its value is a Structured Field string (RFC 9651 §3.3.3). Most clients in the wild, and most services' documentation,
//! write the bare key without the quotes, a UUID as a rule; that is taken for the same key. Parameters, several keys and
//! anything else are refused: a key that can't be read is never an absent one.

use http::HeaderName;

use super::fields::Fields;

/// The field.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// More than any scheme for keys needs; what is longer is no key.
const MAX_BYTES: usize = 255;

/// A key that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedKey {
    /// The field came more than once.
    #[error("Idempotency-Key came more than once")]
    Several,
    /// There is nothing in it.
    #[error("the Idempotency-Key is empty")]
    Empty,
    /// It is longer than a key may be.
    #[error("the Idempotency-Key is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It is neither a string in quotes nor a bare key.
    #[error("the Idempotency-Key is not a string in quotes")]
    Form,
}

/// The key of a request with these fields, without quotes; `None`: it has none.
///
/// # Errors
///
/// A key that is there but can't be read.
pub fn parse(headers: &Fields) -> Result<Option<Vec<u8>>, MalformedKey> {
    let mut lines = headers.get_all(&IDEMPOTENCY_KEY);
    let value = match (lines.next(), lines.next()) {
        (None, _) => return Ok(None),
        (Some(_), Some(_)) => return Err(MalformedKey::Several),
        (Some(only), None) => only.as_bytes().trim_ascii(),
    };
    let key = match value {
        [b'"', quoted @ ..] => unquoted(quoted).ok_or(MalformedKey::Form)?,
        bare if bare.iter().all(|&byte| is_bare(byte)) => bare.to_vec(),
        _ => return Err(MalformedKey::Form),
    };
    match key.len() {
        0 => Err(MalformedKey::Empty),
        1..=MAX_BYTES => Ok(Some(key)),
        _ => Err(MalformedKey::TooLong),
    }
}

/// What stands before the closing quote, which must be the last byte.
fn unquoted(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(quoted.len());
    let mut rest = quoted.iter();
    loop {
        match rest.next()? {
            b'"' => return rest.as_slice().is_empty().then_some(key),
            b'\\' => key.push(*rest.next().filter(|byte| matches!(byte, b'"' | b'\\'))?),
            byte @ 0x20..=0x7E => key.push(*byte),
            _ => return None,
        }
    }
}

/// Nothing that would mean something else in a Structured Field.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b',' | b';' | b'(' | b')' | b'?' | b'@')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::value::FieldValue;

    fn parsed(lines: &[&[u8]]) -> Result<Option<Vec<u8>>, MalformedKey> {
        let mut headers = Fields::new();
        for line in lines {
            headers.append(&IDEMPOTENCY_KEY, FieldValue::from_bytes(line).expect("a value"));
        }
        parse(&headers)
    }

    #[test]
    fn keys() {
        let uuid = "8e03978e-40d5-43e8-bc93-6894a57f9324";
        let quoted = format!("\"{uuid}\"");
        let longest = format!("\"{}\"", "k".repeat(MAX_BYTES));
        for (line, key) in [
            (uuid, uuid),
            (quoted.as_str(), uuid),
            ("\"a b\"", "a b"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            ("  \"k\"  ", "k"),
            ("order/17:a=b", "order/17:a=b"),
            ("a:b*c=", "a:b*c="),
            (longest.as_str(), longest.trim_matches('"')),
        ] {
            assert_eq!(parsed(&[line.as_bytes()]), Ok(Some(key.as_bytes().to_vec())), "{line}");
        }
        assert_eq!(parsed(&[]), Ok(None));
    }

    #[test]
    fn what_is_no_key_is_not_an_absent_one() {
        use MalformedKey::{Empty, Form, Several, TooLong};
        for (line, why) in [
            (&b""[..], Empty),
            (b"\"\"", Empty),
            (b"  ", Empty),
            (b"\"a", Form),
            (b"\"", Form),
            (b"\"a\"b", Form),
            (b"\"a\";v=1", Form),
            (b"\"a\", \"b\"", Form),
            (b"a, b", Form),
            (b"a b", Form),
            (b"a;v=1", Form),
            (b"a\"", Form),
            (br#""a\n""#, Form),
            (br#""a\"#, Form),
            (b"\"\xC3\xA4\"", Form),
            (b"\xC3\xA4", Form),
            (b"?1", Form),
            (b"(a)", Form),
        ] {
            assert_eq!(parsed(&[line]), Err(why), "{}", String::from_utf8_lossy(line));
        }
        let too_long = "k".repeat(MAX_BYTES + 1);
        assert_eq!(parsed(&[too_long.as_bytes()]), Err(TooLong));
        assert_eq!(parsed(&[b"a", b"a"]), Err(Several));
    }

    proptest! {
        #[test]
        fn whatever_is_quoted_comes_back(key in "[ -~]{1,255}") {
            let quoted = format!("\"{}\"", key.replace('\\', r"\\").replace('"', r#"\""#));
            prop_assert_eq!(parsed(&[quoted.as_bytes()]), Ok(Some(key.into_bytes())));
        }

        #[test]
        fn what_is_read_has_a_length(line in proptest::collection::vec(prop_oneof![Just(9u8), 0x20..=0x7E_u8, 0x80..=0xFF_u8], 0..300)) {
            if let Ok(Some(key)) = parsed(&[&line]) {
                prop_assert!((1..=MAX_BYTES).contains(&key.len()) && key.iter().all(|byte| (0x20..=0x7E).contains(byte)));
            }
        }
    }
}
