//! Pages of other origins, and a tag's copy in a field of its own.

use crate::support::{Answer, Arrival, Call, Fate, Gateway, H2, Script, Store, begin, raw_put};

const PAGE: &str = "https://page.example";
const ORIGIN: &str = "access-control-allow-origin";
const CREDENTIALS: &str = "access-control-allow-credentials";
const EXPOSE: &str = "access-control-expose-headers";
const HEADERS: &str = "access-control-allow-headers";
const OURS: &str = "ETag, Retry-After, Link";
const LET_IN: [(&str, &str); 2] = [("Access-Control-Allow-Origin", PAGE), ("ETag", "\"1\"")];

async fn following(guard: &str) -> (Script, Gateway) {
    let backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(&format!("cors = \"follow\"\n{guard}")).start();
    (backend, gateway)
}

/// The page's request gets this answer from the backend.
async fn answered(backend: &mut Script, call: Call, status: u16, fields: &[(&str, &str)]) -> (Answer, Asked) {
    let call = begin(call);
    let arrival = backend.next().await;
    let asked = Asked::of(&arrival);
    arrival.answer(status, fields, "").await;
    (call.answer().await, asked)
}

/// What the backend saw.
#[derive(Debug)]
struct Asked {
    method: String,
    headers: Option<String>,
    tag: Option<String>,
}

impl Asked {
    fn of(arrival: &Arrival) -> Self {
        let field = |name| arrival.field(name).map(str::to_owned);
        let (headers, tag) = (field("access-control-request-headers"), field("x-version"));
        Self { method: arrival.method.clone(), headers, tag }
    }
}

fn read(gateway: &Gateway) -> Call {
    gateway.get("/note").with("origin", PAGE)
}

/// A write that the gateway refuses, since it knows `"1"`.
fn stale(gateway: &Gateway) -> Call {
    gateway.put("/note", "mine").with("origin", PAGE).if_match("\"0\"")
}

fn preflight(gateway: &Gateway, path: &str, method: &str) -> Call {
    let call = gateway.call("OPTIONS", path).with("origin", PAGE);
    call.with("access-control-request-method", method).with("access-control-request-headers", "if-match")
}

/// The gateway knows `"1"` from somebody who is no page.
async fn knowing(backend: &mut Script, gateway: &Gateway) {
    answered(backend, gateway.get("/note"), 200, &[("ETag", "\"1\"")]).await;
}

fn is_open(answer: &Answer) -> bool {
    answer.fields.contains_key(ORIGIN)
}

#[tokio::test]
async fn a_page_that_is_let_in_can_read_the_tag() {
    let (mut backend, gateway) = following("").await;
    let h2 = H2::connect(gateway.address).await;
    for (fields, expected) in [
        (&[("Access-Control-Allow-Origin", "*")][..], Some(OURS)),
        (&LET_IN, Some(OURS)),
        (&[LET_IN[0], ("Access-Control-Expose-Headers", "x-a, etag")], Some("x-a, etag, Retry-After, Link")),
        (&[LET_IN[0], ("Access-Control-Expose-Headers", "*")], Some("*")),
        (&[("Access-Control-Allow-Origin", "https://other.example")], None),
        (&[("ETag", "\"1\"")], None),
    ] {
        for status in [200, 404, 500] {
            let (answer, _) = answered(&mut backend, read(&gateway), status, fields).await;
            assert_eq!(answer.field(EXPOSE), expected, "{fields:?}");
        }
        let call = tokio::spawn({
            let (h2, call) = (h2.clone(), read(&gateway));
            async move { h2.send(call).await }
        });
        backend.expect("GET", "/note").await.answer(200, fields, "").await;
        assert_eq!(call.await.expect("a task").field(EXPOSE), expected, "{fields:?}");
    }
    let (answer, _) = answered(&mut backend, gateway.get("/note"), 200, &LET_IN).await;
    assert_eq!(answer.field(EXPOSE), None, "who is no page is told nothing");
}

/// A cache may keep the answer to anybody for a page, since a service that says `*` need not say `Vary: Origin`.
#[tokio::test]
async fn whoever_asks_for_what_everybody_may_read_a_cache_can_keep_it_for_pages() {
    let any = [("Access-Control-Allow-Origin", "*"), ("ETag", "\"1\"")];
    let (mut backend, gateway) = following("").await;
    let get = || gateway.get("/note");
    for call in [
        get(),
        get().with("origin", "https://notes.example"),
        get().with("origin", PAGE).with("origin", "https://other.example"),
        get().with("origin", ""),
    ] {
        let (answer, _) = answered(&mut backend, call, 200, &any).await;
        assert_eq!((answer.field(EXPOSE), answer.field("vary")), (Some(OURS), None));
    }
    let (answer, _) = answered(&mut backend, get().with("if-none-match", "\"1\""), 304, &any).await;
    assert_eq!((answer.status, answer.field(EXPOSE)), (304, Some(OURS)));
    let call = gateway.call("OPTIONS", "/note").with("access-control-request-method", "PUT");
    let (answer, _) = answered(&mut backend, call, 204, &any).await;
    assert_eq!((answer.field(EXPOSE), answer.field(HEADERS)), (None, None));
    for guard in ["", "tag_header = \"X-Version\"", "cors = \"follow\"\nmode = \"off\""] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(guard).start();
        let (answer, _) = answered(&mut backend, gateway.get("/note"), 200, &any).await;
        assert_eq!(answer.field(EXPOSE), None, "{guard}");
    }
}

