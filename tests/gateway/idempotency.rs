//! `Idempotency-Key`: one run for each key, whatever happens, and its answer for whoever comes again.

use crate::support::{Answer, Arrival, Call, Gateway, H2, Raw, Script, begin, nobody};

const KEY: &str = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"";

fn before(backend: &Script) -> Gateway {
    Gateway::before(backend.address).one_worker().guard("idempotency = \"1h\"\nsettle = \"100ms\"").start()
}

fn order(gateway: &Gateway, body: &str) -> Call {
    gateway.call("POST", "/orders").with("idempotency-key", KEY).with("content-type", "application/json").body(body)
}

const CREATED: [(&str, &str); 3] =
    [("Location", "/orders/7"), ("Content-Type", "application/json"), ("Set-Cookie", "a=1")];

/// The first request, answered by 201.
async fn create(gateway: &Gateway, backend: &mut Script) -> Answer {
    let first = begin(order(gateway, "{\"n\":1}"));
    let mut arrival = backend.expect("POST", "/orders").await;
    assert_eq!(arrival.field("idempotency-key"), Some(KEY));
    assert_eq!(arrival.body().await.expect("a body"), b"{\"n\":1}");
    arrival.answer(201, &CREATED, "{\"id\":7}").await;
    let first = first.answer().await;
    assert_eq!((first.status, first.field("proxy-status")), (201, None));
    first
}

fn assert_again(answer: &Answer) {
    assert_eq!((answer.status, answer.text()), (201, "{\"id\":7}"));
    assert_eq!(answer.field("location"), Some("/orders/7"));
    assert_eq!(answer.field("set-cookie"), Some("a=1"));
    assert_eq!(answer.field("content-length"), Some("8"));
    assert_eq!(answer.field("proxy-status"), Some("ifmatch; details=\"replayed\""));
}

#[tokio::test]
async fn who_comes_again_gets_the_first_answer() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    create(&gateway, &mut backend).await;
    for _ in 0..3 {
        assert_again(&order(&gateway, "{\"n\":1}").send().await);
    }
    let bare = Call::new(gateway.address, "POST", "/orders").with("idempotency-key", KEY.trim_matches('"'));
    assert_again(&bare.with("content-type", "application/json").body("{\"n\":1}").send().await);
    let h2 = H2::connect(gateway.address).await;
    assert_again(&h2.send(order(&gateway, "{\"n\":1}")).await);
    backend.assert_quiet();
}

#[tokio::test]
async fn who_comes_again_and_waits_to_be_asked_for_the_body_gets_it_too() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    create(&gateway, &mut backend).await;
    let mut raw = gateway.raw().await;
    let fields = format!("Idempotency-Key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: 7");
    raw.send(format!("POST /orders HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\nExpect: 100-continue\r\n\r\n")).await;
    assert!(raw.head().await.first.contains("100"));
    raw.send("{\"n\":1}").await;
    assert_again(&raw.answer("POST").await);
    backend.assert_quiet();
}

#[tokio::test]
async fn another_payload_is_refused() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    create(&gateway, &mut backend).await;
    for other in [
        order(&gateway, "{\"n\":2}"),
        order(&gateway, ""),
        order(&gateway, "{\"n\":1} "),
        order(&gateway, "{\"n\":1}").with("content-encoding", "gzip"),
        order(&gateway, "{\"n\":1}").with("content-type", "text/plain"),
    ] {
        other.expect(422).await.problem("idempotency-mismatch");
    }
    assert_again(&order(&gateway, "{\"n\":1}").send().await);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_key_is_its_callers_and_its_targets() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    create(&gateway, &mut backend).await;
    let with = |method: &str, target: &str| gateway.call(method, target).with("idempotency-key", KEY);
    for other in [
        order(&gateway, "{\"n\":1}").with("authorization", "Bearer x"),
        order(&gateway, "{\"n\":1}").with("cookie", "a=1"),
        order(&gateway, "{\"n\":1}").with("host", "other.example"),
        with("POST", "/orders?x=1"),
        with("POST", "/payments"),
        with("PATCH", "/orders"),
    ] {
        let other = begin(other);
        backend.next().await.answer(200, &[], "its own").await;
        assert_eq!(other.answer().await.text(), "its own");
    }
    // Where it means nothing.
    for (method, status) in [("PUT", 200), ("GET", 200)] {
        for _ in 0..2 {
            let other = begin(with(method, "/orders"));
            backend.expect(method, "/orders").await.answer(status, &[], "").await;
            assert_eq!(other.answer().await.status, status);
        }
    }
}

