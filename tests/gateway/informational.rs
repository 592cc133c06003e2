//! What a backend says before its answer, and a body that waits for `100 Continue`.

use std::time::Instant;

use crate::support::{Gateway, Script, begin, raw_put};

mod http2;

const HINTS: &str =
    "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n";
const GET: &str = "GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n";

#[tokio::test]
async fn early_hints_arrive_before_the_answer_is_there() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    for request in
        [GET.to_owned(), "PUT /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 1\r\n\r\nx".to_owned()]
    {
        raw.send(request).await;
        let mut arrival = backend.next().await;
        arrival.send(HINTS).await;
        let hints = raw.answer("GET").await;
        assert_eq!((hints.status, hints.field("link")), (103, Some("</style.css>; rel=preload")));
        assert_eq!((hints.field("x-hop"), hints.field("connection")), (None, None));
        arrival.send("HTTP/1.1 102 Processing\r\nContent-Length: 7\r\n\r\n").await;
        let processing = raw.answer("GET").await;
        assert_eq!((processing.status, processing.field("content-length")), (102, None));
        arrival.answer(200, &[], "done").await;
        assert_eq!(raw.answer("GET").await.text(), "done");
    }
}

#[tokio::test]
async fn early_hints_that_come_with_the_answer_arrive_before_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    raw.send(GET).await;
    let mut get = backend.expect("GET", "/note").await;
    get.send(&format!("{HINTS}{HINTS}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")).await;
    for status in [103, 103, 200] {
        assert_eq!(raw.answer("GET").await.status, status);
    }
}

#[tokio::test]
async fn clients_that_do_not_know_them_get_none() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut old = gateway.raw().await;
    old.send("GET /note HTTP/1.0\r\nHost: notes.example\r\n\r\n").await;
    let mut get = backend.expect("GET", "/note").await;
    get.send(HINTS).await;
    get.answer(200, &[], "done").await;
    assert_eq!(old.answer("GET").await.text(), "done");
}

/// The client has sent the second request before it reads the first answer, which is longer than what waits in buffers.
#[tokio::test]
async fn early_hints_do_not_get_into_another_answer() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    for size in [40_000, 240_000, 8_000_000] {
        let mut raw = gateway.raw().await;
        raw.send(format!("{GET}{GET}")).await;
        let mut first = backend.expect("GET", "/note").await;
        let body = "x".repeat(size);
        let sent = tokio::spawn(async move {
            first.send(HINTS).await;
            first.answer(200, &[], &body).await;
        });
        gateway.barrier().await;
        let second = async {
            let mut second = backend.expect("GET", "/note").await;
            second.send(HINTS).await;
            second.answer(200, &[], "second").await;
        };
        let reader = async {
            assert_eq!(raw.answer("GET").await.status, 103, "{size}");
            let answer = raw.answer("GET").await;
            assert_eq!((answer.status, answer.body.len()), (200, size));
            assert!(answer.body.iter().all(|&byte| byte == b'x'), "{size}");
            assert_eq!(raw.answer("GET").await.status, 103, "{size}");
            assert_eq!(raw.answer("GET").await.text(), "second", "{size}");
        };
        tokio::join!(second, reader);
        sent.await.expect("the first answer");
    }
}

#[tokio::test]
async fn a_backend_that_only_announces_does_not_keep_its_client_waiting() {
    for method in ["GET", "PUT"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address)
            .upstream("response_timeout = \"300ms\"")
            .guard("settle = \"100ms\"")
            .start();
        let call = begin(gateway.call(method, "/note"));
        let mut arrival = backend.expect(method, "/note").await;
        for _ in 0..200 {
            arrival.send("HTTP/1.1 102 Processing\r\n\r\n").await;
        }
        assert_eq!(call.answer().await.status, 504);
    }
}

