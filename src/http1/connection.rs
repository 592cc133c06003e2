//! A connection, driven: its requests one after another, each with its answer, and its end.
//!
//! At any time it is known what is waited for: a head ([`Connection::head`]), whoever handles the request
//! ([`Connection::handled`]), the client, which takes the answer ([`Connection::send`]), or what is left of the request's body
//! ([`Connection::rest`]). From that follows what may be written, and how long may be waited. While a request is under way
//! the end of what its client sends is not the end of it, but a connection that breaks is.

use std::{
    error::Error,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    answer::{self, Asked, Framing, Size},
    body::Body,
    outbox::Outbox,
    request::{Bounds, Head, Refusal},
    wire::{NoHead, Rest, Wires},
};
use crate::{
    clock::{self, Alarm},
    core::message::{Response, request::Parts},
};

/// How much of an answer may wait to be sent to a client that does not read.
const UNSENT: usize = 64 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

type Cause = Box<dyn Error + Send + Sync>;

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// From the end of an answer to the next head.
    pub idle: Duration,
    /// For a client that has ended its side and takes nothing of its answer.
    pub half_closed: Duration,
}

/// Who handles the requests of one connection.
pub trait Handler {
    /// What carries the connection.
    type Io: AsyncRead + AsyncWrite + Unpin;
    /// The body of an answer.
    type Body: http_body::Body<Data = Bytes, Error: Into<Cause>>;

    /// Answers a request. If that asks to go on with another protocol, and the answer is `101`, the connection does.
    fn handle(
        &self,
        head: Box<Parts>,
        body: Body<Self::Io>,
        asks_to_switch: bool,
    ) -> impl Future<Output = Response<Self::Body>>;

    /// Whether the connection is to be closed behind the answer that is there now.
    fn is_last(&self) -> bool;

    /// Whether there may be something that precedes the answer, for who has asked for it before by the same waker. It costs
    /// less than to ask.
    fn has_informational(&self) -> bool;

    /// What precedes the answer to the request that is handled, as it is to be written. Asked for where nothing else is left
    /// to write; `writer` is woken when there is another.
    fn next_informational(&self, writer: &Waker) -> Option<Bytes>;

    /// Nothing more comes from the client, which may wait for its answer all the same. May be said more than once.
    fn client_has_ended(&self);
}

/// How a connection came to its end, and so what may still be said on it.
#[derive(Debug)]
pub enum End {
    /// Nothing was under way, and the client ended it or it was to be closed.
    Quiet,
    /// No request began in time.
    Idle,
    /// A head began and did not end in time.
    Late,
    /// What came can't be answered.
    Refused(Refusal),
    /// The last answer has been sent, and the connection's writing side shut down.
    Answered {
        /// Whether the client may still be sending.
        may_send: bool,
        /// Whether it asked to go on with another protocol, and may not.
        is_declined: bool,
    },
    /// It goes on with another protocol, of which these bytes were read.
    Switched(Bytes),
    /// An answer broke off whose end only the connection's would show: it must not look like one.
    CutShort(Cause),
    /// It broke, or an answer broke off.
    Broken(Cause),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// A connection to a client.
#[derive(Debug)]
pub struct Connection<H: Handler> {
    handler: H,
    bounds: Bounds,
    times: Times,
    link: Link<H::Io>,
    /// When the next head began.
    began: Option<Instant>,
}

/// What carries a connection, both ways.
#[derive(Debug)]
struct Link<T> {
    wire: Wires<T>,
    out: Outbox,
    /// Whether some of what was written may not have been sent yet.
    is_unflushed: bool,
    alarm: Alarm,
    /// Who is woken where something precedes an answer.
    writer: Option<Waker>,
    /// When the client last took something, once it has ended its side.
    taken: Option<Instant>,
    half_closed: Duration,
}

impl<T> Drop for Link<T> {
    /// Whoever still reads the request's body must not take this for its end.
    fn drop(&mut self) {
        let taken = self.wire.look().take();
        drop(taken);
    }
}

impl<H: Handler> Connection<H> {
    /// A connection whose first head began at this time.
    pub fn new(io: H::Io, handler: H, bounds: Bounds, times: Times, began: Instant) -> Self {
        let (wire, out, alarm) = (Wires::new(io), Outbox::default(), Alarm::default());
        let half_closed = times.half_closed;
        let link = Link { wire, out, is_unflushed: false, alarm, writer: None, taken: None, half_closed };
        Self { handler, bounds, times, link, began: Some(began) }
    }

