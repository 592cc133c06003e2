//! The body of an answer on its way to a client.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{
    super::trailers::Trailers,
    recording::{Keep, Recorded},
};
use crate::upstream::{self, AnswerError, FromUpstream};

/// The body of an answer to a client.
#[derive(Debug)]
pub struct Answer {
    source: Source,
    /// What of the backend's may stand behind it.
    trailers: Option<Box<Trailers>>,
    cut: Option<Cut>,
}

#[derive(Debug)]
enum Source {
    Own(Bytes),
    Backend(Box<FromUpstream>),
    /// The backend's, while it is written down.
    Recorded(Box<Recorded>),
    /// None, although its length is said: what a 304 says is that of the representation (RFC 9110 §8.6). hyper says only
    /// what a body says of itself.
    Elsewhere(u64),
}

/// Closes the backend's connection once the answer is through, since the request that it answers never will be.
#[derive(Debug)]
struct Cut(upstream::Handle);

impl Drop for Cut {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Answer {
    /// A body of the gateway's own.
    pub(in crate::gateway) fn own(bytes: Bytes) -> Self {
        Self::of(Source::Own(bytes))
    }

    /// The backend's, without its trailers.
    pub(in crate::gateway) fn backend(body: Box<FromUpstream>) -> Self {
        Self::of(Source::Backend(body))
    }

    /// None, of a representation of so many bytes.
    pub(in crate::gateway) fn elsewhere(length: u64) -> Self {
        Self::of(Source::Elsewhere(length))
    }

    /// Those of the backend's trailers that pass, if there are any.
    fn filter(&self, came: &HeaderMap) -> Option<Result<Frame<Bytes>, AnswerError>> {
        self.trailers.as_ref()?.filter(came).map(|trailers| Ok(Frame::trailers(trailers)))
    }

    fn of(source: Source) -> Self {
        Self { source, trailers: None, cut: None }
    }

    /// With these trailers.
    pub(in crate::gateway) fn let_through(mut self, trailers: Trailers) -> Self {
        self.trailers = trailers.may_let_through().then(|| Box::new(trailers));
        self
    }

    /// The connection that it comes by is closed when it is through.
    pub(in crate::gateway) fn cutting(mut self, connection: upstream::Handle) -> Self {
        self.cut = Some(Cut(connection));
        self
    }

    /// What of it comes from the backend is written down, up to so many bytes.
    pub(in crate::gateway) fn recorded(mut self, limit: usize, linger_time: Duration, keep: Box<dyn Keep>) -> Self {
        self.source = match self.source {
            Source::Backend(body) => Source::Recorded(Box::new(Recorded::new(body, limit, linger_time, keep))),
            source @ Source::Elsewhere(_) => {
                keep.keep(Some(&[]));
                source
            }
            source @ (Source::Own(_) | Source::Recorded(_)) => {
                keep.keep(None);
                source
            }
        };
        self
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match &mut self.source {
            Source::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Elsewhere(_) => Poll::Ready(None),
            Source::Backend(body) => match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => {
                        // Nothing follows; looking for it gives the connection back.
                        let _ = Pin::new(body).poll_frame(cx);
                        Poll::Ready(self.filter(&trailers))
                    }
                    Err(frame) => Poll::Ready(Some(Ok(frame))),
                },
                end => Poll::Ready(end),
            },
            Source::Recorded(body) => match ready!(body.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => {
                        let _ = body.poll_frame(cx);
                        Poll::Ready(self.filter(&trailers))
                    }
                    Err(frame) => Poll::Ready(Some(Ok(frame))),
                },
                end => Poll::Ready(end),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Backend(body) => body.is_end_stream(),
            Source::Recorded(body) => body.is_end_stream(),
            Source::Elsewhere(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Backend(body) => body.size_hint(),
            Source::Recorded(body) => body.size_hint(),
            Source::Elsewhere(length) => SizeHint::with_exact(*length),
        }
    }
}
