//! Several servers: who gets a request, who is passed over, and where a request may go a second time.

use std::net::SocketAddr;

use crate::support::{Gateway, Raw, Script, Store, begin, nobody, outside, within};

/// A gateway before these servers, with these keys of the upstream.
fn before(workers: usize, servers: &[SocketAddr], upstream: &str) -> Gateway {
    let servers: Vec<_> = servers.iter().map(|server| format!("\"http://{server}\"")).collect();
    Gateway::start(&format!(
        "workers = {workers}\ndrain_timeout = \"1s\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [upstreams.backend]\nservers = [{}]\n{upstream}\n[guard]\nsettle = \"100ms\"\n",
        servers.join(", ")
    ))
}

/// A backend that answers every request with its own name.
async fn named(name: &'static str) -> SocketAddr {
    let mut script = Script::start().await;
    let address = script.address;
    outside().spawn(async move {
        while let Some(arrival) = script.next_or_end().await {
            arrival.answer(200, &[], name).await;
        }
    });
    address
}

async fn who_answers(gateway: &Gateway, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(gateway.get("/").expect(200).await.text().to_owned());
    }
    names
}

#[tokio::test]
async fn each_server_gets_its_turn() {
    let servers = [named("a").await, named("b").await, named("c").await];
    let gateway = before(2, &servers, "");
    let names = who_answers(&gateway, 6).await;
    assert_eq!(names, ["a", "b", "c", "a", "b", "c"]);
}

