//! What gRPC needs: `te: trailers`, bodies without a length, trailers behind the answer, all over HTTP/2.

use crate::support::{Frames, Gateway, Script};

const FIELDS: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

#[tokio::test]
async fn a_unary_call_gets_its_status_behind_the_answer() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = Frames::connect(gateway.address).await;
    let mut call = h2.begin("POST", "/notes.Notes/Read", FIELDS).await;
    call.data(&b"\0\0\0\0\x01x"[..], true);
    let mut post = backend.expect("POST", "/notes.Notes/Read").await;
    assert_eq!((post.field("te"), post.field("content-type")), (Some("trailers"), Some("application/grpc")));
    assert_eq!(post.body().await.expect("a body"), b"\0\0\0\0\x01x");
    post.send(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTrailer: grpc-status, grpc-message\r\n\
         Transfer-Encoding: chunked\r\n\r\n6\r\n\0\0\0\0\x01y\r\n0\r\ngrpc-status: 0\r\ngrpc-message: ok\r\n\r\n",
    )
    .await;
    assert_eq!(call.head().await.status().as_u16(), 200);
    assert_eq!(call.bytes(6).await, b"\0\0\0\0\x01y");
    let trailers = call.answer_trailers().await.expect("trailers");
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"0".parse().expect("a value"), &"ok".parse().expect("a value"))
    );
}

#[tokio::test]
async fn a_streaming_call_speaks_both_ways_at_once() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = Frames::connect(gateway.address).await;
    let mut call = h2.begin("POST", "/notes.Notes/Watch", FIELDS).await;
    let mut post = backend.expect("POST", "/notes.Notes/Watch").await;
    post.send("HTTP/1.1 200 OK\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(call.head().await.status().as_u16(), 200);
    for message in ["one", "three"] {
        call.data(message, false);
        assert_eq!(post.chunk().await, message.as_bytes());
        post.send(&format!("{:x}\r\n{message}\r\n", message.len())).await;
        assert_eq!(call.next().await.as_deref(), Some(message.as_bytes()));
    }
    call.data("", true);
    assert_eq!(post.chunk().await, b"");
    post.send("0\r\ngrpc-status: 0\r\n\r\n").await;
    assert_eq!(call.answer_trailers().await.expect("trailers")["grpc-status"], "0");
}
