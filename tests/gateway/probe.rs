//! A write to a resource of which nothing is known: what the gateway asks, as whom, and what it makes of the answer.

use crate::support::{Gateway, Habits, HeadHabit, Pending, Script, Store, begin, nobody};

/// A write with `"1"` to an unknown resource.
async fn write(backend: &Script, settings: &str) -> (Gateway, Pending) {
    let gateway = Gateway::before(backend.address).upstream("response_timeout = \"300ms\"").guard(settings).start();
    let call = gateway.put("/note", "mine").if_match("\"1\"");
    (gateway, begin(call))
}

#[tokio::test]
async fn a_tag_that_the_probe_confirms_is_forwarded() {
    let mut backend = Script::start().await;
    let (_gateway, writer) = write(&backend, "").await;
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!(put.body().await.expect("a body"), b"mine");
    assert_eq!(put.field("if-match"), Some("\"1\""));
    put.answer(200, &[("ETag", "\"2\"")], "done").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.text(), answer.tag().as_str()), (200, "done", "\"2\""));
}

#[tokio::test]
async fn a_tag_that_the_probe_denies_is_stale() {
    let mut backend = Script::start().await;
    let (gateway, writer) = write(&backend, "").await;
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
    let answer = writer.answer().await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.problem("stale")["current_etags"][0], "\"2\"");
    // The answer was learned.
    gateway.put("/note", "again").if_match("\"1\"").expect(409).await;
    backend.assert_quiet();
}

#[tokio::test]
async fn a_get_follows_a_head_that_says_too_little() {
    for (status, fields) in [(405, &[][..]), (501, &[]), (404, &[]), (200, &[]), (204, &[])] {
        let mut backend = Script::start().await;
        let (_gateway, writer) = write(&backend, "").await;
        backend.expect("HEAD", "/note").await.answer(status, fields, "").await;
        backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "body to drop").await;
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        assert_eq!(writer.answer().await.status, 200, "HEAD said {status}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_stale() {
    for status in [404, 410] {
        let mut backend = Script::start().await;
        let (_gateway, writer) = write(&backend, "").await;
        backend.expect("HEAD", "/note").await.answer(status, &[], "").await;
        backend.expect("GET", "/note").await.answer(status, &[], "gone").await;
        let answer = writer.answer().await;
        assert_eq!(answer.status, 409);
        answer.problem("stale");
        backend.assert_quiet();
    }
}

/// A cache behind the gateway may answer whatever it is asked for: what it has is of a moment that nobody knows.
#[tokio::test]
async fn what_a_cache_says_decides_nothing() {
    for age in ["5", "0005", "x", "", "5, 0"] {
        for (status, condition) in
            [(200, ("if-match", "\"1\"")), (404, ("if-none-match", "*")), (410, ("if-none-match", "*"))]
        {
            let mut backend = Script::start().await;
            let gateway = Gateway::before(backend.address).start();
            let writer = begin(gateway.put("/note", "mine").with(condition.0, condition.1));
            let fields = [("ETag", "\"1\""), ("Age", age)];
            backend.expect("HEAD", "/note").await.answer(status, &fields, "").await;
            backend.expect("GET", "/note").await.answer(status, &fields, "").await;
            let answer = writer.answer().await;
            assert_eq!(answer.status, 409, "{status} with Age: {age}");
            answer.problem("unverifiable");
            backend.assert_quiet();
        }
    }
    // It has asked the service just now.
    let mut backend = Script::start().await;
    let (_gateway, writer) = write(&backend, "").await;
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\""), ("Age", "0")], "").await;
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

#[tokio::test]
async fn a_resource_without_a_tag_is_unverifiable() {
    let mut backend = Script::start().await;
    let (_gateway, writer) = write(&backend, "").await;
    backend.expect("HEAD", "/note").await.answer(200, &[], "").await;
    backend.expect("GET", "/note").await.answer(200, &[], "no tag").await;
    let answer = writer.answer().await;
    assert_eq!(answer.status, 409);
    answer.problem("unverifiable");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_star_matches_a_resource_without_a_tag() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let writer = begin(gateway.put("/note", "mine").if_match("*"));
    backend.expect("HEAD", "/note").await.answer(200, &[], "").await;
    backend.expect("GET", "/note").await.answer(200, &[], "no tag").await;
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

#[tokio::test]
async fn a_creation_is_refused_where_only_get_shows_that_it_exists() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let creator = begin(gateway.put("/note", "mine").with("if-none-match", "*"));
    backend.expect("HEAD", "/note").await.answer(404, &[], "").await;
    backend.expect("GET", "/note").await.answer(200, &[], "no tag").await;
    let answer = creator.answer().await;
    assert_eq!(answer.status, 409);
    answer.problem("exists");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_401_to_the_probe_is_relayed() {
    let mut backend = Script::start().await;
    let (_gateway, writer) = write(&backend, "").await;
    let fields = [("WWW-Authenticate", "Basic realm=\"notes\""), ("ETag", "\"secret\"")];
    backend.expect("HEAD", "/note").await.answer(401, &fields, "").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.field("www-authenticate")), (401, Some("Basic realm=\"notes\"")));
    assert_eq!(answer.field("etag"), None);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_403_to_the_probe_is_relayed() {
    let mut backend = Script::start().await;
    let (_gateway, writer) = write(&backend, "").await;
    backend.expect("HEAD", "/note").await.answer(403, &[], "").await;
    assert_eq!(writer.answer().await.status, 403);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_403_to_the_probe_by_get_is_relayed_whole() {
    let mut backend = Script::start().await;
    let (_gateway, writer) = write(&backend, "").await;
    backend.expect("HEAD", "/note").await.answer(405, &[], "").await;
    backend.expect("GET", "/note").await.answer(403, &[], "not for you").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.text()), (403, "not for you"));
    backend.assert_quiet();
}

