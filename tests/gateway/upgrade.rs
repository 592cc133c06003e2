//! Connections that go on with another protocol, and those that do not.

use std::time::Duration;

use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::{Frames, Gateway, PATIENCE, Raw, Script, Store, within};

const ASK: &str =
    "GET /chat HTTP/1.1\r\nHost: notes.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: foo/1\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo/1\r\n\r\n";

/// An open tunnel: its client and its backend.
async fn tunnel(gateway: &Gateway, backend: &mut Script) -> (Raw, crate::support::Arrival) {
    let mut raw = gateway.raw().await;
    raw.send(ASK).await;
    let mut chat = backend.expect("GET", "/chat").await;
    chat.send(SWITCH).await;
    assert_eq!(raw.answer("GET").await.status, 101);
    (raw, chat)
}

#[tokio::test]
async fn a_websocket_speaks_both_ways() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let gateway = Gateway::before(listener.local_addr().expect("an address")).start();
    let echo = tokio::task::spawn_blocking(move || {
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut socket = tungstenite::accept(stream).expect("a WebSocket at the backend");
        while let Ok(message) = socket.read() {
            if message.is_text() || message.is_binary() {
                socket.send(message).expect("an open WebSocket");
            }
        }
    });
    let address = gateway.address;
    let client = tokio::task::spawn_blocking(move || {
        let stream = std::net::TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (mut socket, answer) =
            tungstenite::client(format!("ws://{address}/chat"), stream).expect("a WebSocket through the gateway");
        assert_eq!(answer.headers()["via"], "1.1 ifmatch");
        for message in [Message::text("hello"), Message::binary(vec![7; 300_000]), Message::text("")] {
            socket.send(message.clone()).expect("an open WebSocket");
            assert_eq!(socket.read().expect("an echo"), message);
        }
        socket.close(None).expect("an open WebSocket");
        while socket.read().is_ok() {}
    });
    within("the client", client).await.expect("a WebSocket");
    within("the backend", echo).await.expect("the end of a WebSocket");
}

#[tokio::test]
async fn what_is_said_early_reaches_the_backend_behind_the_101_only() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let mut raw = gateway.raw().await;
    raw.send(format!("{ASK}early")).await;
    let mut chat = backend.expect("GET", "/chat").await;
    assert_eq!((chat.field("connection"), chat.field("upgrade")), (Some("upgrade"), Some("foo/1")));
    gateway.barrier().await;
    assert!(chat.has_nothing_more(), "before the 101");
    chat.send(&format!("{SWITCH}first")).await;
    assert_eq!(chat.bytes(5).await, b"early");
    let answer = raw.answer("GET").await;
    assert_eq!(
        (answer.status, answer.field("upgrade"), answer.field("connection")),
        (101, Some("foo/1"), Some("upgrade"))
    );
    assert_eq!(raw.bytes(5).await, b"first");
    raw.send("more").await;
    assert_eq!(chat.bytes(4).await, b"more");
}

#[tokio::test]
async fn the_end_of_one_side_is_passed_on() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();

    let (mut raw, mut chat) = tunnel(&gateway, &mut backend).await;
    raw.finish().await;
    chat.hung_up().await;
    chat.send("still").await;
    assert_eq!(raw.bytes(5).await, b"still");
    drop(chat);
    raw.closed().await;

    let (mut raw, mut chat) = tunnel(&gateway, &mut backend).await;
    chat.finish().await;
    raw.closed().await;
    raw.send("still").await;
    assert_eq!(chat.bytes(5).await, b"still");
}

#[tokio::test]
async fn a_tunnel_breaks_with_either_end() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let (raw, mut chat) = tunnel(&gateway, &mut backend).await;
    raw.reset();
    chat.hung_up().await;
    let (mut raw, chat) = tunnel(&gateway, &mut backend).await;
    chat.reset();
    raw.ended().await;
}

#[tokio::test]
async fn a_tunnel_in_which_nobody_speaks_is_closed() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).upstream("tunnel_idle_timeout = \"200ms\"").start();
    let (mut raw, mut chat) = tunnel(&gateway, &mut backend).await;
    raw.closed().await;
    chat.hung_up().await;
}

