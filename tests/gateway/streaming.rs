//! Bodies of any length, as they come; and answers that have none.

use crate::support::{Frames, Gateway, Script, raw_put, within};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn each_event_arrives_before_the_next_is_sent() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    raw.send("GET /events HTTP/1.1\r\nHost: notes.example\r\nAccept: text/event-stream\r\n\r\n").await;
    let mut events = backend.expect("GET", "/events").await;
    events.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(raw.head().await.first.starts_with("HTTP/1.1 200"));
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        events.send(&format!("{:x}\r\n{event}\r\n", event.len())).await;
        assert_eq!(raw.chunk().await, event.as_bytes());
    }

    let mut stream = Frames::connect(gateway.address).await.begin("GET", "/events", &[]).await;
    stream.data("", true);
    let mut events = backend.expect("GET", "/events").await;
    // Until the connection ends, as HTTP/1.0 has it.
    events.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
    assert_eq!(stream.head().await.status().as_u16(), 200);
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(event).await;
        assert_eq!(stream.next().await.as_deref(), Some(event.as_bytes()));
    }
}

#[tokio::test]
async fn both_ends_of_a_post_speak_at_once() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    raw.send("POST /talk HTTP/1.1\r\nHost: notes.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut talk = backend.expect("POST", "/talk").await;
    talk.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(raw.head().await.first.starts_with("HTTP/1.1 200"));
    for word in ["one", "three"] {
        raw.send(format!("{:x}\r\n{word}\r\n", word.len())).await;
        assert_eq!(talk.chunk().await, word.as_bytes());
        talk.send(&format!("{:x}\r\n{word}\r\n", word.len())).await;
        assert_eq!(raw.chunk().await, word.as_bytes());
    }
    raw.send("0\r\n\r\n").await;
    assert_eq!(talk.chunk().await, b"");
    talk.send("0\r\n\r\n").await;
    assert_eq!(raw.chunk().await, b"");
}

#[tokio::test]
async fn answers_without_a_body_keep_their_fields() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = Frames::connect(gateway.address).await;
    for (method, status, length) in [
        ("HEAD", "200 OK", Some("1234")),
        ("HEAD", "200 OK", Some("0")),
        ("HEAD", "404 Not Found", Some("9")),
        ("GET", "304 Not Modified", Some("1234")),
        ("GET", "304 Not Modified", None),
        ("HEAD", "304 Not Modified", Some("1234")),
        ("GET", "204 No Content", None),
        ("DELETE", "204 No Content", None),
    ] {
        let told = length.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
        let told = format!("HTTP/1.1 {status}\r\n{told}ETag: \"1\"\r\nX-Kept: yes\r\nConnection: close\r\n\r\n");
        let mut raw = gateway.raw().await;
        raw.send(format!("{method} /note HTTP/1.1\r\nHost: notes.example\r\n\r\n")).await;
        backend.next().await.send(&told).await;
        let answer = raw.answer(method).await;
        assert_eq!(
            (answer.field("content-length"), answer.field("x-kept")),
            (length, Some("yes")),
            "{method} {status}"
        );
        assert_eq!((answer.tag().as_str(), answer.field("transfer-encoding")), ("\"1\"", None), "{method} {status}");
        // Nothing stands behind it that would be read as the next answer.
        raw.send("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(raw.answer("GET").await.status, 400, "{method} {status}");

        let mut stream = h2.begin(method, "/note", &[]).await;
        stream.data("", true);
        backend.next().await.send(&told).await;
        let head = stream.head().await;
        let shown = head.headers().get("content-length").map(|length| length.to_str().expect("ASCII"));
        assert_eq!((shown, head.headers().contains_key("x-kept")), (length, true), "{method} {status} over HTTP/2");
        assert_eq!(stream.next().await, None);
    }
}

#[tokio::test]
async fn what_nobody_reads_is_not_taken_and_64_mib_pass() {
    for fields in [format!("Content-Length: {}\r\n", 64 * MIB), "Transfer-Encoding: chunked\r\n".to_owned()] {
        let chunk =
            if fields.starts_with('T') { format!("{:x}\r\n{}\r\n", MIB, "x".repeat(MIB)) } else { "x".repeat(MIB) };
        let last = if fields.starts_with('T') { "0\r\n\r\n" } else { "" };
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard("settle = \"10ms\"").start();

        // Up: as long as the backend reads nothing, the gateway takes no more than the sockets hold.
        let mut raw = raw_put(&gateway, &fields, &chunk).await;
        let mut put = backend.next().await;
        let mut taken = 1;
        while taken < 64 && raw.send_some(&chunk).await {
            taken += 1;
        }
        assert!(taken < 32, "{taken} MiB were taken although nobody read them");
        raw.reset();
        put.body().await.expect_err("not a whole body");

        let mut raw = raw_put(&gateway, &fields, "").await;
        let sent = tokio::spawn(async move {
            for _ in 0..64 {
                raw.send(&chunk).await;
            }
            raw.send(last).await;
            raw
        });
        let mut put = backend.expect("PUT", "/note").await;
        assert_eq!(put.body().await.expect("a whole body").len(), 64 * MIB);
        // And down.
        let answering = tokio::spawn(async move { put.answer(200, &[], &"y".repeat(64 * MIB)).await });
        let mut raw = within("the upload", sent).await.expect("an upload");
        assert_eq!(raw.answer("PUT").await.body.len(), 64 * MIB);
        answering.await.expect("an answer");
    }
}
