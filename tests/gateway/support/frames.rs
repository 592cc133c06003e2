//! A client that speaks HTTP/2 stream by stream: trailers, bodies in pieces, extended CONNECT.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;

use super::{client::HOST_NAME, outside, within};

/// A connection.
#[derive(Debug, Clone)]
pub(crate) struct Frames(SendRequest<Bytes>);

/// A stream: a request that may go on, and an answer that is to come.
#[derive(Debug)]
pub(crate) struct Stream {
    answer: Option<ResponseFuture>,
    send: SendStream<Bytes>,
    body: Option<RecvStream>,
}

impl Frames {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let made = outside().spawn(async move {
            let stream = TcpStream::connect(address).await.expect("a connection");
            let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            tokio::spawn(async move {
                // However it ends, the test is over or sees it by its stream.
                let _ = connection.await;
            });
            sender
        });
        Self(within("HTTP/2", made).await.expect("a task"))
    }

    /// Waits until the gateway has said that it knows extended CONNECT.
    pub(crate) async fn knows_extended_connect(&self) {
        let mut sender = within("a stream", self.0.clone().ready()).await.expect("an open connection");
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
            sender = within("a stream", sender.ready()).await.expect("an open connection");
        }
    }

    /// Sends the head of a request whose body is to come.
    pub(crate) async fn begin(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Stream {
        let mut request = Request::builder().method(method).uri(format!("http://{HOST_NAME}{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.send(request.body(()).expect("a request")).await
    }

    /// Sends the head of an extended CONNECT.
    pub(crate) async fn extended_connect(&self, protocol: &'static str, path: &str) -> Stream {
        let request = Request::builder().method("CONNECT").uri(format!("http://{HOST_NAME}{path}"));
        let request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", "chat");
        let protocol = h2::ext::Protocol::from_static(protocol);
        self.send(request.extension(protocol).body(()).expect("a request")).await
    }

    async fn send(&self, request: Request<()>) -> Stream {
        let mut sender = within("a stream", self.0.clone().ready()).await.expect("an open connection");
        let (answer, send) = sender.send_request(request, false).expect("a request that can be sent");
        Stream { answer: Some(answer), send, body: None }
    }
}

impl Stream {
    /// Sends a part of the body, or the last one.
    pub(crate) fn data(&mut self, data: impl Into<Bytes>, is_last: bool) {
        self.send.send_data(data.into(), is_last).expect("an open stream");
    }

    /// Ends the request with these trailers.
    pub(crate) fn trailers(&mut self, fields: &[(&'static str, &'static str)]) {
        let mut trailers = HeaderMap::new();
        for (name, value) in fields {
            trailers.append(*name, value.parse().expect("a value"));
        }
        self.send.send_trailers(trailers).expect("an open stream");
    }

    /// The next that precedes the answer; `None` where that is here.
    pub(crate) async fn early(&mut self) -> Option<Response<()>> {
        let answer = self.answer.as_mut().expect("the answer is still to come");
        let early = std::future::poll_fn(|cx| answer.poll_informational(cx));
        within("an informational answer over HTTP/2", early).await.map(|early| early.expect("an open stream"))
    }

    /// Gives the request up.
    pub(crate) fn reset(mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// The head of the answer.
    pub(crate) async fn head(&mut self) -> Response<()> {
        let answer = within("an answer over HTTP/2", self.answer.take().expect("one answer")).await.expect("an answer");
        let (head, body) = answer.into_parts();
        self.body = Some(body);
        Response::from_parts(head, ())
    }

    /// The next part of the answer's body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let body = self.body.as_mut().expect("the head came before");
        loop {
            let data = within("more of an answer over HTTP/2", body.data()).await?.expect("a whole answer");
            body.flow_control().release_capacity(data.len()).expect("what was received");
            if !data.is_empty() {
                return Some(data);
            }
        }
    }

    /// So many bytes of the answer's body.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend(self.next().await.expect("more of the answer"));
        }
        bytes
    }

    /// What stands behind the answer.
    pub(crate) async fn answer_trailers(&mut self) -> Option<HeaderMap> {
        while self.next().await.is_some() {}
        let body = self.body.as_mut().expect("the head came before");
        within("trailers", body.trailers()).await.expect("a whole answer")
    }
}
