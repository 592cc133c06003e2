//! Writes that change other resources, too: what is stale after them, and who waits for whom.

use crate::support::{Answer, Gateway, Habits, Pending, Script, Store, begin, gateway::Settings};

/// Orders with lines: a line's write changes its order and the list of them.
const ORDERS: &str = r#"
[[routes]]
path = "/orders/{id}/lines/{line}"
also_changes = ["/orders/{id}", "/orders"]
[[routes]]
path = "/orders/{id}/lines"
also_changes = ["/orders/{id}"]
[[routes]]
"#;

fn orders(backend: &Script) -> Settings {
    Gateway::before(backend.address).one_worker().rest(ORDERS)
}

/// Has this path's tag learned.
async fn learn(gateway: &Gateway, backend: &mut Script, path: &str, tag: &str) {
    let reader = begin(gateway.get(path));
    backend.expect("GET", path).await.answer(200, &[("ETag", tag)], "").await;
    reader.answer().await;
}

/// Nothing more comes of it until somebody does something else.
async fn assert_waits(gateway: &Gateway, backend: &mut Script, call: &Pending) {
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    assert!(call.waits());
}

/// Whether a write by this tag is forwarded without a question, refused without one, or makes the gateway ask.
#[derive(Debug, PartialEq, Eq)]
enum Held {
    Current,
    Stale,
    Unknown,
}

async fn held(gateway: &Gateway, backend: &mut Script, path: &str, tag: &str) -> Held {
    let mut writer = begin(gateway.put(path, "by a held tag").if_match(tag));
    let arrival = tokio::select! {
        arrival = backend.next() => Some(arrival),
        () = writer.finished() => None,
    };
    let Some(arrival) = arrival else {
        writer.answer().await.problem("stale");
        return Held::Stale;
    };
    assert_eq!(arrival.target, path);
    if arrival.method == "PUT" {
        arrival.answer(200, &[("ETag", tag)], "").await;
        assert_eq!(writer.answer().await.status, 200);
        return Held::Current;
    }
    assert_eq!(arrival.method, "HEAD");
    arrival.answer(200, &[("ETag", "\"another\"")], "").await;
    writer.answer().await.problem("stale");
    Held::Unknown
}

#[tokio::test]
async fn what_a_held_tag_is_worth_after_a_write_that_also_changes_its_resource() {
    for (method, path, status, order, list) in [
        ("PUT", "/orders/7/lines/3", 200, Held::Unknown, Held::Unknown),
        ("DELETE", "/orders/7/lines/3", 204, Held::Unknown, Held::Unknown),
        ("PATCH", "/orders/7/lines/3", 303, Held::Unknown, Held::Unknown),
        ("POST", "/orders/7/lines", 201, Held::Unknown, Held::Current),
        // It may have been applied all the same.
        ("PUT", "/orders/7/lines/3", 500, Held::Unknown, Held::Unknown),
        // What was known of the line was wrong, and then of its order, too.
        ("PUT", "/orders/7/lines/3", 412, Held::Unknown, Held::Unknown),
        // Nothing has changed.
        ("PUT", "/orders/7/lines/3", 400, Held::Current, Held::Current),
        ("POST", "/orders/7/lines", 422, Held::Current, Held::Current),
        // Not one of these.
        ("PUT", "/orders/8/lines/3", 200, Held::Current, Held::Unknown),
        ("PUT", "/orders/7", 200, Held::Unknown, Held::Current),
        ("PUT", "/orders/7/notes/3", 200, Held::Current, Held::Current),
    ] {
        for (read, tag, expected) in [("/orders/7", "\"1\"", order), ("/orders", "\"all\"", list)] {
            let mut backend = Script::start().await;
            let gateway = orders(&backend).guard("settle = \"0s\"\nverify = \"unknown\"").start();
            learn(&gateway, &mut backend, read, tag).await;
            let writer = begin(gateway.call(method, path));
            backend.expect(method, path).await.answer(status, &[], "").await;
            assert_eq!(writer.answer().await.status, status);
            let (found, after) = (held(&gateway, &mut backend, read, tag).await, (method, path, status, read));
            assert_eq!(found, expected, "after {after:?}");
        }
    }
}

