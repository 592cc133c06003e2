//! Listeners, workers, draining.
//!
//! Every worker is a thread with a runtime of its own and a socket of its own on every address (`SO_REUSEPORT`), so that a
//! request stays on one core from the first byte to the last; only the tracker is shared.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    runtime,
    sync::watch,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use crate::{
    admin::{self, Admin},
    config::Config,
    core::resource::Namer,
    gateway::Gateway,
    telemetry::Telemetry,
    tracker::{Tracker, Watcher},
};

mod background;
mod connection;

use background::Background;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;
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
    admin: Option<std::net::TcpListener>,
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
            let refused = refused(address);
            check_unused(address).map_err(&refused)?;
            for worker in &mut sockets {
                let socket = bind(address).map_err(&refused)?;
                // The first finds the port where the configuration leaves it open.
                address = socket.local_addr()?;
                worker.push(socket);
            }
            addresses.push(address);
        }
        let admin = config.admin.map(|admin| bind_alone(admin.address)).transpose()?;
        Ok(Self { config: Arc::new(config), sockets, addresses, admin })
    }

    /// The addresses, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The admin listener's address, if there is one.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Serves until `stop` says `true` or its sender is gone, then finishes what is under way for as long as
    /// `drain_timeout` allows. Blocks.
    ///
    /// # Errors
    ///
    /// A worker that can't be started. Those that were are stopped.
    pub fn run(self, stop: &watch::Receiver<bool>) -> io::Result<()> {
        let admin_address = self.admin_address();
        let Self { config, sockets, addresses, admin } = self;
        let telemetry = Arc::new(Telemetry::default());
        let watcher: Arc<dyn Watcher> = telemetry.metrics.clone();
        let tracker = Tracker::new(config.tracker.capacity, config.tracker.tag_bytes).watched_by(watcher);
        let tracker = Arc::new(tracker);
        let namer = Namer::new([RandomState::new().hash_one(0), RandomState::new().hash_one(1)]);
        for address in addresses {
            tracing::info!(%address, workers = config.workers, "listening");
        }
        let gateways: Vec<_> = sockets
            .iter()
            .map(|_| Gateway::new(Arc::clone(&config), Arc::clone(&tracker), namer, &telemetry))
            .collect();
        // It ends after the workers: who asks is answered while they drain.
        let background = Background::start()?;
        if let (Some(listener), Some(address), Some(any)) = (admin, admin_address, gateways.first().cloned()) {
            tracing::info!(%address, "listening for operators");
            let gateway = Arc::new(move || Arc::clone(&any));
            let (telemetry, stop) = (Arc::clone(&telemetry), stop.clone());
            background.spawn(admin::serve(listener, Admin { tracker: Arc::clone(&tracker), telemetry, gateway, stop }));
        }
        thread::scope(|scope| {
            let workers: Vec<_> = sockets
                .into_iter()
                .zip(gateways)
                .map(|(sockets, gateway)| {
                    let (config, stop) = (Arc::clone(&config), stop.clone());
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
            telemetry.metrics.log();
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

fn refused(address: SocketAddr) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{address} can't be listened on: {error}"))
}

/// A socket that no other is to share.
fn bind_alone(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    check_unused(address).and_then(|()| bind(address)).map_err(refused(address))
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

/// What a worker serves with.
#[derive(Debug)]
struct Live(Mutex<Arc<Gateway>>);

impl Live {
    fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn work(
    gateway: Arc<Gateway>,
    config: &Config,
    sockets: Vec<std::net::TcpListener>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let live = Arc::new(Live(Mutex::new(Arc::clone(&gateway))));
    let mut accepting = JoinSet::new();
    for socket in sockets {
        let listener = TcpListener::from_std(socket)?;
        accepting.spawn(accept(listener, Arc::clone(&live), stop.clone()));
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
async fn accept(listener: TcpListener, live: Arc<Live>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn(connection::serve(stream, peer, Arc::clone(&live), stop.clone()));
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
