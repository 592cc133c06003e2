//! Ways around the gateway that once were open, each named for what went wrong.

use http::Request;

use crate::support::{Frames, Gateway, H2Script, Script, Store, begin, nobody};

/// hyper shows a stream that was reset without an error as a body that came to its end.
#[tokio::test]
async fn a_body_reset_over_http2_without_an_error_was_committed_as_complete() {
    for size in [100, 200_000] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let stream = tokio::net::TcpStream::connect(gateway.address).await.expect("a connection");
        let (client, connection) = h2::client::handshake(stream).await.expect("a client");
        let driver = tokio::spawn(connection);
        let mut client = client.ready().await.expect("a client that is ready");
        let request = Request::put("http://notes.example/note").body(()).expect("a request");
        let (answer, mut body) = client.send_request(request, false).expect("a stream");
        body.reserve_capacity(size);
        let mut sent = 0;
        while sent < size {
            let capacity = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.expect("open").expect("capacity");
            let part = capacity.min(size - sent);
            body.send_data(vec![b'x'; part].into(), false).expect("an open stream");
            sent += part;
        }
        // The large one is passed on while it comes.
        let arrival = if size > 100_000 { Some(backend.expect("PUT", "/note").await) } else { None };
        body.send_reset(h2::Reason::NO_ERROR);
        assert!(answer.await.is_err());
        if let Some(mut arrival) = arrival {
            assert!(arrival.body().await.is_err(), "the backend must not see a whole body");
        }
        driver.abort();
        // Had the small one been sent, it would come before this.
        let reader = begin(gateway.get("/other"));
        backend.expect("GET", "/other").await.answer(200, &[], "").await;
        reader.answer().await;
        backend.assert_quiet();
    }
}

/// Only an override on a POST is judged, so no other must reach a backend that would follow it.
#[tokio::test]
async fn an_override_of_another_method_than_post_was_passed_on() {
    for method in ["GET", "PUT", "DELETE"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let mut call = gateway.call(method, "/note");
        for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
            call = call.with(name, "PATCH");
        }
        let caller = begin(call);
        let arrival = backend.expect(method, "/note").await;
        assert!(arrival.fields.keys().all(|name| !name.as_str().contains("method")), "{:?}", arrival.fields);
        arrival.answer(200, &[], "").await;
        caller.answer().await;
    }
}

/// A 404 may mean *not for you*: Ann may not see the resource, Ben may.
#[tokio::test]
async fn what_one_caller_could_not_see_was_absent_for_another_who_then_overwrote_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let ann = begin(gateway.put("/note", "ann").with("authorization", "ann").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(404, &[], "").await;
    backend.expect("GET", "/note").await.answer(404, &[], "").await;
    assert_eq!(ann.answer().await.status, 409);
    let ben = begin(gateway.put("/note", "ben").with("authorization", "ben").with("if-none-match", "*"));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    ben.answer().await.problem("exists");
    backend.assert_quiet();
}

/// The same resource by a host whose route is off.
#[tokio::test]
async fn a_write_by_a_route_that_is_off_left_the_old_tag_current() {
    let store = Store::start().await;
    let tag = store.set("/note", "first");
    let routes = "[[routes]]\nhost = \"admin.example\"\nguard = { mode = \"off\" }\n[[routes]]\n";
    let gateway = Gateway::before(store.address).rest(routes).start();
    gateway.get("/note").expect(200).await;
    gateway.put("/note", "by admin").with("host", "admin.example").expect(200).await;
    gateway.put("/note", "stale").if_match(&tag).expect(409).await.problem("stale");
    assert_eq!(store.body("/note").as_deref(), Some("by admin"));
}

/// RFC 4918 §9.6.1: a member could not be deleted.
#[tokio::test]
async fn a_207_to_a_delete_was_taken_for_its_success() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let delete = begin(gateway.call("DELETE", "/note"));
    backend.expect("DELETE", "/note").await.answer(207, &[], "").await;
    delete.answer().await;
    let creator = begin(gateway.put("/note", "new").with("if-none-match", "*"));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    creator.answer().await.problem("exists");
    backend.assert_quiet();
}

/// Whether a copy was made is unknown after an error, and its `Destination` with it; and it is one however it is written.
#[tokio::test]
async fn the_destination_of_a_copy_kept_its_tag() {
    for (destination, status) in [
        ("/copy", 500),
        ("/copy", 201),
        ("http://notes.example/copy", 201),
        ("http://Notes.example:80/copy", 201),
        ("https://notes.example./copy", 204),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let reader = begin(gateway.get("/copy"));
        backend.expect("GET", "/copy").await.answer(200, &[("ETag", "\"1\"")], "").await;
        reader.answer().await;
        let copy = begin(gateway.call("COPY", "/note").with("destination", destination));
        backend.expect("COPY", "/note").await.answer(status, &[], "").await;
        copy.answer().await;
        let writer = begin(gateway.put("/copy", "stale").if_match("\"1\""));
        backend.expect("HEAD", "/copy").await.answer(200, &[("ETag", "\"2\"")], "").await;
        writer.answer().await.problem("stale");
        backend.assert_quiet();
    }
}