/// A backend that takes them for the same changes the same, whichever route they take.
#[tokio::test]
async fn another_spelling_of_the_written_path_changes_the_same() {
    for (path, expected) in [
        ("/Orders/7/lines/3", Held::Unknown),
        ("/orders/7/lines/3/", Held::Unknown),
        ("//orders/7/lines//3", Held::Unknown),
        ("/orders/7;v=1/lines/3", Held::Unknown),
        ("/orders/7/Lines", Held::Unknown),
        ("/orders/7%2Flines/3", Held::Unknown),
        ("/orders%2F7/lines%5C3", Held::Unknown),
        ("/orders/7%252Flines/3", Held::Unknown),
        ("/orders/8%2Flines/3", Held::Current),
        ("/orders/7/lines/3/notes", Held::Current),
        ("/Orders/8/lines/3", Held::Current),
    ] {
        let mut backend = Script::start().await;
        let gateway = orders(&backend).start();
        learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
        let writer = begin(gateway.put(path, "x"));
        backend.expect("PUT", path).await.answer(200, &[], "").await;
        assert_eq!(writer.answer().await.status, 200);
        assert_eq!(held(&gateway, &mut backend, "/orders/7", "\"1\"").await, expected, "{path}");
    }
}

/// A service that is asked by several names has one order all the same.
#[tokio::test]
async fn a_line_written_by_another_host_changes_its_order() {
    let lines = "path = \"/orders/{id}/lines/{line}\"\n";
    let also = "also_changes = [\"/orders/{id}\"]\n";
    let catch_all = "[[routes]]\n";
    for (routes, host) in [
        (format!("[[routes]]\nhost = \"notes.example\"\n{lines}{also}{catch_all}"), "other.example"),
        (format!("[[routes]]\nhost = \"notes.example\"\n{lines}{also}{catch_all}"), "NOTES.example:80"),
        (format!("[[routes]]\nhost = \"other.example\"\n{lines}[[routes]]\n{lines}{also}{catch_all}"), "other.example"),
    ] {
        for (path, expected) in [
            ("/orders/7/lines/3", Held::Unknown),
            ("/Orders/7/lines/3/", Held::Unknown),
            ("/orders/8/lines/3", Held::Current),
        ] {
            let mut backend = Script::start().await;
            let gateway = Gateway::before(backend.address).one_worker().rest(&routes).start();
            learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
            let line = begin(gateway.put(path, "x").with("host", host));
            backend.expect("PUT", path).await.answer(200, &[], "").await;
            line.answer().await;
            assert_eq!(
                held(&gateway, &mut backend, "/orders/7", "\"1\"").await,
                expected,
                "{path} at {host}\n{routes}"
            );
        }
    }
}

/// A superseded tag is not asked for again where the backend is asked before a conflict only if need be.
#[tokio::test]
async fn a_tag_that_a_related_write_superseded_is_known_to_be_stale() {
    let mut backend = Script::start().await;
    let gateway = orders(&backend).start();
    learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
    let line = begin(gateway.put("/orders/7/lines/3", "x"));
    backend.expect("PUT", "/orders/7/lines/3").await.answer(200, &[], "").await;
    line.answer().await;
    learn(&gateway, &mut backend, "/orders/7", "\"2\"").await;
    assert_eq!(held(&gateway, &mut backend, "/orders/7", "\"1\"").await, Held::Stale);
    assert_eq!(held(&gateway, &mut backend, "/orders/7", "\"2\"").await, Held::Current);
}

/// Real stores, a reader and a writer: no order is written by a tag from before its line was.
#[tokio::test]
async fn an_order_is_not_overwritten_by_who_has_not_seen_its_line() {
    let store = Store::with(Habits::default()).await;
    store.set("/orders/7", "no lines");
    store.set("/orders/7/lines/3", "one");
    let gateway = Gateway::before(store.address).rest(ORDERS).start();
    let seen = gateway.get("/orders/7").expect(200).await.tag();
    gateway.put("/orders/7/lines/3", "two").expect(200).await;
    // The service changes the order with its line.
    store.set("/orders/7", "two of it");
    gateway.put("/orders/7", "closed").if_match(&seen).expect(409).await.problem("stale");
    assert_eq!(store.body("/orders/7").as_deref(), Some("two of it"));
}