#[tokio::test]
async fn by_default_and_where_a_route_is_off_nothing_is_added() {
    for guard in ["", "cors = \"off\"", "cors = \"follow\"\nmode = \"off\""] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(guard).start();
        let (answer, _) = answered(&mut backend, read(&gateway), 200, &LET_IN).await;
        assert_eq!(answer.field(EXPOSE), None, "{guard}");
        let (answer, asked) = answered(&mut backend, preflight(&gateway, "/note", "PUT"), 204, &LET_IN).await;
        assert_eq!((answer.field(HEADERS), asked.headers.as_deref()), (None, Some("if-match")), "{guard}");
        let answer = gateway.put("/note", "x").with("origin", PAGE).if_match("old");
        if guard.contains("mode") {
            answered(&mut backend, answer, 200, &[]).await;
        } else {
            assert!(!is_open(&answer.expect(400).await), "{guard}");
        }
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn where_nothing_is_refused_yet_pages_can_send_tags_already() {
    let (mut backend, gateway) = following("mode = \"observe\"\ntag_header = \"X-Version\"").await;
    let (answer, _) = answered(&mut backend, read(&gateway), 200, &LET_IN).await;
    assert_eq!((answer.field(EXPOSE).is_some(), answer.field("x-version")), (true, Some("\"1\"")));
    let (answer, _) = answered(&mut backend, preflight(&gateway, "/note", "PUT"), 204, &LET_IN[..1]).await;
    assert_eq!(answer.field(HEADERS), Some("If-Match, If-None-Match, x-version"));
    let write = stale(&gateway).with("x-version", "\"0\"");
    let (answer, asked) = answered(&mut backend, write, 200, &LET_IN).await;
    assert_eq!((answer.status, asked.method.as_str(), asked.tag), (200, "PUT", None));
}

#[tokio::test]
async fn a_preflight_allows_preconditions_where_the_backend_lets_the_page_in() {
    let (mut backend, gateway) = following("").await;
    let allowed = "Access-Control-Allow-Headers";
    for (status, fields, expected) in [
        (204, &LET_IN[..1], Some("If-Match, If-None-Match")),
        (200, &[LET_IN[0], (allowed, "content-type,IF-MATCH")], Some("content-type, IF-MATCH, If-None-Match")),
        (204, &[("Access-Control-Allow-Origin", "*"), (allowed, "*")], Some("*")),
        (
            204,
            &[LET_IN[0], (allowed, "*"), ("Access-Control-Allow-Credentials", "true")],
            Some("*, If-Match, If-None-Match"),
        ),
        (204, &[(allowed, "content-type")], Some("content-type")),
        (204, &[("Access-Control-Allow-Origin", "https://other.example")], None),
        (403, &LET_IN[..1], None),
        (204, &[], None),
    ] {
        let (answer, asked) = answered(&mut backend, preflight(&gateway, "/note", "PUT"), status, fields).await;
        assert_eq!((answer.status, answer.field(HEADERS)), (status, expected), "{fields:?}");
        assert_eq!(
            (asked.method.as_str(), asked.headers),
            ("OPTIONS", None),
            "what is answered here is not asked there"
        );
        assert_eq!(answer.field(EXPOSE), None);
    }
    let call = gateway.call("OPTIONS", "/note").with("origin", PAGE);
    let (answer, _) = answered(&mut backend, call, 204, &LET_IN).await;
    assert_eq!((answer.field(HEADERS), answer.field(EXPOSE)), (None, Some(OURS)), "no preflight");
}

#[tokio::test]
async fn a_refusal_carries_the_backends_last_word() {
    let trusted = [LET_IN[0], ("Access-Control-Allow-Credentials", "true")];
    for (fields, origin, credentials) in [
        (&LET_IN[..1], Some(PAGE), None),
        (&trusted, Some(PAGE), Some("true")),
        (&[("Access-Control-Allow-Origin", "*")], Some("*"), None),
        (&[("Access-Control-Allow-Origin", "https://other.example")], None, None),
        (&[], None, None),
    ] {
        let (mut backend, gateway) = following("missing = \"require\"").await;
        knowing(&mut backend, &gateway).await;
        answered(&mut backend, preflight(&gateway, "/note", "PUT"), 204, fields).await;
        for (call, status) in [
            (stale(&gateway), 409),
            (stale(&gateway).with("if-match", "x"), 400),
            (gateway.put("/note", "x").with("origin", PAGE), 428),
        ] {
            let answer = call.expect(status).await;
            assert_eq!((answer.field(ORIGIN), answer.field(CREDENTIALS)), (origin, credentials), "{fields:?}");
            assert_eq!(answer.field(EXPOSE), origin.map(|_| OURS));
            assert_eq!(answer.field("vary"), origin.filter(|origin| *origin == PAGE).map(|_| "Origin"));
        }
        let answer = gateway.put("/note", "mine").if_match("\"0\"").expect(409).await;
        assert!(!is_open(&answer), "who is no page is told nothing");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn where_there_is_no_word_the_backend_is_asked_once_and_without_credentials() {
    for (status, fields, opens) in [
        (204, &LET_IN[..1], true),
        (200, &[("Access-Control-Allow-Origin", "*")], true),
        (204, &[("Access-Control-Allow-Origin", "https://other.example")], false),
        (403, &LET_IN[..1], false),
        (405, &[], false),
    ] {
        let (mut backend, gateway) = following("").await;
        knowing(&mut backend, &gateway).await;
        let call = stale(&gateway).with("authorization", "Bearer me").with("cookie", "a=1").with("x-api-key", "k");
        let call = begin(call);
        let asked = backend.expect("OPTIONS", "/note").await;
        assert_eq!((asked.field("origin"), asked.field("access-control-request-method")), (Some(PAGE), Some("PUT")));
        for name in ["authorization", "cookie", "x-api-key", "if-match"] {
            assert_eq!(asked.field(name), None, "{name}");
        }
        asked.answer(status, fields, "").await;
        let answer = call.answer().await;
        answer.problem("stale");
        assert_eq!(is_open(&answer), opens, "{status} {fields:?}");
        assert_eq!(is_open(&stale(&gateway).expect(409).await), opens);
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_backend_that_gives_no_word_opens_nothing_and_is_asked_again() {
    let (mut backend, gateway) = following("").await;
    knowing(&mut backend, &gateway).await;
    let mut call = begin(stale(&gateway));
    loop {
        // It goes once more where a read would.
        tokio::select! {
            asked = backend.next() => asked.reset(),
            () = call.finished() => break,
        }
    }
    let answer = call.answer().await;
    answer.problem("stale");
    assert!(!is_open(&answer));
    let not_now = [408, 421, 425, 429, 500, 503].map(|status| (status, false));
    for (status, opens) in not_now.into_iter().chain([(204, true)]) {
        let (answer, asked) = answered(&mut backend, stale(&gateway), status, &LET_IN).await;
        assert_eq!((asked.method.as_str(), answer.status, is_open(&answer)), ("OPTIONS", 409, opens));
    }
    assert!(is_open(&stale(&gateway).expect(409).await));
    backend.assert_quiet();
}

#[tokio::test]
async fn what_the_backend_says_while_it_is_asked_is_newer() {
    for (meanwhile, opens) in [(&LET_IN[1..], false), (&LET_IN[..], true)] {
        let (mut backend, gateway) = following("").await;
        knowing(&mut backend, &gateway).await;
        let call = begin(stale(&gateway));
        let asked = backend.expect("OPTIONS", "/note").await;
        let write = gateway.put("/note", "theirs").with("origin", PAGE).if_match("\"1\"");
        answered(&mut backend, write, 200, meanwhile).await;
        let said = if opens { &LET_IN[1..] } else { &LET_IN[..] };
        asked.answer(204, said, "").await;
        assert_eq!(is_open(&call.answer().await), opens);
    }
}

#[tokio::test]
async fn who_hangs_up_while_the_backend_is_asked_leaves_nothing_behind() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard("cors = \"follow\"").start();
    knowing(&mut backend, &gateway).await;
    let raw = raw_put(&gateway, &format!("Origin: {PAGE}\r\nIf-Match: \"0\"\r\nContent-Length: 1\r\n"), "x").await;
    let mut asked = backend.expect("OPTIONS", "/note").await;
    raw.reset();
    asked.hung_up().await;
    // Its turn is free, and the question open.
    let written = begin(gateway.put("/note", "theirs").if_match("\"1\""));
    backend.expect("PUT", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(written.answer().await.status, 200);
    let (answer, asked) = answered(&mut backend, stale(&gateway), 204, &LET_IN[..1]).await;
    assert_eq!((asked.method.as_str(), is_open(&answer)), ("OPTIONS", true));
}

#[tokio::test]
async fn a_backend_that_does_not_answer_holds_up_no_refusal_for_ever() {
    for (top, upstream) in [("limits.request_timeout = \"200ms\"", ""), ("", "response_timeout = \"200ms\"")] {
        let mut backend = Script::start().await;
        let settings = Gateway::before(backend.address).top(top).upstream(upstream).guard("cors = \"follow\"");
        let gateway = settings.start();
        let call = begin(gateway.put("/note", "x").with("origin", PAGE).if_match("x"));
        let asked = backend.expect("OPTIONS", "/note").await;
        let answer = call.answer().await;
        assert_eq!((answer.status, is_open(&answer)), (400, false));
        drop(asked);
    }
}

#[tokio::test]
async fn one_word_is_for_one_origin_one_resource_and_one_method() {
    let (mut backend, gateway) = following("missing = \"require\"").await;
    knowing(&mut backend, &gateway).await;
    answered(&mut backend, preflight(&gateway, "/note", "PUT"), 204, &LET_IN[..1]).await;
    assert!(is_open(&stale(&gateway).expect(409).await));
    let put = |path: &str, origin: &str| gateway.put(path, "mine").with("origin", origin);
    for other in [
        put("/note", "https://other.example"),
        put("/note", "http://page.example"),
        put("/note", "https://page.example:444"),
        put("/note", "null"),
        put("/notes", PAGE),
        put("/note?a=1", PAGE),
        put("/note", PAGE).with("host", "other.example"),
        gateway.call("DELETE", "/note").with("origin", PAGE),
    ] {
        let (answer, asked) = answered(&mut backend, other, 204, &[]).await;
        assert_eq!((asked.method.as_str(), answer.status), ("OPTIONS", 428));
        assert!(!is_open(&answer), "{answer:?}");
    }
    let two = put("/note", PAGE).with("origin", PAGE).expect(428).await;
    assert!(!is_open(&two), "two origins are none");
    backend.assert_quiet();
}

/// Else its answer to nobody, or to another question, would be noted as its word to the page.
#[tokio::test]
async fn nobody_can_hide_from_the_service_who_asks_and_for_what() {
    let (mut backend, gateway) = following("").await;
    knowing(&mut backend, &gateway).await;
    let named = "origin, access-control-request-method";
    for call in [preflight(&gateway, "/note", "PUT"), read(&gateway)] {
        let call = begin(call.with("connection", named).with("access_control_request_method", "GET"));
        let arrival = backend.next().await;
        assert_eq!(arrival.field("origin"), Some(PAGE));
        let is_preflight = arrival.method == "OPTIONS";
        assert_eq!(arrival.field("access-control-request-method"), is_preflight.then_some("PUT"));
        assert_eq!(arrival.field("access_control_request_method"), None);
        arrival.answer(204, &LET_IN, "").await;
        call.answer().await;
    }
    assert!(is_open(&stale(&gateway).expect(409).await));
    backend.assert_quiet();
}

#[tokio::test]
async fn a_preflight_for_two_methods_or_of_two_origins_is_none() {
    let any = [("Access-Control-Allow-Origin", "*")];
    let (mut backend, gateway) = following("").await;
    knowing(&mut backend, &gateway).await;
    let two_methods = preflight(&gateway, "/note", "PUT").with("access-control-request-method", "GET");
    for call in [two_methods, preflight(&gateway, "/note", "PUT").with("origin", "https://other.example")] {
        let (answer, _) = answered(&mut backend, call, 204, &any).await;
        assert_eq!((answer.field(HEADERS), answer.field(EXPOSE)), (None, None));
    }
    let (answer, asked) = answered(&mut backend, stale(&gateway), 204, &[]).await;
    assert_eq!((asked.method.as_str(), answer.status, is_open(&answer)), ("OPTIONS", 409, false));
    let two_methods = preflight(&gateway, "/note", "PUT").with("access-control-request-method", "PUT");
    answered(&mut backend, two_methods, 204, &any).await;
    assert!(!is_open(&stale(&gateway).expect(409).await));
    backend.assert_quiet();
}

/// The service may go by the host that was asked though its own `Host` is another.
#[tokio::test]
async fn behind_a_rewritten_host_one_hosts_word_is_not_anothers() {
    let mut backend = Script::start().await;
    let trusting = "forwarded = \"append\"\ntrusted_proxies = [\"127.0.0.1/32\"]";
    let settings = Gateway::before(backend.address).upstream("host = \"rewrite\"").top(trusting);
    let gateway = settings.guard("cors = \"follow\"\nmissing = \"require\"").start();
    let said = |call: Call, field: &str| call.with(field, "a.example");
    for field in ["host", "x-forwarded-host"] {
        answered(&mut backend, said(preflight(&gateway, "/note", "PUT"), field), 204, &LET_IN[..1]).await;
        let refused = || gateway.put("/note", "x").with("origin", PAGE);
        assert!(is_open(&said(refused(), field).expect(428).await), "{field}");
        let other = refused().with(field, "b.example");
        let (answer, asked) = answered(&mut backend, other, 204, &[]).await;
        assert_eq!((asked.method.as_str(), answer.status, is_open(&answer)), ("OPTIONS", 428, false), "{field}");
    }
    backend.assert_quiet();
}

#[tokio::test]
async fn what_the_backend_shows_to_a_read_goes_to_whom_it_shows_it() {
    for (fields, opens) in [(&LET_IN[..], true), (&LET_IN[1..], false)] {
        let (mut backend, gateway) = following("").await;
        knowing(&mut backend, &gateway).await;
        answered(&mut backend, preflight(&gateway, "/note", "PUT"), 204, &LET_IN[..1]).await;
        let call = begin(stale(&gateway).with("prefer", "return=representation"));
        let get = backend.expect("GET", "/note").await;
        assert_eq!(get.field("origin"), Some(PAGE));
        get.answer(200, fields, "theirs").await;
        let answer = call.answer().await;
        assert_eq!((answer.status, answer.text(), is_open(&answer)), (409, "theirs", opens));
        assert_eq!(answer.field(EXPOSE).is_some(), opens);

        answered(&mut backend, preflight(&gateway, "/other", "PUT"), 204, &LET_IN[..1]).await;
        let call = begin(gateway.put("/other", "mine").with("origin", PAGE).if_match("\"1\""));
        let head = backend.expect("HEAD", "/other").await;
        assert_eq!(head.field("origin"), Some(PAGE));
        head.answer(401, &fields[..fields.len() - 1], "").await;
        let answer = call.answer().await;
        assert_eq!((answer.status, is_open(&answer)), (401, opens));
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_page_of_the_host_that_it_asks_needs_nothing() {
    let (mut backend, gateway) = following("").await;
    knowing(&mut backend, &gateway).await;
    let own = |call: Call| call.with("origin", "https://Notes.example");
    assert!(!is_open(&own(gateway.put("/note", "mine").if_match("\"0\"")).expect(409).await));
    let fields = [("Access-Control-Allow-Origin", "https://Notes.example")];
    let (answer, _) = answered(&mut backend, own(gateway.get("/note")), 200, &fields).await;
    assert_eq!(answer.field(EXPOSE), None);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_later_answer_takes_the_word_back() {
    let (mut backend, gateway) = following("").await;
    knowing(&mut backend, &gateway).await;
    let write = || gateway.put("/note", "mine").with("origin", PAGE).if_match("*");
    for (fields, opens) in [(&LET_IN[..], true), (&[("ETag", "\"1\"")], false), (&LET_IN, true)] {
        let (answer, _) = answered(&mut backend, write(), 200, fields).await;
        assert_eq!(is_open(&answer), opens);
        assert_eq!(is_open(&stale(&gateway).expect(409).await), opens);
    }
    answered(&mut backend, preflight(&gateway, "/note", "PUT"), 204, &[]).await;
    assert!(!is_open(&stale(&gateway).expect(409).await));
    answered(&mut backend, write(), 200, &LET_IN).await;
    // An error may come from something that knows nothing of origins: the question is open.
    answered(&mut backend, write(), 403, &[]).await;
    let (answer, asked) = answered(&mut backend, stale(&gateway), 204, &LET_IN[..1]).await;
    assert_eq!((asked.method.as_str(), is_open(&answer)), ("OPTIONS", true));
    backend.assert_quiet();
}

#[tokio::test]
async fn a_304_that_says_nothing_of_origins_leaves_the_word_as_it_is() {
    let other = [("Access-Control-Allow-Origin", "https://other.example")];
    for (fields, opens) in [(&LET_IN[..], true), (&LET_IN[1..], false)] {
        let (mut backend, gateway) = following("").await;
        answered(&mut backend, read(&gateway), 200, fields).await;
        for unchanged in [&LET_IN[1..], &other] {
            answered(&mut backend, read(&gateway).with("if-none-match", "\"1\""), 304, unchanged).await;
        }
        assert_eq!(is_open(&unanswered(&mut backend, read(&gateway)).await), opens);
        answered(&mut backend, read(&gateway).with("if-none-match", "\"1\""), 304, &LET_IN).await;
        assert!(is_open(&unanswered(&mut backend, read(&gateway)).await));
    }
}

/// The backend breaks off wherever this gets there.
async fn unanswered(backend: &mut Script, call: Call) -> Answer {
    let mut call = begin(call);
    loop {
        tokio::select! {
            asked = backend.next() => asked.reset(),
            () = call.finished() => break,
        }
    }
    let answer = call.answer().await;
    assert_eq!(answer.status, 502);
    answer
}

#[tokio::test]
async fn what_is_remembered_is_bounded() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("cors = \"follow\"").rest("[memory]\norigins = 2").start();
    let word = |path: &str| preflight(&gateway, path, "PUT");
    let refused = |path: &str| gateway.put(path, "x").with("origin", PAGE).if_match("x");
    for path in ["/1", "/2", "/3"] {
        answered(&mut backend, word(path), 204, &LET_IN[..1]).await;
    }
    for path in ["/3", "/2"] {
        assert!(is_open(&refused(path).expect(400).await));
    }
    backend.assert_quiet();
    let (answer, asked) = answered(&mut backend, refused("/1"), 204, &LET_IN[..1]).await;
    assert_eq!((asked.method.as_str(), answer.status, is_open(&answer)), ("OPTIONS", 400, true));
}

#[tokio::test]
async fn a_service_that_gave_no_answer_is_not_asked_again_for_its_word() {
    let (mut backend, gateway) = following("settle = \"0s\"").await;
    let write = || gateway.put("/note", "mine").with("origin", PAGE);
    let call = begin(write());
    backend.expect("PUT", "/note").await.reset();
    let answer = call.answer().await;
    assert_eq!((answer.status, is_open(&answer)), (502, false));
    answered(&mut backend, preflight(&gateway, "/note", "PUT"), 204, &LET_IN[..1]).await;
    let call = begin(write());
    backend.expect("PUT", "/note").await.reset();
    let answer = call.answer().await;
    assert_eq!((answer.status, is_open(&answer), answer.field(EXPOSE)), (502, true, Some(OURS)));
    backend.assert_quiet();
}

#[tokio::test]
async fn a_word_to_the_old_service_is_not_the_new_ones() {
    let (mut old, mut new) = (Script::start().await, Script::start().await);
    let before = |name: &str, backend: &Script| {
        format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\n[upstreams.{name}]\nservers = [\"http://{}\"]\n\
             [guard]\ncors = \"follow\"",
            backend.address
        )
    };
    let gateway = Gateway::start(&before("old", &old));
    let refused = || gateway.put("/note", "x").with("origin", PAGE).if_match("x");
    answered(&mut old, preflight(&gateway, "/note", "PUT"), 204, &LET_IN[..1]).await;
    assert!(is_open(&refused().expect(400).await));
    gateway.reload_text(&before("new", &new)).expect("a configuration");
    let (answer, asked) = answered(&mut new, refused(), 204, &[]).await;
    assert_eq!((asked.method.as_str(), is_open(&answer)), ("OPTIONS", false));
}

#[tokio::test]
async fn over_http2_a_refusal_opens_as_well() {
    let (mut backend, gateway) = following("").await;
    knowing(&mut backend, &gateway).await;
    answered(&mut backend, preflight(&gateway, "/note", "PUT"), 204, &LET_IN[..1]).await;
    let h2 = H2::connect(gateway.address).await;
    let answer = h2.send(stale(&gateway)).await;
    assert_eq!((answer.status, answer.field(ORIGIN), answer.field(EXPOSE)), (409, Some(PAGE), Some(OURS)));
    backend.assert_quiet();
}

/// Before a store, with a tag's copy in `X-Version`.
async fn copying(guard: &str) -> (Store, Gateway) {
    let store = Store::start().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard(&format!("tag_header = \"X-Version\"\n{guard}")).start();
    (store, gateway)
}

#[tokio::test]
async fn every_tag_has_a_copy_that_can_be_sent_back() {
    let (store, gateway) = copying("").await;
    let read = gateway.get("/note").expect(200).await;
    let tag = read.tag();
    assert_eq!(read.field("x-version"), Some(tag.as_str()));
    let written = gateway.put("/note", "second").with("x-version", &tag).expect(200).await;
    assert_eq!(written.field("x-version"), Some(written.tag().as_str()));
    let reached = store.reached();
    let put = reached.last().expect("a write");
    assert_eq!((put.method.as_str(), put.fields.get("x-version"), put.fields.get("if-match")), ("PUT", None, None));
    for call in [
        gateway.put("/note", "third").with("x-version", &tag),
        gateway.put("/note", "third").with("x-version", &tag).if_match(&written.tag()),
        gateway.put("/note", "third").with("x-version", &written.tag()).if_match(&tag),
    ] {
        let refused = call.expect(409).await;
        assert_eq!(refused.field("x-version"), Some(written.tag().as_str()));
        let problem = refused.problem("stale");
        let sent = problem["if_match"].as_array().expect("what was sent");
        assert!(sent.iter().any(|sent| *sent == tag.as_str()), "{problem}");
    }
    assert_eq!(store.body("/note").as_deref(), Some("second"));
    let both = gateway.put("/note", "third").with("x-version", &written.tag()).if_match(&written.tag());
    both.expect(200).await;
    let list = format!("\"other\", {}", store.tag("/note"));
    gateway.call("DELETE", "/note").with("x-version", &list).expect(204).await;
}

#[tokio::test]
async fn a_tag_that_was_rewritten_on_its_way_does_not_matter_where_its_copy_was_not() {
    let (store, gateway) = copying("encoding_suffixes = false").await;
    for rewrite in
        [|_: &str| None, |tag: &str| Some(format!("W/{tag}")), |tag: &str| Some(tag.replace("\"v", "\"gz-v"))]
    {
        let read = gateway.get("/note").expect(200).await;
        let shown = rewrite(&read.tag());
        let copy = read.field("x-version").expect("a copy").to_owned();
        if let Some(shown) = shown {
            gateway.put("/note", "x").if_match(&shown).expect(409).await;
            gateway.put("/note", "x").if_match(&shown).with("x-version", &copy).expect(409).await;
        }
        gateway.put("/note", "next").with("x-version", &copy).expect(200).await;
    }
    assert_eq!(store.body("/note").as_deref(), Some("next"));
    // A suffix that is known does no harm beside the copy.
    let (store, gateway) = copying("").await;
    let tag = gateway.get("/note").expect(200).await.tag();
    let suffixed = tag.replace("1\"", "1-gzip\"");
    assert_ne!(tag, suffixed);
    gateway.put("/note", "x").if_match(&suffixed).with("x-version", &tag).expect(200).await;
    assert_eq!(store.body("/note").as_deref(), Some("x"));
}

#[tokio::test]
async fn a_copy_that_can_not_be_read_is_400_and_none_is_428() {
    let (store, gateway) = copying("missing = \"require\"").await;
    let tag = gateway.get("/note").expect(200).await.tag();
    for malformed in ["", "7", "\"a", "\"a\" \"b\"", "*, \"a\""] {
        let call = gateway.put("/note", "x").with("x-version", malformed);
        let problem = call.clone().expect(400).await.problem("malformed-precondition");
        assert!(problem["error"].as_str().is_some_and(|error| error.contains("x-version")), "{problem}");
        call.if_match(&tag).expect(400).await;
    }
    let problem = gateway.put("/note", "x").expect(428).await.problem("precondition-required");
    assert!(problem["error"].as_str().is_some_and(|error| error.contains("x-version")), "{problem}");
    gateway.put("/note", "x").with("x_version", &tag).expect(428).await;
    assert_eq!(store.writes(), 0);
    gateway.put("/note", "x").with("x-version", &tag).expect(200).await;
    gateway.put("/note", "x").with("connection", "x-version").with("x-version", &tag).expect(409).await;
    // What nobody guards is judged where it names a tag.
    gateway.call("POST", "/note").with("x-version", &tag).body("x").expect(409).await;
    gateway.put("/note", "x").with("x-version", "*").expect(200).await;
}

#[tokio::test]
async fn the_backends_own_field_is_not_taken_for_a_copy() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("tag_header = \"X-Version\"").start();
    for (fields, expected) in [
        (&[("ETag", "\"1\""), ("X-Version", "\"0\"")][..], Some("\"1\"")),
        (&[("X-Version", "\"0\"")], None),
        (&[("ETag", "\"1\""), ("ETag", "\"2\"")], None),
    ] {
        for status in [200, 304, 404] {
            let (answer, asked) =
                answered(&mut backend, gateway.get("/note").with("x-version", "\"1\""), status, fields).await;
            assert_eq!((answer.field("x-version"), asked.tag), (expected, None), "{status} {fields:?}");
        }
    }
}

#[tokio::test]
async fn no_trailer_is_a_copy() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("tag_header = \"X-Version\"").start();
    let fields = "TE: trailers\r\nConnection: TE\r\nTrailer: X-Version, X-Sum\r\nTransfer-Encoding: chunked\r\n";
    let mut raw = raw_put(&gateway, fields, "1\r\na\r\n0\r\nX-Version: \"9\"\r\nX-Sum: 5\r\n\r\n").await;
    let mut put = backend.expect("PUT", "/note").await;
    put.body().await.expect("a body");
    assert_eq!((put.trailers().get("x-version"), put.trailers().len()), (None, 1));
    put.send(
        "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nTransfer-Encoding: chunked\r\nTrailer: X-Version, X-Sum\r\n\r\n\
         0\r\nX-Version: \"9\"\r\nX-Sum: 5\r\n\r\n",
    )
    .await;
    let answer = raw.answer("PUT").await;
    assert_eq!(answer.field("x-version"), Some("\"1\""));
    assert_eq!((raw.trailers().get("x-version"), raw.trailers().len()), (None, 1));
}

#[tokio::test]
async fn by_default_such_a_field_passes() {
    for guard in ["", "tag_header = \"X-Version\"\nmode = \"off\""] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(guard).start();
        let call = gateway.put("/note", "x").with("x-version", "7");
        let (answer, asked) = answered(&mut backend, call, 200, &[("ETag", "\"1\""), ("X-Version", "8")]).await;
        assert_eq!((answer.field("x-version"), asked.tag.as_deref()), (Some("8"), Some("7")), "{guard}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_given_again_to_the_same_copy_only() {
    let (store, gateway) = copying("replay = \"1h\"").await;
    let tag = gateway.get("/note").expect(200).await.tag();
    let write = || gateway.put("/note", "mine").with("x-version", &tag);
    let first = write().expect(200).await;
    let again = write().expect(200).await;
    assert_eq!(again.field("proxy-status"), Some("ifmatch; details=\"replayed\""));
    assert_eq!(again.field("x-version"), Some(first.tag().as_str()));
    write().with("x-version", "\"other\"").expect(409).await;
    gateway.put("/note", "mine").if_match(&tag).expect(409).await;
    assert_eq!(store.writes(), 1);
}

#[tokio::test]
async fn a_page_can_read_and_send_the_copy_too() {
    let (mut backend, gateway) = following("tag_header = \"X-Version\"").await;
    let (answer, _) = answered(&mut backend, read(&gateway), 200, &LET_IN).await;
    assert_eq!(answer.field(EXPOSE), Some("ETag, Retry-After, Link, x-version"));
    let call = preflight(&gateway, "/note", "PUT").with("access-control-request-headers", "x-a, x-version");
    let (answer, asked) = answered(&mut backend, call, 204, &LET_IN[..1]).await;
    assert_eq!(answer.field(HEADERS), Some("If-Match, If-None-Match, x-version"));
    assert_eq!(asked.headers.as_deref(), Some("x-a"));
    let answer = gateway.put("/note", "mine").with("origin", PAGE).with("x-version", "\"0\"").expect(409).await;
    assert_eq!((answer.field(ORIGIN), answer.field("x-version")), (Some(PAGE), Some("\"1\"")));
    backend.assert_quiet();
}

#[tokio::test]
async fn a_backend_that_fails_a_write_says_so_to_the_page_itself() {
    let (store, gateway) = copying("cors = \"follow\"").await;
    store.next_write(Fate::Refused(422));
    let answer = gateway.put("/note", "x").with("origin", PAGE).expect(422).await;
    assert!(!is_open(&answer), "{answer:?}");
    assert_eq!(store.count("OPTIONS"), 0);
}

/// What was said to the page that was first was not said to the next.
#[tokio::test]
async fn an_answer_that_is_given_again_says_to_each_page_what_was_said_to_it() {
    const OTHER: &str = "https://other.example";
    let stored = [LET_IN[0], ("Access-Control-Allow-Credentials", "true"), ("ETag", "\"2\"")];
    for (method, guard) in [("PUT", "replay = \"1h\""), ("POST", "idempotency = \"1h\"")] {
        for cors in ["follow", "off"] {
            let mut backend = Script::start().await;
            let guard = format!("cors = \"{cors}\"\n{guard}");
            let gateway = Gateway::before(backend.address).guard(&guard).start();
            knowing(&mut backend, &gateway).await;
            let write = || gateway.call(method, "/note").if_match("\"1\"").with("idempotency-key", "\"k\"").body("x");
            answered(&mut backend, write().with("origin", PAGE), 200, &stored).await;
            let follows = cors == "follow";
            let said = async |call: Call| {
                let answer = call.expect(200).await;
                assert_eq!(answer.field("proxy-status"), Some("ifmatch; details=\"replayed\""));
                [ORIGIN, CREDENTIALS, EXPOSE].map(|name| answer.field(name).map(str::to_owned))
            };
            let open = |origin: &str, credentials: Option<&str>| {
                [Some(origin), credentials, follows.then_some(OURS)].map(|field| field.map(str::to_owned))
            };
            assert_eq!(said(write().with("origin", PAGE)).await, open(PAGE, Some("true")), "{guard}");
            assert_eq!(said(write().with("origin", OTHER)).await, [const { None }; 3], "{guard}");
            let two = write().with("origin", PAGE).with("origin", OTHER);
            assert_eq!(said(two).await, [const { None }; 3], "{guard}");
            let leave = gateway.call("OPTIONS", "/note").with("origin", OTHER);
            let leave = leave.with("access-control-request-method", method);
            answered(&mut backend, leave, 204, &[("Access-Control-Allow-Origin", OTHER)]).await;
            let expected = if follows { open(OTHER, None) } else { [const { None }; 3] };
            assert_eq!(said(write().with("origin", OTHER)).await, expected, "{guard}");
            assert_eq!(said(write().with("origin", PAGE)).await, open(PAGE, Some("true")), "{guard}");
            backend.assert_quiet();
        }
    }
}
