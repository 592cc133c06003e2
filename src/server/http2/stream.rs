//! One stream of an HTTP/2 connection: a request to the gateway, and its answer to the client.
//!
//! A client that resets the stream gives its request up: whatever waits here is dropped. One that takes nothing of an answer
//! for `send_timeout` (it opens no window, while the connection is alive) has its stream reset, which lets go of the
//! backend. No more of an answer is given to h2 than the window takes, so that it shows when a slow client takes
//! something.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, DATE, EXPECT},
};
use http_body::{Body, Frame};
use http_body_util::Empty;
use tokio::{sync::oneshot, time::Instant};

use super::{UnderWay, body::FromStream, tunnel::Tunnel};
use crate::{
    clock::{self, Alarm},
    core::{
        message::{Request, Response, response::Parts},
        value::FieldValue,
    },
    gateway::{Delivery, Early, FromClient, Upgrade, Upgraded},
    server::date,
};

/// An answer is given to h2 in pieces of this size at most.
const PIECE: usize = 16 * 1024;

/// A stream whose request is under way. Written by hand, since every step of an `async fn` would have room of its own here.
pub(super) struct Stream<F> {
    /// `None` once it is there.
    pub(super) answer: Option<Pin<Box<F>>>,
    pub(super) respond: SendResponse<Bytes>,
    /// What is to be said before the answer.
    pub(super) early: Arc<Early>,
    pub(super) is_head: bool,
    pub(super) send_timeout: Duration,
    pub(super) tunnel: Option<Box<Opening>>,
    /// `None` once a tunnel has it.
    pub(super) under_way: Option<UnderWay>,
    pub(super) sending: Option<Sending>,
    /// Whether it is to end in another round than its answer. Where more of the request was to come h2 then resets it, and
    /// curl takes an answer for none that a reset comes together with.
    pub(super) is_to_pause: bool,
}

/// The body of an answer on its way.
pub(super) struct Sending {
    out: SendStream<Bytes>,
    body: Delivery,
    /// What is left of a piece of it.
    rest: Bytes,
    is_last: bool,
    /// Until when the client may take nothing, while it does not.
    until: Option<Instant>,
    alarm: Alarm,
}

/// What becomes a tunnel if a CONNECT is granted.
pub(super) struct Opening {
    incoming: RecvStream,
    open: oneshot::Sender<Upgraded>,
}

/// Why an answer could not be sent to its end.
#[derive(Debug)]
enum Stopped {
    /// By the client, or with the connection.
    There,
    /// The client takes nothing.
    Late,
    /// The answer itself broke off.
    Here,
}

impl From<h2::Error> for Stopped {
    fn from(_: h2::Error) -> Self {
        Self::There
    }
}

/// A request as the gateway takes it.
pub(super) fn received(
    request: http::Request<RecvStream>,
    early: &Arc<Early>,
) -> (Request<FromClient>, Option<Box<Opening>>) {
    let (mut head, incoming) = Request::from(request).into_parts();
    if head.method == Method::CONNECT {
        let (open, opened) = oneshot::channel();
        let opening = async { opened.await.map_err(|_| io::ErrorKind::ConnectionAborted.into()) };
        head.extensions.insert(Upgrade::new(opening));
        let request = Request::from_parts(head, FromClient::new(Empty::new()));
        return (request, Some(Box::new(Opening { incoming, open })));
    }
    let body = if incoming.is_end_stream() {
        FromClient::new(Empty::new())
    } else {
        let asks = head.headers.contains_key(EXPECT).then(|| Arc::clone(early));
        FromClient::new(FromStream::new(incoming, &head.headers, asks))
    };
    (Request::from_parts(head, body), None)
}

/// The answer to a head with too many fields: the same as h2 gives by itself to one with too many bytes. It counts as given
/// up: it cost something, and nothing was asked for.
pub(super) fn too_many_fields(mut respond: SendResponse<Bytes>) {
    let mut answer = http::Response::new(());
    *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    // An error: the client has gone on.
    let _ = respond.send_response(answer, true);
}

impl<F: Future<Output = Response<Delivery>>> Future for Stream<F> {
    type Output = ();

