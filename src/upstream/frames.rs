//! Which HTTP/2 streams have been handed to the kernel to their end.
//!
//! h2 queues what it is given and sends it as windows and the socket allow; nothing in its interface says when a stream's
//! last frame has left. So the bytes that it writes are followed, frame by frame (RFC 9113 §4.1): a stream is through when
//! its frame with END_STREAM was written and then flushed, which h2 does whenever its buffer is empty
//! (`FramedWrite::flush`). Nothing is changed on the way.

use std::{
    collections::HashMap,
    io::IoSlice,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

/// What a client sends before its first frame (RFC 9113 §3.4): `PRI * HTTP/2.0…`.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// The streams of a connection on which something is still to be sent.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: Mutex<HashMap<u32, Arc<Sending>>>,
    closed: AtomicBool,
    /// How often something came.
    heard: AtomicUsize,
}

/// How far a request has got on its way out.
#[derive(Debug)]
pub(super) struct Sending {
    state: AtomicU8,
    changed: Notify,
    cancelled: AtomicBool,
    cancel: Notify,
}

const UNDER_WAY: u8 = 0;
const SENT: u8 = 1;
const GONE: u8 = 2;

impl Sending {
    /// Of a request that has no body: where there is an answer, it has left.
    pub(super) fn without_body() -> Arc<Self> {
        Self::in_state(SENT)
    }

    /// Of one whose body is still to be sent.
    pub(super) fn with_body() -> Arc<Self> {
        Self::in_state(UNDER_WAY)
    }

