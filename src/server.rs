//! Listeners, protocols, draining.
//!
//! Every worker is a thread with a runtime of its own and a socket of its own on every address (`SO_REUSEPORT`), so that a
//! request stays on one core from the first byte to the last; only the tracker is shared. HTTP/1.1 and HTTP/2 with prior
//! knowledge are told apart by a connection's first bytes, which must come within `header_read_timeout`.
//!
//! Absent for now: TLS, the PROXY protocol, limits on connections.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
    time::Duration,
};

use http::HeaderValue;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime,
    sync::watch,
    task::JoinSet,
    time::{Instant, Sleep, interval, sleep, timeout},
};

use crate::{
    config::Config,
    core::resource::Namer,
    gateway::{Client, Gateway},
    telemetry::Counters,
    tracker::Tracker,
};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;
/// What a client with prior knowledge of HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A pause where there is nothing to wait for: between looks at a preface that came in pieces, or at what still drains.
const MOMENT: Duration = Duration::from_millis(50);
/// A pause after an error that concerns no single connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A gateway whose addresses are bound.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    /// For each worker its socket on each address.
    sockets: Vec<Vec<std::net::TcpListener>>,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Binds every address. Connections wait from here on.
    ///
    /// # Errors
    ///
    /// An address that can't be bound; the error names it.
    pub fn bind(config: Config) -> io::Result<Self> {
        let mut sockets: Vec<Vec<_>> = (0..config.workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for listener in &config.listeners {
            let mut address = listener.address;
            let refused = move |error: io::Error| {
                io::Error::new(error.kind(), format!("{address} can't be listened on: {error}"))
            };
            check_unused(address).map_err(refused)?;
            for worker in &mut sockets {
                let socket = bind(address).map_err(refused)?;
                // The first finds the port where the configuration leaves it open.
                address = socket.local_addr()?;
                worker.push(socket);
            }
            addresses.push(address);
        }
        Ok(Self { config: Arc::new(config), sockets, addresses })
    }

    /// The addresses, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `stop` says `true` or its sender is gone, then finishes what is under way for as long as
    /// `drain_timeout` allows. Blocks.
    ///
    /// # Errors
    ///
    /// A worker that can't be started. Those that were are stopped.
    pub fn run(self, stop: &watch::Receiver<bool>) -> io::Result<()> {
        let Self { config, sockets, addresses } = self;
        let tracker = Arc::new(Tracker::new(config.tracker.capacity, config.tracker.tag_bytes));
        let counters = Arc::new(Counters::default());
        let namer = Namer::new([RandomState::new().hash_one(0), RandomState::new().hash_one(1)]);
        for address in addresses {
            tracing::info!(%address, workers = config.workers, "listening");
        }
        thread::scope(|scope| {
            let workers: Vec<_> = sockets
                .into_iter()
                .map(|sockets| {
                    let (config, stop) = (Arc::clone(&config), stop.clone());
                    let gateway = Gateway::new(Arc::clone(&config), Arc::clone(&tracker), namer, Arc::clone(&counters));
                    let work = move || {
                        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
                        runtime.block_on(work(gateway, &config, sockets, stop))
                    };
                    thread::Builder::new().name("worker".into()).spawn_scoped(scope, work)
                })
                .collect();
            for worker in workers {
                worker?.join().map_err(|_| io::Error::other("a worker panicked"))??;
            }
            counters.log();
            Ok(())
        })
    }
}

/// With `SO_REUSEPORT` a second gateway could listen on the same address unnoticed, and each would know only of the writes
/// that happen to reach it.
fn check_unused(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What a client may take its time for.
#[derive(Debug, Clone, Copy)]
struct Limits {
    header_read_timeout: Duration,
    half_close_timeout: Duration,
    writes_per_connection: usize,
}

async fn work(
    gateway: Arc<Gateway>,
    config: &Config,
    sockets: Vec<std::net::TcpListener>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut accepting = JoinSet::new();
    for socket in sockets {
        let listener = TcpListener::from_std(socket)?;
        let limits = Limits {
            header_read_timeout: config.header_read_timeout,
            half_close_timeout: config.half_close_timeout,
            writes_per_connection: config.writes_per_connection,
        };
        accepting.spawn(accept(listener, Arc::clone(&gateway), limits, stop.clone()));
    }
    let tidying = tokio::spawn(tidy(Arc::clone(&gateway)));
    stopped(&mut stop).await;
    let drained = timeout(config.drain_timeout, async {
        while accepting.join_next().await.is_some() {}
        while gateway.writes_under_way() > 0 {
            sleep(MOMENT).await;
        }
    });
    if drained.await.is_err() {
        tracing::warn!(writes = gateway.writes_under_way(), "stopped before everything had ended");
    }
    tidying.abort();
    Ok(())
}

async fn tidy(gateway: Arc<Gateway>) {
    let mut every = interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        gateway.close_expired();
    }
}

/// Returns once the process should stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Accepts connections until the stop, then waits until they have ended.
async fn accept(listener: TcpListener, gateway: Arc<Gateway>, limits: Limits, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn(serve(stream, peer, Arc::clone(&gateway), limits, stop.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    gateway: Arc<Gateway>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let is_http2 = tokio::select! {
        spoken = timeout(limits.header_read_timeout, speaks_http2(&stream)) => spoken,
        () = stopped(&mut stop) => return,
    };
    let Ok(Ok(is_http2)) = is_http2 else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let client = client(peer, limits.writes_per_connection);
    let service = service_fn(|request| {
        let answer = Arc::clone(&gateway).handle(Arc::clone(&client), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let ended = if is_http2 {
        let mut protocol = http2::Builder::new(TokioExecutor::new());
        protocol
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let mut protocol = http1::Builder::new();
        protocol.timer(TokioTimer::new()).header_read_timeout(limits.header_read_timeout);
        let patient = Patient { stream, client: Arc::clone(&client), patience: limits.half_close_timeout, until: None };
        let io = TokioIo::new(patient);
        let mut connection = pin!(protocol.serve_connection(io, service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a client's connection ended");
    }
}

/// Whether a connection begins with the preface of HTTP/2. Takes nothing from it. An error where it ends before that can
/// be told.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(&first[..seen]) {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        sleep(MOMENT).await;
    }
}

fn client(peer: SocketAddr, writes: usize) -> Arc<Client> {
    let ip = peer.ip().to_canonical();
    let forwarded = match ip {
        IpAddr::V4(ip) => format!("for={ip};proto=http"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto=http"),
    };
    let plain = |text: String| HeaderValue::try_from(text).expect("an address is plain ASCII");
    Client::new(plain(ip.to_string()), plain(forwarded), writes)
}

/// A client's HTTP/1 connection, whose end is kept from hyper where the client may still wait for an answer.
struct Patient {
    stream: TcpStream,
    client: Arc<Client>,
    /// How long its end is kept back while it takes nothing: a client that is gone must not keep its connection, and the
    /// backend's, for ever.
    patience: Duration,
    until: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// Who takes something is still there; a client that is gone answers with a reset.
    fn has_written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Some(until), Poll::Ready(Ok(1..))) = (&mut self.until, &written) {
            until.as_mut().reset(Instant::now() + self.patience);
        }
        written
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == before && buf.remaining() > 0;
        if is_end && self.client.keeps_back_the_end(cx.waker()) {
            let patience = self.patience;
            ready!(self.until.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.has_written(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.has_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
