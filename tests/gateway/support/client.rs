//! Clients: [`Call`]s by hyper over HTTP/1.1 and HTTP/2, and [`Raw`] bytes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::{Response, body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    sync::watch,
    time::timeout,
};

use super::{
    outside,
    wire::{Framing, Head, Wire},
    within,
};

/// The `Host` that tests ask.
pub(crate) const HOST_NAME: &str = "notes.example";

/// What a client speaks over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A request that is still to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    address: SocketAddr,
    method: Method,
    path: String,
    fields: HeaderMap,
    body: Bytes,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn new(address: SocketAddr, method: &str, path: &str) -> Self {
        let method = method.parse().expect("a method");
        Self { address, method, path: path.to_owned(), fields: HeaderMap::new(), body: Bytes::new() }
    }

    /// Adds a field, beside others of its name.
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        self.with_bytes(name, value.as_bytes())
    }

    pub(crate) fn with_bytes(mut self, name: &str, value: &[u8]) -> Self {
        let name: HeaderName = name.parse().expect("a field name");
        self.fields.append(name, HeaderValue::from_bytes(value).expect("a field value"));
        self
    }

    pub(crate) fn method(&self) -> &str {
        self.method.as_str()
    }

    pub(crate) fn if_match(self, tag: &str) -> Self {
        self.with("if-match", tag)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Bytes::from(body.into());
        self
    }

    /// Over HTTP/1.1 and a connection of its own.
    pub(crate) async fn send(self) -> Answer {
        let stream = within("a connection", TcpStream::connect(self.address)).await.expect("a connection");
        self.send_over(stream).await
    }

    /// Over HTTP/1.1 and this connection.
    pub(crate) async fn send_over(self, stream: impl Stream) -> Answer {
        let what = format!("an answer to {} {}", self.method, self.path);
        let exchange = async {
            let (mut sender, driver) = conn::http1::handshake(TokioIo::new(stream)).await.expect("a client");
            let driver = tokio::spawn(driver);
            let mut request = self.request(&self.path);
            request.headers_mut().entry(HOST).or_insert(HeaderValue::from_static(HOST_NAME));
            let answer = sender.send_request(request).await.expect("an answer");
            let answer = Answer::collect(answer).await;
            driver.abort();
            answer
        };
        within(&what, exchange).await
    }

    /// Sends it and asserts the status of its answer.
    pub(crate) async fn expect(self, status: u16) -> Answer {
        let what = format!("{} {} {:?}", self.method, self.path, self.fields);
        let answer = self.send().await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        answer
    }

    fn request(&self, uri: &str) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri.parse::<Uri>().expect("a target");
        *request.headers_mut() = self.fields.clone();
        request
    }
}

/// One connection with HTTP/2 from the first byte.
#[derive(Debug, Clone)]
pub(crate) struct H2 {
    sender: conn::http2::SendRequest<Full<Bytes>>,
    ended: watch::Receiver<bool>,
    _driver: Arc<Driver>,
}

#[derive(Debug)]
struct Driver(tokio::task::AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl H2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", outside().spawn(TcpStream::connect(address))).await.expect("a task");
        Self::over(stream.expect("a connection")).await
    }

    /// Over this connection.
    pub(crate) async fn over(stream: impl Stream) -> Self {
        let made = outside().spawn(async move {
            let handshake = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (sender, driver) = handshake.await.expect("a client");
            let (end, ended) = watch::channel(false);
            let driver = tokio::spawn(async move {
                // How it ends is of no concern.
                let _ = driver.await;
                end.send_replace(true);
                end.closed().await;
            });
            (sender, driver.abort_handle(), ended)
        });
        let (sender, driver, ended) = within("a connection", made).await.expect("a task");
        Self { sender, ended, _driver: Arc::new(Driver(driver)) }
    }

    pub(crate) async fn send(&self, call: Call) -> Answer {
        let mut sender = self.sender.clone();
        let request = call.request(&format!("http://{HOST_NAME}{}", call.path));
        let exchange = async {
            sender.ready().await.expect("an open connection");
            Answer::collect(sender.send_request(request).await.expect("an answer")).await
        };
        within("an answer over HTTP/2", exchange).await
    }

    /// Sends it, whatever becomes of it.
    pub(crate) async fn try_send(&self, call: Call) -> Result<Response<Incoming>, hyper::Error> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        sender.send_request(call.request(&format!("http://{HOST_NAME}{}", call.path))).await
    }

    /// Whether the gateway has ended the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the gateway ends the connection.
    pub(crate) async fn closed(&self) {
        let mut ended = self.ended.clone();
        within("the gateway to end the connection", ended.wait_for(|ended| *ended)).await.expect("word of the end");
    }
}

