//! The beginning of an answer's body, read before anybody has decided what becomes of the answer.
//!
//! It is in memory, so whoever reads ahead says how much. Nothing of it is lost, whatever comes: the one who takes the body
//! in the end gets the same bytes, the same trailers, and the same error where it broke off.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::AnswerError;

/// It is handed on in pieces of so many bytes at most.
const PIECE: usize = 64 * 1024;

/// How far a body was read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// To its end.
    Whole,
    /// It is longer than was wanted.
    TooLong,
    /// It came for longer than was wanted.
    TooSlow,
    /// It broke off.
    Broken,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) data: BytesMut,
    trailers: Option<HeaderMap>,
    /// Why it broke off, until that is told.
    pub(super) broken: Option<AnswerError>,
    /// Whether the body did not say how long it is, and so may have something behind it.
    is_open: bool,
    has_paused: bool,
}

impl Ahead {
    /// Of a body that said this of its length before.
    pub(super) fn new(hint: &SizeHint) -> Box<Self> {
        let is_open = hint.exact().is_none();
        Box::new(Self { data: BytesMut::new(), trailers: None, broken: None, is_open, has_paused: false })
    }

    pub(super) fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.data.extend_from_slice(&data),
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none() && self.broken.is_none()
    }

    /// What comes next; `None`: nothing more of it.
    pub(super) fn next(&mut self, cx: &Context<'_>) -> Option<Poll<Result<Frame<Bytes>, AnswerError>>> {
        if !self.data.is_empty() {
            let piece = self.data.split_to(self.data.len().min(PIECE));
            return Some(Poll::Ready(Ok(Frame::data(piece.freeze()))));
        }
        if self.broken.is_some() && !self.has_paused {
            // What came before it reaches the client only where its server has to wait.
            self.has_paused = true;
            cx.waker().wake_by_ref();
            return Some(Poll::Pending);
        }
        if let Some(error) = self.broken.take() {
            return Some(Poll::Ready(Err(error)));
        }
        self.trailers.take().map(|trailers| Poll::Ready(Ok(Frame::trailers(trailers))))
    }

    /// What it says of its length together with what is left.
    pub(super) fn size_hint(&self, rest: &SizeHint) -> SizeHint {
        let read = self.data.len() as u64;
        match rest.exact() {
            Some(rest) if !self.is_open => SizeHint::with_exact(rest + read),
            Some(_) | None => {
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + read);
                hint
            }
        }
    }
}
