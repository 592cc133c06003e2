//! A request on its way out: its head as it is given, its body as its size says.
//!
//! What is small goes with the head in one write; a large piece goes beside it, uncopied, in one vectored write. No more of
//! the body is asked for before what was taken of it has been written.
//!
//! Deliberately absent: any judgement of fields. What must not be passed on is not given to this.

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName,
    header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING},
};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use crate::{
    core::{
        fields::{Fields, Marks},
        message::request::Parts,
        value::Digits,
    },
    upstream::BoxError,
};

/// What says how a body is delimited.
const FRAMING: Marks = Marks::of(&["content-length", "transfer-encoding"]);
/// For the lines that do, and the end of a head.
const ROOM: usize = 64;
/// As much is written from one place: copying it costs less than a vectored write.
const FLAT: usize = 16 * 1024;
/// As much stays with a connection that is not in use.
const KEPT: usize = 8 * 1024;

/// A request that is being sent.
#[derive(Debug)]
pub(super) struct Outgoing<B> {
    /// What is written next, from here on.
    flat: Vec<u8>,
    at: usize,
    /// What follows it.
    piece: Bytes,
    /// And that.
    behind: &'static [u8],
    framing: Framing,
    /// `None` once all of it has been taken.
    body: Option<B>,
    has_begun: bool,
}

#[derive(Debug)]
enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// With these trailers, if any come.
    Chunked(Vec<HeaderName>),
}

/// Why a request was not sent to its end.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The connection takes no more.
    There(io::Error),
    /// The body broke off, or is not as long as it said.
    Here(BoxError),
}

/// A body that is not as long as it said.
#[derive(Debug, thiserror::Error)]
#[error("the body is not as long as it said")]
struct Mismatch;

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The request with this head and body, to be written from this buffer.
    pub(super) fn new(mut flat: Vec<u8>, head: &Parts, body: B) -> Self {
        let body = Some(body).filter(|body| !body.is_end_stream());
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        for part in [head.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            flat.extend_from_slice(part.as_bytes());
        }
        flat.reserve(head.headers.bytes() + ROOM);
        head.headers.write(&mut flat, |name| {
            !name.may_be(FRAMING) || name != TRANSFER_ENCODING && (name != CONTENT_LENGTH || body.is_none())
        });
        let framing = match body.as_ref().map(|body| body.size_hint().exact()) {
            None => Framing::Length(0),
            Some(Some(length)) => {
                put_field(&mut flat, &CONTENT_LENGTH, Digits::of(length).as_bytes());
                Framing::Length(length)
            }
            Some(None) => {
                put_field(&mut flat, &TRANSFER_ENCODING, b"chunked");
                Framing::Chunked(announced(&head.headers))
            }
        };
        flat.extend_from_slice(b"\r\n");
        Self { flat, at: 0, piece: Bytes::new(), behind: b"", framing, body, has_begun: false }
    }

    /// Sends what there is. Ready once all of it has been handed to the kernel.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut W,
    ) -> Poll<Result<(), Stopped>> {
        let mut waits = false;
        loop {
            while !waits && self.has_room() {
                let Some(body) = &mut self.body else { break };
                match Pin::new(body).poll_frame(cx) {
                    Poll::Ready(frame) => self.put(frame)?,
                    Poll::Pending => waits = true,
                }
            }
            if self.is_written() {
                // Over TLS there may be a rest that was encrypted and not handed on.
                ready!(Pin::new(&mut *wire).poll_flush(cx)).map_err(Stopped::There)?;
                if self.body.is_some() {
                    return Poll::Pending;
                }
                self.leave_little();
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_write(cx, wire)).map_err(Stopped::There)?;
        }
    }

    fn put(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>) -> Result<(), Stopped> {
        let Some(frame) = frame else { return self.end(None) };
        match frame.map_err(|error| Stopped::Here(error.into()))?.into_data() {
            Ok(data) => {
                if !data.is_empty() {
                    self.put_data(data)?;
                }
                if self.body.as_ref().is_some_and(Body::is_end_stream) { self.end(None) } else { Ok(()) }
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => self.end(Some(trailers)),
                Err(_) => Ok(()),
            },
        }
    }

    fn put_data(&mut self, data: Bytes) -> Result<(), Stopped> {
        let behind: &[u8] = match &mut self.framing {
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or_else(|| Stopped::Here(Mismatch.into()))?;
                b""
            }
            Framing::Chunked(_) => {
                write!(self.flat, "{:X}\r\n", data.len()).expect("a vector takes everything");
                b"\r\n"
            }
        };
        if self.flat.len() - self.at + data.len() <= FLAT {
            self.flat.extend_from_slice(&data);
            self.flat.extend_from_slice(behind);
        } else {
            (self.piece, self.behind) = (data, behind);
        }
        Ok(())
    }

    /// There is no more of the body.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Stopped> {
        self.body = None;
        match &self.framing {
            Framing::Length(0) => {}
            Framing::Length(_) => return Err(Stopped::Here(Mismatch.into())),
            // A large piece is still before it; trailers come only once there is none.
            Framing::Chunked(_) if !self.piece.is_empty() => self.behind = b"\r\n0\r\n\r\n",
            Framing::Chunked(announced) => {
                self.flat.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flatten().filter(|(name, _)| announced.contains(name)) {
                    put_field(&mut self.flat, name, value.as_bytes());
                }
                self.flat.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }
}

