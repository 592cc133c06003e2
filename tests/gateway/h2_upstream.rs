//! A backend that speaks HTTP/2: the same verdicts and the same turns, with many requests on one connection.

use bytes::Bytes;
use h2::Reason;

use crate::support::{
    Answer, Frames, Gateway, H2Arrival, H2Script, Script, begin, gateway::Settings, outside, raw_put, within,
};

fn before(backend: &H2Script) -> Settings {
    Gateway::before(backend.address).upstream("protocol = \"h2\"")
}

/// Has the gateway learn this tag of `/note`.
async fn teach(gateway: &Gateway, backend: &mut H2Script, tag: &str) {
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", tag)], "").await;
    assert_eq!(reader.answer().await.status, 200);
}

/// A conditional write that is answered only after the gateway has asked for the current tag: nothing was known.
async fn assert_unknown(gateway: &Gateway, backend: &mut H2Script) {
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(next.answer().await.status, 409);
    backend.assert_quiet();
}

/// Answers by itself: a store of one resource, that overwrites blindly. Ends with how many writes reached it.
fn serve_blindly(mut backend: H2Script) -> tokio::task::JoinHandle<usize> {
    outside().spawn(async move {
        let mut writes = 0;
        while let Some(arrival) = backend.next_or_end().await {
            if arrival.uri.path() == "/stop" {
                arrival.answer(204, &[], "").await;
                return writes;
            }
            writes += usize::from(arrival.method == "PUT");
            let tag = format!("\"v{writes}\"");
            arrival.answer(200, &[("ETag", &tag)], "").await;
        }
        writes
    })
}

#[tokio::test]
async fn a_request_over_http2_has_its_host_in_the_target_and_no_field_of_a_connection() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).start();
    let call = gateway
        .put("/note?x=1", "body")
        .with("connection", "keep-alive, x-gone")
        .with("keep-alive", "timeout=5")
        .with("x-gone", "1")
        .with("x-kept", "1");
    let writer = begin(call);
    let mut arrival = backend.expect("PUT", "/note?x=1").await;
    let (scheme, authority) = (arrival.uri.scheme_str(), arrival.uri.authority().map(|a| a.as_str()));
    assert_eq!((scheme, authority), (Some("http"), Some("notes.example")));
    for gone in ["host", "connection", "keep-alive", "x-gone", "transfer-encoding"] {
        assert_eq!(arrival.field(gone), None, "{gone}");
    }
    assert_eq!((arrival.field("x-kept"), arrival.field("content-length")), (Some("1"), Some("4")));
    assert_eq!(arrival.body().await.expect("a body"), b"body");
    arrival.answer(201, &[("ETag", "\"1\""), ("X-Own", "yes")], "made").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.text(), answer.field("x-own")), (201, "made", Some("yes")));
    assert_eq!(answer.field("via"), Some("2.0 ifmatch"));
}

#[tokio::test]
async fn requests_share_a_connection_and_another_is_made_when_it_is_full() {
    let mut backend = H2Script::with(2, None).await;
    let gateway = before(&backend).one_worker().start();
    let calls: Vec<_> = (0..4).map(|n| begin(gateway.get(&format!("/{n}")))).collect();
    let mut by_connection = [0; 3];
    let mut arrivals = Vec::new();
    for _ in 0..4 {
        let arrival = within("a request", backend.next_or_end()).await.expect("a request");
        by_connection[arrival.connection] += 1;
        arrivals.push(arrival);
    }
    assert_eq!((by_connection, backend.connections()), ([0, 2, 2], 2));
    for arrival in arrivals {
        arrival.answer(200, &[], "").await;
    }
    for call in calls {
        assert_eq!(call.answer().await.status, 200);
    }
    // They are used again.
    for _ in 0..5 {
        let call = begin(gateway.get("/again"));
        backend.expect("GET", "/again").await.answer(200, &[], "").await;
        call.answer().await;
    }
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn a_current_tag_is_forwarded_and_a_stale_one_refused() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).start();
    teach(&gateway, &mut backend, "\"1\"").await;
    let current = begin(gateway.put("/note", "mine").if_match("\"1\""));
    backend.expect("PUT", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(current.answer().await.status, 200);
    gateway.put("/note", "stale").if_match("\"1\"").expect(409).await.problem("stale");
    backend.assert_quiet();
}

