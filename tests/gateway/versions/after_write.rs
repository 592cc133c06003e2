//! Reading again after a write whose answer has no tag, within its turn.

use super::{BODY, HEADER, plain_store, reads};
use crate::support::{Arrival, Gateway, Pending, Raw, Script, begin, raw_put};

const PROBE: &str = "after_write = \"probe\"";

/// A PUT without a precondition that the backend has; its client waits.
async fn put(gateway: &Gateway, backend: &mut Script) -> (Pending, Arrival) {
    let writer = begin(gateway.put("/note", "mine"));
    let put = backend.expect("PUT", "/note").await;
    (writer, put)
}

/// Whether a write with this tag is forwarded without a question.
async fn is_known(gateway: &Gateway, backend: &mut Script, tag: &str) -> bool {
    let writer = begin(gateway.put("/note", "next").if_match(tag));
    let next = backend.next().await;
    let is_known = next.method == "PUT";
    next.answer(if is_known { 422 } else { 500 }, &[], "").await;
    writer.answer().await;
    is_known
}

#[tokio::test]
async fn a_client_saves_twice_without_a_read_between() {
    let store = plain_store().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard(BODY).guard(PROBE).start();
    let mut tag = gateway.get("/note").expect(200).await.tag();
    for body in ["second", "third", "fourth"] {
        let put = gateway.put("/note", body).with("content-type", "text/plain");
        tag = put.if_match(&tag).expect(200).await.tag();
        assert_eq!(gateway.get("/note").expect(200).await.tag(), tag);
    }
    // One read by the client at first, three to look, three probes.
    assert_eq!((store.writes(), store.reads()), (3, 7));
    gateway.put("/note", "stale").if_match("\"ifm-b-x\"").expect(409).await;
}

#[tokio::test]
async fn it_is_asked_for_as_the_route_has_it_and_put_on_the_answer() {
    for (settings, method, fields, body, tag) in [
        (HEADER, "HEAD", &[("X-Version", "2")][..], "", Some("\"ifm-h-5e2ef3-2\"")),
        ("", "HEAD", &[("ETag", "W/\"2\"")], "", Some("W/\"2\"")),
        (BODY, "GET", &[("ETag", "\"own\"")], "mine", None),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).guard(PROBE).start();
        let writer = begin(gateway.put("/note", "mine").with("authorization", "me"));
        backend.expect("PUT", "/note").await.answer(200, &[("X-Version", "1"), ("X-Own", "x")], "done").await;
        let probe = backend.expect(method, "/note").await;
        assert_eq!(probe.field("authorization"), Some("me"));
        probe.answer(200, fields, body).await;
        let answer = writer.answer().await;
        assert_eq!((answer.status, answer.text(), answer.field("x-own")), (200, "done", Some("x")), "{settings}");
        match tag {
            Some(tag) => assert_eq!(answer.tag(), tag, "{settings}"),
            None => assert!(answer.tag().starts_with("\"ifm-b-"), "{settings}"),
        }
    }
}

#[tokio::test]
async fn where_there_is_nothing_to_learn_nobody_is_asked() {
    for (settings, method, status, fields) in [
        ("", "PUT", 200, &[("ETag", "\"2\"")][..]),
        ("", "PUT", 200, &[("ETag", "\"2\""), ("ETag", "\"3\"")]),
        (BODY, "DELETE", 204, &[]),
        (BODY, "POST", 200, &[]),
        (BODY, "PUT", 303, &[("Location", "/note")]),
        (BODY, "PUT", 422, &[]),
        (BODY, "PUT", 412, &[]),
        (BODY, "PUT", 500, &[]),
        (BODY, "PUT", 202, &[]),
        (BODY, "PUT", 203, &[]),
        (BODY, "PUT", 205, &[]),
        (BODY, "PUT", 206, &[("Content-Range", "bytes 0-0/1")]),
        (BODY, "PUT", 207, &[]),
        (BODY, "PATCH", 208, &[]),
        (BODY, "PATCH", 226, &[]),
        (BODY, "PUT", 201, &[("Location", "/other")]),
        (BODY, "PUT", 201, &[("Location", "/note"), ("Location", "/other")]),
        (BODY, "PUT", 207, &[("Content-Location", "/other")]),
        (BODY, "PUT", 200, &[("Content-Location", "/other")]),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).guard(PROBE).guard("settle = \"0s\"").start();
        let writer = begin(gateway.call(method, "/note").body("mine"));
        backend.expect(method, "/note").await.answer(status, fields, "").await;
        let answer = writer.answer().await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.fields.get_all("etag").iter().count(), fields.iter().filter(|f| f.0 == "ETag").count());
        backend.assert_quiet();
    }
}