/// It would keep a worker from all else, time limits included.
#[tokio::test]
async fn a_backend_that_announces_without_end_is_cut() {
    for method in ["GET", "PUT"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard("settle = \"100ms\"").start();
        let call = begin(gateway.call(method, "/note"));
        let mut arrival = backend.expect(method, "/note").await;
        let announcing = async {
            while arrival.try_send("HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let (answer, ()) = tokio::join!(call.answer(), announcing);
        assert_eq!(answer.status, 502);
    }
}

#[tokio::test]
async fn a_client_gets_so_many_and_the_answer() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    raw.send(GET).await;
    let mut get = backend.expect("GET", "/note").await;
    get.send(&HINTS.repeat(100)).await;
    get.answer(200, &[], "done").await;
    let mut announced = 0;
    let answer = loop {
        let answer = raw.answer("GET").await;
        if answer.status == 200 {
            break answer;
        }
        announced += 1;
    };
    assert_eq!((announced, answer.text()), (32, "done"));
}

#[tokio::test]
async fn a_large_body_waits_until_the_backend_asks_for_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let mut raw = raw_put(&gateway, "Expect: 100-continue\r\nContent-Length: 200000\r\n", "").await;
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!(put.field("expect"), Some("100-continue"));
    put.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(raw.answer("PUT").await.status, 100);
    raw.send(vec![b'x'; 200_000]).await;
    assert_eq!(put.body().await.expect("a body").len(), 200_000);
    put.answer(200, &[("ETag", "\"1\"")], "done").await;
    assert_eq!(raw.answer("PUT").await.text(), "done");
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn a_body_that_the_backend_never_wanted_is_never_asked_for() {
    for method in ["PUT", "POST", "GET"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().guard("settle = \"1h\"").start();
        let reader = begin(gateway.get("/note"));
        backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
        reader.answer().await;

        let mut raw = gateway.raw().await;
        let fields = "Host: notes.example\r\nExpect: 100-continue\r\nContent-Length: 200000\r\n";
        raw.send(format!("{method} /note HTTP/1.1\r\n{fields}\r\n")).await;
        let mut refused = backend.expect(method, "/note").await;
        refused.answer_now(413, &[], "too large").await.expect("an open connection");
        let answer = raw.answer(method).await;
        assert_eq!((answer.status, answer.text()), (413, "too large"), "no 100 came before");
        assert_eq!(answer.field("connection"), Some("close"));
        raw.closed().await;
        refused.hung_up_silently().await;

        // The turn is over, nothing has changed, and the connection is not used again.
        let next = begin(gateway.put("/note", "next").if_match("\"1\""));
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        assert_eq!(next.answer().await.status, 200, "{method}");
    }
}

/// The answer is long, and arrives whole although the request never will.
#[tokio::test]
async fn a_long_answer_to_a_body_that_was_not_wanted_arrives() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = raw_put(&gateway, "Expect: 100-continue\r\nContent-Length: 200000\r\n", "").await;
    let mut put = backend.expect("PUT", "/note").await;
    let explanation = "no ".repeat(1_000_000);
    let (sent, answer) = tokio::join!(put.answer_now(403, &[], &explanation), raw.answer("PUT"));
    sent.expect("an open connection");
    assert_eq!((answer.status, answer.text() == explanation), (403, true));
}

#[tokio::test]
async fn a_backend_that_does_not_know_of_it_gets_the_body_all_the_same() {
    let mut backend = Script::start().await;
    // Nobody takes that wait for the backend's.
    let gateway = Gateway::before(backend.address).upstream("response_timeout = \"300ms\"").start();
    let mut raw = raw_put(&gateway, "Expect: 100-continue\r\nContent-Length: 200000\r\n", "").await;
    let began = Instant::now();
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!(raw.answer("PUT").await.status, 100);
    assert!(began.elapsed().as_millis() >= 900, "it was held back");
    raw.send(vec![b'x'; 200_000]).await;
    assert_eq!(put.body().await.expect("a body").len(), 200_000);
    put.answer(200, &[], "").await;
    assert_eq!(raw.answer("PUT").await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_read_ahead_is_asked_for_by_the_gateway() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = raw_put(&gateway, "Expect: 100-continue\r\nContent-Length: 4\r\n", "").await;
    assert_eq!(raw.answer("PUT").await.status, 100);
    raw.send("body").await;
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!(put.field("expect"), None);
    assert_eq!(put.body().await.expect("a body"), b"body");
    put.answer(200, &[], "").await;
    assert_eq!(raw.answer("PUT").await.status, 200);
}

/// The body is on its way then, and the turn lasts until it is through.
#[tokio::test]
async fn a_success_that_comes_with_the_100_holds_the_turn_until_the_body_is_over() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let mut raw = raw_put(&gateway, "Expect: 100-continue\r\nContent-Length: 200000\r\n", "").await;
    let mut put = backend.expect("PUT", "/note").await;
    put.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\n\r\n").await;
    let mut answer = raw.answer("PUT").await;
    if answer.status == 100 {
        answer = raw.answer("PUT").await;
    }
    assert_eq!(answer.status, 200);
    let mut next = begin(gateway.put("/note", "next").if_match("\"1\""));
    gateway.barrier().await;
    assert!(next.waits());
    backend.assert_quiet();
    raw.try_send(vec![b'x'; 200_000]).await;
    match put.body().await {
        Ok(body) => {
            assert_eq!(body.len(), 200_000);
            // The connection is used again.
            put.go_on();
            backend.expect("PUT", "/note").await.answer(200, &[], "").await;
            assert_eq!(next.answer().await.status, 200);
        }
        // Broken off, it is in doubt, and held.
        Err(_) => {
            gateway.barrier().await;
            assert!(next.waits());
            backend.assert_quiet();
            drop(put);
            next.finished().await;
        }
    }
}
