//! The body of an answer, read as it is asked for, and the connection that it comes by.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    Connection,
    framing::{Decoder, Part},
    socket::Socket,
};
use crate::{
    clock::Alarm,
    upstream::{
        Broken,
        wire::{Handle, Wire},
    },
};

/// The body of an answer. Dropped before its end, it closes the connection.
#[derive(Debug)]
pub(in crate::upstream) struct Incoming {
    /// `None` once it has broken off, or was given back.
    connection: Option<Box<Connection>>,
    decoder: Decoder,
    /// Whether the connection may be used again at its end.
    persists: bool,
    /// Why it broke off, until that is told.
    broken: Option<Broken>,
    /// Of what is still being sent of the request.
    handle: Handle,
}

impl Incoming {
    pub(super) fn new(connection: Box<Connection>, decoder: Decoder, persists: bool, handle: Handle) -> Self {
        Self { connection: Some(connection), decoder, persists, broken: None, handle }
    }

    /// It is through: the connection, if it can carry another request. What is left of this one is sent on all the same.
    pub(in crate::upstream) fn release(&mut self) -> Option<Box<Connection>> {
        let mut connection = self.connection.take()?;
        connection.rests();
        // Whatever came behind it nobody has asked for.
        let is_clean = self.persists && self.decoder.is_at_end() && connection.ahead.is_empty();
        is_clean.then_some(connection)
    }

    /// The connection without its protocol, and what came behind the head; `None` while the request is still being sent.
    pub(in crate::upstream) fn into_wire(mut self) -> Option<(Wire, Bytes)> {
        match self.connection.take_if(|connection| matches!(connection.socket, Socket::Own(_))) {
            Some(connection) => connection.into_wire(),
            None => None,
        }
    }

    /// Closes the connection.
    pub(in crate::upstream) fn close(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Socket::Shared(shared) = &connection.socket
        {
            shared.close();
            self.handle.abort();
        }
    }

    /// The connection's, while it is the body's.
    pub(in crate::upstream) fn alarm(&mut self) -> Option<&mut Alarm> {
        self.connection.as_mut().map(|connection| &mut connection.alarm)
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Broken>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(Part::End)) };
        loop {
            match self.decoder.decode(&mut connection.ahead).map_err(Broken::Malformed)? {
                Part::More => {}
                part @ (Part::Data(_) | Part::Trailers(_) | Part::End) => return Poll::Ready(Ok(part)),
            }
            let left = self.decoder.left().and_then(|left| usize::try_from(left).ok());
            let room = connection.reads.next.min(left.unwrap_or(usize::MAX));
            if ready!(connection.poll_more(cx, room)).map_err(Broken::Io)? == 0 {
                if !self.decoder.ends_with_connection() {
                    return Poll::Ready(Err(Broken::Closed));
                }
                self.decoder = Decoder::length(0);
            }
            connection.ahead = connection.coming.split().freeze();
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.close();
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        Poll::Ready(match ready!(self.poll_part(cx)) {
            Ok(Part::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Part::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Part::End | Part::More) => None,
            Err(broken) => {
                self.close();
                // Told the next time: what came before it reaches the client only where its server has to wait.
                self.broken = Some(broken);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_at_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
