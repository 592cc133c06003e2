//! Lost answers: the same conditional write again, and everything that is not the same.

use crate::support::{Answer, Arrival, Call, Fate, Gateway, H2, Script, Store, begin, raw_put};

const REPLAYED: &str = "ifmatch; details=\"replayed\"";

/// A gateway whose record of `/note` says `"1"`.
async fn knowing(backend: &mut Script, guard: &str) -> Gateway {
    let guard = format!("replay = \"1h\"\nsettle = \"100ms\"\n{guard}");
    let gateway = Gateway::before(backend.address).one_worker().guard(&guard).admin().start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "first").await;
    reader.answer().await;
    gateway
}

fn mine(gateway: &Gateway) -> Call {
    gateway.put("/note", "mine").with("authorization", "Bearer me").if_match("\"1\"")
}

const STORED: [(&str, &str); 3] = [("ETag", "\"2\""), ("Content-Type", "application/json"), ("Set-Cookie", "a=1")];

/// My write is committed, but I have not seen the answer.
async fn lose_the_answer(gateway: &Gateway, backend: &mut Script) {
    let fields = "Authorization: Bearer me\r\nIf-Match: \"1\"\r\nContent-Length: 4\r\n";
    let raw = raw_put(gateway, fields, "mine").await;
    let mut arrival = backend.expect("PUT", "/note").await;
    assert_eq!(arrival.body().await.expect("a body"), b"mine");
    raw.reset();
    gateway.barrier().await;
    arrival.answer(200, &STORED, "stored").await;
}

fn assert_again(answer: &Answer) {
    assert_eq!((answer.status, answer.tag().as_str(), answer.text()), (200, "\"2\"", "stored"), "{answer:?}");
    assert_eq!(answer.field("set-cookie"), Some("a=1"));
    assert_eq!(answer.field("proxy-status"), Some(REPLAYED));
}

async fn assert_stale(call: Call) {
    call.expect(409).await.problem("stale");
}

#[tokio::test]
async fn who_lost_the_answer_gets_it_again() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "").await;
    lose_the_answer(&gateway, &mut backend).await;
    for _ in 0..3 {
        assert_again(&mine(&gateway).send().await);
    }
    let h2 = H2::connect(gateway.address).await;
    assert_again(&h2.send(mine(&gateway).with("host", "notes.example")).await);
    backend.assert_quiet();
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("ifmatch_memory_answers_total", &[("kind", "replay")]), 4.0);
    assert_eq!(scrape.value("ifmatch_verdicts_total", &[("verdict", "replayed")]), 4.0);
}

#[tokio::test]
async fn without_it_the_writer_is_told_that_somebody_else_was_faster() {
    for guard in ["replay = \"0s\"", ""] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().guard(guard).start();
        let reader = begin(gateway.get("/note"));
        backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "first").await;
        reader.answer().await;
        lose_the_answer(&gateway, &mut backend).await;
        assert_stale(mine(&gateway)).await;
    }
}

#[tokio::test]
async fn who_comes_again_while_the_first_is_under_way_waits_for_its_answer() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "").await;
    let first = begin(mine(&gateway));
    let arrival = backend.expect("PUT", "/note").await;
    let again = begin(mine(&gateway));
    let other = begin(mine(&gateway).body("other"));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    assert!(again.waits() && other.waits());
    arrival.answer(200, &STORED, "stored").await;
    assert_eq!(first.answer().await.field("proxy-status"), None);
    assert_again(&again.answer().await);
    other.answer().await.problem("stale");
    backend.assert_quiet();
}

#[tokio::test]
async fn who_comes_again_while_the_first_answer_is_on_its_way_waits_for_all_of_it() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "").await;
    let fields = "Authorization: Bearer me\r\nIf-Match: \"1\"\r\nContent-Length: 4\r\n";
    let mut raw = raw_put(&gateway, fields, "mine").await;
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.body().await.expect("a body");
    let head: String = STORED.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    arrival.send(&format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 6\r\n\r\nsto")).await;
    raw.head().await;
    let again = begin(mine(&gateway));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    assert!(again.waits());
    raw.reset();
    gateway.barrier().await;
    arrival.send("red").await;
    assert_again(&again.answer().await);
    arrival.go_on();
    backend.assert_quiet();
}

