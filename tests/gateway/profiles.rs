//! What each profile is for: the way of a kind of service in which an update would be lost, or nobody could write, without it.

use crate::support::{Gateway, H2, Script, begin};

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

const WEBDAV: &str = "profile = \"webdav\"";

#[tokio::test]
async fn webdavs_if_is_judged_by_its_tags() {
    let (mut backend, gateway) = with(WEBDAV).await;
    read(&mut backend, &gateway, "/note", "\"2\"").await;
    for stale in [
        "([\"1\"])",
        "(<urn:uuid:1> [\"1\"])",
        "([\"1\"]) ([\"0\"])",
        "(Not [\"2\"])",
        "([\"2\"] [\"1\"])",
        "([\"1\"]) (<DAV:no-lock>)",
        "</note> ([\"1\"])",
        "</a/../note> ([\"1\"])",
        "<http://notes.example/note> ([\"1\"])",
        "<https://notes.example/n%6Fte> ([\"1\"])",
    ] {
        let answer = gateway.put("/note", "x").with("if", stale).expect(412).await;
        answer.problem("stale");
        assert_eq!(answer.tag(), "\"2\"", "{stale}");
        // Of whatever method, on whatever version of HTTP.
        gateway.call("POST", "/note").with("if", stale).expect(412).await;
        gateway.call("LOCK", "/note").with("if", stale).expect(412).await;
    }
    let h2 = H2::connect(gateway.address).await;
    assert_eq!(h2.send(gateway.put("/note", "x").with("if", "([\"1\"])")).await.status, 412);
    backend.assert_quiet();
    for holds in [
        "([\"2\"])",
        "([\"1\"]) ([\"2\"])",
        "(Not [\"1\"])",
        "(<urn:uuid:1>)",
        "([\"1\"]) (<urn:uuid:1>)",
        "([\"1\"]) (Not <DAV:no-lock>)",
        "</other> ([\"1\"])",
        "<http://elsewhere.example/note> ([\"1\"])",
        "</note> ([\"1\"]) </other> ([\"9\"])",
    ] {
        read(&mut backend, &gateway, "/note", "\"2\"").await;
        let call = gateway.call("PROPPATCH", "/note").with("connection", "if").with("if", holds);
        let write = begin(call);
        let arrival = backend.expect("PROPPATCH", "/note").await;
        assert_eq!(arrival.field("if"), Some(holds), "the backend judges its locks");
        arrival.answer(423, &[], "").await;
        assert_eq!(write.answer().await.status, 423);
    }
}

#[tokio::test]
async fn an_if_that_cannot_be_read_is_400() {
    let (mut backend, gateway) = with(WEBDAV).await;
    for malformed in ["", "\"1\"", "[\"1\"]", "([1])", "()", "([\"1\"]", "([\"1\"]) </note> ([\"1\"])"] {
        let answer = gateway.put("/note", "x").with("if", malformed).expect(400).await;
        assert!(answer.problem("malformed-precondition")["error"].as_str().is_some_and(|e| e.starts_with("if: ")));
    }
    gateway.put("/note", "x").with("if", "([\"1\"])").with("if", "([\"1\"])").expect(400).await;
    // A read's is not the gateway's business.
    let reader = begin(gateway.get("/note").with("if", "?"));
    backend.expect("GET", "/note").await.answer(200, &[], "").await;
    assert_eq!(reader.answer().await.status, 200);
    backend.assert_quiet();
}

#[tokio::test]
async fn without_the_key_an_if_is_nobodys_precondition() {
    let (mut backend, gateway) = with("").await;
    read(&mut backend, &gateway, "/note", "\"2\"").await;
    for passed in ["([\"1\"])", "?"] {
        let write = begin(gateway.put("/note", "x").with("if", passed));
        let arrival = backend.expect("PUT", "/note").await;
        assert_eq!(arrival.field("if"), Some(passed));
        arrival.answer(204, &[], "").await;
        assert_eq!(write.answer().await.status, 204);
    }
}

