//! What a refused client can do next in one round trip, and what whoever runs the service is told to look at.

use crate::support::{Answer, Call, Gateway, Habits, HeadHabit, Program, Script, Store, Tags, begin, nobody};

const ROUTE: &str = "/{*path}";

/// What stands in the answer's `detail`. `error` never speaks of settings.
fn detail(answer: &Answer) -> String {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    let member = |name: &str| problem[name].as_str().unwrap_or_else(|| panic!("{name}: {problem}")).to_owned();
    let error = member("error");
    for setting in ["guard", "[limits]", "upstream", "see "] {
        assert!(!error.to_ascii_lowercase().contains(setting), "{error}");
    }
    member("detail")
}

fn assert_detail(answer: &Answer, kind: &str, part: &str) {
    answer.problem(kind);
    let detail = detail(answer);
    assert!(detail.contains(part), "{detail:?} lacks {part:?}");
}

/// A write whose probe, a HEAD and where need be a GET, is answered so.
async fn probed(guard: &str, call: impl Fn(&Gateway) -> Call, status: u16, fields: &[(&str, &str)]) -> Answer {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(guard).rest("[tracker]\ntag_bytes = 8").start();
    let write = begin(call(&gateway));
    let mut write = Some(write);
    loop {
        let mut pending = write.take().expect("it is asked once more");
        tokio::select! {
            () = pending.finished() => {
                backend.assert_quiet();
                return pending.answer().await;
            }
            probe = backend.next() => {
                assert!(["HEAD", "GET"].contains(&probe.method.as_str()), "{probe:?}");
                probe.answer(status, fields, "").await;
            }
        }
        write = Some(pending);
    }
}

#[tokio::test]
async fn an_unverifiable_write_names_the_setting_behind_it() {
    let by_tag = |gateway: &Gateway| gateway.put("/note", "x").if_match("\"1\"");
    let by_date =
        |gateway: &Gateway| gateway.put("/note", "x").with("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT");
    let by_list = |gateway: &Gateway| gateway.put("/note", "x").with("if", "([\"1\"])");
    for (answer, part) in [
        (probed("verify = \"never\"", by_tag, 500, &[]).await, "see verify in the route's guard"),
        (probed("", by_tag, 200, &[]).await, "sends no ETag for this resource: see version in the route's guard"),
        (probed("if_header = true", by_list, 200, &[]).await, "and after_write"),
        (
            probed("", by_tag, 200, &[("ETag", "\"123456789\"")]).await,
            "more than 8 bytes and is not kept: see tag_bytes",
        ),
        (probed("", by_date, 200, &[("ETag", "\"1\"")]).await, "no Last-Modified for this resource"),
        (probed("", by_tag, 500, &[]).await, "say neither what its version is nor that it is not there"),
    ] {
        assert_eq!(answer.status, 409);
        assert_detail(&answer, "unverifiable", part);
    }
}

#[tokio::test]
async fn a_write_whose_probe_was_overtaken_may_try_again() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let write = begin(gateway.put("/note", "x").if_match("\"1\""));
    let probe = backend.expect("HEAD", "/note").await;
    let other = begin(gateway.call("POST", "/notes"));
    backend.expect("POST", "/notes").await.answer(201, &[("Location", "/note")], "").await;
    assert_eq!(other.answer().await.status, 201);
    probe.answer(200, &[("ETag", "\"1\"")], "").await;
    assert_detail(&write.answer().await, "unverifiable", "try again");
}

#[tokio::test]
async fn a_busy_write_names_the_limit_that_it_met_and_when_to_come_back() {
    for (guard, part, seconds) in [
        ("wait = \"10ms\"", "waited for 10ms, which is as long as it may: see wait in the route's guard", "5"),
        ("wait = \"0s\"\nsettle = \"2500ms\"", "held for 2.5s: see settle", "3"),
        ("wait = \"0s\"\nsettle = \"0s\"", "see wait", "1"),
        ("wait = \"0s\"\nsettle = \"1h\"", "see wait", "30"),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(guard).start();
        let _first = begin(gateway.put("/note", "a"));
        let _under_way = backend.expect("PUT", "/note").await;
        let answer = gateway.put("/note", "b").expect(409).await;
        assert_detail(&answer, "busy", part);
        assert_eq!(answer.field("retry-after"), Some(seconds), "{guard}");
    }

    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard("line = 1").start();
    let _first = begin(gateway.put("/note", "a"));
    let _under_way = backend.expect("PUT", "/note").await;
    // Whichever of them comes first waits.
    let (mut one, mut two) = (begin(gateway.put("/note", "b")), begin(gateway.put("/note", "c")));
    let full = tokio::select! { () = one.finished() => one, () = two.finished() => two }.answer().await;
    assert_detail(&full, "busy", "1 writers wait for this resource already, which is as many as may: see line");
    assert_eq!(full.field("retry-after"), Some("1"));
}

