//! The way from watching to refusing, rung by rung: what is forwarded, what a client is told, what is counted.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Call, Gateway, H2, Script, Store, begin, raw_put, within};

const ROUTE: &str = "/{*path}";

/// The counters of a client by its name, or of `all`, of the first route.
async fn counted(gateway: &Gateway, client: &str) -> Value {
    let route = &report(gateway).await["routes"][0];
    if client == "all" {
        return route["all"].clone();
    }
    let clients = route["clients"].as_array().expect("clients");
    clients.iter().find(|row| row["client"] == client).cloned().unwrap_or(Value::Null)
}

async fn report(gateway: &Gateway) -> Value {
    let answer = gateway.ask("GET", "/report").expect(200).await;
    assert_eq!(answer.field("content-type"), Some("application/json"));
    serde_json::from_str(answer.text()).expect("JSON")
}

fn as_client(call: Call, name: &str) -> Call {
    call.with("authorization", name).with("user-agent", name)
}

/// A gateway with one worker whose record of `/note` says `"1"`.
async fn knowing(backend: &mut Script, guard: &str) -> Gateway {
    let gateway = Gateway::before(backend.address).one_worker().admin().guard(guard).start();
    read(backend, &gateway, "\"1\"").await;
    gateway
}

async fn read(backend: &mut Script, gateway: &Gateway, tag: &str) {
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", tag)], "").await;
    assert_eq!(reader.answer().await.status, 200);
}

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
async fn what_would_be_refused_is_counted_by_client_and_kind() {
    let mut backend = Script::start().await;
    let gateway = knowing(&mut backend, "mode = \"observe\"\nmethods = [\"PUT\"]").await;
    let answered = async |backend: &mut Script, call: Call, status: u16, tag: Option<&str>| {
        let method = call.method().to_owned();
        let call = begin(call);
        let fields: Vec<_> = tag.map(|tag| ("ETag", tag)).into_iter().collect();
        backend.expect(&method, "/note").await.answer(status, &fields, "").await;
        assert_eq!(call.answer().await.status, status);
    };
    let curl = |call: Call| call.with("user-agent", "curl/8.5.0");
    let put = || curl(gateway.put("/note", "x"));
    answered(&mut backend, put().if_match("\"1\""), 200, Some("\"2\"")).await;
    answered(&mut backend, put().if_match("\"1\""), 200, None).await;
    // Nothing is known to be current, but that both are not.
    answered(&mut backend, put().if_match("\"1\", \"2\""), 400, None).await;
    answered(&mut backend, put().if_match("\"5\""), 400, None).await;
    answered(&mut backend, put().if_match("5"), 400, None).await;
    read(&mut backend, &gateway, "\"6\"").await;
    answered(&mut backend, put().with("if-none-match", "*"), 400, None).await;
    answered(&mut backend, gateway.put("/note", "x"), 400, None).await;
    answered(&mut backend, curl(gateway.call("DELETE", "/note")), 400, None).await;
    answered(&mut backend, curl(gateway.call("DELETE", "/note")).if_match("\"6\""), 400, None).await;
    let all = counted(&gateway, "curl").await;
    for (what, count) in [
        ("with_precondition", 7),
        ("without_precondition", 0),
        ("stale", 2),
        ("exists", 1),
        ("unsure", 1),
        ("malformed", 1),
        ("missing_precondition", 0),
        ("overlapping", 0),
        ("unverifiable", 0),
    ] {
        assert_eq!(all[what], count, "{what}: {all}");
    }
    let nameless = counted(&gateway, "(none)").await;
    assert_eq!((&nameless["without_precondition"], &nameless["with_precondition"]), (&1.into(), &0.into()));
    // Two at once: the second would have waited.
    let (first, second) = (begin(put().if_match("\"6\"")), begin(put().if_match("\"6\"")));
    for arrival in [backend.expect("PUT", "/note").await, backend.expect("PUT", "/note").await] {
        arrival.answer(200, &[], "").await;
    }
    assert_eq!((first.answer().await.status, second.answer().await.status), (200, 200));
    assert_eq!(counted(&gateway, "curl").await["overlapping"], 1);
    let scrape = gateway.scrape().await;
    let labels = |label: &'static str, value: &'static str| [("route", ROUTE), (label, value)];
    assert_eq!(scrape.value("ifmatch_report_writes_total", &labels("precondition", "given")), 9.0);
    assert_eq!(scrape.value("ifmatch_report_writes_total", &labels("precondition", "missing")), 1.0);
    assert_eq!(scrape.value("ifmatch_report_refusals_total", &labels("why", "stale")), 2.0);
    assert_eq!(scrape.value("ifmatch_report_overwrites_total", &labels("seen", "older")), 0.0);
}

