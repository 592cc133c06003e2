//! What an operator asks: whether the gateway is ready, and what it knows of a resource.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use crate::support::{Gateway, Raw, Script, Store, begin, within};

/// The target as it is asked for, of a path below the tests' host.
fn record(path: &str) -> String {
    format!("/records?target=http://notes.example{}", path.replace('%', "%25").replace('?', "%3F").replace('&', "%26"))
}

async fn known(gateway: &Gateway, path: &str) -> Value {
    serde_json::from_str(gateway.ask("GET", &record(path)).expect(200).await.text()).expect("JSON")
}

#[tokio::test]
async fn what_there_is_to_ask_and_how() {
    let backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().start();
    assert_eq!(gateway.ask("GET", "/livez").expect(200).await.text(), "live\n");
    assert_eq!(gateway.ask("GET", "/readyz?verbose").expect(200).await.text(), "ready\n");
    for path in ["/livez", "/readyz", "/metrics", "/report"] {
        assert!(gateway.ask("HEAD", path).expect(200).await.body.is_empty(), "{path}");
        for method in ["POST", "DELETE", "OPTIONS"] {
            let refused = gateway.ask(method, path).expect(405).await;
            assert_eq!(refused.field("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
    assert_eq!(gateway.ask("PUT", "/records").expect(405).await.field("allow"), Some("GET, HEAD, DELETE"));
    for path in ["/", "/livez/", "/metricsx", "/records/1", "//livez"] {
        gateway.ask("GET", path).expect(404).await;
    }
    // Clients have none of this.
    gateway.get("/%zz").expect(400).await;
}

#[tokio::test]
async fn without_the_table_nobody_listens() {
    let backend = Script::start().await;
    assert_eq!(Gateway::before(backend.address).start().admin, None);
}

#[tokio::test]
async fn a_gateway_that_drains_is_live_but_not_ready() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().drain_timeout("30s").start();
    let writer = begin(gateway.put("/note", "slow"));
    let put = backend.expect("PUT", "/note").await;
    gateway.ask("GET", "/readyz").expect(200).await;
    gateway.stop();
    assert_eq!(gateway.ask("GET", "/readyz").expect(503).await.text(), "draining\n");
    gateway.ask("GET", "/livez").expect(200).await;
    assert_eq!(gateway.scrape().await.value("ifmatch_turns_held", &[]), 1.0);
    put.answer(200, &[], "done").await;
    assert_eq!(writer.answer().await.text(), "done");
    gateway.stopped().await;
}

#[tokio::test]
async fn a_record_is_shown_as_it_changes() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().admin().start();
    let nothing = known(&gateway, "/note?b&a=1").await;
    assert_eq!((&nothing["state"], &nothing["tracked"]), (&"unknown".into(), &false.into()));
    assert_eq!(nothing["target"], "http://notes.example/note?b&a=1");
    assert_eq!((&nothing["upstream"], &nothing["route"]), (&"backend".into(), &"/{*path}".into()));

    let get = begin(gateway.get("/note?b&a=1").with("authorization", "me"));
    backend.expect("GET", "/note?b&a=1").await.answer(200, &[("ETag", "W/\"1\"")], "").await;
    get.answer().await;
    let read = known(&gateway, "/note?b&a=1").await;
    assert_eq!((&read["state"], &read["tags"][0]["tag"]), (&"current".into(), &"W/\"1\"".into()));
    assert!(read["tags"][0]["age"].as_u64().is_some_and(|age| age < 60));
    assert_eq!((&read["turn"], &read["writes"], &read["waiting"]), (&"free".into(), &0.into(), &0.into()));
    let other = known(&gateway, "/Note?b&a=1").await;
    assert_eq!((&other["state"], &other["known_through_another_spelling"]), (&"unknown".into(), &true.into()));

    let posts = [begin(gateway.call("POST", "/note?b&a=1")), begin(gateway.call("POST", "/note?b&a=1"))];
    let arrived = [backend.expect("POST", "/note?b&a=1").await, backend.expect("POST", "/note?b&a=1").await];
    let delete = begin(gateway.call("DELETE", "/note?b&a=1"));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    let shared = known(&gateway, "/note?b&a=1").await;
    assert_eq!((&shared["turn"], &shared["writes"], &shared["waiting"]), (&"shared".into(), &2.into(), &1.into()));
    for arrival in arrived {
        arrival.answer(400, &[], "").await;
    }
    for post in posts {
        assert_eq!(post.answer().await.status, 400);
    }
    let arrival = backend.expect("DELETE", "/note?b&a=1").await;
    assert_eq!(known(&gateway, "/note?b&a=1").await["turn"], "taken");
    arrival.answer(204, &[], "").await;
    assert_eq!(delete.answer().await.status, 204);
    let gone = known(&gateway, "/note?b&a=1").await;
    assert_eq!((&gone["state"], &gone["absent_for"]), (&"absent".into(), &"everyone".into()));
    assert_eq!((&gone["superseded"], &gone["turn"]), (&1.into(), &"free".into()));
}

#[tokio::test]
async fn a_record_is_named_as_its_requests_are() {
    let store = Store::start().await;
    store.set("/note", "x");
    let gateway = Gateway::before(store.address)
        .admin()
        .guard("partition = [\"X-Tenant\"]")
        .rest("[[routes]]\nhost = \"notes.example\"\nupstream = \"backend\"")
        .start();
    gateway.get("/note").with("x-tenant", "a b").expect(200).await;
    for (query, state) in [
        ("target=http://notes.example/note&header=X-Tenant:a%20b", "current"),
        ("target=/no%25%37%34e&host=notes.example&header=x-tenant:%20a%20b", "current"),
        ("target=/./note&host=NOTES.example:80&header=x-tenant:a%20b", "current"),
        ("target=/note&header=Host:notes.example&header=X-Tenant:a%20b", "current"),
        ("target=http://notes.example/note&header=X-Tenant:other", "unknown"),
        ("target=http://notes.example/note", "unknown"),
    ] {
        let answer = gateway.ask("GET", &format!("/records?{query}")).expect(200).await;
        let record: Value = serde_json::from_str(answer.text()).expect("JSON");
        assert_eq!(record["state"], state, "{query}");
    }
    gateway.ask("GET", "/records?target=http://elsewhere/note").expect(404).await;
    for query in ["", "target=/note", "target=/a%2500&host=notes.example", "target=*&host=notes.example", "x=y"] {
        let refused = gateway.ask("GET", &format!("/records?{query}")).expect(400).await;
        assert!(refused.text().contains("\"error\""), "{query}");
        gateway.ask("DELETE", &format!("/records?{query}")).expect(400).await;
    }
}

#[tokio::test]
async fn what_is_forgotten_is_asked_for_again() {
    let store = Store::start().await;
    let tag = store.set("/note", "old");
    let gateway = Gateway::before(store.address).admin().start();
    gateway.get("/note").expect(200).await;
    // Somebody changes it behind the gateway's back, and says so.
    let new = store.set("/note", "new");
    assert!(gateway.ask("DELETE", &record("/note")).expect(200).await.text().contains("true"));
    assert_eq!(known(&gateway, "/note").await["state"], "unknown");
    gateway.put("/note", "mine").if_match(&tag).expect(409).await.problem("stale");
    gateway.put("/note", "mine").if_match(&new).expect(200).await;
    assert!(gateway.ask("DELETE", &record("/nobody")).expect(200).await.text().contains("false"));
}

#[tokio::test]
async fn what_is_forgotten_does_not_come_back_with_a_read_from_before() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().start();
    for path in ["/tracked", "/untracked"] {
        if path == "/tracked" {
            let first = begin(gateway.get(path));
            backend.expect("GET", path).await.answer(200, &[("ETag", "\"1\"")], "").await;
            first.answer().await;
        }
        let slow = begin(gateway.get(path));
        let arrival = backend.expect("GET", path).await;
        gateway.ask("DELETE", &record(path)).expect(200).await;
        arrival.answer(200, &[("ETag", "\"1\"")], "").await;
        assert_eq!(slow.answer().await.status, 200);
        assert_eq!(known(&gateway, path).await["state"], "unknown", "{path}");
    }
}

#[tokio::test]
async fn nothing_is_forgotten_from_under_a_write() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().start();
    let put = begin(gateway.put("/note", "x"));
    let arrival = backend.expect("PUT", "/note").await;
    gateway.ask("DELETE", &record("/note")).expect(409).await;
    arrival.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(put.answer().await.status, 200);
    assert_eq!(known(&gateway, "/note").await["tags"][0]["tag"], "\"2\"");
    gateway.ask("DELETE", &record("/note")).expect(200).await;
}

