//! What is hard to see through a gateway: names that change, trailers, upgrades, and numbers.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::config::Config;

type Bodies = BoxBody<Bytes, Infallible>;

/// The configuration of one upstream with this server and these keys.
fn config(server: &str, keys: &str) -> config::Upstream {
    let file = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[upstreams.backend]\nservers = [\"http://{server}\"]\n{keys}\n"
    );
    Config::parse(&file).unwrap().upstreams.remove(0)
}

fn upstream(server: SocketAddr, keys: &str) -> Arc<Upstream> {
    Upstream::new(Fleet::new(config(&server.to_string(), keys)).unwrap())
}

fn get(fields: &[(&'static str, &'static str)]) -> Request<Bodies> {
    let mut request = Request::new(Full::default().boxed());
    *request.uri_mut() = "/".parse().unwrap();
    request.headers_mut().insert("host", HeaderValue::from_static("notes.example"));
    for &(name, value) in fields {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    request
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("waited in vain")
}

async fn send(upstream: &Upstream, request: Request<Bodies>) -> Result<Response<FromUpstream>, SendError> {
    within(upstream.send(request, &Arc::default())).await
}

/// Answers each request on each connection with this text, and says of each connection that it was made.
fn serve(listener: TcpListener, answer: &'static str) -> tokio::sync::mpsc::UnboundedReceiver<()> {
    let (made, connections) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The test may not look.
            let _ = made.send(());
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    connections
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_is_followed_and_its_old_connections_are_not_used() {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let _first = serve(first, "HTTP/1.1 200 OK\r\nX-Server: first\r\nContent-Length: 0\r\n\r\n");
    let _second = serve(second, "HTTP/1.1 200 OK\r\nX-Server: second\r\nContent-Length: 0\r\n\r\n");
    let means = Arc::new(Mutex::new([127, 0, 0, 1]));
    let now = Arc::clone(&means);
    let resolver: names::Resolver = Arc::new(move |host, port| {
        assert_eq!(host, "backend");
        let address = *now.lock().unwrap();
        Box::pin(async move { Ok(vec![SocketAddr::from((address, port))]) })
    });
    let config = config(&format!("backend:{port}"), "idle_timeout = \"1h\"\nresolve_interval = \"10ms\"");
    let upstream = Upstream::new(Fleet::with_resolver(config, &resolver).unwrap());
    for _ in 0..2 {
        assert_eq!(send(&upstream, get(&[])).await.unwrap().headers()["x-server"], "first");
    }
    *means.lock().unwrap() = [127, 0, 0, 2];
    let follows = async {
        while send(&upstream, get(&[])).await.unwrap().headers()["x-server"] != "second" {
            upstream.close_expired();
            tokio::task::yield_now().await;
        }
    };
    within(follows).await;
    assert_eq!(upstream.fleet().servers()[0].idle_connections(), 1, "the old connection is closed");
}

/// Accepts one HTTP/2 connection and hands over its first request.
async fn first_over_http2(
    listener: TcpListener,
) -> (Request<h2::RecvStream>, h2::server::SendResponse<Bytes>, tokio::task::JoinHandle<()>) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
    let (request, respond) = connection.accept().await.unwrap().unwrap();
    let task = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    (request, respond, task)
}

/// What it resets needs no frame of ours to be over.
#[tokio::test]
async fn a_backend_that_resets_every_upload_leaves_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(listener.local_addr().unwrap(), "protocol = \"h2\"");
    let backend = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
        }
    });
    for _ in 0..20 {
        let mut request = get(&[]).map(|_| Unfinished.boxed());
        *request.method_mut() = http::Method::PUT;
        assert!(send(&upstream, request).await.unwrap_err().sent);
    }
    let forgotten = async {
        while upstream.pools[0].followed_streams() > 0 {
            tokio::task::yield_now().await;
        }
    };
    within(forgotten).await;
    backend.abort();
}

#[tokio::test]
async fn trailers_pass_both_ways_over_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(listener.local_addr().unwrap(), "protocol = \"h2\"");
    let trailers = |name: &'static str| HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static("1"))]);
    let backend = tokio::spawn(async move {
        let (request, mut respond, connection) = first_over_http2(listener).await;
        let te = request.headers().get("te").cloned();
        let mut body = request.into_body();
        let mut data = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            data.extend(piece);
        }
        let came = body.trailers().await.unwrap();
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        answer.send_data(Bytes::from_static(b"pong"), false).unwrap();
        answer.send_trailers(trailers("grpc-status")).unwrap();
        (te, data, came, connection.abort_handle())
    });
    let frames = [Frame::data(Bytes::from_static(b"ping")), Frame::trailers(trailers("x-sum"))];
    let mut request = get(&[("te", "trailers")]);
    *request.body_mut() = Frames(frames.into()).boxed();
    let answer = send(&upstream, request).await.unwrap();
    let answer = within(answer.into_body().collect()).await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "1");
    assert_eq!(answer.to_bytes(), "pong");
    let (te, data, came, _connection) = within(backend).await.unwrap();
    assert_eq!((te, data.as_slice()), (Some(HeaderValue::from_static("trailers")), &b"ping"[..]));
    assert_eq!(came.unwrap()["x-sum"], "1");
}