#[tokio::test]
async fn a_writer_of_the_order_waits_for_its_lines_and_they_for_it() {
    let mut backend = Script::start().await;
    let gateway = orders(&backend).start();
    learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
    let line = begin(gateway.put("/orders/7/lines/3", "x"));
    let under_way = backend.expect("PUT", "/orders/7/lines/3").await;

    let order = begin(gateway.put("/orders/7", "x").if_match("\"1\""));
    assert_waits(&gateway, &mut backend, &order).await;
    under_way.answer(200, &[], "").await;
    assert_eq!(line.answer().await.status, 200);
    // What was known is not known any more.
    backend.expect("HEAD", "/orders/7").await.answer(200, &[("ETag", "\"1\"")], "").await;
    let under_way = backend.expect("PUT", "/orders/7").await;

    let lines = [begin(gateway.put("/orders/7/lines/3", "x")), begin(gateway.call("POST", "/orders/7/lines"))];
    for line in &lines {
        assert_waits(&gateway, &mut backend, line).await;
    }
    // Nobody waits for another order's.
    let other = begin(gateway.put("/orders/8/lines/3", "x"));
    backend.expect("PUT", "/orders/8/lines/3").await.answer(200, &[], "").await;
    assert_eq!(other.answer().await.status, 200);
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(order.answer().await.status, 200);
    let arrivals = [backend.next().await, backend.next().await];
    for arrival in arrivals {
        arrival.answer(200, &[], "").await;
    }
    for line in lines {
        assert_eq!(line.answer().await.status, 200);
    }
}

#[tokio::test]
async fn writes_to_two_lines_of_one_order_run_together() {
    let mut backend = Script::start().await;
    let gateway = orders(&backend).start();
    let (three, four) = (begin(gateway.put("/orders/7/lines/3", "x")), begin(gateway.put("/orders/7/lines/4", "x")));
    let both = [backend.next().await, backend.next().await];
    for arrival in both {
        arrival.answer(200, &[], "").await;
    }
    assert_eq!((three.answer().await.status, four.answer().await.status), (200, 200));
}

#[tokio::test]
async fn what_is_read_while_a_related_write_is_under_way_is_not_learned() {
    let mut backend = Script::start().await;
    let gateway = orders(&backend).start();
    let early = begin(gateway.get("/orders/7"));
    let early_read = backend.expect("GET", "/orders/7").await;
    let line = begin(gateway.put("/orders/7/lines/3", "x"));
    let under_way = backend.expect("PUT", "/orders/7/lines/3").await;
    learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
    let late = begin(gateway.get("/orders/7"));
    let late_read = backend.expect("GET", "/orders/7").await;
    under_way.answer(200, &[], "").await;
    line.answer().await;
    for (read, reader) in [(early_read, early), (late_read, late)] {
        read.answer(200, &[("ETag", "\"1\"")], "").await;
        reader.answer().await;
    }
    assert_eq!(held(&gateway, &mut backend, "/orders/7", "\"1\"").await, Held::Unknown);
}

/// The backend may still be at work on all of it.
#[tokio::test]
async fn a_write_in_doubt_holds_all_its_turns() {
    let mut backend = Script::start().await;
    let gateway = orders(&backend).guard("settle = \"1h\"\nwait = \"50ms\"").start();
    let line = begin(gateway.put("/orders/7/lines/3", "x"));
    backend.expect("PUT", "/orders/7/lines/3").await.reset();
    assert_eq!(line.answer().await.status, 502);
    for path in ["/orders/7", "/orders", "/orders/7/lines/3"] {
        gateway.put(path, "x").expect(409).await.problem("busy");
    }
    backend.assert_quiet();
    let other = begin(gateway.put("/orders/8", "x"));
    backend.expect("PUT", "/orders/8").await.answer(200, &[], "").await;
    assert_eq!(other.answer().await.status, 200);
}

/// What is still on its way may yet be applied, to all of them.
#[tokio::test]
async fn a_body_that_is_under_way_after_its_answer_holds_all_turns() {
    let mut backend = Script::start().await;
    let gateway = orders(&backend).start();
    let mut raw = gateway.raw().await;
    let body = "x".repeat(100_000);
    raw.send(format!("PUT /orders/7/lines/3 HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 100001\r\n\r\n{body}"))
        .await;
    let mut arrival = backend.expect("PUT", "/orders/7/lines/3").await;
    arrival.answer_now(200, &[], "").await.expect("an open connection");
    assert_eq!(raw.answer("PUT").await.status, 200);
    let order = begin(gateway.put("/orders/7", "x"));
    assert_waits(&gateway, &mut backend, &order).await;
    raw.send("y").await;
    assert_eq!(arrival.body().await.expect("a body").len(), 100_001);
    arrival.go_on();
    backend.expect("PUT", "/orders/7").await.answer(200, &[], "").await;
    assert_eq!(order.answer().await.status, 200);
}

