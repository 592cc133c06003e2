//! An answer as it is remembered: in one piece of memory, since there may be a million of them.

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderName, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, TRAILER},
};

use crate::core::{fields::Fields, value::FieldValue};

/// A head that is larger is not remembered but for its status and what tells where the result is.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// A status, fields and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    status: StatusCode,
    /// Each field as the length of its name, its name, the length of its value, its value; then the content.
    bytes: Bytes,
    /// Where the content begins.
    content: u32,
}

impl Recorded {
    /// An answer with this head and content. What describes how it was framed is left out.
    #[must_use]
    pub fn new(status: StatusCode, fields: &Fields, content: &[u8]) -> Self {
        let is_framing = |name| [CONNECTION, CONTENT_LENGTH, TRAILER].iter().any(|framing| name == framing);
        let takes_all = Self::takes(fields);
        let mut bytes = BytesMut::with_capacity(content.len() + 512);
        for (name, value) in fields.iter().filter(|(name, _)| !is_framing(*name)) {
            let says_where = matches!(name.as_str(), "location" | "content-location" | "etag");
            if takes_all || says_where && 8 + value.len() + name.as_str().len() <= MAX_HEAD_BYTES / 4 {
                put(&mut bytes, name.as_str().as_bytes());
                put(&mut bytes, value.as_bytes());
            }
        }
        let head = bytes.len();
        bytes.put_slice(content);
        // In a piece of its own size: it may be kept for long.
        let bytes = Bytes::copy_from_slice(&bytes);
        Self { status, bytes, content: u32::try_from(head).expect("a head is bounded") }
    }

    /// Whether all fields of such a head are recorded that are not framing.
    #[must_use]
    pub fn takes(fields: &Fields) -> bool {
        fields.iter().map(|(name, value)| 8 + name.as_str().len() + value.len()).sum::<usize>() <= MAX_HEAD_BYTES
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The fields, in order.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::new();
        let mut rest = &self.bytes[..self.content as usize];
        while let Some((name, value, after)) = next_field(rest) {
            rest = after;
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), FieldValue::from_bytes(value)) {
                fields.append(name, value);
            }
        }
        fields
    }

    /// The content.
    #[must_use]
    pub fn content(&self) -> Bytes {
        self.bytes.slice(self.content as usize..)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.len()
    }
}

fn put(bytes: &mut BytesMut, part: &[u8]) {
    bytes.put_u32(u32::try_from(part.len()).expect("a field is bounded"));
    bytes.put_slice(part);
}

fn next_field(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = next_part(bytes)?;
    let (value, rest) = next_part(rest)?;
    Some((name, value, rest))
}

fn next_part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> Fields {
        let mut map = Fields::new();
        for (name, value) in lines {
            map.append(*name, value.parse::<FieldValue>().expect("a value"));
        }
        map
    }

    #[test]
    fn what_is_recorded_comes_back() {
        let head = fields(&[("set-cookie", "a"), ("etag", "\"1\""), ("set-cookie", "b"), ("x-empty", "")]);
        let recorded = Recorded::new(StatusCode::CREATED, &head, b"content");
        assert_eq!((recorded.status(), recorded.fields()), (StatusCode::CREATED, head));
        assert_eq!(recorded.content(), "content");
    }

    #[test]
    fn framing_is_not_recorded() {
        let head = fields(&[("content-length", "7"), ("connection", "close"), ("trailer", "x"), ("x", "1")]);
        assert_eq!(Recorded::new(StatusCode::OK, &head, b"").fields(), fields(&[("x", "1")]));
    }

    #[test]
    fn of_a_head_that_is_too_large_only_what_says_where_the_result_is() {
        let large = "x".repeat(MAX_HEAD_BYTES);
        let head = fields(&[("x-large", &large), ("location", "/7"), ("etag", "\"1\""), ("x", "1")]);
        let recorded = Recorded::new(StatusCode::CREATED, &head, b"content");
        assert!(!Recorded::takes(&head) && Recorded::takes(&recorded.fields()));
        assert_eq!(recorded.fields(), fields(&[("location", "/7"), ("etag", "\"1\"")]));
        assert!(recorded.heap_bytes() < 100);
    }
}
