//! Bodies that are read for their version: how much of them, and what the client sees of that.

use bytes::Bytes;
use h2::Reason;

use super::{BODY, JSON, reads};
use crate::support::{Gateway, H2Script, Raw, Script, begin};

const LIMIT: &str = "version_body_limit = \"1KiB\"";

async fn asks(gateway: &Gateway, backend: &mut Script, fields: &str) -> (Raw, crate::support::Arrival) {
    let mut raw = gateway.raw().await;
    raw.send(format!("GET /note HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n")).await;
    let get = backend.expect("GET", "/note").await;
    (raw, get)
}

async fn untagged(gateway: &Gateway, why: &str) -> f64 {
    gateway.scrape().await.value("ifmatch_untagged_total", &[("why", why)])
}

#[tokio::test]
async fn the_limit_is_the_last_length_that_has_a_version() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(LIMIT).admin().start();
    for (length, has_tag) in [(0, true), (1, true), (1024, true), (1025, false), (200_000, false)] {
        let body = "x".repeat(length);
        let answer = reads(&gateway, &mut backend, &[], &body).await;
        assert_eq!(answer.field("etag").is_some(), has_tag, "{length}");
        assert_eq!(answer.field("content-length"), Some(length.to_string().as_str()));
        // The same in chunks.
        let call = begin(gateway.get("/note"));
        let mut get = backend.expect("GET", "/note").await;
        get.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for piece in body.as_bytes().chunks(700) {
            get.send(&format!("{:x}\r\n{}\r\n", piece.len(), "x".repeat(piece.len()))).await;
        }
        get.send("0\r\n\r\n").await;
        get.go_on();
        let answer = call.answer().await;
        assert_eq!(answer.text(), body);
        assert_eq!(answer.field("etag").is_some(), has_tag, "{length} in chunks");
    }
    assert_eq!(untagged(&gateway, "too_long").await, 4.0);
}

/// A state that is too long to be hashed is none of those that had a tag.
#[tokio::test]
async fn what_has_grown_too_long_is_no_longer_what_it_was() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(LIMIT).start();
    let tag = reads(&gateway, &mut backend, &[], "one").await.tag();
    reads(&gateway, &mut backend, &[], &"x".repeat(2000)).await;
    let writer = begin(gateway.put("/note", "x").if_match(&tag));
    backend.expect("GET", "/note").await.answer(200, &[], &"x".repeat(2000)).await;
    assert_eq!(writer.answer().await.status, 409);
    backend.assert_quiet();
}

/// What is there is no longer absent, whether or not its version can be told.
#[tokio::test]
async fn what_has_no_version_is_there_all_the_same() {
    for (settings, fields, body) in [
        (BODY, &[][..], "x".repeat(2000)),
        (JSON, &[], "{}".to_owned()),
        ("", &[("ETag", "\"1\""), ("ETag", "\"2\"")], String::new()),
        ("", &[("ETag", "no tag")], String::new()),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).guard(LIMIT).start();
        let deletion = begin(gateway.call("DELETE", "/note"));
        backend.expect("DELETE", "/note").await.answer(204, &[], "").await;
        assert_eq!(deletion.answer().await.status, 204);
        // Somebody else has made it anew.
        let reader = begin(gateway.get("/note"));
        backend.expect("GET", "/note").await.answer(200, fields, &body).await;
        assert_eq!(reader.answer().await.status, 200);
        let creator = begin(gateway.put("/note", "mine").with("if-none-match", "*"));
        let probe = backend.next().await;
        assert_ne!(probe.method, "PUT", "{settings} {fields:?}");
        probe.answer(500, &[], "").await;
        assert_eq!(creator.answer().await.status, 409);
        backend.assert_quiet();
    }
}

/// A longer one is not held back: what has come is passed on while more is to come.
#[tokio::test]
async fn a_longer_body_passes_as_it_comes() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(LIMIT).start();
    // By its length it is known from the beginning.
    let (mut raw, mut get) = asks(&gateway, &mut backend, "").await;
    get.send("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n").await;
    let head = raw.head().await;
    assert!(head.first.starts_with("HTTP/1.1 200") && !head.fields.contains_key("etag"));
    get.send(&"x".repeat(2000)).await;
    assert_eq!(raw.bytes(2000).await, vec![b'x'; 2000]);
    // In chunks it is known once it is too long.
    let (mut raw, mut get) = asks(&gateway, &mut backend, "").await;
    get.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    get.send(&format!("400\r\n{}\r\n", "x".repeat(0x400))).await;
    get.send("1\r\ny\r\n").await;
    raw.head().await;
    let mut came = Vec::new();
    while came.len() < 0x401 {
        came.extend(raw.chunk().await);
    }
    assert_eq!(came, format!("{}y", "x".repeat(0x400)).into_bytes());
    get.send("3\r\nend\r\n0\r\n\r\n").await;
    assert_eq!(raw.chunk().await, b"end");
    assert_eq!(raw.chunk().await, b"");
}

