//! An answer's body that is written down while it passes.
//!
//! Where the client goes away in the midst of it, the rest is read all the same, as far as it is to be written down: the
//! client that lost it comes again.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::upstream::{AnswerError, FromUpstream};

/// Takes the content in the end; `None`: there is more of it than is written down, or it broke off. Dropped without having
/// been called, it must do as if it had been called with `None`.
pub(in crate::gateway) trait Keep: Send {
    /// This is all.
    fn keep(self: Box<Self>, content: Option<&[u8]>);
}

/// The backend's body, and what has come of it.
pub(super) struct Recorded {
    /// `None` once it has been taken away.
    body: Option<Box<FromUpstream>>,
    recording: Option<Recording>,
    linger_time: Duration,
}

struct Recording {
    content: BytesMut,
    limit: usize,
    keep: Box<dyn Keep>,
}

impl Recorded {
    pub(super) fn new(body: Box<FromUpstream>, limit: usize, linger_time: Duration, keep: Box<dyn Keep>) -> Self {
        let is_too_long = body.size_hint().lower() > limit as u64;
        let recording = Recording { content: BytesMut::new(), limit, keep };
        let mut recorded = Self { body: None, recording: Some(recording), linger_time };
        if is_too_long {
            recorded.end(false);
        } else if body.is_end_stream() {
            recorded.end(true);
        }
        recorded.body = Some(body);
        recorded
    }

    /// Writes down what has come, and notices the end.
    fn note(&mut self, frame: Option<&Result<Frame<Bytes>, AnswerError>>) {
        let Some(recording) = &mut self.recording else { return };
        match frame {
            None => self.end(true),
            // Trailers are not written down.
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) if recording.content.len() + data.len() <= recording.limit => {
                    recording.content.extend_from_slice(data);
                    if self.body.as_ref().is_some_and(Body::is_end_stream) {
                        self.end(true);
                    }
                }
                Some(_) | None => self.end(false),
            },
            Some(Err(_)) => self.end(false),
        }
    }

    fn end(&mut self, is_whole: bool) {
        if let Some(Recording { content, keep, .. }) = self.recording.take() {
            keep.keep(is_whole.then_some(&content));
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        self.note(frame.as_ref());
        Poll::Ready(frame)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.recording.is_some()
            && let Some(body) = self.body.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (recording, linger_time) = (self.recording.take(), self.linger_time);
            let mut rest = Self { body: Some(body), recording, linger_time };
            runtime.spawn(async move {
                // Over time, it is dropped as it is.
                let _ = timeout(linger_time, rest.read_on()).await;
                rest.end(false);
            });
        }
    }
}

impl Recorded {
    async fn read_on(&mut self) {
        while self.recording.is_some() {
            let Some(body) = &mut self.body else { return };
            let frame = body.frame().await;
            self.note(frame.as_ref());
        }
    }
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}
