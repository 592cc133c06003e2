//! A connection to a backend that can tell whether all that was to be sent has been handed to the kernel.
//!
//! hyper takes a body into its own buffer and is done with it; while a backend that answers early does not read, that
//! buffer can hold megabytes which are still on their way. A turn must not end before they are (rule 1).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    task::AbortHandle,
};

/// Whether anything is still to be sent.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    any: AtomicBool,
    /// The connection is gone; what was unsent then never will be sent.
    closed: AtomicBool,
    changed: Notify,
}

/// What can be asked of a connection, and done to it, from outside of the task that drives it.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) unsent: Arc<Unsent>,
    pub(super) task: AbortHandle,
}

impl Handle {
    /// Whether something of what hyper was given has not been handed to the kernel yet.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.unsent.any.load(Ordering::SeqCst)
    }

    /// Returns true once everything has been handed to the kernel, false if the connection is gone before that.
    pub async fn all_sent(&self) -> bool {
        loop {
            let changed = self.unsent.changed.notified();
            if !self.has_unsent() {
                return true;
            }
            if self.unsent.closed.load(Ordering::SeqCst) {
                return false;
            }
            changed.await;
        }
    }

    /// Closes the connection at once, so that nothing more of a request reaches the backend. Only while the request is
    /// under way: after that the connection may be another's.
    pub fn abort(&self) {
        self.task.abort();
    }
}

/// The connection itself. hyper flushes it exactly when its own buffer is empty.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    pub(super) unsent: Arc<Unsent>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.unsent.closed.store(true, Ordering::SeqCst);
        self.unsent.changed.notify_waiters();
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.unsent.any.store(true, Ordering::SeqCst);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unsent.any.store(true, Ordering::SeqCst);
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.any.swap(false, Ordering::SeqCst) {
            self.unsent.changed.notify_waiters();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
