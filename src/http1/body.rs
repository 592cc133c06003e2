//! The body of a request, for whoever reads it, wherever and however long that is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::AsyncRead;

use super::{request::Framing, wire::Shared};

/// The body of a request. It is read from the connection when it is polled, and never ahead of that by much.
#[derive(Debug)]
pub struct Body<T> {
    /// `None`: there is nothing more of it.
    wire: Option<Shared<T>>,
    /// How many bytes are left; `None`: nobody knows.
    left: Option<u64>,
}

impl<T> Body<T> {
    pub(super) fn none() -> Self {
        Self { wire: None, left: Some(0) }
    }

    pub(super) fn coming(wire: Shared<T>, framing: Framing) -> Self {
        let left = match framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        Self { wire: Some(wire), left }
    }
}

impl<T> Drop for Body<T> {
    fn drop(&mut self) {
        if let Some(wire) = &self.wire {
            wire.let_go();
        }
    }
}

impl<T: AsyncRead + Unpin> http_body::Body for Body<T> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(wire) = &self.wire else { return Poll::Ready(None) };
        let frame = ready!(wire.poll_body(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(left) = &mut self.left
        {
            *left -= frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        // One that broke off never comes to its end.
        if frame.is_none() || self.left == Some(0) {
            self.wire = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.wire.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
