//! A connection to a backend that can tell whether all that was to be sent has been handed to the kernel.
//!
//! hyper takes a body into its own buffer and is done with it; while a backend that answers early does not read, that
//! buffer can hold megabytes which are still on their way, and so can h2's. A turn must not end before they are (rule 1).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    task::AbortHandle,
};
use tokio_rustls::client::TlsStream;

use super::{
    frames::{Frames, Sending},
    places::Place,
};

/// Whether anything is still to be sent over an HTTP/1.1 connection.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    any: AtomicBool,
    /// The connection is gone; what was unsent then never will be sent.
    closed: AtomicBool,
    changed: Notify,
}

/// What can be asked of a request's way to the backend, and done to it, from outside of the task that drives it.
#[derive(Debug, Clone)]
pub struct Handle(pub(super) Way);

#[derive(Debug, Clone)]
pub(super) enum Way {
    /// A connection that is the request's alone while it is under way.
    Connection { unsent: Arc<Unsent>, task: AbortHandle },
    /// A stream beside others.
    Stream(Arc<Sending>),
}

impl Handle {
    /// Whether something of what hyper was given has not been handed to the kernel yet.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        match &self.0 {
            Way::Connection { unsent, .. } => unsent.any.load(Ordering::SeqCst),
            Way::Stream(sending) => sending.has_unsent(),
        }
    }

    /// Returns true once everything has been handed to the kernel, false if the connection is gone before that.
    pub async fn all_sent(&self) -> bool {
        match &self.0 {
            Way::Connection { unsent, .. } => unsent.all_sent().await,
            Way::Stream(sending) => sending.all_sent().await,
        }
    }

    /// Breaks the request off at once, so that nothing more of it reaches the backend: closes its connection, or resets its
    /// stream. Only while the request is under way: after that the connection may be another's.
    pub fn abort(&self) {
        match &self.0 {
            Way::Connection { task, .. } => task.abort(),
            Way::Stream(sending) => sending.cancel(),
        }
    }
}

impl Unsent {
    async fn all_sent(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            if !self.any.load(Ordering::SeqCst) {
                return true;
            }
            if self.closed.load(Ordering::SeqCst) {
                return false;
            }
            changed.await;
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
    Http1(Arc<Unsent>),
    Http2(Frames),
    Nobody,
}

/// The connection itself. hyper and h2 flush it exactly when their own buffers are empty. Over TLS a flush is done when
/// what was encrypted has been handed to the kernel, too.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: Stream,
    pub(super) watch: Watch,
    /// Held until the socket is closed; `None` for the gateway's own questions.
    pub(super) _place: Option<Place>,
}

impl Wire {
    fn wrote(&mut self, slices: &[IoSlice<'_>], count: usize) {
        if let Watch::Http2(frames) = &mut self.watch {
            frames.wrote(slices, count);
        }
    }

    fn will_write(&self) {
        if let Watch::Http1(unsent) = &self.watch {
            unsent.any.store(true, Ordering::SeqCst);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Watch::Http1(unsent) = &self.watch {
            unsent.closed.store(true, Ordering::SeqCst);
            unsent.changed.notify_waiters();
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
        self.will_write();
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
        self.will_write();
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
            Watch::Http1(unsent) => {
                if unsent.any.swap(false, Ordering::SeqCst) {
                    unsent.changed.notify_waiters();
                }
            }
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
