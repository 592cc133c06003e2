//! A body in chunks (RFC 9112 §7.1), from bytes. No I/O.
//!
//! Lines end with CR and LF and nothing else, sizes are digits and nothing else, and what is between them is bounded: the
//! extensions of all chunks together, and the trailers as a head is.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Status;

use super::request::Bounds;

/// How many bytes all extensions together may have.
const EXTENSIONS: usize = 16 * 1024;
/// How many digits and blanks a size may have.
const SIZE: usize = 256;

/// How far a body has been read.
#[derive(Debug, Clone)]
pub struct Chunked {
    state: State,
    /// What is left of the chunk.
    left: u64,
    /// How many bytes its size has had.
    size: usize,
    extensions: usize,
    trailers: Vec<u8>,
    lines: usize,
    bounds: Bounds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Size,
    Blank,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a trailer, or of the last line.
    Line,
    Trailer,
    TrailerLf,
    LastLf,
    End,
}

/// What comes next of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Some of its content.
    Data(Bytes),
    /// What stands behind it; the end is next.
    Trailers(HeaderMap),
    /// Nothing.
    End,
}

/// The chunks are not as they should be, so that nobody can say where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of the body can't be read: {0}")]
pub struct BadChunk(&'static str);

impl Chunked {
    /// A body that begins. Its trailers are bounded as a head is.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let (state, trailers) = (State::Start, Vec::new());
        Self { state, left: 0, size: 0, extensions: 0, trailers, lines: 0, bounds }
    }

    /// Takes what comes next from these bytes; `None`: there is more to come.
    ///
    /// # Errors
    ///
    /// Something that is no body in chunks, whatever may follow.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, BadChunk> {
        let mut taken = 0;
        while taken < bytes.len() && !matches!(self.state, State::Data | State::End) {
            self.state = self.step(bytes[taken])?;
            taken += 1;
        }
        bytes.advance(taken);
        if self.state == State::End {
            let trailers = if self.trailers.is_empty() { None } else { Some(self.take_trailers()?) };
            return Ok(Some(trailers.map_or(Piece::End, Piece::Trailers)));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= length as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        Ok(Some(Piece::Data(bytes.split_to(length).freeze())))
    }

    fn step(&mut self, byte: u8) -> Result<State, BadChunk> {
        Ok(match (self.state, byte) {
            (State::Start | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                let larger = self.left.checked_mul(16).and_then(|left| left.checked_add(digit));
                self.left = larger.ok_or(BadChunk("a size that can't be counted"))?;
                self.count_size()?;
                State::Size
            }
            (State::Size | State::Blank, b' ' | b'\t') => {
                self.count_size()?;
                State::Blank
            }
            (State::Size | State::Blank, b';') => State::Extension,
            (State::Size | State::Blank | State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, b'\n') => return Err(BadChunk("a line feed in an extension")),
            (State::Extension, _) => {
                self.extensions += 1;
                if self.extensions >= EXTENSIONS {
                    return Err(BadChunk("too many extensions"));
                }
                State::Extension
            }
            (State::SizeEnd, b'\n') => {
                self.size = 0;
                if self.left == 0 { State::Line } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Start,
            (State::Line, b'\r') => {
                self.keep(byte)?;
                State::LastLf
            }
            (State::Line | State::Trailer, _) => {
                self.trailers.push(byte);
                self.check_trailers()?;
                if byte == b'\r' { State::TrailerLf } else { State::Trailer }
            }
            (State::TrailerLf, b'\n') => {
                self.lines += 1;
                if self.lines > self.bounds.fields {
                    return Err(BadChunk("too many trailers"));
                }
                self.keep(byte)?;
                State::Line
            }
            (State::LastLf, b'\n') => {
                self.keep(byte)?;
                State::End
            }
            (State::Start | State::Size | State::Blank, _) => return Err(BadChunk("a size that is none")),
            (State::SizeEnd | State::DataCr | State::DataLf, _) => return Err(BadChunk("a line without its end")),
            (State::TrailerLf | State::LastLf, _) => return Err(BadChunk("a carriage return within a trailer")),
            (State::Data | State::End, _) => self.state,
        })
    }

    fn count_size(&mut self) -> Result<(), BadChunk> {
        self.size += 1;
        if self.size > SIZE { Err(BadChunk("a size that does not end")) } else { Ok(()) }
    }

    /// Keeps a byte of a line's end, where there are trailers.
    fn keep(&mut self, byte: u8) -> Result<(), BadChunk> {
        if !self.trailers.is_empty() {
            self.trailers.push(byte);
        }
        self.check_trailers()
    }

    fn check_trailers(&self) -> Result<(), BadChunk> {
        if self.trailers.len() >= self.bounds.bytes { Err(BadChunk("too many trailers")) } else { Ok(()) }
    }

    fn take_trailers(&mut self) -> Result<HeaderMap, BadChunk> {
        const BAD: BadChunk = BadChunk("a trailer that is no field");
        let text = std::mem::take(&mut self.trailers);
        let mut lines = vec![httparse::EMPTY_HEADER; self.lines];
        let Ok(Status::Complete((length, fields))) = httparse::parse_headers(&text, &mut lines) else {
            return Err(BAD);
        };
        if length != text.len() {
            return Err(BAD);
        }
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BAD)?;
            let value = HeaderValue::from_bytes(field.value).map_err(|_| BAD)?;
            trailers.try_append(name, value).map_err(|_| BAD)?;
        }
        Ok(trailers)
    }
}