#[tokio::test]
async fn while_the_first_is_under_way_the_others_are_told_so() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let first = begin(order(&gateway, "{\"n\":1}"));
    let under_way = backend.expect("POST", "/orders").await;
    for body in ["{\"n\":1}", "{\"n\":2}"] {
        let second = order(&gateway, body).expect(409).await;
        second.problem("idempotency-running");
        assert_eq!(second.field("retry-after"), Some("1"));
    }
    backend.assert_quiet();
    under_way.answer(201, &CREATED, "{\"id\":7}").await;
    assert_eq!(first.answer().await.status, 201);
    assert_again(&order(&gateway, "{\"n\":1}").send().await);
    backend.assert_quiet();
}

#[tokio::test]
async fn of_50_at_once_one_runs() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("idempotency = \"1h\"").start();
    let calls: Vec<_> = (0..50).map(|_| begin(order(&gateway, "{\"n\":1}"))).collect();
    backend.expect("POST", "/orders").await.answer(201, &CREATED, "{\"id\":7}").await;
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.answer().await);
    }
    for answer in answers.iter().filter(|answer| answer.status == 409) {
        answer.problem("idempotency-running");
    }
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.text() == "{\"id\":7}" || answer.status == 409));
    let first = answers.iter().filter(|answer| answer.status == 201 && answer.field("proxy-status").is_none()).count();
    assert_eq!(first, 1);
    backend.assert_quiet();
}

/// The first request, as bytes.
async fn raw_order(gateway: &Gateway) -> Raw {
    let mut raw = gateway.raw().await;
    let fields = format!("Idempotency-Key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: 7");
    raw.send(format!("POST /orders HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n\r\n{{\"n\":1}}")).await;
    raw
}

#[tokio::test]
async fn a_caller_that_hangs_up_changes_nothing() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let raw = raw_order(&gateway).await;
    let under_way = backend.expect("POST", "/orders").await;
    raw.reset();
    gateway.barrier().await;
    order(&gateway, "{\"n\":1}").expect(409).await.problem("idempotency-running");
    under_way.answer(201, &CREATED, "{\"id\":7}").await;
    assert_again(&until_known(&gateway).await);
    backend.assert_quiet();
}

