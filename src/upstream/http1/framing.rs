//! The body of an answer: bytes -> data, trailers, the end.
//!
//! As strict as hyper's decoder and in one thing stricter: within the framing no line ends with a bare LF, and no size has
//! more digits than a number.
//!
//! Deliberately absent: I/O, and any buffer but that of the trailers. Data is handed on as it lies in what was read.

use std::mem;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Status;

use super::head::{MOST_FIELDS, Malformed};

/// How many bytes of all lines with a size may be something else, of all chunks together.
const MOST_EXTENSIONS: u32 = 16 * 1024;
/// How many digits fill a size.
const MOST_DIGITS: u32 = 16;
/// How many bytes may stand behind the last chunk.
const MOST_TRAILERS: usize = 16 * 1024;

/// What comes next of a body.
#[derive(Debug)]
pub enum Part {
    /// A piece of it.
    Data(Bytes),
    /// What stands behind it. It has ended.
    Trailers(HeaderMap),
    /// Its end.
    End,
    /// Nothing, before more has been read.
    More,
}

/// Finds a body in what is read.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoder(Framing);

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

#[derive(Debug, PartialEq, Eq)]
struct Chunks {
    at: At,
    /// What is left of the chunk.
    size: u64,
    /// How many digits the size has.
    digits: u32,
    /// How much of the lines with sizes was something else.
    extensions: u32,
    trailers: Vec<u8>,
    /// How many lines of them have ended.
    fields: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    /// White space behind the size.
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a line behind the last chunk.
    Line,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl Decoder {
    /// Of a body of so many bytes.
    #[must_use]
    pub fn length(bytes: u64) -> Self {
        Self(Framing::Length(bytes))
    }

    /// Of one in chunks.
    #[must_use]
    pub fn chunked() -> Self {
        Self(Framing::Chunked(Chunks {
            at: At::Size,
            size: 0,
            digits: 0,
            extensions: 0,
            trailers: Vec::new(),
            fields: 0,
        }))
    }

    /// Of one that ends with the connection.
    #[must_use]
    pub fn until_close() -> Self {
        Self(Framing::UntilClose)
    }

    /// What is left of a length that was announced.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match &self.0 {
            Framing::Length(left) => Some(*left),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        match &self.0 {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunks) => chunks.at == At::End,
            Framing::UntilClose => false,
        }
    }

    /// Whether it ends where the connection does.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        self.0 == Framing::UntilClose
    }

    /// Takes what comes next off what was read.
    ///
    /// # Errors
    ///
    /// What was read is no body that is framed so.
    pub fn decode(&mut self, read: &mut Bytes) -> Result<Part, Malformed> {
        Ok(match &mut self.0 {
            Framing::Length(0) => Part::End,
            Framing::Length(left) => piece(left, read),
            Framing::Chunked(chunks) => chunks.decode(read)?,
            Framing::UntilClose if read.is_empty() => Part::More,
            Framing::UntilClose => Part::Data(mem::take(read)),
        })
    }
}

/// As much of what was read as there is left.
fn piece(left: &mut u64, read: &mut Bytes) -> Part {
    if read.is_empty() {
        return Part::More;
    }
    let length = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= length as u64;
    Part::Data(read.split_to(length))
}

