//! What stands behind a body, both ways.

use crate::support::{Frames, Gateway, Script, begin, raw_put};

const CHUNKED: &str = "Transfer-Encoding: chunked\r\nTrailer: X-Sum, Content-Length, If-Match\r\n";
const BEHIND: &str = "0\r\nX-Sum: 5\r\nContent-Length: 3\r\nIf-Match: \"x\"\r\nX-Unannounced: 1\r\n\r\n";

#[tokio::test]
async fn a_requests_trailers_reach_the_backend_through_a_list() {
    // Read ahead, and streamed.
    for size in [5, 200_000] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let body = format!("{size:x}\r\n{}\r\n{BEHIND}", "x".repeat(size));
        let mut raw = raw_put(&gateway, CHUNKED, &body).await;
        let mut put = backend.expect("PUT", "/note").await;
        assert_eq!((put.field("trailer"), put.field("content-length")), (Some("x-sum"), None), "{size}");
        assert_eq!(put.body().await.expect("a body").len(), size);
        let trailers = put.trailers();
        assert_eq!((trailers.len(), trailers["x-sum"].as_bytes()), (1, &b"5"[..]), "{trailers:?}");
        put.answer(200, &[("ETag", "\"1\"")], "").await;
        assert_eq!(raw.answer("PUT").await.status, 200);
        // The turn is over, and its outcome known.
        let next = begin(gateway.put("/note", "next").if_match("\"1\""));
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        assert_eq!(next.answer().await.status, 200, "{size}");
    }
}

#[tokio::test]
async fn without_trailers_that_pass_a_body_that_was_read_ahead_says_its_length() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let body = "5\r\nsmall\r\n0\r\nIf-Match: \"x\"\r\n\r\n";
    let mut raw = raw_put(&gateway, "Transfer-Encoding: chunked\r\nTrailer: If-Match\r\n", body).await;
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!((put.field("trailer"), put.field("content-length")), (None, Some("5")));
    assert_eq!(put.body().await.expect("a body"), b"small");
    put.answer(200, &[], "").await;
    assert_eq!(raw.answer("PUT").await.status, 200);
}

#[tokio::test]
async fn over_http2_trailers_need_no_announcement_where_the_body_is_read_ahead() {
    for (size, fields, passes) in [
        (5, &[][..], true),
        (5, &[("content-length", "5")], true),
        (200_000, &[("trailer", "x-sum")], true),
        (200_000, &[("trailer", "x-sum"), ("content-length", "200000")], true),
        // An HTTP/1.1 backend would have to be told of them before the body.
        (200_000, &[], false),
        (200_000, &[("content-length", "200000")], false),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let h2 = Frames::connect(gateway.address).await;
        let mut stream = h2.begin("PUT", "/note", fields).await;
        stream.data("x".repeat(size), false);
        stream.trailers(&[("x-sum", "5"), ("authorization", "forged"), ("host", "other")]);
        let mut put = backend.expect("PUT", "/note").await;
        assert_eq!(put.body().await.expect("a body").len(), size, "{fields:?}");
        let trailers: Vec<_> = put.trailers().keys().map(|name| name.as_str()).collect();
        assert_eq!(trailers, if passes { vec!["x-sum"] } else { vec![] }, "{size} {fields:?}");
        put.answer(200, &[("ETag", "\"1\"")], "").await;
        assert_eq!(stream.head().await.status().as_u16(), 200);
        // Whatever became of the trailers, the body was whole.
        let next = begin(gateway.put("/note", "next").if_match("\"1\""));
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        assert_eq!(next.answer().await.status, 200, "{size} {fields:?}");
    }
}

/// The last byte and the end of the stream came apart.
#[tokio::test]
async fn a_sized_body_over_http2_is_whole_with_its_last_byte() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("settle = \"1h\"").start();
    let h2 = Frames::connect(gateway.address).await;
    let mut stream = h2.begin("PUT", "/note", &[("content-length", "200000")]).await;
    stream.data("x".repeat(200_000), false);
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!(put.body().await.expect("a body").len(), 200_000);
    put.answer(200, &[("ETag", "\"1\"")], "").await;
    assert_eq!(stream.head().await.status().as_u16(), 200);
    stream.data("", true);
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn a_body_that_breaks_off_in_its_trailers_is_not_whole() {
    for size in [5, 200_000] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().start();
        let body = format!("{size:x}\r\n{}\r\n0\r\nX-Sum: 5\r\nX-O", "x".repeat(size));
        let mut raw = raw_put(&gateway, CHUNKED, &body).await;
        raw.finish().await;
        if size == 5 {
            gateway.barrier().await;
            backend.assert_quiet();
        } else {
            let mut put = backend.expect("PUT", "/note").await;
            put.body().await.expect_err("not a whole body");
        }
    }
}

#[tokio::test]
async fn an_answers_trailers_reach_a_client_that_keeps_them() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    for (te, passes) in [("TE: gzip, trailers\r\nConnection: TE\r\n", true), ("", false), ("TE: gzip\r\n", false)] {
        let mut raw = gateway.raw().await;
        raw.send(format!("GET /note HTTP/1.1\r\nHost: notes.example\r\n{te}\r\n")).await;
        let mut get = backend.expect("GET", "/note").await;
        assert_eq!(get.field("te"), passes.then_some("trailers"));
        assert_eq!(get.field("connection"), passes.then_some("te"));
        get.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n4\r\nbody\r\n")
            .await;
        get.send("0\r\nX-Sum: 4\r\nSet-Cookie: a=b\r\n\r\n").await;
        get.go_on();
        let answer = raw.answer("GET").await;
        assert_eq!((answer.text(), answer.field("trailer")), ("body", passes.then_some("x-sum")), "{te}");
        let trailers: Vec<_> = raw.trailers().keys().map(|name| name.as_str()).collect();
        assert_eq!(trailers, if passes { vec!["x-sum"] } else { vec![] }, "{te}");
        // And the backend's connection, of which there is one, is used again.
        assert_eq!(backend.connections(), 1);
    }
}
