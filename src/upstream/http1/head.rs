//! The head of an answer: bytes -> status, fields, and what they say of the body and of the connection.
//!
//! The grammar is httparse's, which is hyper's too; legacy backends fold lines and put spaces behind names, so both are
//! read. What a head means is RFC 9112 §6.3 and §9.3, strictly: where two readings are possible there is none.
//!
//! Deliberately absent: I/O, time, and the reason phrase, which means nothing.

use std::mem::MaybeUninit;

use http::{
    Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use httparse::{ParserConfig, Status};

use super::framing::Decoder;
use crate::core::fields::Fields;

/// How many fields a head may have, and how many may stand behind a body.
pub const MOST_FIELDS: usize = 256;
/// How many bytes a head may have.
pub const MOST_BYTES: usize = 128 * 1024;

/// More room is not kept for an answer.
const LARGE: usize = 4 * 1024;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Its head is not HTTP/1.
    #[error("its head is malformed: {0}")]
    Head(#[from] httparse::Error),
    /// It has a status below 100, or a field's name that is too long.
    #[error("its head says what can't be meant")]
    Meaning,
    /// The head has no end within [`MOST_BYTES`].
    #[error("its head is too long")]
    TooLong,
    /// The lengths differ, or are none.
    #[error("its Content-Length is malformed")]
    Length,
    /// A transfer coding other than `chunked`, and only that; or any over HTTP/1.0.
    #[error("its transfer coding is not understood")]
    Coding,
    /// A chunk's size is none, or its line is too long.
    #[error("the size of a chunk is malformed")]
    Size,
    /// A chunk does not end where it should.
    #[error("a chunk has no end")]
    Chunk,
    /// What stands behind the last chunk is malformed, or too much.
    #[error("its trailers are malformed")]
    Trailers,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// HTTP/1.1 or HTTP/1.0.
    pub version: Version,
    /// Its fields.
    pub fields: Fields,
}

/// Finds the head at the beginning of what has come.
#[derive(Debug, Default)]
pub struct Reader {
    /// How much has been looked at without finding its end.
    looked: usize,
    /// Room to put fields in.
    spare: Fields,
}

impl Reader {
    /// One that puts the fields where these were, so that no room has to be made; unless that is large, since an answer may be
    /// long in coming.
    #[must_use]
    pub fn with(spare: Fields) -> Self {
        let spare = if spare.bytes() > LARGE { Fields::new() } else { spare };
        Self { looked: 0, spare }
    }

    /// The head that these bytes begin with, and how long it is; `None`: more has to come.
    ///
    /// # Errors
    ///
    /// What has come is not the beginning of an answer.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
        if bytes.is_empty() || self.looked > 0 && !may_end(bytes, self.looked) {
            return self.more(bytes);
        }
        match self.read_by(&ParserConfig::default(), bytes) {
            Err(Malformed::Head(_)) => self.read_by(&lenient(), bytes),
            read => read,
        }
    }

    fn read_by(&mut self, parser: &ParserConfig, bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
        let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut answer = httparse::Response::new(&mut []);
        let parsed = parser.parse_response_with_uninit_headers(&mut answer, bytes, &mut room)?;
        let Status::Complete(length) = parsed else { return self.more(bytes) };
        if length > MOST_BYTES {
            return Err(Malformed::TooLong);
        }
        let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Meaning)?;
        let version = if answer.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
        let begin = answer.headers.first().map_or(length, |first| first.name.as_ptr().addr() - bytes.as_ptr().addr());
        let lines = &bytes[begin..length];
        let mut fields = std::mem::take(&mut self.spare);
        fields.copy(lines, answer.headers.len());
        for field in &*answer.headers {
            let is_folded =
                parser.obsolete_multiline_headers_in_responses_are_allowed() && field.value.contains(&b'\n');
            let unfolded = is_folded.then(|| unfolded(field.value));
            fields.read(lines, field.name, unfolded.as_deref().unwrap_or(field.value)).ok_or(Malformed::Meaning)?;
        }
        self.looked = 0;
        Ok(Some((Head { status, version, fields }, length)))
    }

    fn more(&mut self, bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
        self.looked = bytes.len();
        if self.looked < MOST_BYTES { Ok(None) } else { Err(Malformed::TooLong) }
    }
}

/// Takes what legacy backends write. Most heads are as they should be, and need not be looked through for folds.
fn lenient() -> ParserConfig {
    let mut parser = ParserConfig::default();
    parser.allow_obsolete_multiline_headers_in_responses(true).allow_spaces_after_header_name_in_responses(true);
    parser
}