#[tokio::test]
async fn a_route_that_enforces_counts_where_it_is_asked_to() {
    for (guard, is_counted) in [("", false), ("report = true", true), ("missing = \"warn\"", true)] {
        let store = Store::start().await;
        let tag = store.set("/note", "x");
        let gateway = Gateway::before(store.address).admin().guard(guard).start();
        gateway.put("/note", "x").if_match("\"old\"").expect(409).await;
        gateway.put("/note", "x").if_match("old").expect(400).await;
        gateway.put("/note", "x").if_match(&tag).expect(200).await;
        gateway.put("/note", "x").expect(200).await;
        let route = &report(&gateway).await["routes"][0];
        assert_eq!((&route["route"], &route["counted"]), (&ROUTE.into(), &is_counted.into()), "{guard}");
        assert_eq!(route["mode"], "enforce");
        let counts = |count: u64| if is_counted { count } else { 0 };
        for (what, count) in [("with_precondition", 3), ("without_precondition", 1), ("stale", 1), ("malformed", 1)] {
            assert_eq!(route["all"][what], counts(count), "{guard}: {what}");
        }
        assert_eq!(route["all"]["unsure"], 0);
    }
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

#[tokio::test]
async fn a_write_by_who_has_not_seen_the_last_state_is_a_blind_overwrite() {
    for guard in ["mode = \"observe\"", "mode = \"warn\"", "missing = \"warn\"", "report = true"] {
        for has_tags in [true, false] {
            let store = Store::with(crate::support::Habits {
                tags: if has_tags { crate::support::Tags::Strong } else { crate::support::Tags::None },
                ..crate::support::Habits::default()
            })
            .await;
            store.set("/note", "x");
            let gateway = Gateway::before(store.address).admin().guard(guard).start();
            let ann = |method: &str| as_client(gateway.call(method, "/note"), "ann");
            let bob = |method: &str| as_client(gateway.call(method, "/note"), "bob");
            ann("GET").expect(200).await;
            bob("GET").expect(200).await;
            ann("PUT").body("a").expect(200).await;
            bob("PUT").body("b").expect(200).await;
            assert_eq!(counted(&gateway, "ann").await["blind_overwrites"], 0, "{guard}");
            assert_eq!(counted(&gateway, "bob").await["blind_overwrites"], 1, "{guard}");
            // A client's own write is none, and neither is one by who has read again.
            bob("PUT").body("c").expect(200).await;
            ann("GET").expect(200).await;
            ann("PUT").body("d").expect(200).await;
            ann("PUT").body("e").expect(200).await;
            // Nor one of which nobody knows that its client ever read.
            as_client(gateway.put("/note", "f"), "carl").expect(200).await;
            assert_eq!(counted(&gateway, "carl").await["unread"], 1);
            let all = counted(&gateway, "all").await;
            assert_eq!((&all["blind_overwrites"], &all["unread"]), (&1.into(), &1.into()), "{guard}: {all}");
            // Where a route enforces, the next is one all the same.
            bob("DELETE").expect(204).await;
            assert_eq!(counted(&gateway, "bob").await["blind_overwrites"], 2, "{guard}");
        }
    }
}

/// Who is told apart neither by credentials nor by a cookie is told by the address.
#[tokio::test]
async fn clients_are_told_by_credentials_cookies_and_addresses() {
    let store = Store::start().await;
    store.set("/note", "x");
    let gateway = Gateway::before(store.address)
        .admin()
        .top("forwarded = \"append\"\ntrusted_proxies = [\"127.0.0.1\"]")
        .guard("mode = \"observe\"")
        .start();
    let fields = [("cookie", "a"), ("cookie", "b"), ("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")];
    for (name, value) in fields {
        gateway.get("/note").with(name, value).expect(200).await;
    }
    for (blind, (name, value)) in fields.into_iter().enumerate() {
        gateway.put("/note", "x").with(name, value).expect(200).await;
        assert_eq!(counted(&gateway, "all").await["blind_overwrites"], blind, "{name}: {value}");
    }
}

#[tokio::test]
async fn what_may_have_been_seen_or_may_not_have_happened_is_not_counted() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().admin().guard("mode = \"observe\"").start();
    let bob = |method: &str| as_client(gateway.call(method, "/note"), "bob");
    let answered = async |backend: &mut Script, call: Call, status: u16, tag: &str| {
        let method = call.method().to_owned();
        let call = begin(call);
        backend.expect(&method, "/note").await.answer(status, &[("ETag", tag)], "").await;
        assert_eq!(call.answer().await.status, status);
    };
    let ann = |method: &str| as_client(gateway.call(method, "/note"), "ann");
    // Refused, in doubt, redirected, accepted, a POST; and one that left the state as it was.
    for (method, status, tag) in [
        ("PUT", 400, "\"2\""),
        ("PUT", 503, "\"2\""),
        ("PUT", 303, "\"2\""),
        ("PUT", 202, "\"2\""),
        ("POST", 200, "\"2\""),
        ("PUT", 200, "\"1\""),
    ] {
        answered(&mut backend, bob("GET"), 200, "\"1\"").await;
        answered(&mut backend, ann(method), status, tag).await;
        // What bob does is not applied, and so not counted, or it is and no blind overwrite.
        answered(&mut backend, bob("PUT"), 200, "\"1\"").await;
        assert_eq!(counted(&gateway, "bob").await["blind_overwrites"], 0, "{method} {status}");
    }
    // It began before bob's read, and ended after it.
    let write = begin(ann("PUT"));
    let arrival = backend.expect("PUT", "/note").await;
    answered(&mut backend, bob("GET"), 200, "\"1\"").await;
    arrival.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(write.answer().await.status, 200);
    answered(&mut backend, bob("PUT"), 200, "\"3\"").await;
    assert_eq!(counted(&gateway, "bob").await["blind_overwrites"], 0);
    // And a blind one that was not applied has overwritten nothing.
    answered(&mut backend, ann("PUT"), 200, "\"4\"").await;
    answered(&mut backend, bob("PUT"), 400, "\"4\"").await;
    assert_eq!(counted(&gateway, "bob").await["blind_overwrites"], 0);
    answered(&mut backend, bob("PUT"), 200, "\"5\"").await;
    assert_eq!(counted(&gateway, "bob").await["blind_overwrites"], 1);
}