#[tokio::test]
async fn a_stop_waits_for_a_tunnel_but_not_for_ever() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).drain_timeout("30s").start();
    let (raw, _chat) = tunnel(&gateway, &mut backend).await;
    gateway.stop();
    let stopped = tokio::spawn(gateway.stopped());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!stopped.is_finished());
    drop(raw);
    drop(_chat);
    within("the stop", stopped).await.expect("a stop");

    let gateway = Gateway::before(backend.address).drain_timeout("100ms").start();
    let (mut raw, mut chat) = tunnel(&gateway, &mut backend).await;
    gateway.stop();
    gateway.stopped().await;
    raw.ended().await;
    chat.hung_up().await;
}

/// Whoever believes in a tunnel that is none sends what looks like requests (TRAPS).
#[tokio::test]
async fn bytes_behind_an_upgrade_that_is_not_granted_are_no_request() {
    let victim = "DELETE /victim HTTP/1.1\r\nHost: notes.example\r\n\r\n";
    for (method, fields) in [
        ("GET", "Connection: upgrade\r\nUpgrade: foo\r\n"),
        ("GET", "Connection: close-not\r\nUpgrade: foo\r\n"),
        ("GET", "Upgrade: websocket\r\n"),
        ("PUT", "Connection: upgrade\r\nUpgrade: foo\r\nContent-Length: 0\r\n"),
        ("CONNECT", "Connection: upgrade\r\nUpgrade: foo\r\n"),
    ] {
        let store = Store::start().await;
        store.set("/victim", "alive");
        let gateway = Gateway::before(store.address).one_worker().start();
        let mut raw = gateway.raw().await;
        let target = if method == "CONNECT" { "notes.example:80" } else { "/note" };
        raw.send(format!("{method} {target} HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n{victim}")).await;
        let answer = raw.answer(method).await;
        assert_eq!(answer.field("connection"), Some("close"), "{method} {fields}");
        raw.send(victim).await;
        raw.closed().await;
        gateway.barrier().await;
        assert_eq!((store.count("DELETE"), store.body("/victim").as_deref()), (0, Some("alive")), "{method} {fields}");
    }
}

/// Java's client says with each request that it would rather speak HTTP/2.
#[tokio::test]
async fn a_client_that_would_rather_speak_http2_goes_on_with_what_it_has() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    for _ in 0..3 {
        let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n";
        raw.send(format!("GET /note HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n")).await;
        let get = backend.expect("GET", "/note").await;
        assert_eq!((get.field("upgrade"), get.field("http2-settings")), (None, None));
        get.answer(200, &[], "").await;
        assert_eq!(raw.answer("GET").await.field("connection"), None);
    }
}

