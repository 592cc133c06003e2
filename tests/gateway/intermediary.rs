//! What passes and what does not, and when a request is sent again.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Gateway, Script, begin, within};

#[tokio::test]
async fn the_backend_learns_for_whom_a_request_is_forwarded() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut call = gateway.get("/note").with("via", "1.0 before").with("forwarded", "for=1.2.3.4");
    for name in ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"] {
        call = call.with(name, "forged");
    }
    let reader = begin(call);
    let get = backend.expect("GET", "/note").await;
    assert_eq!(get.field("host"), Some("notes.example"));
    assert_eq!(get.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(get.field("x-forwarded-host"), Some("notes.example"));
    assert_eq!(get.field("x-forwarded-proto"), Some("http"));
    assert_eq!(get.field("forwarded"), Some("for=127.0.0.1;proto=http;host=\"notes.example\""));
    assert!(!format!("{:?}", get.fields).contains("forged"), "{:?}", get.fields);
    let via: Vec<_> = get.fields.get_all("via").iter().map(|value| value.to_str().expect("ASCII")).collect();
    assert_eq!(via.join(", "), "1.0 before, 1.1 ifmatch");
    get.answer(200, &[], "").await;
    assert_eq!(reader.answer().await.field("via"), Some("1.1 ifmatch"));
}

#[tokio::test]
async fn the_host_can_be_the_servers_own() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).upstream("host = \"rewrite\"").start();
    let reader = begin(gateway.get("/note"));
    let get = backend.expect("GET", "/note").await;
    assert_eq!(get.field("host"), Some(backend.address.to_string().as_str()));
    assert_eq!(get.field("x-forwarded-host"), Some("notes.example"));
    get.answer(200, &[], "").await;
    reader.answer().await;
}

#[tokio::test]
async fn hop_by_hop_fields_stay_behind_both_ways() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut call = gateway.get("/note").with("connection", "x-private, keep-alive").with("x-private", "1");
    for name in ["keep-alive", "proxy-connection", "te", "proxy-authorization", "upgrade"] {
        call = call.with(name, "hop");
    }
    let reader = begin(call.with("x-public", "1").with("x-private-not", "1"));
    let get = backend.expect("GET", "/note").await;
    for name in ["x-private", "keep-alive", "proxy-connection", "te", "proxy-authorization", "upgrade"] {
        assert_eq!(get.field(name), None, "{name}");
    }
    assert_eq!((get.field("x-public"), get.field("x-private-not")), (Some("1"), Some("1")));
    let fields = [
        ("Connection", "X-Inner, ETag"),
        ("X-Inner", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("ETag", "\"1\""),
        ("X-Outer", "1"),
    ];
    get.answer(200, &fields, "").await;
    let answer = reader.answer().await;
    for name in ["x-inner", "keep-alive", "proxy-authenticate"] {
        assert_eq!(answer.field(name), None, "{name}");
    }
    assert_eq!((answer.field("x-outer"), answer.tag().as_str()), (Some("1"), "\"1\""));
}

#[tokio::test]
async fn a_field_that_a_backend_could_fold_into_another_is_dropped() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let call = gateway.put("/note", "x").with("x_harmless", "1");
    let call = call.with("if_match", "\"1\"").with("x_forwarded_for", "1.2.3.4").with("content_length", "9");
    let writer = begin(call.with("x_http_method_override", "DELETE").with("transfer_encoding", "chunked"));
    let put = backend.expect("PUT", "/note").await;
    for name in ["if_match", "x_forwarded_for", "content_length", "x_http_method_override", "transfer_encoding"] {
        assert_eq!(put.field(name), None, "{name}");
    }
    put.answer(200, &[], "").await;
    writer.answer().await;
}