#[tokio::test]
async fn clients_and_reads_are_bounded() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address)
        .admin()
        .guard("mode = \"observe\"")
        .rest("[report]\nclients = 3\nreads = 4")
        .start();
    assert_eq!(report(&gateway).await["clients_are_all_told_apart"], true);
    for n in 0..20 {
        gateway.get(&format!("/{n}")).send().await;
        gateway.put(&format!("/{n}"), "x").with("user-agent", &format!("client{n}/{n}")).send().await;
    }
    gateway.put("/0", "x").with("user-agent", "client2").send().await;
    let route = &report(&gateway).await["routes"][0];
    let clients = route["clients"].as_array().expect("clients");
    let names: Vec<_> = clients.iter().filter_map(|row| row["client"].as_str()).collect();
    assert_eq!(names, ["(other)", "client0", "client1", "client2"]);
    assert_eq!(clients[0]["without_precondition"], 17);
    assert_eq!(clients[3]["without_precondition"], 2);
    assert_eq!(report(&gateway).await["clients_are_all_told_apart"], false);
}

#[tokio::test]
async fn counters_go_on_when_the_configuration_changes() {
    let store = Store::start().await;
    store.set("/note", "x");
    let settings = |guard: &str| Gateway::before(store.address).admin().guard(guard);
    let gateway = settings("mode = \"observe\"").start();
    gateway.put("/note", "x").expect(200).await;
    gateway.reload(&settings("mode = \"warn\""));
    gateway.put("/note", "x").expect(200).await;
    gateway.reload(&settings(""));
    gateway.put("/note", "x").expect(200).await;
    let route = &report(&gateway).await["routes"][0];
    assert_eq!((&route["all"]["without_precondition"], &route["counted"]), (&2.into(), &false.into()));
    let keys = gateway.reload(&settings("").rest("[report]\nclients = 5\nreads = 6"));
    assert_eq!(keys, ["report.clients", "report.reads"]);
}

