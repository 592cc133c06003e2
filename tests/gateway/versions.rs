//! Backends without tags: versions that the gateway makes of bodies, fields, values and dates.

mod after_write;
mod bodies;
mod reads;

use crate::support::{Arrival, Gateway, Habits, Script, Store, Tags, begin};

const BODY: &str = "version = \"body\"";
const HEADER: &str = "version = { header = \"X-Version\" }";
const JSON: &str = "version = { json = \"/meta/v\" }";
const DATE: &str = "version = \"last-modified\"";

const MODIFIED: (&str, &str) = ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT");
const LATER: (&str, &str) = ("Date", "Sun, 06 Nov 1994 08:50:00 GMT");

/// Answers a GET, which must come next.
async fn reads(gateway: &Gateway, backend: &mut Script, fields: &[(&str, &str)], body: &str) -> crate::support::Answer {
    let call = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, fields, body).await;
    let answer = call.answer().await;
    assert_eq!((answer.status, answer.text()), (200, body));
    answer
}

/// A write without any tag that the backend would not know.
fn knows_no_tag(arrival: &Arrival) {
    assert_eq!((arrival.field("if-match"), arrival.field("if-none-match")), (None, None));
}

async fn plain_store() -> Store {
    Store::with(Habits { tags: Tags::None, ..Habits::default() }).await
}

#[tokio::test]
async fn read_and_write_and_read_and_write() {
    let store = plain_store().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard(BODY).start();
    let mut tag = gateway.get("/note").expect(200).await.tag();
    let first = tag.clone();
    for body in ["second", "third", "fourth"] {
        let written = gateway.put("/note", body).if_match(&tag).expect(200).await;
        assert_eq!(written.field("etag"), None);
        let read = gateway.get("/note").expect(200).await;
        assert_eq!(read.text(), body);
        assert_ne!(read.tag(), tag);
        tag = read.tag();
    }
    assert!(tag.starts_with("\"ifm-b-"), "{tag}");
    let refused = gateway.put("/note", "stale").if_match(&first).expect(409).await;
    assert_eq!(refused.problem("stale")["current_etags"][0], tag.as_str());
    assert_eq!(refused.tag(), tag);
    assert_eq!(store.body("/note").as_deref(), Some("fourth"));
    assert_eq!(store.writes(), 3);
}

/// Whoever holds the tag wins once, over HTTP/1.1 and however many there are.
#[tokio::test]
async fn of_many_writers_one_wins() {
    let store = plain_store().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard(BODY).start();
    let tag = gateway.get("/note").expect(200).await.tag();
    let writers: Vec<_> = (0..30).map(|n| begin(gateway.put("/note", &format!("by {n}")).if_match(&tag))).collect();
    let mut won = Vec::new();
    for (n, writer) in writers.into_iter().enumerate() {
        let answer = writer.answer().await;
        match answer.status {
            200 => won.push(n),
            409 => drop(answer.problem("stale")),
            other => panic!("{other}"),
        }
    }
    assert_eq!((won.len(), store.writes()), (1, 1));
    assert_eq!(store.body("/note"), Some(format!("by {}", won[0])));
}