/// Nothing was sent, so nothing has changed, and nobody waits for it.
#[tokio::test]
async fn a_write_that_could_not_be_sent_leaves_all_as_it_was() {
    let mut backend = Script::start().await;
    let (_nobody, address) = crate::support::nobody();
    let gateway = Gateway::start(&format!(
        "workers = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [upstreams.orders]\nservers = [\"http://{}\"]\n[upstreams.lines]\nservers = [\"http://{address}\"]\n\
         [guard]\nsettle = \"1h\"\n[[routes]]\npath = \"/orders/{{id}}/lines/{{line}}\"\nupstream = \"lines\"\n\
         also_changes = [\"/orders/{{id}}\"]\n[[routes]]\nupstream = \"orders\"\n",
        backend.address
    ));
    learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
    gateway.put("/orders/7/lines/3", "x").expect(502).await;
    assert_eq!(held(&gateway, &mut backend, "/orders/7", "\"1\"").await, Held::Current);
}

/// Who waits for one turn and goes away, or has waited for too long, gives back the others.
#[tokio::test]
async fn who_can_not_have_all_turns_has_none() {
    let mut backend = Script::start().await;
    let gateway = orders(&backend).guard("line = 1").start();
    let order = begin(gateway.put("/orders/7", "x"));
    let order_under_way = backend.expect("PUT", "/orders/7").await;
    let list = begin(gateway.put("/orders", "x"));
    let list_under_way = backend.expect("PUT", "/orders").await;

    let mut raw = gateway.raw().await;
    raw.send("PUT /orders/7/lines/3 HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 0\r\n\r\n").await;
    gateway.barrier().await;
    raw.reset();
    gateway.barrier().await;
    // It has left the only place in line, for another that waits for one turn after the other.
    let waiting = begin(gateway.put("/orders/7/lines/3", "x"));
    assert_waits(&gateway, &mut backend, &waiting).await;
    // A third finds the line full, whichever it is.
    let refused = gateway.put("/orders/7/lines/4", "x").expect(409).await;
    refused.problem("busy");

    order_under_way.answer(200, &[], "").await;
    assert_eq!(order.answer().await.status, 200);
    assert_waits(&gateway, &mut backend, &waiting).await;
    list_under_way.answer(200, &[], "").await;
    assert_eq!(list.answer().await.status, 200);
    backend.expect("PUT", "/orders/7/lines/3").await.answer(200, &[], "").await;
    assert_eq!(waiting.answer().await.status, 200);
    for path in ["/orders/7/lines/4", "/orders/7", "/orders"] {
        let writer = begin(gateway.put(path, "x"));
        backend.expect("PUT", path).await.answer(200, &[], "").await;
        assert_eq!(writer.answer().await.status, 200);
    }
}

#[tokio::test]
async fn one_wait_is_for_all_turns() {
    let mut backend = Script::start().await;
    let gateway = orders(&backend).guard("wait = \"50ms\"").start();
    let order = begin(gateway.put("/orders/7", "x"));
    let under_way = backend.expect("PUT", "/orders/7").await;
    gateway.put("/orders/7/lines/3", "x").expect(409).await.problem("busy");
    // The list is free, and so is the line once the order is.
    let list = begin(gateway.put("/orders", "x"));
    backend.expect("PUT", "/orders").await.answer(200, &[], "").await;
    assert_eq!(list.answer().await.status, 200);
    under_way.answer(200, &[], "").await;
    assert_eq!(order.answer().await.status, 200);
    let line = begin(gateway.put("/orders/7/lines/3", "x"));
    backend.expect("PUT", "/orders/7/lines/3").await.answer(200, &[], "").await;
    assert_eq!(line.answer().await.status, 200);
}

