//! HTTP/1.1 towards a backend: a connection that is its request's alone while that is under way.
//!
//! A request is written and the head of its answer read in the task of whoever sends it, and the body is read by whoever
//! takes it: no task drives the connection, and nothing goes through a channel. Only where an answer comes before all of
//! its request has been sent does a task of its own send the rest (`go_on`); such a connection is not used again.
//!
//! What is read is understood by `head` and `framing`, which know neither sockets nor time. What they do not understand
//! is an error and closes the connection, and so does whatever comes where nothing was asked for.
//!
//! # Cancel safety
//!
//! A connection belongs to the future that sends a request by it, and then to the body of the answer. Dropping either
//! closes it.

use std::{
    future::poll_fn,
    io,
    mem::{self, MaybeUninit},
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use tokio::io::ReadBuf;

use super::{
    BoxError, Broken, Fault, MOST_INFORMATIONAL, Progress,
    connect::Peer,
    frames::Sending,
    pool::Pool,
    wire::{Handle, Wire},
};
use crate::{
    clock::Alarm,
    core::message::{Request, request::Parts},
};

mod body;
#[cfg(test)]
mod compare;
pub mod framing;
pub mod head;
mod outgoing;
mod socket;
#[cfg(test)]
mod tests;

pub(super) use body::Incoming;
use head::{Head, Malformed, Reader};
use outgoing::{Outgoing, Stopped};
use socket::{Shared, Socket, Writer};

/// How much is read at a time at first, and at most.
const LEAST_READ: usize = 8 * 1024;
const MOST_READ: usize = 128 * 1024;

/// A connection, as a pool has it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    /// What has come of a head.
    coming: BytesMut,
    /// What has come behind it.
    ahead: Bytes,
    reads: Reads,
    /// How large a buffer was last asked for.
    room: usize,
    /// Where requests are written from.
    flat: Vec<u8>,
    /// Rings where the backend is waited for too long.
    alarm: Alarm,
    pub(super) peer: Peer,
    pub(super) served: usize,
    /// Where it is kept between two requests.
    pub(super) home: Weak<Pool>,
}

/// How much of a body to read at a time: more where that is filled, less where it is not, as hyper does it.
#[derive(Debug)]
struct Reads {
    next: usize,
    /// Whether the last was much smaller.
    shrinks: bool,
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) head: Head,
    pub(super) body: Incoming,
    /// Of what is left of the request.
    pub(super) handle: Handle,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) fault: Fault,
    /// Whether a byte of the request may have left. Its body is gone either way.
    pub(super) sent: bool,
}

impl Connection {
    /// Nothing has been said over it yet.
    pub(super) fn new(wire: Wire, peer: Peer, home: Weak<Pool>) -> Box<Self> {
        Box::new(Self {
            socket: Socket::Own(wire),
            coming: BytesMut::new(),
            ahead: Bytes::new(),
            reads: Reads { next: LEAST_READ, shrinks: false },
            room: 0,
            flat: Vec::new(),
            alarm: Alarm::default(),
            peer,
            served: 0,
            home,
        })
    }

    /// Whether nothing has come that was not asked for, and neither has its end. What came would be read as the answer to the
    /// next request. To be asked right before that is sent.
    pub(super) fn is_quiet(&mut self) -> bool {
        match &mut self.socket {
            Socket::Own(wire) => wire.is_quiet(),
            Socket::Shared(_) => false,
        }
    }

