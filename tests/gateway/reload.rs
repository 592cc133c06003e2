//! A configuration that takes the place of another: what goes on, what is known, and what must not meet.

use crate::support::{Gateway, H2, Script, Store, begin, gateway::Settings, within};

#[tokio::test]
async fn a_reload_changes_rules_keeps_connections_and_forgets_nothing() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = H2::connect(gateway.address).await;
    let mut raw = gateway.raw().await;
    raw.send("GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "first").await;
    raw.answer("GET").await;

    assert!(gateway.reload(&Gateway::before(backend.address).guard("missing = \"require\"")).is_empty());

    assert_eq!(h2.send(gateway.put("/note", "x")).await.status, 428);
    raw.send("PUT /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!(raw.answer("PUT").await.status, 428);
    // Known from before: nobody is asked.
    gateway.put("/note", "x").if_match("\"0\"").expect(409).await.problem("stale");
    backend.assert_quiet();
}

#[tokio::test]
async fn what_is_under_way_ends_under_the_configuration_it_began_with() {
    let (mut old, mut new) = (Script::start().await, Script::start().await);
    let gateway = Gateway::before(old.address).start();
    let reader = begin(gateway.get("/note"));
    let read = old.expect("GET", "/note").await;
    let writer = begin(gateway.put("/other", "x"));
    let write = old.expect("PUT", "/other").await;

    gateway.reload(&Gateway::before(new.address).upstream("response_timeout = \"1s\""));

    read.answer(200, &[], "old").await;
    write.answer(200, &[], "old").await;
    assert_eq!((reader.answer().await.text(), writer.answer().await.text()), ("old", "old"));
    let reader = begin(gateway.get("/note"));
    new.expect("GET", "/note").await.answer(200, &[], "new").await;
    assert_eq!(reader.answer().await.text(), "new");
}

#[tokio::test]
async fn a_reload_keeps_the_connections_to_upstreams_that_stay_as_they_are() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let reader = begin(gateway.get("/note"));
    let mut read = backend.expect("GET", "/note").await;
    read.answer_now(200, &[], "").await.expect("a connection");
    reader.answer().await;

    gateway.reload(&Gateway::before(backend.address).one_worker().guard("wait = \"1s\""));
    let reader = begin(gateway.get("/again"));
    // It comes by the same connection.
    read.go_on();
    backend.expect("GET", "/again").await.answer(200, &[], "").await;
    reader.answer().await;
}

#[tokio::test]
async fn a_write_that_is_under_way_through_a_reload_excludes_others() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let first = begin(gateway.put("/note", "first"));
    let write = backend.expect("PUT", "/note").await;

    gateway.reload(&Gateway::before(backend.address).guard("line = 7"));
    let second = begin(gateway.put("/note", "second").if_match("\"1\""));
    // Another resource's does not wait: the names are as they were.
    let other = begin(gateway.put("/other", "x"));
    backend.expect("PUT", "/other").await.answer(200, &[], "").await;
    assert_eq!(other.answer().await.status, 200);
    backend.assert_quiet();
    write.answer(200, &[("ETag", "\"2\"")], "").await;

    assert_eq!(first.answer().await.status, 200);
    assert_eq!(second.answer().await.status, 409);
}

fn without_query(backend: &Script) -> Settings {
    Gateway::before(backend.address).one_worker().guard("query = \"ignore\"")
}