/// What is read again is of the kind that the client has written: the tag of an app's shell, which is the same before and
/// after, is no version of what it works with.
#[tokio::test]
async fn a_tag_of_another_view_than_the_client_works_with_is_not_given() {
    const JSON_TYPE: &str = "application/json";
    const CHARSET: &str = "Application/JSON; charset=utf-8";
    for (method, sent, accept, asked, shown, is_given) in [
        ("PUT", None, None, None, None, true),
        ("PUT", None, None, None, Some("text/html"), false),
        ("PUT", Some(JSON_TYPE), None, Some(JSON_TYPE), Some(CHARSET), true),
        ("PUT", Some(CHARSET), Some("*/*"), Some(JSON_TYPE), Some(JSON_TYPE), true),
        ("PUT", Some(JSON_TYPE), None, Some(JSON_TYPE), Some("text/html"), false),
        ("PUT", Some(JSON_TYPE), None, Some(JSON_TYPE), Some("application/hal+json"), false),
        ("PUT", Some(JSON_TYPE), None, Some(JSON_TYPE), None, false),
        ("PUT", Some(JSON_TYPE), Some("text/html"), Some("text/html"), Some("text/html"), false),
        ("PUT", Some(JSON_TYPE), Some("text/html, */*"), Some("text/html, */*"), Some(JSON_TYPE), true),
        ("PATCH", Some("application/merge-patch+json"), None, Some(JSON_TYPE), Some("application/hal+json"), true),
        ("PATCH", Some(JSON_TYPE), None, Some(JSON_TYPE), Some("text/html"), false),
        ("PATCH", Some("text/x-diff"), None, Some("text/x-diff"), Some(JSON_TYPE), false),
    ] {
        for settings in [BODY, ""] {
            let row = format!("{settings} {method} {sent:?} {accept:?} {shown:?}");
            let mut backend = Script::start().await;
            let gateway = Gateway::before(backend.address).guard(settings).guard(PROBE).start();
            let mut call = gateway.call(method, "/note").body("mine");
            for (name, value) in [("content-type", sent), ("accept", accept)] {
                call = value.iter().fold(call, |call, value| call.with(name, value));
            }
            let writer = begin(call);
            backend.expect(method, "/note").await.answer(204, &[], "").await;
            let mut fields = vec![("ETag", "\"1\"")];
            fields.extend(shown.map(|shown| ("Content-Type", shown)));
            let mut probe = backend.next().await;
            assert_eq!(probe.field("accept"), asked, "{row}");
            if probe.method == "HEAD" && !is_given {
                probe.answer(200, &fields, "").await;
                probe = backend.expect("GET", "/note").await;
            }
            let body = if probe.method == "HEAD" { "" } else { "mine" };
            probe.answer(200, &fields, body).await;
            assert_eq!(writer.answer().await.field("etag").is_some(), is_given, "{row}");
            backend.assert_quiet();
        }
    }
}

