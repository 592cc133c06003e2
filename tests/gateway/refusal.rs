//! A refusal arrives, whatever the client was about to send, and says what to do.

use crate::support::{Gateway, Script, Store, begin};

/// A store with `/note` and `/victim`, whose tags the gateway knows.
async fn known() -> (Store, Gateway) {
    let store = Store::start().await;
    store.set("/note", "current");
    store.set("/victim", "alive");
    let gateway = Gateway::before(store.address).start();
    gateway.get("/note").expect(200).await;
    (store, gateway)
}

fn stale_head(length: usize, fields: &str) -> String {
    format!(
        "PUT /note HTTP/1.1\r\nHost: notes.example\r\nIf-Match: \"old\"\r\nContent-Length: {length}\r\n{fields}\r\n"
    )
}

#[tokio::test]
async fn a_stale_upload_that_asks_first_is_refused_without_a_100() {
    for length in [5, 100_000, 1_000_000_000] {
        let (store, gateway) = known().await;
        let mut raw = gateway.raw().await;
        raw.send(stale_head(length, "Expect: 100-continue\r\n")).await;
        let answer = raw.answer("PUT").await;
        assert_eq!(answer.status, 409, "the first thing on the wire");
        answer.problem("stale");
        assert_eq!(store.writes(), 0);
    }
}

#[tokio::test]
async fn an_upload_to_an_unknown_resource_that_asks_first_is_refused_without_a_100() {
    for length in [5, 100_000, 1_000_000_000] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let mut raw = gateway.raw().await;
        raw.send(stale_head(length, "Expect: 100-continue\r\n")).await;
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"new\"")], "").await;
        assert_eq!(raw.answer("PUT").await.status, 409, "the first thing on the wire");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn an_upload_that_asks_first_and_is_not_stale_gets_its_100() {
    for length in [5, 100_000] {
        let (store, gateway) = known().await;
        let tag = store.tag("/note");
        let mut raw = gateway.raw().await;
        let head = stale_head(length, "Expect: 100-continue\r\n").replace("\"old\"", &tag);
        raw.send(head).await;
        assert_eq!(raw.answer("PUT").await.status, 100);
        raw.send(vec![b'x'; length]).await;
        assert_eq!(raw.answer("PUT").await.status, 200);
        assert_eq!(store.body("/note").map(|body| body.len()), Some(length));
    }
}

#[tokio::test]
async fn a_body_that_was_refused_before_it_was_sent_never_runs() {
    let (store, gateway) = known().await;
    let embedded = "DELETE /victim HTTP/1.1\r\nHost: notes.example\r\n\r\n";
    let mut raw = gateway.raw().await;
    raw.send(stale_head(embedded.len(), "Expect: 100-continue\r\n")).await;
    assert_eq!(raw.answer("PUT").await.status, 409);
    raw.send(embedded).await;
    raw.closed().await;
    assert_eq!((store.writes(), store.body("/victim").as_deref()), (0, Some("alive")));
}