#[tokio::test]
async fn the_server_with_the_fewest_requests_gets_the_next() {
    let (mut a, mut b) = (Script::start().await, Script::start().await);
    let gateway = before(1, &[a.address, b.address], "balance = \"least_connections\"");
    let first = begin(gateway.get("/1"));
    let held = a.expect("GET", "/1").await;
    for n in 2..6 {
        let path = format!("/{n}");
        let call = begin(gateway.get(&path));
        b.expect("GET", &path).await.answer(200, &[], "").await;
        call.answer().await;
    }
    held.answer(200, &[], "").await;
    first.answer().await;
    a.assert_quiet();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_passed_over() {
    let (_socket, dead) = nobody();
    let gateway = before(1, &[dead, named("b").await], "ejection = { failures = 0 }");
    assert_eq!(who_answers(&gateway, 4).await, ["b"; 4]);
    // Nothing of a write had left, so it goes to the other, too.
    for _ in 0..4 {
        assert_eq!(gateway.put("/note", "x").expect(200).await.text(), "b");
    }
}

#[tokio::test]
async fn a_write_of_which_a_byte_has_left_goes_to_no_second_server() {
    let (mut a, mut b) = (Script::start().await, Script::start().await);
    let gateway = before(1, &[a.address, b.address], "");
    // A new connection, then one that has served before.
    for path in ["/1", "/2"] {
        let write = begin(gateway.put(path, "x"));
        let mut arrival = a.expect("PUT", path).await;
        arrival.body().await.expect("a body");
        arrival.reset();
        assert_eq!(write.answer().await.status, 502);
        b.assert_quiet();
        a.assert_quiet();
        let read = begin(gateway.get("/"));
        b.expect("GET", "/").await.answer(200, &[], "").await;
        read.answer().await;
        let read = begin(gateway.get("/"));
        a.expect("GET", "/").await.answer(200, &[], "").await;
        read.answer().await;
        let read = begin(gateway.get("/"));
        b.expect("GET", "/").await.answer(200, &[], "").await;
        read.answer().await;
    }
}

#[tokio::test]
async fn a_read_whose_connection_breaks_goes_to_another_server() {
    let (mut a, mut b) = (Script::start().await, Script::start().await);
    let gateway = before(1, &[a.address, b.address], "");
    let read = begin(gateway.get("/note"));
    a.expect("GET", "/note").await.reset();
    b.expect("GET", "/note").await.answer(200, &[], "here").await;
    assert_eq!(read.answer().await.text(), "here");
    a.assert_quiet();
}

#[tokio::test]
async fn a_read_with_a_body_goes_once() {
    let (mut a, mut b) = (Script::start().await, Script::start().await);
    let gateway = before(1, &[a.address, b.address], "");
    let read = begin(gateway.call("GET", "/search").body("query"));
    let mut arrival = a.expect("GET", "/search").await;
    arrival.body().await.expect("a body");
    arrival.reset();
    assert_eq!(read.answer().await.status, 502);
    b.assert_quiet();
}

#[tokio::test]
async fn a_server_that_fails_again_and_again_is_left_out_for_a_while() {
    let mut a = Script::start().await;
    let b = named("b").await;
    let gateway = before(1, &[a.address, b], "ejection = { failures = 2, time = \"1h\", max_time = \"1h\" }");
    for _ in 0..2 {
        let write = begin(gateway.put("/note", "x"));
        let mut arrival = a.expect("PUT", "/note").await;
        arrival.body().await.expect("a body");
        arrival.reset();
        assert_eq!(write.answer().await.status, 502);
        assert_eq!(who_answers(&gateway, 1).await, ["b"]);
    }
    assert_eq!(who_answers(&gateway, 6).await, ["b"; 6]);
    a.assert_quiet();
}

#[tokio::test]
async fn an_ejected_server_comes_back() {
    let mut a = Script::start().await;
    let b = named("b").await;
    let gateway = before(1, &[a.address, b], "ejection = { failures = 1, time = \"100ms\", max_time = \"100ms\" }");
    let write = begin(gateway.put("/note", "x"));
    a.expect("PUT", "/note").await.reset();
    assert_eq!(write.answer().await.status, 502);
    let comes_back = async {
        loop {
            let read = begin(gateway.get("/"));
            tokio::select! {
                arrival = a.next() => {
                    arrival.answer(200, &[], "a").await;
                    break read.answer().await;
                }
                () = async { while read.waits() { tokio::task::yield_now().await } } => {}
            }
        }
    };
    assert_eq!(within("the server to come back", comes_back).await.text(), "a");
}

#[tokio::test]
async fn an_answer_is_no_failure_whatever_its_status() {
    let mut a = Script::start().await;
    let b = named("b").await;
    let gateway = before(1, &[a.address, b], "ejection = { failures = 1, time = \"1h\", max_time = \"1h\" }");
    for status in [500, 502, 503, 504] {
        let call = begin(gateway.get("/"));
        a.expect("GET", "/").await.answer(status, &[], "").await;
        assert_eq!(call.answer().await.status, status);
        assert_eq!(who_answers(&gateway, 1).await, ["b"]);
    }
}

#[tokio::test]
async fn the_only_server_is_never_left_out() {
    let mut backend = Script::start().await;
    let gateway = before(1, &[backend.address], "ejection = { failures = 1, time = \"1h\", max_time = \"1h\" }");
    for _ in 0..5 {
        let write = begin(gateway.put("/note", "x"));
        backend.expect("PUT", "/note").await.reset();
        assert_eq!(write.answer().await.status, 502);
    }
    let write = begin(gateway.put("/note", "x"));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(write.answer().await.status, 200);
}

#[tokio::test]
async fn where_all_servers_fail_all_are_tried_still() {
    let (mut a, mut b) = (Script::start().await, Script::start().await);
    let keys = "ejection = { failures = 1, time = \"1h\", max_time = \"1h\" }";
    let gateway = before(1, &[a.address, b.address], keys);
    for server in [&mut a, &mut b] {
        let write = begin(gateway.put("/note", "x"));
        server.expect("PUT", "/note").await.reset();
        assert_eq!(write.answer().await.status, 502);
    }
    let write = begin(gateway.put("/note", "x"));
    a.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(write.answer().await.status, 200);
}

/// A server with a health check that a test answers, and its other requests.
async fn checked() -> (Script, tokio::sync::watch::Sender<u16>, SocketAddr) {
    let mut all = Script::start().await;
    let address = all.address;
    let (set, status) = tokio::sync::watch::channel(200);
    let (pass, rest) = tokio::sync::mpsc::unbounded_channel();
    outside().spawn(async move {
        while let Some(arrival) = all.next_or_end().await {
            if arrival.target == "/health" {
                let status = *status.borrow();
                arrival.answer(status, &[], "").await;
            } else if pass.send(arrival).is_err() {
                return;
            }
        }
    });
    (Script::of(address, rest), set, address)
}

const CHECKS: &str =
    "health = { path = \"/health\", interval = \"10ms\", timeout = \"2s\", healthy = 2, unhealthy = 2 }";

#[tokio::test]
async fn where_no_server_is_healthy_a_request_is_refused_until_one_is() {
    let (mut backend, health, address) = checked().await;
    let gateway = before(2, &[address], CHECKS);
    let call = begin(gateway.get("/"));
    backend.expect("GET", "/").await.answer(200, &[], "").await;
    assert_eq!(call.answer().await.status, 200, "a server is taken for healthy until it is known not to be");

    health.send_replace(503);
    let refused = within("a refusal", async {
        loop {
            let call = begin(gateway.put("/note", "x"));
            tokio::select! {
                arrival = backend.next() => arrival.answer(200, &[], "").await,
                () = async { while call.waits() { tokio::task::yield_now().await } } => {
                    let answer = call.answer().await;
                    if answer.status == 503 {
                        return answer;
                    }
                }
            }
        }
    });
    let refused = refused.await;
    refused.problem("no-upstream");
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert!(refused.text().contains("Nothing was changed"), "{refused:?}");

    health.send_replace(302);
    let served = within("the server to be healthy again", async {
        loop {
            let call = begin(gateway.get("/again"));
            tokio::select! {
                arrival = backend.next() => {
                    arrival.answer(200, &[], "").await;
                    return call.answer().await;
                }
                () = async { while call.waits() { tokio::task::yield_now().await } } => {}
            }
        }
    });
    assert_eq!(served.await.status, 200);
}

#[tokio::test]
async fn a_server_that_is_not_healthy_gets_nothing_while_another_is() {
    let (mut ill, health, address) = checked().await;
    health.send_replace(500);
    let gateway = before(1, &[address, named("b").await], CHECKS);
    // From some moment on it is always the other; until then the ill one may get its turn.
    let mut in_a_row = 0;
    let passed_over = async {
        while in_a_row < 6 {
            let call = begin(gateway.get("/"));
            tokio::select! {
                arrival = ill.next() => {
                    arrival.answer(200, &[], "a").await;
                    in_a_row = 0;
                }
                () = async { while call.waits() { tokio::task::yield_now().await } } => {
                    in_a_row = if call.answer().await.text() == "b" { in_a_row + 1 } else { 0 };
                }
            }
        }
    };
    within("the ill server to be passed over", passed_over).await;
}

#[tokio::test]
async fn a_server_has_no_more_connections_than_it_may() {
    let mut backend = Script::start().await;
    let gateway = before(2, &[backend.address], "max_connections = 2\nconnect_timeout = \"300ms\"");
    let calls: Vec<_> = (0..2).map(|n| begin(gateway.get(&format!("/{n}")))).collect();
    let (first, second) = (backend.next().await, backend.next().await);

    let answer = gateway.put("/note", "x").expect(503).await;
    answer.problem("no-upstream");
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert!(answer.field("proxy-status").is_some_and(|s| s.contains("connection_limit_reached")), "{answer:?}");
    backend.assert_quiet();

    first.answer(200, &[], "").await;
    second.answer(200, &[], "").await;
    for call in calls {
        assert_eq!(call.answer().await.status, 200);
    }
}

#[tokio::test]
async fn who_waits_for_a_connection_gets_the_one_that_becomes_free() {
    let mut backend = Script::start().await;
    let gateway = before(2, &[backend.address], "max_connections = 1\nconnect_timeout = \"10s\"");
    let calls: Vec<_> = (0..12).map(|n| begin(gateway.get(&format!("/{n}")))).collect();
    for _ in 0..12 {
        let arrival = backend.next().await;
        backend.assert_quiet();
        arrival.answer(200, &[], "").await;
    }
    for call in calls {
        assert_eq!(call.answer().await.status, 200);
    }
}

#[tokio::test]
async fn an_unused_connection_of_one_worker_starves_no_other() {
    let store = Store::start().await;
    store.set("/note", "x");
    let keys = "max_connections = 1\nconnect_timeout = \"5s\"\nidle_timeout = \"1h\"";
    let gateway = before(2, &[store.address], keys);
    // Connections are spread over the workers by chance; of so many each gets some.
    for _ in 0..40 {
        gateway.get("/note").expect(200).await;
    }
}

#[tokio::test]
async fn a_backend_that_pauses_within_an_answer_is_given_up() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).upstream("response_idle_timeout = \"200ms\"").start();
    let mut raw: Raw = gateway.raw().await;
    raw.send("GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    let mut arrival = backend.expect("GET", "/note").await;
    arrival.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    assert_eq!(raw.broken_answer().await, b"half");
    arrival.hung_up().await;
}

