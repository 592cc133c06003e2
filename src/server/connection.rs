//! One connection: who the client is, what it speaks, its limits in time, its end.
//!
//! In order: a place among all connections; the PROXY header, where the listener has one; a place among those of the
//! client's address; the TLS handshake. Then HTTP/2 is what TLS agreed on, or what the first bytes say that come (prior
//! knowledge); everything else is HTTP/1. All of that must be through within `header_read_timeout`.
//!
//! What is said from then on is up to `http1` and `http2`.

use std::{future::poll_fn, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Live, http1, http2, last_call,
    limits::Places,
    proxy_protocol,
    socket::{Socket, Stream},
};
use crate::{
    clock,
    config::Limits,
    gateway::{Broken, Client},
    tls,
};

/// What a client with prior knowledge of HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client is waited for that is told why its connection closes, or that has not seen yet that it does.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// What the connections of a listener begin with.
#[derive(Debug)]
pub(super) struct Door {
    /// How they are secured; `None`: not at all.
    pub(super) tls: Option<tls::Acceptor>,
    /// Whether a PROXY header comes first.
    pub(super) proxy_protocol: bool,
    /// The places of all listeners.
    pub(super) places: Arc<Places>,
}

/// A connection that is open for requests.
pub(super) struct Open {
    pub(super) stream: Stream,
    pub(super) client: Arc<Client>,
    is_http2: bool,
    /// When the first byte of a request came.
    pub(super) began: Instant,
}

/// Serves a connection until it ends, or what is under way on it has ended after the stop.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    door: Arc<Door>,
    live: Arc<Live>,
    mut stop: watch::Receiver<bool>,
) {
    let _counted = live.gateway().connection_begins();
    let limits = live.gateway().config().limits.clone();
    // In boxes, so that an idle connection does not keep the room that its beginning took.
    let opened = tokio::select! {
        opened = Box::pin(open(stream, peer, &door, &live, &limits)) => opened,
        () = last_call(&mut stop) => return,
    };
    let Some(open) = opened else { return };
    let ended = if open.is_http2 {
        Box::pin(http2::serve(open, &live, &limits, stop)).await.map_err(Broken::from)
    } else {
        let mut served = Box::pin(http1::serve(open, &live, &limits, stop));
        poll_fn(|cx| clock::steadily(|| served.as_mut().poll(cx))).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a client's connection ended");
    }
}

/// All that comes before the first request. `None`: nothing more can be done for this connection.
async fn open(mut stream: TcpStream, peer: SocketAddr, door: &Door, live: &Live, limits: &Limits) -> Option<Open> {
    let deadline = Instant::now() + limits.header_read_timeout;
    let Some(mut place) = door.places.take(limits.connections) else {
        turn_away(stream, door, "connections").await;
        return None;
    };
    let mut ip = peer.ip().to_canonical();
    if door.proxy_protocol {
        match timeout_at(deadline, proxy_protocol::read(&mut stream)).await.ok()? {
            Ok(source) => ip = source.map_or(ip, |ip| ip.to_canonical()),
            Err(error) => {
                tracing::debug!(%error, %peer, "a connection is closed");
                return None;
            }
        }
    }
    if !live.gateway().config().forwarding.trusts(ip) && !place.is_of(ip, limits.connections_per_address) {
        drop(place);
        turn_away(stream, door, "connections_per_address").await;
        return None;
    }
    let socket = Socket::new(stream, limits.send_timeout, place);
    let mut stream = timeout_at(deadline, secure(socket, door)).await.ok()??;
    let is_http2 = if stream.agreed_on_http2() {
        true
    } else {
        match timeout_at(deadline, stream.begins_with(PREFACE)).await {
            Ok(spoken) => spoken.ok()?,
            Err(_) if stream.has_begun() => {
                say(&mut stream, &too_slow()).await;
                return None;
            }
            Err(_) => return None,
        }
    };
    let client = Client::new(ip, door.tls.is_some(), limits.writes_per_connection);
    Some(Open { stream, client, is_http2, began: Instant::now() })
}

/// The TLS handshake, where the listener has one.
async fn secure(mut socket: Socket, door: &Door) -> Option<Stream> {
    let Some(tls) = &door.tls else { return Some(Stream::plain(socket)) };
    let mut first = [0];
    // Every handshake begins with a record of this type (RFC 8446 §5.1); every request in plain text with a letter.
    if socket.stream().peek(&mut first).await.ok()? == 1 && first[0].is_ascii_uppercase() {
        let body = "This port speaks HTTPS, and was spoken to in plain HTTP.\n";
        say(&mut socket, &last_words("400 Bad Request", "", body)).await;
        return None;
    }
    match TlsAcceptor::from(tls.config()).accept(socket).await {
        Ok(stream) => Some(Stream::tls(stream)),
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
    }
}

/// Turns away who has found no place. A TLS client could be told only after a handshake, which is work.
async fn turn_away(mut stream: TcpStream, door: &Door, limit: &'static str) {
    let told = door.places.turn_away(limit);
    if told.is_some() && door.tls.is_none() {
        // Not before it has said something: an answer to nothing would confuse it.
        if let Ok(Ok(1..)) = timeout(FAREWELL, stream.peek(&mut [0])).await {
            let words =
                last_words("503 Service Unavailable", "Retry-After: 1\r\n", "There are too many connections.\n");
            say(&mut stream, &words).await;
        }
    }
}

/// The answer to who takes too long for a head.
pub(super) fn too_slow() -> String {
    last_words("408 Request Timeout", "", "The head of the request took too long to come.\n")
}

/// An answer where no request was read that could be answered otherwise.
pub(super) fn last_words(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{fields}\
         Connection: close\r\n\r\n{body}"
    )
}

/// Says this and closes, but not before the client has had time to hear it.
pub(super) async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), words: &str) {
    let farewell = async {
        stream.write_all(words.as_bytes()).await?;
        stream.shutdown().await?;
        read_and_drop(stream).await;
        Ok::<_, io::Error>(())
    };
    // There is nobody to tell where this fails.
    let _ = timeout(FAREWELL, farewell).await;
}

/// Reads to the end. To close on bytes that were not read would destroy what was said on its way.
pub(super) async fn read_and_drop(stream: &mut (impl AsyncRead + Unpin)) {
    // Not in the future itself, which every connection has room for.
    let mut dropped = vec![0; 4096];
    while let Ok(1..) = stream.read(&mut dropped).await {}
}