impl<B> Outgoing<B> {
    /// Whether a byte of it may have left.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The buffer, for the next.
    pub(super) fn into_buffer(mut self) -> Vec<u8> {
        self.flat.clear();
        self.leave_little();
        self.flat
    }

    /// Gives back what is more than is kept, of a buffer that is empty: the answer may be long in coming.
    fn leave_little(&mut self) {
        if self.flat.capacity() > KEPT {
            self.flat = Vec::new();
        }
    }

    fn has_room(&self) -> bool {
        self.piece.is_empty() && self.behind.is_empty() && self.flat.len() - self.at < FLAT
    }

    fn is_written(&self) -> bool {
        self.flat.is_empty() && self.piece.is_empty() && self.behind.is_empty()
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, wire: &mut W) -> Poll<io::Result<()>> {
        let wire = Pin::new(wire);
        let flat = &self.flat[self.at..];
        let written = if self.piece.is_empty() && self.behind.is_empty() {
            wire.poll_write(cx, flat)
        } else {
            wire.poll_write_vectored(cx, &[flat, &self.piece, self.behind].map(IoSlice::new))
        };
        // Over TLS a write that fails may have sent a part.
        self.has_begun |= written.is_ready();
        let mut written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let mut through = |length: usize| {
            let part = written.min(length);
            written -= part;
            part
        };
        self.at += through(flat.len());
        if self.at == self.flat.len() {
            (self.at, _) = (0, self.flat.clear());
        }
        let part = through(self.piece.len());
        drop(self.piece.split_to(part));
        let part = through(self.behind.len());
        self.behind = &self.behind[part..];
        Poll::Ready(Ok(()))
    }
}

fn put_field(flat: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
        flat.extend_from_slice(part);
    }
}

