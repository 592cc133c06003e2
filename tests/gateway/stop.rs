//! Stopping, and connections that say nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncRead, ReadBuf, join},
    net::{TcpSocket, tcp::OwnedReadHalf},
    sync::oneshot,
};

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

/// What comes by a connection, of which nothing is read before it is told to.
struct Unread {
    stream: OwnedReadHalf,
    told: Option<oneshot::Receiver<()>>,
}

impl AsyncRead for Unread {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(told) = &mut self.told {
            ready!(Pin::new(told).poll(cx)).expect("word");
            self.told = None;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

/// What was handed to the protocol is not sent yet.
#[tokio::test]
async fn a_stop_lets_a_client_take_all_of_its_answers_over_http2() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().drain_timeout("30s").start();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
    let (stream, writer) = socket.connect(gateway.address).await.expect("a connection").into_split();
    let (read, told) = oneshot::channel();
    let (mut sender, driver) = h2::client::Builder::new()
        .initial_window_size(1 << 30)
        .initial_connection_window_size(1 << 30)
        .handshake::<_, Bytes>(join(Unread { stream, told: Some(told) }, writer))
        .await
        .expect("a handshake");
    let driver = tokio::spawn(driver);
    let part = "x".repeat(50_000);
    let mut answers = Vec::new();
    for _ in 0..30 {
        let request = Request::get("http://notes.example/note").body(()).expect("a request");
        answers.push(sender.send_request(request, true).expect("an open connection").0);
        backend.expect("GET", "/note").await.answer(200, &[], &part).await;
    }
    gateway.stop();
    let stopped = tokio::spawn(gateway.stopped());
    // Longer than a connection is given on which nothing is under way.
    tokio::time::sleep(Duration::from_secs(2)).await;
    read.send(()).expect("a reader");
    for answer in answers {
        let mut body = within("an answer", answer).await.expect("an answer").into_body();
        let mut length = 0;
        while let Some(data) = within("a part of an answer", body.data()).await {
            let data = data.expect("all of it");
            length += data.len();
            body.flow_control().release_capacity(data.len()).expect("as much as came");
        }
        assert_eq!(length, part.len());
    }
    within("the stop", stopped).await.expect("a stop");
    driver.abort();
}
