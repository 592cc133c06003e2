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
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::{
    config::Config,
    core::{
        message::{Request, Response},
        value::FieldValue,
    },
};

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
    request.headers_mut().insert("host", FieldValue::from_static("notes.example"));
    for &(name, value) in fields {
        request.headers_mut().insert(name, FieldValue::from_static(value));
    }
    request
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("waited in vain")
}

async fn send(upstream: &Upstream, request: Request<Bodies>) -> Result<Response<Box<FromUpstream>>, SendError> {
    within(upstream.send(Box::new(request), &Arc::default())).await
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
        assert_eq!(send(&upstream, get(&[])).await.unwrap().headers().get("x-server").unwrap(), "first");
    }
    *means.lock().unwrap() = [127, 0, 0, 2];
    let follows = async {
        while send(&upstream, get(&[])).await.unwrap().headers().get("x-server").unwrap() != "second" {
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
    (request.into(), respond, task)
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
    let trailers =
        |name: &'static str| HeaderMap::from_iter([(name.parse().unwrap(), http::HeaderValue::from_static("1"))]);
    let backend = tokio::spawn(async move {
        let (request, mut respond, connection) = first_over_http2(listener).await;
        let te = request.headers().get("te").map(FieldValue::from);
        let mut body = request.into_body();
        let mut data = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            data.extend(piece);
        }
        let came = body.trailers().await.unwrap();
        let mut answer = respond.send_response(Response::new(()).into(), false).unwrap();
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
    assert_eq!((te, data.as_slice()), (Some(FieldValue::from_static("trailers")), &b"ping"[..]));
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

async fn echo(response: &mut Response<Box<FromUpstream>>) {
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
        assert_eq!(request.headers().get("sec-websocket-version").unwrap(), "13");
        let mut body = request.into_body();
        let mut answer = respond.send_response(Response::new(()).into(), false).unwrap();
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
    assert_eq!(response.headers().get("upgrade").unwrap(), "websocket");
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
        respond.send_response(head.into(), false).unwrap().send_data(Bytes::from_static(b"no"), true).unwrap();
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

/// A backend that says of each connection that it was made, and leaves all else to the test.
async fn accepted(listener: &TcpListener) -> tokio::net::TcpStream {
    within(listener.accept()).await.unwrap().0
}

/// Reads until this has come.
async fn reads(stream: &mut tokio::net::TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let byte = within(stream.read_u8()).await.unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&text)));
        text.push(byte);
    }
    String::from_utf8(text).unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn what_comes_on_an_idle_connection_is_no_answer() {
    for stray in ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate", "\r\n", ""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream(listener.local_addr().unwrap(), "");
        let server = Arc::clone(&upstream.fleet().servers()[0]);
        let first = async {
            let mut first = accepted(&listener).await;
            reads(&mut first, "\r\n\r\n").await;
            first.write_all(OK.as_bytes()).await.unwrap();
            first
        };
        let (answer, mut first) = tokio::join!(send(&upstream, get(&[])), first);
        within(answer.unwrap().into_body().collect()).await.unwrap();
        assert_eq!(server.idle_connections(), 1);
        first.write_all(stray.as_bytes()).await.unwrap();
        if stray.is_empty() {
            first.shutdown().await.unwrap();
        }
        // Until it has been noticed; a request that were sent before would get what is stray.
        within(async {
            while server.idle_connections() > 0 {
                upstream.close_expired();
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(server.connections(), 0);
    }
}

#[tokio::test]
async fn what_comes_behind_an_answer_ends_its_connection() {
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (answer, is_kept) in [
        (OK.to_owned(), true),
        (format!("{OK}{second}"), false),
        (format!("{OK}\r\n"), false),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok".to_owned(), false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(), false),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
            false,
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(), true),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream(listener.local_addr().unwrap(), "");
        let server = Arc::clone(&upstream.fleet().servers()[0]);
        let backend = async {
            let mut backend = accepted(&listener).await;
            reads(&mut backend, "\r\n\r\n").await;
            backend.write_all(answer.as_bytes()).await.unwrap();
            backend
        };
        let (response, _backend) = tokio::join!(send(&upstream, get(&[])), backend);
        assert_eq!(within(response.unwrap().into_body().collect()).await.unwrap().to_bytes(), "ok");
        assert_eq!(
            (server.idle_connections(), server.connections()),
            (usize::from(is_kept), usize::from(is_kept)),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_closes() {
    for (answer, end) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "hell"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n", "hell"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n+1\r\no\r\n0\r\n\r\n", "hell"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream(listener.local_addr().unwrap(), "");
        let backend = async {
            let mut backend = accepted(&listener).await;
            reads(&mut backend, "\r\n\r\n").await;
            backend.write_all(answer.as_bytes()).await.unwrap();
        };
        let (response, ()) = tokio::join!(send(&upstream, get(&[])), backend);
        let mut body = response.unwrap().into_body();
        assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), end);
        within(body.frame()).await.unwrap().expect_err("it is not whole");
        assert_eq!(upstream.fleet().servers()[0].connections(), 0, "{answer:?}");
    }
}

/// Its alarm is left to run from one request to the next.
#[tokio::test]
async fn each_request_on_a_connection_has_its_own_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = "response_timeout = \"400ms\"\nresponse_idle_timeout = \"200ms\"";
    let upstream = upstream(listener.local_addr().unwrap(), keys);
    let millis = Duration::from_millis;
    let backend = tokio::spawn(async move {
        let mut backend = accepted(&listener).await;
        for (pause, answer) in [
            (millis(0), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            (millis(250), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            (millis(0), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na"),
        ] {
            reads(&mut backend, "\r\n\r\n").await;
            tokio::time::sleep(pause).await;
            backend.write_all(answer.as_bytes()).await.unwrap();
        }
        within(backend.read(&mut [0])).await
    });
    // Each by a task of its own, so that another is to be woken.
    let asked = || {
        let upstream = Arc::clone(&upstream);
        async move { tokio::spawn(async move { send(&upstream, get(&[])).await }).await.unwrap().unwrap() }
    };
    asked().await;
    tokio::time::sleep(millis(250)).await;
    asked().await;
    let mut body = asked().await.into_body();
    within(body.frame()).await.unwrap().unwrap();
    let since = Instant::now();
    assert!(matches!(within(body.frame()).await.unwrap(), Err(AnswerError::Idle)));
    let waited = since.elapsed();
    assert!((millis(190)..millis(350)).contains(&waited), "{waited:?}");
    assert_eq!(backend.await.unwrap().unwrap(), 0, "the connection is closed");
}

#[tokio::test]
async fn a_request_that_is_given_up_takes_its_connection_along() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(listener.local_addr().unwrap(), "");
    let progress = Arc::default();
    let mut sent = Box::pin(upstream.send(Box::new(get(&[])), &progress));
    let mut backend = tokio::select! {
        _ = &mut sent => panic!("nobody answers"),
        backend = accepted(&listener) => backend,
    };
    tokio::select! {
        _ = &mut sent => panic!("nobody answers"),
        _ = reads(&mut backend, "\r\n\r\n") => {}
    }
    drop(sent);
    assert_eq!(within(backend.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(upstream.fleet().servers()[0].connections(), 0);
}

/// A body that is sent as it is given.
fn streamed() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, Request<Bodies>) {
    struct Given(tokio::sync::mpsc::UnboundedReceiver<Bytes>);
    impl Body for Given {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }
    let (give, given) = tokio::sync::mpsc::unbounded_channel();
    let mut request = get(&[]).map(|_| Given(given).boxed());
    *request.method_mut() = Method::PUT;
    (give, request)
}

/// A request whose answer has begun before its body has ended; the answer's body is still to come.
async fn answered_early()
-> (Response<Box<FromUpstream>>, tokio::net::TcpStream, tokio::sync::mpsc::UnboundedSender<Bytes>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(listener.local_addr().unwrap(), "");
    let (give, request) = streamed();
    give.send(Bytes::from_static(b"one")).unwrap();
    let backend = async {
        let mut backend = accepted(&listener).await;
        reads(&mut backend, "3\r\none\r\n").await;
        backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await.unwrap();
        backend
    };
    let (response, backend) = tokio::join!(send(&upstream, request), backend);
    (response.unwrap(), backend, give)
}

#[tokio::test]
async fn a_request_goes_on_behind_its_answer_until_all_of_it_is_sent() {
    let (response, mut backend, give) = answered_early().await;
    let connection = response.body().connection().clone();
    assert!(connection.has_unsent());
    give.send(Bytes::from_static(b"two")).unwrap();
    reads(&mut backend, "3\r\ntwo\r\n").await;
    backend.write_all(b"ok").await.unwrap();
    // The answer is through; what is left of the request is sent on all the same.
    assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes(), "ok");
    give.send(Bytes::from_static(b"three")).unwrap();
    reads(&mut backend, "5\r\nthree\r\n").await;
    assert!(connection.has_unsent());
    drop(give);
    reads(&mut backend, "0\r\n\r\n").await;
    assert!(within(connection.all_sent()).await && !connection.has_unsent());
    assert_eq!(within(backend.read(&mut [0])).await.unwrap(), 0, "it is closed in the end");
}

#[tokio::test]
async fn a_request_that_is_broken_off_behind_its_answer_closes_at_once() {
    let (mut response, mut backend, _give) = answered_early().await;
    let connection = response.body().connection().clone();
    connection.abort();
    assert_eq!(within(backend.read(&mut [0])).await.unwrap(), 0);
    assert!(!within(connection.all_sent()).await && connection.has_unsent());
    within(response.body_mut().frame()).await.unwrap().expect_err("it is not whole");
    assert_eq!(response.body().server().connections(), 0);

    let (response, mut backend, give) = answered_early().await;
    let connection = response.body().connection().clone();
    drop(response);
    assert_eq!(within(backend.read(&mut [0])).await.unwrap(), 0, "nobody takes the answer");
    assert!(!within(connection.all_sent()).await);
    within(give.closed()).await;
}

#[tokio::test]
async fn no_answer_has_others_before_it_without_end() {
    for (count, is_whole) in [(MOST_INFORMATIONAL, true), (MOST_INFORMATIONAL + 1, false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream(listener.local_addr().unwrap(), "");
        let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&told);
        let progress = Arc::new(Progress::telling(Some(OnInformational::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        }))));
        let backend = async {
            let mut backend = accepted(&listener).await;
            reads(&mut backend, "\r\n\r\n").await;
            backend.write_all("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count).as_bytes()).await.unwrap();
            backend.write_all(OK.as_bytes()).await.unwrap();
            backend
        };
        let (answer, _backend) = tokio::join!(within(upstream.send(Box::new(get(&[])), &progress)), backend);
        assert_eq!(told.load(Ordering::SeqCst), MOST_INFORMATIONAL);
        match answer {
            Ok(_) => assert!(is_whole),
            Err(error) => assert!(!is_whole && matches!(error.fault, Fault::BadAnswer) && error.sent),
        }
    }
}
