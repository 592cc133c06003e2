//! The head of an answer as bytes, and how its body is delimited (RFC 9112 §4, §6).
//!
//! Names are written as `http` keeps them, in lower case; a `Date` is added where there is none. What the fields say of the
//! body's length gives way to what the body says of itself, but for answers that have none. No I/O; the clock is read
//! for the date.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{
    HeaderMap, HeaderName, Method, StatusCode, Version,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE,
        HOST, MAX_FORWARDS, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    },
};
use httpdate::HttpDate;
use tokio::time::Instant;

use super::request::{Head, digits, lists};
use crate::{
    clock,
    core::{
        fields::{Fields, Marks},
        message::response,
        value::{Digits, Value},
    },
};

/// What an answer says of this hop and of its body's length.
const SAID_ANEW: [&str; 4] = ["connection", "content-length", "trailer", "transfer-encoding"];
const MAY_BE_SAID_ANEW: Marks = Marks::of(&SAID_ANEW);
/// Room for what is written beside the fields, mostly more than it needs; and for a body that goes out with its head.
const ROOM: usize = 128;
const SMALL: usize = 16 * 1024;

/// What of a request its answer depends on.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    is_head: bool,
    is_connect: bool,
    is_1_1: bool,
    takes_trailers: bool,
    /// Whether the connection may be used again, as far as the request is concerned.
    pub keeps_alive: bool,
}

/// What an answer's body says of its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// There is none.
    Empty,
    /// So many bytes.
    Exact(u64),
    /// Nothing.
    Unknown,
}

/// How an answer's body is delimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes, which may be none.
    Length(u64),
    /// In chunks, behind which these may stand.
    Chunked(Vec<HeaderName>),
    /// By the end of the connection, as HTTP/1.0 has it.
    UntilClose,
}

/// What was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// How the body that follows is delimited.
    pub framing: Framing,
    /// Whether the connection may be used again.
    pub keeps_alive: bool,
}

impl Asked {
    /// By the request with this head.
    #[must_use]
    pub fn by(head: &Head) -> Self {
        Self {
            is_head: head.request.method == Method::HEAD,
            is_connect: head.request.method == Method::CONNECT,
            is_1_1: head.request.version == Version::HTTP_11,
            takes_trailers: head.takes_trailers,
            keeps_alive: head.keeps_alive,
        }
    }

    /// Whether an answer with this status has no body, whatever its fields say (RFC 9112 §6.3).
    fn has_no_body(&self, status: StatusCode) -> bool {
        self.is_head || status == StatusCode::NOT_MODIFIED || self.says_no_length(status)
    }

    /// Whether it must not even say how long one would be (RFC 9110 §8.6).
    fn says_no_length(&self, status: StatusCode) -> bool {
        let opens_tunnel = self.is_connect && status.is_success();
        status.is_informational() || status == StatusCode::NO_CONTENT || opens_tunnel
    }
}