#[tokio::test]
async fn an_answer_with_very_many_fields_passes() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    raw.send("GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    let arrival = backend.expect("GET", "/note").await;
    let names: Vec<_> = (0..200).map(|n| format!("x-{n}")).collect();
    let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    arrival.answer(200, &fields, "").await;
    let answer = raw.answer("GET").await;
    assert_eq!((answer.status, answer.field("x-199")), (200, Some("1")));
}

#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    // The name means ::1 and 127.0.0.1, or only one of them; the backend listens on the latter.
    let backend = named("here").await;
    let gateway = Gateway::start(&format!(
        "workers = 1\ndrain_timeout = \"1s\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [upstreams.backend]\nservers = [\"http://localhost:{}\"]\n",
        backend.port()
    ));
    assert_eq!(gateway.get("/").expect(200).await.text(), "here");
}

#[tokio::test]
async fn a_name_without_an_address_is_told_apart() {
    let gateway = Gateway::start(
        "workers = 1\ndrain_timeout = \"1s\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [upstreams.backend]\nservers = [\"http://no-such-host.invalid:80\"]\nconnect_timeout = \"10s\"\n",
    );
    let answer = within("an answer", gateway.get("/").send()).await;
    assert!([502, 504].contains(&answer.status), "{answer:?}");
    assert!(answer.field("proxy-status").is_some_and(|s| s.contains("dns_error") || s.contains("timeout")));
}

