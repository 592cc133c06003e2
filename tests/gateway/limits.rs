//! Every limit of a connection, gone over: how many there are, how long they take, how much they send.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncRead, ReadBuf, join},
    net::{TcpSocket, TcpStream, tcp::OwnedReadHalf},
    task::JoinSet,
    time::{Sleep, sleep},
};

use crate::support::{
    Answer, Call, Gateway, H2, Raw, Script, Store, begin,
    client::HOST_NAME,
    gateway::Settings,
    outside,
    tls::{Authority, Folder, Tls},
    within,
};

const GET: &str = "GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n";

fn with_limits(backend: &Script, limits: &str) -> Settings {
    Gateway::before(backend.address).rest(&format!("[limits]\n{limits}"))
}

/// Sends a request on this connection and has it answered.
async fn exchange(raw: &mut Raw, backend: &mut Script) -> Answer {
    raw.send(GET).await;
    backend.expect("GET", "/note").await.answer(200, &[], "answered").await;
    raw.answer("GET").await
}

#[tokio::test]
async fn a_head_that_trickles_is_answered_408_while_others_are_served() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "header_read_timeout = \"1s\"\nidle_timeout = \"1h\"").start();
    let (mut first, mut second) = (gateway.raw().await, gateway.raw().await);
    exchange(&mut second, &mut backend).await;
    let mut trickle = tokio::time::interval(Duration::from_millis(100));
    for byte in "GET / HT".bytes() {
        trickle.tick().await;
        first.send([byte]).await;
        second.send([byte]).await;
        assert_eq!(exchange(&mut gateway.raw().await, &mut backend).await.text(), "answered");
    }
    for mut slow in [first, second] {
        let answer = slow.answer("GET").await;
        assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
        slow.closed().await;
    }
}

#[tokio::test]
async fn slow_heads_of_many_clients_end_and_others_are_served() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "header_read_timeout = \"500ms\"").start();
    let mut slow = JoinSet::new();
    for _ in 0..500 {
        let mut raw = gateway.raw().await;
        slow.spawn_on(
            async move {
                raw.send("GET / HTTP/1.1\r\nHost: notes.example\r\nX-Slow: ").await;
                raw.answer("GET").await.status
            },
            &outside(),
        );
    }
    assert_eq!(exchange(&mut gateway.raw().await, &mut backend).await.text(), "answered");
    for status in slow.join_all().await {
        assert_eq!(status, 408);
    }
}

#[tokio::test]
async fn a_connection_that_lies_idle_is_closed() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "idle_timeout = \"200ms\"\nheader_read_timeout = \"1h\"").start();
    let mut raw = gateway.raw().await;
    exchange(&mut raw, &mut backend).await;
    raw.closed().await;

    let h2 = H2::connect(gateway.address).await;
    let call = tokio::spawn({
        let (h2, call) = (h2.clone(), gateway.get("/note"));
        async move { h2.send(call).await }
    });
    backend.expect("GET", "/note").await.answer(200, &[], "").await;
    call.await.expect("an answer");
    h2.closed().await;
}

/// Some send an empty line behind a body. It is the beginning of nothing.
#[tokio::test]
async fn an_empty_line_behind_a_request_begins_no_head() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "header_read_timeout = \"300ms\"").start();
    let mut raw = gateway.raw().await;
    raw.send("POST /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 1\r\n\r\na\r\n").await;
    backend.expect("POST", "/note").await.answer(200, &[], "").await;
    assert_eq!(raw.answer("POST").await.status, 200);
    tokio::time::sleep(Duration::from_millis(700)).await;
    exchange(&mut raw, &mut backend).await;
}

/// Neither does a backend that takes its time make a connection idle, nor a body that comes slowly, nor an answer that is
/// taken slowly.
#[tokio::test]
async fn a_connection_with_a_request_under_way_is_not_idle() {
    let mut backend = Script::start().await;
    let limits = "idle_timeout = \"300ms\"\nheader_read_timeout = \"300ms\"";
    let gateway = with_limits(&backend, limits).guard("buffer = 0").start();
    let mut raw = gateway.raw().await;
    let mut pause = tokio::time::interval(Duration::from_millis(700));
    pause.tick().await;

    raw.send("PUT /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 4\r\n\r\nbo").await;
    let mut arrival = backend.expect("PUT", "/note").await;
    pause.tick().await;
    raw.send("dy").await;
    assert_eq!(arrival.body().await.expect("a body"), b"body");
    pause.tick().await;
    arrival.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nla").await;
    pause.tick().await;
    arrival.send("te").await;
    assert_eq!(raw.answer("PUT").await.text(), "late");
    arrival.go_on();

    let h2 = H2::connect(gateway.address).await;
    let call = tokio::spawn({
        let (h2, call) = (h2.clone(), gateway.get("/note"));
        async move { h2.send(call).await }
    });
    let arrival = backend.expect("GET", "/note").await;
    pause.tick().await;
    arrival.answer(200, &[], "late").await;
    assert_eq!(call.await.expect("an answer").text(), "late");
}