#[tokio::test]
async fn what_is_too_much_or_leads_nowhere_names_its_limit() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address)
        .guard("max_body = 3\nmethod_override = \"refuse\"\nbody_idle_timeout = \"10ms\"")
        .rest("[limits]\nrequest_line = 64\n[[routes]]\npath = \"/note\"")
        .start();
    let long = format!("/{}", "a".repeat(80));
    for (call, kind, part) in [
        (gateway.put("/note", "1234"), "body-too-large", "See max_body in the route's guard"),
        (gateway.get(&long), "uri-too-long", "See request_line in [limits]"),
        (gateway.get("/other"), "no-route", "None of [[routes]]"),
        (
            gateway.call("POST", "/note").with("x-http-method", "PUT"),
            "method-override",
            "See method_override in the route's guard",
        ),
    ] {
        assert_detail(&call.send().await, kind, part);
    }
    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 2\r\n\r\n1").await;
    assert_detail(&raw.answer("PUT").await, "body", "See body_idle_timeout in the route's guard");
}

#[tokio::test]
async fn a_service_that_gives_no_answer_names_what_it_met() {
    let (_nobody, address) = nobody();
    let gateway = Gateway::before(address).start();
    let answer = gateway.put("/note", "x").expect(502).await;
    assert_detail(&answer, "upstream-refused", "See servers of the route's upstream");
    assert!(!answer.text().contains(&address.to_string()), "where the service is, is nobody's business");

    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).upstream("response_timeout = \"50ms\"").start();
    let reader = begin(gateway.get("/note"));
    let _silent = backend.expect("GET", "/note").await;
    assert_detail(&reader.answer().await, "upstream-timeout", "See response_timeout of the route's upstream");

    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).rest("[limits]\nrequest_timeout = \"50ms\"").start();
    let reader = begin(gateway.get("/note"));
    let _silent = backend.expect("GET", "/note").await;
    assert_detail(&reader.answer().await, "request-timeout", "See request_timeout in [limits]");

    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).upstream("max_connections = 1\nconnect_timeout = \"50ms\"").start();
    let _reader = begin(gateway.get("/note"));
    let _silent = backend.expect("GET", "/note").await;
    let full = gateway.get("/note").expect(503).await;
    assert_detail(&full, "no-upstream", "See max_connections of the route's upstream");
    assert_eq!(full.field("retry-after"), Some("1"));
}

#[tokio::test]
async fn who_sends_weak_tags_under_strong_comparison_is_told_so_and_nobody_else() {
    let store = Store::start().await;
    store.set("/note", "current");
    let gateway = Gateway::before(store.address).start();
    gateway.get("/note").expect(200).await;
    let weak = gateway.put("/note", "x").if_match(&format!("W/{}", store.tag("/note"))).expect(409).await;
    assert_detail(&weak, "stale", "nothing but weak tags");
    for call in [gateway.put("/note", "x").if_match("\"old\""), gateway.put("/note", "x").if_match("W/\"a\", \"b\"")] {
        let stale = call.expect(409).await;
        let problem = stale.problem("stale");
        assert_eq!(problem["detail"], problem["error"]);
    }
    let gateway = Gateway::before(store.address).guard("comparison = \"weak\"").start();
    let stale = gateway.put("/note", "x").if_match("W/\"old\"").expect(409).await;
    assert_eq!(detail(&stale), stale.problem("stale")["error"].as_str().expect("a sentence"));
}

const STRONG: &[(&str, &str)] = &[("ETag", "\"s\"")];
const WEAK: &[(&str, &str)] = &[("ETag", "W/\"w\"")];

async fn read(backend: &mut Script, call: Call, fields: &[(&str, &str)]) {
    let reader = begin(call);
    backend.next().await.answer(200, fields, "").await;
    assert_eq!(reader.answer().await.status, 200);
}

