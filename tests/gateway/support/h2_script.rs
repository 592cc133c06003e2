//! A backend that speaks HTTP/2 and, like [`Script`](super::Script), does nothing by itself: each stream that arrives is
//! handed to the test.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        watch,
    },
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{outside, within};

/// The backend.
#[derive(Debug)]
pub(crate) struct H2Script {
    pub(crate) address: SocketAddr,
    arrivals: UnboundedReceiver<H2Arrival>,
    connections: Arc<AtomicUsize>,
    closed: Arc<watch::Sender<usize>>,
    accepting: AbortHandle,
}

/// A stream that has arrived and waits for what is to become of it. Dropped, it is reset.
#[derive(Debug)]
pub(crate) struct H2Arrival {
    pub(crate) method: String,
    pub(crate) uri: Uri,
    pub(crate) fields: HeaderMap,
    /// Which connection it came by, counted from 1.
    pub(crate) connection: usize,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    orders: UnboundedSender<Order>,
}

/// What a connection is told.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// No more streams.
    GoAway,
    /// The end, at once.
    Close,
}

impl H2Script {
    pub(crate) async fn start() -> Self {
        Self::with(100, None).await
    }

    /// One that does not know extended CONNECT.
    pub(crate) async fn without_websockets() -> Self {
        Self::with_settings(Builder::new().max_concurrent_streams(100).clone(), None).await
    }

    /// With so many streams a connection, and TLS or none.
    pub(crate) async fn with(streams: u32, tls: Option<TlsAcceptor>) -> Self {
        Self::with_settings(Builder::new().max_concurrent_streams(streams).enable_connect_protocol().clone(), tls).await
    }

    async fn with_settings(settings: Builder, tls: Option<TlsAcceptor>) -> Self {
        let listener = outside().spawn(TcpListener::bind("127.0.0.1:0")).await.expect("a task").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (announce, arrivals) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let closed = Arc::new(watch::Sender::new(0));
        let closes = Arc::clone(&closed);
        let accepting = outside().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("TCP_NODELAY");
                let (number, announce) = (count.fetch_add(1, Ordering::SeqCst) + 1, announce.clone());
                let (settings, tls, closes) = (settings.clone(), tls.clone(), Arc::clone(&closes));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &settings, number, announce).await,
                        // A handshake that fails is the gateway's to report.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &settings, number, announce).await;
                            }
                        }
                    }
                    closes.send_modify(|count| *count += 1);
                });
            }
        });
        Self { address, arrivals, connections, closed, accepting: accepting.abort_handle() }
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until so many of them have ended.
    pub(crate) async fn closed(&self, count: usize) {
        let mut closed = self.closed.subscribe();
        closed.wait_for(|closed| *closed >= count).await.expect("the backend runs");
    }

    /// The next request, which must be this one.
    pub(crate) async fn expect(&mut self, method: &str, target: &str) -> H2Arrival {
        let arrival = within("a request at the backend", self.arrivals.recv()).await.expect("the backend runs");
        let path = arrival.uri.path_and_query().map_or("", |path| path.as_str());
        assert_eq!((arrival.method.as_str(), path), (method, target), "the next request");
        arrival
    }

    /// As long as there is one: for a backend that answers by itself.
    pub(crate) async fn next_or_end(&mut self) -> Option<H2Arrival> {
        self.arrivals.recv().await
    }

    /// Nothing has arrived that the test has not taken.
    pub(crate) fn assert_quiet(&mut self) {
        if let Ok(arrival) = self.arrivals.try_recv() {
            panic!("nothing should have reached the backend: {arrival:?}");
        }
    }
}

impl Drop for H2Script {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve<S>(stream: S, settings: &Builder, number: usize, announce: UnboundedSender<H2Arrival>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(mut connection) = settings.handshake::<_, Bytes>(stream).await else { return };
    let (orders, mut told) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            order = told.recv() => match order {
                Some(Order::GoAway) => connection.graceful_shutdown(),
                Some(Order::Close) | None => return,
            },
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let (head, body) = request.into_parts();
                let arrival = H2Arrival {
                    method: head.method.to_string(),
                    uri: head.uri,
                    fields: head.headers,
                    connection: number,
                    body,
                    respond,
                    orders: orders.clone(),
                };
                // Nobody listens any more where the test is over.
                let _ = announce.send(arrival);
            }
        }
    }
}

impl H2Arrival {
    /// A field's only value.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.get_all(name).iter();
        let only = values.next()?;
        assert!(values.next().is_none(), "{name} came more than once: {:?}", self.fields);
        Some(only.to_str().expect("a value in ASCII"))
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn piece(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let piece = within("a piece of a request's body at the backend", self.body.data()).await;
        if let Some(Ok(piece)) = &piece {
            self.body.flow_control().release_capacity(piece.len()).expect("it came");
        }
        piece
    }

    /// The whole body.
    pub(crate) async fn body(&mut self) -> Result<Vec<u8>, h2::Error> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece().await {
            all.extend(piece?);
        }
        Ok(all)
    }

    /// Reads the body and answers.
    pub(crate) async fn answer(mut self, status: u16, fields: &[(&str, &str)], body: &str) {
        self.body().await.expect("a whole body");
        self.answer_now(status, fields, body);
    }

    /// Answers without a look at the body. The stream stays as long as the arrival does.
    pub(crate) fn answer_now(&mut self, status: u16, fields: &[(&str, &str)], body: &str) {
        let mut answer = self.begin(status, fields, body.is_empty());
        if let Some(answer) = &mut answer {
            answer.send_data(Bytes::from(body.to_owned()), true).expect("an open stream");
        }
    }

    /// Sends the head of an answer. The rest is the caller's.
    pub(crate) fn begin(&mut self, status: u16, fields: &[(&str, &str)], is_end: bool) -> Option<SendStream<Bytes>> {
        // The gateway may have given the stream up, which its client will see.
        self.respond.send_response(head(status, fields), is_end).ok().filter(|_| !is_end)
    }

    /// Sends an answer that precedes the answer.
    pub(crate) fn inform(&mut self, status: u16, fields: &[(&str, &str)]) {
        self.respond.send_informational(head(status, fields)).expect("an open stream");
    }

    /// Waits until the gateway resets the stream, whatever of its body comes before that.
    pub(crate) async fn was_reset(&mut self) -> Option<Reason> {
        loop {
            match self.piece().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.reason(),
                None => panic!("the body ended as it should"),
            }
        }
    }

    /// Waits until the gateway resets the stream of a request without a body.
    pub(crate) async fn was_given_up(&mut self) -> Reason {
        let reset = std::future::poll_fn(|cx| self.respond.poll_reset(cx));
        within("a reset", reset).await.expect("an open connection")
    }

    /// Resets the stream.
    pub(crate) fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Says that the connection takes no more streams.
    pub(crate) fn go_away(&self) {
        self.orders.send(Order::GoAway).expect("an open connection");
    }

    /// Closes the whole connection at once.
    pub(crate) fn close_connection(self) {
        self.orders.send(Order::Close).expect("an open connection");
    }
}

fn head(status: u16, fields: &[(&str, &str)]) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status.try_into().expect("a status");
    for (name, value) in fields {
        let name: HeaderName = name.parse().expect("a field name");
        head.headers_mut().append(name, HeaderValue::from_str(value).expect("a field value"));
    }
    head
}