    /// Sends a request and waits for the head of its answer, for so long as the backend has something to answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub(super) async fn send<B>(
        mut self: Box<Self>,
        request: Box<Request<B>>,
        progress: &Arc<Progress>,
        patience: Duration,
    ) -> Result<Answered, Failed>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (asked, body) = request.into_parts();
        let mut outgoing = Outgoing::new(mem::take(&mut self.flat), &asked, body);
        let Parts { method, headers, .. } = asked;
        let mut reader = Reader::with(headers);
        let mut sent = None;
        let mut informed = 0;
        let head = poll_fn(|cx| {
            self.poll_write(cx, &mut outgoing, progress, &mut sent)?;
            loop {
                // Nobody can have answered what has not begun.
                let head = if outgoing.has_begun() { self.poll_head(cx, &mut reader) } else { Poll::Pending };
                let head = match head {
                    Poll::Ready(Ok(head)) => head,
                    // That nothing more was taken came first.
                    Poll::Ready(Err(broken)) => {
                        return Poll::Ready(Err(sent.take().and_then(Result::err).unwrap_or(broken)));
                    }
                    Poll::Pending => {
                        ready!(progress.poll_stalled(cx, &mut self.alarm, patience));
                        return Poll::Ready(Err(Fault::ResponseTimeout));
                    }
                };
                if !head.is_informational() {
                    return Poll::Ready(Ok(head));
                }
                informed += 1;
                if informed > MOST_INFORMATIONAL {
                    return Poll::Ready(Err(Fault::BadAnswer));
                }
                progress.informed(head.status, head.version, &head.fields);
            }
        })
        .await;
        let head = head.map_err(|fault| {
            let sent = outgoing.has_begun() || matches!(fault, Fault::ResponseTimeout);
            Failed { fault, sent }
        })?;
        let decoder = match head.status {
            StatusCode::SWITCHING_PROTOCOLS => framing::Decoder::length(0),
            _ => head.body(&method).map_err(|what| Failed { fault: malformed(what), sent: true })?,
        };
        let handle = match sent {
            Some(Ok(())) => {
                self.flat = outgoing.into_buffer();
                Handle::sent()
            }
            Some(Err(_)) => Handle::cut_short(),
            None => self.share(outgoing, progress, patience),
        };
        self.ahead = mem::take(&mut self.coming).freeze();
        let persists = matches!(sent, Some(Ok(()))) && head.persists() && !decoder.ends_with_connection();
        let body = Incoming::new(self, decoder, persists, handle.clone());
        Ok(Answered { head, body, handle })
    }

    /// Sends on. `sent` is set once there is nothing more to be sent; an error of the connection is no end yet, since an
    /// answer may have come before it.
    fn poll_write<B>(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut Outgoing<B>,
        progress: &Progress,
        sent: &mut Option<Result<(), Fault>>,
    ) -> Result<(), Fault>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        if sent.is_some() {
            return Ok(());
        }
        let Socket::Own(wire) = &mut self.socket else { return Ok(()) };
        match outgoing.poll(cx, wire) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => *sent = Some(Ok(())),
            Poll::Ready(Err(Stopped::There(error))) => {
                // From here on it is the backend that is waited for.
                progress.took();
                *sent = Some(Err(Fault::Connection(Broken::Io(error))));
            }
            Poll::Ready(Err(Stopped::Here(error))) => return Err(Fault::RequestBody(error)),
        }
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, reader: &mut Reader) -> Poll<Result<Head, Fault>> {
        loop {
            if let Some((head, length)) = reader.read(&self.coming).map_err(malformed)? {
                self.coming.advance(length);
                return Poll::Ready(Ok(head));
            }
            let lost = |error| Fault::Connection(Broken::Io(error));
            if self.coming.is_empty() {
                // Mostly it comes in one piece, and is not kept here at all.
                let mut room = [const { MaybeUninit::uninit() }; LEAST_READ];
                let mut read = ReadBuf::uninit(&mut room);
                ready!(self.socket.poll_read(cx, &mut read)).map_err(lost)?;
                let came = read.filled();
                self.reads.took(came.len(), came.len() == LEAST_READ);
                if came.is_empty() {
                    return Poll::Ready(Err(Fault::Connection(Broken::Closed)));
                }
                let head = reader.read(came).map_err(malformed)?;
                self.coming.extend_from_slice(&came[head.as_ref().map_or(0, |(_, length)| *length)..]);
                if let Some((head, _)) = head {
                    return Poll::Ready(Ok(head));
                }
            } else if ready!(self.poll_more(cx, LEAST_READ)).map_err(lost)? == 0 {
                return Poll::Ready(Err(Fault::Connection(Broken::Closed)));
            }
        }
    }

    /// Reads, into a buffer of this size where there is none.
    fn poll_more(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        if self.coming.capacity() - self.coming.len() < room.div_ceil(2) {
            self.coming.reserve(room);
            self.room = room;
        }
        let before = self.coming.capacity() - self.coming.len();
        let count = ready!(self.socket.poll_more(cx, &mut self.coming))?;
        self.reads.took(count, count == before);
        Poll::Ready(Ok(count))
    }

    /// Has a task of its own send the rest of a request.
    fn share<B>(&mut self, outgoing: Outgoing<B>, progress: &Arc<Progress>, patience: Duration) -> Handle
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (shared, sending) = (self.socket.share(), Sending::with_body());
        tokio::spawn(go_on(outgoing, shared, Arc::clone(&sending), Arc::clone(progress), patience));
        Handle::of(sending)
    }

    /// The connection without its protocol, and what came behind the head; `None` while a request is still being sent.
    fn into_wire(self) -> Option<(Wire, Bytes)> {
        match self.socket {
            Socket::Own(wire) => Some((wire, self.ahead)),
            Socket::Shared(_) => None,
        }
    }

    /// Nothing is under way on it. No large buffer stays with it.
    fn rests(&mut self) {
        if self.room > LEAST_READ {
            (self.coming, self.room) = (BytesMut::new(), 0);
        }
    }
}

/// Sends the rest of a request whose answer has begun.
async fn go_on<B>(
    mut outgoing: Outgoing<B>,
    shared: Arc<Shared>,
    sending: Arc<Sending>,
    progress: Arc<Progress>,
    patience: Duration,
) where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut writer = Writer(Arc::clone(&shared));
    // Who waits for the answer or holds a turn gives up sooner. Of a read that has its answer nobody else looks after the
    // body.
    let ended = tokio::select! {
        biased;
        () = sending.cancelled() => None,
        ended = poll_fn(|cx| outgoing.poll(cx, &mut writer)) => Some(ended),
        () = progress.stalls(patience * 2) => None,
    };
    match ended {
        Some(Ok(())) => return sending.sent(),
        // The answer may be whole all the same.
        Some(Err(Stopped::There(error))) => tracing::debug!(%error, "a backend took no more of a request"),
        Some(Err(Stopped::Here(_))) | None => shared.close(),
    }
    sending.given_up();
}

fn malformed(what: Malformed) -> Fault {
    match what {
        Malformed::Coding => Fault::BadAnswer,
        Malformed::Head(_)
        | Malformed::Meaning
        | Malformed::TooLong
        | Malformed::Length
        | Malformed::Size
        | Malformed::Chunk
        | Malformed::Trailers => Fault::Connection(Broken::Malformed(what)),
    }
}

impl Reads {
    fn took(&mut self, count: usize, filled: bool) {
        if filled {
            self.next = (self.next * 2).min(MOST_READ);
        } else if count < self.next / 2 && self.shrinks {
            self.next = (self.next / 2).max(LEAST_READ);
        }
        self.shrinks = !filled && count < self.next / 2 && !self.shrinks;
    }
}
