//! What a connection shares with the body of the request that it carries: what is read of it.
//!
//! A body may be read elsewhere than the connection is driven, by a write that goes on in a task of its own, and longer
//! than its request is handled. So whoever wants bytes reads them: the body where it waits for some, the connection
//! otherwise, to see the next request, the client's end, or that the connection broke. Nothing of anybody else's is called
//! while the lock is held.
//!
//! Most requests have no body, and most bodies are here with their heads. So the bytes are the connection's own
//! ([`Wires::Own`]) until there is a body, and again once that is through: a lock that nobody else takes costs something, too.

use std::{
    io,
    mem::{self, MaybeUninit},
    ops::{Deref, DerefMut},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::{
    chunked::{Chunked, Piece},
    request::{self, Bounds, Framing, Head, Refusal},
};

/// How much is read at once where nobody knows what comes: on the stack, so that an idle connection has no room for it.
const SIP: usize = 8 * 1024;
/// How much may be read ahead of a body that nobody reads, or of the next request.
const AHEAD: usize = 8 * 1024;
/// How much of a body is read at once, at first and at most.
const FIRST_GULP: usize = 16 * 1024;
const LARGEST_GULP: usize = 128 * 1024;

/// How many pieces are dropped of a body that nobody reads.
const PIECES: usize = 16;

/// A connection's bytes, as whoever drives it has them.
#[derive(Debug)]
pub(super) enum Wires<T> {
    /// Alone.
    Own(Box<Wire<T>>),
    /// With a request's body.
    Shared(Shared<T>),
}

/// The same, as a body has them: `None` once that is through.
#[derive(Debug)]
pub(super) struct Shared<T>(Arc<Mutex<Option<Box<Wire<T>>>>>);

/// A look at a connection's bytes, during which nobody else has one.
pub(super) enum Look<'a, T> {
    Own(&'a mut Wire<T>),
    Shared(MutexGuard<'a, Option<Box<Wire<T>>>>),
}

/// A connection's bytes.
#[derive(Debug)]
pub(super) struct Wire<T> {
    /// `None`: the connection is over.
    io: Option<T>,
    /// What was read and not used.
    ahead: BytesMut,
    /// How much of that has been found to be no whole head.
    seen: usize,
    /// Whether the client has said that nothing more comes.
    has_ended: bool,
    /// Whether the connection broke while a body was read.
    is_broken: bool,
    incoming: Incoming,
    continues: Continue,
    /// How much of a body is read next.
    gulp: usize,
    /// Who reads the body and waits for more of it.
    reader: Option<Waker>,
    /// Who drives the connection.
    driver: Option<Waker>,
}

/// What of the request's body is still to come.
#[derive(Debug)]
enum Incoming {
    /// Nothing.
    Through,
    /// This, which somebody may still read.
    Coming { decoder: Decoder, is_held: bool },
    /// Nobody can say what.
    Broken,
}

/// Whether a client waits for `100 Continue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Continue {
    /// It does not, or not any more.
    No,
    /// It does.
    Awaited,
    /// Somebody reads its body, so it is to be asked.
    Wanted,
}

/// What is left of a body.
#[derive(Debug)]
enum Decoder {
    Length(u64),
    Chunked(Box<Chunked>),
}

/// How a request's body stands, now that its answer is to be written or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It is through.
    None,
    /// Somebody may still read it.
    Held,
    /// Nobody will, or can.
    Lost,
}

/// The head that was read, or why there is none.
#[derive(Debug)]
pub(super) enum NoHead {
    /// The connection has ended.
    Ended,
    /// What came can't be answered.
    Refused(Refusal),
    /// The connection broke.
    Broken(io::Error),
}

impl Incoming {
    /// How many bytes are still to come, as far as that is known.
    fn left(&self) -> usize {
        match self {
            Self::Coming { decoder: Decoder::Length(left), .. } => usize::try_from(*left).unwrap_or(usize::MAX),
            Self::Coming { decoder: Decoder::Chunked(_), .. } => usize::MAX,
            Self::Through | Self::Broken => 0,
        }
    }
}

const TAKEN_BACK: &str = "only whoever drives the connection takes them back, and looks at its own from then on";