#[tokio::test]
async fn two_writers_never_have_one_tag_for_two_states() {
    for (settings, shell) in [(BODY, None), ("", Some(("ETag", "\"shell\"")))] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).guard(PROBE).start();
        let mut html = vec![("Vary", "Accept"), ("Content-Type", "text/html")];
        html.extend(shell);
        let mut given = Vec::new();
        for (state, own) in [("1", "\"j1\""), ("2", "\"j2\"")] {
            let json = [("Vary", "Accept"), ("Content-Type", "application/json"), ("ETag", own)];
            let reader = begin(gateway.get("/note").with("accept", "application/json"));
            backend.expect("GET", "/note").await.answer(200, &json, state).await;
            let writer = begin(gateway.put("/note", "next").if_match(&reader.answer().await.tag()));
            backend.expect("PUT", "/note").await.answer(204, &[], "").await;
            let mut probe = backend.next().await;
            if probe.method == "HEAD" {
                probe.answer(200, &html, "").await;
                probe = backend.expect("GET", "/note").await;
            }
            probe.answer(200, &html, "<app>").await;
            given.extend(writer.answer().await.field("etag").map(str::to_owned));
        }
        assert_eq!(given, Vec::<String>::new(), "{settings}");
    }
}

/// A version that is a value is that of all views, whichever was asked for.
#[tokio::test]
async fn a_value_is_the_version_of_every_view() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(HEADER).guard(PROBE).start();
    let writer = begin(gateway.put("/note", "a=1").with("content-type", "application/x-www-form-urlencoded"));
    backend.expect("PUT", "/note").await.answer(204, &[], "").await;
    let probe = backend.expect("HEAD", "/note").await;
    assert_eq!(probe.field("accept"), None);
    probe.answer(200, &[("X-Version", "2"), ("Content-Type", "text/html")], "").await;
    assert!(writer.answer().await.field("etag").is_some());
}

/// Whatever becomes of the read, the write has been applied and is answered so.
#[tokio::test]
async fn a_read_that_fails_changes_nothing() {
    for how in
        ["500", "404", "403", "302", "reset", "half", "no answer", "stalls", "encoded", "long", "untagged 200", "cache"]
    {
        let mut backend = Script::start().await;
        let settings = Gateway::before(backend.address).guard(BODY).guard(PROBE).guard("version_body_limit = 8");
        let gateway = settings.upstream("response_timeout = \"200ms\"\nejection = { failures = 0 }").start();
        let (writer, put) = put(&gateway, &mut backend).await;
        put.answer(200, &[("ETag", "\"own\"")], "done").await;
        let mut probe = backend.expect("GET", "/note").await;
        let mut kept = None;
        match how {
            "reset" => probe.reset(),
            "half" => {
                probe.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmi").await;
                probe.reset();
            }
            "no answer" => kept = Some(probe),
            "stalls" => {
                probe.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmi").await;
                kept = Some(probe);
            }
            "encoded" => probe.answer(200, &[("Content-Encoding", "br")], "mine").await,
            "long" => probe.answer(200, &[], "longer than is looked at").await,
            "cache" => probe.answer(200, &[("Age", "1")], "mine").await,
            "untagged 200" => probe.answer(203, &[], "mine").await,
            status => probe.answer(status.parse().expect("a status"), &[], "").await,
        }
        let answer = writer.answer().await;
        assert_eq!((answer.status, answer.text(), answer.field("etag")), (200, "done", None), "{how}");
        drop(kept);
        assert!(!is_known(&gateway, &mut backend, "\"ifm-b-1\"").await, "{how}");
    }
}

/// What was read may be from before the write: a cache, a replica that lags. Or the write has changed nothing; then
/// the next one asks.
#[tokio::test]
async fn a_tag_that_the_resource_had_before_is_not_its_next() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(PROBE).start();
    let older = reads(&gateway, &mut backend, &[], "one").await.tag();
    let tag = reads(&gateway, &mut backend, &[], "two").await.tag();
    for old in ["two", "one"] {
        let (writer, put) = put(&gateway, &mut backend).await;
        put.answer(200, &[], "").await;
        backend.expect("GET", "/note").await.answer(200, &[], old).await;
        assert_eq!(writer.answer().await.field("etag"), None);
        for tag in [&tag, &older] {
            assert!(!is_known(&gateway, &mut backend, tag).await);
        }
    }
    // It is not lost, either: who holds it and is right may write.
    let writer = begin(gateway.put("/note", "three").if_match(&tag));
    backend.expect("GET", "/note").await.answer(200, &[], "two").await;
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    backend.expect("GET", "/note").await.answer(200, &[], "three").await;
    assert!(writer.answer().await.tag().starts_with("\"ifm-b-"));
}