#[tokio::test]
async fn a_reload_that_brings_health_checks_has_them_made() {
    let (_backend, health, address) = checked().await;
    health.send_replace(500);
    let text = |keys: &str| {
        format!(
            "workers = 1\ndrain_timeout = \"1s\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
             [upstreams.backend]\nservers = [\"http://{address}\"]\nresponse_timeout = \"100ms\"\n{keys}\n"
        )
    };
    let gateway = Gateway::start(&text(""));
    gateway.get("/").expect(504).await;
    gateway.reload_text(&text(CHECKS)).expect("a configuration");
    within("the server to be found ill", async { while gateway.get("/").send().await.status != 503 {} }).await;
}

#[tokio::test]
async fn a_probe_whose_connection_breaks_goes_to_another_server() {
    let (mut a, mut b) = (Script::start().await, Script::start().await);
    let gateway = before(1, &[a.address, b.address], "");
    let write = begin(gateway.put("/note", "x").if_match("\"1\""));
    a.expect("HEAD", "/note").await.reset();
    b.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    a.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(write.answer().await.status, 200);
    b.assert_quiet();
}

/// What one server may still be at work on, another must not be sent the next write beside.
#[tokio::test]
async fn a_write_in_doubt_at_one_server_holds_up_the_next_at_another() {
    let (mut one, mut other) = (Script::start().await, Script::start().await);
    let servers = [one.address, other.address].map(|address| format!("\"http://{address}\"")).join(", ");
    let settings = Gateway::before(one.address).one_worker().guard("settle = \"1h\"\nwait = \"100ms\"");
    let first = format!("servers = [\"http://{}\"]", one.address);
    let gateway = Gateway::start(&settings.text().replace(&first, &format!("servers = [{servers}]")));
    let writer = begin(gateway.put("/note", "first"));
    let write = tokio::select! {
        write = one.next() => write,
        write = other.next() => write,
    };
    write.reset();
    assert_eq!(writer.answer().await.status, 502);
    for _ in 0..2 {
        gateway.put("/note", "next").expect(409).await.problem("busy");
    }
    one.assert_quiet();
    other.assert_quiet();
}
