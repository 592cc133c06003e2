//! What is counted: the text of a scrape, and that each number moves when, and only when, it should.

use crate::support::{Gateway, Script, Store, begin, nobody, within};

const ROUTE: &str = "/{*path}";

#[tokio::test]
async fn a_forwarded_and_a_stale_write_are_counted_by_route() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address)
        .admin()
        .rest(
            "[[routes]]\nhost = \"Notes.Example\"\npath = \"/notes/{id}\"\nupstream = \"backend\"\n\
             [[routes]]\nupstream = \"backend\"",
        )
        .start();
    let put = begin(gateway.put("/notes/1", "mine").if_match("\"1\""));
    backend.expect("HEAD", "/notes/1").await.answer(200, &[("ETag", "\"1\"")], "").await;
    backend.expect("PUT", "/notes/1").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(put.answer().await.status, 200);
    gateway.put("/notes/1", "stale").if_match("\"1\"").expect(409).await;
    let get = begin(gateway.get("/other"));
    backend.expect("GET", "/other").await.answer(299, &[], "five!").await;
    assert_eq!(get.answer().await.status, 299);

    let scrape = gateway.scrape().await;
    let route = ("route", "notes.example/notes/{id}");
    let is = |name: &str, labels: &[(&str, &str)]| scrape.value(name, labels);
    assert_eq!(is("ifmatch_requests_total", &[route, ("method", "PUT"), ("status", "200")]), 1.0);
    assert_eq!(is("ifmatch_requests_total", &[route, ("method", "PUT"), ("status", "409")]), 1.0);
    assert_eq!(is("ifmatch_requests_total", &[("route", ROUTE), ("method", "GET"), ("status", "299")]), 1.0);
    assert_eq!(is("ifmatch_requests_total", &[]), 3.0);
    assert_eq!(is("ifmatch_verdicts_total", &[route, ("verdict", "forward")]), 1.0);
    assert_eq!(is("ifmatch_verdicts_total", &[route, ("verdict", "stale")]), 1.0);
    assert_eq!(is("ifmatch_verdicts_total", &[]), 2.0);
    assert_eq!(is("ifmatch_probes_total", &[route, ("result", "tag")]), 1.0);
    assert_eq!(is("ifmatch_probes_total", &[]), 1.0);
    assert_eq!((is("ifmatch_turns_total", &[]), is("ifmatch_turns_held", &[])), (1.0, 0.0));
    assert_eq!(is("ifmatch_turn_hold_seconds_count", &[]), 1.0);
    assert_eq!(is("ifmatch_turn_wait_seconds_count", &[]), 1.0);
    assert_eq!(is("ifmatch_upstream_requests_total", &[("upstream", "backend")]), 3.0);
    assert_eq!(is("ifmatch_upstream_response_seconds_count", &[("upstream", "backend")]), 3.0);
    assert_eq!(is("ifmatch_upstream_errors_total", &[]), 0.0);
    assert_eq!((is("ifmatch_records", &[]), is("ifmatch_records_capacity", &[])), (1.0, 1e6));
    assert_eq!(is("ifmatch_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert!(is("ifmatch_start_time_seconds", &[]) > 1.7e9);
    assert_eq!(is("ifmatch_in_doubt_total", &[]), 0.0);
}

#[tokio::test]
async fn durations_and_bytes_are_counted_when_an_answer_is_through() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).admin().start();
    // The second request of a connection comes after the first one's end.
    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nseven").await;
    let answer = raw.answer("PUT").await;
    assert_eq!(answer.status, 201);
    raw.send("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n").await;
    raw.answer("GET").await;
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("ifmatch_request_duration_seconds_count", &[("route", ROUTE)]), 1.0);
    assert_eq!(scrape.value("ifmatch_received_bytes_total", &[]), 5.0);
    assert!(scrape.value("ifmatch_sent_bytes_total", &[]) >= answer.body.len() as f64);
}

