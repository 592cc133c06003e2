//! The value of a field.
//!
//! One that stands in a message is lent by its [`Fields`](super::fields::Fields) ([`Value`]); one that is on its own owns its
//! bytes ([`FieldValue`]), as in `http`, but mostly they are few and lie in it, so that to hand on and drop one touches nothing
//! that others share.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

/// As many bytes lie in the value itself.
const SHORT: usize = 30;

/// The value of a field, in its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value<'a>(&'a [u8]);

/// The value of a field, or of one that may be.
#[derive(Clone)]
pub struct FieldValue(Content);

#[derive(Clone)]
enum Content {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Bytes),
}

/// Bytes that may not stand in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what may not stand in a field")]
pub struct NoValue;

/// A value that is not made of visible ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not all of it is visible ASCII")]
pub struct NoText;

/// Whether a byte may stand in a field (RFC 9110 §5.5). The end of a line, which would be that of the field, may not.
const fn is_allowed(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7F || byte == b'\t'
}

fn check(bytes: &[u8]) -> Result<(), NoValue> {
    if bytes.iter().all(|&byte| is_allowed(byte)) { Ok(()) } else { Err(NoValue) }
}

impl FieldValue {
    /// A text of the program's own.
    ///
    /// # Panics
    ///
    /// If it may not stand in a field; of a constant the compiler says so.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        let from = text.as_bytes();
        let mut bytes = [0; SHORT];
        let mut at = 0;
        while at < from.len() {
            assert!(is_allowed(from[at]), "what may not stand in a field");
            if at < SHORT {
                bytes[at] = from[at];
            }
            at += 1;
        }
        if at <= SHORT {
            Self(Content::Short { length: at as u8, bytes })
        } else {
            Self(Content::Long(Bytes::from_static(from)))
        }
    }

    /// A copy of these bytes.
    ///
    /// # Errors
    ///
    /// They may not stand in a field.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoValue> {
        Value::new(bytes).map(Self::from)
    }

    /// These bytes.
    ///
    /// # Errors
    ///
    /// They may not stand in a field.
    pub fn from_shared(bytes: Bytes) -> Result<Self, NoValue> {
        check(&bytes).map(|()| Self::short(&bytes).unwrap_or(Self(Content::Long(bytes))))
    }

    #[inline]
    fn short(from: &[u8]) -> Option<Self> {
        let mut bytes = [0; SHORT];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Self(Content::Short { length: u8::try_from(from.len()).ok()?, bytes }))
    }

    /// The same, lent.
    #[inline]
    #[must_use]
    pub fn as_value(&self) -> Value<'_> {
        match &self.0 {
            Content::Short { length, bytes } => Value(&bytes[..usize::from(*length).min(SHORT)]),
            Content::Long(bytes) => Value(bytes),
        }
    }

    /// Its bytes.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.as_value().as_bytes()
    }

    /// As text.
    ///
    /// # Errors
    ///
    /// Not all of it is visible ASCII.
    pub fn to_str(&self) -> Result<&str, NoText> {
        self.as_value().to_str()
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> Value<'a> {
    /// These bytes.
    ///
    /// # Errors
    ///
    /// They may not stand in a field.
    pub fn new(bytes: &'a [u8]) -> Result<Self, NoValue> {
        check(bytes).map(|()| Self(bytes))
    }

    /// A text of the program's own.
    #[must_use]
    pub fn of_text(text: &'static str) -> Value<'static> {
        debug_assert!(check(text.as_bytes()).is_ok(), "{text:?} may not stand in a field");
        Value(text.as_bytes())
    }

    /// What stands in a field: a parser of HTTP, or somebody here, has let it through.
    pub(crate) const fn in_field(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[inline]
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// As text.
    ///
    /// # Errors
    ///
    /// Not all of it is visible ASCII.
    pub fn to_str(self) -> Result<&'a str, NoText> {
        // Of what is ASCII only that may stand in a field which is visible.
        let text = if self.0.is_ascii() { std::str::from_utf8(self.0).ok() } else { None };
        text.ok_or(NoText)
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// What may be the value of a field.
pub trait IsValue {
    /// It, lent.
    fn as_value(&self) -> Value<'_>;
}

impl IsValue for Value<'_> {
    #[inline]
    fn as_value(&self) -> Value<'_> {
        *self
    }
}

impl IsValue for FieldValue {
    #[inline]
    fn as_value(&self) -> Value<'_> {
        self.as_value()
    }
}

impl<V: IsValue> IsValue for &V {
    #[inline]
    fn as_value(&self) -> Value<'_> {
        (**self).as_value()
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl PartialEq<str> for Value<'_> {
    fn eq(&self, text: &str) -> bool {
        self.0 == text.as_bytes()
    }
}