    fn in_state(state: u8) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(state),
            changed: Notify::new(),
            cancelled: AtomicBool::new(false),
            cancel: Notify::new(),
        })
    }

    /// Whether something has not been handed to the kernel yet. True for what never will be, too.
    pub(super) fn has_unsent(&self) -> bool {
        self.state.load(Ordering::SeqCst) != SENT
    }

    /// Returns true once everything has been handed to the kernel, false if it never will be.
    pub(super) async fn all_sent(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            match self.state.load(Ordering::SeqCst) {
                SENT => return true,
                GONE => return false,
                _ => changed.await,
            }
        }
    }

    /// Nothing more of it shall be sent.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.cancel.notify_waiters();
    }

    /// Returns once it was cancelled.
    pub(super) async fn cancelled(&self) {
        loop {
            let cancel = self.cancel.notified();
            if self.cancelled.load(Ordering::SeqCst) {
                return;
            }
            cancel.await;
        }
    }

    /// All of it has left.
    pub(super) fn sent(&self) {
        self.ends(SENT);
    }

    /// What has not left never will.
    pub(super) fn given_up(&self) {
        self.ends(GONE);
    }

    fn ends(&self, state: u8) {
        // What has left has left.
        let _ = self.state.compare_exchange(UNDER_WAY, state, Ordering::SeqCst, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

impl Streams {
    /// Follows a stream. Its end must not have been given to h2 yet.
    pub(super) fn follow(&self, stream: u32, sending: &Arc<Sending>) {
        self.open().insert(stream, Arc::clone(sending));
        if self.closed.load(Ordering::SeqCst) {
            self.close();
        }
    }

    /// Follows a stream no more.
    pub(super) fn forget(&self, stream: u32) {
        self.open().remove(&stream);
    }

    /// How many streams are followed.
    #[cfg(test)]
    pub(super) fn followed(&self) -> usize {
        self.open().len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Counts up whenever something comes.
    pub(super) fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }

    fn ends(&self, stream: u32, state: u8) {
        let ended = self.open().remove(&stream);
        if let Some(sending) = ended {
            sending.ends(state);
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for (_, sending) in self.open().drain() {
            sending.given_up();
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<Sending>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the bytes of one connection. Dropped, it tells everybody that the connection is gone.
#[derive(Debug)]
pub(super) struct Frames {
    streams: Arc<Streams>,
    /// Bytes that are no head of a frame: the preface, then payloads.
    skip: usize,
    head: [u8; FRAME_HEAD],
    /// How much of the head is there.
    filled: usize,
    /// What ends with the payload that is being skipped.
    ending: Option<(u32, u8)>,
    /// What was written to its end, but not flushed.
    written: Vec<(u32, u8)>,
}

impl Frames {
    pub(super) fn new(streams: Arc<Streams>) -> Self {
        let (head, written) = ([0; FRAME_HEAD], Vec::new());
        Self { streams, skip: PREFACE, head, filled: 0, ending: None, written }
    }

    /// Something came.
    pub(super) fn hears(&self) {
        self.streams.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// So many of these bytes were written.
    pub(super) fn wrote(&mut self, slices: &[IoSlice<'_>], mut count: usize) {
        for slice in slices {
            let (mut bytes, _) = slice.split_at(count.min(slice.len()));
            count -= bytes.len();
            while !bytes.is_empty() {
                bytes = self.take(bytes);
            }
        }
    }

    /// Takes some of the bytes, returns the rest.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.skip > 0 {
            let (skipped, rest) = bytes.split_at(self.skip.min(bytes.len()));
            self.skip -= skipped.len();
            self.note_end();
            return rest;
        }
        let (part, rest) = bytes.split_at((FRAME_HEAD - self.filled).min(bytes.len()));
        self.head[self.filled..self.filled + part.len()].copy_from_slice(part);
        self.filled += part.len();
        if self.filled == FRAME_HEAD {
            self.filled = 0;
            let [a, b, c, kind, flags, stream @ ..] = self.head;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            let stream = u32::from_be_bytes(stream) & 0x7FFF_FFFF;
            self.ending = match kind {
                DATA | HEADERS if flags & END_STREAM != 0 => Some((stream, SENT)),
                RST_STREAM => Some((stream, GONE)),
                _ => None,
            };
            self.note_end();
        }
        rest
    }

    fn note_end(&mut self) {
        if self.skip == 0 {
            self.written.extend(self.ending.take());
        }
    }

    /// All that was written has been handed to the kernel.
    pub(super) fn flushed(&mut self) {
        for (stream, state) in self.written.drain(..) {
            self.streams.ends(stream, state);
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.streams.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.resize(FRAME_HEAD + payload, 0xAA);
        frame
    }

    #[test]
    fn a_stream_is_through_when_its_last_frame_is_flushed_however_it_is_cut() {
        let mut bytes = vec![b'P'; PREFACE];
        for frame in [
            frame(4, 1, 0, 12),
            frame(HEADERS, 4, 1, 30),
            frame(HEADERS, 5, 3, 30),
            frame(DATA, 0, 1, 500),
            frame(DATA, END_STREAM, 5, 70),
            frame(RST_STREAM, 0, 7, 4),
            frame(DATA, END_STREAM, 1, 0),
        ] {
            bytes.extend(frame);
        }
        for piece in [1, 2, 7, 64, 10_000] {
            let streams = Arc::new(Streams::default());
            let [one, five, seven, nine] = [1, 5, 7, 9].map(|stream| {
                let sending = Sending::with_body();
                streams.follow(stream, &sending);
                sending
            });
            let state = |sending: &Sending| sending.state.load(Ordering::SeqCst);
            let mut frames = Frames::new(Arc::clone(&streams));
            for piece in bytes.chunks(piece) {
                // Twice as much is offered as is taken, in two slices.
                let (a, b) = piece.split_at(piece.len() / 2);
                frames.wrote(&[IoSlice::new(a), IoSlice::new(b), IoSlice::new(&bytes)], piece.len());
                assert_eq!(state(&one), UNDER_WAY);
            }
            assert_eq!([state(&one), state(&five), state(&seven)], [UNDER_WAY; 3], "nothing is flushed");
            frames.flushed();
            assert_eq!([state(&one), state(&five), state(&seven)], [SENT, SENT, GONE]);
            assert_eq!(state(&nine), UNDER_WAY);
            drop(frames);
            assert_eq!([state(&one), state(&nine)], [SENT, GONE]);
            assert!(streams.is_closed());
        }
    }
}
