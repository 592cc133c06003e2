//! What a write leaves behind, by how it ended (the table of the design's section 5).

use std::time::{Duration, Instant};

use crate::support::{Answer, Fate, Gateway, Habits, Script, Store, begin};

const SETTLE: Duration = Duration::from_millis(200);

/// A gateway that has seen the tag of `/note`, which is returned, by one GET.
async fn knowing(store: &Store) -> (Gateway, String) {
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard("settle = \"200ms\"").start();
    let tag = gateway.get("/note").expect(200).await.tag();
    (gateway, tag)
}

/// One write that ends so, then another with the same tag. Returns both answers, and how long that took.
async fn twice(store: &Store, fate: Fate) -> (Answer, Answer, Duration) {
    let (gateway, tag) = knowing(store).await;
    store.next_write(fate);
    // The turn is held from before the client hears of it.
    let began = Instant::now();
    let first = gateway.put("/note", "second").if_match(&tag).send().await;
    let second = gateway.put("/note", "third").if_match(&tag).send().await;
    (first, second, began.elapsed())
}

#[tokio::test]
async fn a_refusal_by_the_backend_leaves_the_tag_valid() {
    for status in [400, 401, 403, 409, 410, 413, 415, 422, 423, 429] {
        let store = Store::start().await;
        let (first, second, _) = twice(&store, Fate::Refused(status)).await;
        assert_eq!((first.status, first.text(), second.status), (status, "as told", 200));
        assert_eq!(store.reads(), 1, "{status}: nobody had to be asked");
    }
}

#[tokio::test]
async fn a_contradiction_or_a_doubt_makes_the_gateway_ask_again() {
    for status in [404, 412, 500, 501, 503] {
        let store = Store::start().await;
        let (first, second, _) = twice(&store, Fate::Refused(status)).await;
        assert_eq!((first.status, second.status), (status, 200), "not applied, so the tag is current");
        assert_eq!(store.count("HEAD"), 1, "{status}: asked before the second write");
    }
}

#[tokio::test]
async fn an_error_of_a_backend_that_had_applied_the_write_is_no_way_around() {
    for status in [404, 412, 500, 503] {
        let store = Store::start().await;
        let (first, second, _) = twice(&store, Fate::AppliedBut(status)).await;
        assert_eq!((first.status, second.status), (status, 409));
        assert_eq!((store.count("PUT"), store.body("/note").as_deref()), (1, Some("second")));
    }
}

#[tokio::test]
async fn a_gateway_error_behind_holds_the_turn_for_a_while() {
    for status in [502, 504] {
        for (fate, expected) in [(Fate::Refused(status), 200), (Fate::AppliedBut(status), 409)] {
            let store = Store::start().await;
            let (first, second, took) = twice(&store, fate).await;
            assert_eq!((first.status, second.status), (status, expected), "{fate:?}");
            assert_eq!(store.count("HEAD"), 1, "{fate:?}");
            assert!(took >= SETTLE, "{fate:?}: the next was let in after {took:?}");
        }
    }
}

#[tokio::test]
async fn a_write_that_was_applied_and_then_reset_makes_the_tag_stale() {
    let store = Store::start().await;
    let (first, second, took) = twice(&store, Fate::AppliedThenReset).await;
    assert_eq!((first.status, second.status), (502, 409));
    first.problem("upstream-failed");
    second.problem("stale");
    assert!(took >= SETTLE, "the next was let in after {took:?}");
    assert_eq!((store.count("HEAD"), store.count("PUT")), (1, 1));
    assert_eq!(store.body("/note").as_deref(), Some("second"));
}

#[tokio::test]
async fn a_write_that_was_reset_before_it_was_applied_can_be_repeated() {
    let store = Store::start().await;
    let (first, second, took) = twice(&store, Fate::ResetUnapplied).await;
    assert_eq!((first.status, second.status), (502, 200));
    assert!(took >= SETTLE, "the next was let in after {took:?}");
    assert_eq!((store.count("HEAD"), store.count("PUT")), (1, 2));
}

#[tokio::test]
async fn a_write_that_the_backend_takes_too_long_for_is_in_doubt() {
    let mut backend = Script::start().await;
    let gateway =
        Gateway::before(backend.address).upstream("response_timeout = \"200ms\"").guard("settle = \"200ms\"").start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    reader.answer().await;

    let began = Instant::now();
    let writer = begin(gateway.put("/note", "slow").if_match("\"1\""));
    let mut slow = backend.expect("PUT", "/note").await;
    let answer = writer.answer().await;
    assert_eq!(answer.status, 504);
    answer.problem("upstream-timeout");
    slow.hung_up().await;

    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert!(began.elapsed() >= SETTLE * 2, "asked after {:?}", began.elapsed());
    assert_eq!(next.answer().await.status, 409);
    backend.assert_quiet();
}

