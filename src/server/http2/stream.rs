//! One stream of an HTTP/2 connection: a request to the gateway, and its answer to the client.
//!
//! A client that resets the stream gives its request up: whatever waits here is dropped. One that takes nothing of an answer
//! for `send_timeout` (it opens no window, while the connection is alive) has its stream reset, which lets go of the
//! backend. No more of an answer is given to h2 than the window takes, so that it shows when a slow client takes
//! something.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, DATE, EXPECT},
    response::Parts,
};
use http_body::Body;
use http_body_util::Empty;
use tokio::{sync::oneshot, time::timeout};

use super::{UnderWay, body::FromStream, tunnel::Tunnel};
use crate::{
    gateway::{Delivery, Early, FromClient, Upgrade, Upgraded},
    server::date,
};

/// An answer is given to h2 in pieces of this size at most.
const PIECE: usize = 16 * 1024;

/// A stream whose request is under way.
pub(super) struct Stream {
    pub(super) respond: SendResponse<Bytes>,
    /// What is to be said before the answer.
    pub(super) early: Arc<Early>,
    pub(super) is_head: bool,
    pub(super) send_timeout: Duration,
    pub(super) tunnel: Option<Box<Opening>>,
    pub(super) under_way: UnderWay,
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
    request: Request<RecvStream>,
    early: &Arc<Early>,
) -> (Request<FromClient>, Option<Box<Opening>>) {
    let (mut head, incoming) = request.into_parts();
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
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    // An error: the client has gone on.
    let _ = respond.send_response(answer, true);
}

impl Stream {
    /// Sends the answer as it comes, and what precedes it.
    pub(super) async fn answer(mut self, answer: impl Future<Output = Response<Delivery>>) {
        let Some(response) = ({
            let mut answer = pin!(answer);
            poll_fn(|cx| self.poll_answer(answer.as_mut(), cx)).await
        }) else {
            return;
        };
        self.early.close();
        self.under_way.answered();
        let (mut head, body) = response.into_parts();
        head.headers.entry(DATE).or_insert_with(date::now);
        let tunnel = self.tunnel.take().filter(|_| head.status.is_success());
        let has_body = tunnel.is_some() || self.has_body(&mut head, &body);
        let mut out = match self.respond.send_response(Response::from_parts(head, ()), !has_body) {
            Ok(out) => out,
            Err(error) => {
                tracing::debug!(%error, "an answer could not be sent");
                return self.respond.send_reset(Reason::INTERNAL_ERROR);
            }
        };
        if let Some(tunnel) = tunnel {
            let Opening { incoming, open } = *tunnel;
            // Nobody waits for it any more where the backend was faster to leave.
            let _ = open.send(Box::new(Tunnel { out, incoming, rest: Bytes::new(), _under_way: self.under_way }));
            return;
        }
        if !has_body {
            return;
        }
        match pour(&mut out, body, self.send_timeout).await {
            Ok(()) | Err(Stopped::There) => {}
            Err(Stopped::Late) => {
                tracing::debug!("a client took nothing of an answer for send_timeout");
                out.send_reset(Reason::CANCEL);
            }
            Err(Stopped::Here) => out.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// `None`: the client has given the request up.
    fn poll_answer(
        &mut self,
        answer: Pin<&mut impl Future<Output = Response<Delivery>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Response<Delivery>>> {
        let answer = answer.poll(cx);
        if self.respond.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        while let Some((status, fields)) = self.early.next(cx.waker()) {
            let mut early = Response::new(());
            (*early.status_mut(), *early.headers_mut()) = (status, fields);
            if let Err(error) = self.respond.send_informational(early) {
                tracing::debug!(%error, "an informational answer could not be sent");
            }
        }
        answer.map(Some)
    }

    /// Whether a body follows this head, which says how long that is as far as it is known.
    fn has_body(&self, head: &mut Parts, body: &Delivery) -> bool {
        if head.status == StatusCode::NO_CONTENT || body.is_end_stream() {
            return false;
        }
        if let Some(length) = body.size_hint().exact() {
            head.headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        !self.is_head && head.status != StatusCode::NOT_MODIFIED
    }
}

/// Gives a body to h2, piece by piece, as the client takes it.
async fn pour(out: &mut SendStream<Bytes>, mut body: Delivery, patience: Duration) -> Result<(), Stopped> {
    loop {
        let frame = poll_fn(|cx| {
            let frame = Pin::new(&mut body).poll_frame(cx);
            if frame.is_pending() && out.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Stopped::There));
            }
            frame.map(Ok)
        });
        let frame = match frame.await? {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Err(Stopped::Here),
            None => return Ok(out.send_data(Bytes::new(), true)?),
        };
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => return Ok(out.send_trailers(trailers)?),
                Err(_) => continue,
            },
        };
        let is_last = body.is_end_stream();
        while !data.is_empty() {
            let room = room(out, data.len().min(PIECE), patience).await?;
            let piece = data.split_to(room.min(data.len()));
            out.send_data(piece, is_last && data.is_empty())?;
            if is_last && data.is_empty() {
                return Ok(());
            }
        }
        if is_last {
            return Ok(out.send_data(Bytes::new(), true)?);
        }
    }
}

/// Waits until the client takes something. Nothing is reserved before there is something to send: it would keep others'
/// answers waiting.
async fn room(out: &mut SendStream<Bytes>, wanted: usize, patience: Duration) -> Result<usize, Stopped> {
    out.reserve_capacity(wanted);
    loop {
        // h2 tells of a change only, so what there is comes first.
        let room = out.capacity();
        if room > 0 {
            return Ok(room);
        }
        let more = timeout(patience, poll_fn(|cx| out.poll_capacity(cx)));
        more.await.map_err(|_| Stopped::Late)?.ok_or(Stopped::There)??;
    }
}
