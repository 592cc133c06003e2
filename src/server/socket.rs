//! A client's connection as bytes: secured or not, and what was read of it ahead.
//!
//! Here, below TLS, it shows whether a client takes something of an answer. Who takes nothing for `send_timeout` is cut.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::server::TlsStream;

use super::limits::Place;
use crate::{
    clock::{self, Alarm},
    upstream::limit_unsent,
};

/// A client's TCP connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// How long it may take nothing.
    patience: Duration,
    /// Until when it may take nothing, while it does not.
    until: Option<Instant>,
    alarm: Alarm,
    /// Whether it goes on with something else than HTTP, which has limits of its own.
    is_tunnel: bool,
    _place: Place,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, patience: Duration, place: Place) -> Self {
        if let Err(error) = stream.set_nodelay(true).and_then(|()| limit_unsent(&stream)) {
            tracing::debug!(%error, "an option of a connection could not be set");
        }
        Self { stream, patience, until: None, alarm: Alarm::default(), is_tunnel: false, _place: place }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn has_taken(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() || self.is_tunnel {
            self.until = None;
            return written;
        }
        let until = *self.until.get_or_insert_with(|| clock::now() + self.patience);
        ready!(self.alarm.poll(cx, until));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client took nothing for send_timeout")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.has_taken(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.has_taken(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A client's connection, whichever way it is secured.
#[derive(Debug)]
pub(super) struct Stream {
    wire: Wire,
    /// What was read of it to find out what is spoken.
    ahead: BytesMut,
}

#[derive(Debug)]
enum Wire {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Stream {
    pub(super) fn plain(socket: Socket) -> Self {
        Self { wire: Wire::Plain(socket), ahead: BytesMut::new() }
    }

    pub(super) fn tls(stream: TlsStream<Socket>) -> Self {
        Self { wire: Wire::Tls(Box::new(stream)), ahead: BytesMut::new() }
    }

    /// It goes on with something else than HTTP, of which these bytes were read.
    pub(super) fn becomes_tunnel(&mut self, ahead: &[u8]) {
        self.ahead = ahead.into();
        match &mut self.wire {
            Wire::Plain(socket) => socket.is_tunnel = true,
            Wire::Tls(stream) => stream.get_mut().0.is_tunnel = true,
        }
    }

    /// Its end will be a reset: whoever reads an answer up to its end knows then that it is not whole.
    pub(super) fn resets(&mut self) {
        let socket = match &self.wire {
            Wire::Plain(socket) => socket,
            Wire::Tls(stream) => stream.get_ref().0,
        };
        if let Err(error) = socket2::SockRef::from(&socket.stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "an option of a connection could not be set");
        }
    }

    /// Whether the client and the gateway have agreed on HTTP/2.
    pub(super) fn agreed_on_http2(&self) -> bool {
        match &self.wire {
            Wire::Plain(_) => false,
            Wire::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// Reads ahead for as long as what comes is the beginning of this. Returns whether it is all of it. Whatever was read
    /// is read again later.
    ///
    /// # Errors
    ///
    /// The connection ended or broke before that can be told.
    ///
    /// # Cancel safety
    ///
    /// What was read is kept.
    pub(super) async fn begins_with(&mut self, beginning: &[u8]) -> io::Result<bool> {
        while beginning.starts_with(&self.ahead) {
            let missing = beginning.len() - self.ahead.len();
            if missing == 0 {
                return Ok(true);
            }
            let Self { wire, ahead } = self;
            if wire.get_mut().read_buf(&mut bytes::BufMut::limit(ahead, missing)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(false)
    }

    /// Whether anything was read ahead.
    pub(super) fn has_begun(&self) -> bool {
        !self.ahead.is_empty()
    }

    fn wire(&mut self) -> Pin<&mut dyn Duplex> {
        Pin::new(self.wire.get_mut())
    }
}

impl Wire {
    fn get_mut(&mut self) -> &mut dyn Duplex {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return self.wire().poll_read(cx, buf);
        }
        let length = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        if self.ahead.is_empty() && buf.remaining() > 0 {
            self.ahead = BytesMut::new();
            // With what follows, if it is here: a head in two parts is looked at twice.
            if let Poll::Ready(Err(error)) = self.wire().poll_read(cx, buf) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.wire().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(socket) => socket.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
