//! Conditional reads, HEAD and ranges, on routes whose tags the gateway makes.

use super::{BODY, DATE, HEADER, JSON, LATER, MODIFIED, reads};
use crate::support::{Gateway, H2, Script, begin};

#[tokio::test]
async fn who_has_it_is_told_so_by_the_gateway() {
    for (settings, fields, body) in [
        (BODY, &[][..], "one"),
        (JSON, &[], "{\"meta\":{\"v\":7}}"),
        (HEADER, &[("X-Version", "1")], "one"),
        (DATE, &[MODIFIED, LATER], "one"),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).start();
        let first: Vec<_> = fields.iter().copied().chain([("Content-Type", "text/plain")]).collect();
        let tag = reads(&gateway, &mut backend, &first, body).await.tag();
        let weakened = if settings == DATE { tag.clone() } else { format!("W/{tag}") };
        for named in [tag.clone(), weakened, format!("\"other\", {tag}"), tag.replace("\"ifm", "\"x\", \"ifm")] {
            let since = ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT");
            let reader = begin(gateway.get("/note").with("if-none-match", &named).with(since.0, since.1));
            let get = backend.expect("GET", "/note").await;
            assert_eq!((get.field("if-none-match"), get.field(since.0)), (None, None), "{settings}");
            let mut shown = fields.to_vec();
            shown.extend([
                ("Vary", "origin, Accept-Encoding"),
                ("Cache-Control", "no-cache"),
                ("Content-Type", "text/plain"),
            ]);
            shown.extend([("Set-Cookie", "a=1"), ("Content-Location", "/note"), ("Access-Control-Allow-Origin", "*")]);
            if settings != DATE {
                shown.push(LATER);
            }
            get.answer(200, &shown, body).await;
            let answer = reader.answer().await;
            assert_eq!((answer.status, answer.text(), answer.tag()), (304, "", tag.clone()), "{settings} {named}");
            for (name, value) in [
                ("vary", Some("origin, Accept-Encoding")),
                ("cache-control", Some("no-cache")),
                ("content-location", Some("/note")),
                ("date", Some(LATER.1)),
                ("set-cookie", Some("a=1")),
                ("access-control-allow-origin", Some("*")),
                ("content-type", None),
                ("content-length", None),
                ("last-modified", None),
            ] {
                assert_eq!(answer.field(name), value, "{settings} {name}");
            }
        }
        let reader = begin(gateway.get("/note").with("if-none-match", "\"other\""));
        backend.expect("GET", "/note").await.answer(200, &first, body).await;
        assert_eq!(reader.answer().await.status, 200);
    }
}

/// A version that is a value is that of all views, and of what every caller sees: who has one of them may not have another.
#[tokio::test]
async fn who_has_another_view_gets_all_of_this_one() {
    for (settings, fields, body) in [
        (BODY, &[][..], "one"),
        (JSON, &[], "{\"meta\":{\"v\":7}}"),
        (HEADER, &[("X-Version", "1")], "one"),
        (DATE, &[MODIFIED, LATER], "one"),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).start();
        for (vary, is_one_view) in [
            (&["Accept"][..], false),
            (&["accept-encoding, Cookie"], false),
            (&["Origin", "Accept-Language"], false),
            (&["*"], false),
            (&["Accept-Encoding", " origin ,"], true),
            (&[""], true),
        ] {
            let mut shown = fields.to_vec();
            shown.extend(vary.iter().map(|vary| ("Vary", *vary)));
            let tag = reads(&gateway, &mut backend, &shown, body).await.tag();
            let reader = begin(gateway.get("/note").with("if-none-match", &tag));
            backend.expect("GET", "/note").await.answer(200, &shown, body).await;
            let answer = reader.answer().await;
            let expected = if settings == BODY || is_one_view { 304 } else { 200 };
            assert_eq!((answer.status, answer.tag()), (expected, tag), "{settings} {vary:?}");
        }
    }
}

