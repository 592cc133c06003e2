//! An HTTP/2 connection whose client may not chatter: SETTINGS, PING and PRIORITY frames carry nothing, and each costs work.
//!
//! h2 bounds what it keeps of them, not what it does for them, and shows none. So what is read is followed, frame by
//! frame (RFC 9113 §4.1), and who sends too many of them is cut. Nothing is changed on the way.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// What a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
/// How many of them a client may send within [`WINDOW`] beside those that each frame of a request allows.
const MOST: usize = 1000;
const WINDOW: Duration = Duration::from_secs(10);
/// Clients ask how far away the gateway is while they send, and some give each request a priority.
const FOR_EACH_FRAME: usize = 4;

/// The connection.
#[derive(Debug)]
pub(super) struct Quiet<S> {
    stream: S,
    frames: Frames,
    heard: Arc<Heard>,
}

/// What was seen of a connection.
#[derive(Debug, Default)]
pub(super) struct Heard {
    came: AtomicBool,
    went: AtomicBool,
    /// Whether the client takes no more for now.
    waits: AtomicBool,
}

impl Heard {
    /// Whether something came since this was asked last.
    pub(super) fn came(&self) -> bool {
        self.came.swap(false, Ordering::Relaxed)
    }

    /// Whether something was written since this was asked last.
    pub(super) fn went(&self) -> bool {
        self.went.swap(false, Ordering::Relaxed)
    }

    /// Whether something is left to be written that the client takes later, or not at all.
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.waits.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.went.store(true, Ordering::Relaxed);
        }
        written
    }
}

#[derive(Debug)]
struct Frames {
    /// What is still to come of the preface, or of a frame behind its head.
    rest: usize,
    head: [u8; FRAME_HEAD],
    /// How much of the head is here.
    length: usize,
    chatter: usize,
    since: Instant,
}

impl<S> Quiet<S> {
    /// `heard` is told whenever something comes.
    pub(super) fn new(stream: S, heard: Arc<Heard>) -> Self {
        Self { stream, frames: Frames::new(), heard }
    }
}

impl Frames {
    fn new() -> Self {
        Self { rest: PREFACE, head: [0; FRAME_HEAD], length: 0, chatter: 0, since: Instant::now() }
    }

    /// These bytes came. Whether they may be handed on.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = &bytes[skipped..];
            let taken = (FRAME_HEAD - self.length).min(bytes.len());
            self.head[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
            self.length += taken;
            bytes = &bytes[taken..];
            if self.length == FRAME_HEAD {
                let [a, b, c, kind, ..] = self.head;
                (self.length, self.rest) = (0, usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
                self.count(kind);
            }
        }
        self.chatter <= MOST
    }

    fn count(&mut self, kind: u8) {
        match kind {
            DATA | HEADERS => self.chatter = self.chatter.saturating_sub(FOR_EACH_FRAME),
            PRIORITY | SETTINGS | PING => {
                let now = Instant::now();
                if now - self.since > WINDOW {
                    (self.chatter, self.since) = (0, now);
                }
                self.chatter += 1;
            }
            _ => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Quiet<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.heard.came.store(true, Ordering::Relaxed);
        let may_pass = self.frames.follow(&buf.filled()[before..]);
        let error = || io::Error::other("the client sends frames that carry nothing, and too many of them");
        Poll::Ready(if may_pass { Ok(()) } else { Err(error()) })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Quiet<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.heard.wrote(written)
    }

    /// Over TLS more is taken than the client does; it shows here.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.heard.waits.store(flushed.is_pending(), Ordering::Relaxed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.heard.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        // What looks like heads of frames within a frame is none.
        frame.resize(FRAME_HEAD + usize::from(length), SETTINGS);
        frame
    }

    fn after_preface() -> Frames {
        let mut frames = Frames::new();
        assert!(frames.follow(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        frames
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_chatters_is_cut_however_the_frames_come() {
        for piece in [1, 7, 1000] {
            let mut frames = after_preface();
            let within: Vec<u8> = [PRIORITY, SETTINGS, PING, 8].iter().flat_map(|&kind| frame(kind, 6)).collect();
            let within = within.repeat(MOST / 3);
            assert!(within.chunks(piece).all(|piece| frames.follow(piece)), "{piece}");
            assert!(frames.follow(&frame(PING, 8)));
            assert!(!frames.follow(&frame(PING, 8)), "{piece}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_requests_or_takes_time_may_say_more() {
        let mut frames = after_preface();
        for _ in 0..2 * MOST {
            assert!(frames.follow(&frame(PING, 8)) && frames.follow(&frame(DATA, 200)));
        }
        for _ in 0..5 {
            assert!((0..MOST).all(|_| frames.follow(&frame(SETTINGS, 0))));
            tokio::time::advance(2 * WINDOW).await;
        }
    }
}
