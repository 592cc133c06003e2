//! WebDAV's ways of naming a resource and of demanding a version, where a backend understands more than the gateway might.

use crate::support::{Gateway, Script, begin};

const WEBDAV: &str = "profile = \"webdav\"";

async fn with(guard: &str) -> (Script, Gateway) {
    let backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(guard).start();
    (backend, gateway)
}

/// A read of `path` shows this tag.
async fn read(backend: &mut Script, gateway: &Gateway, path: &str, tag: &str) {
    let reader = begin(gateway.get(path));
    backend.expect("GET", path).await.answer(200, &[("ETag", tag)], "").await;
    assert_eq!(reader.answer().await.status, 200);
}

/// How a client may write a path of the host that the calls ask.
const SPELLINGS: [&str; 9] = [
    "http://ann@notes.example/note",
    "https://ann:secret@notes.example/note",
    "http://notes.example:080/note",
    "http://notes.example:/note",
    "http://notes.ex%61mple/note",
    "http://NOTES.example.:443/note",
    "http:/note",
    "HTTP:/note",
    "http:///note",
];

#[tokio::test]
async fn a_user_or_a_port_in_an_if_hid_its_resource() {
    let (mut backend, gateway) = with(WEBDAV).await;
    read(&mut backend, &gateway, "/note", "\"2\"").await;
    for spelling in SPELLINGS {
        let stale = gateway.put("/note", "x").with("if", &format!("<{spelling}> ([\"1\"])")).expect(412).await;
        stale.problem("stale");
    }
    backend.assert_quiet();
}

#[tokio::test]
async fn a_user_or_a_port_in_a_destination_hid_what_was_overwritten() {
    for spelling in SPELLINGS {
        let (mut backend, gateway) = with(WEBDAV).await;
        read(&mut backend, &gateway, "/note", "\"1\"").await;
        let moved = begin(gateway.call("MOVE", "/draft").with("destination", spelling));
        backend.expect("MOVE", "/draft").await.answer(204, &[], "").await;
        assert_eq!(moved.answer().await.status, 204);
        let stale = begin(gateway.put("/note", "x").if_match("\"1\""));
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
        assert_eq!(stale.answer().await.status, 412, "{spelling}");
    }
}

#[tokio::test]
async fn a_user_or_a_port_in_a_location_hid_what_was_changed() {
    for spelling in SPELLINGS {
        let (mut backend, gateway) = with("").await;
        read(&mut backend, &gateway, "/note", "\"1\"").await;
        let posted = begin(gateway.call("POST", "/notes"));
        backend.expect("POST", "/notes").await.answer(201, &[("Location", spelling)], "").await;
        assert_eq!(posted.answer().await.status, 201);
        let stale = begin(gateway.put("/note", "x").if_match("\"1\""));
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"2\"")], "").await;
        assert_eq!(stale.answer().await.status, 409, "{spelling}");
    }
}

/// Apache's tags are weak for as long as a file is younger than a second. Who asks by PROPFIND a little later is told the
/// strong one, which nobody else has learned.
#[tokio::test]
async fn who_read_a_strong_tag_elsewhere_was_refused_for_ever_by_the_weak_one_of_before() {
    for (field, value) in [("if-match", "\"3-66\""), ("if", "([\"3-66\"])"), ("if", "(<urn:uuid:1> [\"3-66\"])")] {
        let (mut backend, gateway) = with(WEBDAV).await;
        read(&mut backend, &gateway, "/note", "W/\"3-66\"").await;
        let write = begin(gateway.put("/note", "x").with(field, value));
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"3-66\"")], "").await;
        backend.expect("PUT", "/note").await.answer(204, &[], "").await;
        assert_eq!(write.answer().await.status, 204, "{value}");

        // Where it is still weak nobody may write with it yet.
        read(&mut backend, &gateway, "/note", "W/\"3-66\"").await;
        let write = begin(gateway.put("/note", "x").with(field, value));
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "W/\"3-66\"")], "").await;
        write.answer().await.problem("stale");
        backend.assert_quiet();
    }
    let (mut backend, gateway) = with("profile = \"webdav\"\nverify = \"never\"").await;
    read(&mut backend, &gateway, "/note", "W/\"3-66\"").await;
    gateway.put("/note", "x").if_match("\"3-66\"").expect(412).await.problem("stale");
    backend.assert_quiet();
}