/// Who breaks off within the limit has been heard by nobody yet, so the client is told.
#[tokio::test]
async fn a_body_that_breaks_off_is_no_answer() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    let open = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for answer in [cut, open] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(BODY).start();
        let (mut raw, mut get) = asks(&gateway, &mut backend, "").await;
        get.send(answer).await;
        get.finish().await;
        let answer = raw.answer("GET").await;
        assert_eq!(answer.status, 502);
        answer.problem("upstream-failed");
        get.hung_up().await;
        // And nothing was learned.
        let writer = begin(gateway.put("/note", "x").if_match("\"x\""));
        backend.expect("GET", "/note").await.answer(200, &[], "whole").await;
        assert_eq!(writer.answer().await.status, 409);
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_no_answer() {
    let mut backend = Script::start().await;
    let settings = Gateway::before(backend.address).guard(BODY).upstream("response_idle_timeout = \"100ms\"");
    let gateway = settings.start();
    let (mut raw, mut get) = asks(&gateway, &mut backend, "").await;
    get.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    let answer = raw.answer("GET").await;
    assert_eq!(answer.status, 504);
    let detail = answer.problem("upstream-timeout")["detail"].to_string();
    assert!(detail.contains("See response_idle_timeout"), "{detail}");
    get.hung_up().await;
}

/// Behind the limit the client has its head, so it can only see that the answer breaks off.
#[tokio::test]
async fn a_longer_body_that_breaks_off_breaks_off() {
    for head in ["Content-Length: 3000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n600\r\n"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(BODY).guard(LIMIT).start();
        let (mut raw, mut get) = asks(&gateway, &mut backend, "").await;
        get.send(&format!("HTTP/1.1 200 OK\r\n{head}{}", "x".repeat(0x500))).await;
        get.finish().await;
        assert_eq!(raw.broken_answer().await, vec![b'x'; 0x500]);
    }
}

/// Events are for now: nobody waits for their end.
#[tokio::test]
async fn events_are_not_held_back() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).admin().start();
    let (mut raw, mut get) = asks(&gateway, &mut backend, "").await;
    get.send("HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevt1\r\n")
        .await;
    raw.head().await;
    assert_eq!(raw.chunk().await, b"evt1");
    assert_eq!(untagged(&gateway, "too_slow").await, 1.0);
}

