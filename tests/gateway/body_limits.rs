//! Limits of a request: how long its target is, how large its body, how slowly it comes, how long all of it takes; and that
//! who goes over one of them is told so.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;

use crate::support::{Answer, Gateway, H2, Raw, Script, Store, begin, raw_put, within};

/// A stream of HTTP/2 whose body the test sends piece by piece.
struct Upload {
    answer: h2::client::ResponseFuture,
    body: h2::SendStream<Bytes>,
    driver: tokio::task::AbortHandle,
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Upload {
    async fn begin(gateway: &Gateway, length: Option<usize>) -> Self {
        let stream = tokio::net::TcpStream::connect(gateway.address).await.expect("a connection");
        let (client, connection) = h2::client::handshake(stream).await.expect("a client");
        let driver = tokio::spawn(connection).abort_handle();
        let mut client = client.ready().await.expect("a client that is ready");
        let mut request = Request::put("http://notes.example/note");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let (answer, body) = client.send_request(request.body(()).expect("a request"), false).expect("a stream");
        Self { answer, body, driver }
    }

    /// As much of it as the gateway takes. `last` ends the body.
    async fn send(&mut self, mut bytes: Bytes, last: bool) {
        while !bytes.is_empty() {
            self.body.reserve_capacity(bytes.len());
            let Some(Ok(capacity)) = within("capacity", poll_fn(|cx| self.body.poll_capacity(cx))).await else {
                return;
            };
            let part = bytes.split_to(capacity.min(bytes.len()));
            if self.body.send_data(part, last && bytes.is_empty()).is_err() {
                return;
            }
        }
    }

    async fn status(&mut self) -> u16 {
        within("an answer over HTTP/2", &mut self.answer).await.expect("an answer").status().as_u16()
    }
}

/// The gateway's answer to a raw PUT, which must be this refusal.
async fn refusal(raw: &mut Raw, status: u16, kind: &str) -> Answer {
    let answer = raw.answer("PUT").await;
    assert_eq!(answer.status, status, "{answer:?}");
    answer.problem(kind);
    answer
}

/// A write to `/note` goes through: nobody's turn is in its way.
async fn next_write(gateway: &Gateway, backend: &mut Script) {
    let next = begin(gateway.put("/note", "next"));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_target_that_is_too_long_is_refused() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).rest("[limits]\nrequest_line = \"64B\"").start();
    let fits = format!("/{}", "a".repeat(63));
    let reader = begin(gateway.get(&fits));
    backend.expect("GET", &fits).await.answer(200, &[], "").await;
    assert_eq!(reader.answer().await.status, 200);