#[tokio::test]
async fn a_write_that_is_not_the_same_is_stale() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "").await;
    lose_the_answer(&gateway, &mut backend).await;
    let with = |credentials: &str| gateway.put("/note", "mine").with("authorization", credentials).if_match("\"1\"");
    for other in [
        with("Bearer you"),
        gateway.put("/note", "mine").if_match("\"1\""),
        mine(&gateway).with("cookie", "a=1"),
        mine(&gateway).with("x-api-key", "1"),
        mine(&gateway).body("yours"),
        mine(&gateway).body(""),
        mine(&gateway).with("content-type", "text/plain"),
        mine(&gateway).with("content-encoding", "gzip"),
        mine(&gateway).with("if-match", "\"0\""),
        gateway.put("/note", "mine").with("authorization", "Bearer me").if_match("\"0\""),
        Call::new(gateway.address, "PATCH", "/note").with("authorization", "Bearer me").if_match("\"1\"").body("mine"),
        Call::new(gateway.address, "POST", "/note").with("authorization", "Bearer me").if_match("\"1\"").body("mine"),
        Call::new(gateway.address, "DELETE", "/note").with("authorization", "Bearer me").if_match("\"1\""),
    ] {
        assert_stale(other).await;
    }
    assert_again(&mine(&gateway).send().await);
    backend.assert_quiet();
}

#[tokio::test]
async fn what_somebody_changed_since_is_stale() {
    for (method, target, status, fields) in [
        ("PUT", "/note", 200, &[("ETag", "\"3\"")][..]),
        ("PUT", "/note", 200, &[]),
        ("DELETE", "/note", 204, &[]),
        ("POST", "/note", 200, &[]),
        ("PATCH", "/note", 303, &[("Location", "/elsewhere")]),
        ("POST", "/elsewhere", 201, &[("Location", "/note")]),
        ("PUT", "/elsewhere", 200, &[("Content-Location", "/note")]),
        ("PUT", "/Note/", 200, &[]),
        ("PUT", "/note", 500, &[]),
        ("POST", "/note", 500, &[]),
    ] {
        let mut backend = Script::start().await;
        let gateway = knowing(&mut backend, "verify = \"never\"").await;
        lose_the_answer(&gateway, &mut backend).await;
        assert_again(&mine(&gateway).send().await);
        let other = begin(gateway.call(method, target).body("theirs"));
        backend.expect(method, target).await.answer(status, fields, "").await;
        assert_eq!(other.answer().await.status, status);
        let answer = mine(&gateway).expect(409).await;
        assert!(["stale", "unverifiable"].iter().any(|kind| answer.text().contains(kind)), "{method} {target}");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn what_a_route_without_it_changed_is_stale() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address)
        .rest("[[routes]]\nhost = \"plain.example\"\n[[routes]]\nguard = { replay = \"1h\", verify = \"never\" }")
        .one_worker()
        .start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "first").await;
    reader.answer().await;
    lose_the_answer(&gateway, &mut backend).await;
    assert_again(&mine(&gateway).send().await);
    let other = begin(gateway.put("/note", "theirs").with("host", "plain.example"));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(other.answer().await.status, 200);
    assert_eq!(mine(&gateway).send().await.status, 409);
    backend.assert_quiet();
}

#[tokio::test]
async fn what_was_refused_since_changed_nothing() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "").await;
    lose_the_answer(&gateway, &mut backend).await;
    for (method, status) in [("PUT", 403), ("POST", 400), ("DELETE", 405)] {
        let other = begin(gateway.call(method, "/note").body("theirs"));
        backend.expect(method, "/note").await.answer(status, &[], "").await;
        assert_eq!(other.answer().await.status, status);
    }
    assert_stale(gateway.put("/note", "theirs").if_match("\"1\"")).await;
    assert_again(&mine(&gateway).send().await);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_write_in_doubt_is_not_answered_for_the_backend() {
    for fate in [Fate::AppliedThenReset, Fate::ResetUnapplied, Fate::AppliedBut(500), Fate::AppliedBut(202)] {
        let store = Store::start().await;
        store.set("/note", "first");
        let guard = "replay = \"1h\"\nsettle = \"50ms\"";
        let gateway = Gateway::before(store.address).guard(guard).start();
        let tag = gateway.get("/note").expect(200).await.tag();
        store.next_write(fate);
        let write = || gateway.put("/note", "mine").if_match(&tag);
        write().send().await;
        let again = write().send().await;
        // Whether it was applied is asked of the backend, as without it.
        let was_applied = fate != Fate::ResetUnapplied;
        assert_eq!(again.status, if was_applied { 409 } else { 200 }, "{fate:?}");
        assert_eq!(store.count("PUT"), if was_applied { 1 } else { 2 }, "{fate:?}");
        assert_ne!(again.field("proxy-status"), Some(REPLAYED));
    }
}

#[tokio::test]
async fn a_write_that_the_backend_refused_is_not_remembered() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "").await;
    for _ in 0..2 {
        let write = begin(mine(&gateway));
        backend.expect("PUT", "/note").await.answer(403, &[], "no").await;
        assert_eq!(write.answer().await.status, 403);
    }
}

