//! Clients that have nothing more to say and wait for the answer.

use crate::support::{Gateway, Raw, Script, begin};

async fn says_all(gateway: &Gateway, request: &str) -> Raw {
    let mut client = gateway.raw().await;
    client.send(request).await;
    client.finish().await;
    client
}

#[tokio::test]
async fn who_closes_its_side_after_a_request_gets_the_answer() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let rows = [
        ("GET", "GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n".to_owned()),
        ("GET", "GET /note HTTP/1.0\r\n\r\n".to_owned()),
        ("PUT", "PUT /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 4\r\n\r\nbody".to_owned()),
        (
            "PUT",
            format!(
                "PUT /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 100000\r\n\r\n{}",
                "0".repeat(100_000)
            ),
        ),
        (
            "PUT",
            "PUT /note HTTP/1.1\r\nHost: notes.example\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
                .to_owned(),
        ),
    ];
    for (method, request) in rows {
        let mut client = says_all(&gateway, &request).await;
        let mut arrival = backend.expect(method, "/note").await;
        arrival.body().await.expect("a whole body");
        arrival.answer(200, &[("ETag", "\"1\"")], "answered").await;
        let answer = client.answer(method).await;
        assert_eq!((answer.status, answer.text()), (200, "answered"), "{}", &request[..60.min(request.len())]);
        client.closed().await;
    }
}

#[tokio::test]
async fn who_closes_its_side_after_a_stale_write_gets_the_refusal() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    reader.answer().await;
    for _ in 0..20 {
        let request = "PUT /note HTTP/1.1\r\nHost: notes.example\r\nIf-Match: \"1\"\r\nContent-Length: 4\r\n\r\nbody";
        let mut client = says_all(&gateway, request).await;
        assert_eq!(client.answer("PUT").await.status, 409);
    }
    backend.assert_quiet();
}

/// In line it would hold up others if it is gone, so it leaves; but in case that it is not, it is told.
#[tokio::test]
async fn who_closes_its_side_in_line_is_told_that_the_resource_is_busy() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let first = begin(gateway.put("/note", "a"));
    let under_way = backend.expect("PUT", "/note").await;
    let request = "PUT /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 1\r\n\r\nb";
    let mut second = says_all(&gateway, request).await;
    second.answer("PUT").await.problem("busy");
    under_way.answer(200, &[], "").await;
    assert_eq!(first.answer().await.status, 200);
    backend.assert_quiet();
}

/// One that is gone must not keep its connection, and the backend's, for as long as the backend has nothing to say.
#[tokio::test]
async fn who_closes_its_side_and_is_gone_is_given_up_in_the_end() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).rest("[limits]\nhalf_close_timeout = \"200ms\"").start();
    let mut client = says_all(&gateway, "GET /events HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    let mut events = backend.expect("GET", "/events").await;
    events.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    client.ended().await;
    events.hung_up().await;
}

#[tokio::test]
async fn who_closes_its_side_and_takes_what_comes_gets_all_of_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).rest("[limits]\nhalf_close_timeout = \"300ms\"").start();
    let mut client = says_all(&gateway, "GET /slow HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    let mut slow = backend.expect("GET", "/slow").await;
    slow.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").await;
    let mut every = tokio::time::interval(std::time::Duration::from_millis(60));
    for _ in 0..10 {
        every.tick().await;
        slow.send("0123456789").await;
    }
    assert_eq!(client.answer("GET").await.body.len(), 100);
}