/// Whether the end of a head, an empty line, may be in what came behind so many bytes: a head that comes byte by byte is
/// not to be read anew for each.
fn may_end(bytes: &[u8], looked: usize) -> bool {
    let news = &bytes[looked.saturating_sub(2)..];
    news.windows(2).any(|two| two == b"\n\n") || news.windows(3).any(|three| three == b"\n\r\n")
}

/// The value of a field that was folded, in one line (RFC 9112 §5.2).
fn unfolded(folded: &[u8]) -> Vec<u8> {
    let mut lines = folded.split(|&byte| byte == b'\n');
    let mut value = lines.next().unwrap_or_default().trim_ascii_end().to_vec();
    for line in lines {
        value.push(b' ');
        value.extend_from_slice(line.trim_ascii());
    }
    value
}

impl Head {
    /// Whether an answer is still to follow.
    #[must_use]
    pub fn is_informational(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// How the body is framed, in the answer to a request with this method (RFC 9112 §6.3).
    ///
    /// # Errors
    ///
    /// Lengths that differ or are none; a transfer coding that is not understood, also where there is no body.
    pub fn body(&self, asked: &Method) -> Result<Decoder, Malformed> {
        let is_chunked = self.is_chunked()?;
        if *asked == Method::HEAD || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Decoder::length(0));
        }
        if is_chunked {
            return Ok(Decoder::chunked());
        }
        Ok(self.length()?.map_or_else(Decoder::until_close, Decoder::length))
    }

    /// Whether the connection may be used again once the body is through (RFC 9112 §9.3). After an answer with two ways of
    /// framing it is not: the two ends may differ over where it ended.
    #[must_use]
    pub fn persists(&self) -> bool {
        let mut keeps = self.version == Version::HTTP_11;
        for line in self.fields.get_all(CONNECTION) {
            for option in line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    return false;
                }
                keeps |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        keeps && !(self.fields.contains_key(TRANSFER_ENCODING) && self.fields.contains_key(CONTENT_LENGTH))
    }

    fn is_chunked(&self) -> Result<bool, Malformed> {
        let mut codings = self.fields.get_all(TRANSFER_ENCODING);
        match (codings.next(), codings.next()) {
            (None, _) => Ok(false),
            (Some(coding), None)
                if self.version == Version::HTTP_11
                    && coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") =>
            {
                Ok(true)
            }
            _ => Err(Malformed::Coding),
        }
    }

    /// The announced length. It may be said more than once, as long as it is the same.
    fn length(&self) -> Result<Option<u64>, Malformed> {
        let mut length = None;
        for line in self.fields.get_all(CONTENT_LENGTH) {
            for number in line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                let number = digits(number).ok_or(Malformed::Length)?;
                if length.is_some_and(|length| length != number) {
                    return Err(Malformed::Length);
                }
                length = Some(number);
            }
        }
        Ok(length)
    }
}