impl<T> Wires<T> {
    pub(super) fn new(io: T) -> Self {
        Self::Own(Box::new(Wire {
            io: Some(io),
            ahead: BytesMut::new(),
            seen: 0,
            has_ended: false,
            is_broken: false,
            incoming: Incoming::Through,
            continues: Continue::No,
            gulp: FIRST_GULP,
            reader: None,
            driver: None,
        }))
    }

    /// Has a body read them, too.
    pub(super) fn share(&mut self) -> Shared<T> {
        let shared = Shared(Arc::default());
        let before = mem::replace(self, Self::Shared(Shared(Arc::clone(&shared.0))));
        *shared.lock() = match before {
            Self::Own(wire) => Some(wire),
            Self::Shared(before) => before.lock().take(),
        };
        shared
    }

    /// Has them alone again, once the body is through.
    pub(super) fn take_back(&mut self) {
        let Self::Shared(shared) = self else { return };
        let wire = shared.lock().take_if(|wire| matches!(wire.incoming, Incoming::Through));
        if let Some(wire) = wire {
            *self = Self::Own(wire);
        }
    }

    pub(super) fn look(&mut self) -> Look<'_, T> {
        match self {
            Self::Own(wire) => Look::Own(wire),
            Self::Shared(shared) => Look::Shared(shared.lock()),
        }
    }
}

impl<T> Deref for Look<'_, T> {
    type Target = Wire<T>;

    fn deref(&self) -> &Wire<T> {
        match self {
            Self::Own(wire) => wire,
            Self::Shared(wire) => wire.as_ref().expect(TAKEN_BACK),
        }
    }
}