#[tokio::test]
async fn turns_that_are_held_and_waited_for_are_seen_while_they_are() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().admin().guard("line = 1").start();
    let first = begin(gateway.put("/note", "first"));
    let held = backend.expect("PUT", "/note").await;
    let second = begin(gateway.put("/note", "second"));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    gateway.put("/note", "third").expect(409).await.problem("busy");

    let scrape = gateway.scrape().await;
    assert_eq!((scrape.value("ifmatch_turns_held", &[]), scrape.value("ifmatch_turns_waiting", &[])), (1.0, 1.0));
    assert_eq!(scrape.value("ifmatch_verdicts_total", &[("verdict", "busy"), ("route", ROUTE)]), 1.0);

    held.answer(200, &[], "").await;
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!((first.answer().await.status, second.answer().await.status), (200, 200));
    let scrape = gateway.scrape().await;
    assert_eq!((scrape.value("ifmatch_turns_held", &[]), scrape.value("ifmatch_turns_waiting", &[])), (0.0, 0.0));
    assert_eq!(scrape.value("ifmatch_turns_total", &[]), 2.0);
    assert_eq!(scrape.value("ifmatch_turn_wait_seconds_count", &[]), 2.0);
    assert!(scrape.value("ifmatch_turn_wait_seconds_sum", &[]) > 0.0);
}

#[tokio::test]
async fn a_write_in_doubt_is_counted_and_so_is_what_went_wrong() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().guard("settle = \"1h\"").start();
    let put = begin(gateway.put("/note", "lost"));
    backend.expect("PUT", "/note").await.reset();
    assert_eq!(put.answer().await.status, 502);
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("ifmatch_in_doubt_total", &[("route", ROUTE)]), 1.0);
    assert_eq!(scrape.value("ifmatch_upstream_errors_total", &[("upstream", "backend"), ("kind", "broken")]), 1.0);
    // It is held for longer.
    assert_eq!(scrape.value("ifmatch_turns_held", &[]), 1.0);
    assert_eq!(scrape.value("ifmatch_turn_hold_seconds_count", &[]), 0.0);
}

#[tokio::test]
async fn errors_are_told_apart() {
    let (_nobody, address) = nobody();
    let gateway = Gateway::before(address).admin().start();
    gateway.get("/note").expect(502).await;
    let mut backend = Script::start().await;
    let slow = Gateway::before(backend.address).admin().upstream("response_timeout = \"50ms\"").start();
    let get = begin(slow.get("/note"));
    let _held = backend.expect("GET", "/note").await;
    assert_eq!(get.answer().await.status, 504);
    for (gateway, kind) in [(gateway, "connect"), (slow, "response_timeout")] {
        let scrape = gateway.scrape().await;
        assert_eq!(scrape.value("ifmatch_upstream_errors_total", &[("kind", kind)]), 1.0, "{kind}");
        assert_eq!(scrape.value("ifmatch_upstream_errors_total", &[]), 1.0, "{kind}");
        assert_eq!(scrape.value("ifmatch_upstream_response_seconds_count", &[]), 0.0, "{kind}");
    }
}

#[tokio::test]
async fn what_came_of_a_probe_is_counted() {
    for (status, fields, result, answered) in [
        (200, &[("ETag", "\"2\"")][..], "tag", 409),
        (404, &[], "absent", 409),
        (200, &[], "untagged", 409),
        (401, &[], "denied", 401),
        (500, &[], "unknown", 409),
        (0, &[], "failed", 502),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).admin().start();
        let put = begin(gateway.put("/note", "x").if_match("\"1\""));
        let asked = ["HEAD", "GET"].iter().take(if matches!(result, "absent" | "untagged") { 2 } else { 1 });
        for method in asked {
            let arrival = backend.expect(method, "/note").await;
            if status == 0 { arrival.reset() } else { arrival.answer(status, fields, "").await }
        }
        assert_eq!(put.answer().await.status, answered, "{result}");
        let scrape = gateway.scrape().await;
        assert_eq!(scrape.value("ifmatch_probes_total", &[("result", result), ("route", ROUTE)]), 1.0, "{result}");
        assert_eq!(scrape.value("ifmatch_probes_total", &[]), 1.0, "{result}");
    }
}