/// What comes in drops is passed on untagged after a while.
#[tokio::test]
async fn a_body_that_drips_is_not_waited_for_for_ever() {
    let mut backend = Script::start().await;
    let settings = Gateway::before(backend.address).guard(BODY).upstream("response_idle_timeout = \"300ms\"");
    let gateway = settings.admin().start();
    let (mut raw, mut get) = asks(&gateway, &mut backend, "").await;
    get.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let dripping = tokio::spawn(async move {
        let mut drops = 0;
        while get.try_send("1\r\nx\r\n").await.is_ok() {
            drops += 1;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        drops
    });
    assert!(!raw.head().await.fields.contains_key("etag"));
    assert!(raw.chunk().await.starts_with(b"x"));
    raw.reset();
    assert!(crate::support::within("the backend to see the end", dripping).await.expect("a task") > 1);
    assert_eq!(untagged(&gateway, "too_slow").await, 1.0);
}

#[tokio::test]
async fn trailers_and_framing_stay() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let (mut raw, mut get) = asks(&gateway, &mut backend, "TE: trailers\r\nConnection: te\r\n").await;
    get.send(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\nX-Sum: 7\r\n\r\n",
    )
    .await;
    get.go_on();
    let answer = raw.answer("GET").await;
    assert_eq!((answer.text(), answer.field("transfer-encoding")), ("one", Some("chunked")));
    assert!(answer.tag().starts_with("\"ifm-b-"));
    assert_eq!(raw.trailers().get("x-sum").map(|sum| sum.as_bytes()), Some(&b"7"[..]));
    // Both connections can be used again.
    raw.send("GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    backend.expect("GET", "/note").await.answer(200, &[], "one").await;
    assert_eq!(raw.answer("GET").await.text(), "one");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn what_is_encoded_has_no_version() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(JSON).admin().start();
    let call = begin(gateway.get("/note").with("accept-encoding", "gzip, br"));
    let get = backend.expect("GET", "/note").await;
    assert_eq!(get.field("accept-encoding"), Some("identity"));
    get.answer(200, &[("Content-Encoding", "gzip"), ("ETag", "\"own-gzip\"")], "{\"meta\":{\"v\":7}}").await;
    let answer = call.answer().await;
    assert_eq!((answer.field("etag"), answer.field("content-encoding")), (None, Some("gzip")));
    assert_eq!(untagged(&gateway, "encoded").await, 1.0);
    let plain = [("Content-Encoding", "identity")];
    assert_eq!(reads(&gateway, &mut backend, &plain, "{\"meta\":{\"v\":7}}").await.tag(), "\"ifm-j-ca9e03-7\"");
    assert_eq!(reads(&gateway, &mut backend, &[], "{}").await.field("etag"), None);
    assert_eq!(untagged(&gateway, "no_version").await, 1.0);
}

/// Read ahead or not, it is given in pieces that the client takes.
#[tokio::test]
async fn a_large_body_within_the_limit_comes_whole() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard("version_body_limit = \"4MiB\"").start();
    let body: String = (0..400_000).map(|n| format!("{n:07}\n")).collect();
    let answer = reads(&gateway, &mut backend, &[], &body).await;
    assert!(answer.tag().starts_with("\"ifm-b-"));
    let h2 = crate::support::H2::connect(gateway.address).await;
    let (again, ()) = tokio::join!(h2.send(gateway.get("/note")), async {
        backend.expect("GET", "/note").await.answer(200, &[], &body).await;
    });
    assert_eq!((again.tag(), again.text() == body), (answer.tag(), true));
}

#[tokio::test]
async fn over_http2_to_the_backend_too() {
    let mut backend = H2Script::start().await;
    let settings = Gateway::before(backend.address).upstream("protocol = \"h2\"").guard(BODY).guard(LIMIT);
    let gateway = settings.one_worker().start();
    let mut raw = gateway.raw().await;
    let ask = "GET /note HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: te\r\n\r\n";
    raw.send(ask).await;
    let mut get = backend.expect("GET", "/note").await;
    let mut stream = get.begin(200, &[("Trailer", "X-Sum")], false).expect("a stream");
    stream.send_data(Bytes::from_static(b"o"), false).expect("an open stream");
    stream.send_data(Bytes::from_static(b"ne"), false).expect("an open stream");
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("7"));
    stream.send_trailers(trailers).expect("an open stream");
    let answer = raw.answer("GET").await;
    assert_eq!((answer.status, answer.text()), (200, "one"));
    assert_eq!(raw.trailers().get("x-sum").map(|sum| sum.as_bytes()), Some(&b"7"[..]));
    // The same body by another way is the same version.
    let call = begin(gateway.get("/note").with("if-none-match", &answer.tag()));
    backend.expect("GET", "/note").await.answer(200, &[], "one").await;
    assert_eq!(call.answer().await.status, 304);
    // It breaks off within the limit, and behind it.
    raw.send(ask).await;
    let mut get = backend.expect("GET", "/note").await;
    let mut stream = get.begin(200, &[], false).expect("a stream");
    stream.send_data(Bytes::from_static(b"half"), false).expect("an open stream");
    // What comes behind it by the same connection is there, so it is, too.
    let other = begin(gateway.get("/other"));
    backend.expect("GET", "/other").await.answer(200, &[], "").await;
    other.answer().await;
    stream.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(raw.answer("GET").await.status, 502);
    raw.send(ask).await;
    let mut get = backend.expect("GET", "/note").await;
    let mut stream = get.begin(200, &[], false).expect("a stream");
    stream.send_data(Bytes::from(vec![b'x'; 2000]), false).expect("an open stream");
    let head = raw.head().await;
    assert!(!head.fields.contains_key("etag"));
    assert_eq!(raw.chunk().await, vec![b'x'; 2000]);
    stream.send_reset(Reason::INTERNAL_ERROR);
    raw.ended().await;
}

/// Nobody waits for the answer any more, so it is not read to its end, and nothing is learned.
#[tokio::test]
async fn a_client_that_hangs_up_while_its_answer_is_read() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let (raw, mut get) = asks(&gateway, &mut backend, "").await;
    get.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    raw.reset();
    get.hung_up().await;
}