#[tokio::test]
async fn under_new_names_no_write_meets_one_under_an_old_name_and_no_read_between_is_learned() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let old = begin(gateway.put("/note?by=ann", "old"));
    let write = backend.expect("PUT", "/note?by=ann").await;
    let early = begin(gateway.get("/note?by=bob"));
    let early_read = backend.expect("GET", "/note?by=bob").await;

    gateway.reload(&without_query(&backend));

    // The same resource, now that the query does not count. It waits, and so does every other.
    let mut new = begin(gateway.put("/note?by=bob", "new").if_match("\"1\""));
    let mut other = begin(gateway.put("/other", "new"));
    let reader = begin(gateway.get("/note"));
    // What it shows is true at this moment, and not when the write is through.
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    assert_eq!(reader.answer().await.tag(), "\"1\"");
    let late = begin(gateway.get("/note"));
    let late_read = backend.expect("GET", "/note").await;
    gateway.barrier().await;
    assert!(new.waits() && other.waits());
    backend.assert_quiet();

    write.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(old.answer().await.status, 200);
    early_read.answer(200, &[("ETag", "\"1\"")], "").await;
    early.answer().await;
    late_read.answer(200, &[("ETag", "\"1\"")], "").await;
    late.answer().await;

    // Nothing was learned: the backend is asked, and what it says decides.
    while new.waits() || other.waits() {
        tokio::select! {
            arrival = backend.next() => match arrival.method.as_str() {
                "HEAD" => arrival.answer(200, &[("ETag", "\"2\"")], "").await,
                _ => {
                    assert_eq!(arrival.target, "/other", "a stale write reached the backend");
                    arrival.answer(200, &[], "").await;
                }
            },
            () = new.finished(), if new.waits() => {}
            () = other.finished(), if other.waits() => {}
        }
    }
    new.answer().await.problem("stale");
    assert_eq!(other.answer().await.status, 200);
}

#[tokio::test]
async fn the_hold_after_a_write_in_doubt_under_an_old_name_is_waited_for() {
    let mut backend = Script::start().await;
    let address = backend.address;
    let settings = || Gateway::before(address).one_worker().guard("settle = \"1h\"\nwait = \"100ms\"");
    let gateway = settings().start();
    let old = begin(gateway.put("/note", "old"));
    backend.expect("PUT", "/note").await.reset();
    assert_eq!(old.answer().await.status, 502);

    gateway.reload(&settings().guard("query = \"ignore\""));
    let refused = gateway.put("/note?x", "new").expect(409).await;
    refused.problem("busy");
    assert!(refused.field("retry-after").is_some());
    backend.assert_quiet();
}

#[tokio::test]
async fn who_waits_for_new_names_leaves_when_its_client_does() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let old = begin(gateway.put("/note", "old"));
    let write = backend.expect("PUT", "/note").await;
    gateway.reload(&without_query(&backend));
    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\ngone").await;
    gateway.barrier().await;
    raw.reset();
    gateway.barrier().await;
    write.answer(200, &[], "").await;
    assert_eq!(old.answer().await.status, 200);
    let last = begin(gateway.put("/note", "last"));
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!(put.body().await.expect("a body"), b"last");
    put.answer(200, &[], "").await;
    assert_eq!(last.answer().await.status, 200);
    backend.assert_quiet();
}

/// A write that was received under old names and can't begin under them any more begins anew, with its body.
#[tokio::test]
async fn a_write_whose_body_is_still_read_takes_its_turn_under_the_new_name() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let mut raw = gateway.raw().await;
    raw.send("PUT /note?a HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nfir").await;
    gateway.barrier().await;

    gateway.reload(&without_query(&backend));
    let other = begin(gateway.put("/note?b", "second"));
    let second = backend.expect("PUT", "/note?b").await;
    raw.send("st!").await;
    gateway.barrier().await;
    // They are one resource by now.
    backend.assert_quiet();
    second.answer(200, &[], "").await;
    assert_eq!(other.answer().await.status, 200);

    let mut first = backend.expect("PUT", "/note?a").await;
    assert_eq!(first.body().await.expect("a body"), b"first!");
    first.answer(200, &[], "").await;
    assert_eq!(raw.answer("PUT").await.status, 200);
}

#[tokio::test]
async fn what_was_known_under_names_that_come_back_does_not() {
    let store = Store::start().await;
    store.set("/note?v=1", "first");
    let with_query = || Gateway::before(store.address);
    let gateway = with_query().start();
    let first = gateway.get("/note?v=1").expect(200).await.tag();

    gateway.reload(&with_query().guard("query = \"ignore\""));
    let tag = gateway.get("/note?v=1").expect(200).await.tag();
    gateway.put("/note?v=1", "second").if_match(&tag).expect(200).await;
    gateway.reload(&with_query());

    gateway.put("/note?v=1", "third").if_match(&first).expect(409).await.problem("stale");
    assert_eq!(store.body("/note?v=1").as_deref(), Some("second"));
}

