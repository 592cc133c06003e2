//! A connection to a backend that goes on with another protocol: all of an HTTP/1.1 connection, or one stream of an HTTP/2
//! connection (RFC 8441), which the others go on beside.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{fleet::Counted, http2::Slot, wire::Wire};

/// How much is given to h2 at a time.
const PIECE: usize = 16 * 1024;

/// In the extensions of a 101: the backend's end of the tunnel. It can be opened once.
#[derive(Clone)]
pub struct Tunnel(Arc<Mutex<Option<End>>>);

enum End {
    Http1(Bare),
    Http2(Box<Stream>),
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Over a connection, of which this much was read behind the head.
    pub(super) fn over_http1(wire: Wire, ahead: Bytes, under_way: Counted) -> Self {
        Self(Arc::new(Mutex::new(Some(End::Http1(Bare { wire, ahead, _under_way: under_way })))))
    }

    pub(super) fn over_http2(stream: Stream) -> Self {
        Self(Arc::new(Mutex::new(Some(End::Http2(Box::new(stream))))))
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// The tunnel was opened before.
    pub async fn open(self) -> io::Result<Opened> {
        let end = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(match end {
            Some(End::Http1(connection)) => Opened(Kind::Http1(connection)),
            Some(End::Http2(stream)) => Opened(Kind::Http2(stream)),
            None => return Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

/// The backend's end of an open tunnel.
#[derive(Debug)]
pub struct Opened(Kind);

#[derive(Debug)]
enum Kind {
    Http1(Bare),
    Http2(Box<Stream>),
}

/// A connection that no longer is HTTP's.
#[derive(Debug)]
struct Bare {
    wire: Wire,
    /// What came and was not read.
    ahead: Bytes,
    _under_way: Counted,
}

/// A stream of an HTTP/2 connection as a connection of its own. Dropped before its end, it is reset.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) out: SendStream<Bytes>,
    pub(super) incoming: RecvStream,
    /// What came and was not read.
    pub(super) rest: Bytes,
    pub(super) _slot: Arc<Slot>,
    pub(super) _under_way: Counted,
}

impl Stream {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.incoming.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.incoming.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
                    self.rest = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.out.reserve_capacity(bytes.len().min(PIECE));
        // h2 tells of a change only, so what there is comes first.
        while self.out.capacity() == 0 {
            match ready!(self.out.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = bytes.len().min(PIECE).min(self.out.capacity());
        let sent = self.out.send_data(Bytes::copy_from_slice(&bytes[..count]), false);
        Poll::Ready(sent.map(|()| count).map_err(io::Error::other))
    }
}

fn put(rest: &mut Bytes, buf: &mut ReadBuf<'_>) {
    let count = rest.len().min(buf.remaining());
    buf.put_slice(&rest[..count]);
    rest.advance(count);
}

impl AsyncRead for Opened {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Http1(bare) if bare.ahead.is_empty() => Pin::new(&mut bare.wire).poll_read(cx, buf),
            Kind::Http1(bare) => {
                put(&mut bare.ahead, buf);
                Poll::Ready(Ok(()))
            }
            Kind::Http2(stream) => {
                ready!(stream.poll_fill(cx))?;
                put(&mut stream.rest, buf);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Opened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Http1(bare) => Pin::new(&mut bare.wire).poll_write(cx, bytes),
            Kind::Http2(stream) => stream.poll_send(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Http1(bare) => Pin::new(&mut bare.wire).poll_flush(cx),
            // The connection sends what it has by itself.
            Kind::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Http1(bare) => Pin::new(&mut bare.wire).poll_shutdown(cx),
            Kind::Http2(stream) => Poll::Ready(stream.out.send_data(Bytes::new(), true).map_err(io::Error::other)),
        }
    }
}
