//! One entity tag, from bytes (RFC 9110 §8.8.3).
//!
//! A tag is opaque: commas, backslashes and the bytes 0x80 to 0xFF are legal inside its quotes and mean nothing. It is
//! never decoded, unescaped or compared as text.

use std::fmt;

use siphasher::sip::SipHasher13;

use super::{
    policy::Comparison,
    value::{FieldValue, Value},
};

/// An entity tag: `"opaque"` or `W/"opaque"`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EntityTag {
    weak: bool,
    opaque: Box<[u8]>,
}

/// Why some bytes are not an entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// It does not begin with `"` or `W/"`.
    #[error("a tag must stand in double quotes, with W/ before them if it is weak")]
    Unquoted,
    /// The closing quote is missing.
    #[error("a tag's closing quote is missing")]
    Unterminated,
    /// A byte that may not stand inside the quotes: a space, a control byte or DEL.
    #[error("a tag holds the byte 0x{0:02X}, which may not stand in one")]
    Byte(u8),
    /// Something follows the closing quote.
    #[error("something other than a comma follows a tag's closing quote")]
    Trailing,
}

/// What compressing intermediaries put behind a tag when they encode the body: Apache and Caddy a `-`, Jetty `--`,
/// others a `;`. The longer forms come first.
const ENCODING_SUFFIXES: [&[u8]; 6] = [b"--gzip", b"-gzip", b";gzip", b"-br", b"-zstd", b"-deflate"];

impl EntityTag {
    /// Reads exactly one tag, without white space around it.
    ///
    /// # Errors
    ///
    /// Whatever is not a tag to the letter of RFC 9110 §8.8.3.
    pub fn parse(bytes: &[u8]) -> Result<Self, TagError> {
        let (tag, rest) = Self::parse_prefix(bytes)?;
        if rest.is_empty() { Ok(tag) } else { Err(TagError::Trailing) }
    }

    /// Reads the tag at the beginning of `bytes`; returns it and what follows its closing quote.
    pub(super) fn parse_prefix(bytes: &[u8]) -> Result<(Self, &[u8]), TagError> {
        let (weak, quoted) = match bytes.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, bytes),
        };
        let inner = quoted.strip_prefix(b"\"").ok_or(TagError::Unquoted)?;
        let end = inner.iter().position(|&b| !is_etagc(b)).ok_or(TagError::Unterminated)?;
        if inner[end] != b'"' {
            return Err(TagError::Byte(inner[end]));
        }
        Ok((Self { weak, opaque: inner[..end].into() }, &inner[end + 1..]))
    }

    /// A tag of these parts, which were a tag's.
    pub(super) fn from_parts(weak: bool, opaque: &[u8]) -> Self {
        Self { weak, opaque: opaque.into() }
    }

    /// What stands between the quotes.
    pub(super) fn opaque(&self) -> &[u8] {
        &self.opaque
    }

    /// Whether the tag is weak.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        self.weak
    }

    /// The length of the opaque part, in bytes.
    #[must_use]
    pub fn opaque_len(&self) -> usize {
        self.opaque.len()
    }

    /// Strong comparison (RFC 9110 §8.8.3.2): both strong and equal to the byte.
    #[must_use]
    pub fn strong_eq(&self, other: &Self) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Weak comparison (RFC 9110 §8.8.3.2): the opaque parts are equal.
    #[must_use]
    pub fn weak_eq(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }

    /// Whether the two name the same state under a route's rules.
    #[must_use]
    pub fn matches(&self, other: &Self, comparison: Comparison, encoding_suffixes: bool) -> bool {
        let strength = match comparison {
            Comparison::Strong => !self.weak && !other.weak,
            Comparison::Weak => true,
        };
        strength
            && (self.opaque == other.opaque
                || encoding_suffixes && without_suffix(&self.opaque) == without_suffix(&other.opaque))
    }

    /// Whether it ends as if a compressing intermediary had marked it.
    pub(super) fn is_marked(&self) -> bool {
        without_suffix(&self.opaque).len() < self.opaque.len()
    }

    /// A short stand-in for the tag where only "was it this one?" is asked. Not keyed: a collision makes a tag look
    /// superseded, which errs towards a conflict.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        SipHasher13::new_with_keys(u64::from(self.weak), 0).hash(&self.opaque)
    }

    /// The tag as it stands in a header field.
    #[must_use]
    pub fn to_header_value(&self) -> FieldValue {
        FieldValue::try_from(self.to_bytes()).expect("every byte of a tag may stand in a field value")
    }

    /// The tag as bytes, quotes and `W/` included.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.parts().map(Value::as_bytes).concat()
    }

    /// The same in parts, none of which is copied.
    #[must_use]
    pub fn parts(&self) -> [Value<'_>; 3] {
        let before: &[u8] = if self.weak { b"W/\"" } else { b"\"" };
        [before, &self.opaque, b"\""].map(Value::in_field)
    }
}

