//! A backend that does nothing by itself: each request that arrives is handed to the test, which says what to do.
//!
//! An [`Arrival`] is the word *started*: the head is here, nothing of the body was read. It holds the connection, so the
//! backend waits until the test says *go* by one of the arrival's methods.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::HeaderMap;
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::AbortHandle,
};

use super::{
    outside,
    wire::{BrokenOff, Framing, Wire},
    within,
};

/// The backend.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) address: SocketAddr,
    arrivals: UnboundedReceiver<Arrival>,
    connections: Arc<AtomicUsize>,
    accepting: Option<AbortHandle>,
}

/// A request that has arrived and waits for what is to become of it.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: String,
    pub(crate) fields: HeaderMap,
    /// Whether nothing more of the request is to be read.
    is_read: bool,
    wire: Wire,
    announce: UnboundedSender<Arrival>,
}

impl Script {
    pub(crate) async fn start() -> Self {
        let listener = outside().spawn(TcpListener::bind("127.0.0.1:0")).await.expect("a task").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (announce, arrivals) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let accepting = outside().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(Wire::new(stream), announce.clone()));
            }
        });
        Self { address, arrivals, connections, accepting: Some(accepting.abort_handle()) }
    }

    /// What another script, at this address, passes on of what arrives.
    pub(crate) fn of(address: SocketAddr, arrivals: UnboundedReceiver<Arrival>) -> Self {
        Self { address, arrivals, connections: Arc::default(), accepting: None }
    }

    /// The next request, whatever it is.
    pub(crate) async fn next(&mut self) -> Arrival {
        within("a request at the backend", self.arrivals.recv()).await.expect("the backend runs")
    }

    /// The next request, which must be this one.
    pub(crate) async fn expect(&mut self, method: &str, target: &str) -> Arrival {
        let arrival = self.next().await;
        assert_eq!((arrival.method.as_str(), arrival.target.as_str()), (method, target), "the next request");
        arrival
    }

    /// As long as there is one: for a backend that answers by itself.
    pub(crate) async fn next_or_end(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Nothing has arrived that the test has not taken.
    pub(crate) fn assert_quiet(&mut self) {
        if let Ok(arrival) = self.arrivals.try_recv() {
            panic!("nothing should have reached the backend: {arrival:?}");
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn serve(mut wire: Wire, announce: UnboundedSender<Arrival>) {
    let Some(head) = wire.head().await else { return };
    let mut words = head.first.split(' ').map(str::to_owned);
    let mut word = || words.next().expect("a request line has three words");
    let (method, target, version) = (word(), word(), word());
    let arrival =
        Arrival { method, target, version, fields: head.fields, is_read: false, wire, announce: announce.clone() };
    // Nobody listens any more where the test is over.
    let _ = announce.send(arrival);
}

impl Arrival {
    /// A field's only value.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.get_all(name).iter();
        let only = values.next()?;
        assert!(values.next().is_none(), "{name} came more than once: {:?}", self.fields);
        Some(only.to_str().expect("a value in ASCII"))
    }

    /// Reads the body to its end, however long that takes.
    pub(crate) async fn read(&mut self) -> Result<Vec<u8>, BrokenOff> {
        self.is_read = true;
        self.wire.body(Framing::of(&self.fields, Framing::Length(0))).await
    }

    /// The body, or what came of one that broke off.
    pub(crate) async fn body(&mut self) -> Result<Vec<u8>, BrokenOff> {
        within("the end of a request's body at the backend", self.read()).await
    }

    /// Reads the body and answers. The connection stays and waits for the next request.
    pub(crate) async fn answer(mut self, status: u16, fields: &[(&str, &str)], body: &str) {
        if !self.is_read {
            self.body().await.expect("a whole body");
        }
        // The gateway may have hung up, which its client will see.
        let _ = self.answer_now(status, fields, body).await;
        self.go_on();
    }

    /// Answers without a look at the body.
    pub(crate) async fn answer_now(&mut self, status: u16, fields: &[(&str, &str)], body: &str) -> std::io::Result<()> {
        use std::fmt::Write;
        let mut head = format!("HTTP/1.1 {status} Told\r\n");
        for (name, value) in fields {
            write!(head, "{name}: {value}\r\n").expect("a string grows");
        }
        if !matches!(status, 204 | 304) {
            write!(head, "Content-Length: {}\r\n", body.len()).expect("a string grows");
        }
        head.push_str("\r\n");
        if self.method != "HEAD" {
            head.push_str(body);
        }
        self.wire.send(head.as_bytes()).await
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &str) {
        self.wire.send(bytes.as_bytes()).await.expect("the gateway reads");
    }

    /// So many bytes behind the head, whatever they are.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        within("bytes at the backend", self.wire.take(count)).await.expect("so many bytes")
    }

    /// The next chunk of a chunked body.
    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        within("a chunk at the backend", self.wire.chunk()).await.expect("a chunk")
    }

    /// What stood behind the body.
    pub(crate) fn trailers(&self) -> &HeaderMap {
        &self.wire.trailers
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        self.wire.finish().await;
    }

    /// Waits for the next request on the same connection.
    pub(crate) fn go_on(self) {
        outside().spawn(serve(self.wire, self.announce));
    }

    /// Sends bytes as they are, or fails to where the gateway has gone.
    pub(crate) async fn try_send(&mut self, bytes: &str) -> std::io::Result<()> {
        self.wire.send(bytes.as_bytes()).await
    }

    /// Whether nothing has come behind what was read.
    pub(crate) fn has_nothing_more(&self) -> bool {
        self.wire.has_nothing_more()
    }

    /// Waits until the gateway closes the connection; nothing more may come before.
    pub(crate) async fn hung_up_silently(&mut self) {
        let came = within("the gateway to close its connection", self.wire.until_closed()).await;
        assert_eq!(came, 0, "bytes that nobody asked for");
    }

    /// Waits until the gateway closes the connection.
    pub(crate) async fn hung_up(&mut self) {
        within("the gateway to close its connection", self.wire.until_closed()).await;
    }

    /// Breaks the connection off with a reset.
    pub(crate) fn reset(self) {
        self.wire.reset();
    }
}