/// The turn goes on until the read is over: who waits is judged by what it showed.
#[tokio::test]
async fn the_next_writer_waits_for_the_tag() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(PROBE).one_worker().start();
    let tag = reads(&gateway, &mut backend, &[], "one").await.tag();
    let writer = begin(gateway.put("/note", "two").if_match(&tag));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    let probe = backend.expect("GET", "/note").await;
    let second = begin(gateway.put("/note", "three").if_match(&tag));
    let third = begin(gateway.put("/note", "four"));
    gateway.barrier().await;
    assert!(writer.waits() && second.waits() && third.waits());
    backend.assert_quiet();
    probe.answer(200, &[], "two").await;
    let new = writer.answer().await.tag();
    let refused = second.answer().await;
    assert_eq!((refused.status, refused.tag()), (409, new));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    backend.expect("GET", "/note").await.answer(200, &[], "four").await;
    assert_eq!(third.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_hangs_up_changes_nothing() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(PROBE).one_worker().start();
    let raw: Raw = raw_put(&gateway, "Content-Length: 4\r\n", "mine").await;
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    let probe = backend.expect("GET", "/note").await;
    raw.reset();
    gateway.barrier().await;
    // Its turn goes on without it.
    let second = begin(gateway.put("/note", "next"));
    gateway.barrier().await;
    backend.assert_quiet();
    assert!(second.waits());
    probe.answer(200, &[], "mine").await;
    backend.expect("PUT", "/note").await.answer(422, &[], "").await;
    assert_eq!(second.answer().await.status, 422);
    // What it has left is known.
    let tag = {
        let other = Gateway::before(backend.address).guard(BODY).start();
        reads(&other, &mut backend, &[], "mine").await.tag()
    };
    assert!(is_known(&gateway, &mut backend, &tag).await);
}

#[tokio::test]
async fn what_the_request_itself_has_made_has_a_tag() {
    for (status, fields) in [(201, &[("Location", "/note")][..]), (201, &[]), (200, &[("Location", "/other")])] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(BODY).guard(PROBE).start();
        let (writer, put) = put(&gateway, &mut backend).await;
        put.answer(status, fields, "").await;
        backend.expect("GET", "/note").await.answer(200, &[], "mine").await;
        let answer = writer.answer().await;
        assert!(answer.status == status && answer.field("etag").is_some(), "{status} {fields:?}");
    }
}

/// A service whose tags in a write's answer are of no use: that one does not stay because the read has failed.
#[tokio::test]
async fn a_tag_that_nobody_can_use_does_not_stay_where_the_read_fails() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("profile = \"express\"").guard(PROBE).start();
    let (writer, put) = put(&gateway, &mut backend).await;
    put.answer(200, &[("ETag", "W/\"of the answer\"")], "done").await;
    backend.expect("HEAD", "/note").await.answer(500, &[], "").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.text(), answer.field("etag")), (200, "done", None));
}

/// Another resource's write has changed this one in the meantime: the tag may be of a state that the client has not made.
#[tokio::test]
async fn a_tag_that_may_be_of_another_s_change_is_not_given() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(PROBE).start();
    let (writer, put) = put(&gateway, &mut backend).await;
    put.answer(200, &[], "").await;
    let probe = backend.expect("GET", "/note").await;
    let other = begin(gateway.call("POST", "/other"));
    backend.expect("POST", "/other").await.answer(200, &[("Content-Location", "/note")], "").await;
    assert_eq!(other.answer().await.status, 200);
    probe.answer(200, &[], "by the other").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.field("etag")), (200, None));
    let tag = {
        let other = Gateway::before(backend.address).guard(BODY).start();
        reads(&other, &mut backend, &[], "by the other").await.tag()
    };
    assert!(!is_known(&gateway, &mut backend, &tag).await);
}