#[tokio::test]
async fn an_error_to_the_probe_makes_the_write_unverifiable() {
    for status in [302, 400, 429, 500, 503] {
        let mut backend = Script::start().await;
        let (_gateway, writer) = write(&backend, "").await;
        backend.expect("HEAD", "/note").await.answer(status, &[("ETag", "\"1\"")], "").await;
        let answer = writer.answer().await;
        assert_eq!(answer.status, 409, "HEAD said {status}");
        answer.problem("unverifiable");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn no_answer_to_the_probe_is_a_502() {
    let mut backend = Script::start().await;
    let (_gateway, writer) = write(&backend, "").await;
    backend.expect("HEAD", "/note").await.reset();
    assert_eq!(writer.answer().await.status, 502);
    backend.assert_quiet();
}

#[tokio::test]
async fn no_answer_in_time_to_the_probe_is_a_504() {
    let mut backend = Script::start().await;
    let (_gateway, writer) = write(&backend, "").await;
    let _held = backend.expect("HEAD", "/note").await;
    let answer = writer.answer().await;
    assert_eq!(answer.status, 504);
    answer.problem("upstream-timeout");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_a_502() {
    let (_port, address) = nobody();
    let gateway = Gateway::before(address).start();
    let answer = gateway.put("/note", "mine").expect(502).await;
    answer.problem("upstream-refused");
    gateway.get("/note").expect(502).await;
}

#[tokio::test]
async fn a_failed_probe_gives_the_turn_back() {
    let mut backend = Script::start().await;
    let (gateway, writer) = write(&backend, "settle = \"1h\"").await;
    backend.expect("HEAD", "/note").await.reset();
    assert_eq!(writer.answer().await.status, 502);
    let next = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn a_probe_speaks_for_the_caller() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("partition = [\"X-Tenant\"]").start();
    let call = gateway.put("/note?a=%41", "mine").if_match("\"1\"").with("authorization", "Bearer mine");
    let call = call.with("cookie", "session=1").with("accept", "text/html").with("accept-language", "fr");
    let call = call.with("accept-encoding", "br").with("x-tenant", "7").with("content-type", "text/html");
    let writer = begin(call.with("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT"));
    let probe = backend.expect("HEAD", "/note?a=%41").await;
    for (name, value) in [
        ("authorization", "Bearer mine"),
        ("cookie", "session=1"),
        ("accept", "text/html"),
        ("accept-language", "fr"),
        ("accept-encoding", "br"),
        ("x-tenant", "7"),
        ("host", "notes.example"),
    ] {
        assert_eq!(probe.field(name), Some(value));
    }
    for name in ["if-match", "if-unmodified-since", "content-length", "content-type", "transfer-encoding"] {
        assert_eq!(probe.field(name), None, "{name}");
    }
    probe.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(writer.answer().await.status, 409);
}

#[tokio::test]
async fn a_date_is_judged_by_what_the_probe_shows() {
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    for (modified, forwarded) in [(BEFORE, true), (THEN, true), (AFTER, false)] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let writer = begin(gateway.put("/note", "mine").with("if-unmodified-since", THEN));
        let shown = [("ETag", "\"1\""), ("Last-Modified", modified)];
        backend.expect("HEAD", "/note").await.answer(200, &shown, "").await;
        if forwarded {
            backend.expect("PUT", "/note").await.answer(200, &[], "").await;
            assert_eq!(writer.answer().await.status, 200, "{modified}");
        } else {
            writer.answer().await.problem("stale");
            backend.assert_quiet();
        }
    }
}

#[tokio::test]
async fn a_date_where_the_backend_shows_none_is_unverifiable() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let writer = begin(gateway.put("/note", "mine").with("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT"));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    writer.answer().await.problem("unverifiable");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_refusal_from_memory_tells_the_tag_to_who_saw_it_and_to_nobody_else() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let reader = begin(gateway.get("/note").with("authorization", "a").with("cookie", "c=1"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"secret\"")], "").await;
    reader.answer().await;

    let stale = || gateway.put("/note", "stale").if_match("\"old\"");
    let own = stale().with("authorization", "a").with("cookie", "c=1").expect(409).await;
    assert_eq!(own.tag(), "\"secret\"");
    assert_eq!(own.problem("stale")["current_etags"], serde_json::json!(["\"secret\""]));
    for others in [
        stale(),
        stale().with("authorization", "a"),
        stale().with("cookie", "c=1"),
        stale().with("authorization", "b").with("cookie", "c=1"),
        stale().with("authorization", "a").with("cookie", "c=2"),
        stale().with("authorization", "c=1").with("cookie", "a"),
    ] {
        let other = others.expect(409).await;
        assert_eq!(other.field("etag"), None);
        assert!(!other.text().contains("secret"), "{}", other.text());
    }
    backend.assert_quiet();
}

#[tokio::test]
async fn whatever_the_backend_makes_of_head_one_creator_and_one_writer_get_through() {
    for head in [HeadHabit::AsGet, HeadHabit::Status(405), HeadHabit::Status(404), HeadHabit::Untagged] {
        let store = Store::with(Habits { head, tag_in_answers: false, ..Habits::default() }).await;
        let gateway = Gateway::before(store.address).start();
        for (condition, value) in [("if-none-match", "*"), ("if-match", "\"v1\"")] {
            let writes = store.writes();
            let calls: Vec<_> = (0..20).map(|_| begin(gateway.put("/note", "x").with(condition, value))).collect();
            let mut won = 0;
            for call in calls {
                won += usize::from(call.answer().await.status < 300);
            }
            assert_eq!((won, store.writes() - writes), (1, 1), "{head:?} {condition}");
        }
    }
}