impl<T> DerefMut for Look<'_, T> {
    fn deref_mut(&mut self) -> &mut Wire<T> {
        match self {
            Self::Own(wire) => wire,
            Self::Shared(wire) => wire.as_mut().expect(TAKEN_BACK),
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Option<Box<Wire<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body is dropped.
    pub(super) fn let_go(&self) {
        if let Some(wire) = &mut *self.lock() {
            wire.let_go();
        }
    }
}

impl<T: AsyncRead + Unpin> Shared<T> {
    /// What comes next of the body.
    pub(super) fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self.lock() {
            Some(wire) => wire.poll_body(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Decoder {
    fn decode(&mut self, bytes: &mut BytesMut) -> io::Result<Option<Piece>> {
        match self {
            Self::Length(0) => Ok(Some(Piece::End)),
            Self::Length(_) if bytes.is_empty() => Ok(None),
            Self::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= length as u64;
                Ok(Some(Piece::Data(bytes.split_to(length).freeze())))
            }
            Self::Chunked(chunked) => {
                chunked.decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    fn is_at_end(&self) -> bool {
        matches!(self, Self::Length(0))
    }
}

impl<T> Wire<T> {
    /// Where bytes are written.
    pub(super) fn io(&mut self) -> io::Result<&mut T> {
        self.io.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Ends it for whoever still reads its body. Returns what carried it, and what was read and not used.
    pub(super) fn take(&mut self) -> (Option<T>, Bytes) {
        if !matches!(self.incoming, Incoming::Through) {
            self.incoming = Incoming::Broken;
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        (self.io.take(), mem::take(&mut self.ahead).freeze())
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether something was read that was not used.
    pub(super) fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether a head has begun: empty lines before it are none (RFC 9112 §2.2).
    pub(super) fn has_begun(&self) -> bool {
        self.ahead.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// Whoever drives the connection is woken when its request's body is through.
    pub(super) fn is_driven_by(&mut self, driver: &Waker) {
        if self.driver.as_ref().is_none_or(|known| !known.will_wake(driver)) {
            self.driver = Some(driver.clone());
        }
    }

    /// Wakes who drives the connection, where that is not who is polled now.
    fn wake_driver(&mut self, polled: Option<&Waker>) {
        let Some(driver) = &self.driver else { return };
        if polled.is_none_or(|polled| !polled.will_wake(driver)) {
            driver.wake_by_ref();
        }
    }

    /// Begins the body of the request with this head. Returns whether there is one.
    pub(super) fn begin_body(&mut self, head: &Head, bounds: Bounds) -> bool {
        let decoder = match head.framing {
            Framing::Length(0) => return false,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Box::new(Chunked::new(bounds))),
        };
        self.continues = if head.awaits_continue { Continue::Awaited } else { Continue::No };
        self.incoming = Incoming::Coming { decoder, is_held: true };
        true
    }

    /// Whether the client is to be asked for its body. From here on it is not to be any more.
    pub(super) fn is_to_be_asked(&mut self) -> bool {
        let is_wanted = self.continues == Continue::Wanted;
        if is_wanted {
            self.continues = Continue::No;
        }
        is_wanted
    }

    /// The answer begins: whoever was not asked for its body never will be.
    pub(super) fn ask_no_more(&mut self) {
        self.continues = Continue::No;
    }

    /// The body is dropped.
    fn let_go(&mut self) {
        self.reader = None;
        if let Incoming::Coming { is_held, .. } = &mut self.incoming {
            *is_held = false;
            self.wake_driver(None);
        }
    }

    /// Gives back the memory that reading took, where nothing was read ahead.
    pub(super) fn release(&mut self) {
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
    }
}

impl<T: AsyncRead + Unpin> Wire<T> {
    /// Reads the next head. What stands behind it stays.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>, bounds: &Bounds) -> Poll<Result<Head, NoHead>> {
        loop {
            if let Some(head) = self.head_ahead(bounds).map_err(NoHead::Refused)? {
                return Poll::Ready(Ok(head));
            }
            let mut room = [const { MaybeUninit::uninit() }; SIP];
            let mut read = ReadBuf::uninit(&mut room);
            ready!(self.poll_read(cx, &mut read)).map_err(NoHead::Broken)?;
            let came = read.filled();
            if came.is_empty() {
                // What was not looked at while it came in pieces.
                let refused = request::parse(&self.ahead, bounds).err();
                return Poll::Ready(Err(refused.map_or(NoHead::Ended, NoHead::Refused)));
            }
            if self.ahead.is_empty() {
                // Mostly it comes in one piece, and is not kept here at all.
                if let Some((head, length)) = request::parse(came, bounds).map_err(NoHead::Refused)? {
                    self.ahead.extend_from_slice(&came[length..]);
                    return Poll::Ready(Ok(head));
                }
                self.seen = came.len();
            }
            self.ahead.extend_from_slice(came);
        }
    }

    /// The head that was read ahead, if it is all here. What was found to be no whole one is not read anew with each byte.
    fn head_ahead(&mut self, bounds: &Bounds) -> Result<Option<Head>, Refusal> {
        let seen = mem::replace(&mut self.seen, self.ahead.len());
        let is_new = self.ahead.len() > seen;
        let is_full = self.ahead.len() >= bounds.bytes;
        if !is_new || seen > 0 && !is_full && !request::may_be_whole(&self.ahead, seen) {
            return Ok(None);
        }
        let Some((head, length)) = request::parse(&self.ahead, bounds)? else { return Ok(None) };
        self.seen = 0;
        self.ahead.advance(length);
        Ok(Some(head))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.has_ended {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(self.io()?).poll_read(cx, read))?;
        self.has_ended = read.filled().is_empty();
        Poll::Ready(Ok(()))
    }

    /// Looks at what comes while a request is handled: nothing but its body, or the next, of which not much is read.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.is_broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        while self.reader.is_none() && !self.has_ended && self.ahead.len() < AHEAD {
            let mut room = [const { MaybeUninit::uninit() }; SIP];
            let mut read = ReadBuf::uninit(&mut room);
            match self.poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => self.ahead.extend_from_slice(read.filled()),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// What comes next of the body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.reader = None;
        if self.continues == Continue::Awaited {
            self.continues = Continue::Wanted;
            self.wake_driver(Some(cx.waker()));
        }
        let polled = self.poll_piece(cx);
        match &polled {
            Poll::Pending => self.reader = Some(cx.waker().clone()),
            Poll::Ready(Ok(Piece::End)) => self.incoming = Incoming::Through,
            Poll::Ready(Ok(Piece::Data(_) | Piece::Trailers(_))) => {}
            Poll::Ready(Err(_)) => self.incoming = Incoming::Broken,
        }
        if let Incoming::Coming { decoder, .. } = &self.incoming
            && decoder.is_at_end()
        {
            self.incoming = Incoming::Through;
        }
        if polled.is_ready() && !matches!(self.incoming, Incoming::Coming { .. }) {
            self.wake_driver(Some(cx.waker()));
        }
        polled.map(|piece| match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Piece::End) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Piece>> {
        loop {
            match &mut self.incoming {
                Incoming::Through => return Poll::Ready(Ok(Piece::End)),
                Incoming::Broken => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                Incoming::Coming { decoder, .. } => {
                    if let Some(piece) = decoder.decode(&mut self.ahead)? {
                        return Poll::Ready(Ok(piece));
                    }
                }
            }
            if self.has_ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(self.poll_gulp(cx))?;
        }
    }

    /// Reads some of a body, more each time where much comes.
    fn poll_gulp(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, ahead, gulp, incoming, .. } = self;
        let io = io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        // A read that fills its buffer may have left something, so that another would be tried at the end of the body.
        ahead.reserve(incoming.left().saturating_add(1).min(*gulp));
        let came = ready!(pin!(io.read_buf(ahead)).poll(cx)).inspect_err(|_| self.is_broken = true)?;
        if came >= *gulp {
            *gulp = (*gulp * 2).min(LARGEST_GULP);
        }
        self.has_ended = came == 0;
        Poll::Ready(Ok(()))
    }

    /// How the request's body stands. What is here of one that nobody reads any more is dropped first.
    pub(super) fn rest(&mut self, cx: &mut Context<'_>) -> Rest {
        match &self.incoming {
            Incoming::Through => return Rest::None,
            Incoming::Broken => return Rest::Lost,
            Incoming::Coming { is_held: true, .. } => return Rest::Held,
            Incoming::Coming { .. } => {}
        }
        for _ in 0..PIECES {
            match self.poll_piece(cx) {
                Poll::Ready(Ok(Piece::End)) => {
                    self.incoming = Incoming::Through;
                    return Rest::None;
                }
                Poll::Ready(Ok(Piece::Data(_) | Piece::Trailers(_))) => {}
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        self.incoming = Incoming::Broken;
        Rest::Lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 8 * 1024, fields: 10 };

    fn begun(wires: &mut Wires<&'static [u8]>) -> Shared<&'static [u8]> {
        let polled = wires.look().poll_head(&mut Context::from_waker(Waker::noop()), &BOUNDS);
        let Poll::Ready(Ok(head)) = polled else { panic!("no head: {polled:?}") };
        assert!(wires.look().begin_body(&head, BOUNDS));
        wires.share()
    }

    fn next(body: &Shared<&'static [u8]>) -> Option<Bytes> {
        match body.poll_body(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => Some(frame?.expect("no error").into_data().expect("data")),
            Poll::Pending => panic!("all of it is here"),
        }
    }

    #[test]
    fn bytes_are_shared_with_a_body_for_as_long_as_it_is_read() {
        let request = b"PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\noneGET / HTTP/1.1\r\nContent-Length: 3\r\n\r\ntwo";
        let mut wires = Wires::new(&request[..]);
        let first = begun(&mut wires);
        wires.take_back();
        assert!(matches!(wires, Wires::Shared(_)), "it is still to come");
        assert_eq!(next(&first).as_deref(), Some(&b"one"[..]));
        wires.take_back();
        assert!(matches!(wires, Wires::Own(_)), "it is through");
        let second = begun(&mut wires);
        assert_eq!(next(&first), None, "what follows is not its own");
        first.let_go();
        assert_eq!(next(&second).as_deref(), Some(&b"two"[..]));
    }

    #[test]
    fn a_body_that_is_let_go_is_read_to_its_end_or_lost() {
        for (bytes, rest) in [("three", Rest::None), ("thre", Rest::Lost)] {
            let head = "PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\n";
            let mut wires = Wires::new(&*Box::leak(format!("{head}{bytes}").into_bytes().into_boxed_slice()));
            let body = begun(&mut wires);
            let mut cx = Context::from_waker(Waker::noop());
            assert_eq!(wires.look().rest(&mut cx), Rest::Held);
            body.let_go();
            assert_eq!(wires.look().rest(&mut cx), rest);
            wires.take_back();
            assert_eq!(matches!(wires, Wires::Own(_)), rest == Rest::None);
        }
    }
}