#[tokio::test]
async fn connection_cannot_take_away_what_decides() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let call = gateway.put("/note", "body").with("authorization", "mine").with("content-type", "text/plain");
    let named = "authorization, x-forwarded-for, host, content-length, content-type, cookie";
    let writer = begin(call.with("cookie", "c=1").with("connection", named));
    let mut put = backend.expect("PUT", "/note").await;
    for name in ["authorization", "x-forwarded-for", "host", "content-type", "cookie", "content-length"] {
        assert!(put.field(name).is_some(), "{name}");
    }
    assert_eq!(put.body().await.expect("a body"), b"body");
    put.answer(200, &[], "").await;
    writer.answer().await;
}

#[tokio::test]
async fn a_read_that_met_a_closing_connection_is_sent_again() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let first = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[], "").await;
    first.answer().await;

    let second = begin(gateway.get("/note"));
    // By the same connection, which the backend closes at that moment.
    drop(backend.expect("GET", "/note").await);
    backend.expect("GET", "/note").await.answer(200, &[], "again").await;
    assert_eq!(second.answer().await.text(), "again");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_write_that_met_a_closing_connection_is_not_sent_again() {
    for reset in [false, true] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).one_worker().start();
        let reader = begin(gateway.get("/note"));
        backend.expect("GET", "/note").await.answer(200, &[], "").await;
        reader.answer().await;

        let writer = begin(gateway.put("/note", "once"));
        let put = backend.expect("PUT", "/note").await;
        if reset {
            put.reset()
        } else {
            drop(put)
        }
        assert_eq!(writer.answer().await.status, 502);
        gateway.barrier().await;
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn a_write_after_the_backend_closed_an_idle_connection_goes_by_a_new_one_and_once() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    for _ in 0..5 {
        let reader = begin(gateway.get("/note"));
        let mut get = backend.expect("GET", "/note").await;
        get.answer_now(200, &[], "").await.expect("an open connection");
        reader.answer().await;
        drop(get);
        gateway.barrier().await;
        let writer = begin(gateway.put("/note", "once"));
        backend.expect("PUT", "/note").await.answer(200, &[], "").await;
        assert_eq!(writer.answer().await.status, 200);
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn what_a_backend_says_twice_or_wrongly_as_a_tag_is_no_tag() {
    for shown in [&[("ETag", "\"1\""), ("ETag", "\"2\"")][..], &[("ETag", "1")], &[("ETag", "\"1")]] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let reader = begin(gateway.get("/note"));
        backend.expect("GET", "/note").await.answer(200, shown, "").await;
        assert_eq!(reader.answer().await.fields.get_all("etag").iter().count(), shown.len(), "passed on as it is");
        let writer = begin(gateway.put("/note", "x").if_match("\"1\""));
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"3\"")], "").await;
        assert_eq!(writer.answer().await.status, 409);
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut raw = gateway.raw().await;
    raw.send("GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    let mut get = backend.expect("GET", "/note").await;
    get.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    drop(get);
    assert_eq!(raw.broken_answer().await, b"half");
}

/// Its client has nothing but the end of the connection to tell the end of the answer by.
#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole_to_an_old_client() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let mut client = TcpStream::connect(gateway.address).await.expect("a connection");
    client.write_all(b"GET /note HTTP/1.0\r\nHost: notes.example\r\n\r\n").await.expect("a request");
    let mut get = backend.expect("GET", "/note").await;
    get.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    drop(get);
    let ended = within("the end of the connection", client.read_to_end(&mut Vec::new())).await;
    assert_eq!(ended.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
}

/// It would be judged as one tenant's and applied to another's.
#[tokio::test]
async fn connection_cannot_take_away_what_a_resource_is_told_apart_by() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard("partition = [\"X-Tenant\"]").start();
    let call = gateway.put("/note", "body").with("x-tenant", "a").with("x_tenant", "b");
    let writer = begin(call.with("connection", "x-tenant"));
    let put = backend.expect("PUT", "/note").await;
    assert_eq!((put.field("x-tenant"), put.field("x_tenant")), (Some("a"), None));
    put.answer(200, &[], "").await;
    writer.answer().await;
}
