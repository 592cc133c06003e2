//! The way from watching to refusing, rung by rung: what is forwarded, what a client is told, who is not asked.

use super::report::{counted, knowing, read};
use crate::support::{Gateway, H2, Script, Store, begin, raw_put};

/// What becomes of a write with a tag that is not current, with one that can't be read, and without one: the status, and
/// what is told of it.
#[tokio::test]
async fn each_rung_in_turn() {
    const STALE: Option<&str> = Some("ifmatch; details=\"would be refused: stale\"");
    const UNREADABLE: Option<&str> = Some("ifmatch; details=\"would be refused: malformed-precondition\"");
    const WOULD_LACK: Option<&str> = Some("ifmatch; details=\"would be refused: precondition-required\"");
    const LACKS: Option<&str> = Some("ifmatch; details=\"precondition missing\"");
    for (mode, missing, stale, malformed, without) in [
        ("off", "allow", (200, None), (200, None), (200, None)),
        ("off", "warn", (200, None), (200, None), (200, None)),
        ("off", "require", (200, None), (200, None), (200, None)),
        ("observe", "allow", (200, None), (200, None), (200, None)),
        ("observe", "warn", (200, None), (200, None), (200, None)),
        ("observe", "require", (200, None), (200, None), (200, None)),
        ("warn", "allow", (200, STALE), (200, UNREADABLE), (200, None)),
        ("warn", "warn", (200, STALE), (200, UNREADABLE), (200, LACKS)),
        ("warn", "require", (200, STALE), (200, UNREADABLE), (200, WOULD_LACK)),
        ("enforce", "allow", (409, None), (400, None), (200, None)),
        ("enforce", "warn", (409, None), (400, None), (200, LACKS)),
        ("enforce", "require", (409, None), (400, None), (428, None)),
    ] {
        let store = Store::start().await;
        store.set("/note", "first");
        let gateway = Gateway::before(store.address).guard(&format!("mode = {mode:?}\nmissing = {missing:?}")).start();
        gateway.get("/note").expect(200).await;
        let put = || gateway.put("/note", "x");
        let calls = [(put().if_match("\"old\""), stale), (put().if_match("old"), malformed), (put(), without)];
        for (call, (status, told)) in calls {
            let answer = call.expect(status).await;
            let said = answer.field("proxy-status");
            if status == 200 {
                assert_eq!(said, told, "{mode} {missing}");
            } else {
                assert!(said.is_some_and(|said| said.contains("error=")), "{mode} {missing}: {said:?}");
            }
            gateway.get("/note").expect(200).await;
        }
        let current = store.tag("/note");
        let answer = put().if_match(&current).expect(200).await;
        assert_eq!(answer.field("proxy-status"), None, "{mode} {missing}");
        gateway.call("POST", "/note").expect(200).await;
        assert_eq!(store.count("HEAD"), 0, "{mode} {missing}: nobody is asked");
    }
}

#[tokio::test]
async fn what_the_backend_says_of_itself_comes_first() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("missing = \"warn\"").start();
    let put = begin(gateway.put("/note", "x"));
    backend.expect("PUT", "/note").await.answer(200, &[("Proxy-Status", "cache; hit")], "").await;
    let said: Vec<_> = put.answer().await.fields.get_all("proxy-status").iter().cloned().collect();
    assert_eq!(said, ["cache; hit", "ifmatch; details=\"precondition missing\""]);
}

#[tokio::test]
async fn observed_writes_wait_for_nobody_and_take_no_turn() {
    for mode in ["observe", "warn"] {
        let mut backend = Script::start().await;
        let gateway = knowing(&mut backend, &format!("mode = {mode:?}\nmissing = \"require\"\nwait = \"0s\"")).await;
        let calls =
            [gateway.put("/note", "a"), gateway.put("/note", "b").if_match("\"1\""), gateway.call("DELETE", "/note")];
        let calls = calls.map(begin);
        // Nothing of this one's body is waited for.
        let mut slow = raw_put(&gateway, "Content-Length: 5\r\n", "").await;
        let mut arrivals = Vec::new();
        for _ in 0..4 {
            arrivals.push(backend.next().await);
        }
        assert_eq!(gateway.scrape().await.value("ifmatch_turns_total", &[]), 0.0);
        slow.send("whole").await;
        for arrival in arrivals {
            arrival.answer(200, &[], "").await;
        }
        for call in calls {
            assert_eq!(call.answer().await.status, 200);
        }
        assert_eq!(slow.answer("PUT").await.status, 200);
    }
}