#[tokio::test]
async fn a_route_that_has_only_shown_weak_tags_says_so_until_it_shows_a_strong_one() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().start();
    let only_weak = async || gateway.scrape().await.value("ifmatch_only_weak_tags", &[("route", ROUTE)]);
    for _ in 0..7 {
        read(&mut backend, gateway.get("/note"), WEAK).await;
    }
    assert_eq!(only_weak().await, 0.0, "some servers show one for a moment");
    let stale = gateway.put("/note", "x").if_match("\"x\"").expect(409).await;
    assert_detail(&stale, "stale", "only shown weak tags by this route");
    assert_eq!(only_weak().await, 1.0);

    read(&mut backend, gateway.get("/other"), STRONG).await;
    assert_eq!(only_weak().await, 0.0);
    let stale = gateway.put("/note", "x").if_match("\"x\"").expect(409).await;
    assert!(!detail(&stale).contains("only shown"), "{stale:?}");

    // Where they are compared weakly there is nothing to say.
    let gateway = Gateway::before(backend.address).admin().guard("comparison = \"weak\"").start();
    for _ in 0..9 {
        read(&mut backend, gateway.get("/note"), WEAK).await;
    }
    assert_eq!(gateway.scrape().await.value("ifmatch_only_weak_tags", &[]), 0.0);
}

#[tokio::test]
async fn weak_tags_that_only_probes_show_count_too() {
    let store = Store::with(Habits { tags: Tags::Weak, ..Habits::default() }).await;
    store.set("/note", "current");
    let gateway = Gateway::before(store.address).admin().start();
    let stale = gateway.put("/note", "x").if_match("\"v1\"").expect(409).await;
    assert_detail(&stale, "stale", "only shown weak tags by this route");
    assert_eq!(gateway.scrape().await.value("ifmatch_only_weak_tags", &[("route", ROUTE)]), 1.0);
}

#[tokio::test]
async fn the_log_says_once_that_there_are_only_weak_tags() {
    let mut backend = Script::start().await;
    let program = Program::before(backend.address, "level = \"warn,ifmatch::server=info\"", "");
    for _ in 0..20 {
        read(&mut backend, Call::new(program.address, "GET", "/note"), WEAK).await;
    }
    Call::new(program.address, "PUT", "/note").if_match("\"x\"").expect(409).await;
    let log = program.stop_with_log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("only shown weak tags")).collect();
    assert_eq!(lines.len(), 1, "{log:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains(ROUTE) && lines[0].contains("`comparison`"), "{lines:?}");
}

/// `tag` is what this caller is shown.
async fn reads_as(backend: &mut Script, gateway: &Gateway, caller: &str, tag: &str) {
    read(backend, gateway.get("/me").with("authorization", caller), &[("ETag", tag)]).await;
}

#[tokio::test]
async fn a_route_that_shows_each_caller_its_own_tag_says_so() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().start();
    let flips = async || gateway.scrape().await.value("ifmatch_tag_flips_total", &[("route", ROUTE)]);
    // Each third read of these finds a tag superseded by the other's; after it the record is empty.
    for round in 0..3 {
        assert_eq!(flips().await, f64::from(round));
        reads_as(&mut backend, &gateway, "ann", "\"a\"").await;
        reads_as(&mut backend, &gateway, "ben", "\"b\"").await;
        reads_as(&mut backend, &gateway, "ann", "\"a\"").await;
    }
    assert!(flips().await >= 3.0);
    reads_as(&mut backend, &gateway, "ben", "\"b\"").await;
    let stale = gateway.put("/me", "x").with("authorization", "ann").if_match("\"a\"").expect(409).await;
    assert_detail(&stale, "stale", "seems to show other tags to other callers");
    assert!(detail(&stale).contains("see partition in its guard, or let the service send Vary"));
    assert!(!stale.text().contains("\\\"b\\\""), "what another was shown: {}", stale.text());
}

#[tokio::test]
async fn tags_that_change_and_replicas_that_lag_for_one_caller_are_no_flips() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().start();
    for tag in ["\"a\"", "\"b\"", "\"a\"", "\"b\"", "\"a\"", "\"b\""] {
        reads_as(&mut backend, &gateway, "ann", tag).await;
    }
    for (caller, tag) in [("ann", "\"c\""), ("ben", "\"d\""), ("ann", "\"e\""), ("ben", "\"f\"")] {
        reads_as(&mut backend, &gateway, caller, tag).await;
    }
    // What tells the representations of callers apart is not mixed.
    for caller in ["ann", "ben", "ann", "ben", "ann", "ben"] {
        let fields = [("ETag", if caller == "ann" { "\"1\"" } else { "\"2\"" }), ("Vary", "Authorization")];
        read(&mut backend, gateway.get("/varied").with("authorization", caller), &fields).await;
    }
    assert_eq!(gateway.scrape().await.value("ifmatch_tag_flips_total", &[]), 0.0);
}

