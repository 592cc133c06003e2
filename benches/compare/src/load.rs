//! A client: one connection, one request after the other, the current tag carried along.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    shape::{DIGITS, Shape, Tag},
    wire::{content_length, field, head_length},
};

/// A connection that is kept, for requests of one shape to one resource.
#[derive(Debug)]
pub(crate) struct Client {
    to: SocketAddr,
    from: Ipv4Addr,
    /// `None` before the first request, and after an answer with `Connection: close`.
    stream: Option<TcpStream>,
    input: Vec<u8>,
    request: Vec<u8>,
    tag_at: Option<usize>,
}

/// An answer, as far as it matters.
#[derive(Debug, Clone, Copy)]
struct Answer {
    status: u16,
    tag: Option<Tag>,
}

impl Client {
    /// One of a number of clients, for a resource of its own.
    pub(crate) fn new(to: SocketAddr, shape: Shape, number: usize) -> Self {
        Self::on(to, shape, &shape.path(number), number)
    }

    /// One of a number of clients, of which no more come from one address than ifmatch allows by default.
    pub(crate) fn on(to: SocketAddr, shape: Shape, path: &str, number: usize) -> Self {
        let (request, tag_at) = shape.request(path);
        let host = u8::try_from(2 + number / 256).expect("at most 50,000 clients");
        let input = Vec::with_capacity(if shape.is_large() { 256 * 1024 } else { 4 * 1024 });
        Self { to, from: Ipv4Addr::new(127, 0, 1, host), stream: None, input, request, tag_at }
    }

    /// Connects, and reads what its writes are to replace.
    pub(crate) async fn prepare(&mut self) -> io::Result<()> {
        let path = self.request.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
        let read = [b"GET ", path, b" HTTP/1.1\r\nHost: api.example.com\r\n\r\n"].concat();
        let answer = self.exchange(&read).await?;
        self.note(answer);
        Ok(())
    }

    /// Turns to another resource of the same shape, whose tag is this.
    pub(crate) fn aim(&mut self, resource: usize, tag: Tag) {
        let digits = format!("{resource:0width$}", width = DIGITS);
        if let Some(end) = self.request.windows(6).position(|window| window == b" HTTP/") {
            self.request[end - DIGITS..end].copy_from_slice(digits.as_bytes());
        }
        self.note(Answer { status: 0, tag: Some(tag) });
    }

    /// The tag that its next write is to replace.
    pub(crate) fn tag(&self) -> Option<Tag> {
        self.request.get(self.tag_at?..)?.first_chunk().copied()
    }

    /// Sends the request, reads the answer, and returns its status.
    pub(crate) async fn request(&mut self) -> io::Result<u16> {
        let request = std::mem::take(&mut self.request);
        let answer = self.exchange(&request).await;
        self.request = request;
        let answer = answer?;
        self.note(answer);
        Ok(answer.status)
    }

    fn note(&mut self, answer: Answer) {
        if let (Some(at), Some(tag)) = (self.tag_at, answer.tag) {
            self.request[at..at + tag.len()].copy_from_slice(&tag);
        }
    }

    async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.from, self.to).await?,
        };
        stream.write_all(request).await?;
        let length = loop {
            if let Some(length) = head_length(&self.input) {
                break length;
            }
            if stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = &self.input[..length];
        let status = head.get(9..12).and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let tag = field(head, b"etag").and_then(|tag| tag.get(1..17)?.try_into().ok());
        let closes = field(head, b"connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let body = if status == 204 { Some(0) } else { content_length(head) };
        let mut rest = length + body.ok_or(io::ErrorKind::InvalidData)?;
        while rest > self.input.len() {
            rest -= self.input.len();
            self.input.clear();
            if stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.input.clear();
        if !closes {
            self.stream = Some(stream);
        }
        Ok(Answer { status, tag })
    }
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