/// Two spellings of one resource, of which one is only observed.
fn two_routes(backend: &Script) -> Gateway {
    let routes = "[[routes]]\npath = \"/NOTE\"\nguard = { mode = \"observe\" }\n[[routes]]\n";
    Gateway::before(backend.address).one_worker().rest(routes).start()
}

#[tokio::test]
async fn an_observed_write_does_not_wait_for_who_has_the_turn_and_nothing_is_learned_of_either() {
    let mut backend = Script::start().await;
    let gateway = two_routes(&backend);
    read(&mut backend, &gateway, "\"1\"").await;
    let guarded = begin(gateway.put("/note", "a").if_match("\"1\""));
    let with_turn = backend.expect("PUT", "/note").await;
    let observed = begin(gateway.put("/NOTE", "b"));
    let without = backend.expect("PUT", "/NOTE").await;
    with_turn.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(guarded.answer().await.status, 200);
    // Which was the last? Nobody is judged before the second has ended, and then the backend is asked.
    let next = begin(gateway.put("/note", "c").if_match("\"2\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    assert!(next.waits());
    backend.assert_quiet();
    without.answer(200, &[], "").await;
    assert_eq!(observed.answer().await.status, 200);
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"3\"")], "").await;
    next.answer().await.problem("stale");
}

#[tokio::test]
async fn a_question_that_an_observed_write_overtakes_decides_nothing() {
    let mut backend = Script::start().await;
    let gateway = two_routes(&backend);
    let guarded = begin(gateway.put("/note", "a").if_match("\"1\""));
    let question = backend.expect("HEAD", "/note").await;
    let observed = begin(gateway.put("/NOTE", "b"));
    backend.expect("PUT", "/NOTE").await.answer(200, &[], "").await;
    assert_eq!(observed.answer().await.status, 200);
    question.answer(200, &[("ETag", "\"1\"")], "").await;
    guarded.answer().await.problem("unverifiable");
    backend.assert_quiet();
}

#[tokio::test]
async fn what_a_read_showed_beside_an_observed_write_is_not_believed() {
    // Of the second read it is not known which of the two it was before.
    for (status, tag) in [(200, None), (400, None), (503, None), (204, Some("\"2\""))] {
        let mut backend = Script::start().await;
        let observing = "mode = \"observe\"\nsettle = \"0s\"";
        let gateway = Gateway::before(backend.address).one_worker().guard(observing).start();
        let early = begin(gateway.get("/note"));
        let early_read = backend.expect("GET", "/note").await;
        let put = begin(gateway.put("/note", "x"));
        let write = backend.expect("PUT", "/note").await;
        // Begun and answered while it is under way.
        read(&mut backend, &gateway, "\"1\"").await;
        let fields: Vec<_> = tag.map(|tag| ("ETag", tag)).into_iter().collect();
        write.answer(status, &fields, "").await;
        assert_eq!(put.answer().await.status, status);
        early_read.answer(200, &[("ETag", "\"1\"")], "").await;
        early.answer().await;
        gateway.reload(&Gateway::before(backend.address).one_worker());
        let stale = begin(gateway.put("/note", "y").if_match("\"1\""));
        if tag.is_none() {
            backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
        }
        stale.answer().await.problem("stale");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn an_observed_write_whose_client_is_gone_counts_until_its_end() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "mode = \"observe\"\nsettle = \"200ms\"").await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push((raw_put(&gateway, "Content-Length: 1\r\n", "x").await, backend.expect("PUT", "/note").await));
    }
    let mut writes = Vec::new();
    for (client, write) in clients {
        client.reset();
        writes.push(write);
    }
    gateway.reload(&Gateway::before(backend.address).one_worker().admin());
    let next = begin(gateway.put("/note", "y").if_match("\"1\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    assert!(next.waits());
    backend.assert_quiet();
    writes.pop().expect("a write").answer(200, &[("ETag", "\"2\"")], "").await;
    gateway.barrier().await;
    assert!(next.waits(), "the other is still under way");
    backend.assert_quiet();
    // In doubt: it is waited for, for a while.
    writes.pop().expect("a write").reset();
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"3\"")], "").await;
    next.answer().await.problem("stale");
    assert_eq!(counted(&gateway, "all").await["without_precondition"], 2);
}

