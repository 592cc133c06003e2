//! The connection's two directions: held by one, or by two where a request is still being sent while its answer is read.

use std::{
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::upstream::wire::Wire;

/// A connection as whoever reads it has it.
#[derive(Debug)]
pub(super) enum Socket {
    Own(Wire),
    Shared(Arc<Shared>),
}

/// A connection that one reads and another writes.
#[derive(Debug)]
pub(super) struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None` once it is closed.
    wire: Option<Wire>,
    /// Who is to learn of that.
    reader: Option<Waker>,
}

/// The same as whoever writes it has it.
#[derive(Debug)]
pub(super) struct Writer(pub(super) Arc<Shared>);

impl Socket {
    /// Has somebody else write it.
    pub(super) fn share(&mut self) -> Arc<Shared> {
        let shared = Arc::new(Shared(Mutex::new(State { wire: None, reader: None })));
        match mem::replace(self, Self::Shared(Arc::clone(&shared))) {
            Self::Own(wire) => shared.state().wire = Some(wire),
            Self::Shared(before) => shared.state().wire = before.state().wire.take(),
        }
        shared
    }

    /// Reads behind what has been read.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.poll(cx, |wire, cx| pin!(wire.read_buf(into)).poll(cx))
    }

    /// Reads into this.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |wire, cx| Pin::new(wire).poll_read(cx, into))
    }

    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut Wire, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self {
            Self::Own(wire) => read(wire, cx),
            Self::Shared(shared) => {
                let mut state = shared.state();
                let Some(wire) = &mut state.wire else { return Poll::Ready(Err(closed())) };
                let read = read(wire, cx);
                if read.is_pending() {
                    state.reader = Some(cx.waker().clone());
                }
                read
            }
        }
    }
}

impl Shared {
    /// Closes the connection at once, whoever else has it.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.wire = None;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll<T>(&self, f: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.state().wire.as_mut().map_or_else(|| Poll::Ready(Err(closed())), |wire| f(Pin::new(wire)))
    }
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll(|wire| wire.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll(|wire| wire.poll_write_vectored(cx, slices))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|wire| wire.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|wire| wire.poll_shutdown(cx))
    }
}