/// The answer to a write that was refused may come before its body is through; what is still sent is no head.
#[tokio::test]
async fn the_rest_of_a_refused_body_is_not_taken_for_a_head() {
    let backend = Script::start().await;
    let limits = "idle_timeout = \"300ms\"\nheader_read_timeout = \"300ms\"";
    let gateway = with_limits(&backend, limits).guard("missing = \"require\"\ndrain_bytes = 0").start();
    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 1000\r\n\r\nfirst").await;
    assert_eq!(raw.answer("PUT").await.status, 428);
    let mut pause = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..4 {
        pause.tick().await;
        raw.send("more").await;
    }
    raw.finish().await;
    raw.closed().await;
}

#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "connections_per_address = 2").start();
    let (mut first, mut second) = (gateway.raw().await, gateway.raw().await);
    exchange(&mut first, &mut backend).await;
    exchange(&mut second, &mut backend).await;
    turned_away(&gateway).await;
    // Whoever goes makes room.
    first.finish().await;
    first.closed().await;
    let served = async {
        loop {
            let mut raw = gateway.raw().await;
            raw.send(GET).await;
            // The client may see the end of its connection before it is taken off the count.
            tokio::select! {
                arrival = backend.next() => return arrival.answer(200, &[], "").await,
                answer = raw.answer("GET") => assert_eq!(answer.status, 503),
            }
        }
    };
    within("room for one more", served).await;
}

async fn turned_away(gateway: &Gateway) {
    let mut raw = gateway.raw().await;
    raw.send(GET).await;
    let answer = raw.answer("GET").await;
    assert_eq!(
        (answer.status, answer.field("retry-after"), answer.field("connection")),
        (503, Some("1"), Some("close"))
    );
    raw.closed().await;
}

#[tokio::test]
async fn connections_are_bounded_over_all_workers_and_listeners() {
    let mut backend = Script::start().await;
    let limits = "connections = 3\nconnections_per_address = 3";
    let gateway = with_limits(&backend, limits).top("trusted_proxies = [\"127.0.0.0/8\"]").start();
    let mut taken = Vec::new();
    for _ in 0..3 {
        let mut raw = gateway.raw().await;
        exchange(&mut raw, &mut backend).await;
        taken.push(raw);
    }
    turned_away(&gateway).await;
    drop(taken);
}

#[tokio::test]
async fn trusted_proxies_are_not_counted_by_address_but_who_they_name_is() {
    let mut backend = Script::start().await;
    let settings = with_limits(&backend, "connections_per_address = 1").top("trusted_proxies = [\"127.0.0.1\"]");
    let gateway = settings.start();
    let (mut first, mut second) = (gateway.raw().await, gateway.raw().await);
    exchange(&mut first, &mut backend).await;
    exchange(&mut second, &mut backend).await;

    let gateway = settings.listener("proxy_protocol = true").start();
    let connect = async |from: &str| {
        let mut raw = gateway.raw().await;
        raw.send(format!("PROXY TCP4 {from} 127.0.0.1 1 2\r\n")).await;
        raw
    };
    let (mut one, mut other) = (connect("192.0.2.1").await, connect("192.0.2.2").await);
    exchange(&mut one, &mut backend).await;
    exchange(&mut other, &mut backend).await;
    let mut again = connect("192.0.2.1").await;
    again.send(GET).await;
    assert_eq!(again.answer("GET").await.status, 503);
}

#[tokio::test]
async fn a_tls_client_without_a_place_is_closed_on() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    folder.keep("own", &Authority::new().certify(&[HOST_NAME]));
    let keys = format!("tls = {{ {} }}", folder.files("own"));
    let gateway = with_limits(&backend, "connections_per_address = 1").listener(&keys).start();
    let first = Tls::new().connect(gateway.address, HOST_NAME).await.expect("a handshake");
    assert!(Tls::new().connect(gateway.address, HOST_NAME).await.is_err());
    let call = tokio::spawn(gateway.get("/note").send_over(first));
    backend.expect("GET", "/note").await.answer(200, &[], "").await;
    call.await.expect("an answer");
}

