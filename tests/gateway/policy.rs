//! What an operator can choose, as far as it shows on the wire.

use crate::support::{Gateway, H2, Script, Store, begin};

async fn known(guard: &str) -> (Store, Gateway, String) {
    let store = Store::start().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard(guard).start();
    let tag = gateway.get("/note").expect(200).await.tag();
    (store, gateway, tag)
}

#[tokio::test]
async fn a_precondition_can_be_required() {
    let (store, gateway, tag) = known("missing = \"require\"").await;
    for method in ["PUT", "PATCH", "DELETE"] {
        let answer = gateway.call(method, "/note").body("x").expect(428).await;
        let problem = answer.problem("precondition-required");
        assert!(problem["error"].as_str().is_some_and(|error| error.contains("If-Match")), "{problem}");
    }
    assert_eq!(store.writes(), 0);
    gateway.call("POST", "/notes").body("x").expect(201).await;
    gateway.put("/note", "x").if_match(&tag).expect(200).await;
    gateway.put("/new", "x").with("if-none-match", "*").expect(201).await;
}

#[tokio::test]
async fn conflicts_can_be_412() {
    let (store, gateway, _) = known("conflict_status = 412").await;
    gateway.put("/note", "x").if_match("\"old\"").expect(412).await.problem("stale");
    gateway.put("/note", "x").with("if-none-match", "*").expect(412).await.problem("exists");
    assert_eq!(store.writes(), 0);
}

#[tokio::test]
async fn the_backend_may_never_be_asked() {
    let store = Store::start().await;
    let current = store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard("verify = \"never\"").start();
    gateway.put("/note", "x").if_match(&current).expect(409).await.problem("unverifiable");
    gateway.put("/note", "x").if_match("*").expect(409).await.problem("unverifiable");
    gateway.put("/note", "x").with("if-none-match", "*").expect(409).await.problem("unverifiable");
    assert_eq!(store.reached().len(), 0);
    gateway.get("/note").expect(200).await;
    gateway.put("/note", "x").if_match(&current).expect(200).await;
}

#[tokio::test]
async fn the_backend_may_be_asked_before_a_conflict() {
    let (store, gateway, old) = known("verify = \"mismatch\"").await;
    let new = store.set("/note", "behind the gateway's back");
    gateway.put("/note", "x").if_match(&new).expect(200).await;
    assert_eq!((store.reads(), store.count("HEAD")), (2, 1));
    // Known to be gone: there is nothing to ask.
    gateway.put("/note", "x").if_match(&old).expect(409).await;
    gateway.put("/note", "x").if_match(&new).expect(409).await;
    assert_eq!(store.reads(), 2);
}

#[tokio::test]
async fn what_was_removed_behind_the_gateways_back_is_found_gone() {
    let (store, gateway, tag) = known("verify = \"always\"").await;
    store.remove("/note");
    gateway.put("/note", "x").if_match(&tag).expect(409).await.problem("stale");
    gateway.put("/note", "x").if_match("*").expect(409).await.problem("stale");
    assert_eq!(store.writes(), 0);
    gateway.put("/note", "x").with("if-none-match", "*").expect(201).await;
}

#[tokio::test]
async fn without_that_a_change_behind_the_gateways_back_is_a_false_conflict_until_the_next_read() {
    let (store, gateway, _) = known("").await;
    let new = store.set("/note", "behind the gateway's back");
    gateway.put("/note", "x").if_match(&new).expect(409).await;
    gateway.get("/note").expect(200).await;
    gateway.put("/note", "x").if_match(&new).expect(200).await;
}

#[tokio::test]
async fn the_backend_may_be_asked_before_every_conditional_write() {
    let (store, gateway, old) = known("verify = \"always\"").await;
    let new = store.set("/note", "behind the gateway's back");
    gateway.put("/note", "x").if_match(&old).expect(409).await;
    assert_eq!((store.count("HEAD"), store.writes()), (1, 0));
    let tag = gateway.put("/note", "x").if_match(&new).expect(200).await.tag();
    gateway.put("/note", "x").if_match(&tag).expect(200).await;
    assert_eq!(store.count("HEAD"), 3);
    // No condition, no question.
    gateway.put("/note", "x").expect(200).await;
    assert_eq!(store.count("HEAD"), 3);
}

#[tokio::test]
async fn old_knowledge_is_not_trusted() {
    // So short an age that everything is older.
    let (store, gateway, old) = known("max_age = \"1ms\"").await;
    store.set("/note", "behind the gateway's back");
    gateway.put("/note", "x").if_match(&old).expect(409).await;
    assert_eq!((store.count("HEAD"), store.writes()), (1, 0));
    let (store, gateway, tag) = known("max_age = \"1h\"").await;
    gateway.put("/note", "x").if_match(&tag).expect(200).await;
    assert_eq!(store.count("HEAD"), 0);
}

