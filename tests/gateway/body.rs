//! Bodies on their way to the backend: read ahead, streamed, broken off, answered early.

use crate::support::{Gateway, H2, Script, Store, begin, nobody, raw_put};

#[tokio::test]
async fn a_slow_sender_of_a_small_body_holds_up_nobody() {
    let store = Store::start().await;
    let tag = store.set("/note", "first");
    let gateway = Gateway::before(store.address).one_worker().start();
    gateway.get("/note").expect(200).await;
    let mut slow = raw_put(&gateway, &format!("If-Match: {tag}\r\nContent-Length: 4\r\n"), "sl").await;
    gateway.barrier().await;

    gateway.put("/note", "quick").if_match(&tag).expect(200).await;

    // It was judged too early to be sure, so it is judged again.
    slow.send("ow").await;
    assert_eq!(slow.answer("PUT").await.status, 409);
    assert_eq!((store.count("PUT"), store.body("/note").as_deref()), (1, Some("quick")));
}

#[tokio::test]
async fn a_large_body_streams() {
    for fields in ["Content-Length: 200000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let half = if fields.starts_with('C') {
            "x".repeat(100_000)
        } else {
            format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000))
        };
        let mut raw = raw_put(&gateway, fields, &half).await;
        let mut arrival = backend.expect("PUT", "/note").await;
        raw.send(&half).await;
        if fields.starts_with('T') {
            raw.send("0\r\n\r\n").await;
        }
        assert_eq!(arrival.body().await.expect("a body"), vec![b'x'; 200_000]);
        arrival.answer(200, &[], "done").await;
        assert_eq!(raw.answer("PUT").await.text(), "done");
    }
}

#[tokio::test]
async fn a_body_arrives_as_it_was_whatever_its_size() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).start();
    let h2 = H2::connect(gateway.address).await;
    for length in [0, 1, 65_535, 65_536, 65_537, 300_000] {
        let body: String = (0..length).map(|n| char::from(b'a' + u8::try_from(n % 26).expect("a letter"))).collect();
        assert!(gateway.put("/h1", &body).send().await.status < 300);
        assert_eq!(store.body("/h1").as_deref(), Some(body.as_str()), "{length}");
        assert!(h2.send(gateway.put("/h2", &body)).await.status < 300);
        assert_eq!(store.body("/h2").as_deref(), Some(body.as_str()), "{length}");
        assert_eq!(gateway.get("/h2").expect(200).await.text(), body);
    }
}

#[tokio::test]
async fn a_small_body_that_ends_short_is_not_forwarded() {
    for (fields, body) in [
        ("Content-Length: 10\r\n", "short"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nshort\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nsho"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nshort\r\nzz\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nshortX0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nx"),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().start();
        let mut raw = raw_put(&gateway, fields, body).await;
        raw.finish().await;
        gateway.barrier().await;
        backend.assert_quiet();
        // Nobody's turn is held by it.
        let next = begin(gateway.put("/note", "next"));
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        assert_eq!(next.answer().await.status, 200, "{body:?}");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_request_with_two_framings_has_one_or_none() {
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        let store = Store::start().await;
        store.set("/victim", "alive");
        let gateway = Gateway::before(store.address).start();
        let body = "0\r\n\r\nDELETE /victim HTTP/1.1\r\nHost: notes.example\r\n\r\n";
        let mut raw = raw_put(&gateway, fields, body).await;
        let status = raw.answer("PUT").await.status;
        if status != 400 {
            // By one framing there is a second request; both ends must see it so.
            let reached = store.reached().into_iter().next().expect("a request");
            assert_ne!(
                reached.fields.contains_key("content-length"),
                reached.fields.contains_key("transfer-encoding"),
                "{fields:?}"
            );
            assert_eq!(reached.body.as_deref(), Some(&b""[..]), "{fields:?}");
        } else {
            assert_eq!(store.writes(), 0, "{fields:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_body_arrives() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard("settle = \"1h\"").start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    reader.answer().await;

    let fields = "If-Match: \"1\"\r\nContent-Length: 1000000\r\n";
    let mut raw = raw_put(&gateway, fields, vec![b'x'; 100_000]).await;
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.answer_now(413, &[("Connection", "close")], "too large").await.expect("an open connection");
    let answer = raw.answer("PUT").await;
    assert_eq!((answer.status, answer.text()), (413, "too large"));
    drop(raw);
    drop(arrival);

    // A refusal stands, whatever became of the body: the tag is still known and nothing is held.
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn an_early_success_holds_the_turn_until_the_body_is_over() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let mut raw = raw_put(&gateway, "Content-Length: 200000\r\n", vec![b'x'; 100_000]).await;
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.answer_now(200, &[("ETag", "\"early\"")], "").await.expect("an open connection");
    assert_eq!(raw.answer("PUT").await.status, 200);

    let next = begin(gateway.put("/note", "next").if_match("\"early\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    assert!(next.waits());
    raw.send(vec![b'x'; 100_000]).await;
    assert_eq!(arrival.body().await.expect("a body").len(), 200_000);
    arrival.go_on();

    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_pauses_in_a_large_body_loses_its_turn() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("body_idle_timeout = \"100ms\"\nsettle = \"100ms\"").start();
    let _raw = raw_put(&gateway, "Content-Length: 200000\r\n", vec![b'x'; 100_000]).await;
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.body().await.expect_err("not a whole body");
    let next = begin(gateway.put("/note", "next"));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_pauses_in_a_small_body_is_told_so() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("body_idle_timeout = \"100ms\"").start();
    let mut raw = raw_put(&gateway, "Content-Length: 10\r\n", "half").await;
    assert_eq!(raw.answer("PUT").await.status, 408);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_client_that_shuts_down_its_side_gets_its_answer() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let mut raw = raw_put(&gateway, "Content-Length: 4\r\n", "mine").await;
    raw.finish().await;
    let arrival = backend.expect("PUT", "/note").await;
    gateway.barrier().await;
    arrival.answer(200, &[], "done").await;
    assert_eq!(raw.answer("PUT").await.text(), "done");
}

/// The backend would be asked for everything.
#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_keeps_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    raw.send("GET /search HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n").await;
    let mut search = backend.expect("GET", "/search").await;
    assert_eq!(search.body().await.expect("a body"), b"query");
    search.answer(200, &[], "").await;
    assert_eq!(raw.answer("GET").await.status, 200);
}

/// The client sends everything before it reads, and there is nobody who would take it.
#[tokio::test]
async fn a_large_upload_to_a_backend_that_is_not_there_gets_its_answer() {
    let (_port, address) = nobody();
    for size in [1_000_000, 5_000_000] {
        let gateway = Gateway::before(address).start();
        let mut raw = gateway.raw().await;
        raw.send(format!("PUT /note HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n")).await;
        raw.send(vec![b'x'; size]).await;
        assert_eq!(raw.answer("PUT").await.status, 502, "{size}");
    }
}
