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

/// The field of a write that is judged and forwarded, as the backend gets it.
async fn forwarded(backend: &mut Script, gateway: &Gateway, field: &str) -> Option<String> {
    let write = begin(gateway.put("/note", "x").with("if", field));
    let arrival = backend.expect("PUT", "/note").await;
    let travelled = arrival.field("if").map(str::to_owned);
    arrival.answer(423, &[], "").await;
    assert_eq!(write.answer().await.status, 423);
    travelled
}

/// A backend that judges them finds that none is current, and refuses each write.
#[tokio::test]
async fn tags_that_were_made_here_travelled_on_in_an_if() {
    let (mut backend, gateway) = with("profile = \"webdav\"\nversion = \"body\"").await;
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"own\"")], "content").await;
    let tag = reader.answer().await.tag();
    assert!(tag.starts_with("\"ifm-b-"), "{tag}");
    for (field, left) in [
        (format!("([{tag}])"), None),
        (format!("</note> ([{tag}])"), None),
        (format!("([\"x\"]) ([{tag}])"), None),
        (format!("(<urn:uuid:1> [{tag}])"), Some("(<urn:uuid:1>)")),
        (format!("</note> (<urn:uuid:1> [{tag}])"), Some("</note> (<urn:uuid:1>)")),
        (format!("(<urn:uuid:1> [{tag}]) (<urn:uuid:2> [\"x\"])"), Some("(<urn:uuid:1> <urn:uuid:2>)")),
        ("(<urn:uuid:1>)".to_owned(), Some("(<urn:uuid:1>)")),
        // The token alone may be enough, which only the backend knows.
        (format!("([{tag}]) (<urn:uuid:1>)"), Some("as it is")),
        (format!("</other> (<urn:uuid:1>) </note> ([{tag}])"), Some("as it is")),
    ] {
        let expected = if left == Some("as it is") { Some(&*field) } else { left };
        assert_eq!(forwarded(&mut backend, &gateway, &field).await.as_deref(), expected, "{field}");
    }
    gateway.put("/note", "x").with("if", "(<urn:uuid:1> [\"own\"])").expect(412).await.problem("stale");
    backend.assert_quiet();
}

#[tokio::test]
async fn preconditions_that_shall_not_travel_did_so_in_an_if() {
    let (mut backend, gateway) = with("profile = \"webdav\"\nforward_preconditions = false").await;
    read(&mut backend, &gateway, "/note", "\"2\"").await;
    for (field, left) in [
        ("([\"2\"])", None),
        ("(Not [\"1\"])", None),
        ("(<urn:uuid:1> [\"2\"])", Some("(<urn:uuid:1>)")),
        ("(<urn:uuid:1>)", Some("(<urn:uuid:1>)")),
        ("</other> ([\"2\"])", Some("</other> ([\"2\"])")),
    ] {
        assert_eq!(forwarded(&mut backend, &gateway, field).await.as_deref(), left, "{field}");
    }
    // Where nobody here has judged it, it stays.
    let (mut backend, gateway) = with("forward_preconditions = false").await;
    assert_eq!(forwarded(&mut backend, &gateway, "([\"2\"])").await.as_deref(), Some("([\"2\"])"));
}

/// Into one that is longer than a target may be nobody looks: it counts as the target, which can only refuse.
#[tokio::test]
async fn a_reference_longer_than_any_target_was_looked_into_for_each_of_its_lists() {
    let (mut backend, gateway) = with(WEBDAV).await;
    read(&mut backend, &gateway, "/note", "\"2\"").await;
    let long = format!("/other/{}", "x".repeat(9000));
    gateway.put("/note", "x").with("if", &format!("<{long}> ([\"1\"])")).expect(412).await.problem("stale");
    backend.assert_quiet();
}