#[tokio::test]
async fn requests_of_one_connection_are_bounded() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "requests_per_connection = 2").start();
    let mut raw = gateway.raw().await;
    assert_eq!(exchange(&mut raw, &mut backend).await.field("connection"), None);
    assert_eq!(exchange(&mut raw, &mut backend).await.field("connection"), Some("close"));
    raw.closed().await;

    // What is under way is answered, and then it is over.
    let h2 = H2::connect(gateway.address).await;
    let call = |path: &str| {
        let (h2, call) = (h2.clone(), gateway.get(path));
        tokio::spawn(async move { h2.send(call).await })
    };
    let first = call("/first");
    let first_arrival = backend.expect("GET", "/first").await;
    let second = call("/second");
    backend.expect("GET", "/second").await.answer(200, &[], "").await;
    second.await.expect("an answer");
    first_arrival.answer(200, &[], "").await;
    assert_eq!(first.await.expect("an answer").status, 200);
    h2.closed().await;
}

#[tokio::test]
async fn streams_of_one_connection_are_bounded() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "streams_per_connection = 2").start();
    let h2 = H2::connect(gateway.address).await;
    let barrier = Call::new(gateway.address, "GET", "/%zz");
    h2.send(barrier).await;
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let (h2, call) = (h2.clone(), gateway.get("/note"));
            tokio::spawn(async move { h2.send(call).await.status })
        })
        .collect();
    let (first, second) = (backend.next().await, backend.next().await);
    // Another connection's request gets through, the third of this one does not.
    let other = begin(gateway.get("/other"));
    backend.expect("GET", "/other").await.answer(200, &[], "").await;
    other.answer().await;
    backend.assert_quiet();
    first.answer(200, &[], "").await;
    backend.next().await.answer(200, &[], "").await;
    second.answer(200, &[], "").await;
    for call in calls {
        assert_eq!(call.await.expect("an answer"), 200);
    }
}

#[tokio::test]
async fn the_head_of_a_request_is_bounded() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "header_bytes = \"8KiB\"\nheaders = 10").start();
    let head = |fields: &str| format!("GET /note HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n");
    let rows = [
        ("X: y\r\n".repeat(9), 200),
        ("X: y\r\n".repeat(10), 431),
        (format!("X: {}\r\n", "y".repeat(8000)), 200),
        (format!("X: {}\r\n", "y".repeat(8200)), 431),
        (format!("X: {}\r\n", "y".repeat(1_000_000)), 431),
    ];
    for (fields, status) in rows {
        let mut raw = gateway.raw().await;
        // It may close before it has read all of this.
        raw.try_send(head(&fields)).await;
        if status == 200 {
            backend.expect("GET", "/note").await.answer(200, &[], "").await;
        }
        assert_eq!(raw.answer("GET").await.status, status, "{} bytes", fields.len());
    }
    let h2 = H2::connect(gateway.address).await;
    let large = gateway.get("/note").with("x", &"y".repeat(8200));
    assert_eq!(h2.send(large).await.status, 431);
    let many = (0..11).fold(gateway.get("/note"), |call, _| call.with("x", "y"));
    assert_eq!(h2.send(many).await.status, 431);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_is_cut() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "send_timeout = \"300ms\"").start();
    let mut raw = gateway.raw().await;
    raw.send(GET).await;
    let large = "x".repeat(64 * 1024 * 1024);
    let mut arrival = backend.expect("GET", "/note").await;
    let sent = within("the gateway to give up", arrival.answer_now(200, &[], &large)).await;
    assert!(sent.is_err(), "the backend's connection is let go");
    raw.ended().await;
}

/// What comes by a connection, of which little is read at a time.
struct Slow {
    stream: OwnedReadHalf,
    pause: Pin<Box<Sleep>>,
}

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.pause.as_mut().poll(cx));
        let mut little = [0; 4096];
        let most = little.len().min(buf.remaining());
        let mut part = ReadBuf::new(&mut little[..most]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        self.pause = Box::pin(sleep(Duration::from_millis(2)));
        Poll::Ready(Ok(()))
    }
}