    let absolute = format!("http://notes.example/{}", "a".repeat(60));
    for target in [format!("{fits}a"), format!("/a?{}", "b".repeat(62)), absolute, format!("/{}", "a".repeat(60_000))] {
        let mut raw = gateway.raw().await;
        raw.send(format!("PUT {target} HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 5\r\n\r\nhello")).await;
        let answer = refusal(&mut raw, 414, "uri-too-long").await;
        assert!(!answer.text().contains(&"a".repeat(50)), "the target does not come back");
        // Nothing is in doubt, and the connection goes on.
        raw.send("GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
        backend.expect("GET", "/note").await.answer(200, &[], "").await;
        assert_eq!(raw.answer("GET").await.status, 200);
    }
    let h2 = H2::connect(gateway.address).await;
    h2.send(gateway.get(&format!("{fits}a"))).await.problem("uri-too-long");
    let reader = tokio::spawn({
        let (h2, call) = (h2.clone(), gateway.get(&fits));
        async move { h2.send(call).await }
    });
    backend.expect("GET", &fits).await.answer(200, &[], "").await;
    assert_eq!(reader.await.expect("a task").status, 200);
    // More than a whole head may be.
    let mut raw = gateway.raw().await;
    raw.send(format!("GET /{} HTTP/1.1\r\nHost: notes.example\r\n\r\n", "a".repeat(70_000))).await;
    assert_eq!(raw.answer("GET").await.status, 431);
    raw.closed().await;
    backend.assert_quiet();
}

#[tokio::test]
async fn a_body_that_says_that_it_is_too_large_is_refused_at_once() {
    let mut backend = Script::start().await;
    let limits = "max_body = \"100KiB\"\ndrain_time = \"300ms\"";
    let gateway = Gateway::before(backend.address).guard(limits).start();
    for method in ["PUT", "POST", "GET", "DELETE"] {
        let mut raw = gateway.raw().await;
        raw.send(format!("{method} /note HTTP/1.1\r\nHost: a\r\nContent-Length: 102401\r\n\r\n")).await;
        raw.send(vec![b'x'; 102_401]).await;
        let answer = raw.answer(method).await;
        assert_eq!(answer.status, 413, "{method}");
        assert!(answer.problem("body-too-large")["error"].as_str().is_some_and(|e| e.contains("Nothing was changed")));
    }
    // Who asks first is told before it sends anything.
    let mut raw = raw_put(&gateway, "Expect: 100-continue\r\nContent-Length: 102401\r\n", "").await;
    refusal(&mut raw, 413, "body-too-large").await;
    // One that is far too large is not read to its end.
    let mut raw = raw_put(&gateway, "Content-Length: 1000000000\r\n", vec![b'x'; 2_000_000]).await;
    let answer = refusal(&mut raw, 413, "body-too-large").await;
    assert_eq!(answer.field("connection"), Some("close"));

    let mut upload = Upload::begin(&gateway, Some(102_401)).await;
    assert_eq!(upload.status().await, 413);
    backend.assert_quiet();
    next_write(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit() {
    let store = Store::start().await;
    for limit in [0, 10, 100_000] {
        let gateway = Gateway::before(store.address).guard(&format!("max_body = \"{limit}B\"")).start();
        let chunk = if limit > 0 { format!("{limit:x}\r\n{}\r\n", "x".repeat(limit)) } else { String::new() };
        for (fields, body) in [
            (format!("Content-Length: {limit}\r\n"), "x".repeat(limit)),
            ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{chunk}0\r\n\r\n")),
        ] {
            let mut raw = raw_put(&gateway, &fields, body).await;
            assert!(raw.answer("PUT").await.status < 300, "{limit}");
            assert_eq!(store.body("/note").map(|body| body.len()), Some(limit));
        }
    }
}

/// Its length is not known before it is there.
#[tokio::test]
async fn a_body_that_turns_out_too_large_while_it_is_read_ahead_is_not_sent() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("max_body = \"10B\"").start();
    for body in ["b\r\n01234567890\r\n0\r\n\r\n", "5\r\n01234\r\n6\r\n567890\r\n0\r\n\r\n", "b\r\n01234567890\r\n"] {
        let mut raw = raw_put(&gateway, "Transfer-Encoding: chunked\r\n", body).await;
        raw.finish().await;
        let answer = refusal(&mut raw, 413, "body-too-large").await;
        assert!(answer.text().contains("Nothing was changed"), "{}", answer.text());
    }
    // The client sends all of it before it reads.
    let mut raw = raw_put(&gateway, "Transfer-Encoding: chunked\r\n", "").await;
    for _ in 0..50 {
        raw.send(format!("{:x}\r\n{}\r\n", 65536, "x".repeat(65536))).await;
    }
    raw.send("0\r\n\r\n").await;
    refusal(&mut raw, 413, "body-too-large").await;

    let mut upload = Upload::begin(&gateway, None).await;
    upload.send(Bytes::from_static(b"01234567890"), true).await;
    assert_eq!(upload.status().await, 413);
    backend.assert_quiet();
    next_write(&gateway, &mut backend).await;
}

/// The backend has the beginning. It never gets an end, and nobody knows what it made of it.
#[tokio::test]
async fn a_body_that_turns_out_too_large_while_it_is_passed_on_is_broken_off() {
    for over_http2 in [false, true] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard("max_body = \"150000B\"\nsettle = \"50ms\"").start();
        let reader = begin(gateway.get("/note"));
        backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
        reader.answer().await;

        let mut arrival;
        if over_http2 {
            let mut upload = Upload::begin(&gateway, None).await;
            upload.send(Bytes::from(vec![b'x'; 100_000]), false).await;
            arrival = backend.expect("PUT", "/note").await;
            upload.send(Bytes::from(vec![b'x'; 100_000]), true).await;
            assert_eq!(upload.status().await, 413);
            arrival.body().await.expect_err("not a whole body");
        } else {
            let chunk = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000));
            let mut raw = raw_put(&gateway, "If-Match: \"1\"\r\nTransfer-Encoding: chunked\r\n", &chunk).await;
            arrival = backend.expect("PUT", "/note").await;
            raw.send(format!("{chunk}0\r\n\r\n")).await;
            arrival.body().await.expect_err("not a whole body");
            let answer = refusal(&mut raw, 413, "body-too-large").await;
            assert!(answer.text().contains("unknown"), "{}", answer.text());
            assert_eq!(answer.field("connection"), Some("close"));
            raw.closed().await;
        }
        // In doubt: what was known is forgotten.
        let next = begin(gateway.put("/note", "next").if_match("\"1\""));
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
        assert_eq!(next.answer().await.status, 409);
        backend.assert_quiet();
    }
}