/// Each changes the other: who takes the first turn of both gets through, and then the other.
#[tokio::test]
async fn many_crossed_writes_all_get_through() {
    let store = Store::start().await;
    let routes = "[[routes]]\npath = \"/a/{n}\"\nalso_changes = [\"/b/{n}\", \"/c\"]\n\
                  [[routes]]\npath = \"/b/{n}\"\nalso_changes = [\"/c\", \"/a/{n}\"]\n\
                  [[routes]]\npath = \"/c\"\nalso_changes = [\"/b/1\", \"/a/1\", \"/a/2\"]\n[[routes]]\n";
    let gateway = Gateway::before(store.address).guard("wait = \"1m\"\nline = 1000").rest(routes).start();
    let paths = ["/a/1", "/b/1", "/c", "/a/2", "/b/2"];
    let methods = ["PUT", "PATCH", "POST"];
    let calls: Vec<_> =
        (0..300).map(|n| begin(gateway.call(methods[n % 3], paths[n % 5]).body(format!("by {n}")))).collect();
    for call in calls {
        let answer: Answer = call.answer().await;
        assert!(answer.status < 500 && answer.status != 409, "{answer:?}");
    }
}

/// The destination of a COPY or MOVE is known before it is sent.
#[tokio::test]
async fn a_writer_of_the_destination_waits_for_the_copy_and_the_copy_for_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    learn(&gateway, &mut backend, "/copy", "\"1\"").await;
    let copy = |destination: &str| begin(gateway.call("COPY", "/note").with("destination", destination));
    let copying = copy("http://notes.example/copy");
    let under_way = backend.expect("COPY", "/note").await;
    let writer = begin(gateway.put("/copy", "x").if_match("\"1\""));
    assert_waits(&gateway, &mut backend, &writer).await;
    under_way.answer(201, &[], "").await;
    assert_eq!(copying.answer().await.status, 201);
    backend.expect("HEAD", "/copy").await.answer(200, &[("ETag", "\"1\"")], "").await;
    let under_way = backend.expect("PUT", "/copy").await;
    let copying = copy("/copy");
    assert_waits(&gateway, &mut backend, &copying).await;
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

/// Services take a path out of it by rules of their own, whatever the host: nginx and others copy to `/copy` each time.
#[tokio::test]
async fn a_copy_changes_whatever_its_destination_may_be_taken_for() {
    for (destination, expected) in [
        (&b"/copy"[..], Held::Unknown),
        (b"//copy", Held::Unknown),
        (b"///copy", Held::Unknown),
        (b"//elsewhere.example/copy", Held::Unknown),
        (b"http://notes.example:9999/copy", Held::Unknown),
        (b"http://elsewhere.example/copy", Held::Unknown),
        (b"/copy?x=1", Held::Unknown),
        (b"/copy?a b", Held::Unknown),
        (b"/copy?\xE9", Held::Unknown),
        (b"/copy#\xE9", Held::Unknown),
        (b"copy", Held::Unknown),
        (b"/copy%3Fx", Held::Unknown),
        (b"/another", Held::Current),
        (b"//copy/another", Held::Current),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().start();
        learn(&gateway, &mut backend, "/copy", "\"1\"").await;
        let copy = gateway.call("COPY", "/folder/note").with_bytes("destination", destination);
        let copy = begin(copy);
        backend.expect("COPY", "/folder/note").await.answer(204, &[], "").await;
        assert_eq!(copy.answer().await.status, 204);
        let found = held(&gateway, &mut backend, "/copy", "\"1\"").await;
        assert_eq!(found, expected, "{:?}", destination.escape_ascii().to_string());
    }
}

#[tokio::test]
async fn bytes_of_a_destination_count_as_their_escapes() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    learn(&gateway, &mut backend, "/caf%E9", "\"1\"").await;
    let copy = begin(gateway.call("COPY", "/note").with_bytes("destination", b"/caf\xE9"));
    backend.expect("COPY", "/note").await.answer(204, &[], "").await;
    assert_eq!(copy.answer().await.status, 204);
    assert_eq!(held(&gateway, &mut backend, "/caf%E9", "\"1\"").await, Held::Unknown);
}

/// What is nobody's turn would be overwritten, and each of many would be somebody's.
#[tokio::test]
async fn a_write_with_many_destinations_or_one_that_can_not_be_read_is_refused() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    for method in ["COPY", "MOVE", "POST"] {
        for destinations in
            [&[&b"/a"[..], b"/b"][..], &[b"/a", b"/a"], &[b"/x\\copy"], &[b"/copy%"], &[b"/x%2F..%2Fcopy"]]
        {
            let call = gateway.call(method, "/note");
            let call = destinations.iter().fold(call, |call, destination| call.with_bytes("destination", destination));
            call.expect(400).await.problem("bad-target");
        }
    }
    backend.assert_quiet();
}