#[tokio::test]
async fn a_creation_and_a_deletion_are_answered_again() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).guard("replay = \"1h\"").start();
    let create = || gateway.put("/new", "mine").with("if-none-match", "*");
    let first = create().expect(201).await;
    let again = create().expect(201).await;
    assert_eq!((again.tag(), again.field("proxy-status")), (first.tag(), Some(REPLAYED)));
    create().body("other").expect(409).await.problem("exists");

    let delete = || gateway.call("DELETE", "/new").if_match(&first.tag());
    delete().expect(204).await;
    assert_eq!(delete().expect(204).await.field("proxy-status"), Some(REPLAYED));
    // What was created is gone, so this is a new creation.
    let anew = create().expect(201).await;
    assert_ne!(anew.tag(), first.tag());
    assert_eq!((store.count("PUT"), store.count("DELETE")), (2, 1));
}

#[tokio::test]
async fn a_write_without_a_condition_or_with_another_method_is_not_answered_again() {
    let store = Store::start().await;
    let tag = store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard("replay = \"1h\"").start();
    for _ in 0..2 {
        gateway.put("/note", "mine").expect(200).await;
    }
    let tag = gateway.get("/note").expect(200).await.tag().replace(&tag, "");
    let patch = || gateway.call("PATCH", "/note").if_match(&tag).body("mine");
    patch().expect(200).await;
    patch().expect(409).await.problem("stale");
    assert_eq!((store.count("PUT"), store.count("PATCH")), (2, 1));
}

#[tokio::test]
async fn any_state_is_a_condition_too() {
    let store = Store::start().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard("replay = \"1h\"").start();
    for _ in 0..3 {
        gateway.put("/note", "mine").if_match("*").expect(200).await;
    }
    assert_eq!(store.count("PUT"), 1);
}

#[tokio::test]
async fn a_large_write_is_compared_where_it_is_refused() {
    let store = Store::start().await;
    let tag = store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard("replay = \"1h\"").start();
    let write = |end: &str| gateway.put("/note", &("x".repeat(300_000) + end)).if_match(&tag);
    let first = write("a").expect(200).await;
    let again = write("a").expect(200).await;
    assert_eq!((again.tag(), again.field("proxy-status")), (first.tag(), Some(REPLAYED)));
    write("b").expect(409).await.problem("stale");
    write("").expect(409).await.problem("stale");
    write("a").with("cookie", "a=1").expect(409).await.problem("stale");
    assert_eq!(store.count("PUT"), 1);
}

#[tokio::test]
async fn who_waits_to_be_asked_for_the_body_gets_the_answer_again() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "").await;
    lose_the_answer(&gateway, &mut backend).await;
    let again = async |body: &str| {
        let fields = "Authorization: Bearer me\r\nIf-Match: \"1\"\r\nContent-Length: 4\r\nExpect: 100-continue\r\n";
        let mut raw = raw_put(&gateway, fields, "").await;
        assert!(raw.head().await.first.contains("100"));
        raw.send(body).await;
        raw.answer("PUT").await
    };
    assert_again(&again("mine").await);
    again("else").await.problem("stale");
    backend.assert_quiet();
}

#[tokio::test]
async fn of_a_long_answer_the_head_is_given_again() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "answer_bytes = 5").await;
    lose_the_answer(&gateway, &mut backend).await;
    let again = mine(&gateway).expect(200).await;
    assert_eq!((again.tag().as_str(), again.text(), again.field("content-type")), ("\"2\"", "", None));
    assert_eq!(again.field("proxy-status"), Some("ifmatch; details=\"replayed without its content\""));
    backend.assert_quiet();
}

/// Whoever has no credentials may be anybody, and a cookie is for one.
#[tokio::test]
async fn an_answer_with_a_cookie_is_not_given_to_just_anybody() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "").await;
    let write = || gateway.put("/note", "mine").if_match("\"1\"");
    let first = begin(write());
    backend.expect("PUT", "/note").await.answer(200, &STORED, "stored").await;
    assert_eq!(first.answer().await.field("set-cookie"), Some("a=1"));
    assert_stale(write()).await;
}

#[tokio::test]
async fn an_operator_can_have_it_forgotten() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "verify = \"never\"").await;
    lose_the_answer(&gateway, &mut backend).await;
    assert_again(&mine(&gateway).send().await);
    gateway.ask("DELETE", "/records?target=http://notes.example/note").expect(200).await;
    mine(&gateway).expect(409).await.problem("unverifiable");
    backend.assert_quiet();
}