/// A write of a large body that waits while names change, with a part of it read ahead.
async fn large_write_across_a_renaming(guard: &str) -> (Gateway, Script, crate::support::Raw) {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard(guard).start();
    let old = begin(gateway.put("/other", "old"));
    let other = backend.expect("PUT", "/other").await;
    let mut raw = gateway.raw().await;
    let fields = "Host: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n";
    raw.send(format!("PUT /note?a HTTP/1.1\r\n{fields}\r\n5\r\nfirst\r\n")).await;
    gateway.barrier().await;
    gateway.reload(&without_query(&backend).guard(guard));
    raw.send(format!("{:x}\r\n{}\r\n", 80_000, "x".repeat(80_000))).await;
    gateway.barrier().await;
    backend.assert_quiet();
    other.answer(200, &[], "").await;
    assert_eq!(old.answer().await.status, 200);
    (gateway, backend, raw)
}

#[tokio::test]
async fn a_body_of_which_a_part_was_read_under_old_names_is_whole_under_new_ones() {
    let (_gateway, mut backend, mut raw) = large_write_across_a_renaming("").await;
    let mut put = backend.expect("PUT", "/note?a").await;
    raw.send(format!("{:x}\r\n{}\r\n0\r\nX-Sum: 7\r\n\r\n", 50_000, "y".repeat(50_000))).await;
    let body = put.body().await.expect("a whole body");
    let expected = format!("first{}{}", "x".repeat(80_000), "y".repeat(50_000));
    assert!(body == expected.as_bytes(), "{} bytes", body.len());
    assert_eq!(put.trailers().get("x-sum").map(|sum| sum.as_bytes()), Some(&b"7"[..]));
    put.answer(200, &[], "").await;
    assert_eq!(raw.answer("PUT").await.status, 200);
}

#[tokio::test]
async fn what_was_read_under_old_names_counts_for_the_limit_under_new_ones() {
    let (_gateway, mut backend, mut raw) = large_write_across_a_renaming("max_body = \"100000B\"").await;
    let mut put = backend.expect("PUT", "/note?a").await;
    raw.try_send(format!("{:x}\r\n{}\r\n0\r\n\r\n", 50_000, "y".repeat(50_000))).await;
    put.body().await.expect_err("a body that is cut");
    assert_eq!(raw.answer("PUT").await.status, 413);
}

#[tokio::test]
async fn a_write_that_was_only_observed_excludes_those_that_are_judged_since() {
    for mode in ["observe", "off"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().guard(&format!("mode = {mode:?}")).start();
        let early = begin(gateway.get("/note"));
        let early_read = backend.expect("GET", "/note").await;
        let first = begin(gateway.put("/note", "first"));
        let write = backend.expect("PUT", "/note").await;
        gateway.reload(&Gateway::before(backend.address).one_worker());
        let second = begin(gateway.put("/note", "second").if_match("\"1\""));
        early_read.answer(200, &[("ETag", "\"1\"")], "").await;
        early.answer().await;
        gateway.barrier().await;
        assert!(second.waits());
        backend.assert_quiet();
        write.answer(200, &[], "").await;
        assert_eq!(first.answer().await.status, 200);
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
        second.answer().await.problem("stale");
        backend.assert_quiet();
    }
}