/// Nothing is refused there; it counts for the first and the last.
#[tokio::test]
async fn a_write_with_many_destinations_passes_where_nothing_is_enforced() {
    for mode in ["observe", "warn", "off"] {
        let mut backend = Script::start().await;
        let routes = format!("[[routes]]\npath = \"/note\"\nguard = {{ mode = \"{mode}\" }}\n[[routes]]\n");
        let gateway = Gateway::before(backend.address).one_worker().rest(&routes).start();
        for (destination, expected) in [("/a", Held::Unknown), ("/b", Held::Current), ("/c", Held::Unknown)] {
            learn(&gateway, &mut backend, destination, "\"1\"").await;
            let copy =
                ["/a", "/b%", "/c"].iter().fold(gateway.call("COPY", "/note"), |c, to| c.with("destination", to));
            let copy = begin(copy);
            backend.expect("COPY", "/note").await.answer(204, &[], "").await;
            assert_eq!(copy.answer().await.status, 204, "{mode}");
            assert_eq!(held(&gateway, &mut backend, destination, "\"1\"").await, expected, "{mode} {destination}");
        }
    }
}

/// Refused, it has changed nothing at its destination.
#[tokio::test]
async fn the_destination_of_a_refused_copy_keeps_its_tag() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    learn(&gateway, &mut backend, "/copy", "\"1\"").await;
    let copy = begin(gateway.call("MOVE", "/note").with("destination", "/copy"));
    backend.expect("MOVE", "/note").await.answer(403, &[], "").await;
    copy.answer().await;
    assert_eq!(held(&gateway, &mut backend, "/copy", "\"1\"").await, Held::Current);
}

/// The related resource's own route says how it is called: here without its query, and apart for each tenant.
#[tokio::test]
async fn the_related_resources_own_route_decides_its_name() {
    let routes = "[[routes]]\npath = \"/orders/{id}/lines/{line}\"\nalso_changes = [\"/orders/{id}\"]\n\
                  [[routes]]\npath = \"/orders/{id}\"\nguard = { query = \"ignore\", partition = [\"X-Tenant\"] }\n[[routes]]\n";
    for (tenant, expected) in [("a", Held::Unknown), ("b", Held::Current)] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().rest(routes).start();
        let reader = begin(gateway.get("/orders/7?page=2").with("x-tenant", "a"));
        backend.expect("GET", "/orders/7?page=2").await.answer(200, &[("ETag", "\"1\"")], "").await;
        reader.answer().await;
        let line = begin(gateway.put("/orders/7/lines/3?x=y", "x").with("x-tenant", tenant));
        backend.expect("PUT", "/orders/7/lines/3?x=y").await.answer(200, &[], "").await;
        line.answer().await;
        let mut writer = begin(gateway.put("/orders/7", "x").with("x-tenant", "a").if_match("\"1\""));
        let arrival = backend.next().await;
        let found = if arrival.method == "HEAD" { Held::Unknown } else { Held::Current };
        arrival.answer(200, &[("ETag", "\"2\"")], "").await;
        writer.finished().await;
        assert_eq!(found, expected, "{tenant}");
    }
}

/// A write that began before anybody knew that it changes the order has no turn there.
#[tokio::test]
async fn what_writes_also_change_counts_from_a_reload_on() {
    let mut backend = Script::start().await;
    let plain = || Gateway::before(backend.address).one_worker();
    let (before, after) = (plain(), plain().rest(ORDERS));
    let gateway = before.start();
    learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
    let line = begin(gateway.put("/orders/7/lines/3", "x"));
    let under_way = backend.expect("PUT", "/orders/7/lines/3").await;
    gateway.reload(&after);
    learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
    let order = begin(gateway.put("/orders/7", "x").if_match("\"1\""));
    assert_waits(&gateway, &mut backend, &order).await;
    under_way.answer(200, &[], "").await;
    assert_eq!(line.answer().await.status, 200);
    backend.expect("HEAD", "/orders/7").await.answer(200, &[("ETag", "\"2\"")], "").await;
    order.answer().await.problem("stale");
    backend.assert_quiet();
}