/// A stop waits for the read as it does for the write.
#[tokio::test]
async fn a_stop_waits_for_the_read() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(PROBE).drain_timeout("10s").start();
    let (writer, put) = put(&gateway, &mut backend).await;
    put.answer(200, &[], "done").await;
    let probe = backend.expect("GET", "/note").await;
    gateway.stop();
    probe.answer(200, &[], "mine").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "done"));
    assert!(answer.tag().starts_with("\"ifm-b-"));
    gateway.stopped().await;
}

/// The answer to a write that is done is not lost because the read hangs for as long as a stop waits.
#[tokio::test]
async fn a_stop_does_not_lose_an_answer_to_a_read_that_hangs() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(PROBE).drain_timeout("2s").start();
    let (writer, put) = put(&gateway, &mut backend).await;
    gateway.stop();
    put.answer(200, &[], "done").await;
    let probe = backend.expect("GET", "/note").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.text(), answer.field("etag")), (200, "done", None));
    drop(probe);
    gateway.stopped().await;
}

/// The client is told what became of its write, although the read would take longer than its request may.
#[tokio::test]
async fn the_read_takes_no_more_than_the_request_has_left() {
    let mut backend = Script::start().await;
    let gateway =
        Gateway::before(backend.address).rest("[limits]\nrequest_timeout = \"2s\"").guard(BODY).guard(PROBE).start();
    let (writer, put) = put(&gateway, &mut backend).await;
    put.answer(200, &[], "done").await;
    let probe = backend.expect("GET", "/note").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.text(), answer.field("etag")), (200, "done", None));
    drop(probe);
}

/// One connection is enough: the write's answer has been read by then.
#[tokio::test]
async fn one_connection_is_enough() {
    let mut backend = Script::start().await;
    let settings = Gateway::before(backend.address).upstream("max_connections = 1\nconnect_timeout = \"100ms\"");
    let gateway = settings.guard(BODY).guard(PROBE).start();
    let (writer, put) = put(&gateway, &mut backend).await;
    put.answer(200, &[], "done").await;
    backend.expect("GET", "/note").await.answer(200, &[], "mine").await;
    let answer = writer.answer().await;
    assert!(answer.tag().starts_with("\"ifm-b-"));
    assert_eq!((answer.text(), backend.connections()), ("done", 1));
}

/// A long answer keeps its connection until it is through: a read that waited for another would keep it from all.
#[tokio::test]
async fn a_long_answer_does_not_wait_for_another_connection() {
    let mut backend = Script::start().await;
    let settings = Gateway::before(backend.address).upstream("max_connections = 1");
    let gateway = settings.guard(BODY).guard(PROBE).guard("version_body_limit = 64").start();
    for (length, is_read) in [(64, true), (65, false), (200_000, false)] {
        let (writer, put) = put(&gateway, &mut backend).await;
        let done = "x".repeat(length);
        put.answer(200, &[], &done).await;
        if is_read {
            backend.expect("GET", "/note").await.answer(200, &[], "mine").await;
        }
        let answer = writer.answer().await;
        assert_eq!((answer.text(), answer.field("etag").is_some()), (done.as_str(), is_read), "{length}");
        backend.assert_quiet();
    }
}

/// An answer whose body breaks off is read ahead, and breaks off all the same.
#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(PROBE).start();
    let mut raw = raw_put(&gateway, "Content-Length: 4\r\n", "mine").await;
    let mut put = backend.expect("PUT", "/note").await;
    put.body().await.expect("a body");
    put.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    put.finish().await;
    assert_eq!(raw.broken_answer().await, b"half");
    backend.assert_quiet();
}

/// While the write's body is under way nothing is read, since nothing is settled.
#[tokio::test]
async fn an_early_answer_is_not_followed_by_a_read() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard(PROBE).guard("buffer = 0").start();
    let mut raw = raw_put(&gateway, "Content-Length: 4\r\n", "mi").await;
    let mut put = backend.expect("PUT", "/note").await;
    put.answer_now(200, &[], "done").await.expect("a gateway that reads");
    let answer = raw.answer("PUT").await;
    assert_eq!((answer.status, answer.field("etag")), (200, None));
    raw.send("ne").await;
    assert_eq!(put.body().await.expect("a body"), b"mine");
    backend.assert_quiet();
}