/// For people: bytes that are not UTF-8 are shown as U+FFFD. [`EntityTag::to_bytes`] is exact.
impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl fmt::Debug for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What may stand inside the quotes, looked up: three comparisons of each byte cost more.
static ETAGC: [bool; 256] = {
    let mut legal = [false; 256];
    let mut byte = 0;
    while byte < legal.len() {
        legal[byte] = matches!(byte, 0x21 | 0x23..=0x7E | 0x80..=0xFF);
        byte += 1;
    }
    legal
};

fn is_etagc(byte: u8) -> bool {
    ETAGC[usize::from(byte)]
}

/// An opaque part without the mark of a compressing intermediary. A part that is nothing but a mark stays whole.
fn without_suffix(opaque: &[u8]) -> &[u8] {
    ENCODING_SUFFIXES
        .iter()
        .find_map(|suffix| opaque.strip_suffix(*suffix))
        .filter(|rest| !rest.is_empty())
        .unwrap_or(opaque)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag(text: &str) -> EntityTag {
        EntityTag::parse(text.as_bytes()).expect(text)
    }

    #[test]
    fn parses_what_rfc_9110_8_8_3_allows() {
        let rows: &[(&[u8], bool, &[u8])] = &[
            (b"\"\"", false, b""),
            (b"\"xyzzy\"", false, b"xyzzy"),
            (b"W/\"xyzzy\"", true, b"xyzzy"),
            (b"W/\"\"", true, b""),
            (b"\"a,b\"", false, b"a,b"),
            (b"\"a\\b\"", false, b"a\\b"),
            (b"\"\\\"", false, b"\\"),
            (b"\"\x80\xFF\"", false, b"\x80\xFF"),
            (b"\"W/\"", false, b"W/"),
            (b"\"!#~\"", false, b"!#~"),
        ];
        for (bytes, weak, opaque) in rows {
            let tag = EntityTag::parse(bytes).expect("a legal tag");
            assert_eq!((tag.weak, &*tag.opaque), (*weak, *opaque));
        }
    }

    #[test]
    fn refuses_what_is_no_tag() {
        let rows: &[(&[u8], TagError)] = &[
            (b"", TagError::Unquoted),
            (b"xyzzy", TagError::Unquoted),
            (b"w/\"xyzzy\"", TagError::Unquoted),
            (b"W/", TagError::Unquoted),
            (b"W/xyzzy", TagError::Unquoted),
            (b"W/ \"xyzzy\"", TagError::Unquoted),
            (b"'xyzzy'", TagError::Unquoted),
            (b"*", TagError::Unquoted),
            (b" \"a\"", TagError::Unquoted),
            (b"\"", TagError::Unterminated),
            (b"\"xyzzy", TagError::Unterminated),
            (b"\"a b\"", TagError::Byte(b' ')),
            (b"\"a\tb\"", TagError::Byte(b'\t')),
            (b"\"a\x7F\"", TagError::Byte(0x7F)),
            (b"\"a\"b", TagError::Trailing),
            (b"\"a\" ", TagError::Trailing),
            (b"\"a\"\"b\"", TagError::Trailing),
        ];
        for (bytes, error) in rows {
            assert_eq!(EntityTag::parse(bytes), Err(*error), "{}", String::from_utf8_lossy(bytes));
        }
    }

    /// The table of RFC 9110 §8.8.3.2, and the suffixes of the design's section 5.
    #[test]
    fn compares() {
        use Comparison::{Strong, Weak};
        // left, right, comparison, encoding suffixes, equal
        let rows = [
            ("W/\"1\"", "W/\"1\"", Strong, false, false),
            ("W/\"1\"", "W/\"2\"", Strong, false, false),
            ("W/\"1\"", "\"1\"", Strong, false, false),
            ("\"1\"", "\"1\"", Strong, false, true),
            ("W/\"1\"", "W/\"1\"", Weak, false, true),
            ("W/\"1\"", "W/\"2\"", Weak, false, false),
            ("W/\"1\"", "\"1\"", Weak, false, true),
            ("\"1\"", "\"1\"", Weak, false, true),
            ("\"a\"", "\"A\"", Weak, true, false),
            ("\"x-gzip\"", "\"x\"", Strong, true, true),
            ("\"x\"", "\"x-br\"", Strong, true, true),
            ("\"x-zstd\"", "\"x-deflate\"", Strong, true, true),
            ("\"x;gzip\"", "\"x\"", Strong, true, true),
            ("\"x--gzip\"", "\"x\"", Strong, true, true),
            ("\"x-gzip\"", "\"x\"", Strong, false, false),
            ("W/\"x-gzip\"", "\"x\"", Strong, true, false),
            ("W/\"x-gzip\"", "\"x\"", Weak, true, true),
            ("\"x-gzip-gzip\"", "\"x\"", Strong, true, false),
            ("\"-gzip\"", "\"\"", Strong, true, false),
            ("\"-gzip\"", "\"-br\"", Strong, true, false),
            ("\"x-GZIP\"", "\"x\"", Strong, true, false),
        ];
        for (left, right, comparison, suffixes, equal) in rows {
            assert_eq!(tag(left).matches(&tag(right), comparison, suffixes), equal, "{left} {right} {comparison:?}");
            assert_eq!(tag(right).matches(&tag(left), comparison, suffixes), equal, "{right} {left} {comparison:?}");
        }
    }

    proptest! {
        #[test]
        fn parse_and_print_are_inverse(weak: bool, opaque in proptest::collection::vec(any::<u8>().prop_filter("etagc", |b| is_etagc(*b)), 0..40)) {
            let tag = EntityTag { weak, opaque: opaque.into() };
            prop_assert_eq!(EntityTag::parse(&tag.to_bytes()), Ok(tag.clone()));
            prop_assert_eq!(tag.to_header_value().as_bytes().to_vec(), tag.to_bytes());
        }

        #[test]
        fn whatever_parses_prints_as_it_was(bytes in proptest::collection::vec(prop_oneof![Just(b'"'), Just(b'W'), Just(b'/'), any::<u8>()], 0..12)) {
            if let Ok(tag) = EntityTag::parse(&bytes) {
                prop_assert_eq!(tag.to_bytes(), bytes);
            }
        }

        #[test]
        fn strong_equality_implies_weak(a in "(W/)?\"[ab]{0,2}\"", b in "(W/)?\"[ab]{0,2}\"") {
            let (a, b) = (tag(&a), tag(&b));
            prop_assert!(!a.strong_eq(&b) || a.weak_eq(&b));
            prop_assert_eq!(a.strong_eq(&b), a.matches(&b, Comparison::Strong, false));
            prop_assert_eq!(a.weak_eq(&b), a.matches(&b, Comparison::Weak, false));
        }
    }
}