/// Frames that are there at once.
struct Frames(VecDeque<Frame<Bytes>>);

/// A body of which nothing comes.
struct Unfinished;

impl Body for Unfinished {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

const ASKS: [(&str, &str); 2] = [("connection", "upgrade"), ("upgrade", "websocket")];

async fn echo(response: &mut Response<FromUpstream>) {
    let tunnel = response.extensions_mut().remove::<Tunnel>().expect("a tunnel");
    let mut opened = within(tunnel.open()).await.unwrap();
    for size in [5, 300_000] {
        let (mut back, sent) = (vec![0; size], vec![b'x'; size]);
        let (mut reading, mut writing) = tokio::io::split(&mut opened);
        let both = async { tokio::join!(reading.read_exact(&mut back), writing.write_all(&sent)) };
        let (read, written) = within(both).await;
        read.unwrap();
        written.unwrap();
        assert_eq!(back, sent);
    }
    opened.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(opened.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn an_upgrade_that_was_asked_for_passes_and_its_connection_is_not_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(listener.local_addr().unwrap(), "");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let count = stream.read(&mut request).await.unwrap();
        assert!(request[..count].windows(9).any(|w| w == b"websocket"));
        let answer = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        tokio::io::copy(&mut reading, &mut writing).await.unwrap();
    });
    let mut response = send(&upstream, get(&ASKS)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let server = Arc::clone(&upstream.fleet().servers()[0]);
    assert_eq!((server.connections(), server.idle_connections(), server.under_way()), (1, 0, 1));
    echo(&mut response).await;
    drop(response);
    assert_eq!(server.under_way(), 0);
    within(async {
        while server.connections() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(listener.local_addr().unwrap(), "");
    let _connections = serve(listener, "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n");
    let error = send(&upstream, get(&[])).await.expect_err("no answer");
    assert!(matches!(error.fault, Fault::BadAnswer) && error.sent, "{error:?}");
    assert_eq!(upstream.fleet().servers()[0].failures(FailureKind::BadAnswer), 1);
}

#[tokio::test]
async fn a_websocket_over_http2_is_an_extended_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(listener.local_addr().unwrap(), "protocol = \"h2\"");
    let backend = tokio::spawn(async move {
        let (request, mut respond, connection) = first_over_http2(listener).await;
        assert_eq!(request.method(), "CONNECT");
        assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
        assert_eq!(request.uri().to_string(), "http://notes.example/");
        assert!(request.headers().get("sec-websocket-key").is_none());
        assert_eq!(request.headers()["sec-websocket-version"], "13");
        let mut body = request.into_body();
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            answer.send_data(piece, false).unwrap();
        }
        answer.send_data(Bytes::new(), true).unwrap();
        // Held until here.
        drop(connection);
    });
    let fields = [ASKS[0], ASKS[1], ("sec-websocket-key", "x"), ("sec-websocket-version", "13")];
    let mut response = send(&upstream, get(&fields)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "websocket");
    echo(&mut response).await;
    within(backend).await.unwrap();
}

#[tokio::test]
async fn a_websocket_that_an_http2_backend_declines_or_does_not_know_is_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let declining = upstream(listener.local_addr().unwrap(), "protocol = \"h2\"");
    tokio::spawn(async move {
        let (_request, mut respond, connection) = first_over_http2(listener).await;
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::FORBIDDEN;
        respond.send_response(head, false).unwrap().send_data(Bytes::from_static(b"no"), true).unwrap();
        connection.await.unwrap();
    });
    let response = send(&declining, get(&ASKS)).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes(), "no");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let unknowing = upstream(listener.local_addr().unwrap(), "protocol = \"h2\"");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while connection.accept().await.is_some() {}
    });
    let error = send(&unknowing, get(&ASKS)).await.expect_err("no answer");
    assert!(matches!(error.fault, Fault::NoUpgrade) && !error.sent, "{error:?}");
}

#[tokio::test]
async fn the_numbers_follow_what_happens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream =
        upstream(listener.local_addr().unwrap(), "ejection = { failures = 1, time = \"1h\", max_time = \"1h\" }");
    let server = Arc::clone(&upstream.fleet().servers()[0]);
    let mut connections = serve(listener, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert!(upstream.fleet().any_healthy());
    let response = send(&upstream, get(&[])).await.unwrap();
    assert_eq!((server.connections(), server.idle_connections(), server.under_way()), (1, 0, 1));
    within(response.into_body().collect()).await.unwrap();
    assert_eq!((server.connections(), server.idle_connections(), server.under_way()), (1, 1, 0));
    connections.recv().await.unwrap();
    send(&upstream, get(&[])).await.unwrap();
    assert!(connections.try_recv().is_err(), "the connection is used again");

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let upstream = self::upstream(gone, "ejection = { failures = 1, time = \"1h\", max_time = \"1h\" }");
    let server = Arc::clone(&upstream.fleet().servers()[0]);
    assert!(!send(&upstream, get(&[])).await.expect_err("nobody").sent);
    assert_eq!((server.failures(FailureKind::Connect), server.is_ejected()), (1, true));
    assert!(upstream.fleet().any_healthy(), "it is still asked, for there is no other");
}