/// A replica or a cache behind the gateway that lags.
#[tokio::test]
async fn a_read_that_showed_a_superseded_tag_made_it_current_again() {
    for lagging in [&[("ETag", "\"1\"")][..], &[("ETag", "\"1\""), ("Age", "60")][..]] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        for tag in ["\"1\"", "\"2\""] {
            let writer = begin(gateway.put("/note", "x"));
            backend.expect("PUT", "/note").await.answer(200, &[("ETag", tag)], "").await;
            writer.answer().await;
        }
        let reader = begin(gateway.get("/note"));
        backend.expect("GET", "/note").await.answer(200, lagging, "").await;
        reader.answer().await;
        let writer = begin(gateway.put("/note", "stale").if_match("\"1\""));
        if lagging.len() == 1 {
            backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
        }
        writer.answer().await.problem("stale");
        backend.assert_quiet();
    }
}

/// What a backend sends behind an answer that has no body would be read as the answer to what comes next.
#[tokio::test]
async fn a_late_body_behind_an_answer_without_one_was_the_answer_to_the_next_write() {
    for status in ["204 No Content", "304 Not Modified"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().start();
        let reader = begin(gateway.get("/note"));
        let mut get = backend.expect("GET", "/note").await;
        get.send(&format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n")).await;
        reader.answer().await;
        let writer = begin(gateway.put("/note", "x"));
        // By another connection: whatever still comes by the first is no answer to this.
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        assert_eq!(writer.answer().await.status, 200);
        get.hung_up().await;
    }
}

/// Nothing of it had left, so there was nothing to wait for.
#[tokio::test]
async fn a_body_that_was_broken_from_its_beginning_locked_the_resource() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("settle = \"1h\"").start();
    let mut raw = gateway.raw().await;
    raw.send("POST /note HTTP/1.1\r\nHost: notes.example\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
    assert_eq!(raw.answer("POST").await.status, 400);
    let writer = begin(gateway.put("/note", "body"));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

/// What a backend sends as the body of its answer to HEAD would be read as the answer to what comes next.
#[tokio::test]
async fn a_write_went_by_the_connection_of_a_head_that_had_announced_a_body() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let writer = begin(gateway.put("/note", "x").if_match("\"1\""));
    let mut head = backend.expect("HEAD", "/note").await;
    head.send("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 5\r\n\r\n").await;
    let put = backend.expect("PUT", "/note").await;
    // The connection of the HEAD is not used again, so that this ends with its end.
    head.hung_up().await;
    put.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

#[tokio::test]
async fn coded_bytes_were_stored_as_the_content() {
    for codings in ["gzip, chunked", "chunked, chunked", "identity", "chunked\r\nTransfer-Encoding: chunked"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let mut raw = gateway.raw().await;
        let head = format!("PUT /note HTTP/1.1\r\nHost: notes.example\r\nTransfer-Encoding: {codings}\r\n\r\n");
        raw.send(head + "5\r\nhello\r\n0\r\n\r\n").await;
        assert_eq!(raw.answer("PUT").await.status, 400, "{codings}");
        raw.ended().await;
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn an_http_1_0_write_without_a_length_emptied_the_resource() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.0\r\nHost: notes.example\r\n\r\nhello").await;
    assert_eq!(raw.answer("PUT").await.status, 411);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_method_in_lower_case_needed_no_precondition() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("missing = \"require\"").start();
    gateway.call("put", "/note").expect(428).await;
    backend.assert_quiet();
}

/// A service whose key is in a field of its own was probed without it, and the tag told to who had none.
#[tokio::test]
async fn an_api_key_was_no_credential() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let writer = begin(gateway.put("/note", "x").with("x-api-key", "ann").if_match("\"1\""));
    let head = backend.expect("HEAD", "/note").await;
    assert_eq!(head.field("x-api-key"), Some("ann"));
    head.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(writer.answer().await.field("etag"), Some("\"2\""));
    let other = gateway.put("/note", "x").if_match("\"1\"").expect(409).await;
    assert_eq!(other.field("etag"), None);
    backend.assert_quiet();
}

/// The task that owned the turn panicked where the backend refused and closed before it had the whole body, and the turn
/// was held as if the write were in doubt.
#[tokio::test]
async fn an_early_refusal_with_a_close_behind_it_held_the_turn() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("settle = \"1h\"").start();
    for n in 0..10 {
        let path = format!("/note{n}");
        let mut raw = gateway.raw().await;
        raw.send(format!("PUT {path} HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 5000000\r\n\r\n")).await;
        raw.send("x".repeat(70_000)).await;
        let mut arrival = backend.expect("PUT", &path).await;
        arrival.answer_now(413, &[("Connection", "close")], "too large").await.expect("the gateway reads");
        drop(arrival);
        let upload = tokio::spawn(async move {
            raw.send("x".repeat(4_930_000)).await;
            raw.answer("PUT").await.status
        });
        // A reset may overtake the refusal, and then it is a doubt.
        if upload.await.expect("an answer") == 413 {
            let next = begin(gateway.put(&path, "next"));
            backend.expect("PUT", &path).await.answer(200, &[], "").await;
            assert_eq!(next.answer().await.status, 200);
        }
    }
}

/// The write goes on without its client, and so must what is remembered of it.
#[tokio::test]
async fn a_write_by_a_route_that_is_off_was_forgotten_with_its_client() {
    let mut backend = Script::start().await;
    let routes = "[[routes]]\nhost = \"admin.example\"\nguard = { mode = \"off\" }\n[[routes]]\n";
    let gateway = Gateway::before(backend.address).one_worker().rest(routes).start();
    let mut admin = gateway.raw().await;
    admin.send("PUT /note HTTP/1.1\r\nHost: admin.example\r\nContent-Length: 1\r\n\r\nx").await;
    let under_way = backend.expect("PUT", "/note").await;
    admin.reset();
    gateway.barrier().await;
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    reader.answer().await;
    under_way.answer(200, &[], "").await;
    let writer = begin(gateway.put("/note", "stale").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    writer.answer().await.problem("stale");
    backend.assert_quiet();
}

/// Only dropped, never looked at: the client was asked for a body that nobody wanted.
#[tokio::test]
async fn a_client_was_told_to_continue_with_nobody_to_send_it_to() {
    let (_port, address) = nobody();
    let gateway = Gateway::before(address).start();
    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n").await;
    assert_eq!(raw.answer("PUT").await.status, 502);
}

/// A write's answer tells no variant, and the tag it gave was that of the one that is read next but one.
#[tokio::test]
async fn the_tag_of_a_write_was_superseded_by_another_representations() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("verify = \"never\"").start();
    let writer = begin(gateway.put("/note", "x"));
    backend.expect("PUT", "/note").await.answer(200, &[("ETag", "\"json\"")], "").await;
    writer.answer().await;
    for (kind, tag) in [("text/html", "\"html\""), ("application/json", "\"json\"")] {
        let reader = begin(gateway.get("/note").with("accept", kind));
        backend.expect("GET", "/note").await.answer(200, &[("ETag", tag), ("Content-Type", kind)], "").await;
        reader.answer().await;
    }
    let writer = begin(gateway.put("/note", "y").if_match("\"json\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

/// A connection that had served before handed the wish back, and the gateway took that for a connection that was found
/// closed: it tried again at once, for ever, and its worker did nothing else any more.
#[tokio::test]
async fn a_websocket_that_a_backend_over_http2_does_not_take_stopped_the_worker() {
    let mut backend = H2Script::without_websockets().await;
    let gateway = Gateway::before(backend.address).one_worker().upstream("protocol = \"h2\"").start();
    for _ in 0..2 {
        let reader = begin(gateway.get("/note"));
        backend.expect("GET", "/note").await.answer(200, &[], "").await;
        reader.answer().await;
        let mut raw = gateway.raw().await;
        raw.send("GET /chat HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        assert_eq!(raw.answer("GET").await.status, 502);
    }
    backend.assert_quiet();
}

/// HTTP/2 clients send a field for each cookie (RFC 9113 §8.2.3); the backend gets one either way.
#[tokio::test]
async fn a_session_had_a_turn_over_http1_and_another_over_http2() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard("partition = [\"Cookie\"]").start();
    let first = begin(gateway.put("/note", "first").with("cookie", "a=1; b=2"));
    let under_way = backend.expect("PUT", "/note").await;
    let h2 = Frames::connect(gateway.address).await;
    let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("if-match", "\"1\"")];
    let mut second = h2.begin("PUT", "/note", &fields).await;
    second.data("second", true);
    gateway.barrier().await;
    backend.assert_quiet();
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(second.head().await.status(), 409);
    backend.assert_quiet();
}