#[tokio::test]
async fn a_route_can_be_only_observed_or_off() {
    for mode in ["observe", "off"] {
        let (store, gateway, _) = known(&format!("mode = \"{mode}\"\nmissing = \"require\"")).await;
        gateway.put("/note", "x").if_match("\"old\"").expect(200).await;
        gateway.put("/note", "x").expect(200).await;
        gateway.put("/note", "x").with("if-none-match", "*").expect(200).await;
        assert_eq!((store.reads(), store.count("PUT")), (1, 3), "{mode}: no probe");
    }
}

#[tokio::test]
async fn a_route_that_is_off_still_changes_what_another_route_knows() {
    let store = Store::start().await;
    store.set("/notes/7", "first");
    let gateway = Gateway::before(store.address)
        .rest("[[routes]]\npath = \"/off/{*rest}\"\nguard = { mode = \"off\" }\n[[routes]]\n")
        .start();
    let tag = gateway.get("/notes/7").expect(200).await.tag();
    let moved = gateway.call("MOVE", "/off/7").with("destination", "/notes/7");
    moved.expect(201).await;
    store.set("/notes/7", "moved");
    gateway.put("/notes/7", "stale").if_match(&tag).expect(409).await;
}

#[tokio::test]
async fn preconditions_travel_on_or_not() {
    let (store, gateway, tag) = known("forward_preconditions = false").await;
    gateway.put("/note", "x").if_match(&tag).expect(200).await;
    gateway.put("/new", "x").with("if-none-match", "*").expect(201).await;
    gateway.get("/note").with("if-none-match", "\"other\"").expect(200).await;
    for reached in store.reached().iter().filter(|reached| reached.method == "PUT") {
        assert!(!reached.fields.contains_key("if-match") && !reached.fields.contains_key("if-none-match"));
    }
    let read = store.reached().pop().expect("a request");
    assert!(read.fields.contains_key("if-none-match"), "a read's condition is not the gateway's business");

    let (store, gateway, tag) = known("").await;
    gateway.put("/note", "x").if_match(&tag).expect(200).await;
    assert!(store.reached().pop().expect("a request").fields.contains_key("if-match"));
}

#[tokio::test]
async fn who_waits_too_long_in_line_is_told_so() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("wait = \"100ms\"").start();
    let first = begin(gateway.put("/note", "a"));
    let under_way = backend.expect("PUT", "/note").await;

    let answer = gateway.put("/note", "b").expect(409).await;
    answer.problem("busy");
    assert!(answer.field("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    gateway.put("/note", "b").if_match("\"1\"").expect(409).await.problem("busy");
    gateway.call("POST", "/note").expect(409).await.problem("busy");
    // Others are not in this line, and neither are readers.
    let other = begin(gateway.put("/other", "c"));
    backend.expect("PUT", "/other").await.answer(200, &[], "").await;
    assert_eq!(other.answer().await.status, 200);
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[], "").await;
    assert_eq!(reader.answer().await.status, 200);

    under_way.answer(200, &[], "").await;
    assert_eq!(first.answer().await.status, 200);
    backend.assert_quiet();
    let next = begin(gateway.put("/note", "d"));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn busy_is_409_whatever_the_status_of_conflicts() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("wait = \"0s\"\nconflict_status = 412").start();
    let _first = begin(gateway.put("/note", "a"));
    let _under_way = backend.expect("PUT", "/note").await;
    gateway.put("/note", "b").expect(409).await.problem("busy");
}

#[tokio::test]
async fn a_line_has_an_end() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard("line = 2").start();
    let first = begin(gateway.put("/note", "a"));
    let under_way = backend.expect("PUT", "/note").await;
    // Of three, whichever come first, two wait and one finds the line full.
    let mut waiting: Vec<_> = (0..3).map(|_| begin(gateway.put("/note", "b"))).collect();
    let full = {
        let [one, two, three] = waiting.as_mut_slice() else { panic!("three") };
        tokio::select! { () = one.finished() => 0, () = two.finished() => 1, () = three.finished() => 2 }
    };
    let answer = waiting.remove(full).answer().await;
    assert_eq!(answer.status, 409);
    answer.problem("busy");
    assert!(waiting.iter().all(crate::support::Pending::waits));
    backend.assert_quiet();

    under_way.answer(200, &[], "").await;
    for _ in 0..2 {
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    }
    assert_eq!(first.answer().await.status, 200);
    for call in waiting {
        assert_eq!(call.answer().await.status, 200);
    }
}

#[tokio::test]
async fn the_writes_of_one_connection_are_bounded() {
    let mut backend = Script::start().await;
    let settings = Gateway::before(backend.address).rest("[limits]\nwrites_per_connection = 1");
    let gateway = settings.guard("wait = \"100ms\"").start();
    let client = H2::connect(gateway.address).await;
    let (other, first) = (client.clone(), gateway.put("/a", "first"));
    let first = tokio::spawn(async move { other.send(first).await });
    let under_way = backend.expect("PUT", "/a").await;

    client.send(gateway.put("/b", "second")).await.problem("busy");
    let another = begin(gateway.put("/b", "by another connection"));
    backend.expect("PUT", "/b").await.answer(200, &[], "").await;
    assert_eq!(another.answer().await.status, 200);

    under_way.answer(200, &[], "").await;
    assert_eq!(first.await.expect("an answer").status, 200);
    backend.assert_quiet();
}
