//! Connections that go on with another protocol than HTTP: `Upgrade` over HTTP/1.1 (RFC 9110 §7.8), WebSocket over HTTP/2
//! (RFC 8441).
//!
//! There is a tunnel only after a `101` that was asked for. Until then what a client sends behind its request stays where
//! it is, and where the answer is another it is read and dropped: it never becomes a request, nor does it reach the
//! backend. Only GET may ask: a write's turn has an end, a tunnel's has none. Protocols in which a backend would be sent
//! requests that nobody has judged are not asked for.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use h2::ext::Protocol;
use http::{
    Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE},
};
use sha1::{Digest, Sha1};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Exchange,
    answer::{Failure, Sent},
    body::Answer,
    forward::{self, Received},
};
use crate::{
    core::{
        fields::Fields,
        message::{Response, request::Parts},
        value::{FieldValue, Value},
    },
    upstream::{Fault, SendError, Tunnel},
};

/// Protocols that carry HTTP requests, or hide them. They are not asked for.
const CARRIES_HTTP: [&str; 5] = ["h2c", "h2", "h3", "http", "tls"];
const WEBSOCKET: FieldValue = FieldValue::from_static("websocket");
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A client's connection, or a stream of it, that goes on with something else than HTTP.
pub type Upgraded = Box<dyn Duplex>;

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Opening = Pin<Box<dyn Future<Output = io::Result<Upgraded>> + Send>>;

/// In the extensions of a request that asks to go on with another protocol: its connection, once the answer is sent.
/// Whoever asks first gets it.
#[derive(Clone)]
pub struct Upgrade(Arc<Mutex<Option<Opening>>>);

impl Upgrade {
    /// What is handed over once `opening` is ready.
    pub fn new(opening: impl Future<Output = io::Result<Upgraded>> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(opening)))))
    }

    async fn ready(self) -> io::Result<Upgraded> {
        let opening = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        opening.ok_or(io::ErrorKind::AlreadyExists)?.await
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").finish_non_exhaustive()
    }
}

/// A client's wish to go on with another protocol.
#[derive(Debug)]
pub(super) struct Wish {
    /// Which, as `Upgrade` has it.
    protocols: FieldValue,
    /// Whether it is an extended CONNECT, of one stream of an HTTP/2 connection.
    is_connect: bool,
    /// Its connection, once it has been told that it may.
    client: Upgrade,
}

impl Wish {
    /// What the client wishes, if that may be. An extended CONNECT becomes the GET that it stands for.
    ///
    /// # Errors
    ///
    /// CONNECT to anywhere, and one for another protocol than WebSocket.
    pub(super) fn of(head: &mut Parts) -> Result<Option<Self>, Failure> {
        let is_connect = head.method == Method::CONNECT;
        let protocols = if is_connect {
            let protocol = head.extensions.get::<Protocol>().filter(|_| head.version == Version::HTTP_2);
            if protocol.is_none_or(|protocol| !protocol.as_str().eq_ignore_ascii_case("websocket")) {
                return Err(Failure::Method);
            }
            head.method = Method::GET;
            Some(WEBSOCKET)
        } else if may_upgrade(head) {
            protocols(&head.headers)
        } else {
            None
        };
        let client = head.extensions.remove::<Upgrade>();
        Ok(protocols.zip(client).map(|(protocols, client)| Self { protocols, is_connect, client }))
    }

    /// Makes a request with these fields ask for it.
    pub(super) fn ask(&self, fields: &mut Fields) {
        fields.append(CONNECTION, FieldValue::from_static("upgrade"));
        fields.insert(UPGRADE, self.protocols.clone());
        if self.is_connect {
            // HTTP/2 goes without (RFC 8441 §5).
            fields.remove(SEC_WEBSOCKET_ACCEPT);
            fields.insert(SEC_WEBSOCKET_KEY, websocket_key());
        }
    }

    /// Whether the backend grants it with this answer.
    fn is_granted(&self, answer: &Received) -> bool {
        let granted = answer.headers().get(UPGRADE).map(|protocol| protocol.as_bytes().trim_ascii());
        let mut asked = self.protocols.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && granted.is_some_and(|granted| asked.any(|asked| asked.eq_ignore_ascii_case(granted)))
    }
}