#[tokio::test]
async fn an_older_read_is_no_flip() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().start();
    for round in 0..4 {
        let (old, new) = (format!("\"a{round}\""), format!("\"b{round}\""));
        reads_as(&mut backend, &gateway, "ann", &old).await;
        let slow = begin(gateway.get("/me").with("authorization", "ann"));
        let late = backend.expect("GET", "/me").await;
        reads_as(&mut backend, &gateway, "ben", &new).await;
        late.answer(200, &[("ETag", &old)], "").await;
        assert_eq!(slow.answer().await.status, 200);
        // The record still says what the later read showed.
        let next = begin(gateway.put("/me", "x").with("authorization", "ben").if_match(&new));
        backend.expect("PUT", "/me").await.answer(204, &[], "").await;
        assert_eq!(next.answer().await.status, 204);
    }
    assert_eq!(gateway.scrape().await.value("ifmatch_tag_flips_total", &[]), 0.0);
}

#[tokio::test]
async fn the_log_says_once_that_tags_differ_by_caller() {
    let mut backend = Script::start().await;
    let program = Program::before(backend.address, "level = \"warn,ifmatch::server=info\"", "");
    for _ in 0..8 {
        for (caller, tag) in [("ann", "\"a\""), ("ben", "\"b\""), ("ann", "\"a\"")] {
            let call = Call::new(program.address, "GET", "/me").with("authorization", caller);
            read(&mut backend, call, &[("ETag", tag)]).await;
        }
    }
    let log = program.stop_with_log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("other tags to other callers")).collect();
    assert_eq!(lines.len(), 1, "{log:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains(ROUTE) && lines[0].contains("`partition`"), "{lines:?}");
}

#[tokio::test]
async fn a_428_says_how_to_resubmit_to_whom_the_tag_was_shown() {
    let store = Store::start().await;
    store.set("/note", "current");
    let gateway = Gateway::before(store.address).guard("missing = \"require\"").start();
    gateway.get("/note").with("authorization", "ann").expect(200).await;
    let tag = store.tag("/note");
    let told = gateway.put("/note", "x").with("authorization", "ann").expect(428).await;
    assert_detail(&told, "precondition-required", &format!("send it again with If-Match: {tag}"));
    assert!(detail(&told).contains("fetch the latest version first"));
    for other in [gateway.put("/note", "x"), gateway.put("/note", "x").with("authorization", "ben")] {
        let answer = other.expect(428).await;
        let problem = answer.problem("precondition-required");
        assert_eq!(problem["detail"], problem["error"]);
        assert!(!answer.text().contains(&tag.replace('"', "\\\"")), "{}", answer.text());
    }
    gateway.put("/note", "x").with("authorization", "ann").if_match(&tag).expect(200).await;

    // A tag that could never match is of no use.
    let store = Store::with(Habits { tags: Tags::Weak, ..Habits::default() }).await;
    store.set("/note", "current");
    for (comparison, part) in [("strong", "This resource is only written"), ("weak", "If-Match: W/\"v1\"")] {
        let guard = format!("missing = \"require\"\ncomparison = \"{comparison}\"");
        let gateway = Gateway::before(store.address).guard(&guard).start();
        gateway.get("/note").expect(200).await;
        assert_detail(&gateway.put("/note", "x").expect(428).await, "precondition-required", part);
    }
}

#[tokio::test]
async fn every_conflict_carries_the_current_representation_for_whom_prefers_it() {
    for (field, value) in [("if-match", "\"old\""), ("if-none-match", "*")] {
        for status in [409, 412] {
            for head in [HeadHabit::AsGet, HeadHabit::Status(405), HeadHabit::Untagged] {
                let store = Store::with(Habits { head, ..Habits::default() }).await;
                let guard = format!("conflict_status = {status}");
                let gateway = Gateway::before(store.address).guard(&guard).admin().start();
                store.set("/a%20note", "current");
                let call = gateway.put("/a%20note", "x").with(field, value).with("prefer", "return=representation");
                let answer = call.expect(status).await;
                assert_eq!((answer.text(), answer.tag()), ("current", store.tag("/a%20note")), "{field} {head:?}");
                assert_eq!(answer.field("preference-applied"), Some("return=representation"));
                assert_eq!(answer.field("content-location"), Some("/a%20note"));
                let kind = if field == "if-match" { "stale" } else { "exists" };
                let told = format!("ifmatch; error=http_request_denied; details=\"{kind}\"");
                assert_eq!(answer.field("proxy-status"), Some(told.as_str()));
                let verdicts = gateway.scrape().await;
                assert_eq!(verdicts.value("ifmatch_verdicts_total", &[("verdict", kind)]), 1.0);
                // And with its tag the next attempt goes through.
                gateway.put("/a%20note", "x").if_match(&answer.tag()).expect(200).await;
            }
        }
    }
}

