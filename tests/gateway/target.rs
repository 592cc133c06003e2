//! Which resource a request means: spellings, hosts, overrides of the method.

use crate::support::{Gateway, Habits, Script, Store, begin};

/// How a lenient backend reads a path.
fn lenient(path: &str) -> String {
    let mut decoded = Vec::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let hex = [bytes.clone().next(), bytes.clone().nth(1)].map(|b| b.and_then(|b| char::from(b).to_digit(16)));
        match (byte, hex) {
            (b'%', [Some(high), Some(low)]) => {
                decoded.push(u8::try_from(high * 16 + low).expect("two digits"));
                bytes.nth(1);
            }
            _ => decoded.push(byte.to_ascii_lowercase()),
        }
    }
    let decoded = String::from_utf8_lossy(&decoded).to_lowercase();
    let mut segments = Vec::new();
    for segment in decoded.split('/') {
        match segment.split(';').next() {
            Some("" | ".") | None => {}
            Some("..") => drop(segments.pop()),
            Some(segment) => segments.push(segment),
        }
    }
    segments.join("/")
}

const SPELLINGS: [&str; 16] = [
    "/a/%62",
    "/%61/b",
    "/a/./b",
    "/a//b",
    "/a/b/",
    "/A/B",
    "/a%2Fb",
    "/a%2fb",
    "/a/b;v=1",
    "/a;x/b",
    "/a/c/../b",
    "/a/%42",
    "/a/b/.",
    "//a/b",
    "/a/%2e/b",
    "/a/x/%2E%2E/b",
];

async fn lenient_store() -> (Store, Gateway) {
    let store = Store::with(Habits { folds: lenient, ..Habits::default() }).await;
    store.set("/a/b", "first");
    let gateway = Gateway::before(store.address).start();
    (store, gateway)
}

/// hyper's client would not send every one of these paths as it is.
async fn put(gateway: &Gateway, path: &str, fields: &str, body: &str) -> u16 {
    let mut raw = gateway.raw().await;
    let length = body.len();
    raw.send(format!("PUT {path} HTTP/1.1\r\nHost: notes.example\r\nContent-Length: {length}\r\n{fields}\r\n{body}"))
        .await;
    raw.answer("PUT").await.status
}

async fn tag(gateway: &Gateway, path: &str) -> String {
    let mut raw = gateway.raw().await;
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: notes.example\r\n\r\n")).await;
    raw.answer("GET").await.tag()
}

#[tokio::test]
async fn a_write_by_another_spelling_makes_the_tag_stale() {
    for spelling in SPELLINGS {
        let (store, gateway) = lenient_store().await;
        let tag = tag(&gateway, "/a/b").await;
        assert_eq!(put(&gateway, spelling, "", "second").await, 200, "{spelling}");
        assert_eq!(put(&gateway, "/a/b", &format!("If-Match: {tag}\r\n"), "stale").await, 409, "{spelling}");
        assert_eq!(store.body("/a/b").as_deref(), Some("second"), "{spelling}");
    }
}

#[tokio::test]
async fn a_tag_that_was_read_by_another_spelling_does_not_outlive_a_write() {
    for spelling in SPELLINGS {
        let (store, gateway) = lenient_store().await;
        let tag = tag(&gateway, spelling).await;
        assert_eq!(put(&gateway, "/a/b", "", "second").await, 200);
        assert_eq!(put(&gateway, spelling, &format!("If-Match: {tag}\r\n"), "stale").await, 409, "{spelling}");
        assert_eq!(store.body("/a/b").as_deref(), Some("second"), "{spelling}");
    }
}

#[tokio::test]
async fn of_writers_by_all_spellings_with_one_tag_one_gets_through() {
    let (store, gateway) = lenient_store().await;
    let tag = tag(&gateway, "/a/b").await;
    let gateway = std::sync::Arc::new(gateway);
    let writers: Vec<_> = SPELLINGS
        .iter()
        .cycle()
        .take(3 * SPELLINGS.len())
        .map(|spelling| {
            let (gateway, fields) = (gateway.clone(), format!("If-Match: {tag}\r\n"));
            tokio::spawn(async move { put(&gateway, spelling, &fields, spelling).await })
        })
        .collect();
    let mut won = 0;
    for writer in writers {
        won += usize::from(writer.await.expect("an answer") == 200);
    }
    assert_eq!((won, store.count("PUT")), (1, 1));
    let probed = store.reached().into_iter().filter(|reached| reached.method == "HEAD");
    assert!(probed.into_iter().all(|probe| lenient(&probe.target) == "a/b"));
}