/// Within its second a date does not say whether the resource has changed since. A client that is told so by a 304 would
/// have the strong tag of a state which it has never seen, and could write by it.
#[tokio::test]
async fn who_has_a_date_within_its_second_gets_all_of_it() {
    const NOW: (&str, &str) = ("Date", MODIFIED.1);
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(DATE).start();
    let early = reads(&gateway, &mut backend, &[MODIFIED, NOW], "one").await.tag();
    assert!(early.starts_with("W/\"ifm-m-"), "{early}");
    for date in [NOW, LATER] {
        let reader = begin(gateway.get("/note").with("if-none-match", &early));
        backend.expect("GET", "/note").await.answer(200, &[MODIFIED, date], "two").await;
        let answer = reader.answer().await;
        assert_eq!((answer.status, answer.text()), (200, "two"));
        assert_eq!(answer.tag().starts_with("W/"), date == NOW);
    }
    // It does not write by it, either.
    gateway.put("/note", "lost").if_match(&early).expect(409).await;
    backend.assert_quiet();
}

/// What nobody takes is read, so that the next request finds the connection.
#[tokio::test]
async fn a_304_costs_no_connection() {
    for settings in [HEADER, BODY] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).one_worker().start();
        let tag = reads(&gateway, &mut backend, &[("X-Version", "1")], "one").await.tag();
        for _ in 0..3 {
            let reader = begin(gateway.get("/note").with("if-none-match", &tag));
            backend.expect("GET", "/note").await.answer(200, &[("X-Version", "1")], "one").await;
            assert_eq!(reader.answer().await.status, 304);
            gateway.barrier().await;
        }
        assert_eq!(backend.connections(), 1, "{settings}");
    }
}

#[tokio::test]
async fn over_http2_too() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let tag = reads(&gateway, &mut backend, &[], "one").await.tag();
    let h2 = H2::connect(gateway.address).await;
    let call = gateway.get("/note").with("if-none-match", &tag);
    let (answer, ()) = tokio::join!(h2.send(call), async {
        backend.expect("GET", "/note").await.answer(200, &[("Content-Type", "text/plain")], "one").await;
    });
    // Another type is another state.
    assert_eq!(answer.status, 200);
    let call = gateway.get("/note").with("if-none-match", &answer.tag());
    let (answer, ()) = tokio::join!(h2.send(call), async {
        backend.expect("GET", "/note").await.answer(200, &[("Content-Type", "text/plain")], "one").await;
    });
    assert_eq!((answer.status, answer.text(), answer.field("content-length")), (304, "", None));
}

#[tokio::test]
async fn other_answers_are_no_304() {
    for status in [203, 404, 500] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(BODY).start();
        let tag = reads(&gateway, &mut backend, &[], "one").await.tag();
        let reader = begin(gateway.get("/note").with("if-none-match", &tag));
        backend.expect("GET", "/note").await.answer(status, &[("ETag", &tag)], "one").await;
        let answer = reader.answer().await;
        assert_eq!((answer.status, answer.text(), answer.field("etag")), (status, "one", None));
    }
}