/// The trailers that are announced. Others are left behind: the recipient may not expect them (RFC 9110 §6.5.1).
fn announced(fields: &Fields) -> Vec<HeaderName> {
    let lines = fields.get_all(TRAILER).filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use crate::core::message::Request;
    use std::{collections::VecDeque, task::Waker};

    use super::*;

    /// Takes so many bytes at a time, and every other time none.
    struct Narrow {
        most: usize,
        taken: Vec<u8>,
        writes: usize,
        is_blocked: bool,
    }

    impl Narrow {
        fn new(most: usize) -> Self {
            Self { most, taken: Vec::new(), writes: 0, is_blocked: false }
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.is_blocked = !self.is_blocked && self.most < usize::MAX;
            if self.is_blocked {
                return Poll::Pending;
            }
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(self.most).collect();
            self.writes += 1;
            self.taken.extend_from_slice(&bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A body of these frames, which says that it is so long.
    struct Frames(VecDeque<Result<Frame<Bytes>, &'static str>>, Option<u64>);

    impl Frames {
        fn of<const N: usize>(pieces: [&str; N], length: Option<u64>) -> Self {
            Self(pieces.map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece.as_bytes())))).into(), length)
        }
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(self.0.pop_front())
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> http_body::SizeHint {
            self.1.map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
        }
    }

    fn request(method: &str, fields: &[(&'static str, &'static str)], body: Frames) -> Outgoing<Frames> {
        let mut request = http::Request::builder().method(method).uri("/notes?n=1");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, body) = Request::from(request.body(body).unwrap()).into_parts();
        Outgoing::new(Vec::new(), &head, body)
    }

    /// What is written by way of something that takes so much at a time, and in how many writes.
    fn written(mut request: Outgoing<Frames>, most: usize) -> Result<(String, usize), Stopped> {
        let mut wire = Narrow::new(most);
        loop {
            if let Poll::Ready(end) = request.poll(&mut Context::from_waker(Waker::noop()), &mut wire) {
                let text = String::from_utf8(wire.taken).unwrap();
                return end.map(|()| (text, wire.writes));
            }
        }
    }

    #[test]
    fn a_body_is_framed_by_what_it_says_of_its_length() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], fn() -> Frames, &'static str);
        let none = || Frames::of([], Some(0));
        let cases: [Case; 8] = [
            ("GET", &[("host", "h"), ("a", "1"), ("a", "2")], none, "host: h\r\na: 1\r\na: 2\r\n\r\n"),
            ("PUT", &[("content-length", "0")], none, "content-length: 0\r\n\r\n"),
            ("GET", &[("transfer-encoding", "chunked")], none, "\r\n"),
            (
                "PUT",
                &[("content-length", "5")],
                || Frames::of(["he", "llo"], Some(5)),
                "content-length: 5\r\n\r\nhello",
            ),
            ("PUT", &[("b", "")], || Frames::of(["hello"], Some(5)), "b: \r\ncontent-length: 5\r\n\r\nhello"),
            (
                "GET",
                &[("transfer-encoding", "chunked")],
                || Frames::of(["he", "", "llo"], None),
                "transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            ),
            // What the fields say otherwise would mean another message.
            (
                "PUT",
                &[("content-length", "9")],
                || Frames::of(["x"], None),
                "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            ),
            ("PUT", &[("transfer-encoding", "chunked")], || Frames::of(["x"], Some(1)), "content-length: 1\r\n\r\nx"),
        ];
        for (method, fields, body, rest) in cases {
            let whole = format!("{method} /notes?n=1 HTTP/1.1\r\n{rest}");
            for most in [1, 7, usize::MAX] {
                let (text, writes) = written(request(method, fields, body()), most).unwrap();
                assert_eq!(text, whole);
                assert!(most < usize::MAX || writes == 1, "{writes} writes for {rest:?}");
            }
        }
    }

    #[test]
    fn large_pieces_keep_their_place_among_small_ones() {
        let large = "x".repeat(3 * FLAT);
        let pieces = || [&large, "ab", &large, &large, "cd"].map(String::from);
        let framed: String = pieces().iter().map(|piece| format!("{:X}\r\n{piece}\r\n", piece.len())).collect();
        for most in [1000, FLAT, usize::MAX] {
            let all = pieces();
            let all = [&all[0], &all[1], &all[2], &all[3], &all[4]].map(String::as_str);
            let (text, _) = written(request("PUT", &[], Frames::of(all, None)), most).unwrap();
            let head = "PUT /notes?n=1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
            assert!(text == format!("{head}{framed}0\r\n\r\n"), "{most}");
            let length = all.iter().map(|piece| piece.len() as u64).sum();
            let (text, _) = written(request("PUT", &[], Frames::of(all, Some(length))), most).unwrap();
            assert!(text.ends_with(&format!("\r\n\r\n{}", all.concat())), "{most}");
        }
        let (_, writes) = written(request("PUT", &[], Frames::of([&large], None)), usize::MAX).unwrap();
        assert_eq!(writes, 1, "a head, a piece and an end are one vectored write");
    }

    #[test]
    fn only_trailers_that_were_announced_follow_a_body() {
        let trailers = HeaderMap::from_iter([
            ("x-sum".parse().unwrap(), http::HeaderValue::from_static("1")),
            ("x-other".parse().unwrap(), http::HeaderValue::from_static("2")),
        ]);
        for (announced, end) in [("X-Sum, y", "0\r\nx-sum: 1\r\n\r\n"), ("y", "0\r\n\r\n")] {
            for piece in ["x", &"x".repeat(FLAT)] {
                let mut body = Frames::of([piece], None);
                body.0.push_back(Ok(Frame::trailers(trailers.clone())));
                let (text, _) = written(request("PUT", &[("trailer", announced)], body), 100_000).unwrap();
                assert!(text.ends_with(&format!("x\r\n{end}")), "{announced}");
            }
        }
    }

    #[test]
    fn a_body_that_is_not_what_it_said_is_no_body() {
        for body in [
            Frames::of(["hell"], Some(5)),
            Frames::of(["hello", "!"], Some(5)),
            Frames([Ok(Frame::data(Bytes::from_static(b"hello"))), Err("broke off")].into(), None),
        ] {
            assert!(matches!(written(request("PUT", &[], body), usize::MAX), Err(Stopped::Here(_))));
        }
    }
}