#[tokio::test]
async fn where_spellings_are_resources_of_their_own_the_tag_of_one_is_not_the_others() {
    for spelling in ["/A/B", "/a/b/", "/a//b", "/a%2Fb", "/a/b;v=1"] {
        let store = Store::start().await;
        store.set("/a/b", "first");
        let other = store.set(spelling, "other");
        let gateway = Gateway::before(store.address).start();
        let tag = tag(&gateway, "/a/b").await;
        assert_eq!(put(&gateway, spelling, &format!("If-Match: {tag}\r\n"), "lost").await, 409, "{spelling}");
        assert_eq!(put(&gateway, spelling, "If-None-Match: *\r\n", "lost").await, 409, "{spelling}");
        assert_eq!(store.writes(), 0);
        assert_eq!(put(&gateway, spelling, &format!("If-Match: {other}\r\n"), "x").await, 200, "{spelling}");
        assert_eq!(put(&gateway, "/a/b", &format!("If-Match: {tag}\r\n"), "x").await, 200, "{spelling}");
    }
}

#[tokio::test]
async fn the_backend_sees_the_path_by_which_it_was_judged() {
    for (asked, seen) in [
        ("/a/%62?q=%62", "/a/b?q=%62"),
        ("/a/./b", "/a/b"),
        ("/x/../a/b", "/a/b"),
        ("/a%2fb", "/a%2Fb"),
        ("/a//b", "/a//b"),
        ("/A/b;x=1", "/A/b;x=1"),
        ("//evil/a", "//evil/a"),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let mut raw = gateway.raw().await;
        raw.send(format!("GET {asked} HTTP/1.1\r\nHost: notes.example\r\n\r\n")).await;
        let arrival = backend.expect("GET", seen).await;
        assert_eq!(arrival.field("host"), Some("notes.example"));
        arrival.answer(200, &[], "").await;
        assert_eq!(raw.answer("GET").await.status, 200);
    }
}

#[tokio::test]
async fn a_path_that_backends_read_differently_is_refused() {
    for path in [
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%00b",
        "/a\\b",
        "/%c0%af",
        "/a/..%2fb",
        "/a/..;x/b",
        "/..%5cb",
        "foo",
        "*",
        "/a\u{7f}",
        "/%e0%80%af",
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        assert_eq!(put(&gateway, path, "", "x").await, 400, "{path:?}");
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_request_names_one_host() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    for fields in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: \r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: u@a\r\n",
        "Host: a, b\r\n",
    ] {
        let mut raw = gateway.raw().await;
        raw.send(format!("PUT /note HTTP/1.1\r\n{fields}Content-Length: 1\r\n\r\nx")).await;
        assert_eq!(raw.answer("PUT").await.status, 400, "{fields:?}");
    }
    backend.assert_quiet();
}

#[tokio::test]
async fn spellings_of_a_host_are_one_host() {
    let store = Store::start().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).start();
    for host in ["NOTES.example", "notes.example.", "notes.example:80", "Notes.Example.:80"] {
        let tag = gateway.get("/note").expect(200).await.tag();
        gateway.put("/note", "blind").with("host", host).expect(200).await;
        gateway.put("/note", "stale").if_match(&tag).expect(409).await;
    }
}

#[tokio::test]
async fn an_http_1_0_client_is_served_and_judged() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.0\r\nContent-Length: 5\r\n\r\nwhole").await;
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!(put.version, "HTTP/1.1");
    assert_eq!(put.body().await.expect("a body"), b"whole");
    put.answer(200, &[("ETag", "\"2\"")], "done").await;
    let answer = raw.answer("PUT").await;
    assert_eq!((answer.status, answer.text()), (200, "done"));
    raw.closed().await;

    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.0\r\nIf-Match: \"1\"\r\nContent-Length: 5\r\n\r\nstale").await;
    assert_eq!(raw.answer("PUT").await.status, 409);
    backend.assert_quiet();
}

