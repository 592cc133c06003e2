//! A connection to a backend, and what can be asked of the way that a request goes.
//!
//! While a backend that answers early does not read, megabytes of a request can still be on their way. A turn must not end
//! before they are through (rule 1); so what is asked is whether everything was handed to the kernel, which over TLS
//! includes what was encrypted.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::unconstrained,
};
use tokio_rustls::client::TlsStream;

use super::{
    frames::{Frames, Sending},
    places::Place,
};

/// What can be asked of a request's way to the backend, and done to it, from outside of the task that sends it.
#[derive(Debug, Clone)]
pub struct Handle(Option<Arc<Sending>>);

impl Handle {
    /// Of a request of which nothing was left when its answer came.
    pub(super) fn sent() -> Self {
        Self(None)
    }

    /// Of one of which more will never be sent.
    pub(super) fn cut_short() -> Self {
        let sending = Sending::with_body();
        sending.given_up();
        Self(Some(sending))
    }

    /// Of one that goes on being sent.
    pub(super) fn of(sending: Arc<Sending>) -> Self {
        Self(Some(sending))
    }

    /// Whether something of the request has not been handed to the kernel. True for what never will be, too.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.0.as_ref().is_some_and(|sending| sending.has_unsent())
    }

    /// Returns true once everything has been handed to the kernel, false if it never will be.
    pub async fn all_sent(&self) -> bool {
        match &self.0 {
            Some(sending) => sending.all_sent().await,
            None => true,
        }
    }

    /// Breaks the request off at once, so that nothing more of it reaches the backend: closes its connection, or resets its
    /// stream. What was sent to its end is not undone.
    pub fn abort(&self) {
        if let Some(sending) = &self.0 {
            sending.cancel();
        }
    }
}

/// A socket, secured or not.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Who follows what is written.
#[derive(Debug)]
pub(super) enum Watch {
    Http2(Frames),
    Nobody,
}

/// The connection itself. h2 flushes it exactly when its own buffer is empty. Over TLS a flush is done when what was
/// encrypted has been handed to the kernel, too.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: Stream,
    pub(super) watch: Watch,
    /// Held until the socket is closed; `None` for the gateway's own questions.
    pub(super) _place: Option<Place>,
}

impl Wire {
    /// Whether nothing has come that nobody has read, and neither has its end.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        match &mut self.stream {
            // Nobody need be woken by what is not there.
            Stream::Plain(stream) => {
                matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Stream::Tls(stream) => {
                let mut room = ReadBuf::new(&mut byte);
                let look = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut room).is_pending()));
                pin!(unconstrained(look)).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(true)
            }
        }
    }

    fn wrote(&mut self, slices: &[IoSlice<'_>], count: usize) {
        if let Watch::Http2(frames) = &mut self.watch {
            frames.wrote(slices, count);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        })?;
        if let Watch::Http2(frames) = &self.watch {
            frames.hears();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        })?;
        self.wrote(&[IoSlice::new(bytes)], count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        })?;
        self.wrote(slices, count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        })?;
        match &mut self.watch {
            Watch::Http2(frames) => frames.flushed(),
            Watch::Nobody => {}
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