/// Only where nothing else can be meant: a GET over HTTP/1.1 without a body, whose `Connection` names it.
fn may_upgrade(head: &Parts) -> bool {
    let fields = &head.headers;
    let mut options = fields.get_all(CONNECTION).flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && !fields.contains_key(TRANSFER_ENCODING)
        && fields.get(CONTENT_LENGTH).is_none_or(|length| length == "0")
        && options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// Those of the protocols that may be asked for.
fn protocols(fields: &Fields) -> Option<FieldValue> {
    let lines = fields.get_all(UPGRADE).filter_map(|line| line.to_str().ok());
    let named = lines.flat_map(|line| line.split(',')).map(str::trim);
    let carries_http = |protocol: &str| {
        let name = protocol.split('/').next().unwrap_or_default().trim();
        CARRIES_HTTP.iter().any(|other| name.eq_ignore_ascii_case(other))
    };
    let asked: Vec<_> = named.filter(|protocol| !protocol.is_empty() && !carries_http(protocol)).collect();
    FieldValue::try_from(asked.join(", ")).ok().filter(|asked| !asked.is_empty())
}

/// Something that was not used before (RFC 6455 §4.1). It guards nothing: it shows that the backend has read it.
fn websocket_key() -> FieldValue {
    let random = [RandomState::new().hash_one(0), RandomState::new().hash_one(1)].map(u64::to_be_bytes);
    FieldValue::try_from(base64(random.as_flattened())).expect("base64 may stand in a field")
}

/// The answer to a key (RFC 6455 §4.2.2).
fn accepts(key: Value<'_>) -> FieldValue {
    let digest = Sha1::new().chain_update(key.as_bytes().trim_ascii()).chain_update(WEBSOCKET_GUID).finalize();
    FieldValue::try_from(base64(&digest)).expect("base64 may stand in a field")
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, &byte| bits << 8 | usize::from(byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = char::from(BASE64[bits >> (18 - 6 * place) & 63]);
            text.push(if place <= three.len() { digit } else { '=' });
        }
    }
    text
}

/// Passes the answer to a wish on, and opens the tunnel if it is granted.
pub(super) fn pass_on(exchange: &Exchange, wish: &Wish, mut received: Received) -> Result<Response<Answer>, Failure> {
    let bad = || {
        Failure::Upstream(SendError { fault: Fault::BadAnswer, sent: true, reused: false, server: None }, Sent::Read)
    };
    if received.status() != StatusCode::SWITCHING_PROTOCOLS {
        // For the client of a CONNECT any success is the beginning of a tunnel.
        let misleads = wish.is_connect && received.status().is_success();
        return if misleads { Err(bad()) } else { Ok(forward::pass_on(exchange, received)) };
    }
    let granted = received.headers().get(UPGRADE).map(FieldValue::from).filter(|_| wish.is_granted(&received));
    let (Some(protocol), Some(backend)) = (granted, received.extensions_mut().remove::<Tunnel>()) else {
        return Err(bad());
    };
    let idle = exchange.upstream().config().tunnel_idle_timeout;
    let under_way = exchange.gateway.tunnel_begins();
    let tunnel = carry(wish.client.clone(), backend, idle);
    tokio::spawn(async move {
        tunnel.await;
        drop(under_way);
    });
    let by_http2 = received.version() == Version::HTTP_2;
    let mut response = forward::pass_on(exchange, received);
    response.headers_mut().remove(CONTENT_LENGTH);
    if wish.is_connect {
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    } else {
        response.headers_mut().insert(CONNECTION, FieldValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, protocol);
        if by_http2 && let Some(key) = exchange.head.headers.get(SEC_WEBSOCKET_KEY) {
            // The backend was not shown the key, which HTTP/2 goes without.
            response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accepts(key));
        }
    }
    Ok(response)
}