/// A write that meets a change of names is counted once, whichever configuration it goes by.
#[tokio::test]
async fn a_write_that_begins_anew_is_counted_once() {
    let mut backend = Script::start().await;
    let address = backend.address;
    let settings = |guard: &str| Gateway::before(address).one_worker().admin().guard(guard);
    let gateway = settings("report = true").start();
    let first = begin(gateway.put("/note?a", "first"));
    let write = backend.expect("PUT", "/note?a").await;
    let second = begin(gateway.put("/note?a", "second"));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    gateway.reload(&settings("report = true\nquery = \"ignore\""));
    write.answer(200, &[], "").await;
    assert_eq!(first.answer().await.status, 200);
    backend.expect("PUT", "/note?a").await.answer(200, &[], "").await;
    assert_eq!(second.answer().await.status, 200);
    assert_eq!(counted(&gateway, "all").await["without_precondition"], 2);
}

async fn ifmatch_report(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ifmatch"));
    command.arg("report").args(arguments).env_remove("IFMATCH_CONFIG");
    let ran = tokio::task::spawn_blocking(move || command.output());
    within("ifmatch report", ran).await.expect("a task").expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[tokio::test]
async fn the_command_prints_what_enforcing_would_change() {
    let store = Store::start().await;
    store.set("/note", "x");
    let gateway = Gateway::before(store.address).admin().guard("mode = \"observe\"").start();
    gateway.get("/note").expect(200).await;
    gateway.put("/note", "x").if_match("\"old\"").with("user-agent", "curl/8").expect(200).await;
    gateway.put("/note", "x").with("user-agent", "nightly-job").expect(200).await;
    let admin = gateway.admin.expect("an admin listener").to_string();
    let told = ifmatch_report(&["--admin", &format!("http://{admin}/")]).await;
    assert!(told.status.success() && told.stderr.is_empty(), "{told:?}");
    let words = text(&told.stdout);
    for part in [
        "Route /{*path}: mode = \"observe\", missing = \"allow\"\n",
        "mode = \"enforce\" would have refused 1 of 2 writes (1 stale).\n",
        "missing = \"require\" would have refused 1 more, which had no precondition: nightly-job 1.\n",
    ] {
        assert!(words.contains(part), "{part}{words}");
    }
    let raw = ifmatch_report(&["--address", &admin, "--json"]).await;
    let raw: Value = serde_json::from_slice(&raw.stdout).expect("JSON");
    assert_eq!(raw, report(&gateway).await);
    let path = std::env::temp_dir().join(format!("ifmatch-report-{}.toml", std::process::id()));
    let file = Gateway::before(store.address).rest(&format!("[admin]\naddress = \"{admin}\"")).text();
    std::fs::write(&path, file).expect("a file");
    let by_file = ifmatch_report(&["--config", path.to_str().expect("UTF-8")]).await;
    assert_eq!(text(&by_file.stdout), words);
    std::fs::remove_file(&path).expect("the file is there");
}

#[tokio::test]
async fn the_command_says_why_there_is_no_report() {
    let (_kept, nobody) = crate::support::nobody();
    let gone = ifmatch_report(&["--admin", &nobody.to_string()]).await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains(&format!("{nobody}/report: ")), "{}", text(&gone.stderr));
    let none = ifmatch_report(&["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml")]).await;
    assert_eq!(none.status.code(), Some(1));
    let said = text(&none.stderr);
    assert!(said.contains("has no [admin]") && said.contains("or give --admin"), "{said}");
    // Somebody else answers there.
    let mut backend = Script::start().await;
    let address = backend.address.to_string();
    let asked = tokio::spawn(async move { ifmatch_report(&["--admin", &address]).await });
    let mut arrival = backend.expect("GET", "/report").await;
    arrival.answer_now(200, &[], "{}").await.expect("the command reads");
    drop(arrival);
    let other = within("the command", asked).await.expect("a task");
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("the answer is no report"), "{}", text(&other.stderr));
    let wrong = ifmatch_report(&["--admin", "localhost"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("127.0.0.1:9901"), "{}", text(&wrong.stderr));
}