#[tokio::test]
async fn each_source_tells_states_apart() {
    let old = |n: &'static str| format!("{{\"meta\":{{\"v\":{n}}}}}");
    for (settings, before, after) in [
        (BODY, (vec![], "one".to_owned()), (vec![], "two".to_owned())),
        (HEADER, (vec![("X-Version", "1")], "same".to_owned()), (vec![("X-Version", "2")], "same".to_owned())),
        (JSON, (vec![], old("7")), (vec![], old("8"))),
        (
            DATE,
            (vec![MODIFIED, LATER], "same".to_owned()),
            (vec![("Last-Modified", "Sun, 06 Nov 1994 08:49:40 GMT"), LATER], "same".to_owned()),
        ),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).start();
        let tag = reads(&gateway, &mut backend, &before.0, &before.1).await.tag();
        assert!(tag.starts_with("\"ifm-"), "{settings}: {tag}");
        let writer = begin(gateway.put("/note", "mine").if_match(&tag));
        let put = backend.expect("PUT", "/note").await;
        knows_no_tag(&put);
        put.answer(200, &[], "").await;
        assert_eq!(writer.answer().await.status, 200, "{settings}");
        // Stale, by what a read shows.
        let other = reads(&gateway, &mut backend, &after.0, &after.1).await.tag();
        assert_ne!(other, tag, "{settings}");
        gateway.put("/note", "stale").if_match(&tag).expect(409).await;
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_probe_looks_where_the_version_is() {
    for (settings, fields, body, method) in [
        (BODY, &[][..], "one", "GET"),
        (HEADER, &[("X-Version", "1")], "", "HEAD"),
        (JSON, &[], "{\"meta\":{\"v\":7}}", "GET"),
        (DATE, &[MODIFIED, LATER], "", "HEAD"),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).start();
        let tag = reads(&gateway, &mut backend, fields, body).await.tag();
        drop(gateway);
        // Another process, which knows nothing: the tag is the same.
        let gateway = Gateway::before(backend.address).guard(settings).start();
        let writer = begin(gateway.put("/note", "mine").if_match(&tag));
        let probe = backend.expect(method, "/note").await;
        let is_in_body = method == "GET";
        assert_eq!(probe.field("accept-encoding"), is_in_body.then_some("identity"), "{settings}");
        probe.answer(200, fields, body).await;
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        assert_eq!(writer.answer().await.status, 200, "{settings}");
        // It is of another state by now.
        let writer = begin(gateway.put("/note", "mine").if_match(&tag));
        let probe = backend.expect(method, "/note").await;
        let other = [("X-Version", "2"), ("Last-Modified", "Sun, 06 Nov 1994 08:49:40 GMT"), LATER];
        probe.answer(200, &other, "{\"meta\":{\"v\":8}}").await;
        let answer = writer.answer().await;
        assert_eq!(answer.status, 409, "{settings}");
        answer.problem("stale");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_probe_without_a_version_matches_nothing() {
    for (settings, status, fields, body) in [
        (BODY, 203, &[][..], "one"),
        (BODY, 206, &[("Content-Range", "bytes 0-2/9")], "one"),
        (BODY, 200, &[("Content-Encoding", "br")], "one"),
        (BODY, 200, &[], "longer than is looked at"),
        (JSON, 200, &[], "{\"meta\":{}}"),
        (JSON, 200, &[], "no JSON"),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).guard("version_body_limit = 16").start();
        let writer = begin(gateway.put("/note", "mine").if_match("\"ifm-b-1\""));
        let mut fields = fields.to_vec();
        fields.push(("ETag", "\"ifm-b-1\""));
        backend.expect("GET", "/note").await.answer(status, &fields, body).await;
        let answer = writer.answer().await;
        assert_eq!(answer.status, 409, "{settings} {status} {body}");
        answer.problem("unverifiable");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_probe_that_breaks_off_changes_nothing() {
    for (end, status) in [("", 502), ("stall", 504)] {
        let mut backend = Script::start().await;
        let settings = Gateway::before(backend.address).guard(BODY).upstream("response_timeout = \"200ms\"");
        let gateway = settings.start();
        let writer = begin(gateway.put("/note", "mine").if_match("\"ifm-b-1\""));
        let mut probe = backend.expect("GET", "/note").await;
        probe.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
        if end.is_empty() {
            probe.finish().await;
        }
        assert_eq!(writer.answer().await.status, status);
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn what_is_not_there_can_be_created_once() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let creator = begin(gateway.put("/note", "mine").with("if-none-match", "*"));
    backend.expect("GET", "/note").await.answer(404, &[], "").await;
    let put = backend.expect("PUT", "/note").await;
    // The backend knows what that means.
    assert_eq!(put.field("if-none-match"), Some("*"));
    put.answer(201, &[], "").await;
    assert_eq!(creator.answer().await.status, 201);
    let second = begin(gateway.put("/note", "mine").with("if-none-match", "*"));
    backend.expect("GET", "/note").await.answer(200, &[], "there").await;
    let answer = second.answer().await;
    assert_eq!(answer.status, 409);
    answer.problem("exists");
    backend.assert_quiet();
}

#[tokio::test]
async fn conditions_travel_on_as_far_as_the_backend_knows_them() {
    const SINCE: (&str, &str) = ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT");
    for (settings, sent, arrived) in [
        ("", ("if-match", "*"), Some("*")),
        ("forward_preconditions = false", ("if-match", "*"), None),
        ("", SINCE, Some(SINCE.1)),
        ("forward_preconditions = false", SINCE, None),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(BODY).guard(settings).start();
        let writer = begin(gateway.put("/note", "mine").with(sent.0, sent.1));
        let method = if sent == SINCE { "HEAD" } else { "GET" };
        backend.expect(method, "/note").await.answer(200, &[MODIFIED], "").await;
        let put = backend.expect("PUT", "/note").await;
        assert_eq!(put.field(sent.0), arrived, "{settings} {sent:?}");
        put.answer(200, &[], "").await;
        assert_eq!(writer.answer().await.status, 200);
    }
    // What stands beside a tag would apply in its place.
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let tag = reads(&gateway, &mut backend, &[], "one").await.tag();
    let writer = begin(gateway.put("/note", "mine").if_match(&tag).with(SINCE.0, SINCE.1));
    let put = backend.expect("PUT", "/note").await;
    knows_no_tag(&put);
    assert_eq!(put.field(SINCE.0), None);
    put.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

/// A field, a date or a tag in the answer to a write may be of the state before.
#[tokio::test]
async fn a_write_s_answer_shows_no_version() {
    for settings in [BODY, HEADER, JSON, DATE] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(settings).start();
        let writer = begin(gateway.put("/note", "mine"));
        let shown = [("ETag", "\"own\""), ("X-Version", "1"), MODIFIED, LATER];
        backend.expect("PUT", "/note").await.answer(200, &shown, "{\"meta\":{\"v\":1}}").await;
        let answer = writer.answer().await;
        assert_eq!((answer.field("etag"), answer.field("x-version")), (None, Some("1")), "{settings}");
        for tag in ["\"own\"", "\"ifm-h-5e2ef3-1\"", "\"ifm-j-ca9e03-1\"", "\"ifm-m-Sun,06Nov199408:49:37GMT\""] {
            let writer = begin(gateway.put("/note", "mine").if_match(tag));
            let probe = backend.next().await;
            assert_ne!(probe.method, "PUT", "{settings} {tag}");
            probe.answer(500, &[], "").await;
            assert_eq!(writer.answer().await.status, 409);
        }
    }
}

#[tokio::test]
async fn ignored_members_are_no_change() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard("ignore = [\"/meta/at\"]").start();
    const TYPE: (&str, &str) = ("Content-Type", "application/json");
    let document = |value: &str, at: &str| format!("{{\"value\":{value},\"meta\":{{\"at\":{at},\"by\":1}}}}");
    let tag = reads(&gateway, &mut backend, &[TYPE], &document("1", "\"noon\"")).await.tag();
    assert_eq!(reads(&gateway, &mut backend, &[TYPE], &document("1", "\"one\"")).await.tag(), tag);
    assert_eq!(reads(&gateway, &mut backend, &[TYPE], &document("1", "null")).await.tag(), tag);
    assert_ne!(reads(&gateway, &mut backend, &[TYPE], &document("2", "\"one\"")).await.tag(), tag);
    gateway.put("/note", "stale").if_match(&tag).expect(409).await;
    backend.assert_quiet();
}

#[tokio::test]
async fn where_the_guard_is_off_nothing_is_made() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard("mode = \"off\"").start();
    assert_eq!(reads(&gateway, &mut backend, &[("ETag", "\"own\"")], "one").await.tag(), "\"own\"");
    let call = begin(gateway.get("/note").with("if-none-match", "\"own\"").with("accept-encoding", "br"));
    let get = backend.expect("GET", "/note").await;
    assert_eq!((get.field("if-none-match"), get.field("accept-encoding")), (Some("\"own\""), Some("br")));
    get.answer(304, &[("ETag", "\"own\"")], "").await;
    assert_eq!(call.answer().await.tag(), "\"own\"");
}

/// To observe is to see what clients would do with the tags, so they get them.
#[tokio::test]
async fn where_the_guard_observes_reads_have_versions_and_writes_pass() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).guard("mode = \"observe\"").start();
    let tag = reads(&gateway, &mut backend, &[], "one").await.tag();
    reads(&gateway, &mut backend, &[], "two").await;
    for condition in [tag.as_str(), "no tag"] {
        let reader = begin(gateway.get("/note").if_match(condition));
        backend.expect("GET", "/note").await.answer(200, &[], "two").await;
        assert_eq!(reader.answer().await.status, 200);
    }
    let writer = begin(gateway.put("/note", "stale").if_match(&tag));
    let put = backend.expect("PUT", "/note").await;
    knows_no_tag(&put);
    put.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

/// A service that checks tags of its own still does, where the gateway only looks on.
#[tokio::test]
async fn where_the_guard_observes_the_service_s_own_check_stays() {
    const SINCE: (&str, &str) = ("if-unmodified-since", MODIFIED.1);
    let mut backend = Script::start().await;
    for mode in ["mode = \"observe\"", "mode = \"warn\""] {
        let gateway = Gateway::before(backend.address).guard(BODY).guard(mode).start();
        for field in ["if-match", "if-none-match"] {
            for (sent, arrived) in [
                ("\"n1\"", Some("\"n1\"")),
                ("W/\"n1\",\"n2\"", Some("W/\"n1\",\"n2\"")),
                ("\"ifm-b-1\", W/\"n1\", \"ifm-b-2\",\"n,2\"", Some("W/\"n1\", \"n,2\"")),
                ("\"ifm-b-1\", W/\"ifm-b-2\"", None),
                ("*", Some("*")),
                ("no tag", Some("no tag")),
            ] {
                let writer = begin(gateway.put("/note", "mine").with(field, sent).with(SINCE.0, SINCE.1));
                let put = backend.expect("PUT", "/note").await;
                assert_eq!(put.field(field), arrived, "{mode} {sent}");
                let stays = arrived.is_some() || field == "if-none-match";
                assert_eq!(put.field(SINCE.0), stays.then_some(SINCE.1), "{mode} {field} {sent}");
                put.answer(412, &[], "").await;
                assert_eq!(writer.answer().await.status, 412);
            }
        }
    }
}

/// Anybody can make the tag of a guess, so a verdict from memory would say whether it is right to who may not read it.
#[tokio::test]
async fn who_may_not_read_a_body_is_not_told_whether_a_guess_is_right() {
    let mut backend = Script::start().await;
    for verify in ["unknown", "mismatch", "never"] {
        let gateway = Gateway::before(backend.address).guard(BODY).guard(&format!("verify = \"{verify}\"")).start();
        let reader = begin(gateway.get("/note").with("authorization", "alice"));
        backend.expect("GET", "/note").await.answer(200, &[], "one").await;
        let right = reader.answer().await.tag();
        for condition in ["if-match", "if-none-match"] {
            for guess in [right.as_str(), "\"ifm-b-wrong\""] {
                let writer = begin(gateway.put("/note", "mine").with(condition, guess).with("authorization", "bob"));
                if verify == "never" {
                    let answer = writer.answer().await;
                    assert_eq!(answer.status, 409);
                    answer.problem("unverifiable");
                    continue;
                }
                let probe = backend.expect("GET", "/note").await;
                assert_eq!(probe.field("authorization"), Some("bob"));
                probe.answer(401, &[], "").await;
                assert_eq!(writer.answer().await.status, 401, "{verify} {condition} {guess}");
            }
        }
        // Who has read it is judged by what is known.
        let call = gateway.put("/note", "mine").if_match("\"ifm-b-wrong\"").with("authorization", "alice");
        if verify != "mismatch" {
            call.expect(409).await.problem("stale");
        }
        backend.assert_quiet();
    }
    // Nor is who is only warned.
    let gateway = Gateway::before(backend.address).guard(BODY).guard("mode = \"warn\"").start();
    let mut told = Vec::new();
    for is_right in [true, false] {
        let tag = reads(&gateway, &mut backend, &[], "one").await.tag();
        let guess = if is_right { tag.as_str() } else { "\"ifm-b-wrong\"" };
        let writer = begin(gateway.put("/note", "mine").if_match(guess).with("authorization", "bob"));
        backend.expect("PUT", "/note").await.answer(401, &[], "").await;
        let answer = writer.answer().await;
        told.push((answer.status, answer.field("proxy-status").map(str::to_owned)));
    }
    assert_eq!(told[0], told[1]);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_stale_write_gets_the_representation_with_its_version() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(BODY).start();
    let old = reads(&gateway, &mut backend, &[], "one").await.tag();
    let tag = reads(&gateway, &mut backend, &[], "two").await.tag();
    let writer = begin(gateway.put("/note", "x").if_match(&old).with("prefer", "return=representation"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"own\"")], "two").await;
    let answer = writer.answer().await;
    assert_eq!((answer.status, answer.text(), answer.tag()), (409, "two", tag.clone()));
    let writer = begin(gateway.put("/note", "x").if_match(&answer.tag()));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

/// A lost answer is given again by a made tag as by any other.
#[tokio::test]
async fn a_lost_answer_is_given_again() {
    for settings in ["", "after_write = \"probe\""] {
        let store = plain_store().await;
        store.set("/note", "first");
        let gateway = Gateway::before(store.address).guard(BODY).guard(settings).guard("replay = \"30s\"").start();
        let tag = gateway.get("/note").expect(200).await.tag();
        let write = || gateway.put("/note", "second").with("content-type", "text/plain").if_match(&tag);
        let first = write().expect(200).await;
        let again = write().expect(200).await;
        assert!(again.field("proxy-status").is_some_and(|status| status.contains("replayed")));
        assert_eq!(first.field("etag"), again.field("etag"));
        assert_eq!(first.field("etag").is_some(), !settings.is_empty());
        assert_eq!(store.writes(), 1);
        gateway.put("/note", "third").if_match(&tag).expect(409).await;
    }
}