/// The order's name is new, the line's is not: the line's write waits for who writes to the order under its old name.
#[tokio::test]
async fn a_write_waits_where_only_what_it_also_changes_has_a_new_name() {
    let mut orders = Script::start().await;
    let mut lines = Script::start().await;
    let file = |query: &str| {
        format!(
            "workers = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
             [upstreams.orders]\nservers = [\"http://{}\"]\n[upstreams.lines]\nservers = [\"http://{}\"]\n\
             [[routes]]\npath = \"/orders/{{id}}/lines/{{line}}\"\nupstream = \"lines\"\nalso_changes = [\"/orders/{{id}}\"]\n\
             [[routes]]\nupstream = \"orders\"\nguard = {{ query = \"{query}\" }}\n",
            orders.address, lines.address
        )
    };
    let (before, after) = (file("include"), file("ignore"));
    let gateway = Gateway::start(&before);
    let order = begin(gateway.put("/orders/7", "x"));
    let under_way = orders.expect("PUT", "/orders/7").await;
    gateway.reload_text(&after).expect("a configuration that can be used");
    let line = begin(gateway.put("/orders/7/lines/3", "x"));
    assert_waits(&gateway, &mut lines, &line).await;
    under_way.answer(200, &[], "").await;
    assert_eq!(order.answer().await.status, 200);
    lines.expect("PUT", "/orders/7/lines/3").await.answer(200, &[], "").await;
    assert_eq!(line.answer().await.status, 200);
}

/// What was remembered of the order's last write is not given again after its line was written, also where nothing but that
/// says that it has changed.
#[tokio::test]
async fn a_repeated_write_is_not_answered_again_after_a_related_one() {
    for fields in [&[("ETag", "\"2\"")][..], &[]] {
        let mut backend = Script::start().await;
        let gateway = orders(&backend).guard("replay = \"1m\"").start();
        let put = || gateway.put("/orders/7", "x").if_match("\"1\"");
        learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
        let first = begin(put());
        backend.expect("PUT", "/orders/7").await.answer(200, fields, "").await;
        first.answer().await;
        put().expect(200).await;
        backend.assert_quiet();
        let line = begin(gateway.put("/orders/7/lines/3", "x"));
        backend.expect("PUT", "/orders/7/lines/3").await.answer(200, &[], "").await;
        line.answer().await;
        let again = begin(put());
        backend.expect("HEAD", "/orders/7").await.answer(200, &[("ETag", "\"2\"")], "").await;
        again.answer().await.problem("stale");
        backend.assert_quiet();
    }
}

/// Orders with lines, of whose writes nothing is enforced.
fn orders_with_lines_in(backend: &Script, mode: &str) -> Gateway {
    let lines = "also_changes = [\"/orders/{id}\", \"/orders\"]";
    let routes = ORDERS.replacen(lines, &format!("{lines}\nguard = {{ mode = \"{mode}\" }}"), 1);
    Gateway::before(backend.address).one_worker().rest(&routes).start()
}

/// Nothing is judged there, and a write counts all the same.
#[tokio::test]
async fn a_write_that_nobody_judges_changes_what_it_also_changes() {
    for mode in ["off", "observe", "warn"] {
        let mut backend = Script::start().await;
        let gateway = orders_with_lines_in(&backend, mode);
        learn(&gateway, &mut backend, "/orders/7", "\"1\"").await;
        let line = begin(gateway.put("/orders/7/lines/3", "x"));
        let under_way = backend.expect("PUT", "/orders/7/lines/3").await;
        let order = begin(gateway.put("/orders/7", "x").if_match("\"1\""));
        assert_waits(&gateway, &mut backend, &order).await;
        under_way.answer(200, &[], "").await;
        assert_eq!(line.answer().await.status, 200);
        backend.expect("HEAD", "/orders/7").await.answer(200, &[("ETag", "\"2\"")], "").await;
        order.answer().await.problem("stale");
        backend.assert_quiet();
    }
}

/// What is only observed waits for nobody; and who wrote to the order meanwhile has not made its own tag the current one.
#[tokio::test]
async fn an_observed_write_does_not_wait_for_who_writes_to_what_it_also_changes() {
    let mut backend = Script::start().await;
    let gateway = orders_with_lines_in(&backend, "observe");
    let order = begin(gateway.put("/orders/7", "x"));
    let under_way = backend.expect("PUT", "/orders/7").await;
    let line = begin(gateway.put("/orders/7/lines/3", "x"));
    backend.expect("PUT", "/orders/7/lines/3").await.answer(200, &[], "").await;
    assert_eq!(line.answer().await.status, 200);
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(order.answer().await.status, 200);
    assert_eq!(held(&gateway, &mut backend, "/orders/7", "\"2\"").await, Held::Unknown);
}
