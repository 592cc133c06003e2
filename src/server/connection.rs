//! One connection: who the client is, what it speaks, its limits in time, its end.
//!
//! In order: a place among all connections; the PROXY header, where the listener has one; a place among those of the
//! client's address; the TLS handshake. Then HTTP/2 is what TLS agreed on, or what the first bytes say that come (prior
//! knowledge); everything else is HTTP/1. All of that must be through within `header_read_timeout`.
//!
//! Floods of frames that carry nothing are cut by `chatter`.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    LAST_CALL, Live,
    chatter::Quiet,
    last_call,
    limits::Places,
    patient::{Clock, HeadTimer, Patient},
    proxy_protocol,
    socket::{Socket, Stream},
    stopped,
    streams::{Over, Streams},
};
use crate::{config::Limits, gateway::Client, tls};

/// What a client with prior knowledge of HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client is waited for that is told why its connection closes, or that has not seen yet that it does.
const FAREWELL: Duration = Duration::from_secs(1);

/// How often a client that speaks HTTP/2 is asked whether it is still there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);
/// How many streams a client may reset before they were looked at ("rapid reset"), and how many may be reset because of
/// its errors, before the connection is closed. Header lists, and with them CONTINUATION frames, are bounded by
/// `header_bytes`.
const PENDING_RESETS: usize = 20;
const ERROR_RESETS: usize = 256;
/// How much of an answer may wait to be sent to a client that does not read: of each stream, where it opens a window.
const UNSENT: usize = 64 * 1024;
/// hyper's buffer for a connection has room for a head, and for this beside it.
const BESIDE_HEAD: usize = 16 * 1024;

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
struct Open {
    stream: Stream,
    client: Arc<Client>,
    is_http2: bool,
    /// When the first byte of a request came.
    began: Instant,
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
        Box::pin(serve_http2(open, &live, &limits, stop)).await
    } else {
        Box::pin(serve_http1(open, &live, &limits, stop)).await
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

async fn serve_http1(
    open: Open,
    live: &Live,
    limits: &Limits,
    stop: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let Open { stream, client, began, .. } = open;
    let requests = AtomicUsize::new(0);
    let service = service_fn(|request| {
        let is_last = requests.fetch_add(1, Ordering::Relaxed) + 1 >= limits.requests_per_connection;
        // In a box of its own: hyper keeps room for a request for as long as the connection lives.
        let answer = Box::pin(live.gateway().handle(Arc::clone(&client), request));
        let stop = stop.clone();
        async move {
            let mut answer = answer.await;
            let closes = is_last || *stop.borrow();
            if closes && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut stop = stop.clone();
    let clock = Clock::new(limits, began);
    let tunnel = stream.tunnel();
    let patient = Patient::new(stream, Arc::clone(&client), limits, Arc::clone(&clock));
    let mut connection = http1::Builder::new()
        .timer(HeadTimer(Arc::clone(&clock)))
        .header_read_timeout(limits.header_read_timeout)
        .max_headers(limits.headers)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(UNSENT) + BESIDE_HEAD)
        .serve_connection(TokioIo::new(patient), service)
        .with_upgrades();
    // A request may be here already that hyper has not read; it gets its answer, with which the connection closes.
    let ended = tokio::select! {
        biased;
        ended = &mut connection => Some(ended),
        () = last_call(&mut stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let Some(parts) = connection.into_parts() else {
        tunnel.begins();
        return ended;
    };
    let mut stream = parts.io.into_inner().into_stream();
    if clock.is_late() {
        say(&mut stream, &too_slow()).await;
    } else if ended.as_ref().is_err_and(hyper::Error::is_timeout) {
        // Idle. Whether the client hears of it in time does not matter.
        let _ = timeout(FAREWELL, stream.shutdown()).await;
    } else if ended.as_ref().is_err_and(hyper::Error::is_parse)
        || requests.load(Ordering::Relaxed) >= limits.requests_per_connection
    {
        // It has its answer, and may be sending still.
        let _ = timeout(FAREWELL, read_and_drop(&mut stream)).await;
    }
    ended
}

async fn serve_http2(
    open: Open,
    live: &Arc<Live>,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let Open { stream, client, .. } = open;
    let streams = Streams::new(limits.send_timeout);
    let service = service_fn(|request| {
        let unanswered = streams.begin();
        let has_room = request.headers().len() <= limits.headers;
        let answer = has_room.then(|| live.gateway().handle(Arc::clone(&client), request));
        async move {
            Ok::<_, Infallible>(match answer {
                Some(answer) => answer.await.map(|answer| unanswered.answered(answer)),
                None => unanswered.too_many_fields(),
            })
        }
    });
    let mut protocol = http2::Builder::new(streams.clone());
    protocol
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(u32::try_from(limits.streams_per_connection).unwrap_or(u32::MAX))
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .max_send_buf_size(UNSENT)
        .enable_connect_protocol();
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(Quiet::new(stream)), service));
    let (over, patience) = tokio::select! {
        ended = connection.as_mut() => return ended,
        over = streams.over(limits.requests_per_connection, limits.idle_timeout) => (Some(over), limits.send_timeout),
        () = stopped(&mut stop) => (None, LAST_CALL),
    };
    if over == Some(Over::GivenUp) {
        tracing::debug!("a client gives up more requests than it lets be answered");
        return Ok(());
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => ended,
        // It takes not even that.
        _ = streams.over(usize::MAX, patience) => Ok(()),
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
fn too_slow() -> String {
    last_words("408 Request Timeout", "", "The head of the request took too long to come.\n")
}

/// An answer where no request was read that could be answered otherwise.
fn last_words(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{fields}\
         Connection: close\r\n\r\n{body}"
    )
}

/// Says this and closes, but not before the client has had time to hear it.
async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), words: &str) {
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
async fn read_and_drop(stream: &mut (impl AsyncRead + Unpin)) {
    // Not in the future itself, which every connection has room for.
    let mut dropped = vec![0; 4096];
    while let Ok(1..) = stream.read(&mut dropped).await {}
}