#[tokio::test]
async fn of_64_writers_with_one_tag_one_gets_through() {
    let backend = H2Script::start().await;
    let gateway = before(&backend).start();
    let serving = serve_blindly(backend);
    let tag = gateway.get("/note").expect(200).await.tag();
    let calls: Vec<_> = (0..64).map(|n| begin(gateway.put("/note", &format!("{n}")).if_match(&tag))).collect();
    let mut answers: Vec<Answer> = Vec::new();
    for call in calls {
        answers.push(call.answer().await);
    }
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(200), count(409)), (1, 63));
    gateway.get("/stop").expect(204).await;
    assert_eq!(within("the backend", serving).await.expect("a task"), 1);
}

#[tokio::test]
async fn a_write_whose_stream_or_connection_ends_is_in_doubt_and_not_sent_again() {
    type End = fn(H2Arrival);
    let ends: [(&str, End); 4] = [
        ("reset", |arrival| arrival.reset(Reason::INTERNAL_ERROR)),
        ("refused", |arrival| arrival.reset(Reason::REFUSED_STREAM)),
        ("closed", H2Arrival::close_connection),
        ("gone away", |arrival| {
            arrival.go_away();
            arrival.close_connection();
        }),
    ];
    for (what, end) in ends {
        let mut backend = H2Script::start().await;
        let gateway = before(&backend).guard("settle = \"100ms\"").start();
        teach(&gateway, &mut backend, "\"1\"").await;
        let writer = begin(gateway.put("/note", "mine").if_match("\"1\""));
        let mut arrival = backend.expect("PUT", "/note").await;
        arrival.body().await.expect("a body");
        end(arrival);
        let answer = writer.answer().await;
        assert_eq!(answer.status, 502, "{what}");
        answer.problem("upstream-failed");
        assert_unknown(&gateway, &mut backend).await;
    }
}

#[tokio::test]
async fn a_connection_that_goes_away_finishes_what_it_has_and_gets_nothing_more() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).one_worker().start();
    let first = begin(gateway.put("/first", "x"));
    let slow = backend.expect("PUT", "/first").await;
    slow.go_away();
    // The next one may still go by the old connection, as long as the gateway has not heard.
    loop {
        let next = begin(gateway.get("/next"));
        let arrival = backend.expect("GET", "/next").await;
        let connection = arrival.connection;
        arrival.answer(200, &[], "").await;
        assert_eq!(next.answer().await.status, 200);
        if connection == 2 {
            break;
        }
    }
    slow.answer(200, &[], "done").await;
    assert_eq!(first.answer().await.text(), "done");
}

#[tokio::test]
async fn a_read_that_is_refused_unprocessed_goes_again() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.reset(Reason::REFUSED_STREAM);
    backend.expect("GET", "/note").await.answer(200, &[], "here").await;
    assert_eq!(reader.answer().await.text(), "here");
}

