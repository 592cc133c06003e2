//! A writer that hangs up, at each stage of its write.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::oneshot;

use crate::support::{Gateway, H2, Raw, Script, begin, raw_put};

const SETTLE: Duration = Duration::from_millis(200);

/// A gateway with one worker whose record of `/note` says `"1"`.
async fn knowing(backend: &mut Script) -> Gateway {
    let gateway = Gateway::before(backend.address).one_worker().guard("settle = \"200ms\"").start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "first").await;
    reader.answer().await;
    gateway
}

#[tokio::test]
async fn writers_get_their_turns_in_the_order_of_arrival() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend).await;
    let first = begin(gateway.put("/note", "a"));
    let under_way = backend.expect("PUT", "/note").await;
    let mut others = Vec::new();
    for body in ["b", "c", "d"] {
        others.push(begin(gateway.put("/note", body)));
        // Begun, but perhaps not sent yet.
        tokio::task::yield_now().await;
        gateway.barrier().await;
    }
    backend.assert_quiet();

    under_way.answer(200, &[], "").await;
    for body in ["b", "c", "d"] {
        let mut next = backend.expect("PUT", "/note").await;
        assert_eq!(next.body().await.expect("a body"), body.as_bytes());
        gateway.barrier().await;
        backend.assert_quiet();
        next.answer(200, &[], "").await;
    }
    assert_eq!(first.answer().await.status, 200);
    for other in others {
        assert_eq!(other.answer().await.status, 200);
    }
}

#[tokio::test]
async fn who_hangs_up_in_line_leaves_it() {
    hang_up_in_line("Content-Length: 7\r\n", "hung up".as_bytes()).await;
}

/// The next request stands in front of the end.
#[tokio::test]
async fn who_hangs_up_in_line_with_another_request_behind_leaves_it() {
    let behind = "hung upGET /behind HTTP/1.1\r\nHost: notes.example\r\n\r\n";
    hang_up_in_line("Content-Length: 7\r\n", behind.as_bytes()).await;
}

/// Nobody reads such a body before its turn.
#[tokio::test]
async fn who_hangs_up_in_line_with_a_large_body_leaves_it() {
    hang_up_in_line("Content-Length: 1000000\r\n", &[b'x'; 1000]).await;
}

async fn hang_up_in_line(fields: &str, body: &[u8]) {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend).await;
    let first = begin(gateway.put("/note", "a").if_match("\"1\""));
    let under_way = backend.expect("PUT", "/note").await;
    let waits = raw_put(&gateway, fields, body).await;
    gateway.barrier().await;
    let next = begin(gateway.put("/note", "next"));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();

    waits.reset();
    gateway.barrier().await;
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;

    let mut arrival = backend.expect("PUT", "/note").await;
    assert_eq!(arrival.body().await.expect("a body"), b"next");
    arrival.answer(200, &[("ETag", "\"3\"")], "").await;
    assert_eq!((first.answer().await.status, next.answer().await.status), (200, 200));
    gateway.barrier().await;
    backend.assert_quiet();
}

#[tokio::test]
async fn who_hangs_up_in_line_over_http2_leaves_it() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend).await;
    let first = begin(gateway.put("/note", "a").if_match("\"1\""));
    let under_way = backend.expect("PUT", "/note").await;
    let h2 = H2::connect(gateway.address).await;
    h2.send(gateway.get("/%zz")).await;
    let call = gateway.put("/note", "hung up");
    let waits = tokio::spawn({
        let h2 = h2.clone();
        async move { h2.send(call).await }
    });
    // The same connection: what was sent before is there before.
    for _ in 0..3 {
        assert_eq!(h2.send(gateway.get("/%zz")).await.status, 400);
    }
    waits.abort();
    assert!(waits.await.is_err());
    for _ in 0..3 {
        assert_eq!(h2.send(gateway.get("/%zz")).await.status, 400);
    }

    under_way.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(first.answer().await.status, 200);
    let next = begin(gateway.put("/note", "next").if_match("\"2\""));
    let mut arrival = backend.expect("PUT", "/note").await;
    assert_eq!(arrival.body().await.expect("a body"), b"next");
    arrival.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn who_hangs_up_in_a_small_body_was_never_there() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend).await;
    let slow = raw_put(&gateway, "If-Match: \"1\"\r\nContent-Length: 10\r\n", "half").await;
    gateway.barrier().await;
    slow.reset();
    gateway.barrier().await;
    backend.assert_quiet();

    // The tag that was known is known still: no probe.
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("PUT", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(next.answer().await.status, 200);
}

/// Sends the first part of a large body, hangs up by `hang_up`, and lets the next writer try with the old tag.
async fn hang_up_in_large_body(fields: &str, part: &[u8], hang_up: impl AsyncFnOnce(Raw)) {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend).await;
    let raw = raw_put(&gateway, &format!("If-Match: \"1\"\r\n{fields}"), part).await;
    let mut arrival = backend.expect("PUT", "/note").await;
    let began = Instant::now();

    hang_up(raw).await;

    let came = arrival.body().await.expect_err("the backend must not see a whole body").0;
    assert!(came.len() <= 100_000, "{} bytes", came.len());
    drop(arrival);
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    // In doubt: the backend may have kept the part. So it is asked, after a while.
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"part\"")], "").await;
    assert!(began.elapsed() >= SETTLE, "asked after {:?}", began.elapsed());
    assert_eq!(next.answer().await.status, 409);
    backend.assert_quiet();
}