#[tokio::test]
async fn every_verdict_has_its_count() {
    let store = Store::start().await;
    let tag = store.set("/note", "x");
    let gateway = Gateway::before(store.address).admin().guard("missing = \"require\"\nverify = \"never\"").start();
    gateway.put("/unknown", "x").if_match("\"1\"").expect(409).await.problem("unverifiable");
    gateway.get("/note").expect(200).await;
    gateway.put("/note", "x").with("if-none-match", "*").expect(409).await.problem("exists");
    gateway.put("/note", "x").expect(428).await;
    gateway.put("/note", "x").if_match("unquoted").expect(400).await;
    gateway.put("/note", "x").if_match("\"other\"").with("prefer", "return=representation").expect(409).await;
    gateway.put("/note", "x").if_match(&tag).expect(200).await;
    let scrape = gateway.scrape().await;
    for (verdict, count) in [
        ("forward", 1.0),
        ("stale", 1.0),
        ("exists", 1.0),
        ("missing_precondition", 1.0),
        ("busy", 0.0),
        ("unverifiable", 1.0),
        ("malformed", 1.0),
        ("would_refuse", 0.0),
    ] {
        assert_eq!(scrape.value("ifmatch_verdicts_total", &[("verdict", verdict)]), count, "{verdict}");
    }
    assert_eq!(scrape.label("ifmatch_verdicts_total", "verdict").len(), 8);
}

#[tokio::test]
async fn what_would_be_refused_is_counted_where_it_is_only_observed() {
    let store = Store::start().await;
    let tag = store.set("/note", "x");
    let gateway = Gateway::before(store.address).admin().guard("mode = \"observe\"").start();
    gateway.get("/note").expect(200).await;
    gateway.put("/note", "x").if_match("\"other\"").expect(200).await;
    gateway.put("/note", "x").if_match("unquoted").expect(200).await;
    gateway.get("/note").expect(200).await;
    gateway.put("/note", "x").if_match(&store.tag("/note")).expect(200).await;
    gateway.call("POST", "/note").expect(200).await;
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("ifmatch_verdicts_total", &[("verdict", "would_refuse")]), 2.0, "{tag}");
    assert_eq!(scrape.value("ifmatch_verdicts_total", &[("verdict", "forward")]), 1.0);
    assert_eq!(scrape.value("ifmatch_verdicts_total", &[]), 3.0);
}

#[tokio::test]
async fn no_client_makes_labels_of_its_own() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).admin().start();
    for n in 0..20 {
        gateway.call(&format!("METHOD{n}"), &format!("/{n}?{n}")).with("host", &format!("h{n}")).send().await;
        gateway.get(&format!("/{n}%zz")).expect(400).await;
    }
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.label("ifmatch_requests_total", "route"), [ROUTE, "none"].into());
    assert_eq!(scrape.label("ifmatch_requests_total", "method"), ["GET", "other"].into());
    assert_eq!(scrape.value("ifmatch_requests_total", &[("route", "none"), ("status", "400")]), 20.0);
    assert_eq!(scrape.value("ifmatch_requests_total", &[("method", "other")]), 20.0);
}

#[tokio::test]
async fn a_client_that_is_gone_before_its_answer_is_counted_too() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().admin().start();
    let mut raw = gateway.raw().await;
    raw.send("GET /note HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut arrival = backend.expect("GET", "/note").await;
    raw.reset();
    arrival.hung_up().await;
    // The backend's connection is closed in the midst of giving the request up.
    gateway.barrier().await;
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("ifmatch_requests_total", &[("method", "GET"), ("status", "none")]), 1.0);
}