#[tokio::test]
async fn an_early_success_holds_the_turn_until_the_body_is_over() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).one_worker().start();
    let mut raw = raw_put(&gateway, "Content-Length: 200000\r\n", vec![b'x'; 100_000]).await;
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.answer_now(200, &[("ETag", "\"early\"")], "");
    assert_eq!(raw.answer("PUT").await.status, 200);

    let next = begin(gateway.put("/note", "next").if_match("\"early\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    assert!(next.waits());
    raw.send(vec![b'x'; 100_000]).await;
    assert_eq!(arrival.body().await.expect("a body").len(), 200_000);
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn a_whole_body_that_the_backend_does_not_take_holds_the_turn_although_it_answered() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).one_worker().guard("buffer = \"1MiB\"").start();
    // More than the backend's window.
    let large = "x".repeat(200_000);
    let first = begin(gateway.put("/note", &large));
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.answer_now(200, &[("ETag", "\"early\"")], "");
    assert_eq!(first.answer().await.status, 200);

    let next = begin(gateway.put("/note", "next").if_match("\"early\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    assert!(next.waits(), "the first write's body is still under way");
    assert_eq!(arrival.body().await.expect("a body").len(), large.len());
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn an_early_success_whose_body_is_not_taken_is_cut_in_doubt_and_disturbs_no_other_stream() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend)
        .one_worker()
        .upstream("response_timeout = \"300ms\"")
        .guard("buffer = \"1MiB\"\nsettle = \"100ms\"")
        .start();
    let other = begin(gateway.get("/other"));
    let mut slow = backend.expect("GET", "/other").await;
    let mut slow_answer = slow.begin(200, &[], false).expect("an open stream");
    let first = begin(gateway.put("/note", &"x".repeat(200_000)));
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.answer_now(200, &[("ETag", "\"early\"")], "");
    assert_eq!(first.answer().await.status, 200);

    // What the client was told is not believed: the rest of the body never came.
    let next = begin(gateway.put("/note", "next").if_match("\"early\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    assert_eq!(next.answer().await.status, 409);
    assert_eq!(arrival.was_reset().await, Some(Reason::CANCEL));

    slow_answer.send_data(Bytes::from_static(b"unharmed"), true).expect("an open stream");
    assert_eq!(other.answer().await.text(), "unharmed");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_stream_that_is_not_answered_in_time_disturbs_no_other() {
    let mut backend = H2Script::start().await;
    let gateway =
        before(&backend).one_worker().upstream("response_timeout = \"300ms\"").guard("settle = \"100ms\"").start();
    let other = begin(gateway.put("/other", "x"));
    let mut slow = backend.expect("PUT", "/other").await;
    let mut slow_answer = slow.begin(200, &[], false).expect("an open stream");
    teach(&gateway, &mut backend, "\"1\"").await;

    let late = begin(gateway.put("/note", "late").if_match("\"1\""));
    let _stalled = backend.expect("PUT", "/note").await;
    let refused = late.answer().await;
    assert_eq!(refused.status, 504);
    refused.problem("upstream-timeout");
    assert_unknown(&gateway, &mut backend).await;

    slow_answer.send_data(Bytes::from_static(b"unharmed"), true).expect("an open stream");
    assert_eq!(other.answer().await.text(), "unharmed");
}

#[tokio::test]
async fn a_read_whose_client_hangs_up_is_reset_at_the_backend() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).one_worker().start();
    let mut raw = gateway.raw().await;
    raw.send("GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    let mut arrival = backend.expect("GET", "/note").await;
    raw.reset();
    assert_eq!(arrival.was_given_up().await, Reason::CANCEL);
    // And the connection goes on.
    let next = begin(gateway.get("/next"));
    backend.expect("GET", "/next").await.answer(200, &[], "").await;
    assert_eq!((next.answer().await.status, backend.connections()), (200, 1));
}

#[tokio::test]
async fn a_write_whose_client_hangs_up_is_carried_out() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).one_worker().start();
    teach(&gateway, &mut backend, "\"1\"").await;
    let raw = raw_put(&gateway, "If-Match: \"1\"\r\nContent-Length: 4\r\n", "mine").await;
    let arrival = backend.expect("PUT", "/note").await;
    raw.reset();
    gateway.barrier().await;
    arrival.answer(200, &[("ETag", "\"2\"")], "").await;
    let next = begin(gateway.put("/note", "next").if_match("\"2\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn a_body_that_its_client_breaks_off_never_ends_as_it_should() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).guard("settle = \"100ms\"").start();
    let mut raw = raw_put(&gateway, "Content-Length: 200000\r\n", vec![b'x'; 100_000]).await;
    let mut arrival = backend.expect("PUT", "/note").await;
    raw.finish().await;
    assert_eq!(arrival.was_reset().await, Some(Reason::CANCEL));
    assert_eq!(raw.answer("PUT").await.status, 400);
    assert_unknown(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_backend_that_does_not_speak_http2_gets_no_request() {
    let http1 = Script::start().await;
    let gateway = Gateway::before(http1.address).upstream("protocol = \"h2\"\nconnect_timeout = \"300ms\"").start();
    let answer = gateway.put("/note", "x").send().await;
    assert!([502, 504].contains(&answer.status), "{answer:?}");
    assert!(answer.text().contains("Nothing was changed"), "{answer:?}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_another_made() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).one_worker().upstream("idle_timeout = \"50ms\"").start();
    for connection in [1, 2] {
        let call = begin(gateway.get("/note"));
        let arrival = backend.expect("GET", "/note").await;
        assert_eq!(arrival.connection, connection);
        arrival.answer(200, &[], "").await;
        call.answer().await;
        within("the idle connection to be closed", backend.closed(connection)).await;
    }
}

#[tokio::test]
async fn an_answer_of_many_megabytes_passes() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).start();
    let call = begin(gateway.get("/large"));
    backend.expect("GET", "/large").await.answer(200, &[], &"x".repeat(9_000_000)).await;
    assert_eq!(call.answer().await.body.len(), 9_000_000);
}

#[tokio::test]
async fn an_informational_answer_passes() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).start();
    let mut raw = gateway.raw().await;
    raw.send("GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    let mut arrival = backend.expect("GET", "/note").await;
    arrival.inform(103, &[("Link", "</style.css>; rel=preload")]);
    let early = raw.answer("GET").await;
    assert_eq!((early.status, early.field("link")), (103, Some("</style.css>; rel=preload")));
    arrival.answer(200, &[], "here").await;
    assert_eq!(raw.answer("GET").await.text(), "here");
}

#[tokio::test]
async fn a_reads_body_that_the_backend_does_not_take_is_cut_in_the_end_although_it_answered() {
    let mut backend = H2Script::start().await;
    let gateway = before(&backend).one_worker().upstream("response_timeout = \"100ms\"").start();
    let read = begin(gateway.call("GET", "/search").body("x".repeat(200_000)));
    let mut arrival = backend.expect("GET", "/search").await;
    arrival.answer_now(200, &[], "found");
    assert_eq!(read.answer().await.text(), "found");
    // Nothing of the body is taken until the gateway has given it up.
    assert_eq!(arrival.was_given_up().await, Reason::CANCEL);
}

#[tokio::test]
async fn a_client_that_breaks_off_behind_an_early_success_leaves_a_doubt() {
    for over_http2 in [false, true] {
        let mut backend = H2Script::start().await;
        let gateway = before(&backend).guard("settle = \"50ms\"").start();
        let mut put;
        if over_http2 {
            let client = Frames::connect(gateway.address).await;
            let mut stream = client.begin("PUT", "/note", &[]).await;
            stream.data(vec![b'x'; 60_000], false);
            stream.data(vec![b'x'; 20_000], false);
            put = backend.expect("PUT", "/note").await;
            put.answer_now(200, &[("ETag", "\"1\"")], "");
            assert_eq!(stream.head().await.status(), 200);
            drop(stream);
        } else {
            let mut raw = raw_put(&gateway, "Content-Length: 200000\r\n", vec![b'x'; 80_000]).await;
            put = backend.expect("PUT", "/note").await;
            put.answer_now(200, &[("ETag", "\"1\"")], "");
            assert_eq!(raw.answer("PUT").await.status, 200);
            raw.reset();
        }
        assert!(put.was_reset().await.is_some());
        assert_unknown(&gateway, &mut backend).await;
    }
}