    /// Sends the answer as it comes, and what precedes it.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.answer.is_some() {
            let Some(response) = ready!(self.poll_answer(cx)) else { return Poll::Ready(()) };
            self.answer = None;
            self.sending = self.begin(response);
        }
        let patience = self.send_timeout;
        if let Some(sending) = &mut self.sending {
            match ready!(sending.poll(cx, patience)) {
                Ok(()) | Err(Stopped::There) => {}
                Err(Stopped::Late) => {
                    tracing::debug!("a client took nothing of an answer for send_timeout");
                    sending.out.send_reset(Reason::CANCEL);
                }
                Err(Stopped::Here) => sending.out.send_reset(Reason::INTERNAL_ERROR),
            }
            self.sending = None;
        }
        if std::mem::take(&mut self.is_to_pause) {
            // The connection was woken before, by the answer.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<F: Future<Output = Response<Delivery>>> Stream<F> {
    /// `None`: the client has given the request up.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Response<Delivery>>> {
        // First of all: whoever handles the request would take the end of its body for something to answer.
        if self.respond.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        let Some(answer) = &mut self.answer else { return Poll::Ready(None) };
        let answer = answer.as_mut().poll(cx);
        while let Some((status, fields)) = self.early.next(cx.waker()) {
            let mut early = http::Response::new(());
            (*early.status_mut(), *early.headers_mut()) = (status, fields.into());
            if let Err(error) = self.respond.send_informational(early) {
                tracing::debug!(%error, "an informational answer could not be sent");
            }
        }
        answer.map(Some)
    }

    /// Sends the head of the answer. `None`: nothing more is to be sent here.
    fn begin(&mut self, response: Response<Delivery>) -> Option<Sending> {
        self.early.close();
        self.under_way.as_mut()?.answered();
        let (mut head, body) = response.into_parts();
        head.headers.add_missing(DATE, date::now);
        let tunnel = self.tunnel.take().filter(|_| head.status.is_success());
        let has_body = tunnel.is_some() || self.has_body(&mut head, &body);
        let sent = self.respond.send_response(Response::from_parts(head, ()).into(), !has_body);
        let out = match sent {
            Ok(out) => out,
            Err(error) => {
                tracing::debug!(%error, "an answer could not be sent");
                self.respond.send_reset(Reason::INTERNAL_ERROR);
                return None;
            }
        };
        if let Some(tunnel) = tunnel {
            let Opening { incoming, open } = *tunnel;
            let tunnel = Tunnel { out, incoming, rest: Bytes::new(), _under_way: self.under_way.take() };
            // Nobody waits for it any more where the backend was faster to leave.
            let _ = open.send(Box::new(tunnel));
            return None;
        }
        has_body.then(|| Sending {
            out,
            body,
            rest: Bytes::new(),
            is_last: false,
            until: None,
            alarm: Alarm::default(),
        })
    }

    /// Whether a body follows this head, which says how long that is as far as it is known.
    fn has_body(&self, head: &mut Parts, body: &Delivery) -> bool {
        if head.status == StatusCode::NO_CONTENT || body.is_end_stream() {
            return false;
        }
        if let Some(length) = body.size_hint().exact() {
            head.headers.add_missing(CONTENT_LENGTH, || FieldValue::from(length));
        }
        !self.is_head && head.status != StatusCode::NOT_MODIFIED
    }
}

impl Sending {
    /// Gives the body to h2, piece by piece, as the client takes it.
    fn poll(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<Result<(), Stopped>> {
        loop {
            while !self.rest.is_empty() {
                let room = ready!(self.poll_room(cx, patience))?;
                let piece = self.rest.split_to(room.min(self.rest.len()));
                let ends = self.is_last && self.rest.is_empty();
                self.out.send_data(piece, ends)?;
                if ends {
                    return Poll::Ready(Ok(()));
                }
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                let is_reset = self.out.poll_reset(cx).is_ready();
                return if is_reset { Poll::Ready(Err(Stopped::There)) } else { Poll::Pending };
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => (self.rest, self.is_last) = (data, self.body.is_end_stream()),
                Some(Ok(Err(frame))) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return Poll::Ready(Ok(self.out.send_trailers(trailers)?));
                    }
                }
                Some(Err(_)) => return Poll::Ready(Err(Stopped::Here)),
                None => return Poll::Ready(Ok(self.out.send_data(Bytes::new(), true)?)),
            }
        }
    }

    /// Waits until the client takes something. Nothing is reserved before there is something to send: it would keep others'
    /// answers waiting.
    fn poll_room(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<Result<usize, Stopped>> {
        self.out.reserve_capacity(self.rest.len().min(PIECE));
        loop {
            // h2 tells of a change only, so what there is comes first.
            let room = self.out.capacity();
            if room > 0 {
                self.until = None;
                return Poll::Ready(Ok(room));
            }
            match self.out.poll_capacity(cx) {
                Poll::Ready(Some(more)) => {
                    more?;
                }
                Poll::Ready(None) => return Poll::Ready(Err(Stopped::There)),
                Poll::Pending => {
                    let until = *self.until.get_or_insert_with(|| clock::now() + patience);
                    ready!(self.alarm.poll(cx, until));
                    return Poll::Ready(Err(Stopped::Late));
                }
            }
        }
    }
}