impl PartialEq<&str> for Value<'_> {
    fn eq(&self, text: &&str) -> bool {
        *self == **text
    }
}

impl PartialEq<FieldValue> for Value<'_> {
    fn eq(&self, other: &FieldValue) -> bool {
        *self == other.as_value()
    }
}

impl AsRef<[u8]> for Value<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl From<Value<'_>> for FieldValue {
    fn from(value: Value<'_>) -> Self {
        Self::short(value.0).unwrap_or_else(|| Self(Content::Long(Bytes::copy_from_slice(value.0))))
    }
}

impl fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_value().fmt(f)
    }
}

impl PartialEq for FieldValue {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for FieldValue {}

impl PartialEq<str> for FieldValue {
    fn eq(&self, text: &str) -> bool {
        self.as_bytes() == text.as_bytes()
    }
}

impl PartialEq<&str> for FieldValue {
    fn eq(&self, text: &&str) -> bool {
        *self == **text
    }
}

impl Hash for FieldValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl AsRef<[u8]> for FieldValue {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl FromStr for FieldValue {
    type Err = NoValue;

    fn from_str(text: &str) -> Result<Self, NoValue> {
        Self::from_bytes(text.as_bytes())
    }
}

impl TryFrom<&str> for FieldValue {
    type Error = NoValue;

    fn try_from(text: &str) -> Result<Self, NoValue> {
        Self::from_bytes(text.as_bytes())
    }
}

impl TryFrom<String> for FieldValue {
    type Error = NoValue;

    fn try_from(text: String) -> Result<Self, NoValue> {
        Self::from_shared(text.into())
    }
}

impl TryFrom<Vec<u8>> for FieldValue {
    type Error = NoValue;

    fn try_from(bytes: Vec<u8>) -> Result<Self, NoValue> {
        Self::from_shared(bytes.into())
    }
}

/// A number as it stands in a field.
#[derive(Debug, Clone, Copy)]
pub struct Digits {
    /// As many as a number may have.
    digits: [u8; 20],
    first: usize,
}

impl Digits {
    /// Those of this number.
    #[must_use]
    pub const fn of(mut number: u64) -> Self {
        let (mut digits, mut first) = ([0; 20], 20);
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, first };
            }
        }
    }

    /// They themselves.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[self.first..]
    }
}

impl IsValue for Digits {
    fn as_value(&self) -> Value<'_> {
        Value(self.as_bytes())
    }
}

impl From<u64> for FieldValue {
    fn from(number: u64) -> Self {
        Digits::of(number).as_value().into()
    }
}

impl From<HeaderName> for FieldValue {
    fn from(name: HeaderName) -> Self {
        Self::from_bytes(name.as_str().as_bytes()).expect("a name may stand in a field")
    }
}

/// What HTTP/2 came with.
impl From<HeaderValue> for FieldValue {
    fn from(value: HeaderValue) -> Self {
        Self::short(value.as_bytes()).unwrap_or_else(|| Self(Content::Long(Bytes::from_owner(value))))
    }
}

/// What HTTP/2 is given.
impl From<FieldValue> for HeaderValue {
    fn from(value: FieldValue) -> Self {
        let given = match value.0 {
            Content::Short { length, bytes } => Self::from_bytes(&bytes[..usize::from(length).min(SHORT)]),
            Content::Long(bytes) => Self::from_maybe_shared(bytes),
        };
        given.expect("the same bytes may stand in a field")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_is_what_http_takes_for_one(bytes in prop::collection::vec(any::<u8>(), 0..3 * SHORT)) {
            let reference = HeaderValue::from_bytes(&bytes).ok();
            let shared = FieldValue::from_shared(bytes.clone().into()).ok();
            for value in [FieldValue::from_bytes(&bytes).ok(), FieldValue::try_from(bytes.clone()).ok(), shared] {
                prop_assert_eq!(value.is_some(), reference.is_some());
                let (Some(value), Some(reference)) = (value, &reference) else { continue };
                prop_assert_eq!(value.as_bytes(), bytes.as_slice());
                prop_assert_eq!(value.to_str().ok(), reference.to_str().ok());
                prop_assert_eq!(&HeaderValue::from(value.clone()), reference);
                prop_assert_eq!(FieldValue::from(reference.clone()), value);
            }
        }
    }

    #[test]
    fn constants_are_short_or_long() {
        const LONG: FieldValue = FieldValue::from_static("a text of more bytes than lie in a value");
        const SHORTER: FieldValue = FieldValue::from_static("chunked");
        assert_eq!((LONG.to_str(), SHORTER.to_str()), (Ok("a text of more bytes than lie in a value"), Ok("chunked")));
        assert_eq!(FieldValue::from(u64::MAX), "18446744073709551615");
        assert!(size_of::<FieldValue>() <= size_of::<HeaderValue>());
    }
}