impl Answer {
    async fn collect(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        Self { status: head.status.as_u16(), fields: head.headers, body }
    }

    /// A field's only value.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.get_all(name).iter();
        let only = values.next()?;
        assert!(values.next().is_none(), "{name} came more than once: {:?}", self.fields);
        Some(only.to_str().expect("a value in ASCII"))
    }

    /// Its `ETag`, which must be there.
    pub(crate) fn tag(&self) -> String {
        self.field("etag").unwrap_or_else(|| panic!("an ETag: {self:?}")).to_owned()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// The problem detail, of which `type` is asserted.
    pub(crate) fn problem(&self, kind: &str) -> serde_json::Value {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(problem["type"], format!("urn:ifmatch:{kind}"), "{problem}");
        assert_eq!(problem["status"], self.status, "{problem}");
        problem
    }
}

/// A connection on which a test writes bytes.
#[derive(Debug)]
pub(crate) struct Raw(Wire);

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(Wire::connect(address).await)
    }

    /// With as little room for what was not read as the system allows.
    pub(crate) async fn with_small_window(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
        Self(Wire::new(socket.connect(address).await.expect("a connection")))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("the gateway to read", self.0.send(bytes.as_ref())).await.expect("an open connection");
    }

    /// Sends as much of it as the gateway takes.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        // An error: it has closed, and may have said why.
        let _ = within("the gateway to read or to close", self.0.send(bytes.as_ref())).await;
    }

    /// Reads the answer to a GET with a pause before each piece.
    pub(crate) async fn answer_slowly(&mut self, pause: Duration) -> Answer {
        self.0.pause(pause);
        self.answer("GET").await
    }

    /// Sends until the other end takes no more. Whether it took all.
    pub(crate) async fn send_some(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        timeout(Duration::from_millis(500), self.0.send(bytes.as_ref())).await.is_ok_and(|sent| sent.is_ok())
    }

    /// The next head with its body, as the answer to this method.
    pub(crate) async fn answer(&mut self, method: &str) -> Answer {
        let answer = async {
            let head = self.0.head().await.expect("the head of an answer");
            let status: u16 = head.first.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
            let framing = if method == "HEAD" || matches!(status, 100..200 | 204 | 304) {
                Framing::Length(0)
            } else {
                Framing::of(&head.fields, Framing::UntilClose)
            };
            let body = Bytes::from(self.0.body(framing).await.expect("a whole answer"));
            Answer { status, fields: head.fields, body }
        };
        within("an answer on a raw connection", answer).await
    }

    /// So many bytes, whatever they are.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        within("bytes on a raw connection", self.0.take(count)).await.expect("so many bytes")
    }

    /// The next head, as it is; nothing of a body.
    pub(crate) async fn head(&mut self) -> Head {
        within("a head on a raw connection", self.0.head()).await.expect("a head")
    }

    /// The next chunk of a chunked answer.
    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        within("a chunk on a raw connection", self.0.chunk()).await.expect("a chunk")
    }

    /// What stood behind the last answer.
    pub(crate) fn trailers(&self) -> &HeaderMap {
        &self.0.trailers
    }

    /// Waits until the gateway closes; nothing more may come before.
    pub(crate) async fn closed(&mut self) {
        let came = within("the gateway to close the connection", self.0.until_closed()).await;
        assert_eq!(came, 0, "bytes that nobody asked for");
    }

    /// Waits until the gateway closes, whatever it says before.
    pub(crate) async fn ended(&mut self) {
        within("the gateway to close the connection", self.0.until_closed()).await;
    }

    /// What came of the body of an answer that breaks off.
    pub(crate) async fn broken_answer(&mut self) -> Vec<u8> {
        let answer = async {
            let head = self.0.head().await.expect("the head of an answer");
            self.0.body(Framing::of(&head.fields, Framing::UntilClose)).await
        };
        within("an answer that breaks off", answer).await.expect_err("an answer that breaks off").0
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        self.0.finish().await;
    }

    /// Breaks the connection off.
    pub(crate) fn reset(self) {
        self.0.reset();
    }
}
