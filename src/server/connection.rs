//! One connection: its protocol, its limits in time, its end.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge are told apart by a connection's first bytes, which must come within
//! `header_read_timeout`.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{Live, MOMENT, stopped};
use crate::gateway::Client;

/// What a client with prior knowledge of HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection until it ends, or what is under way on it has ended after the stop.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, live: Arc<Live>, mut stop: watch::Receiver<bool>) {
    let _counted = live.gateway().connection_begins();
    let limits = live.gateway().config().limits.clone();
    let is_http2 = tokio::select! {
        spoken = timeout(limits.header_read_timeout, speaks_http2(&stream)) => spoken,
        () = stopped(&mut stop) => return,
    };
    let Ok(Ok(is_http2)) = is_http2 else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let client = Client::new(peer.ip(), false, limits.writes_per_connection);
    let service = service_fn(|request| {
        let answer = live.gateway().handle(Arc::clone(&client), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let ended = if is_http2 {
        let mut protocol = http2::Builder::new(TokioExecutor::new());
        protocol
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let mut protocol = http1::Builder::new();
        protocol.timer(TokioTimer::new()).header_read_timeout(limits.header_read_timeout);
        let patient = Patient { stream, client: Arc::clone(&client), patience: limits.half_close_timeout, until: None };
        let io = TokioIo::new(patient);
        let mut connection = pin!(protocol.serve_connection(io, service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a client's connection ended");
    }
}

/// Whether a connection begins with the preface of HTTP/2. Takes nothing from it. An error where it ends before that can
/// be told.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(&first[..seen]) {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        sleep(MOMENT).await;
    }
}

/// A client's HTTP/1 connection, whose end is kept from hyper where the client may still wait for an answer.
struct Patient {
    stream: TcpStream,
    client: Arc<Client>,
    /// How long its end is kept back while it takes nothing: a client that is gone must not keep its connection, and the
    /// backend's, for ever.
    patience: Duration,
    until: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// Who takes something is still there; a client that is gone answers with a reset.
    fn has_written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Some(until), Poll::Ready(Ok(1..))) = (&mut self.until, &written) {
            until.as_mut().reset(Instant::now() + self.patience);
        }
        written
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == before && buf.remaining() > 0;
        if is_end && self.client.keeps_back_the_end(cx.waker()) {
            let patience = self.patience;
            ready!(self.until.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.has_written(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.has_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
