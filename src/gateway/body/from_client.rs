//! A request's body as the client's connection hands it over, whichever protocol that speaks.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

/// Why a client's body broke off, as its protocol tells it.
pub type Broken = Box<dyn Error + Send + Sync>;

type Source = Pin<Box<dyn Body<Data = Bytes, Error = Broken> + Send>>;

/// The body of a request; none is at its end from the beginning.
pub struct FromClient(Option<Source>);

impl FromClient {
    /// Takes it from there. An end that is not the body's has to be an error, or to leave the body short of its length.
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Broken>,
    {
        Self((!body.is_end_stream()).then(|| Box::pin(body.map_err(Into::into)) as Source))
    }
}

impl fmt::Debug for FromClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromClient").finish_non_exhaustive()
    }
}

impl Body for FromClient {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.0 {
            Some(body) => body.as_mut().poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint())
    }
}
