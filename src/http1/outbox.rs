//! What waits to be written: small pieces flattened into one, large ones as they are.

use std::{
    cell::Cell,
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// What a copy of costs less than one more slice to write.
const FLAT: usize = 16 * 1024;
/// How many pieces are written at once.
const SLICES: usize = 32;

/// What is kept of a buffer at most, for the next that is needed.
const KEPT: usize = 32 * 1024;

thread_local! {
    /// A buffer that is not needed now: a connection has one only while it writes, and most write all they have at once.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What waits, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    first: VecDeque<Bytes>,
    /// What stands behind those, and how much of it was written.
    last: Vec<u8>,
    written: usize,
    length: usize,
}

impl Outbox {
    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Puts behind all else what this writes.
    pub(super) fn put<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        if self.last.capacity() == 0 {
            self.last = SPARE.take();
        }
        let before = self.last.len();
        let result = write(&mut self.last);
        self.length += self.last.len() - before;
        result
    }

    /// Puts a piece behind all else.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        if self.last.len() + piece.len() <= FLAT {
            self.last.extend_from_slice(&piece);
        } else {
            self.seal();
            self.first.push_back(piece);
        }
    }

    fn seal(&mut self) {
        let mut sealed = Bytes::from(std::mem::take(&mut self.last));
        sealed.advance(std::mem::take(&mut self.written));
        if !sealed.is_empty() {
            self.first.push_back(sealed);
        }
    }

    /// Gives back its memory. Nothing may wait.
    pub(super) fn release(&mut self) {
        debug_assert!(self.is_empty(), "what waits would be lost");
        let last = std::mem::take(&mut self.last);
        if (1..=KEPT).contains(&last.capacity()) {
            SPARE.set(last);
        }
        if self.first.capacity() > 0 {
            self.first = VecDeque::new();
        }
    }

    /// Writes some of it. Returns how much; there must be something.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        let written = if self.first.is_empty() {
            ready!(io.poll_write(cx, &self.last[self.written..]))?
        } else {
            self.seal();
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.first.len().min(SLICES);
            for (slice, piece) in slices.iter_mut().zip(&self.first) {
                *slice = IoSlice::new(piece);
            }
            ready!(io.poll_write_vectored(cx, &slices[..count]))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, written: usize) {
        self.length -= written;
        let mut left = written;
        while let Some(piece) = self.first.front_mut() {
            let whole = piece.len();
            if left < whole {
                piece.advance(left);
                return;
            }
            left -= whole;
            self.first.pop_front();
        }
        self.written += left;
        if self.written == self.last.len() {
            self.written = 0;
            self.last.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_in_comes_out_in_order(pieces in prop::collection::vec((any::<bool>(), 0..40_000usize), 0..20)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let (put, came) = runtime.block_on(async {
                let (mut here, mut there) = tokio::io::duplex(10_000);
                let reading = tokio::spawn(async move {
                    let mut came = Vec::new();
                    there.read_to_end(&mut came).await.expect("no error");
                    came
                });
                let (mut outbox, mut put) = (Outbox::default(), Vec::new());
                for (place, (is_flat, length)) in pieces.into_iter().enumerate() {
                    let piece = vec![u8::try_from(place).expect("few"); length];
                    put.extend_from_slice(&piece);
                    if is_flat {
                        outbox.put(|out| out.write_all(&piece)).expect("a Vec takes all");
                    } else {
                        outbox.push(piece.into());
                    }
                    if !outbox.is_empty() && place % 3 == 0 {
                        std::future::poll_fn(|cx| outbox.poll_write(cx, &mut here)).await.expect("no error");
                    }
                }
                while !outbox.is_empty() {
                    std::future::poll_fn(|cx| outbox.poll_write(cx, &mut here)).await.expect("no error");
                }
                assert_eq!(outbox.len(), 0);
                drop(here);
                (put, reading.await.expect("a task"))
            });
            prop_assert!(put == came);
        }
    }
}
