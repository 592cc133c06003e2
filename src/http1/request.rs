//! The head of a request from bytes (RFC 9112 §2 to §6): what is asked, how its body is delimited, whether the connection
//! may be used again.
//!
//! The bytes are told apart by `httparse`; what is decided here is what its fields mean for the connection. No I/O.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{Extensions, Method, StatusCode, Uri, Version, header::CONTENT_LENGTH};
use httparse::Status;

use crate::core::{
    fields::{Fields, Marks},
    message::request::Parts,
    value::Value,
};

/// What says something of the connection, or of how the body is delimited.
const OF_THIS_HOP: Marks = Marks::of(&["connection", "content-length", "expect", "te", "transfer-encoding", "upgrade"]);
/// As many fields as nearly all requests have, with room to spare.
const FEW: usize = 128;
/// The longest target; `http` counts its bytes in 16 bits.
const LONGEST_TARGET: usize = u16::MAX as usize - 1;
/// A body that says that it is longer can't be counted.
const LONGEST_BODY: u64 = u64::MAX - 2;

/// How large a head may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// In bytes.
    pub bytes: usize,
    /// How many fields it may have.
    pub fields: usize,
}

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks (RFC 9112 §7.1).
    Chunked,
}

/// A head.
#[derive(Debug)]
pub struct Head {
    /// What is asked.
    pub request: Box<Parts>,
    /// How its body is delimited.
    pub framing: Framing,
    /// Whether the connection may be used again, as far as the client is concerned.
    pub keeps_alive: bool,
    /// Whether its body is sent only after a `100 Continue`.
    pub awaits_continue: bool,
    /// Whether it asks to go on with another protocol.
    pub asks_to_switch: bool,
    /// Whether trailers may stand behind the answer's body (RFC 9110 §10.1.4).
    pub takes_trailers: bool,
}

/// Why a head is not one that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not as RFC 9112 has it, or does not say for sure where its body ends.
    #[error("the head of the request can't be read")]
    Malformed,
    /// It is longer or has more fields than it may.
    #[error("the head of the request is too large")]
    TooLarge,
    /// Its target is longer than any may be.
    #[error("the target of the request is too long")]
    TargetTooLong,
}

impl Refusal {
    /// What the client is told.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
        }
    }
}

/// Whether there may be a whole head in these bytes, of which the first `seen` were looked at before: so that one that
/// comes byte by byte is not read anew with each.
#[must_use]
pub fn may_be_whole(bytes: &[u8], seen: usize) -> bool {
    let unseen = &bytes[seen.saturating_sub(3).min(bytes.len())..];
    unseen.windows(2).any(|two| two == b"\n\n") || unseen.windows(3).any(|three| three == b"\n\r\n")
}

/// Reads the head that these bytes begin with, and how long it is; `None`: there is more to come. Empty lines before it
/// are a part of it (RFC 9112 §2.2).
///
/// # Errors
///
/// Something that is no head, whatever may follow.
pub fn parse(bytes: &[u8], bounds: &Bounds) -> Result<Option<(Head, usize)>, Refusal> {
    let mut few = [const { MaybeUninit::uninit() }; FEW];
    match parse_with(bytes, bounds, &mut few[..bounds.fields.min(FEW)]) {
        Err(Refusal::TooLarge) if bounds.fields > FEW => {
            let mut many = vec![MaybeUninit::uninit(); bounds.fields];
            parse_with(bytes, bounds, &mut many)
        }
        parsed => parsed,
    }
}