/// A number as it is written in a field: digits and nothing else, and no more than can be counted.
fn digits(text: &[u8]) -> Option<u64> {
    // `parse` would take a sign.
    let text = text.first().filter(|first| first.is_ascii_digit()).and_then(|_| std::str::from_utf8(text).ok())?;
    text.parse().ok().filter(|&length| length <= u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, BytesMut};

    use super::*;
    use crate::core::value::FieldValue;

    /// The head, and what is left of the bytes.
    fn read(text: &str) -> Result<Option<(Head, BytesMut)>, Malformed> {
        let mut bytes = BytesMut::from(text);
        Ok(Reader::default().read(&bytes)?.map(|(head, length)| {
            bytes.advance(length);
            (head, bytes)
        }))
    }

    fn head(text: &str) -> Head {
        read(text).unwrap().unwrap().0
    }

    #[test]
    fn a_head_is_taken_off_and_the_rest_is_left() {
        let (head, rest) = read("HTTP/1.1 200 Fine\r\nA: 1\r\nb:2 \r\nA:\r\n\r\nrest").unwrap().unwrap();
        assert_eq!((head.status, head.version, &rest[..]), (StatusCode::OK, Version::HTTP_11, &b"rest"[..]));
        let fields: Vec<_> = head.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("a", &b"1"[..]), ("b", b"2"), ("a", b"")]);
    }

    #[test]
    fn large_room_is_not_kept_for_an_answer() {
        for (length, is_kept) in [(100, true), (2 * LARGE, false)] {
            let value = FieldValue::try_from("a".repeat(length)).unwrap();
            let reader = Reader::with(Fields::from_iter([("a", value)]));
            assert_eq!(!reader.spare.is_empty(), is_kept, "{length}");
        }
    }

    #[test]
    fn what_legacy_backends_do_is_read_as_hyper_reads_it() {
        let head = head("\r\nHTTP/1.0 200\nA : 1\r\n\t2 \n  3\r\nB:\r\n x\r\n\r\n");
        let fields = ["a", "b"].map(|name| head.fields.get(name).unwrap().as_bytes());
        assert_eq!((head.version, fields), (Version::HTTP_10, [&b"1 2 3"[..], b"x"]));
    }

    #[test]
    fn what_is_no_head_is_an_error() {
        for text in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: first\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA b: 1\r\n\r\n",
            "HTTP/1.1 200 O\x01K\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn heads_are_bounded() {
        let fields = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(head(&fields(MOST_FIELDS)).fields.len(), MOST_FIELDS);
        assert_eq!(read(&fields(MOST_FIELDS + 1)).unwrap_err(), httparse::Error::TooManyHeaders.into());
        let long = |length: usize| format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(length));
        assert!(read(&long(MOST_BYTES - 100)).unwrap().is_none());
        assert_eq!(read(&long(MOST_BYTES)).unwrap_err(), Malformed::TooLong);
        assert_eq!(read(&format!("{}\r\n\r\n", long(MOST_BYTES))).unwrap_err(), Malformed::TooLong);
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_the_same() {
        for text in ["HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", "\n\r\nHTTP/1.1 200\n\n", "HTTP/1.1 200 OK\na: b\n\r\n"] {
            let (mut reader, mut bytes) = (Reader::default(), BytesMut::new());
            for (at, byte) in text.bytes().enumerate() {
                bytes.extend_from_slice(&[byte]);
                let is_whole = reader.read(&bytes).unwrap().is_some();
                assert_eq!(is_whole, at + 1 == text.len(), "{text:?} at {at}");
            }
        }
    }

    #[test]
    fn bodies_are_framed_as_rfc_9112_has_it() {
        const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
        let length = |length| Ok(Decoder::length(length));
        for (asked, status, fields, framing) in [
            ("GET", 200, "", Ok(Decoder::until_close())),
            ("GET", 200, "Content-Length: 5\r\n", length(5)),
            ("GET", 200, "Content-Length: 005\r\n", length(5)),
            ("GET", 200, "Content-Length: 5\r\nContent-Length: 5, 5\r\n", length(5)),
            ("GET", 200, "Content-Length: 5\r\nContent-Length: 6\r\n", Err(Malformed::Length)),
            ("GET", 200, "Content-Length: 5,\r\n", Err(Malformed::Length)),
            ("GET", 200, "Content-Length:\r\n", Err(Malformed::Length)),
            ("GET", 200, "Content-Length: +5\r\n", Err(Malformed::Length)),
            ("GET", 200, "Content-Length: -5\r\n", Err(Malformed::Length)),
            ("GET", 200, "Content-Length: 0x5\r\n", Err(Malformed::Length)),
            ("GET", 200, "Content-Length: 18446744073709551616\r\n", Err(Malformed::Length)),
            ("GET", 200, CHUNKED, Ok(Decoder::chunked())),
            ("GET", 200, "Transfer-Encoding: Chunked\r\nContent-Length: 5\r\n", Ok(Decoder::chunked())),
            ("GET", 200, "Transfer-Encoding: gzip, chunked\r\n", Err(Malformed::Coding)),
            ("GET", 200, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Malformed::Coding)),
            ("GET", 200, "Transfer-Encoding: identity\r\n", Err(Malformed::Coding)),
            ("GET", 200, "Transfer-Encoding:\r\n", Err(Malformed::Coding)),
            ("HEAD", 200, "Content-Length: 5\r\n", length(0)),
            ("HEAD", 200, "Content-Length: x\r\n", length(0)),
            ("HEAD", 200, CHUNKED, length(0)),
            ("HEAD", 200, "Transfer-Encoding: gzip\r\n", Err(Malformed::Coding)),
            ("GET", 204, "Content-Length: 5\r\n", length(0)),
            ("GET", 304, CHUNKED, length(0)),
            ("PUT", 205, "Content-Length: 5\r\n", length(5)),
        ] {
            let head = head(&format!("HTTP/1.1 {status}\r\n{fields}\r\n"));
            assert_eq!(head.body(&asked.parse().unwrap()), framing, "{asked} {status} {fields:?}");
        }
        let old = head(&format!("HTTP/1.0 200 OK\r\n{CHUNKED}\r\n"));
        assert_eq!(old.body(&Method::GET), Err(Malformed::Coding));
    }

    #[test]
    fn a_connection_is_used_again_where_both_ends_mean_it() {
        for (version, fields, persists) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: foo, Close\r\n", false),
            ("1.1", "Connection: close\r\nConnection: keep-alive\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: \u{e9}, close\r\n", false),
            ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = head(&format!("HTTP/{version} 200 OK\r\n{fields}\r\n"));
            assert_eq!(head.persists(), persists, "{version} {fields:?}");
        }
    }
}