#[tokio::test]
async fn a_read_that_asks_for_another_version_is_refused() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let tag = reads(&gateway, &mut backend, &[], "one").await.tag();
    let reader = begin(gateway.get("/note").if_match(&tag).with("range", "bytes=0-1"));
    let get = backend.expect("GET", "/note").await;
    assert_eq!((get.field("if-match"), get.field("range")), (None, None));
    get.answer(200, &[], "one").await;
    assert_eq!(reader.answer().await.text(), "one");
    for (status, body, expected) in [(200, "two", 412), (203, "one", 412), (404, "none", 404)] {
        let reader = begin(gateway.get("/note").if_match(&tag));
        backend.expect("GET", "/note").await.answer(status, &[], body).await;
        let answer = reader.answer().await;
        assert_eq!(answer.status, expected, "{status}");
        if expected == 412 {
            answer.problem("other-version");
            assert_eq!(answer.field("etag").is_some(), status == 200);
        }
    }
    gateway.get("/note").if_match("no tag").expect(400).await.problem("malformed-precondition");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_range_of_another_state_is_never_given() {
    for (settings, fields) in [(BODY, &[][..]), (HEADER, &[("X-Version", "1")]), (DATE, &[MODIFIED, LATER])] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).start();
        let tag = reads(&gateway, &mut backend, fields, "one").await.tag();
        // The backend can't know what the tag means, so it is not asked for a part.
        let reader = begin(gateway.get("/note").with("if-range", &tag).with("range", "bytes=0-1"));
        let get = backend.expect("GET", "/note").await;
        assert_eq!((get.field("if-range"), get.field("range")), (None, None), "{settings}");
        get.answer(200, fields, "one").await;
        assert_eq!(reader.answer().await.text(), "one");
        // A date it knows.
        let reader = begin(gateway.get("/note").with("if-range", MODIFIED.1).with("range", "bytes=0-1"));
        let get = backend.expect("GET", "/note").await;
        assert_eq!((get.field("if-range"), get.field("range")), (Some(MODIFIED.1), Some("bytes=0-1")));
        let mut part = fields.to_vec();
        part.extend([("Content-Range", "bytes 0-1/3"), ("ETag", "\"own\"")]);
        get.answer(206, &part, "on").await;
        let answer = reader.answer().await;
        // A part of a body has no hash.
        assert_eq!(answer.field("etag"), (settings != BODY).then_some(tag.as_str()), "{settings}");
        assert_eq!((answer.status, answer.text()), (206, "on"));
    }
}

#[tokio::test]
async fn head_shows_the_version_of_a_head() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(HEADER).start();
    let call = begin(gateway.call("HEAD", "/note"));
    backend.expect("HEAD", "/note").await.answer(200, &[("X-Version", "1"), ("ETag", "\"own\"")], "").await;
    assert_eq!(call.answer().await.tag(), "\"ifm-h-5e2ef3-1\"");
    // And it is learned from it.
    let writer = begin(gateway.put("/note", "x").if_match("\"ifm-h-5e2ef3-1\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

/// With a field or a date a HEAD shows what it is of, and is judged by it.
#[tokio::test]
async fn a_head_that_shows_its_version_is_judged_by_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(HEADER).start();
    for (condition, named, status) in [
        ("if-none-match", "\"ifm-h-5e2ef3-1\"", 304),
        ("if-none-match", "\"ifm-h-5e2ef3-2\"", 200),
        ("if-match", "\"ifm-h-5e2ef3-1\"", 200),
        ("if-match", "\"ifm-h-5e2ef3-2\"", 412),
    ] {
        let call = begin(gateway.call("HEAD", "/note").with(condition, named));
        backend.expect("HEAD", "/note").await.answer(200, &[("X-Version", "1")], "").await;
        assert_eq!(call.answer().await.status, status, "{condition} {named}");
    }
}

/// What a HEAD of a hashed body says comes from memory, under the rules by which a caller is told a tag.
#[tokio::test]
async fn head_shows_the_version_of_a_body_where_it_is_known() {
    const TEXT: (&str, &str) = ("Content-Type", "text/plain");
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let head = async |backend: &mut Script, credentials: &str, fields: &[(&str, &str)]| {
        let call = begin(gateway.call("HEAD", "/note").with("authorization", credentials));
        let arrival = backend.expect("HEAD", "/note").await;
        assert_eq!(arrival.field("accept-encoding"), Some("identity"));
        arrival.answer(200, fields, "").await;
        call.answer().await.field("etag").map(str::to_owned)
    };
    assert_eq!(head(&mut backend, "me", &[TEXT, ("ETag", "\"own\"")]).await, None);
    let call = begin(gateway.get("/note").with("authorization", "me").with("accept-encoding", "br"));
    backend.expect("GET", "/note").await.answer(200, &[TEXT, ("Vary", "Accept-Encoding")], "one").await;
    let tag = call.answer().await.tag();
    const VARIES: (&str, &str) = ("Vary", "Accept-Encoding");
    assert_eq!(head(&mut backend, "me", &[TEXT, VARIES]).await, Some(tag.clone()));
    // Not to others, not of another representation, and not of what a cache says.
    assert_eq!(head(&mut backend, "you", &[TEXT, VARIES]).await, None);
    assert_eq!(head(&mut backend, "me", &[("Content-Type", "text/html"), VARIES]).await, None);
    assert_eq!(head(&mut backend, "me", &[TEXT, VARIES, ("Age", "1")]).await, None);
    // What is remembered may be another state's than this answer's: no condition is judged by it.
    for condition in ["if-none-match", "if-match"] {
        for named in [tag.as_str(), "\"ifm-b-other\""] {
            let call = begin(gateway.call("HEAD", "/note").with("authorization", "me").with(condition, named));
            backend.expect("HEAD", "/note").await.answer(200, &[TEXT, VARIES], "").await;
            let answer = call.answer().await;
            assert_eq!((answer.status, answer.tag()), (200, tag.clone()), "{condition} {named}");
        }
    }
    // Not while somebody writes, nor where somebody has written meanwhile.
    let late = begin(gateway.call("HEAD", "/note").with("authorization", "me"));
    let overtaken = backend.expect("HEAD", "/note").await;
    let writer = begin(gateway.put("/note", "two").if_match(&tag).with("authorization", "me"));
    let put = backend.expect("PUT", "/note").await;
    assert_eq!(head(&mut backend, "me", &[TEXT, VARIES]).await, None);
    put.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
    overtaken.answer(200, &[TEXT, VARIES], "").await;
    assert_eq!(late.answer().await.field("etag"), None);
    assert_eq!(head(&mut backend, "me", &[TEXT, VARIES]).await, None);
}

#[tokio::test]
async fn head_tells_nothing_where_the_backend_changes_by_itself() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard("verify = \"always\"").start();
    reads(&gateway, &mut backend, &[], "one").await;
    let call = begin(gateway.call("HEAD", "/note"));
    backend.expect("HEAD", "/note").await.answer(200, &[], "").await;
    assert_eq!(call.answer().await.field("etag"), None);
}

