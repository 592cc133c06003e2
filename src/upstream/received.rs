//! The body of an answer on its way, and what becomes of its connection when it is through.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    Broken,
    ahead::{Ahead, Extent},
    fleet::{Counted, Server},
    http1,
    http2::{self, Slot},
    wire::Handle,
};
use crate::clock::{self, Alarm};

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The connection broke, or its framing did, or the backend reset the stream.
    #[error("the backend's answer broke off")]
    Broken(#[source] Broken),
    /// The backend paused for too long.
    #[error("the backend's answer paused for longer than response_idle_timeout")]
    Idle,
}

/// The body of an answer. Read to its end, it gives the connection back; dropped before that, it closes it, or resets its
/// stream where others share the connection.
#[derive(Debug)]
pub struct FromUpstream {
    source: Source,
    /// What it has until it is through.
    held: Option<Held>,
    under_way: Counted,
    /// What was read ahead of whoever takes the body.
    ahead: Option<Box<Ahead>>,
    handle: Handle,
    patience: Duration,
    /// Until when the backend is waited for, if it is.
    until: Option<Instant>,
    /// Over HTTP/2; else it is the connection's.
    alarm: Option<Box<Alarm>>,
}

#[derive(Debug)]
pub(super) enum Source {
    Http1(http1::Incoming),
    Http2(http2::Incoming),
    /// An answer without a body, since it goes on as something else.
    Nothing,
}

#[derive(Debug)]
pub(super) enum Held {
    /// The connection that the body has, which may be used again for so long.
    Connection { limit: Duration },
    /// A stream.
    Slot(#[expect(dead_code, reason = "it is given back when it is dropped")] Arc<Slot>),
}

impl FromUpstream {
    /// In a box, since it is handed on from step to step with its head.
    pub(super) fn new(
        source: Source,
        held: Option<Held>,
        under_way: Counted,
        handle: Handle,
        patience: Duration,
    ) -> Box<Self> {
        let is_over = source.is_end_stream();
        let mut new =
            Box::new(Self { source, held, under_way, ahead: None, handle, patience, until: None, alarm: None });
        if is_over {
            new.end();
        }
        new
    }

    /// Of a connection that is no longer HTTP's.
    pub(super) fn nothing(server: &Arc<Server>, handle: Handle, patience: Duration) -> Box<Self> {
        Self::new(Source::Nothing, None, Counted::over(server), handle, patience)
    }

    /// The way that the request went.
    #[must_use]
    pub fn connection(&self) -> &Handle {
        &self.handle
    }

    /// The server that it comes from.
    #[must_use]
    pub fn server(&self) -> &Server {
        self.under_way.server()
    }

    /// Reads up to a little more than `limit` bytes, and not for much longer than `time`. Whoever takes the body gets them
    /// first, and sees no difference.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing of the body is lost.
    pub async fn read_ahead(&mut self, limit: usize, time: Duration) -> Extent {
        let until = Instant::now() + time;
        let hint = self.size_hint();
        if hint.lower() > limit as u64 {
            return Extent::TooLong;
        }
        let ahead = self.ahead.get_or_insert_with(|| Ahead::new(&hint));
        ahead.data.reserve(usize::try_from(hint.lower()).unwrap_or(0));
        loop {
            let frame = poll_fn(|cx| self.poll_source(cx)).await;
            let ahead = self.ahead.get_or_insert_with(|| Ahead::new(&hint));
            match frame {
                None => return Extent::Whole,
                Some(Ok(frame)) => ahead.take(frame),
                Some(Err(error)) => {
                    ahead.broken = Some(error);
                    return Extent::Broken;
                }
            }
            if ahead.data.len() > limit {
                return Extent::TooLong;
            }
            if Instant::now() >= until && !self.source.is_end_stream() {
                return Extent::TooSlow;
            }
        }
    }

    /// What has been read ahead.
    #[must_use]
    pub fn ahead(&self) -> &[u8] {
        self.ahead.as_ref().map_or(&[], |ahead| &ahead.data)
    }

    /// Why it broke off while it was read ahead. Who takes the body is not told any more.
    pub fn broken(&mut self) -> Option<AnswerError> {
        self.ahead.as_mut()?.broken.take()
    }

    fn end(&mut self) {
        let Some(held) = self.held.take() else { return };
        if let Held::Connection { limit } = held
            && let Source::Http1(body) = &mut self.source
            && let Some(connection) = body.release()
            && let Some(pool) = connection.home.upgrade()
            && !limit.is_zero()
        {
            pool.give_back(connection, clock::now() + limit);
        }
        self.under_way.end();
    }

    fn break_off(&mut self) {
        self.held = None;
        self.under_way.end();
        if let Source::Http1(body) = &mut self.source {
            body.close();
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let Poll::Ready(frame) = self.source.poll_frame(cx) else {
            ready!(self.poll_pause(cx));
            self.handle.abort();
            self.break_off();
            return Poll::Ready(Some(Err(AnswerError::Idle)));
        };
        self.until = None;
        match &frame {
            // An answer that broke off leaves nothing to be used again.
            Some(Err(_)) => self.break_off(),
            None => self.end(),
            Some(Ok(_)) if self.source.is_end_stream() => self.end(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    /// Ready once the backend has paused for too long.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.until.get_or_insert_with(|| clock::now() + self.patience);
        let alarm = match &mut self.source {
            Source::Http1(body) => body.alarm(),
            Source::Http2(_) | Source::Nothing => None,
        };
        alarm.unwrap_or_else(|| self.alarm.get_or_insert_default()).poll(cx, until)
    }
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(AnswerError::Broken),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(|error| AnswerError::Broken(error.into())),
            Self::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Nothing => true,
        }
    }
}

impl Body for FromUpstream {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if let Some(ahead) = &mut self.ahead {
            if let Some(next) = ahead.next(cx) {
                return next.map(Some);
            }
            self.ahead = None;
        }
        self.poll_source(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.as_ref().is_none_or(|ahead| ahead.is_over()) && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &self.source {
            Source::Http1(body) => body.size_hint(),
            Source::Http2(body) => body.size_hint(),
            Source::Nothing => SizeHint::with_exact(0),
        };
        self.ahead.as_ref().map_or(rest, |ahead| ahead.size_hint(&rest))
    }
}