#[tokio::test]
async fn records_that_make_room_are_counted() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).admin().rest("[tracker]\ncapacity = 2").start();
    for n in 0..5 {
        store.set(&format!("/{n}"), "x");
        gateway.get(&format!("/{n}")).expect(200).await;
    }
    let scrape = gateway.scrape().await;
    assert_eq!((scrape.value("ifmatch_records", &[]), scrape.value("ifmatch_records_capacity", &[])), (2.0, 2.0));
    assert_eq!(scrape.value("ifmatch_evictions_total", &[]), 3.0);
}

#[tokio::test]
async fn connections_of_clients_are_counted() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).admin().start();
    let mut raw = gateway.raw().await;
    raw.send("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n").await;
    raw.answer("GET").await;
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("ifmatch_client_connections", &[]), 1.0);
    assert_eq!(scrape.value("ifmatch_client_connections_accepted_total", &[]), 1.0);
    drop(raw);
    within("the connection to end", async {
        while gateway.scrape().await.value("ifmatch_client_connections", &[]) > 0.0 {}
    })
    .await;
    assert_eq!(gateway.scrape().await.value("ifmatch_client_connections_accepted_total", &[]), 1.0);
}

#[tokio::test]
async fn servers_are_shown_with_what_went_wrong_with_them() {
    let (_nobody, dead) = nobody();
    let store = Store::start().await;
    let gateway = Gateway::start(&format!(
        "workers = 1\ndrain_timeout = \"2s\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\n[upstreams.backend]\n\
         servers = [\"http://{dead}\", \"http://{}\"]\nejection = {{ failures = 1, time = \"1h\" }}\n",
        store.address
    ));
    for _ in 0..2 {
        gateway.put("/note", "x").send().await;
    }
    let scrape = gateway.scrape().await;
    let of = |name: &str, server: &str, labels: &[(&str, &str)]| {
        let own = [("server", server), ("upstream", "backend")];
        scrape.value(name, &[&own, labels].concat())
    };
    let (dead, alive) = (format!("http://{dead}"), format!("http://{}", store.address));
    assert_eq!(of("ifmatch_upstream_failures_total", &dead, &[("kind", "connect")]), 1.0);
    assert_eq!(of("ifmatch_upstream_failures_total", &alive, &[]), 0.0);
    assert_eq!(of("ifmatch_upstream_healthy", &dead, &[]), 0.0);
    assert_eq!(of("ifmatch_upstream_healthy", &alive, &[]), 1.0);
    assert_eq!(of("ifmatch_upstream_connections", &alive, &[("state", "open")]), 1.0);
    assert_eq!(of("ifmatch_upstream_connections", &alive, &[("state", "idle")]), 1.0);
    // The writes were answered all the same.
    assert_eq!(scrape.value("ifmatch_upstream_errors_total", &[]), 0.0);
    gateway.ask("GET", "/readyz").expect(200).await;
}

#[tokio::test]
async fn without_a_server_that_is_well_nobody_is_sent_here() {
    let (_nobody, dead) = nobody();
    let health = "health = { interval = \"10ms\", unhealthy = 1 }";
    let gateway = Gateway::before(dead).admin().upstream(health).start();
    let unready = async { while gateway.ask("GET", "/readyz").send().await.status == 200 {} };
    within("the health check to fail", unready).await;
    assert!(gateway.ask("GET", "/readyz").expect(503).await.text().contains("healthy"));
    gateway.ask("GET", "/livez").expect(200).await;
}

/// It is still asked, for there is no other.
#[tokio::test]
async fn a_server_that_is_passed_over_for_its_failures_takes_nobody_away() {
    let (_nobody, dead) = nobody();
    let gateway = Gateway::before(dead).admin().upstream("ejection = { failures = 1, time = \"1h\" }").start();
    gateway.get("/note").expect(502).await;
    gateway.ask("GET", "/readyz").expect(200).await;
}