impl Chunks {
    fn decode(&mut self, read: &mut Bytes) -> Result<Part, Malformed> {
        while self.at != At::End {
            if self.at == At::Data {
                let data = piece(&mut self.size, read);
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                return Ok(data);
            }
            let Some(&byte) = read.first() else { return Ok(Part::More) };
            read.advance(1);
            self.at = self.step(byte)?;
        }
        if self.trailers.is_empty() {
            return Ok(Part::End);
        }
        trailers(&mut mem::take(&mut self.trailers), self.fields).map(Part::Trailers)
    }

    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        match self.at {
            At::Size | At::Space | At::Extension | At::SizeLf => self.step_in_size(byte),
            At::DataCr if byte == b'\r' => Ok(At::DataLf),
            At::DataLf if byte == b'\n' => {
                self.digits = 0;
                Ok(At::Size)
            }
            At::Data | At::DataCr | At::DataLf => Err(Malformed::Chunk),
            At::Line | At::Trailer | At::TrailerLf | At::EndLf | At::End => self.step_in_trailers(byte),
        }
    }

    fn step_in_size(&mut self, byte: u8) -> Result<At, Malformed> {
        match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() => {
                self.digits += 1;
                let digit = char::from(byte).to_digit(16).filter(|_| self.digits <= MOST_DIGITS);
                self.size = self.size << 4 | u64::from(digit.ok_or(Malformed::Size)?);
                Ok(At::Size)
            }
            (At::Size, _) if self.digits == 0 => Err(Malformed::Size),
            (At::Size | At::Space | At::Extension, b'\r') => Ok(At::SizeLf),
            (At::Size | At::Space, b' ' | b'\t') => self.extends(At::Space),
            (At::Size | At::Space, b';') => self.extends(At::Extension),
            (At::Extension, _) if byte != b'\n' => self.extends(At::Extension),
            (At::SizeLf, b'\n') => Ok(if self.size == 0 { At::Line } else { At::Data }),
            (_, _) => Err(Malformed::Size),
        }
    }

    fn step_in_trailers(&mut self, byte: u8) -> Result<At, Malformed> {
        let next = match (self.at, byte) {
            (At::Line, b'\r') => return Ok(At::EndLf),
            (At::EndLf, b'\n') => return Ok(At::End),
            (At::Trailer, b'\r') => return Ok(At::TrailerLf),
            (At::Line | At::Trailer, _) if byte != b'\n' => At::Trailer,
            (At::TrailerLf, b'\n') if self.fields < MOST_FIELDS => {
                self.fields += 1;
                At::Line
            }
            (_, _) => return Err(Malformed::Trailers),
        };
        self.trailers.push(byte);
        if self.trailers.len() < MOST_TRAILERS { Ok(next) } else { Err(Malformed::Trailers) }
    }

    fn extends(&mut self, next: At) -> Result<At, Malformed> {
        self.extensions += 1;
        if self.extensions < MOST_EXTENSIONS { Ok(next) } else { Err(Malformed::Size) }
    }
}