#[tokio::test]
async fn only_a_get_over_http_1_1_that_says_so_asks_and_never_for_http() {
    let upgrade = "Connection: upgrade\r\nUpgrade: foo, H2C, bar/2, HTTP/2.0\r\n";
    for (line, fields, asked) in [
        ("GET /note HTTP/1.1", upgrade, Some("foo, bar/2")),
        ("GET /note HTTP/1.0", upgrade, None),
        ("HEAD /note HTTP/1.1", upgrade, None),
        ("PUT /note HTTP/1.1", &format!("Content-Length: 0\r\n{upgrade}"), None),
        ("POST /note HTTP/1.1", &format!("Content-Length: 0\r\n{upgrade}"), None),
        ("GET /note HTTP/1.1", "Upgrade: foo\r\n", None),
        ("GET /note HTTP/1.1", "Connection: upgrade\r\nUpgrade: h2c\r\n", None),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let mut raw = gateway.raw().await;
        raw.send(format!("{line}\r\nHost: notes.example\r\n{fields}\r\n")).await;
        let arrival = backend.next().await;
        assert_eq!(arrival.field("upgrade"), asked, "{line} {fields}");
        assert_eq!(arrival.field("connection"), asked.map(|_| "upgrade"), "{line} {fields}");
        arrival.answer(200, &[], "").await;
        assert_eq!(raw.answer(line.split(' ').next().expect("a method")).await.status, 200);
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_opens_nothing() {
    for (asked, granted) in [
        ("", "Connection: upgrade\r\nUpgrade: foo/1\r\n"),
        ("Connection: upgrade\r\nUpgrade: foo/1\r\n", "Connection: upgrade\r\nUpgrade: other\r\n"),
        ("Connection: upgrade\r\nUpgrade: foo/1\r\n", ""),
        ("Connection: upgrade\r\nUpgrade: h2c\r\n", "Connection: upgrade\r\nUpgrade: h2c\r\n"),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let mut raw = gateway.raw().await;
        raw.send(format!("GET /chat HTTP/1.1\r\nHost: notes.example\r\n{asked}\r\nbehind")).await;
        let mut chat = backend.expect("GET", "/chat").await;
        chat.send(&format!("HTTP/1.1 101 Switching Protocols\r\n{granted}\r\n")).await;
        assert_eq!(raw.answer("GET").await.status, 502, "{asked} {granted}");
        chat.hung_up_silently().await;
    }
}

#[tokio::test]
async fn a_websocket_over_http2_becomes_one_over_http1() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = Frames::connect(gateway.address).await;
    h2.knows_extended_connect().await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut socket = h2.extended_connect("websocket", "/chat?room=1").await;
        socket.data("early", false);
        let mut chat = backend.expect("GET", "/chat?room=1").await;
        assert_eq!((chat.field("connection"), chat.field("upgrade")), (Some("upgrade"), Some("websocket")));
        assert_eq!((chat.field("sec-websocket-version"), chat.field("host")), (Some("13"), Some("notes.example")));
        let key = chat.field("sec-websocket-key").expect("a key").to_owned();
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        keys.push(key);
        chat.send(&format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello"
        ))
        .await;
        let head = socket.head().await;
        assert_eq!(
            (head.status().as_u16(), &head.headers()["sec-websocket-protocol"]),
            (200, &"chat".parse().expect("a value"))
        );
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!head.headers().contains_key(name), "{name}");
        }
        assert_eq!(chat.bytes(5).await, b"early");
        assert_eq!(socket.bytes(5).await, b"hello");
        socket.data("bye", true);
        assert_eq!(chat.bytes(3).await, b"bye");
        chat.hung_up_silently().await;
        drop(chat);
        assert_eq!(socket.next().await, None);
    }
    assert_eq!(keys[0].len(), 24);
    assert_ne!(keys[0], keys[1]);
}

/// Its connection has carried nothing else for longer than an idle one may live.
#[tokio::test]
async fn a_websocket_over_http2_keeps_its_connection() {
    let mut backend = Script::start().await;
    let gateway =
        Gateway::before(backend.address).rest("[limits]\nidle_timeout = \"100ms\"\nsend_timeout = \"100ms\"").start();
    let h2 = Frames::connect(gateway.address).await;
    h2.knows_extended_connect().await;
    let mut socket = h2.extended_connect("websocket", "/chat").await;
    let mut chat = backend.expect("GET", "/chat").await;
    chat.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(socket.head().await.status().as_u16(), 200);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        socket.data("still", false);
        assert_eq!(chat.bytes(5).await, b"still");
        chat.send("here").await;
        assert_eq!(socket.bytes(4).await, b"here");
    }
}

#[tokio::test]
async fn an_extended_connect_that_is_not_granted_gets_the_answer() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = Frames::connect(gateway.address).await;
    h2.knows_extended_connect().await;
    // A success would open a tunnel to nowhere (RFC 8441 §5).
    for (told, status) in [(403, 403), (404, 404), (302, 302), (200, 502), (204, 502)] {
        let mut socket = h2.extended_connect("websocket", "/chat").await;
        backend.expect("GET", "/chat").await.answer(told, &[("X-Told", "1")], "").await;
        assert_eq!(socket.head().await.status().as_u16(), status);
    }
    let mut other = h2.extended_connect("connect-udp", "/chat").await;
    assert_eq!(other.head().await.status().as_u16(), 501);
    backend.assert_quiet();
}