#[tokio::test]
async fn a_backslash_in_a_query_kept_the_link_s_anchor_from_ending() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let write = begin(gateway.put("/x?a\\", "x").if_match("\"old\""));
    backend.expect("HEAD", "/x?a\\").await.answer(200, STRONG, "").await;
    let answer = write.answer().await;
    assert_eq!(answer.problem("stale")["latest"], "/x?a%5C");
    assert_eq!(answer.field("link"), Some("</x?a%5C>; rel=\"latest-version\"; anchor=\"/x?a%5C\""));
}

/// RFC 3986 §5.2 against `http://notes.example` and the request's own target: the reference must be absolute.
#[tokio::test]
async fn latest_leads_to_the_resource_from_wherever_it_is_followed() {
    for target in ["/note", "/a/b?x=1&y=%22", "//double//", "/note%3C%3E", "/a/./b/../c", "/?q", "/note/"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let write = begin(gateway.put(target, "x").if_match("\"old\""));
        let probe = backend.next().await;
        let asked = probe.target.clone();
        probe.answer(200, &[("ETag", "\"new\"")], "").await;
        let answer = write.answer().await;
        let latest = answer.problem("stale")["latest"].as_str().expect("a reference").to_owned();
        assert!(latest.starts_with('/') && !latest.starts_with("//"), "{latest} names a host");
        assert_eq!(answer.field("link"), Some(&*format!("<{latest}>; rel=\"latest-version\"; anchor=\"{latest}\"")));
        let reader = begin(gateway.get(&latest));
        let read = backend.next().await;
        assert_eq!(read.target, asked, "{target}: {latest}");
        read.answer(200, &[("ETag", "\"new\"")], "current").await;
        let tag = reader.answer().await.tag();
        let again = begin(gateway.put(target, "x").if_match(&tag));
        backend.next().await.answer(204, &[], "").await;
        assert_eq!(again.answer().await.status, 204, "{target}");
    }
}

#[tokio::test]
async fn a_simple_body_is_the_sentence_and_nothing_else() {
    let store = Store::start().await;
    store.set("/note", "current");
    let gateway = Gateway::before(store.address)
        .guard("conflict_body = \"simple\"\nmax_body = 5")
        .rest("[[routes]]\npath = \"/note\"\n[[routes]]\npath = \"/strict\"\nguard = { missing = \"require\", conflict_body = \"problem\" }")
        .start();
    gateway.get("/note").expect(200).await;
    let calls = [
        (gateway.put("/note", "x").if_match("\"old\""), 409, "stale"),
        (gateway.put("/note", "x").with("if-none-match", "*"), 409, "exists"),
        (gateway.put("/note", "x").if_match("old"), 400, "malformed-precondition"),
        (gateway.put("/note", "123456"), 413, "body-too-large"),
    ];
    for (call, status, kind) in calls {
        let answer = call.with("accept", "application/problem+json").expect(status).await;
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let members: Vec<_> = body.as_object().expect("an object").iter().collect();
        assert!(matches!(members.as_slice(), [(name, serde_json::Value::String(_))] if *name == "error"), "{body}");
        assert_eq!(answer.field("cache-control"), Some("no-store"));
        assert!(
            answer.field("proxy-status").is_some_and(|s| s.ends_with(&format!("details=\"{kind}\""))),
            "{answer:?}"
        );
        if status == 409 {
            assert_eq!(answer.tag(), store.tag("/note"));
            assert_eq!(answer.field("link"), Some("</note>; rel=\"latest-version\"; anchor=\"/note\""));
        }
    }
    gateway.put("/strict", "x").expect(428).await.problem("precondition-required");
    // No route says how.
    gateway.get("/nowhere").expect(404).await.problem("no-route");
}