/// Each used to hold the next. To let go of some ten thousand, one within the other, takes more stack than there is.
#[tokio::test]
async fn a_configuration_that_a_long_request_began_under_does_not_hold_those_that_follow() {
    let backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let _first = gateway.control.gateway();
    gateway.reload(&Gateway::before(backend.address).one_worker().guard("line = 7"));
    let second = std::sync::Arc::downgrade(&gateway.control.gateway());
    gateway.reload(&Gateway::before(backend.address).one_worker().guard("line = 8"));
    let gone = async {
        while second.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    within("it to be let go of", gone).await;
}

/// Between two configurations in which one upstream has a resource, another may have had it, and then nobody.
#[tokio::test]
async fn what_was_known_before_another_and_then_nobody_had_a_resource_does_not_come_back() {
    let store = Store::start().await;
    let first = store.set("/note", "first");
    let notes_to = |upstream: &str| {
        let other = format!("[upstreams.other]\nservers = [\"http://{}\"]", store.address);
        let route = format!("[[routes]]\npath = \"/note\"\nupstream = {upstream:?}");
        Gateway::before(store.address)
            .rest(&format!("{other}\n[[routes]]\npath = \"/x\"\nupstream = \"backend\"\n{route}"))
    };
    let to_nobody = || notes_to("backend").text().replace("path = \"/note\"", "path = \"/y\"");
    let gateway = notes_to("backend").start();
    gateway.get("/note").expect(200).await;
    gateway.reload(&notes_to("other"));
    gateway.put("/note", "second").if_match(&first).expect(200).await;
    gateway.reload_text(&to_nobody()).expect("a configuration");
    gateway.get("/note").expect(404).await;
    gateway.reload(&notes_to("backend"));
    gateway.put("/note", "third").if_match(&first).expect(409).await.problem("stale");
    assert_eq!(store.body("/note").as_deref(), Some("second"));
}

/// Nor must a write meet one from before nobody had the resource, which is still under way under another name.
#[tokio::test]
async fn a_write_from_before_nobody_had_a_resource_excludes_those_of_who_has_it_since() {
    let mut backend = Script::start().await;
    let address = backend.address;
    let notes = |guard: &str| {
        let routes = format!("[[routes]]\npath = \"/x\"\n[[routes]]\npath = \"/note\"\nguard = {{ {guard} }}");
        Gateway::before(address).one_worker().rest(&routes)
    };
    let gateway = notes("").start();
    let old = begin(gateway.put("/note?by=ann", "old"));
    let write = backend.expect("PUT", "/note?by=ann").await;
    gateway.reload_text(&notes("").text().replace("path = \"/note\"", "path = \"/y\"")).expect("a configuration");
    gateway.reload(&notes("query = \"ignore\""));
    let new = begin(gateway.put("/note?by=bob", "new"));
    gateway.barrier().await;
    assert!(new.waits());
    backend.assert_quiet();
    write.answer(200, &[], "").await;
    assert_eq!(old.answer().await.status, 200);
    backend.expect("PUT", "/note?by=bob").await.answer(200, &[], "").await;
    assert_eq!(new.answer().await.status, 200);
}

/// What writes under names that stay change elsewhere they tell the new names of, not those that a writer was judged by
/// who was just about to begin. (Where that is known before, they wait: see `related`.)
#[tokio::test]
async fn a_writer_that_was_judged_under_an_old_name_is_judged_anew() {
    let (mut backend, mut other) = (Script::start().await, Script::start().await);
    let (address, copies) = (backend.address, other.address);
    let settings = |guard: &str| {
        let other = format!("[upstreams.other]\nservers = [\"http://{copies}\"]");
        let routes = format!(
            "[[routes]]\npath = \"/copies/{{*rest}}\"\nupstream = \"other\"\n\
             [[routes]]\nupstream = \"backend\"\nguard = {{ {guard} }}"
        );
        Gateway::before(address).one_worker().rest(&format!("{other}\n{routes}"))
    };
    let gateway = settings("").start();
    let writer = begin(gateway.put("/note", "stale").if_match("\"1\""));
    let probe = backend.expect("HEAD", "/note").await;
    gateway.reload(&settings("query = \"ignore\""));
    let copy = begin(gateway.call("POST", "/copies/x"));
    other.expect("POST", "/copies/x").await.answer(201, &[("Location", "/note")], "").await;
    assert_eq!(copy.answer().await.status, 201);
    probe.answer(200, &[("ETag", "\"1\"")], "").await;
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    writer.answer().await.problem("stale");
    backend.assert_quiet();
}