/// Carries bytes both ways until both ends have ended, one has broken, or nothing was said for so long.
async fn carry(client: Upgrade, backend: Tunnel, idle: Duration) {
    let both = timeout(idle, async { tokio::try_join!(client.ready(), backend.open()) });
    let Ok(Ok((client, backend))) = both.await else { return };
    let said = Arc::new(LastSaid { began: Instant::now(), millis: AtomicU64::new(0) });
    let mut client = Watched { end: client, said: Arc::clone(&said) };
    let mut backend = Watched { end: backend, said: Arc::clone(&said) };
    tokio::select! {
        ended = copy_bidirectional(&mut client, &mut backend) => match ended {
            Ok((to_backend, to_client)) => tracing::debug!(to_backend, to_client, "a tunnel ended"),
            Err(error) => tracing::debug!(%error, "a tunnel broke"),
        },
        () = said.nothing_for(idle) => tracing::debug!("a tunnel was closed since nobody said anything"),
    }
}

/// When something last passed through a tunnel.
struct LastSaid {
    began: Instant,
    /// After it began.
    millis: AtomicU64,
}

impl LastSaid {
    fn now(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    async fn nothing_for(&self, time: Duration) {
        loop {
            let until = self.began + Duration::from_millis(self.millis.load(Ordering::Relaxed)) + time;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// One end of a tunnel.
struct Watched<E> {
    end: E,
    said: Arc<LastSaid>,
}

impl<E> Watched<E> {
    fn passed<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Ok(_)) = &result {
            self.said.now();
        }
        result
    }
}

impl<E: AsyncRead + Unpin> AsyncRead for Watched<E> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.end).poll_read(cx, buf);
        self.passed(read)
    }
}

impl<E: AsyncWrite + Unpin> AsyncWrite for Watched<E> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.end).poll_write(cx, bytes);
        self.passed(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_shutdown(cx)
    }
}

/// Whether a request would have its HTTP/1.1 connection go on with another protocol, wherever it leads. Not that of a
/// client that would as well go on with HTTP/2: some say so with each request, and go on with what they have.
pub(super) fn is_offered(head: &Parts) -> bool {
    let may = head.version != Version::HTTP_2 && head.extensions.get::<Upgrade>().is_some();
    may && (head.method == Method::CONNECT || protocols(&head.headers).is_some())
}

/// After another answer than `101` nobody can be sure that both ends know what the next bytes are; so there is nothing
/// next. What still comes is read and dropped by the connection.
pub(super) fn close_unless_switched<B>(response: &mut Response<B>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, FieldValue::from_static("close"));
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> Fields {
        let value = |value| FieldValue::from_static(value);
        fields.iter().map(|&(name, text)| (HeaderName::from_static(name), value(text))).collect()
    }

    #[test]
    fn protocols_that_carry_requests_are_not_asked_for() {
        for (upgrade, asked) in [
            ("websocket", Some("websocket")),
            ("h2c", None),
            ("H2C, websocket", Some("websocket")),
            ("HTTP/2.0, TLS/1.2,, foo/1 , bar", Some("foo/1, bar")),
            ("", None),
        ] {
            assert_eq!(protocols(&fields(&[("upgrade", upgrade)])), asked.map(FieldValue::from_static), "{upgrade}");
        }
    }

    #[test]
    fn only_a_bare_get_that_says_so_may_ask() {
        let ask = |method: &str, version: Version, more: &[(&'static str, &'static str)]| {
            let (method, headers) = (method.parse().expect("a method"), fields(more));
            may_upgrade(&Parts { method, version, headers, ..Parts::default() })
        };
        let says = ("connection", "keep-alive, Upgrade");
        assert!(ask("GET", Version::HTTP_11, &[says]));
        assert!(ask("GET", Version::HTTP_11, &[says, ("content-length", "0")]));
        assert!(!ask("GET", Version::HTTP_11, &[("connection", "keep-alive")]));
        assert!(!ask("GET", Version::HTTP_10, &[says]));
        assert!(!ask("GET", Version::HTTP_11, &[says, ("content-length", "1")]));
        assert!(!ask("GET", Version::HTTP_11, &[says, ("transfer-encoding", "chunked")]));
        for method in ["PUT", "POST", "HEAD", "get"] {
            assert!(!ask(method, Version::HTTP_11, &[says]), "{method}");
        }
    }

    #[test]
    fn a_key_is_answered_as_rfc_6455_has_it() {
        let answer = accepts(Value::in_field(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn base64_is_as_rfc_4648_has_it() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xFB, 0xFF]), "+/8=");
        let (one, other) = (websocket_key(), websocket_key());
        assert!(one.len() == 24 && one.as_bytes().ends_with(b"==") && one != other);
    }
}