/// The fields of these lines, each of which has an end.
fn trailers(lines: &mut Vec<u8>, count: usize) -> Result<HeaderMap, Malformed> {
    lines.push(b'\n');
    let mut room = vec![httparse::EMPTY_HEADER; count];
    let Ok(Status::Complete((_, found))) = httparse::parse_headers(lines, &mut room) else {
        return Err(Malformed::Trailers);
    };
    let mut fields = HeaderMap::with_capacity(found.len());
    for field in found {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Trailers)?;
        fields.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Malformed::Trailers)?);
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body that these bytes are, come in pieces of this size; its trailers, and what is left.
    fn read(mut decoder: Decoder, bytes: &[u8], size: usize) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Malformed> {
        let (mut body, mut trailers, mut read) = (Vec::new(), HeaderMap::new(), Bytes::new());
        let mut pieces = bytes.chunks(size);
        loop {
            match decoder.decode(&mut read)? {
                Part::Data(data) => {
                    assert!(!data.is_empty());
                    body.extend_from_slice(&data);
                }
                Part::Trailers(fields) => trailers = fields,
                Part::End => break,
                Part::More => match pieces.next() {
                    Some(piece) => read = Bytes::copy_from_slice(piece),
                    None => return Err(Malformed::Chunk),
                },
            }
        }
        assert!(decoder.is_at_end());
        let rest = read.iter().chain(pieces.flatten()).copied().collect();
        Ok((body, trailers, rest))
    }

    #[test]
    fn chunks_are_read_however_they_are_cut() {
        for (text, body, trailer) in [
            ("0\r\n\r\n", "", None),
            ("5\r\nhello\r\n0\r\n\r\n", "hello", None),
            ("a\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n", "0123456789x", None),
            ("00000000000000A \t;x=\"y\"\r\n0123456789\r\n0;\r\n\r\n", "0123456789", None),
            ("0\r\nX-Sum: 1\r\nY:2\r\n\r\n", "", Some("1")),
            ("1\r\n\n\r\n0\r\nX-Sum:\r\n\r\n", "\n", Some("")),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                let whole = format!("{text}rest");
                let (came, trailers, rest) = read(Decoder::chunked(), whole.as_bytes(), size).unwrap();
                assert_eq!((came.as_slice(), rest.as_slice()), (body.as_bytes(), &b"rest"[..]), "{text:?}");
                assert_eq!(trailers.get("x-sum").map(|sum| sum.as_bytes()), trailer.map(str::as_bytes), "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for text in [
            "\r\n",
            "\n",
            " 1\r\nx\r\n0\r\n\r\n",
            "+1\r\nx\r\n0\r\n\r\n",
            "0x1\r\nx\r\n0\r\n\r\n",
            "1_0\r\n",
            "1 1\r\n",
            ";\r\n",
            "1\nx\r\n0\r\n\r\n",
            "1\rx",
            "1;a\nx\r\n",
            "1;a\rb\r\nx",
            "1\r\nxy\r\n0\r\n\r\n",
            "1\r\nx\n0\r\n\r\n",
            "1\r\nx\r0\r\n\r\n",
            "10000000000000000\r\n",
            "00000000000000001\r\n",
            "0\r\n\n",
            "0\n\r\n",
            "0\r\n\rx",
            "0\r\nA: 1\n\r\n",
            "0\r\nA: 1\rB: 2\r\n\r\n",
            "0\r\nA: 1\r\n folded\r\n\r\n",
            "0\r\nA : 1\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
        ] {
            for size in [1, 1000] {
                let read = read(Decoder::chunked(), text.as_bytes(), size);
                assert!(read.is_err(), "{text:?} {read:?}");
            }
        }
    }

    #[test]
    fn what_stands_around_chunks_is_bounded() {
        let limit = MOST_EXTENSIONS as usize;
        let extended = |length: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(length));
        assert!(read(Decoder::chunked(), extended(limit - 2).as_bytes(), 100).is_ok());
        for text in [
            extended(limit - 1),
            "1;a\r\nx\r\n".repeat(limit),
            "1 \r\nx\r\n".repeat(limit),
            format!("0\r\n{}\r\n", "a:b\r\n".repeat(MOST_FIELDS + 1)),
            format!("0\r\na:{}\r\n\r\n", "b".repeat(MOST_TRAILERS)),
        ] {
            assert!(read(Decoder::chunked(), text.as_bytes(), 1000).is_err(), "{:?}", &text[..20]);
        }
        let most = format!("0\r\n{}\r\n", "a:b\r\n".repeat(MOST_FIELDS));
        assert_eq!(read(Decoder::chunked(), most.as_bytes(), 1000).unwrap().1.len(), MOST_FIELDS);
    }

    #[test]
    fn a_length_is_counted_and_the_rest_is_left() {
        for size in [1, 3, 100] {
            let (body, _, rest) = read(Decoder::length(5), b"hello, rest", size).unwrap();
            assert_eq!((&body[..], &rest[..]), (&b"hello"[..], &b", rest"[..]));
        }
        let mut decoder = Decoder::length(5);
        let mut read = Bytes::from_static(b"hel");
        assert!(matches!(decoder.decode(&mut read), Ok(Part::Data(_))));
        assert!(matches!(decoder.decode(&mut read), Ok(Part::More)));
        assert_eq!((decoder.left(), decoder.is_at_end()), (Some(2), false));
    }

    #[test]
    fn without_a_length_all_is_data_until_the_connection_ends() {
        let mut decoder = Decoder::until_close();
        let mut read = Bytes::from_static(b"0\r\n\r\n");
        assert!(matches!(decoder.decode(&mut read), Ok(Part::Data(data)) if &data[..] == b"0\r\n\r\n"));
        assert!(matches!(decoder.decode(&mut read), Ok(Part::More)));
        assert!(decoder.ends_with_connection() && !decoder.is_at_end());
    }
}