fn parse_with<'b>(
    bytes: &'b [u8],
    bounds: &Bounds,
    fields: &mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<Option<(Head, usize)>, Refusal> {
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, fields) {
        Ok(Status::Complete(length)) if length <= bounds.bytes => length,
        Ok(Status::Partial) if bytes.len() < bounds.bytes => return Ok(None),
        Ok(Status::Complete(_) | Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::TooLarge);
        }
        Err(_) => return Err(Refusal::Malformed),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::Malformed);
    };
    if target.len() > LONGEST_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::Malformed)?;
    let target = Bytes::copy_from_slice(target.as_bytes());
    let uri = Uri::from_maybe_shared(target).map_err(|_| Refusal::Malformed)?;
    let mut said = Said { is_1_1: version == 1, keeps_alive: version == 1, ..Said::default() };
    let begin = parsed.headers.first().map_or(length, |first| first.name.as_ptr().addr() - bytes.as_ptr().addr());
    let lines = &bytes[begin..length];
    let mut fields = Fields::new();
    fields.copy(lines, parsed.headers.len());
    for field in parsed.headers.iter() {
        let is_noted = OF_THIS_HOP.may_have(field.name);
        if !is_noted || said.stays(field.name, Value::in_field(field.value), &mut fields)? {
            fields.read(lines, field.name, field.value).ok_or(Refusal::Malformed)?;
        }
    }
    let version = if version == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    // In a box, since it is handed on from step to step.
    let request = Box::new(Parts { method, uri, version, headers: fields, extensions: Extensions::new() });
    said.head(request).map(|head| Some((head, length)))
}

/// What the fields say of the connection.
#[derive(Default)]
struct Said {
    is_1_1: bool,
    keeps_alive: bool,
    closes: bool,
    /// Whether there is a `Content-Length`, and which. It gives way to a transfer coding.
    is_sized: bool,
    length: Option<u64>,
    /// Whether there is a `Transfer-Encoding`, and whether the last coding of the last one is `chunked`.
    is_coded: bool,
    is_chunked: bool,
    awaits_continue: bool,
    upgrades: bool,
    takes_trailers: bool,
}

impl Said {
    /// Notes what this field says. Returns whether it stays among the `fields`.
    fn stays(&mut self, name: &str, value: Value<'_>, fields: &mut Fields) -> Result<bool, Refusal> {
        let is = |other| name.eq_ignore_ascii_case(other);
        if is("content-length") {
            self.is_sized = true;
            if self.is_coded {
                return Ok(false);
            }
            let length = digits(value.as_bytes()).ok_or(Refusal::Malformed)?;
            match self.length {
                Some(before) if before == length => return Ok(false),
                Some(_) => return Err(Refusal::Malformed),
                None if length > LONGEST_BODY => return Err(Refusal::TooLarge),
                None => self.length = Some(length),
            }
        } else if is("transfer-encoding") {
            if !self.is_1_1 {
                return Err(Refusal::Malformed);
            }
            self.is_coded = true;
            if self.length.take().is_some() {
                fields.remove(CONTENT_LENGTH);
            }
            let last = value.as_bytes().rsplit(|&byte| byte == b',').next().unwrap_or_default();
            self.is_chunked = value.to_str().is_ok() && last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        } else if is("connection") {
            self.closes |= lists(value, "close");
            self.keeps_alive = !self.closes && (self.keeps_alive || lists(value, "keep-alive"));
        } else if is("expect") {
            self.awaits_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        } else if is("upgrade") {
            self.upgrades = self.is_1_1;
        } else if is("te") {
            self.takes_trailers |= lists(value, "trailers");
        }
        Ok(true)
    }

    fn head(self, request: Box<Parts>) -> Result<Head, Refusal> {
        if self.is_coded && !self.is_chunked {
            return Err(Refusal::Malformed);
        }
        let framing = if self.is_coded { Framing::Chunked } else { Framing::Length(self.length.unwrap_or(0)) };
        Ok(Head {
            framing,
            // Who sends both lengths may mean either; what follows is not looked at (RFC 9112 §6.1).
            keeps_alive: self.keeps_alive && !(self.is_coded && self.is_sized),
            awaits_continue: self.awaits_continue && self.is_1_1 && framing != Framing::Length(0),
            asks_to_switch: self.upgrades || request.method == Method::CONNECT,
            takes_trailers: self.takes_trailers,
            request,
        })
    }
}

/// Digits and nothing else, unlike what `parse` of a number takes.
pub(super) fn digits(bytes: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let add = |number: u64, byte| number.checked_mul(10)?.checked_add(digit(byte)?);
    if bytes.is_empty() { None } else { bytes.iter().try_fold(0, add) }
}

/// Whether this is among the members of a list.
pub(super) fn lists(value: Value<'_>, token: &str) -> bool {
    value.to_str().is_ok_and(|list| list.split(',').any(|member| member.trim().eq_ignore_ascii_case(token)))
}