#[tokio::test]
async fn an_if_about_a_resource_that_is_not_known_has_the_backend_asked() {
    for (shown, status) in [("\"1\"", 204), ("\"2\"", 412)] {
        let (mut backend, gateway) = with(WEBDAV).await;
        let write = begin(gateway.put("/note", "x").with("if", "(<urn:uuid:1> [\"1\"])"));
        let probe = backend.expect("HEAD", "/note").await;
        assert_eq!(probe.field("if"), None);
        probe.answer(200, &[("ETag", shown)], "").await;
        if status == 204 {
            backend.expect("PUT", "/note").await.answer(204, &[], "").await;
        }
        assert_eq!(write.answer().await.status, status);
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn of_two_writers_with_the_same_tag_in_if_one_is_forwarded() {
    let (mut backend, gateway) = with(WEBDAV).await;
    read(&mut backend, &gateway, "/note", "\"1\"").await;
    let first = begin(gateway.put("/note", "a").with("if", "([\"1\"])"));
    let under_way = backend.expect("PUT", "/note").await;
    let second = begin(gateway.put("/note", "b").with("if", "([\"1\"])"));
    under_way.answer(204, &[("ETag", "\"2\"")], "").await;
    assert_eq!((first.answer().await.status, second.answer().await.status), (204, 412));
    backend.assert_quiet();
}

#[tokio::test]
async fn writes_that_differ_in_their_if_are_not_the_same_write() {
    let (mut backend, gateway) = with("profile = \"webdav\"\nreplay = \"30s\"").await;
    let put = |condition: &str| gateway.put("/note", "x").with("if", condition);
    read(&mut backend, &gateway, "/note", "\"1\"").await;
    let first = begin(put("([\"1\"])"));
    backend.expect("PUT", "/note").await.answer(204, &[("ETag", "\"2\"")], "").await;
    assert_eq!(first.answer().await.status, 204);
    put("(<urn:uuid:1> [\"1\"])").expect(412).await.problem("stale");
    let again = put("([\"1\"])").expect(204).await;
    assert!(again.field("proxy-status").is_some_and(|status| status.contains("replayed")), "{again:?}");
    backend.assert_quiet();
}

#[tokio::test]
async fn what_only_asks_by_webdav_waits_for_no_write_and_makes_no_tag_stale() {
    let (mut backend, gateway) = with(WEBDAV).await;
    read(&mut backend, &gateway, "/note", "\"1\"").await;
    let ask = async |backend: &mut Script, method: &str| {
        let asked =
            begin(gateway.call(method, "/note").with("depth", "0").with("if-match", "\"0\"").body("<propfind/>"));
        let mut arrival = backend.expect(method, "/note").await;
        assert_eq!((arrival.field("depth"), arrival.field("if-match")), (Some("0"), Some("\"0\"")));
        assert_eq!(arrival.body().await.expect("a whole body"), b"<propfind/>");
        arrival.answer(207, &[], "<multistatus/>").await;
        let answer = asked.answer().await;
        assert_eq!((answer.status, answer.text()), (207, "<multistatus/>"));
    };
    let write = begin(gateway.put("/note", "x").if_match("\"1\""));
    let under_way = backend.expect("PUT", "/note").await;
    for method in ["PROPFIND", "REPORT", "SEARCH"] {
        ask(&mut backend, method).await;
    }
    under_way.answer(204, &[("ETag", "\"2\"")], "").await;
    assert_eq!(write.answer().await.status, 204);
    ask(&mut backend, "PROPFIND").await;
    // The tag still holds: nobody is asked for it.
    let write = begin(gateway.put("/note", "y").if_match("\"2\""));
    backend.expect("PUT", "/note").await.answer(204, &[], "").await;
    assert_eq!(write.answer().await.status, 204);

    // Elsewhere nobody knows that it only asks.
    let (mut backend, gateway) = with("wait = \"0s\"").await;
    let _write = begin(gateway.put("/note", "x"));
    let _under_way = backend.expect("PUT", "/note").await;
    gateway.call("PROPFIND", "/note").expect(409).await.problem("busy");
}

const S3: &str = "profile = \"s3\"";

#[tokio::test]
async fn what_sdks_and_signatures_add_to_a_query_names_no_other_object() {
    let (mut backend, gateway) = with(S3).await;
    read(&mut backend, &gateway, "/b/k?x-id=GetObject", "\"1\"").await;
    let first = begin(gateway.put("/b/k?x-id=PutObject", "a").if_match("\"1\""));
    let under_way = backend.expect("PUT", "/b/k?x-id=PutObject").await;
    let second = begin(gateway.put("/b/k?X-Amz-Signature=5", "b").if_match("\"1\""));
    under_way.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(first.answer().await.status, 200);
    second.answer().await.problem("stale");
    gateway.put("/b/k", "b").if_match("\"1\"").expect(412).await;
    backend.assert_quiet();
}

#[tokio::test]
async fn the_parts_of_an_upload_do_not_hold_up_the_object_and_its_end_changes_it() {
    let (mut backend, gateway) = with(S3).await;
    read(&mut backend, &gateway, "/b/k", "\"1\"").await;
    // Two parts and the object, all at once.
    let one = begin(gateway.put("/b/k?partNumber=1&uploadId=u", "1"));
    let first = backend.expect("PUT", "/b/k?partNumber=1&uploadId=u").await;
    let two = begin(gateway.put("/b/k?partNumber=2&uploadId=u", "2"));
    let second = backend.expect("PUT", "/b/k?partNumber=2&uploadId=u").await;
    let whole = begin(gateway.put("/b/k", "whole").if_match("\"1\""));
    backend.expect("PUT", "/b/k").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(whole.answer().await.status, 200);
    for (part, call) in [(first, one), (second, two)] {
        part.answer(200, &[("ETag", "\"part\"")], "").await;
        assert_eq!(call.answer().await.status, 200);
    }
    gateway.put("/b/k", "x").if_match("\"part\"").expect(412).await;

    let end = begin(gateway.call("POST", "/b/k?uploadId=u"));
    backend.expect("POST", "/b/k?uploadId=u").await.answer(200, &[], "<ETag>3-2</ETag>").await;
    assert_eq!(end.answer().await.status, 200);
    let stale = begin(gateway.put("/b/k", "x").if_match("\"2\""));
    backend.expect("HEAD", "/b/k").await.answer(200, &[("ETag", "\"3-2\"")], "").await;
    assert_eq!(stale.answer().await.status, 412);
    backend.assert_quiet();
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_the_object_there() {
    let (mut backend, gateway) = with(S3).await;
    read(&mut backend, &gateway, "/b/k", "\"1\"").await;
    let abort = begin(gateway.call("DELETE", "/b/k?uploadId=u"));
    backend.expect("DELETE", "/b/k?uploadId=u").await.answer(204, &[], "").await;
    assert_eq!(abort.answer().await.status, 204);
    let create = begin(gateway.put("/b/k", "x").with("if-none-match", "*"));
    backend.expect("HEAD", "/b/k").await.answer(200, &[("ETag", "\"1\"")], "").await;
    let answer = create.answer().await;
    assert_eq!(answer.status, 412);
    answer.problem("exists");

    // A whole object that is deleted is gone.
    let delete = begin(gateway.call("DELETE", "/b/k").if_match("\"1\""));
    backend.expect("DELETE", "/b/k").await.answer(204, &[], "").await;
    assert_eq!(delete.answer().await.status, 204);
    let create = begin(gateway.put("/b/k", "x").with("if-none-match", "*"));
    backend.expect("PUT", "/b/k").await.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(create.answer().await.status, 200);
    backend.assert_quiet();
}

#[tokio::test]
async fn an_older_version_of_an_object_is_not_taken_for_the_current_one() {
    let (mut backend, gateway) = with(S3).await;
    read(&mut backend, &gateway, "/b/k?versionId=old", "\"old\"").await;
    let stale = begin(gateway.put("/b/k", "x").if_match("\"old\""));
    backend.expect("HEAD", "/b/k").await.answer(200, &[("ETag", "\"new\"")], "").await;
    assert_eq!(stale.answer().await.status, 412);
    backend.assert_quiet();
}

#[tokio::test]
async fn s3_is_told_409_where_another_write_is_under_way() {
    let (mut backend, gateway) = with("profile = \"s3\"\nwait = \"0s\"").await;
    let _first = begin(gateway.put("/b/k", "a"));
    let _under_way = backend.expect("PUT", "/b/k").await;
    gateway.put("/b/k", "b").if_match("\"1\"").expect(409).await.problem("busy");
}

/// Express tags every answer by what it says: two writes that are both answered `{"ok":true}` have the same tag.
#[tokio::test]
async fn the_tag_of_an_express_answer_to_a_write_is_not_that_of_what_it_stored() {
    let (mut backend, gateway) = with("profile = \"express\"").await;
    let answered = [("ETag", "W/\"b-ok\"")];
    let first = begin(gateway.put("/note", "a"));
    backend.expect("PUT", "/note").await.answer(200, &answered, "{\"ok\":true}").await;
    assert_eq!(first.answer().await.tag(), "W/\"b-ok\"");
    let stale = begin(gateway.put("/note", "b").if_match("W/\"b-ok\""));
    backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "W/\"4-other\"")], "").await;
    let refused = stale.answer().await;
    assert_eq!(refused.status, 409);
    refused.problem("stale");
    backend.assert_quiet();
    // What a read shows is.
    let next = begin(gateway.put("/note", "b").if_match("W/\"4-other\""));
    backend.expect("PUT", "/note").await.answer(200, &answered, "{\"ok\":true}").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn fhir_compares_its_weak_tags_whatever_form_is_asked_for() {
    let (mut backend, gateway) = with("profile = \"fhir\"").await;
    read(&mut backend, &gateway, "/Patient/1?_format=json", "W/\"3\"").await;
    gateway.put("/Patient/1", "x").if_match("W/\"2\"").expect(412).await.problem("stale");
    let update = begin(gateway.put("/Patient/1?_pretty=true", "x").if_match("W/\"3\""));
    backend.expect("HEAD", "/Patient/1?_pretty=true").await.answer(200, &[("ETag", "W/\"3\"")], "").await;
    let under_way = backend.expect("PUT", "/Patient/1?_pretty=true").await;
    let second = begin(gateway.put("/Patient/1", "y").if_match("W/\"3\""));
    under_way.answer(200, &[("ETag", "W/\"4\"")], "").await;
    assert_eq!(update.answer().await.status, 200);
    backend.expect("HEAD", "/Patient/1").await.answer(200, &[("ETag", "W/\"4\"")], "").await;
    assert_eq!(second.answer().await.status, 412);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_conditional_update_was_judged_by_the_tag_of_another_patient() {
    let (mut backend, gateway) = with("profile = \"fhir\"\nmissing = \"require\"").await;
    let (ann, ben) = ("/Patient?identifier=ann", "/Patient?identifier=ben");
    // Ann's is learned from nobody: neither by a read nor by a write.
    read(&mut backend, &gateway, ann, "W/\"7\"").await;
    let write = begin(gateway.put(ann, "x").if_match("W/\"7\""));
    backend.expect("HEAD", ann).await.answer(200, &[("ETag", "W/\"7\"")], "").await;
    backend.expect("PUT", ann).await.answer(200, &[("ETag", "W/\"8\"")], "").await;
    assert_eq!(write.answer().await.status, 200);
    for (sent, status) in [("W/\"8\"", 412), ("W/\"3\"", 200)] {
        let write = begin(gateway.put(ben, "x").if_match(sent));
        backend.expect("HEAD", ben).await.answer(200, &[("ETag", "W/\"3\"")], "").await;
        if status == 200 {
            backend.expect("PUT", ben).await.answer(200, &[("ETag", "W/\"4\"")], "").await;
        }
        assert_eq!(write.answer().await.status, status, "{sent}");
    }
    // And what is said to who sends none names nobody's.
    read(&mut backend, &gateway, ann, "W/\"8\"").await;
    let asked = gateway.put(ben, "x").expect(428).await;
    assert!(!asked.text().contains("W/"), "{asked:?}");
    assert_eq!(asked.field("etag"), None);
    // Where the service does not say what it has found, nobody can tell.
    let write = begin(gateway.put(ben, "x").if_match("W/\"3\""));
    backend.expect("HEAD", ben).await.answer(200, &[], "").await;
    backend.expect("GET", ben).await.answer(200, &[], "{}").await;
    write.answer().await.problem("unverifiable");
    backend.assert_quiet();
}

#[tokio::test]
async fn conditional_updates_still_take_turns() {
    let (mut backend, gateway) = with("profile = \"fhir\"\nwait = \"0s\"").await;
    let (ann, ben) = ("/Patient?identifier=ann", "/Patient?identifier=ben");
    let first = begin(gateway.put(ann, "x"));
    let under_way = backend.expect("PUT", ann).await;
    gateway.put(ben, "x").if_match("W/\"1\"").expect(409).await.problem("busy");
    under_way.answer(200, &[], "").await;
    assert_eq!(first.answer().await.status, 200);
    backend.assert_quiet();
}

#[tokio::test]
async fn odata_guards_merge_and_what_a_post_says_is_one() {
    let (mut backend, gateway) = with("profile = \"odata\"\nmissing = \"require\"").await;
    gateway.call("MERGE", "/Products(1)").expect(428).await;
    gateway.call("POST", "/Products(1)").with("x-http-method", "MERGE").expect(428).await;
    read(&mut backend, &gateway, "/Products(1)?$select=Name", "W/\"'1'\"").await;
    gateway.call("PATCH", "/Products(1)").if_match("W/\"'0'\"").expect(412).await.problem("stale");
    let merge = begin(gateway.call("MERGE", "/Products(1)").if_match("W/\"'1'\""));
    backend.expect("MERGE", "/Products(1)").await.answer(204, &[], "").await;
    assert_eq!(merge.answer().await.status, 204);
    backend.assert_quiet();
}

#[tokio::test]
async fn scim_is_told_412_by_its_weak_tags() {
    let (mut backend, gateway) = with("profile = \"scim\"").await;
    read(&mut backend, &gateway, "/Users/1?attributes=userName", "W/\"a\"").await;
    gateway.call("PATCH", "/Users/1").if_match("W/\"b\"").expect(412).await.problem("stale");
    let patch = begin(gateway.call("PATCH", "/Users/1?attributes=userName").if_match("W/\"a\""));
    let probe = backend.expect("HEAD", "/Users/1?attributes=userName").await;
    probe.answer(200, &[("ETag", "W/\"a\"")], "").await;
    backend.expect("PATCH", "/Users/1?attributes=userName").await.answer(204, &[], "").await;
    assert_eq!(patch.answer().await.status, 204);
    backend.assert_quiet();
}

#[tokio::test]
async fn check_prints_what_a_profile_means() {
    let file = std::env::temp_dir().join(format!("ifmatch-profiles-{}.toml", std::process::id()));
    let text = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[upstreams.a]\nservers = [\"http://127.0.0.1:1\"]\n\
                [guard]\nprofile = \"scim\"\nquery = \"include\"\n";
    std::fs::write(&file, text).expect("a file");
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_ifmatch"));
    let output = check.args(["check", "--config"]).arg(&file).output().expect("the program runs");
    std::fs::remove_file(&file).expect("the file is there");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{said}");
    for line in [
        "    Profile \"scim\", which means:\n",
        "      methods = [\"PUT\", \"PATCH\", \"DELETE\"]\n",
        "      conflict_status = 412\n",
        "      comparison = \"weak\"\n",
        "      query = \"ignore\", but \"include\" here\n",
    ] {
        assert!(said.contains(line), "{said} lacks {line}");
    }
}
