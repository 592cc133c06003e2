//! Turns: what holds one, what waits for one, and what ends one.

use crate::support::{Frames, Gateway, Script, Store, begin};

#[tokio::test]
async fn a_guarded_write_waits_for_unguarded_ones_and_they_for_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    reader.answer().await;

    // Unguarded ones go side by side.
    let posts = [begin(gateway.call("POST", "/note")), begin(gateway.call("POST", "/note"))];
    let first = backend.expect("POST", "/note").await;
    let second = backend.expect("POST", "/note").await;
    let put = begin(gateway.put("/note", "x").if_match("\"1\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    first.answer(200, &[], "").await;
    gateway.barrier().await;
    backend.assert_quiet();
    second.answer(200, &[], "").await;
    for post in posts {
        assert_eq!(post.answer().await.status, 200);
    }

    let probe = backend.expect("HEAD", "/note").await;
    let post = begin(gateway.call("POST", "/note"));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    probe.answer(200, &[("ETag", "\"1\"")], "").await;
    let under_way = backend.expect("PUT", "/note").await;
    gateway.barrier().await;
    backend.assert_quiet();
    under_way.answer(200, &[], "").await;
    assert_eq!(put.answer().await.status, 200);
    backend.expect("POST", "/note").await.answer(200, &[], "").await;
    assert_eq!(post.answer().await.status, 200);
}

#[tokio::test]
async fn who_hangs_up_during_the_probe_gives_the_turn_back() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard("settle = \"1h\"").start();
    let mut raw = gateway.raw().await;
    let head = "PUT /note HTTP/1.1\r\nHost: notes.example\r\nIf-Match: \"1\"\r\nContent-Length: 1\r\n\r\nx";
    raw.send(head).await;
    let probe = backend.expect("HEAD", "/note").await;
    raw.reset();
    gateway.barrier().await;

    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!(put.body().await.expect("a body"), b"next");
    put.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
    probe.answer(200, &[("ETag", "\"1\"")], "").await;
    gateway.barrier().await;
    backend.assert_quiet();
}

#[tokio::test]
async fn of_two_pipelined_writes_with_one_tag_the_first_gets_through() {
    let store = Store::start().await;
    let tag = store.set("/note", "first");
    let gateway = Gateway::before(store.address).start();
    gateway.get("/note").expect(200).await;
    let put = |body: &str| {
        format!("PUT /note HTTP/1.1\r\nHost: notes.example\r\nIf-Match: {tag}\r\nContent-Length: 3\r\n\r\n{body}")
    };
    let mut raw = gateway.raw().await;
    raw.send(format!("{}{}", put("one"), put("two"))).await;
    assert_eq!((raw.answer("PUT").await.status, raw.answer("PUT").await.status), (200, 409));
    assert_eq!((store.writes(), store.body("/note").as_deref()), (1, Some("one")));
}

#[tokio::test]
async fn a_buffered_body_that_the_backend_does_not_take_holds_the_turn_although_it_answered() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard("buffer = \"16MiB\"").start();
    // More than fits into the sockets' buffers.
    let large = "x".repeat(15 * 1024 * 1024);
    let first = begin(gateway.put("/note", &large));
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.answer_now(200, &[("ETag", "\"early\"")], "").await.expect("an open connection");
    assert_eq!(first.answer().await.status, 200);

    let next = begin(gateway.put("/note", "next").if_match("\"early\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    assert!(next.waits(), "the first write's body is still under way");
    assert_eq!(arrival.body().await.expect("a body").len(), large.len());
    arrival.go_on();
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn an_interim_answer_does_not_end_a_turn() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let first = begin(gateway.put("/note", "x"));
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    arrival.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!((first.answer().await.status, next.answer().await.status), (200, 409));
    backend.assert_quiet();
}

#[tokio::test]
async fn a_slow_answer_body_does_not_hold_the_turn() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let first = begin(gateway.put("/note", "x"));
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.send("HTTP/1.1 200 OK\r\nETag: \"2\"\r\nContent-Length: 4\r\n\r\n").await;
    let next = begin(gateway.put("/note", "next").if_match("\"2\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
    arrival.send("done").await;
    assert_eq!(first.answer().await.text(), "done");
}

#[tokio::test]
async fn a_write_goes_to_a_second_server_only_where_the_first_got_nothing() {
    let dead = Script::start().await.address;
    let mut alive = Script::start().await;
    let gateway = Gateway::start(&format!(
        "workers = 1\ndrain_timeout = \"1s\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [upstreams.backend]\nservers = [\"http://{dead}\", \"http://{}\"]\n[guard]\nsettle = \"0s\"\n",
        alive.address
    ));
    for _ in 0..4 {
        let writer = begin(gateway.put("/note", "x"));
        alive.expect("PUT", "/note").await.answer(200, &[("Connection", "close")], "").await;
        assert_eq!(writer.answer().await.status, 200);
    }
    for _ in 0..2 {
        let writer = begin(gateway.put("/note", "x"));
        alive.expect("PUT", "/note").await.reset();
        assert_eq!(writer.answer().await.status, 502);
        alive.assert_quiet();
    }
}

#[tokio::test]
async fn an_expectation_that_nobody_knows_is_refused() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    for expect in ["200-ok", "y 100-continue", "100-continue, 100-continue"] {
        let mut raw = gateway.raw().await;
        let embedded = "DELETE /victim HTTP/1.1\r\nHost: h\r\n\r\n";
        let length = embedded.len();
        let head = format!("PUT /note HTTP/1.1\r\nHost: h\r\nExpect: {expect}\r\nContent-Length: {length}\r\n\r\n");
        raw.send(format!("{head}{embedded}")).await;
        assert!([400, 417].contains(&raw.answer("PUT").await.status), "{expect}");
        backend.assert_quiet();
    }
}

/// What those in line have sent must not take the room of the one that has the turn.
#[tokio::test]
async fn uploads_in_line_do_not_stop_the_one_before_them_on_the_same_connection() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let h2 = Frames::connect(gateway.address).await;
    let part = vec![b'x'; 2 * 1024 * 1024];
    let mut first = h2.begin("PUT", "/note", &[]).await;
    first.data(part[..100_000].to_vec(), false);
    let mut put = backend.expect("PUT", "/note").await;
    let mut in_line = Vec::new();
    for _ in 0..4 {
        let mut stream = h2.begin("PUT", "/note", &[]).await;
        stream.data(part.clone(), true);
        in_line.push(stream);
    }
    // As much of them has come as may.
    for _ in 0..10 {
        gateway.barrier().await;
    }
    first.data(part, true);
    assert_eq!(put.body().await.expect("a body").len(), 100_000 + 2 * 1024 * 1024);
    put.answer(200, &[], "").await;
    assert_eq!(first.head().await.status().as_u16(), 200);
    // Whichever of them comes next.
    for _ in &in_line {
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    }
    for mut stream in in_line {
        assert_eq!(stream.head().await.status().as_u16(), 200);
    }
}
