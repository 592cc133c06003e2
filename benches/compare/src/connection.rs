//! One connection over HTTP/1.1: a request is sent, and its answer read to the end.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::wire::{LAST_CHUNK, content_length, field, head_length, is_chunked};

/// A connection that is kept.
#[derive(Debug)]
pub(crate) struct Connection {
    to: SocketAddr,
    from: Ipv4Addr,
    /// `None` before the first request, and after an answer with `Connection: close`.
    stream: Option<TcpStream>,
    input: Vec<u8>,
    tag: Vec<u8>,
}

impl Connection {
    /// One of a number, of which no more come from one address than ifmatch allows by default. It has room for so much of
    /// an answer at once.
    pub(crate) fn new(to: SocketAddr, number: usize, room: usize) -> Self {
        let host = u8::try_from(2 + number / 256).expect("at most 50,000 clients");
        let from = Ipv4Addr::new(127, 0, 1, host);
        Self { to, from, stream: None, input: Vec::with_capacity(room), tag: Vec::new() }
    }

    /// The last answer's `ETag`; empty if it had none.
    pub(crate) fn tag(&self) -> &[u8] {
        &self.tag
    }

    /// Sends a request, reads the answer, and returns its status.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.from, self.to).await?,
        };
        stream.write_all(request).await?;
        let length = loop {
            if let Some(length) = head_length(&self.input) {
                break length;
            }
            self.more(&mut stream).await?;
        };
        let head = &self.input[..length];
        let status = head.get(9..12).and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        self.tag.clear();
        self.tag.extend_from_slice(field(head, b"etag").unwrap_or_default());
        let closes = field(head, b"connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        if is_chunked(head) {
            while !self.input.ends_with(LAST_CHUNK) {
                self.more(&mut stream).await?;
            }
        } else {
            let empty = matches!(status, 204 | 304) || request.starts_with(b"HEAD ");
            let body = if empty { Some(0) } else { content_length(head) };
            let mut rest = length + body.ok_or(io::ErrorKind::InvalidData)?;
            while rest > self.input.len() {
                rest -= self.input.len();
                self.input.clear();
                self.more(&mut stream).await?;
            }
        }
        self.input.clear();
        if !closes {
            self.stream = Some(stream);
        }
        Ok(status)
    }

    async fn more(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        if stream.read_buf(&mut self.input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
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
