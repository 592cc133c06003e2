//! One connection, by hand: HTTP/1.1 as bytes, so that either end can misbehave.

use std::{io, net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection and what was read of it but not used yet.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Before each piece that is read.
    pause: Duration,
    /// What stood behind the last chunked body.
    pub(crate) trailers: HeaderMap,
}

/// The head of a message.
#[derive(Debug)]
pub(crate) struct Head {
    /// The request line or the status line.
    pub(crate) first: String,
    pub(crate) fields: HeaderMap,
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// A body that ended before its end; with what came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BrokenOff(pub(crate) Vec<u8>);

impl Framing {
    /// Of a message that says nothing about it: `otherwise`.
    pub(crate) fn of(fields: &HeaderMap, otherwise: Self) -> Self {
        if fields.get("transfer-encoding").is_some() {
            return Self::Chunked;
        }
        let length = fields.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        length.map_or(otherwise, Self::Length)
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self { stream, buffer: Vec::new(), pause: Duration::ZERO, trailers: HeaderMap::new() }
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.expect("a connection"))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next head; `None` where the connection ended or broke before there was a whole one.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let mut lines = head[..end].split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
        let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let mut fields = HeaderMap::new();
        for line in lines {
            let colon = line.iter().position(|&byte| byte == b':').expect("a field has a colon");
            let name = HeaderName::from_bytes(&line[..colon]).expect("a field name");
            fields.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).expect("a field value"));
        }
        Some(Head { first, fields })
    }

    pub(crate) async fn body(&mut self, framing: Framing) -> Result<Vec<u8>, BrokenOff> {
        match framing {
            Framing::Length(length) => self.take(length).await.map_err(BrokenOff),
            Framing::UntilClose => {
                while self.fill().await {}
                Ok(std::mem::take(&mut self.buffer))
            }
            Framing::Chunked => self.chunks().await,
        }
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, BrokenOff> {
        let mut body = Vec::new();
        loop {
            let Some(size) = self.line().await else { return Err(BrokenOff(body)) };
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16).expect("a chunk's size");
            if size == 0 {
                self.trailers.clear();
                loop {
                    match self.line().await {
                        Some(trailer) if trailer.is_empty() => return Ok(body),
                        Some(trailer) => {
                            let (name, value) = trailer.split_once(':').expect("a field has a colon");
                            let name: HeaderName = name.parse().expect("a field name");
                            self.trailers.append(name, value.trim().parse().expect("a field value"));
                        }
                        None => return Err(BrokenOff(body)),
                    }
                }
            }
            match self.take(size).await {
                Ok(data) => body.extend(data),
                Err(part) => {
                    body.extend(part);
                    return Err(BrokenOff(body));
                }
            }
            if self.line().await.is_none() {
                return Err(BrokenOff(body));
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next chunk of a chunked body.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line().await?, 16).expect("a chunk's size");
        let data = self.take(size).await.ok()?;
        self.line().await?;
        Some(data)
    }

    /// So many bytes, or those that came before the end.
    pub(crate) async fn take(&mut self, count: usize) -> Result<Vec<u8>, Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill().await {
                return Err(std::mem::take(&mut self.buffer));
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Whether nothing is there to be read.
    pub(crate) fn has_nothing_more(&self) -> bool {
        let waiting = socket2::SockRef::from(&self.stream).peek(&mut [std::mem::MaybeUninit::uninit()]);
        self.buffer.is_empty() && waiting.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads some more. Whether there was any.
    async fn fill(&mut self) -> bool {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        self.buffer.reserve(64 * 1024);
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    /// From here on it reads slowly.
    pub(crate) fn pause(&mut self, pause: Duration) {
        self.pause = pause;
    }

    /// Reads and drops until the other end closes. Returns how many bytes still came.
    pub(crate) async fn until_closed(&mut self) -> usize {
        while self.fill().await {}
        self.buffer.len()
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.expect("the writing side shuts down");
    }

    /// Closes so that the other end sees a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
}