    /// Serves it to its end. Returns that, and what carried it where that can still be used. `is_to_close` says whether a
    /// connection on which no request has begun is to be closed, and wakes who asks once it is.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it gives up the request that it handles, and closes.
    pub async fn serve(mut self, mut is_to_close: impl FnMut(&mut Context<'_>) -> bool) -> (End, Option<H::Io>) {
        loop {
            let Err(end) = self.exchange(&mut is_to_close).await else { continue };
            let (io, ahead) = self.link.wire.look().take();
            return match end {
                End::Switched(_) => (End::Switched(ahead), io),
                End::Broken(_) => (end, None),
                End::Quiet | End::Idle | End::Late | End::Refused(_) | End::Answered { .. } | End::CutShort(_) => {
                    (end, io)
                }
            };
        }
    }

    /// One request and its answer.
    async fn exchange(&mut self, is_to_close: &mut impl FnMut(&mut Context<'_>) -> bool) -> Result<(), End> {
        let head = self.head(is_to_close).await?;
        let asked = Asked::by(&head);
        let asks_to_switch = head.asks_to_switch;
        let response = self.handled(head).await?;
        let switches = asks_to_switch && response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let keeps_alive = self.send(asked, response).await?;
        if switches {
            return Err(End::Switched(Bytes::new()));
        }
        if !keeps_alive {
            self.link.shut_down().await?;
        }
        let rest = self.rest().await?;
        if keeps_alive && rest == Rest::None {
            return Ok(());
        }
        if keeps_alive {
            self.link.shut_down().await?;
        }
        let wire = self.link.wire.look();
        // One that wanted the end itself sends nothing more, unless there is more already.
        let may_send =
            !wire.has_ended() && (asked.keeps_alive || asks_to_switch || rest != Rest::None || wire.has_ahead());
        Err(End::Answered { may_send, is_declined: asks_to_switch })
    }

    /// Waits for the next head.
    async fn head(&mut self, is_to_close: &mut impl FnMut(&mut Context<'_>) -> bool) -> Result<Head, End> {
        let Self { bounds, times, link, began, .. } = self;
        let mut idle_since = None;
        let head = poll_fn(|cx| {
            let mut wire = link.wire.look();
            match wire.poll_head(cx, bounds) {
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(NoHead::Ended)) => return Poll::Ready(Err(End::Quiet)),
                Poll::Ready(Err(NoHead::Refused(refusal))) => return Poll::Ready(Err(End::Refused(refusal))),
                Poll::Ready(Err(NoHead::Broken(error))) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {}
            }
            let has_begun = wire.has_begun();
            wire.release();
            drop(wire);
            link.out.release();
            if has_begun {
                began.get_or_insert_with(clock::now);
            } else if is_to_close(cx) {
                return Poll::Ready(Err(End::Quiet));
            }
            let (deadline, late) = match *began {
                Some(began) => (began + times.head, End::Late),
                None => (*idle_since.get_or_insert_with(clock::now) + times.idle, End::Idle),
            };
            link.alarm.poll(cx, deadline).map(|()| Err(late))
        });
        let head = head.await;
        *began = None;
        head
    }

    /// Has a request handled. Until there is an answer, what precedes it is written, and the connection looked at.
    async fn handled(&mut self, head: Head) -> Result<Response<H::Body>, End> {
        let Self { handler, bounds, link, .. } = self;
        let has_body = link.wire.look().begin_body(&head, *bounds);
        let body = if has_body { Body::coming(link.wire.share(), head.framing) } else { Body::none() };
        let asks_to_switch = head.asks_to_switch;
        let mut handled = pin!(handler.handle(head.request, body, asks_to_switch));
        poll_fn(|cx| {
            if has_body {
                link.wire.look().is_driven_by(cx.waker());
            }
            if let Poll::Ready(response) = handled.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            link.wire.take_back();
            link.precede(cx, handler, has_body)?;
            link.watch(cx, handler)?;
            Poll::Pending
        })
        .await
    }

    /// Sends an answer. Returns whether the connection may be used again, as far as the two heads say.
    async fn send(&mut self, mut asked: Asked, response: Response<H::Body>) -> Result<bool, End> {
        let Self { handler, link, .. } = self;
        let rest = poll_fn(|cx| {
            let mut wire = link.wire.look();
            wire.ask_no_more();
            Poll::Ready(wire.rest(cx))
        });
        let rest = rest.await;
        link.wire.take_back();
        asked.keeps_alive &= rest != Rest::Lost && !handler.is_last();
        let (head, body) = response.into_parts();
        let size = match body.size_hint().exact() {
            _ if body.is_end_stream() => Size::Empty,
            Some(length) => Size::Exact(length),
            None => Size::Unknown,
        };
        let written = link.out.put(|out| answer::write(out, &asked, &head, size));
        drop(head);
        let mut framing = written.framing;
        let mut body = pin!((framing != Framing::Length(0)).then_some(body));
        poll_fn(|cx| {
            loop {
                let mut waits_for_body = false;
                while link.out.len() < UNSENT
                    && let Some(source) = body.as_mut().as_pin_mut()
                {
                    match poll_encode(source, cx, &mut framing, &mut link.out) {
                        Poll::Ready(Ok(false)) => {}
                        Poll::Ready(Ok(true)) => body.set(None),
                        Poll::Ready(Err(error)) if framing == Framing::UntilClose => {
                            return Poll::Ready(Err(End::CutShort(error)));
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Broken(error))),
                        Poll::Pending => {
                            waits_for_body = true;
                            break;
                        }
                    }
                }
                let flushed = link.flush(cx)?;
                if flushed.is_ready() && body.is_none() {
                    return Poll::Ready(Ok(()));
                }
                if flushed.is_pending() || waits_for_body {
                    link.watch(cx, handler)?;
                    return Poll::Pending;
                }
            }
        })
        .await?;
        Ok(written.keeps_alive)
    }

    /// Waits until nobody reads the request's body any more, which is mostly so already.
    async fn rest(&mut self) -> Result<Rest, End> {
        let Self { handler, link, .. } = self;
        poll_fn(|cx| {
            let mut wire = link.wire.look();
            wire.is_driven_by(cx.waker());
            let rest = wire.rest(cx);
            drop(wire);
            link.wire.take_back();
            if rest != Rest::Held {
                return Poll::Ready(Ok(rest));
            }
            link.watch(cx, handler)?;
            Poll::Pending
        })
        .await
    }
}

/// Takes the next frame of an answer's body. Returns whether the body is at its end.
fn poll_encode<B>(
    mut body: Pin<&mut B>,
    cx: &mut Context<'_>,
    framing: &mut Framing,
    out: &mut Outbox,
) -> Poll<Result<bool, Cause>>
where
    B: http_body::Body<Data = Bytes, Error: Into<Cause>>,
{
    let frame = ready!(body.as_mut().poll_frame(cx)).transpose().map_err(Into::into)?;
    let (data, trailers) = match frame.map(http_body::Frame::into_data) {
        Some(Ok(data)) => (Some(data), None),
        Some(Err(frame)) => (None, frame.into_trailers().ok()),
        None => (None, None),
    };
    let is_over = data.is_none() || body.is_end_stream();
    let data = data.filter(|data| !data.is_empty());
    Poll::Ready(match framing {
        Framing::Length(left) => {
            let mut data = data.unwrap_or_default();
            // Never more than was said: it would be taken for the next answer.
            data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= data.len() as u64;
            out.push(data);
            match (*left, is_over) {
                (0, _) => Ok(true),
                (_, false) => Ok(false),
                (_, true) => Err("the answer is shorter than it says".into()),
            }
        }
        Framing::Chunked(announced) => {
            if let Some(data) = data {
                out.put(|out| answer::write_chunk_size(out, data.len()));
                out.push(data);
                out.put(|out| out.extend_from_slice(b"\r\n"));
            }
            if is_over {
                out.put(|out| answer::write_trailers(out, &trailers.unwrap_or_default(), announced));
            }
            Ok(is_over)
        }
        Framing::UntilClose => {
            out.push(data.unwrap_or_default());
            Ok(is_over)
        }
    })
}

impl<T: AsyncRead + AsyncWrite + Unpin> Link<T> {
    /// Writes what precedes the answer.
    fn precede<H: Handler<Io = T>>(&mut self, cx: &mut Context<'_>, handler: &H, has_body: bool) -> io::Result<()> {
        loop {
            if has_body && self.wire.look().is_to_be_asked() {
                self.out.put(|out| out.extend_from_slice(CONTINUE));
            }
            if self.flush(cx)?.is_pending() {
                return Ok(());
            }
            let is_known = self.writer.as_ref().is_some_and(|known| known.will_wake(cx.waker()));
            if is_known && !handler.has_informational() {
                return Ok(());
            }
            if !is_known {
                self.writer = Some(cx.waker().clone());
            }
            match handler.next_informational(cx.waker()) {
                Some(next) => self.out.push(next),
                None => return Ok(()),
            }
        }
    }

    /// Writes all that waits to be written.
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() && !self.is_unflushed {
            return Poll::Ready(Ok(()));
        }
        self.is_unflushed = true;
        let mut wire = self.wire.look();
        let io = wire.io()?;
        while !self.out.is_empty() {
            ready!(self.out.poll_write(cx, io))?;
            if let Some(taken) = &mut self.taken {
                *taken = clock::now();
            }
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.is_unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Sees whether the client has ended its side or is gone, and how long ago it took something.
    fn watch<H: Handler<Io = T>>(&mut self, cx: &mut Context<'_>, handler: &H) -> Result<(), End> {
        let mut wire = self.wire.look();
        wire.watch(cx)?;
        let has_ended = wire.has_ended();
        drop(wire);
        if !has_ended {
            return Ok(());
        }
        handler.client_has_ended();
        let taken = *self.taken.get_or_insert_with(clock::now);
        if self.alarm.poll(cx, taken + self.half_closed).is_ready() {
            return Err(
                io::Error::new(io::ErrorKind::TimedOut, "the client has ended its side, and takes nothing").into()
            );
        }
        Ok(())
    }

    /// Says that nothing more follows.
    async fn shut_down(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(self.wire.look().io()?).poll_shutdown(cx)).await
    }
}