#[tokio::test]
async fn connections_of_operators_are_bounded_in_number_and_time() {
    let backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().start();
    let admin = gateway.admin.expect("an address");
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(Raw::connect(admin).await);
    }
    // One more has its answer all the same: those who say nothing must not have the process look dead. The oldest makes
    // room for it, before its time.
    let late = timeout(Duration::from_secs(3), gateway.ask("GET", "/livez").expect(200));
    late.await.expect("an answer before any is cut for its silence");
    timeout(Duration::from_secs(3), silent.remove(0).ended()).await.expect("room is made");
    // And those that say nothing are let go.
    for mut raw in silent {
        raw.ended().await;
    }
}

#[tokio::test]
async fn a_request_of_an_operator_is_bounded() {
    let backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().start();
    let mut raw = Raw::connect(gateway.admin.expect("an address")).await;
    raw.send(format!("GET /livez HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024))).await;
    assert_eq!(raw.answer("GET").await.status, 431);
    // One request a connection.
    let mut raw = Raw::connect(gateway.admin.expect("an address")).await;
    raw.send("GET /livez HTTP/1.1\r\nHost: h\r\n\r\nGET /livez HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(raw.answer("GET").await.field("connection"), Some("close"));
    within("its end", raw.ended()).await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let backend = Script::start().await;
    let first = Gateway::before(backend.address).admin().start();
    let taken = first.admin.expect("an address");
    let file = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[upstreams.backend]\nservers = [\"http://{}\"]\n\
         [admin]\naddress = \"{taken}\"\n",
        backend.address
    );
    let config = ifmatch::config::Config::parse(&file).expect("a configuration");
    let refused = ifmatch::server::Server::bind(config).expect_err("it is taken");
    assert!(refused.to_string().contains(&format!("{taken} can't be listened on")), "{refused}");
}
