//! Stopping, and connections that say nothing.

use crate::support::{Gateway, Script, begin, within};

#[tokio::test]
async fn a_stop_lets_a_slow_write_end() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).drain_timeout("30s").start();
    let writer = begin(gateway.put("/note", "slow"));
    let put = backend.expect("PUT", "/note").await;

    gateway.stop();
    let mut stopped = Box::pin(gateway.stopped());
    // It is still waited for.
    assert!(futures_now(&mut stopped).await.is_none());
    put.answer(200, &[], "done").await;

    assert_eq!(writer.answer().await.text(), "done");
    stopped.await;
}

/// What a future says when it is asked once.
async fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn a_stop_lets_a_write_end_whose_client_is_gone() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().drain_timeout("30s").start();
    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\ngone").await;
    let mut put = backend.expect("PUT", "/note").await;
    raw.reset();
    gateway.barrier().await;

    gateway.stop();
    let stopped = tokio::spawn(gateway.stopped());
    assert_eq!(put.body().await.expect("a body"), b"gone");
    assert!(!stopped.is_finished());
    put.answer(200, &[], "").await;
    within("the stop", stopped).await.expect("a stop");
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_takes_no_new_ones() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).drain_timeout("30s").start();
    let address = gateway.address;
    let mut idle = gateway.raw().await;
    idle.send("GET /note HTTP/1.1\r\nHost: h\r\n\r\n").await;
    backend.expect("GET", "/note").await.answer(200, &[], "").await;
    idle.answer("GET").await;
    let mut silent = gateway.raw().await;

    gateway.stop();
    gateway.stopped().await;

    idle.closed().await;
    silent.closed().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).drain_timeout("100ms").start();
    let mut raw = gateway.raw().await;
    raw.send("PUT /note HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nslow").await;
    let _held = backend.expect("PUT", "/note").await;
    gateway.stop();
    gateway.stopped().await;
}

#[tokio::test]
async fn a_connection_that_does_not_get_to_the_point_is_closed() {
    let backend = Script::start().await;
    let gateway = Gateway::before(backend.address).rest("[limits]\nheader_read_timeout = \"200ms\"").start();
    for beginning in ["", "P", "PRI * HTT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "GET / HTTP/1.1\r\nHost: h\r\n"] {
        let mut raw = gateway.raw().await;
        raw.send(beginning).await;
        raw.ended().await;
    }
}

/// Such a client is asked whether it has understood that the connection ends, and does not say so.
#[tokio::test]
async fn a_client_that_answers_no_frame_does_not_hold_up_the_stop() {
    let backend = Script::start().await;
    let gateway = Gateway::before(backend.address).drain_timeout("1h").start();
    let mut raw = gateway.raw().await;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    raw.bytes(9).await;
    gateway.stop();
    gateway.stopped().await;
}