#[tokio::test]
async fn what_a_cache_says_is_told_and_not_learned() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let tag = reads(&gateway, &mut backend, &[("Age", "7")], "one").await.tag();
    let writer = begin(gateway.put("/note", "x").if_match(&tag));
    backend.expect("GET", "/note").await.answer(200, &[], "two").await;
    assert_eq!(writer.answer().await.status, 409);
    backend.assert_quiet();
}

#[tokio::test]
async fn representations_have_versions_of_their_own() {
    const VARY: (&str, &str) = ("Vary", "Accept");
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let json = reads(&gateway, &mut backend, &[("Content-Type", "application/json"), VARY], "1").await.tag();
    let html = reads(&gateway, &mut backend, &[("Content-Type", "text/html"), VARY], "<b>1</b>").await.tag();
    for tag in [&json, &html] {
        let writer = begin(gateway.put("/note", "x").if_match(tag));
        backend.expect("PUT", "/note").await.answer(422, &[], "").await;
        assert_eq!(writer.answer().await.status, 422);
    }
}

/// A read that a write overtakes shows a tag, which nobody takes for the current one.
#[tokio::test]
async fn old_news_is_not_recorded() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let tag = reads(&gateway, &mut backend, &[], "one").await.tag();
    let reader = begin(gateway.get("/note"));
    let mut read = backend.expect("GET", "/note").await;
    read.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\non").await;
    let writer = begin(gateway.put("/note", "two").if_match(&tag));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
    read.send("e").await;
    read.go_on();
    assert_eq!(reader.answer().await.tag(), tag);
    let writer = begin(gateway.put("/note", "three").if_match(&tag));
    backend.expect("GET", "/note").await.answer(200, &[], "two").await;
    assert_eq!(writer.answer().await.status, 409);
    backend.assert_quiet();
}
