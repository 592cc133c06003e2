//! The body of a request that comes by a stream. An end that is a reset, whatever its reason, is an error.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use crate::{core::fields::Fields, gateway::Early};

/// The body. h2 sees to it that there is neither more nor less of it than its length says.
#[derive(Debug)]
pub(super) struct FromStream {
    stream: RecvStream,
    /// What is left of the announced length.
    left: Option<u64>,
    data_ended: bool,
    /// Whether nothing more comes, as far as was seen: each look at the stream takes h2's lock.
    ended: bool,
    /// The way to a client that does not send it before it is asked to.
    asks: Option<Arc<Early>>,
}

impl FromStream {
    /// It has not ended yet.
    pub(super) fn new(stream: RecvStream, fields: &Fields, asks: Option<Arc<Early>>) -> Self {
        let left = fields.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { left, data_ended: false, ended: false, asks, stream }
    }
}

impl Body for FromStream {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if !self.data_ended {
            let data = self.stream.poll_data(cx);
            // Once some of it is here there is nothing to ask for.
            if let Some(asks) = self.asks.take()
                && data.is_pending()
            {
                asks.go_on();
            }
            match ready!(data) {
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    self.stream.flow_control().release_capacity(data.len())?;
                    self.ended = self.stream.is_end_stream();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        self.ended = true;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.ended => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