#[tokio::test]
async fn a_refused_body_that_is_a_request_never_runs_and_the_connection_goes_on() {
    let (store, gateway) = known().await;
    let embedded = "DELETE /victim HTTP/1.1\r\nHost: notes.example\r\n\r\n";
    let mut raw = gateway.raw().await;
    for _ in 0..3 {
        raw.send(format!("{}{embedded}", stale_head(embedded.len(), ""))).await;
        let answer = raw.answer("PUT").await;
        assert_eq!((answer.status, answer.field("connection")), (409, None));
    }
    raw.send("GET /victim HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    let answer = raw.answer("GET").await;
    assert_eq!((answer.status, answer.text()), (200, "alive"));
    assert_eq!(store.writes(), 0);
}

#[tokio::test]
async fn the_refusal_of_an_upload_arrives_although_the_client_first_sends_it_all() {
    for (length, times) in [(64 * 1024, 5), (1024 * 1024, 5), (5 * 1024 * 1024, 5)] {
        for _ in 0..times {
            let (store, gateway) = known().await;
            let mut raw = gateway.raw().await;
            raw.send(stale_head(length, "")).await;
            raw.send(vec![b'x'; length]).await;
            let answer = raw.answer("PUT").await;
            assert_eq!(answer.status, 409, "{length} bytes");
            answer.problem("stale");
            assert_eq!(store.writes(), 0);
        }
    }
}

#[tokio::test]
async fn the_refusal_of_a_chunked_upload_arrives() {
    let (store, gateway) = known().await;
    let mut raw = gateway.raw().await;
    let head = "PUT /note HTTP/1.1\r\nHost: notes.example\r\nIf-Match: \"old\"\r\nTransfer-Encoding: chunked\r\n\r\n";
    raw.send(head).await;
    for _ in 0..50 {
        raw.send(format!("{:x}\r\n{}\r\n", 65536, "x".repeat(65536))).await;
    }
    raw.send("0\r\n\r\n").await;
    assert_eq!(raw.answer("PUT").await.status, 409);
    assert_eq!(store.writes(), 0);
}

#[tokio::test]
async fn a_refused_upload_that_stops_half_way_is_answered_all_the_same() {
    let store = Store::start().await;
    store.set("/note", "current");
    let gateway = Gateway::before(store.address).guard("drain_time = \"100ms\"").start();
    gateway.get("/note").expect(200).await;
    let mut raw = gateway.raw().await;
    raw.send(stale_head(1_000_000, "")).await;
    raw.send(vec![b'x'; 1000]).await;
    let answer = raw.answer("PUT").await;
    assert_eq!((answer.status, answer.field("connection")), (409, Some("close")));
    raw.closed().await;
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let (store, gateway) = known().await;
    let answer = gateway.put("/note", "stale").if_match("\"old\", \"older\"").expect(409).await;
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    assert_eq!(answer.field("link"), Some("</note>; rel=\"latest-version\"; anchor=\"/note\""));
    assert_eq!(answer.tag(), store.tag("/note"));
    assert!(answer.field("proxy-status").is_some_and(|status| status.starts_with("ifmatch")), "{answer:?}");
    let problem = answer.problem("stale");
    assert_eq!(
        problem["error"],
        "Conflict: the version of the resource you are trying to update has been modified. Fetch the latest version and \
         try again."
    );
    assert_eq!(problem["instance"], "/note");
    assert_eq!(problem["latest"], "/note");
    assert_eq!(problem["if_match"], serde_json::json!(["\"old\", \"older\""]));
    assert_eq!(problem["current_etags"], serde_json::json!([store.tag("/note")]));
    for member in ["title", "detail"] {
        assert!(problem[member].is_string(), "{member}");
    }
}

#[tokio::test]
async fn the_media_type_of_a_refusal_is_the_clients_choice() {
    let (_store, gateway) = known().await;
    for (accept, expected) in [
        ("application/json", "application/json"),
        ("text/html, application/json;q=0.5", "application/json"),
        ("application/json, application/problem+json", "application/problem+json"),
        ("*/*", "application/problem+json"),
        ("application/*", "application/problem+json"),
        ("text/html", "application/problem+json"),
    ] {
        let answer = gateway.put("/note", "stale").if_match("\"old\"").with("accept", accept).expect(409).await;
        assert_eq!(answer.field("content-type"), Some(expected), "{accept}");
        answer.problem("stale");
    }
}

#[tokio::test]
async fn who_prefers_it_gets_the_current_representation() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"2\"")], "current").await;
    reader.answer().await;

    let call = gateway.put("/note", "stale").if_match("\"1\"").with("prefer", "return=representation");
    let stale = begin(call.with("authorization", "mine"));
    let get = backend.expect("GET", "/note").await;
    assert_eq!(get.field("authorization"), Some("mine"));
    assert_eq!((get.field("if-match"), get.field("prefer")), (None, None));
    get.answer(200, &[("ETag", "\"2\""), ("Content-Type", "text/plain")], "current").await;
    let answer = stale.answer().await;
    assert_eq!((answer.status, answer.text(), answer.tag().as_str()), (409, "current", "\"2\""));
    assert_eq!(answer.field("content-type"), Some("text/plain"));
    assert_eq!(answer.field("preference-applied"), Some("return=representation"));
    assert_eq!(answer.field("content-location"), Some("/note"));
    backend.assert_quiet();
}

#[tokio::test]
async fn who_may_not_have_the_representation_gets_the_plain_refusal() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let reader = begin(gateway.get("/note").with("authorization", "other"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"2\"")], "current").await;
    reader.answer().await;

    let stale = begin(gateway.put("/note", "stale").if_match("\"1\"").with("prefer", "return=representation"));
    backend.expect("GET", "/note").await.answer(403, &[], "not for you").await;
    let answer = stale.answer().await;
    assert!(!answer.text().contains("\"2\""), "{}", answer.text());
    assert!([403, 409].contains(&answer.status));
    backend.assert_quiet();
}