const OVERRIDES: [&str; 3] = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"];

#[tokio::test]
async fn a_post_that_means_a_put_is_judged_as_one() {
    for field in OVERRIDES {
        let store = Store::start().await;
        store.set("/note", "first");
        let gateway = Gateway::before(store.address).guard("missing = \"require\"").start();
        let tag = gateway.get("/note").expect(200).await.tag();
        let post = || gateway.call("POST", "/note").body("x").with(field, "put");
        post().if_match("\"old\"").expect(409).await;
        post().expect(428).await;
        assert_eq!(store.writes(), 0);
        post().if_match(&tag).expect(200).await;
        post().if_match(&tag).expect(409).await;
        assert_eq!(store.writes(), 1);
        // Without an override a POST needs no precondition.
        gateway.call("POST", "/note").body("x").expect(200).await;
    }
}

#[tokio::test]
async fn of_posts_and_puts_with_one_tag_one_gets_through() {
    let store = Store::start().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).start();
    let tag = gateway.get("/note").expect(200).await.tag();
    let calls: Vec<_> = (0..30)
        .map(|n| match n % 2 {
            0 => begin(gateway.put("/note", "put").if_match(&tag)),
            _ => begin(gateway.call("POST", "/note").body("post").with(OVERRIDES[0], "PUT").if_match(&tag)),
        })
        .collect();
    let mut won = 0;
    for call in calls {
        won += usize::from(call.answer().await.status == 200);
    }
    assert_eq!((won, store.writes()), (1, 1));
}

#[tokio::test]
async fn overrides_that_differ_are_refused() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).start();
    let post = || gateway.call("POST", "/note").body("x").with(OVERRIDES[0], "PUT");
    post().with(OVERRIDES[1], "DELETE").expect(400).await;
    post().with(OVERRIDES[0], "PATCH").expect(400).await;
    gateway.call("POST", "/note").with(OVERRIDES[0], "P UT").expect(400).await;
    assert_eq!(store.writes(), 0);
    post().with(OVERRIDES[2], "put").expect(201).await;
}

#[tokio::test]
async fn overrides_can_be_refused() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).guard("method_override = \"refuse\"").start();
    for field in OVERRIDES {
        gateway.call("POST", "/note").body("x").with(field, "PUT").expect(400).await;
    }
    assert_eq!(store.writes(), 0);
    gateway.call("POST", "/note").body("x").expect(201).await;
}

#[tokio::test]
async fn partitions_are_resources_of_their_own() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("partition = [\"Authorization\"]").start();
    for (caller, tag) in [("a", "\"a\""), ("b", "\"b\"")] {
        let reader = begin(gateway.get("/me").with("authorization", caller));
        backend.expect("GET", "/me").await.answer(200, &[("ETag", tag)], "").await;
        reader.answer().await;
    }
    let write = |caller: &str, tag: &str| gateway.put("/me", "x").with("authorization", caller).if_match(tag);
    write("a", "\"b\"").expect(409).await;
    let writer = begin(write("a", "\"a\""));
    backend.expect("PUT", "/me").await.answer(200, &[("ETag", "\"a2\"")], "").await;
    assert_eq!(writer.answer().await.status, 200);
    let writer = begin(write("b", "\"b\""));
    backend.expect("PUT", "/me").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
}

#[tokio::test]
async fn the_query_can_be_left_out_of_the_name() {
    // Where none of it counts it may be a search, and the service says what is found by it now.
    for (rule, status, reads) in
        [("\"ignore\"", 200, 2), ("\"include\"", 200, 1), ("[\"id\"]", 409, 1), ("[\"v\"]", 200, 1)]
    {
        let store = Store::start().await;
        store.set("/note?v=1", "first");
        let gateway = Gateway::before(store.address).guard(&format!("query = {rule}")).start();
        let tag = gateway.get("/note?v=1").expect(200).await.tag();
        gateway.put("/note?v=2", "other").expect(201).await;
        // Elsewhere the write's answer showed the one resource's new tag, or that of another; nobody has to be asked.
        gateway.put("/note?v=1", "mine").if_match(&tag).expect(status).await;
        assert_eq!(store.reads(), reads, "{rule}");
    }
}