/// The backend answers before it has the whole body, and the client breaks off in it.
#[tokio::test]
async fn a_write_whose_body_broke_off_is_not_remembered() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "verify = \"never\"").await;
    let fields = "Authorization: Bearer me\r\nIf-Match: \"1\"\r\nContent-Length: 300000\r\n";
    let mut raw = raw_put(&gateway, fields, vec![b'x'; 100_000]).await;
    let mut arrival: Arrival = backend.expect("PUT", "/note").await;
    arrival.answer_now(200, &STORED, "stored").await.expect("the gateway reads");
    assert_eq!(raw.answer("PUT").await.status, 200);
    raw.reset();
    gateway.barrier().await;
    let again = mine(&gateway).body("x".repeat(300_000)).send().await;
    assert_eq!(again.status, 409);
    backend.assert_quiet();
}

/// Two writes of which the second is the first again, with a read in between that shows what another way has made of it.
#[tokio::test]
async fn what_a_read_has_shown_to_be_changed_is_not_answered_again() {
    let created = ("if-none-match", "*");
    let (any, first) = (("if-match", "*"), ("if-match", "\"1\""));
    for (method, condition, answered, shown) in [
        ("PUT", any, Some("\"2\""), Some("\"3\"")),
        ("PUT", any, None, Some("\"3\"")),
        ("PUT", first, Some("\"2\""), Some("\"1\"")),
        ("PUT", first, None, Some("\"1\"")),
        ("PUT", first, None, None),
        ("PUT", created, Some("\"2\""), None),
        ("PUT", created, None, None),
        ("DELETE", any, None, Some("\"3\"")),
    ] {
        let case = format!("{method} {condition:?} {answered:?} {shown:?}");
        let mut backend = Script::start().await;
        let gateway =
            Gateway::before(backend.address).one_worker().guard("replay = \"1h\"\nverify = \"never\"").start();
        let read = async |backend: &mut Script, tag: Option<&str>| {
            let reader = begin(gateway.get("/note"));
            let arrival = backend.expect("GET", "/note").await;
            match tag {
                Some(tag) => arrival.answer(200, &[("ETag", tag)], "").await,
                None => arrival.answer(404, &[], "").await,
            }
            reader.answer().await;
        };
        if condition == created {
            let delete = begin(gateway.call("DELETE", "/note"));
            backend.expect("DELETE", "/note").await.answer(204, &[], "").await;
            delete.answer().await;
            read(&mut backend, Some("\"0\"")).await;
            let delete = begin(gateway.call("DELETE", "/note").if_match("\"0\""));
            backend.expect("DELETE", "/note").await.answer(204, &[], "").await;
            assert_eq!(delete.answer().await.status, 204, "{case}");
        } else {
            read(&mut backend, Some("\"1\"")).await;
        }
        let write = || gateway.call(method, "/note").body("mine").with(condition.0, condition.1);
        let mine = begin(write());
        let fields: Vec<_> = answered.iter().map(|tag| ("ETag", *tag)).collect();
        backend.expect(method, "/note").await.answer(200, &fields, "").await;
        assert_eq!(mine.answer().await.status, 200, "{case}");
        read(&mut backend, shown).await;
        let again = begin(write());
        // Judged anew: refused, or forwarded where the condition holds.
        if condition == any && shown.is_some() {
            backend.expect(method, "/note").await.answer(200, &[], "").await;
        }
        let again = again.answer().await;
        assert_eq!(again.field("proxy-status").filter(|status| status.contains("replayed")), None, "{case}");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_write_whose_answer_showed_no_tag_is_answered_again_until_somebody_reads() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "verify = \"never\"").await;
    let first = begin(mine(&gateway));
    backend.expect("PUT", "/note").await.answer(204, &[], "").await;
    assert_eq!(first.answer().await.status, 204);
    assert_eq!(mine(&gateway).expect(204).await.field("proxy-status"), Some(REPLAYED));
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"2\"")], "mine").await;
    reader.answer().await;
    assert_stale(mine(&gateway)).await;
    backend.assert_quiet();
}

#[tokio::test]
async fn where_nothing_counts_without_a_probe_nothing_is_answered_again() {
    for guard in ["verify = \"always\"", "max_age = \"1ms\""] {
        let store = Store::start().await;
        store.set("/note", "first");
        let gateway = Gateway::before(store.address).guard(&format!("replay = \"1h\"\n{guard}")).start();
        for _ in 0..2 {
            let write = gateway.put("/note", "mine").if_match("*").expect(200).await;
            assert_eq!(write.field("proxy-status"), None, "{guard}");
        }
        assert_eq!(store.count("PUT"), 2, "{guard}");
    }
}