/// The client opens windows while it reads, and the last of them when the gateway has nothing more to say.
#[tokio::test]
async fn the_last_answer_over_http2_reaches_a_client_that_reads_slowly() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "requests_per_connection = 1").start();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("SO_RCVBUF");
    let (stream, writer) = socket.connect(gateway.address).await.expect("a connection").into_split();
    let slow = Slow { stream, pause: Box::pin(sleep(Duration::ZERO)) };
    let (mut sender, driver) = h2::client::handshake(join(slow, writer)).await.expect("a handshake");
    let driver = tokio::spawn(driver);
    let request = Request::get(format!("http://{HOST_NAME}/note")).body(()).expect("a request");
    let answer = sender.send_request(request, true).expect("an open connection").0;
    let content = "x".repeat(300_000);
    backend.expect("GET", "/note").await.answer(200, &[], &content).await;
    let mut body = within("the head of an answer", answer).await.expect("an answer").into_body();
    let mut length = 0;
    while let Some(data) = within("a part of it", body.data()).await {
        let data = data.expect("all of it");
        length += data.len();
        body.flow_control().release_capacity(data.len()).expect("as much as came");
    }
    assert_eq!(length, content.len());
    driver.abort();
}

#[tokio::test]
async fn a_stream_of_which_nothing_is_taken_is_reset_and_the_others_go_on() {
    let mut backend = Script::start().await;
    let gateway = with_limits(&backend, "send_timeout = \"300ms\"").start();
    let address = gateway.address;
    let (mut sender, driver) = outside()
        .spawn(async move {
            let stream = TcpStream::connect(address).await.expect("a connection");
            // Room for the others, though one takes nothing.
            let mut client = h2::client::Builder::new();
            let handshake = client.initial_connection_window_size(1024 * 1024).handshake::<_, Bytes>(stream);
            let (sender, connection) = handshake.await.expect("a client");
            (sender, tokio::spawn(connection))
        })
        .await
        .expect("a task");
    let mut ask = |path: &str| {
        let request = Request::get(format!("http://{HOST_NAME}{path}")).body(()).expect("a request");
        sender.send_request(request, true).expect("an open connection").0
    };
    let stalled = ask("/large");
    let large = "x".repeat(16 * 1024 * 1024);
    let mut arrival = backend.expect("GET", "/large").await;
    let sent = within("the gateway to give up", arrival.answer_now(200, &[], &large)).await;
    assert!(sent.is_err(), "the backend's connection is let go");
    // The client opens no window: it never says that it has taken anything.
    let mut body = stalled.await.expect("the head of an answer").into_body();
    let broken = async {
        loop {
            if let Err(error) = body.data().await.expect("no end that looks like one") {
                return error;
            }
        }
    };
    assert!(within("a reset", broken).await.is_reset());

    let other = ask("/other");
    backend.expect("GET", "/other").await.answer(200, &[], "as ever").await;
    let mut body = within("an answer", other).await.expect("an answer").into_body();
    assert_eq!(within("a body", body.data()).await.expect("data").expect("data"), Bytes::from("as ever"));
    driver.abort();
}

#[tokio::test]
async fn a_client_that_takes_an_answer_slowly_gets_all_of_it() {
    let mut backend = Script::start().await;
    let limits = "send_timeout = \"500ms\"\nidle_timeout = \"300ms\"\nheader_read_timeout = \"300ms\"";
    let gateway = with_limits(&backend, limits).start();
    let mut raw = Raw::with_small_window(gateway.address).await;
    raw.send(GET).await;
    let large = "x".repeat(2 * 1024 * 1024);
    let arrival = backend.expect("GET", "/note").await;
    let answering = tokio::spawn(async move { arrival.answer(200, &[], &large).await });
    let answer = raw.answer_slowly(Duration::from_millis(2)).await;
    assert_eq!(answer.body.len(), 2 * 1024 * 1024);
    answering.await.expect("a task");
}

/// Each request that is begun costs the backend something, given up or not.
#[tokio::test]
async fn a_client_that_gives_up_all_its_requests_is_cut() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = H2::connect(gateway.address).await;
    let mut count = 0;
    while !h2.is_closed() {
        let call = tokio::spawn({
            let (h2, call) = (h2.clone(), gateway.get("/note"));
            async move { h2.try_send(call).await }
        });
        tokio::select! {
            mut arrival = backend.next() => {
                call.abort();
                arrival.hung_up().await;
            }
            // It was closed in between.
            () = h2.closed() => {}
        }
        count += 1;
        assert!(count < 1000, "it goes on");
    }
    assert!(count > 100, "but a few are nothing to complain of: {count}");
}

/// Each is answered, and none asks for anything.
#[tokio::test]
async fn a_client_that_floods_with_frames_that_carry_nothing_is_cut() {
    let store = Store::start().await;
    store.set("/note", "one");
    let gateway = Gateway::before(store.address).one_worker().start();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    for flood in [&settings[..], &ping[..]] {
        let mut raw = gateway.raw().await;
        raw.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat()).await;
        raw.try_send(flood.repeat(5000)).await;
        raw.ended().await;
        gateway.get("/note").expect(200).await;
    }
}