#[tokio::test]
async fn who_hangs_up_in_a_large_body_leaves_the_write_in_doubt() {
    hang_up_in_large_body("Content-Length: 1000000\r\n", &[b'x'; 100_000], async |raw| raw.reset()).await;
}

#[tokio::test]
async fn a_large_body_that_ends_short_of_its_length_is_never_completed() {
    hang_up_in_large_body("Content-Length: 1000000\r\n", &[b'x'; 100_000], async |mut raw: Raw| {
        raw.finish().await;
    })
    .await;
}

fn chunk() -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", 90_000).into_bytes();
    chunk.extend([b'x'; 90_000]);
    chunk.extend(b"\r\n");
    chunk
}

#[tokio::test]
async fn the_last_chunk_of_a_large_body_that_was_reset_never_comes() {
    hang_up_in_large_body("Transfer-Encoding: chunked\r\n", &chunk(), async |raw| raw.reset()).await;
}

#[tokio::test]
async fn the_last_chunk_of_a_large_body_that_just_ends_never_comes() {
    hang_up_in_large_body("Transfer-Encoding: chunked\r\n", &chunk(), async |mut raw: Raw| {
        raw.finish().await;
    })
    .await;
}

#[tokio::test]
async fn the_last_chunk_of_a_large_body_with_a_broken_chunk_never_comes() {
    for broken in ["zz\r\nxx\r\n0\r\n\r\n", "0x1\r\nx\r\n0\r\n\r\n", "+1\r\nx\r\n0\r\n\r\n", "1\r\nxy\r\n0\r\n\r\n"] {
        hang_up_in_large_body("Transfer-Encoding: chunked\r\n", &chunk(), async |mut raw: Raw| {
            raw.send(broken).await;
            raw.finish().await;
        })
        .await;
    }
}

/// A large part of a body, and an error once it is told to break off.
struct Part(Option<Bytes>, oneshot::Receiver<()>);

impl http_body::Body for Part {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        match self.0.take() {
            Some(part) => Poll::Ready(Some(Ok(http_body::Frame::data(part)))),
            None => Pin::new(&mut self.1).poll(cx).map(|_| Some(Err(std::io::Error::other("broken off")))),
        }
    }
}

#[tokio::test]
async fn a_large_body_that_is_reset_over_http2_is_never_completed() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend).await;
    let stream = TokioIo::new(tokio::net::TcpStream::connect(gateway.address).await.expect("a connection"));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, driver) = handshake.await.expect("a client");
    let driver = tokio::spawn(driver);
    let request = http::Request::put("http://notes.example/note").header("if-match", "\"1\"");
    let (break_off, told) = oneshot::channel();
    let part = Part(Some(vec![b'x'; 100_000].into()), told);
    let writer = tokio::spawn(sender.send_request(request.body(part).expect("a request")));

    let mut arrival = backend.expect("PUT", "/note").await;
    break_off.send(()).expect("the body waits");
    assert!(arrival.body().await.is_err(), "the backend must not see a whole body");
    drop(arrival);
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"part\"")], "").await;
    assert_eq!(next.answer().await.status, 409);
    backend.assert_quiet();
    writer.abort();
    driver.abort();
}

#[tokio::test]
async fn the_turn_of_who_hangs_up_while_the_backend_works_ends_with_the_backend() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend).await;
    let raw = raw_put(&gateway, "If-Match: \"1\"\r\nContent-Length: 4\r\n", "mine").await;
    let mut under_way = backend.expect("PUT", "/note").await;
    assert_eq!(under_way.body().await.expect("a body"), b"mine");

    raw.reset();
    gateway.barrier().await;
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    assert!(next.waits());
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;

    let answer = next.answer().await;
    assert_eq!(answer.status, 409);
    answer.problem("stale");
    // Settled with the real outcome: nobody had to ask.
    backend.assert_quiet();
    let after = begin(gateway.put("/note", "after").if_match("\"2\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(after.answer().await.status, 200);
}

#[tokio::test]
async fn the_turn_of_who_hangs_up_over_http2_ends_with_the_backend() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend).await;
    let h2 = H2::connect(gateway.address).await;
    let call = gateway.put("/note", "mine").if_match("\"1\"");
    let writer = tokio::spawn(async move { h2.send(call).await });
    let under_way = backend.expect("PUT", "/note").await;

    writer.abort();
    assert!(writer.await.is_err());
    gateway.barrier().await;
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;

    assert_eq!(next.answer().await.status, 409);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_write_whose_client_and_backend_both_went_away_is_in_doubt() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend).await;
    let raw = raw_put(&gateway, "If-Match: \"1\"\r\nContent-Length: 4\r\n", "mine").await;
    let mut under_way = backend.expect("PUT", "/note").await;
    under_way.body().await.expect("a body");
    raw.reset();
    gateway.barrier().await;
    let began = Instant::now();
    under_way.reset();

    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert!(began.elapsed() >= SETTLE, "asked after {:?}", began.elapsed());
    assert_eq!(next.answer().await.status, 409);
    backend.assert_quiet();
}