/// Writes the head of an answer.
pub fn write(out: &mut Vec<u8>, asked: &Asked, head: &response::Parts, size: Size) -> Written {
    let body = if let Size::Exact(length) = size { usize::try_from(length).unwrap_or(usize::MAX) } else { 0 };
    out.reserve(ROOM + head.headers.bytes() + if body <= SMALL { body } else { 0 });
    write_status(out, asked.is_1_1, head.status);
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let fields = &head.headers;
    let framing = framing(asked, head, size);
    let closes = fields.get_all(CONNECTION).any(|value| lists(value, "close"));
    let goes_on = framing != Framing::UntilClose && !switches && !(asked.is_connect && head.status.is_success());
    let keeps_alive = asked.keeps_alive && !closes && goes_on;
    // What the fields say of this hop and of the body's length is said anew behind them.
    fields.write(out, |name| !name.may_be(MAY_BE_SAID_ANEW) || !SAID_ANEW.iter().any(|said| name == said));
    let added = added(asked, keeps_alive, switches, fields);
    if added.is_some() || fields.contains_key(CONNECTION) {
        write_list(out, &CONNECTION, fields, added);
    }
    write_length(out, asked, head, &framing, size);
    if asked.is_1_1 && !asked.has_no_body(head.status) && fields.contains_key(TRAILER) {
        write_list(out, &TRAILER, fields, None);
    }
    if !fields.contains_key(DATE) {
        out.extend_from_slice(b"date: ");
        DATE_NOW.with_borrow_mut(|now| out.extend_from_slice(now.text().as_bytes()));
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Written { framing, keeps_alive }
}

fn write_status(out: &mut Vec<u8>, is_1_1: bool, status: StatusCode) {
    if is_1_1 && status == StatusCode::OK {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(if is_1_1 { b"HTTP/1.1 " } else { b"HTTP/1.0 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes all values of a field as one list, and one more.
fn write_list(out: &mut Vec<u8>, name: &HeaderName, fields: &Fields, added: Option<&str>) {
    out.extend_from_slice(name.as_str().as_bytes());
    let values = fields.get_all(name).map(Value::as_bytes).chain(added.map(str::as_bytes));
    for (place, value) in values.enumerate() {
        out.extend_from_slice(if place == 0 { b": " } else { b", " });
        out.extend_from_slice(value);
    }
    out.extend_from_slice(b"\r\n");
}

/// What `Connection` has to say beside what it says: HTTP/1.1 goes on and HTTP/1.0 ends unless it says otherwise.
fn added(asked: &Asked, keeps_alive: bool, switches: bool, fields: &Fields) -> Option<&'static str> {
    let says = |what| fields.get_all(CONNECTION).any(|value| lists(value, what));
    match (asked.is_1_1, keeps_alive) {
        (true, false) if !switches && !says("close") => Some("close"),
        (false, true) if !says("keep-alive") => Some("keep-alive"),
        (true | false, _) => None,
    }
}

fn framing(asked: &Asked, head: &response::Parts, size: Size) -> Framing {
    if asked.has_no_body(head.status) {
        return Framing::Length(0);
    }
    let said = || head.headers.get(CONTENT_LENGTH).and_then(|length| digits(length.as_bytes()));
    match size {
        Size::Empty => Framing::Length(0),
        Size::Exact(length) => Framing::Length(length),
        Size::Unknown => match said() {
            Some(length) => Framing::Length(length),
            None if asked.is_1_1 => Framing::Chunked(if asked.takes_trailers { announced(head) } else { Vec::new() }),
            None => Framing::UntilClose,
        },
    }
}

fn write_length(out: &mut Vec<u8>, asked: &Asked, head: &response::Parts, framing: &Framing, size: Size) {
    if asked.says_no_length(head.status) {
        return;
    }
    match framing {
        // Of the representation that the client is not sent.
        Framing::Length(_) if asked.has_no_body(head.status) => match (head.headers.get(CONTENT_LENGTH), size) {
            (Some(length), _) => write_field(out, "content-length", length.as_bytes()),
            (None, Size::Exact(length @ 1..)) if head.status != StatusCode::NOT_MODIFIED => write_number(out, length),
            (None, Size::Exact(_) | Size::Empty | Size::Unknown) => {}
        },
        Framing::Length(length) => write_number(out, *length),
        Framing::Chunked(_) => write_field(out, "transfer-encoding", b"chunked"),
        Framing::UntilClose => {}
    }
}

/// Writes a `Content-Length`.
fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(b"content-length: ");
    out.extend_from_slice(Digits::of(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The trailers that the answer's fields announce, as far as they may be some (RFC 9110 §6.5.1).
fn announced(head: &response::Parts) -> Vec<HeaderName> {
    let lines = head.headers.get_all(TRAILER).filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok());
    names.filter(may_trail).collect()
}

fn may_trail(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 12] = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        HOST,
        MAX_FORWARDS,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
    ];
    !NEVER.contains(name)
}

/// Writes the line before a chunk of so many bytes.
pub(super) fn write_chunk_size(out: &mut Vec<u8>, length: usize) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|place| HEX[length >> (4 * place) & 15]));
    out.extend_from_slice(b"\r\n");
}

/// Writes the end of a body in chunks, with those of the trailers that were announced.
pub(super) fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap, announced: &[HeaderName]) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.iter().filter(|(name, _)| announced.contains(name)) {
        write_field(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// The date as text, made anew every second.
struct DateNow {
    until: Option<Instant>,
    text: String,
}

thread_local! {
    static DATE_NOW: RefCell<DateNow> = const { RefCell::new(DateNow { until: None, text: String::new() }) };
}

impl DateNow {
    fn text(&mut self) -> &str {
        let now = clock::now();
        // The time of day may be set; until the next second nobody looks.
        if self.until.is_none_or(|until| now >= until) {
            let time = SystemTime::now();
            let part = time.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
            self.until = Some(now + Duration::from_secs(1) - Duration::from_nanos(part.into()));
            self.text = HttpDate::from(time).to_string();
        }
        &self.text
    }
}
