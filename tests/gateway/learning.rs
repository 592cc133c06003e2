//! What tags are learned from, and what is kept of them.

use crate::support::{Gateway, Script, Store, begin};

/// Has the backend answer one request so.
async fn answered(gateway: &Gateway, backend: &mut Script, method: &str, status: u16, fields: &[(&str, &str)]) {
    let call = begin(gateway.call(method, "/note"));
    backend.expect(method, "/note").await.answer(status, fields, "").await;
    assert_eq!(call.answer().await.status, status);
}

/// Whether a write with this tag is forwarded or refused without a question.
async fn is_known(gateway: &Gateway, backend: &mut Script) -> bool {
    let call = begin(gateway.put("/note", "x").if_match("\"1\""));
    let arrival = backend.next().await;
    let known = arrival.method == "PUT";
    let status = if known { 422 } else { 500 };
    arrival.answer(status, &[], "").await;
    call.answer().await;
    known
}

#[tokio::test]
async fn what_a_tag_is_learned_from() {
    const PART: (&str, &str) = ("Content-Type", "text/plain");
    const PARTS: (&str, &str) = ("Content-Type", "multipart/byteranges; boundary=x");
    const TAG: (&str, &str) = ("ETag", "\"1\"");
    for (method, status, fields, learned) in [
        ("GET", 200, &[TAG][..], true),
        ("GET", 203, &[TAG], true),
        ("GET", 206, &[TAG, PART], true),
        ("GET", 206, &[TAG, PARTS], true),
        ("GET", 304, &[TAG], true),
        ("HEAD", 200, &[TAG], true),
        ("HEAD", 304, &[TAG], true),
        ("PUT", 200, &[TAG], true),
        ("PUT", 201, &[TAG], true),
        ("PUT", 204, &[TAG], true),
        ("PATCH", 200, &[TAG], true),
        ("GET", 201, &[TAG], false),
        ("GET", 300, &[TAG], false),
        ("GET", 302, &[TAG], false),
        ("GET", 401, &[TAG], false),
        ("GET", 404, &[TAG], false),
        ("GET", 416, &[TAG], false),
        ("GET", 500, &[TAG], false),
        ("OPTIONS", 200, &[TAG], false),
        ("POST", 200, &[TAG], false),
        ("POST", 201, &[TAG], false),
        ("PROPPATCH", 207, &[TAG], false),
        ("PUT", 303, &[TAG], false),
        ("PUT", 412, &[TAG], false),
        ("PUT", 409, &[TAG], false),
        ("PUT", 500, &[TAG], false),
        ("PUT", 200, &[TAG, ("Content-Location", "/other")], false),
        ("PUT", 200, &[TAG, ("Content-Location", "/note")], true),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        answered(&gateway, &mut backend, method, status, fields).await;
        assert_eq!(is_known(&gateway, &mut backend).await, learned, "{method} {status} {fields:?}");
    }
}

#[tokio::test]
async fn the_tags_of_several_representations_are_current_together() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let json = [("ETag", "\"json\""), ("Content-Type", "application/json"), ("Vary", "Accept")];
    let html = [("ETag", "\"html\""), ("Content-Type", "text/html"), ("Vary", "Accept")];
    answered(&gateway, &mut backend, "GET", 200, &json).await;
    answered(&gateway, &mut backend, "GET", 200, &html).await;
    for tag in ["\"json\"", "\"html\""] {
        let call = begin(gateway.put("/note", "x").if_match(tag));
        backend.expect("PUT", "/note").await.answer(422, &[], "").await;
        assert_eq!(call.answer().await.status, 422);
    }
    // One of them in another state: the others are of the old state, too.
    let newer = [("ETag", "\"newer\""), json[1], json[2]];
    answered(&gateway, &mut backend, "GET", 200, &newer).await;
    for tag in ["\"json\"", "\"html\""] {
        gateway.put("/note", "x").if_match(tag).expect(409).await;
    }
    // And a write ends them all.
    let call = begin(gateway.put("/note", "x").if_match("\"newer\""));
    backend.expect("PUT", "/note").await.answer(200, &[("ETag", "\"last\"")], "").await;
    assert_eq!(call.answer().await.status, 200);
    for tag in ["\"json\"", "\"html\"", "\"newer\""] {
        gateway.put("/note", "x").if_match(tag).expect(409).await;
    }
    backend.assert_quiet();
}

