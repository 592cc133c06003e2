//! What is counted by client, blind overwrites among it, and `ifmatch report`.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Call, Gateway, Habits, Script, Store, Tags, begin, raw_put, within};

const ROUTE: &str = "/{*path}";

/// The counters of a client by its name, or of `all`, of the first route.
pub(super) async fn counted(gateway: &Gateway, client: &str) -> Value {
    let route = &report(gateway).await["routes"][0];
    if client == "all" {
        return route["all"].clone();
    }
    let clients = route["clients"].as_array().expect("clients");
    let Some(row) = clients.iter().find(|row| row["client"] == client) else { return Value::Null };
    // What is not told of a client is 0.
    let mut counted = route["all"].clone();
    counted.as_object_mut().expect("an object").values_mut().for_each(|count| *count = 0.into());
    counted.as_object_mut().expect("an object").extend(row.as_object().expect("an object").clone());
    counted
}

pub(super) async fn report(gateway: &Gateway) -> Value {
    let answer = gateway.ask("GET", "/report").expect(200).await;
    assert_eq!(answer.field("content-type"), Some("application/json"));
    serde_json::from_str(answer.text()).expect("JSON")
}

fn as_client(call: Call, name: &str) -> Call {
    call.with("authorization", name).with("user-agent", name)
}

/// A gateway with one worker whose record of `/note` says `"1"`.
pub(super) async fn knowing(backend: &mut Script, guard: &str) -> Gateway {
    let gateway = Gateway::before(backend.address).one_worker().admin().guard(guard).start();
    read(backend, &gateway, "\"1\"").await;
    gateway
}

pub(super) async fn read(backend: &mut Script, gateway: &Gateway, tag: &str) {
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", tag)], "").await;
    assert_eq!(reader.answer().await.status, 200);
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
async fn a_write_by_who_has_not_seen_the_last_state_is_a_blind_overwrite() {
    for guard in ["mode = \"observe\"", "mode = \"warn\"", "missing = \"warn\"", "report = true"] {
        for has_tags in [true, false] {
            let store =
                Store::with(Habits { tags: if has_tags { Tags::Strong } else { Tags::None }, ..Habits::default() })
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
async fn who_writes_again_what_is_in_doubt_overwrites_nothing_blindly() {
    let (observed, in_turn) = ("mode = \"observe\"", "missing = \"warn\"\nsettle = \"0s\"");
    for (guard, is_asked_for) in [(observed, true), (observed, false), (in_turn, true)] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().admin().guard(guard).start();
        let calls = [("bob", "GET", "\"1\""), ("ann", "GET", "\"1\""), ("ann", "PUT", "\"2\"")];
        for (name, method, tag) in calls {
            let call = begin(as_client(gateway.call(method, "/note"), name));
            backend.expect(method, "/note").await.answer(200, &[("ETag", tag)], "").await;
            assert_eq!(call.answer().await.status, 200);
        }
        if is_asked_for {
            let put = begin(as_client(gateway.put("/note", "x"), "bob"));
            let mut write = backend.expect("PUT", "/note").await;
            write.body().await.expect("a whole body");
            write.reset();
            assert_eq!(put.answer().await.status, 502);
        } else {
            // Answered before the service has asked for the body.
            let fields = "Authorization: bob\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
            let mut put = raw_put(&gateway, fields, "").await;
            let mut write = backend.expect("PUT", "/note").await;
            write.answer_now(503, &[], "").await.expect("the gateway reads");
            assert_eq!(put.answer("PUT").await.status, 503);
        }
        let again = begin(as_client(gateway.put("/note", "x"), "bob"));
        backend.expect("PUT", "/note").await.answer(200, &[("ETag", "\"3\"")], "").await;
        assert_eq!(again.answer().await.status, 200);
        assert_eq!(counted(&gateway, "bob").await["blind_overwrites"], 0, "{guard} {is_asked_for}");
    }
}

#[tokio::test]
async fn who_was_shown_the_current_state_in_a_refusal_has_seen_it() {
    for (prefer, blind) in [("return=representation", 0), ("return=minimal", 1)] {
        let store = Store::start().await;
        let old = store.set("/note", "x");
        let gateway = Gateway::before(store.address).admin().guard("missing = \"warn\"").start();
        let bob = |method: &str| as_client(gateway.call(method, "/note"), "bob");
        bob("GET").expect(200).await;
        as_client(gateway.put("/note", "a"), "ann").expect(200).await;
        bob("PUT").body("b").if_match(&old).with("prefer", prefer).expect(409).await;
        bob("PUT").body("b").expect(200).await;
        assert_eq!(counted(&gateway, "bob").await["blind_overwrites"], blind, "{prefer}");
    }
}

#[tokio::test]
async fn of_a_client_only_what_was_counted_is_told() {
    let store = Store::start().await;
    store.set("/note", "x");
    let gateway = Gateway::before(store.address).admin().guard("mode = \"observe\"").start();
    gateway.put("/note", "x").with("user-agent", "curl/8").expect(200).await;
    let route = &report(&gateway).await["routes"][0];
    let row = serde_json::json!({ "client": "curl", "without_precondition": 1, "unread": 1 });
    assert_eq!(route["clients"][0], row);
    assert_eq!(route["all"]["stale"], 0);
}

#[tokio::test]
async fn a_client_called_all_is_not_taken_for_all() {
    let store = Store::start().await;
    store.set("/note", "x");
    let gateway = Gateway::before(store.address).admin().guard("mode = \"observe\"").start();
    gateway.put("/note", "x").with("user-agent", "all/1").expect(200).await;
    let told = ifmatch_report(&["--admin", &gateway.admin.expect("an admin listener").to_string()]).await;
    let words = text(&told.stdout);
    let rows_of = |name: &str| words.lines().filter(|line| line.split_whitespace().next() == Some(name)).count();
    assert_eq!((rows_of("all"), rows_of("(all)")), (1, 1), "{words}");
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
