//! What h2 reads and writes, in rounds: a round is what the task of a connection does between two waits.
//!
//! h2 flushes after each piece of a body. Over TLS that would make a record, and a call of the kernel, of every answer, also
//! of those that are ready at the same time. So what it writes is gathered here, and goes out together when the round ends
//! ([`Rounds::end`]), or when it is as much as a record holds. And h2 reads once more for each request that it hands out;
//! once nothing more is here, that goes no further for the rest of the round.
//!
//! No more is gathered while the client takes nothing of what was.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much as a TLS record holds. What is longer goes out as it is.
const MOST: usize = 16 * 1024;

thread_local! {
    /// What was gathered in last. Mostly a round leaves nothing behind, so one is enough for all connections.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The connection: for h2, and for who tells when a round ends.
#[derive(Debug)]
pub(super) struct Rounds<S>(Arc<Mutex<Wire<S>>>);

#[derive(Debug)]
struct Wire<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How much of it is written.
    written: usize,
    /// Whether something was written since the stream was flushed.
    is_unflushed: bool,
    /// Whether all was read that was here in this round.
    is_read_out: bool,
    /// Why it could not be written, for h2 to tell all streams.
    error: Option<io::Error>,
}

impl<S> Clone for Rounds<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Rounds<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Wire {
            stream,
            gathered: Vec::new(),
            written: 0,
            is_unflushed: false,
            is_read_out: false,
            error: None,
        })))
    }

    /// A round ends: what it wrote goes out. To be called by the task that h2 runs in, which is woken when there is more to
    /// do.
    pub(super) fn end(&self, cx: &mut Context<'_>) {
        let mut wire = self.wire();
        wire.is_read_out = false;
        // Told once: h2 may have nothing to write, and so nobody to tell.
        if wire.error.is_none()
            && let Poll::Ready(Err(error)) = wire.poll_flush(cx)
        {
            wire.error = Some(error);
            cx.waker().wake_by_ref();
        }
    }

    fn wire(&self) -> MutexGuard<'_, Wire<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.error.take().map_or(Ok(()), Err)?;
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.gathered.len() + length > MOST {
            ready!(self.poll_out(cx))?;
        }
        if length > MOST {
            self.is_unflushed = true;
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        }
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.take();
        }
        for slice in slices {
            self.gathered.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    /// Writes what was gathered.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            self.is_unflushed = true;
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => self.written += more,
            }
        }
        if self.written > 0 {
            self.gathered.clear();
            self.written = 0;
            SPARE.set(mem::take(&mut self.gathered));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        if self.is_unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Rounds<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire();
        if wire.is_read_out {
            return Poll::Pending;
        }
        let read = Pin::new(&mut wire.stream).poll_read(cx, buf);
        wire.is_read_out = read.is_pending();
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Rounds<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.wire().poll_write(cx, &[IoSlice::new(bytes)])
    }

    /// Not before the round ends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.wire().error.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire();
        ready!(wire.poll_flush(cx))?;
        Pin::new(&mut wire.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire().stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn wire(room: usize) -> (Rounds<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(room);
        (Rounds::new(ours), theirs)
    }

    fn now<T>(polled: Poll<io::Result<T>>) -> Option<T> {
        match polled {
            Poll::Ready(done) => Some(done.unwrap()),
            Poll::Pending => None,
        }
    }

    fn write(wire: &mut Rounds<DuplexStream>, cx: &mut Context<'_>, bytes: &[u8]) -> Option<usize> {
        let written = now(Pin::new(&mut *wire).poll_write(cx, bytes));
        assert_eq!(now(Pin::new(wire).poll_flush(cx)), Some(()));
        written
    }

    #[tokio::test]
    async fn what_a_round_writes_goes_out_together_when_it_ends() {
        let (mut wire, mut client) = wire(1024);
        let mut cx = Context::from_waker(Waker::noop());
        for piece in [b"ab", b"cd"] {
            assert_eq!(write(&mut wire, &mut cx, piece), Some(2));
        }
        let mut all = [0; 8];
        let mut all = ReadBuf::new(&mut all);
        assert!(Pin::new(&mut client).poll_read(&mut cx, &mut all).is_pending());
        wire.end(&mut cx);
        assert!(Pin::new(&mut client).poll_read(&mut cx, &mut all).is_ready());
        assert_eq!(all.filled(), b"abcd");
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_may_be_while_the_client_takes_nothing() {
        let (mut wire, mut client) = wire(100);
        let mut cx = Context::from_waker(Waker::noop());
        let pieces = (0..).map_while(|_| write(&mut wire, &mut cx, &[b'a'; 1000])).count();
        assert_eq!(pieces, MOST / 1000);
        assert_eq!(write(&mut wire, &mut cx, &[b'b'; MOST + 1]), None, "nor written ahead of it");
        wire.end(&mut cx);
        let writes = async {
            wire.write_all(&[b'b'; MOST + 1]).await.unwrap();
            wire.write_all(b"c").await.unwrap();
            wire.shutdown().await.unwrap();
        };
        let reads = async {
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            read
        };
        let ((), read) = tokio::join!(writes, reads);
        let parts = [vec![b'a'; pieces * 1000], vec![b'b'; MOST + 1], vec![b'c']];
        assert!(read == parts.concat());
    }

    #[tokio::test]
    async fn what_fails_at_the_end_of_a_round_is_told_in_the_next() {
        let (mut wire, client) = wire(100);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(write(&mut wire, &mut cx, b"ab"), Some(2));
        drop(client);
        wire.end(&mut cx);
        assert!(matches!(Pin::new(&mut wire).poll_flush(&mut cx), Poll::Ready(Err(_))));
    }

    #[tokio::test]
    async fn what_comes_after_all_was_read_is_read_in_the_next_round() {
        let (mut wire, mut client) = wire(100);
        let mut cx = Context::from_waker(Waker::noop());
        let mut room = [0; 8];
        let mut room = ReadBuf::new(&mut room);
        let mut poll = |wire: &mut Rounds<_>| Pin::new(wire).poll_read(&mut cx, &mut room).is_ready();
        assert!(!poll(&mut wire));
        client.write_all(b"ab").await.unwrap();
        assert!(!poll(&mut wire));
        wire.end(&mut Context::from_waker(Waker::noop()));
        assert!(poll(&mut wire));
        assert_eq!(room.filled(), b"ab");
    }
}