/// The answer that the first had, once the gateway has it.
async fn until_known(gateway: &Gateway) -> Answer {
    loop {
        let answer = order(gateway, "{\"n\":1}").send().await;
        if answer.status != 409 {
            return answer;
        }
        answer.problem("idempotency-running");
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_in_the_answer_finds_all_of_it_later() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let mut raw = raw_order(&gateway).await;
    let mut under_way = backend.expect("POST", "/orders").await;
    under_way.body().await.expect("a body");
    let fields: String = CREATED.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    under_way.send(&format!("HTTP/1.1 201 Created\r\n{fields}Transfer-Encoding: chunked\r\n\r\n4\r\n{{\"id\r\n")).await;
    raw.head().await;
    raw.chunk().await;
    // The head is through; the answer is not.
    order(&gateway, "{\"n\":1}").expect(409).await.problem("idempotency-running");
    raw.reset();
    gateway.barrier().await;
    under_way.send("4\r\n\":7}\r\n0\r\n\r\n").await;
    assert_again(&until_known(&gateway).await);
    under_way.go_on();
    backend.assert_quiet();
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_known_by_its_head() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let mut raw = raw_order(&gateway).await;
    let mut under_way = backend.expect("POST", "/orders").await;
    under_way.body().await.expect("a body");
    under_way.send("HTTP/1.1 201 Created\r\nLocation: /orders/7\r\nContent-Length: 10\r\n\r\n12345").await;
    raw.head().await;
    under_way.reset();
    raw.ended().await;
    let again = order(&gateway, "{\"n\":1}").expect(409).await;
    let problem = again.problem("idempotency-not-kept");
    assert_eq!((&problem["original_status"], &problem["location"]), (&201.into(), &"/orders/7".into()));
    backend.assert_quiet();
}

/// The first request meets this end at the backend.
async fn fail(gateway: &Gateway, backend: &mut Script, end: impl AsyncFnOnce(Arrival)) -> Answer {
    let first = begin(order(gateway, "{\"n\":1}"));
    end(backend.expect("POST", "/orders").await).await;
    first.answer().await
}

#[tokio::test]
async fn what_nobody_knows_the_outcome_of_does_not_run_again() {
    for whole in [true, false] {
        let mut backend = Script::start().await;
        let gateway = before(&backend);
        let first = fail(&gateway, &mut backend, async |mut arrival: Arrival| {
            if whole {
                arrival.body().await.expect("a body");
            }
            arrival.reset();
        })
        .await;
        assert_eq!(first.status, 502);
        for _ in 0..2 {
            let again = order(&gateway, "{\"n\":1}").expect(409).await;
            again.problem("idempotency-in-doubt");
            assert_eq!(again.field("retry-after"), None);
        }
        order(&gateway, "{\"n\":2}").expect(422).await.problem("idempotency-mismatch");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn what_was_answered_late_does_not_run_again() {
    let mut backend = Script::start().await;
    let upstream = "response_timeout = \"100ms\"";
    let gateway = Gateway::before(backend.address).guard("idempotency = \"1h\"").upstream(upstream).start();
    let first = begin(order(&gateway, "{\"n\":1}"));
    let late = backend.expect("POST", "/orders").await;
    assert_eq!(first.answer().await.status, 504);
    order(&gateway, "{\"n\":1}").expect(409).await.problem("idempotency-in-doubt");
    late.answer(201, &CREATED, "{\"id\":7}").await;
    order(&gateway, "{\"n\":1}").expect(409).await.problem("idempotency-in-doubt");
    backend.assert_quiet();
}

#[tokio::test]
async fn what_was_never_sent_leaves_the_key_free() {
    let (_kept, nobody) = nobody();
    let gateway = Gateway::before(nobody).guard("idempotency = \"1h\"").start();
    for _ in 0..2 {
        order(&gateway, "{\"n\":1}").expect(502).await.problem("upstream-refused");
    }
}

#[tokio::test]
async fn a_bad_answer_is_an_answer_unless_it_says_that_nothing_ran() {
    for (status, runs_again) in
        [(200, false), (303, false), (400, false), (409, false), (422, false), (500, false), (502, false), (202, false)]
            .into_iter()
            .chain([(401, true), (408, true), (421, true), (425, true), (429, true)])
    {
        let mut backend = Script::start().await;
        let gateway = before(&backend);
        let first =
            fail(&gateway, &mut backend, async |arrival: Arrival| arrival.answer(status, &[], "so").await).await;
        assert_eq!((first.status, first.text()), (status, "so"));
        let again = begin(order(&gateway, "{\"n\":1}"));
        if runs_again {
            backend.expect("POST", "/orders").await.answer(201, &[], "now").await;
            assert_eq!(again.answer().await.text(), "now", "{status}");
        } else {
            let again = again.answer().await;
            assert_eq!((again.status, again.text()), (status, "so"));
            assert_eq!(again.field("proxy-status"), Some("ifmatch; details=\"replayed\""));
        }
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn what_the_gateway_refuses_leaves_the_key_free_and_what_it_let_through_is_not_stale() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let reader = begin(gateway.get("/orders/7"));
    backend.expect("GET", "/orders/7").await.answer(200, &[("ETag", "\"1\"")], "").await;
    reader.answer().await;
    let patch =
        |tag: &str| gateway.call("PATCH", "/orders/7").with("idempotency-key", KEY).if_match(tag).body("{\"n\":2}");
    patch("\"0\"").expect(409).await.problem("stale");
    let first = begin(patch("\"1\""));
    backend.expect("PATCH", "/orders/7").await.answer(200, &[("ETag", "\"2\"")], "two").await;
    assert_eq!(first.answer().await.status, 200);
    let again = patch("\"1\"").expect(200).await;
    assert_eq!((again.tag(), again.text()), ("\"2\"".to_owned(), "two"));
    backend.assert_quiet();
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_not_an_absent_one() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    for key in ["", "\"\"", "\"a", "\"a\";b", "a, b", "a b"] {
        let call = gateway.call("POST", "/orders").with("idempotency-key", key);
        call.expect(400).await.problem("malformed-idempotency-key");
    }
    order(&gateway, "").with("idempotency-key", KEY).expect(400).await.problem("malformed-idempotency-key");
    backend.assert_quiet();
    for _ in 0..2 {
        let without = begin(gateway.call("POST", "/orders").body("x"));
        backend.expect("POST", "/orders").await.answer(201, &[], "").await;
        assert_eq!(without.answer().await.status, 201);
    }
}

#[tokio::test]
async fn where_it_is_off_it_means_nothing() {
    for guard in ["", "idempotency = \"1h\"\nmode = \"off\"", "idempotency = \"1h\"\nmode = \"observe\""] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(guard).start();
        for _ in 0..2 {
            let call = begin(order(&gateway, "x").with("idempotency-key", "two keys"));
            backend.expect("POST", "/orders").await.answer(201, &[], "").await;
            assert_eq!(call.answer().await.status, 201);
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_known_by_its_head() {
    let mut backend = Script::start().await;
    let guard = "idempotency = \"1h\"\nanswer_bytes = 7";
    let gateway = Gateway::before(backend.address).guard(guard).admin().start();
    let first = create(&gateway, &mut backend).await;
    assert_eq!(first.text(), "{\"id\":7}");
    let again = order(&gateway, "{\"n\":1}").expect(409).await;
    let problem = again.problem("idempotency-not-kept");
    assert_eq!((&problem["original_status"], &problem["location"]), (&201.into(), &"/orders/7".into()));
    assert_eq!(again.field("link"), Some("</orders/7>; rel=\"item\"; anchor=\"/orders\""));
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("ifmatch_verdicts_total", &[("verdict", "key_used")]), 1.0);
    assert_eq!(scrape.value("ifmatch_memory_entries", &[("kind", "key")]), 1.0);
    assert_eq!(scrape.value("ifmatch_memory_answers_total", &[("kind", "key")]), 1.0);
    assert!(scrape.value("ifmatch_memory_bytes", &[("kind", "key")]) > 100.0);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_large_payload_is_compared_too() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let large = |end: &str| "x".repeat(300_000) + end;
    let first = begin(order(&gateway, &large("a")));
    let mut arrival = backend.expect("POST", "/orders").await;
    assert_eq!(arrival.body().await.expect("a body").len(), 300_001);
    arrival.answer(201, &CREATED, "{\"id\":7}").await;
    assert_eq!(first.answer().await.status, 201);
    assert_again(&order(&gateway, &large("a")).send().await);
    order(&gateway, &large("b")).expect(422).await.problem("idempotency-mismatch");
    order(&gateway, &large("")).expect(422).await.problem("idempotency-mismatch");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_payload_without_a_length_is_compared_too() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let chunked = async |gateway: &Gateway, chunks: &str| {
        let mut raw = gateway.raw().await;
        let fields = format!("Idempotency-Key: {KEY}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked");
        raw.send(format!("POST /orders HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n\r\n{chunks}0\r\n\r\n")).await;
        raw
    };
    let mut first = chunked(&gateway, "3\r\n{\"n\r\n4\r\n\":1}\r\n").await;
    backend.expect("POST", "/orders").await.answer(201, &CREATED, "{\"id\":7}").await;
    assert_eq!(first.answer("POST").await.status, 201);
    assert_again(&chunked(&gateway, "7\r\n{\"n\":1}\r\n").await.answer("POST").await);
    assert_again(&order(&gateway, "{\"n\":1}").send().await);
    assert_eq!(chunked(&gateway, "7\r\n{\"n\":2}\r\n").await.answer("POST").await.status, 422);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_first_request_that_breaks_off_does_not_run_again() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let mut raw = gateway.raw().await;
    let fields = format!("Idempotency-Key: {KEY}\r\nContent-Length: 300000");
    raw.send(format!("POST /orders HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n\r\n")).await;
    raw.send(vec![b'x'; 100_000]).await;
    let mut arrival = backend.expect("POST", "/orders").await;
    raw.reset();
    arrival.body().await.expect_err("a body that breaks off");
    drop(arrival);
    let again = || gateway.call("POST", "/orders").with("idempotency-key", KEY).body("x".repeat(300_000));
    let mut answer = again().send().await;
    while answer.fields.contains_key("retry-after") {
        answer = again().send().await;
    }
    assert_eq!(answer.status, 409);
    answer.problem("idempotency-in-doubt");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_small_first_request_that_breaks_off_was_never_there() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let mut raw = gateway.raw().await;
    let fields = format!("Idempotency-Key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: 7");
    raw.send(format!("POST /orders HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n\r\n{{\"n")).await;
    gateway.barrier().await;
    order(&gateway, "{\"n\":1}").expect(409).await.problem("idempotency-running");
    raw.reset();
    gateway.barrier().await;
    create(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_key_outlives_a_reload_that_gives_everything_another_name() {
    let mut backend = Script::start().await;
    let settings = || Gateway::before(backend.address).guard("idempotency = \"1h\"");
    let gateway = settings().start();
    let renamed = settings().guard("query = \"ignore\"");
    create(&gateway, &mut backend).await;
    assert_eq!(gateway.reload(&renamed), Vec::<String>::new());
    assert_again(&order(&gateway, "{\"n\":1}").send().await);
    backend.assert_quiet();
}

#[tokio::test]
async fn an_interim_answer_is_no_answer() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let first = begin(order(&gateway, "{\"n\":1}"));
    let mut arrival = backend.expect("POST", "/orders").await;
    arrival.body().await.expect("a body");
    arrival.send("HTTP/1.1 103 Early Hints\r\nLink: </style>\r\n\r\n").await;
    order(&gateway, "{\"n\":1}").expect(409).await.problem("idempotency-running");
    arrival.answer(201, &CREATED, "{\"id\":7}").await;
    assert_eq!(first.answer().await.status, 201);
    assert_again(&order(&gateway, "{\"n\":1}").send().await);
}

#[tokio::test]
async fn a_post_that_means_another_method_is_another_payload() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    create(&gateway, &mut backend).await;
    let other = order(&gateway, "{\"n\":1}").with("x-http-method-override", "DELETE");
    other.expect(422).await.problem("idempotency-mismatch");
    backend.assert_quiet();
}

#[tokio::test]
async fn of_a_head_that_is_too_large_the_place_is_known() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let first = begin(order(&gateway, "{\"n\":1}"));
    let large = "x".repeat(20_000);
    backend.expect("POST", "/orders").await.answer(201, &[("Location", "/orders/7"), ("X-Large", &large)], "x").await;
    assert_eq!(first.answer().await.field("x-large"), Some(large.as_str()));
    let again = order(&gateway, "{\"n\":1}").expect(409).await;
    assert_eq!(again.problem("idempotency-not-kept")["location"], "/orders/7");
    backend.assert_quiet();
}

#[tokio::test]
async fn of_50_that_hang_up_one_runs() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    for _ in 0..50 {
        raw_order(&gateway).await.reset();
    }
    gateway.barrier().await;
    // Whoever is the first: of the others none has run, or will.
    let last = begin(order(&gateway, "{\"n\":1}"));
    backend.expect("POST", "/orders").await.answer(201, &CREATED, "{\"id\":7}").await;
    last.answer().await;
    assert_again(&until_known(&gateway).await);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_flood_of_keys_is_forgotten_and_not_kept() {
    let mut backend = Script::start().await;
    let rest = "[memory]\nentries = 10";
    let gateway =
        Gateway::before(backend.address).guard("idempotency = \"1h\"").rest(rest).admin().one_worker().start();
    let with = |key: usize| gateway.call("POST", "/orders").with("idempotency-key", &format!("key-{key}"));
    for key in 0..30 {
        let call = begin(with(key));
        backend.expect("POST", "/orders").await.answer(201, &[], "").await;
        assert_eq!(call.answer().await.status, 201);
    }
    let scrape = gateway.scrape().await;
    let key = [("kind", "key")];
    assert_eq!(scrape.value("ifmatch_memory_entries", &key), 10.0);
    assert_eq!(scrape.value("ifmatch_memory_entries_capacity", &[]), 10.0);
    assert_eq!(scrape.value("ifmatch_memory_evictions_total", &key), 20.0);
    // What is forgotten runs as if it were new, and what is not is answered again.
    assert_eq!(with(29).expect(201).await.field("proxy-status"), Some("ifmatch; details=\"replayed\""));
    let call = begin(with(0));
    backend.expect("POST", "/orders").await.answer(201, &[], "").await;
    assert_eq!(call.answer().await.field("proxy-status"), None);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_method_in_lower_case_is_no_other() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    create(&gateway, &mut backend).await;
    let call = gateway.call("post", "/orders").with("idempotency-key", KEY).with("content-type", "application/json");
    assert_again(&call.body("{\"n\":1}").send().await);
    backend.assert_quiet();
}

/// Nobody has seen the end of the first payload, so nobody can tell that this is the same.
#[tokio::test]
async fn an_answer_before_the_end_of_the_payload_is_not_given_again() {
    let mut backend = Script::start().await;
    let gateway = before(&backend);
    let mut raw = gateway.raw().await;
    let fields = format!("Idempotency-Key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: 300000");
    raw.send(format!("POST /orders HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n\r\n")).await;
    raw.send(vec![b'x'; 100_000]).await;
    let mut arrival = backend.expect("POST", "/orders").await;
    arrival.answer_now(201, &CREATED, "{\"id\":7}").await.expect("the gateway reads");
    assert_eq!(raw.answer("POST").await.status, 201);
    raw.reset();
    gateway.barrier().await;
    let mut answer = order(&gateway, "other").send().await;
    while answer.fields.contains_key("retry-after") {
        answer = order(&gateway, "other").send().await;
    }
    assert_eq!(answer.status, 409);
    answer.problem("idempotency-not-kept");
    backend.assert_quiet();
}