/// The answer arrives although the client sends on, and the connection is closed in the end.
#[tokio::test]
async fn who_sends_too_much_and_sends_on_is_told() {
    for _ in 0..5 {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard("max_body = \"200000B\"\nsettle = \"0s\"").start();
        let mut raw = raw_put(&gateway, "Transfer-Encoding: chunked\r\n", "").await;
        for _ in 0..50 {
            raw.send(format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000))).await;
        }
        raw.send("0\r\n\r\n").await;
        let mut arrival = backend.expect("PUT", "/note").await;
        arrival.body().await.expect_err("not a whole body");
        refusal(&mut raw, 413, "body-too-large").await;
        raw.closed().await;
    }
}

#[tokio::test]
async fn a_route_may_have_a_limit_of_its_own_and_reads_have_it_too() {
    let mut backend = Script::start().await;
    let routes = "[[routes]]\npath = \"/small/{*rest}\"\nguard = { max_body = \"5B\" }\n\
                  [[routes]]\npath = \"/off/{*rest}\"\nguard = { mode = \"off\", max_body = \"5B\" }\n[[routes]]\n";
    let gateway = Gateway::before(backend.address).rest(routes).start();
    for path in ["/small/a", "/off/a"] {
        for method in ["GET", "PUT", "POST"] {
            gateway.call(method, path).body("123456").expect(413).await.problem("body-too-large");
            let mut raw = gateway.raw().await;
            raw.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
            raw.send("6\r\n123456\r\n0\r\n\r\n").await;
            assert_eq!(raw.answer(method).await.status, 413, "{method} {path}");
        }
    }
    // What passes on as it comes may have begun.
    while let Ok(Some(mut arrival)) = tokio::time::timeout(Duration::from_millis(1), backend.next_or_end()).await {
        assert_ne!((arrival.method.as_str(), arrival.target.as_str()), ("PUT", "/small/a"));
        arrival.body().await.expect_err("not a whole body");
    }
    let writer = begin(gateway.put("/large", "123456"));
    backend.expect("PUT", "/large").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

/// A byte now and then is no pause, but it must not hold the resource for ever.
#[tokio::test]
async fn a_body_that_trickles_into_a_guarded_write_does_not_hold_up_others() {
    for over_http2 in [false, true] {
        let mut backend = Script::start().await;
        let limits = "body_idle_timeout = \"300ms\"\nbody_rate = \"1MiB\"\nsettle = \"50ms\"\nbuffer = \"1KiB\"";
        let gateway = Gateway::before(backend.address).guard(limits).start();
        let began = Instant::now();
        let mut every = tokio::time::interval(Duration::from_millis(30));
        let trickle;
        if over_http2 {
            let mut upload = Upload::begin(&gateway, None).await;
            upload.send(Bytes::from(vec![b'x'; 2000]), false).await;
            trickle = tokio::spawn(async move {
                loop {
                    tokio::select! {
                        status = upload.status() => return status,
                        _ = every.tick() => upload.body.send_data(Bytes::from_static(b"x"), false).unwrap_or_default(),
                    }
                }
            });
        } else {
            let mut raw = raw_put(&gateway, "Content-Length: 1000000\r\n", vec![b'x'; 2000]).await;
            trickle = tokio::spawn(async move {
                for _ in 0..20 {
                    every.tick().await;
                    raw.send("x").await;
                }
                let answer = refusal(&mut raw, 408, "body").await;
                assert!(answer.text().contains("body_rate"), "{}", answer.text());
                assert_eq!(answer.field("connection"), Some("close"));
                raw.closed().await;
                answer.status
            });
        }
        let mut slow = backend.expect("PUT", "/note").await;
        let others: Vec<_> = (0..3).map(|_| begin(gateway.put("/note", "other"))).collect();
        slow.body().await.expect_err("not a whole body");
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        for _ in &others {
            backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        }
        for other in others {
            assert_eq!(other.answer().await.status, 200);
        }
        assert_eq!(within("the slow client", trickle).await.expect("a task"), 408);
    }
}

#[tokio::test]
async fn a_body_that_trickles_while_it_is_read_ahead_is_refused() {
    let mut backend = Script::start().await;
    let limits = "body_idle_timeout = \"200ms\"\nbody_rate = \"1MiB\"";
    let gateway = Gateway::before(backend.address).guard(limits).start();
    let mut raw = raw_put(&gateway, "Content-Length: 1000\r\n", "").await;
    let mut every = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..20 {
        every.tick().await;
        raw.send("x").await;
    }
    let answer = refusal(&mut raw, 408, "body").await;
    assert!(answer.text().contains("Nothing was changed"), "{}", answer.text());
    assert_eq!(answer.field("connection"), Some("close"));
    backend.assert_quiet();
    next_write(&gateway, &mut backend).await;
}

/// Only what the client is waited for counts.
#[tokio::test]
async fn time_that_the_backend_takes_is_not_the_clients() {
    let mut backend = Script::start().await;
    let limits = "body_idle_timeout = \"1s\"\nbody_rate = \"8MiB\"\nbuffer = \"1KiB\"";
    let gateway = Gateway::before(backend.address).guard(limits).start();
    // More than all buffers on the way hold.
    let size = 10_000_000;
    let mut raw = raw_put(&gateway, &format!("Content-Length: {size}\r\n"), "").await;
    let upload = tokio::spawn(async move {
        raw.send(vec![b'x'; size]).await;
        raw.answer("PUT").await.status
    });
    let mut put = backend.expect("PUT", "/note").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(put.body().await.expect("a whole body").len(), size);
    put.answer(200, &[], "").await;
    assert_eq!(upload.await.expect("a task"), 200);
}

#[tokio::test]
async fn any_pace_will_do_where_none_is_asked() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).guard("body_idle_timeout = \"150ms\"\nbody_rate = \"0B\"").start();
    let mut raw = raw_put(&gateway, "Content-Length: 10\r\n", "").await;
    let mut every = tokio::time::interval(Duration::from_millis(30));
    for _ in 0..10 {
        every.tick().await;
        raw.send("x").await;
    }
    assert!(raw.answer("PUT").await.status < 300);
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_given_up() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).rest("[limits]\nrequest_timeout = \"100ms\"").start();
    let reader = begin(gateway.get("/note"));
    let mut get = backend.expect("GET", "/note").await;
    let answer = reader.answer().await;
    assert_eq!(answer.status, 504);
    answer.problem("request-timeout");
    get.hung_up().await;
    let h2 = H2::connect(gateway.address).await;
    h2.send(gateway.get("/note")).await.problem("request-timeout");
    // What begins in time may go on for longer.
    let reader = begin(gateway.get("/events"));
    backend.expect("GET", "/note").await;
    let mut events = backend.expect("GET", "/events").await;
    events.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    events.send("56789").await;
    assert_eq!(reader.answer().await.text(), "0123456789");
}