/// Its body passes as it comes, so a client can be gone in the middle of it.
#[tokio::test]
async fn an_observed_write_that_breaks_off_is_in_doubt() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "mode = \"observe\"\nsettle = \"200ms\"").await;
    let client = raw_put(&gateway, "Content-Length: 5\r\n", "ha").await;
    let mut write = backend.expect("PUT", "/note").await;
    client.reset();
    write.body().await.expect_err("a body that is cut");
    gateway.reload(&Gateway::before(backend.address).one_worker());
    let next = begin(gateway.put("/note", "y").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    next.answer().await.problem("stale");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_client_that_asks_whether_to_go_on_is_told_by_the_backend() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("mode = \"warn\"\nmissing = \"require\"").start();
    let mut client = raw_put(&gateway, "Content-Length: 5\r\nExpect: 100-continue\r\n", "").await;
    let mut write = backend.expect("PUT", "/note").await;
    write.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.answer("PUT").await.status, 100);
    client.send("whole").await;
    assert_eq!(write.body().await.expect("a body"), b"whole");
    write.answer(200, &[], "").await;
    let answer = client.answer("PUT").await;
    let told = "ifmatch; details=\"would be refused: precondition-required\"";
    assert_eq!((answer.status, answer.field("proxy-status")), (200, Some(told)));
}

#[tokio::test]
async fn an_observed_write_over_http2_whose_stream_is_gone_counts_too() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "mode = \"observe\"").await;
    let client = H2::connect(gateway.address).await;
    let (sender, call) = (client.clone(), gateway.put("/note", "x"));
    let sent = tokio::spawn(async move { drop(sender.try_send(call).await) });
    let write = backend.expect("PUT", "/note").await;
    sent.abort();
    drop(client);
    gateway.reload(&Gateway::before(backend.address).one_worker().admin());
    write.answer(200, &[("ETag", "\"2\"")], "").await;
    let stale = begin(gateway.put("/note", "y").if_match("\"1\""));
    stale.answer().await.problem("stale");
    let next = begin(gateway.put("/note", "y").if_match("\"2\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200, "alone, it says what is current");
}

#[tokio::test]
async fn an_observed_write_is_not_kept_waiting_by_a_reload() {
    let mut backend = Script::start().await;
    let address = backend.address;
    let settings = |guard: &str| Gateway::before(address).one_worker().guard(guard);
    let gateway = settings("").start();
    let old = begin(gateway.put("/note?a", "old"));
    let old_write = backend.expect("PUT", "/note?a").await;
    gateway.reload(&settings("query = \"ignore\"\nmode = \"observe\""));
    let observed = begin(gateway.put("/note?b", "observed"));
    let write = backend.expect("PUT", "/note?b").await;
    // Names change once more: whoever is judged under the newest waits for both.
    gateway.reload(&settings(""));
    let judged = begin(gateway.put("/note?b", "judged"));
    for (ends, call) in [(old_write, old), (write, observed)] {
        tokio::task::yield_now().await;
        gateway.barrier().await;
        assert!(judged.waits());
        backend.assert_quiet();
        ends.answer(200, &[], "").await;
        assert_eq!(call.answer().await.status, 200);
    }
    backend.expect("PUT", "/note?b").await.answer(200, &[], "").await;
    assert_eq!(judged.answer().await.status, 200);
}

#[tokio::test]
async fn nothing_is_taken_from_what_is_only_observed() {
    let mut backend = Script::start().await;
    for mode in ["observe", "warn"] {
        let guard = format!("mode = {mode:?}\nforward_preconditions = false\nmethod_override = \"refuse\"");
        let gateway = Gateway::before(backend.address).one_worker().admin().guard(&guard).start();
        for method in ["PUT", "POST", "GET", "HEAD"] {
            let call = gateway.call(method, "/note").if_match("\"1\"").with("if-none-match", "\"2\"");
            let call = begin(call.with("x-http-method-override", "DELETE"));
            let arrival = backend.expect(method, "/note").await;
            for (name, value) in
                [("if-match", "\"1\""), ("if-none-match", "\"2\""), ("x-http-method-override", "DELETE")]
            {
                assert_eq!(arrival.field(name), Some(value), "{mode} {method}");
            }
            arrival.answer(200, &[("ETag", "\"1\"")], "").await;
            let answer = call.answer().await;
            assert_eq!(answer.status, 200, "{mode} {method}");
        }
        assert_eq!(counted(&gateway, "all").await["method_override"], 1, "the POST");
        // Such a GET may have been a write, and what it shows is nothing that was read.
        gateway.reload(&Gateway::before(backend.address).one_worker().admin());
        let put = begin(gateway.put("/note", "x").if_match("\"1\""));
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
        put.answer().await.problem("stale");
    }
}

#[tokio::test]
async fn a_read_that_overrides_its_method_on_a_route_that_is_off_may_be_a_write() {
    let mut backend = Script::start().await;
    let routes = "[[routes]]\npath = \"/NOTE\"\nguard = { mode = \"off\" }\n[[routes]]\n";
    let gateway = Gateway::before(backend.address).one_worker().rest(routes).start();
    read(&mut backend, &gateway, "\"1\"").await;
    let overriding = || gateway.get("/NOTE").with("x-http-method-override", "PUT");
    let guarded = begin(gateway.put("/note", "a").if_match("\"1\""));
    let with_turn = backend.expect("PUT", "/note").await;
    let unguarded = begin(overriding());
    tokio::task::yield_now().await;
    gateway.barrier().await;
    assert!(unguarded.waits());
    backend.assert_quiet();
    with_turn.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(guarded.answer().await.status, 200);
    let write = backend.expect("GET", "/NOTE").await;
    assert_eq!(write.field("x-http-method-override"), Some("PUT"));
    let stale = begin(gateway.put("/note", "b").if_match("\"2\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    assert!(stale.waits());
    backend.assert_quiet();
    write.answer(200, &[("ETag", "\"3\"")], "").await;
    assert_eq!(unguarded.answer().await.status, 200);
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"3\"")], "").await;
    stale.answer().await.problem("stale");
    // A tunnel takes no turn, so what asks for one is no write to the service either.
    let upgrade = begin(overriding().with("connection", "upgrade").with("upgrade", "websocket"));
    let asked = backend.expect("GET", "/NOTE").await;
    assert_eq!((asked.field("upgrade"), asked.field("x-http-method-override")), (Some("websocket"), None));
    asked.answer(200, &[], "").await;
    assert_eq!(upgrade.answer().await.status, 200);
}