#[tokio::test]
async fn half_an_answer_to_a_write_is_a_doubt() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("settle = \"200ms\"").start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    reader.answer().await;

    let writer = begin(gateway.put("/note", "mine").if_match("\"1\""));
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.body().await.expect("a body");
    arrival.send("HTTP/1.1 400 Bad Req").await;
    drop(arrival);
    assert_eq!(writer.answer().await.status, 502);

    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(next.answer().await.status, 409);
}

#[tokio::test]
async fn a_blind_write_that_was_applied_and_reset_makes_the_tag_stale() {
    for method in ["PUT", "POST"] {
        let store = Store::start().await;
        let (gateway, tag) = knowing(&store).await;
        store.next_write(Fate::AppliedThenReset);
        gateway.call(method, "/note").body("blind").expect(502).await;

        gateway.put("/note", "stale").if_match(&tag).expect(409).await;
        assert_eq!(store.body("/note").as_deref(), Some("blind"), "{method}");
    }
}

#[tokio::test]
async fn a_write_without_a_tag_in_its_answer_makes_the_gateway_ask() {
    let store = Store::with(Habits { tag_in_answers: false, ..Habits::default() }).await;
    let (gateway, old) = knowing(&store).await;
    gateway.put("/note", "second").if_match(&old).expect(200).await;
    assert_eq!(store.count("HEAD"), 0);

    gateway.put("/note", "stale").if_match(&old).expect(409).await;
    assert_eq!((store.count("HEAD"), store.count("PUT")), (1, 1));
    gateway.put("/note", "third").if_match(&store.tag("/note")).expect(200).await;
    assert_eq!(store.count("PUT"), 2);
}

#[tokio::test]
async fn a_blind_write_makes_a_tag_stale() {
    for method in ["PUT", "PATCH", "POST", "DELETE", "PROPPATCH", "FROBNICATE"] {
        for tag_in_answers in [true, false] {
            let store = Store::with(Habits { tag_in_answers, ..Habits::default() }).await;
            let (gateway, tag) = knowing(&store).await;
            assert!(gateway.call(method, "/note").body("blind").send().await.status < 300);

            gateway.put("/note", "stale").if_match(&tag).expect(409).await;
            assert_eq!(store.writes(), 1, "{method}");
        }
    }
}

#[tokio::test]
async fn a_chain_of_writes_needs_no_probe() {
    let store = Store::start().await;
    let (gateway, mut tag) = knowing(&store).await;
    for n in 0..5 {
        let answer = gateway.put("/note", &format!("{n}")).if_match(&tag).expect(200).await;
        gateway.put("/note", "stale").if_match(&tag).expect(409).await;
        tag = answer.tag();
    }
    assert_eq!((store.reads(), store.count("PUT")), (1, 5));
}

#[tokio::test]
async fn what_was_deleted_is_absent() {
    let store = Store::start().await;
    let (gateway, tag) = knowing(&store).await;
    gateway.call("DELETE", "/note").if_match(&tag).expect(204).await;

    gateway.put("/note", "again").if_match(&tag).expect(409).await.problem("stale");
    gateway.put("/note", "again").if_match("*").expect(409).await.problem("stale");
    gateway.put("/note", "again").with("if-none-match", "*").expect(201).await;
    assert_eq!((store.reads(), store.writes()), (1, 2));
}

#[tokio::test]
async fn the_answer_to_a_post_names_what_else_changed() {
    for (field, value) in [
        ("Location", "/notes/7"),
        ("Location", "http://notes.example/notes/7"),
        ("Content-Location", "/notes/7"),
        ("Content-Location", "/x/../notes/%37"),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let reader = begin(gateway.get("/notes/7"));
        backend.expect("GET", "/notes/7").await.answer(200, &[("ETag", "\"1\"")], "").await;
        reader.answer().await;
        let poster = begin(gateway.call("POST", "/notes").body("x"));
        backend.expect("POST", "/notes").await.answer(201, &[(field, value)], "").await;
        assert_eq!(poster.answer().await.status, 201);

        let stale = begin(gateway.put("/notes/7", "stale").if_match("\"1\""));
        backend.expect("HEAD", "/notes/7").await.answer(200, &[("ETag", "\"2\"")], "").await;
        assert_eq!(stale.answer().await.status, 409, "{field}: {value}");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn the_tag_of_another_resource_in_a_writes_answer_is_not_the_targets() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let writer = begin(gateway.put("/alias", "x"));
    let fields = [("ETag", "\"7\""), ("Content-Location", "/notes/7")];
    backend.expect("PUT", "/alias").await.answer(200, &fields, "").await;
    assert_eq!(writer.answer().await.status, 200);

    let next = begin(gateway.put("/alias", "y").if_match("\"7\""));
    backend.expect("HEAD", "/alias").await.answer(200, &[("ETag", "\"alias\"")], "").await;
    assert_eq!(next.answer().await.status, 409);
}