/// It goes on without its client, which is told that the outcome is unknown; and it is settled with the real one.
#[tokio::test]
async fn a_write_that_was_sent_goes_on_when_its_time_is_over() {
    for size in [5, 100_000] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).rest("[limits]\nrequest_timeout = \"2s\"").start();
        let writer = begin(gateway.put("/note", &"x".repeat(size)));
        let put = backend.expect("PUT", "/note").await;
        let answer = writer.answer().await;
        assert_eq!(answer.status, 504);
        let problem = answer.problem("request-timeout");
        assert!(problem["error"].as_str().is_some_and(|error| error.contains("unknown")), "{problem}");

        // Its turn is still taken.
        let next = begin(gateway.put("/note", "next").if_match("\"2\""));
        gateway.barrier().await;
        backend.assert_quiet();
        put.answer(200, &[("ETag", "\"2\"")], "").await;
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        assert_eq!(next.answer().await.status, 200);
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_write_that_was_not_sent_is_given_up_when_its_time_is_over() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).rest("[limits]\nrequest_timeout = \"1s\"").start();
    let unchanged = |answer: Answer| {
        assert_eq!(answer.status, 504);
        assert!(answer.text().contains("Nothing was changed"), "{}", answer.text());
        answer.problem("request-timeout");
    };
    // In line behind another.
    let first = begin(gateway.put("/note", "first"));
    let under_way = backend.expect("PUT", "/note").await;
    unchanged(gateway.put("/note", "second").send().await);
    assert_eq!(first.answer().await.status, 504);
    under_way.answer(200, &[], "").await;
    // While it is asked for what is current.
    let asked = begin(gateway.put("/note", "third").if_match("\"1\""));
    let mut probe = backend.expect("HEAD", "/note").await;
    unchanged(asked.answer().await);
    probe.hung_up().await;
    // While its body comes.
    let mut raw = raw_put(&gateway, "Content-Length: 10\r\n", "half").await;
    let answer = raw.answer("PUT").await;
    assert_eq!(answer.field("connection"), Some("close"));
    unchanged(answer);
    backend.assert_quiet();
    next_write(&gateway, &mut backend).await;
}

/// hyper answers these itself, before the gateway sees a request.
#[tokio::test]
async fn too_many_fields_are_refused() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    for fields in ["X: y\r\n".repeat(101), format!("X: {}\r\n", "y".repeat(1_000_000))] {
        let mut raw = raw_put(&gateway, &fields, "").await;
        assert_eq!(raw.answer("PUT").await.status, 431);
    }
    backend.assert_quiet();
}

/// The backend has refused a body in the midst of it and goes away, and its client does not hear: what it sends is read on
/// for a while, and no longer.
#[tokio::test]
async fn what_is_left_of_a_body_that_nobody_takes_is_read_for_linger_time() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("linger_time = \"300ms\"\ndrain_time = \"10ms\"").start();
    let mut raw = raw_put(&gateway, "Content-Length: 10000000\r\n", vec![b'x'; 100_000]).await;
    let mut put = backend.expect("PUT", "/note").await;
    put.answer_now(403, &[], "").await.expect("an open connection");
    assert_eq!(raw.answer("PUT").await.status, 403);
    put.hung_up().await;
    raw.ended().await;
}