#[tokio::test]
async fn who_is_exempt_needs_no_precondition_and_is_judged_by_one_all_the_same() {
    let store = Store::start().await;
    store.set("/note", "x");
    let gateway = Gateway::before(store.address)
        .admin()
        .top("forwarded = \"append\"\ntrusted_proxies = [\"127.0.0.1\"]")
        .guard("missing = \"require\"\nreport = true")
        .guard("exempt = [{ address = \"10.0.0.0/8\" }, { header = \"User-Agent\", value = \"nightly-job*\" }]")
        .start();
    let put = || gateway.put("/note", "x");
    put().expect(428).await;
    put().with("x-forwarded-for", "10.1.2.3").expect(200).await;
    put().with("x-forwarded-for", "10.1.2.3, 11.1.2.3").expect(428).await;
    put().with("x-forwarded-for", "::ffff:10.1.2.3").expect(200).await;
    put().with("user-agent", "nightly-job/2").expect(200).await;
    put().with("user-agent", "a nightly-job/2").expect(428).await;
    put().with("user-agent", "nightly-job/2").if_match("\"old\"").expect(409).await.problem("stale");
    put().with("user-agent", "nightly-job/2").if_match("old").expect(400).await;
    let all = counted(&gateway, "all").await;
    assert_eq!(
        (&all["exempt"], &all["without_precondition"], &all["missing_precondition"]),
        (&3.into(), &3.into(), &3.into())
    );
    assert_eq!(all["with_precondition"], 2);
}

#[tokio::test]
async fn nobody_is_exempt_by_an_address_of_which_only_a_client_speaks() {
    let store = Store::start().await;
    store.set("/note", "x");
    for (address, status) in [("10.0.0.0/8", 428), ("127.0.0.1", 200), ("::ffff:127.0.0.1", 200), ("127.0.0.2", 428)] {
        let guard = format!("missing = \"require\"\nexempt = [{{ address = {address:?} }}]");
        let gateway = Gateway::before(store.address).guard(&guard).start();
        gateway.put("/note", "x").with("x-forwarded-for", "10.1.2.3").expect(status).await;
    }
}

/// Exemption must not cost the others an update.
#[tokio::test]
async fn the_writes_of_who_is_exempt_take_turns() {
    let mut backend = Script::start().await;
    let guard = "missing = \"require\"\nexempt = [{ header = \"X-Job\" }]";
    let gateway = knowing(&mut backend, guard).await;
    let exempt = begin(gateway.put("/note", "a").with("x-job", "1"));
    let under_way = backend.expect("PUT", "/note").await;
    let other = begin(gateway.put("/note", "b").if_match("\"1\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    assert!(other.waits());
    backend.assert_quiet();
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(exempt.answer().await.status, 200);
    other.answer().await.problem("stale");
}
