//! The body of an answer on its way, and what becomes of its connection when it is through.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    fleet::Counted,
    http2::{self, Slot},
    pool::{Connection, Pool},
    wire::Handle,
};

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The connection broke, or its framing did.
    #[error("the backend's answer broke off")]
    Http1(#[source] hyper::Error),
    /// The connection broke, or the backend reset the stream.
    #[error("the backend's answer broke off")]
    Http2(#[source] h2::Error),
    /// The backend paused for too long.
    #[error("the backend's answer paused for longer than response_idle_timeout")]
    Idle,
}

/// The body of an answer. Read to its end, it gives the connection back; dropped before that, it closes it, or resets its
/// stream where others share the connection.
#[derive(Debug)]
pub struct FromUpstream<B> {
    source: Source,
    lease: Option<Lease<B>>,
    handle: Handle,
    patience: Duration,
    /// Runs while the backend is waited for.
    pause: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

#[derive(Debug)]
pub(super) enum Source {
    Http1(hyper::body::Incoming),
    Http2(http2::Incoming),
}

/// What an answer has until it is through.
#[derive(Debug)]
pub(super) struct Lease<B> {
    pub(super) held: Held<B>,
    pub(super) _under_way: Counted,
}

#[derive(Debug)]
pub(super) enum Held<B> {
    /// A connection of its own, which may be used again for so long.
    Connection { connection: Connection<B>, pool: Weak<Pool<B>>, limit: Duration },
    /// A stream.
    Slot(#[expect(dead_code, reason = "it is given back when it is dropped")] Arc<Slot>),
    /// A connection that is no longer HTTP's.
    Nothing,
}

impl<B> FromUpstream<B> {
    pub(super) fn new(source: Source, lease: Lease<B>, handle: Handle, patience: Duration) -> Self {
        let mut new = Self { source, lease: Some(lease), handle, patience, pause: None, is_waiting: false };
        if new.source.is_end_stream() {
            new.end();
        }
        new
    }

    /// The way that the request went.
    #[must_use]
    pub fn connection(&self) -> &Handle {
        &self.handle
    }

    fn end(&mut self) {
        let Some(Lease { held: Held::Connection { connection, pool, limit }, .. }) = self.lease.take() else { return };
        if let Some(pool) = pool.upgrade()
            && !limit.is_zero()
        {
            pool.give_back(connection, Instant::now() + limit);
        }
    }

    /// Ready once the backend has paused for too long.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = Instant::now() + self.patience;
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if !self.is_waiting {
            self.is_waiting = true;
            pause.as_mut().reset(until);
        }
        pause.as_mut().poll(cx)
    }
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(AnswerError::Http1),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(AnswerError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }
}

impl<B> Body for FromUpstream<B>
where
    B: Unpin,
{
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let Poll::Ready(frame) = self.source.poll_frame(cx) else {
            ready!(self.poll_pause(cx));
            self.handle.abort();
            self.lease = None;
            return Poll::Ready(Some(Err(AnswerError::Idle)));
        };
        self.is_waiting = false;
        match &frame {
            // An answer that broke off leaves nothing to be used again.
            Some(Err(_)) => self.lease = None,
            None => self.end(),
            Some(Ok(_)) if self.source.is_end_stream() => self.end(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Http1(body) => body.size_hint(),
            Source::Http2(body) => body.size_hint(),
        }
    }
}