#[tokio::test]
async fn a_404_to_a_read_is_no_proof_of_absence() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    answered(&gateway, &mut backend, "GET", 404, &[]).await;
    let creator = begin(gateway.put("/note", "x").with("if-none-match", "*"));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    assert_eq!(creator.answer().await.status, 409);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_304_that_a_write_overtook_does_not_revive_the_old_tag() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let reader = begin(gateway.get("/note").with("if-none-match", "\"1\""));
    let read = backend.expect("GET", "/note").await;
    answered(&gateway, &mut backend, "PUT", 204, &[]).await;
    read.answer(304, &[("ETag", "\"1\"")], "").await;
    assert_eq!(reader.answer().await.status, 304);
    assert!(!is_known(&gateway, &mut backend).await);
}

#[tokio::test]
async fn a_turn_is_not_evicted() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().rest("[tracker]\ncapacity = 1").start();
    answered(&gateway, &mut backend, "GET", 200, &[("ETag", "\"1\"")]).await;
    let first = begin(gateway.put("/note", "x").if_match("\"1\""));
    let under_way = backend.expect("PUT", "/note").await;
    for n in 0..20 {
        let path = format!("/other/{n}");
        let other = begin(gateway.get(&path));
        backend.expect("GET", &path).await.answer(200, &[("ETag", "\"o\"")], "").await;
        other.answer().await;
        let other = begin(gateway.put(&path, "x"));
        backend.expect("PUT", &path).await.answer(200, &[("ETag", "\"p\"")], "").await;
        other.answer().await;
    }
    let second = begin(gateway.put("/note", "y").if_match("\"1\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    assert!(second.waits());
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(second.answer().await.status, 409);
    backend.assert_quiet();
}

#[tokio::test]
async fn what_was_evicted_is_asked_for_again() {
    let store = Store::start().await;
    let tag = store.set("/note", "first");
    let gateway = Gateway::before(store.address).rest("[tracker]\ncapacity = 1").start();
    gateway.get("/note").expect(200).await;
    for n in 0..20 {
        store.set(&format!("/other/{n}"), "x");
        gateway.get(&format!("/other/{n}")).expect(200).await;
    }
    gateway.put("/note", "second").if_match(&tag).expect(200).await;
    assert_eq!(store.count("HEAD"), 1);
    for n in 0..20 {
        gateway.get(&format!("/other/{n}")).expect(200).await;
    }
    gateway.put("/note", "stale").if_match(&tag).expect(409).await;
    assert_eq!(store.count("PUT"), 1);
}

#[tokio::test]
async fn where_the_host_is_rewritten_all_hosts_are_one() {
    let store = Store::start().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).upstream("host = \"rewrite\"").start();
    let tag = gateway.get("/note").expect(200).await.tag();
    gateway.put("/note", "blind").with("host", "other.example").expect(200).await;
    gateway.put("/note", "stale").if_match(&tag).expect(409).await;
    assert_eq!(store.writes(), 1);
}

#[tokio::test]
async fn a_target_in_absolute_form_is_the_same_resource() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    answered(&gateway, &mut backend, "GET", 200, &[("ETag", "\"2\"")]).await;
    let mut raw = gateway.raw().await;
    raw.send(
        "PUT http://notes.example/note HTTP/1.1\r\nHost: other.example\r\nIf-Match: \"1\"\r\n\
         Content-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(raw.answer("PUT").await.status, 409);
    raw.send(
        "PUT http://notes.example/note HTTP/1.1\r\nHost: other.example\r\nIf-Match: \"2\"\r\n\
         Content-Length: 0\r\n\r\n",
    )
    .await;
    let put = backend.expect("PUT", "/note").await;
    assert_eq!(put.field("host"), Some("notes.example"));
    put.answer(200, &[], "").await;
    assert_eq!(raw.answer("PUT").await.status, 200);
}

/// A longer one counts as none.
#[tokio::test]
async fn a_tag_is_remembered_up_to_tag_bytes() {
    for (tag, status) in [("\"1234\"", 200), ("\"12345\"", 409)] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).rest("[tracker]\ntag_bytes = 4").start();
        let writer = begin(gateway.put("/note", "x").if_match(tag));
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", tag)], "").await;
        if status == 200 {
            backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        }
        let answer = writer.answer().await;
        assert_eq!(answer.status, status, "{tag}");
        if status == 409 {
            answer.problem("unverifiable");
        }
        backend.assert_quiet();
    }
}
