//! Listeners, workers, what the process does beside them, draining.
//!
//! Every worker is a thread with a runtime of its own and a socket of its own on every address (`SO_REUSEPORT`), so
//! that a request stays on one core from the first byte to the last; only the tracker is shared. What is done once for
//! the whole process (watching the file, waiting for the takeover, telling systemd) is done by tasks in one more thread
//! (`background`).

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{self, Runtime},
    sync::{oneshot, watch},
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use crate::{
    admin::{self, Admin},
    config::{Config, Listener},
    core::resource::Namer,
    gateway::{FirstNames, Gateway, Shared},
    memory::{Capacity, Memory, Origins},
    telemetry::report::Report,
    tls,
    tracker::Tracker,
    upstream::Fleet,
};

use connection::Door;
use limits::Places;

mod chatter;
mod connection;
mod date;
mod http1;
mod http2;
mod limits;
mod proxy_protocol;
mod reload;
mod socket;
mod sockets;
mod spread;
mod systemd;
mod takeover;

pub use reload::{Control, Phase};
pub use sockets::Passed;
use sockets::{Listening, Origin};
use spread::{Arrival, Entrance};
use takeover::Lock;

/// A pause where there is nothing to wait for: between looks at what still drains.
const MOMENT: Duration = Duration::from_millis(50);
/// A pause after an error that concerns no single connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How many connections are still accepted after the stop, at most: a queue's length.
const QUEUE: usize = 1024;
/// How long handshakes may take that are under way at the stop, where another process goes on at the address.
const HANDSHAKES: Duration = Duration::from_millis(200);
/// How long a connection on which nothing is under way stays open after the stop, since a request may be on its way.
const LAST_CALL: Duration = Duration::from_secs(1);

/// A gateway whose addresses are bound.
#[derive(Debug)]
pub struct Server {
    control: Control,
    /// For each worker what it serves with, and its socket on each address.
    workers: Vec<(Arc<Live>, Vec<Listening>)>,
    addresses: Vec<SocketAddr>,
    admin: Option<std::net::TcpListener>,
    /// `None`: no process may take over.
    lock: Option<Arc<Lock>>,
    /// Whether another process has the lock, or had it and did not end in good order.
    waits: bool,
}

impl Server {
    /// Binds every address. Connections wait from here on.
    ///
    /// # Errors
    ///
    /// An address that can't be bound, or a file with a certificate or key that can't be used; the error names it.
    pub fn bind(config: Config) -> io::Result<Self> {
        Self::bind_with(config, Passed::default())
    }

    /// As [`Server::bind`], but where there are sockets that the process was started with, those are used.
    ///
    /// # Errors
    ///
    /// As [`Server::bind`]; or a takeover lock that can't be opened.
    pub fn bind_with(config: Config, passed: Passed) -> io::Result<Self> {
        limits::raise_open_files();
        let doors = doors(&config)?;
        let fleets = Fleet::all(&config.upstreams)?;
        let lock = config.takeover.as_deref().map(|path| Lock::open(path, longest_hold(&config))).transpose()?;
        let (sockets, addresses) = sockets::listen(&config.listeners, config.workers, passed, lock.is_some())?;
        let admin = config.admin.map(|admin| sockets::listen_alone(admin.address, lock.is_some())).transpose()?;
        let config = Arc::new(config);
        let seed = || [RandomState::new().hash_one(0), RandomState::new().hash_one(1)];
        let capacity = Capacity { entries: config.memory.entries, bytes: config.memory.bytes };
        let tracker = Tracker::new(config.tracker.capacity, config.tracker.tag_bytes);
        let report = Report::new(config.report);
        let mut shared = Shared::new(tracker, Memory::new(capacity, seed()), Namer::new(seed()), report);
        shared.origins = Arc::new(Origins::new(config.memory.origins, seed()));
        let mut names = FirstNames::new(&config);
        let waits = lock.as_ref().is_some_and(|lock| !lock.take_at_once());
        if waits {
            names.suspend(&shared.gate);
        }
        let live = || Arc::new(Live::new(Gateway::new(Arc::clone(&config), &fleets, shared.clone(), &names)));
        let workers: Vec<_> = sockets.into_iter().map(|sockets| (live(), sockets)).collect();
        let lives = workers.iter().map(|(live, _)| Arc::clone(live)).collect();
        let control = Control::new(shared, lives, doors, fleets, config, lock.clone());
        Ok(Self { control, workers, addresses, admin, lock, waits })
    }

    /// The file that the configuration was read from, to be read again when it changes.
    #[must_use]
    pub fn from_file(self, file: PathBuf) -> Self {
        self.control.watch_file(file);
        self
    }

    /// The addresses, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address of the admin listener, if there is one.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// What the gateway is told and asked while it runs.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Serves until `stop` says `true` or its sender is gone, then finishes what is under way for as long as
    /// `drain_timeout` allows. Blocks.
    ///
    /// # Errors
    ///
    /// A worker that can't be started. Those that were are stopped.
    pub fn run(self, stop: &watch::Receiver<bool>) -> io::Result<()> {
        let admin_address = self.admin_address();
        let Self { control, workers, addresses, admin, lock, waits } = self;
        let new_runtime = || runtime::Builder::new_current_thread().enable_all().build();
        let runtimes = workers.iter().map(|_| new_runtime()).collect::<io::Result<Vec<_>>>()?;
        let beside = new_runtime()?;
        let entrances = spread::entrances(workers.len(), addresses.len());
        for address in addresses {
            tracing::info!(%address, workers = workers.len(), "listening");
        }
        if let Some(address) = admin_address {
            tracing::info!(%address, "listening for operators");
        }
        let admin = admin.map(|listener| admin::serve(listener, Admin::new(control.clone(), stop.clone())));
        // Dropped when the workers have ended, and before that where one can't be started.
        let (over, until_over) = oneshot::channel::<()>();
        let (halt, halted) = watch::channel(false);
        thread::scope(|scope| {
            let awaited = lock.clone().filter(|_| waits);
            let tasks = background(control.clone(), awaited, admin, stop.clone(), halt, until_over);
            let beside = thread::Builder::new()
                .name("background".into())
                .spawn_scoped(scope, move || block_on(beside, tasks))?;
            let workers: Vec<_> = workers
                .into_iter()
                .zip(runtimes)
                .zip(entrances)
                .map(|(((live, sockets), runtime), entrances)| {
                    let sockets = sockets.into_iter().zip(entrances).collect();
                    let work = work(live, control.clone(), sockets, halted.clone(), lock.clone());
                    let work = move || block_on(runtime, work);
                    thread::Builder::new().name("worker".into()).spawn_scoped(scope, work)
                })
                .collect::<io::Result<_>>()?;
            let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            drop(over);
            let background = beside.join();
            for ended in ended {
                ended.map_err(|_| io::Error::other("a worker panicked"))??;
            }
            background.map_err(|_| io::Error::other("the background thread panicked"))
        })?;
        let shared = control.shared();
        if let Some(lock) = lock.filter(|_| shared.gate.under_way() == 0) {
            lock.leave_in_order();
        }
        shared.telemetry.finish();
        Ok(())
    }
}

/// Runs this to its end, and then waits for nothing more: a resolver, which nobody can interrupt, may take minutes.
fn block_on<T>(runtime: Runtime, work: impl Future<Output = T>) -> T {
    let ended = runtime.block_on(work);
    runtime.shutdown_background();
    ended
}

/// What the connections of each address begin with.
fn doors(config: &Config) -> io::Result<Vec<Arc<Door>>> {
    let places = Places::new();
    let door = |listener: &Listener| {
        let tls = listener.tls.as_ref().map(tls::Acceptor::new).transpose().map_err(io::Error::other)?;
        Ok(Arc::new(Door { tls, proxy_protocol: listener.proxy_protocol, places: Arc::clone(&places) }))
    };
    config.listeners.iter().map(door).collect()
}

/// How long a write in doubt is waited for at most.
fn longest_hold(config: &Config) -> Duration {
    config.routes.iter().map(|route| route.policy.settle).max().unwrap_or_default()
}

/// What is done once for the whole process, until it is over: tasks on a runtime of their own.
async fn background(
    control: Control,
    awaited: Option<Arc<Lock>>,
    admin: Option<impl Future<Output = ()> + Send + 'static>,
    mut stop: watch::Receiver<bool>,
    halt: watch::Sender<bool>,
    mut over: oneshot::Receiver<()>,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(reload::watch(control.clone()));
    tasks.spawn(systemd::tell_when_ready(control.clone()));
    tasks.spawn(systemd::watchdog(control.clone()));
    if let Some(lock) = awaited {
        tasks.spawn(lock.take_over(Arc::clone(&control.shared().gate)));
    }
    control.start_health_checks();
    if let Some(admin) = admin {
        tasks.spawn(admin);
    }
    tokio::select! {
        () = stopped(&mut stop) => {}
        // An error: whoever waits for the workers is gone.
        _ = &mut over => {}
    }
    control.drains();
    halt.send_replace(true);
    systemd::stopping();
    let _ = over.await;
    tasks.shutdown().await;
}

/// What a worker serves with.
#[derive(Debug)]
struct Live {
    gateway: Mutex<Arc<Gateway>>,
    /// When it last said that it is awake, in milliseconds since the start.
    beat: AtomicU64,
}

impl Live {
    fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway: Mutex::new(gateway), beat: AtomicU64::new(0) }
    }

    fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(&self.gateway.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, gateway: Arc<Gateway>) {
        *self.gateway.lock().unwrap_or_else(PoisonError::into_inner) = gateway;
    }

    fn beat(&self, now: Duration) {
        self.beat.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last_beat(&self) -> Duration {
        Duration::from_millis(self.beat.load(Ordering::Relaxed))
    }
}

/// One worker, from the first connection to the last. `lock`: another process may take over.
async fn work(
    live: Arc<Live>,
    control: Control,
    sockets: Vec<(Listening, Entrance)>,
    mut stop: watch::Receiver<bool>,
    lock: Option<Arc<Lock>>,
) -> io::Result<()> {
    let mut accepting = JoinSet::new();
    for ((Listening { socket, origin }, entrance), door) in sockets.into_iter().zip(control.doors()) {
        let listener = TcpListener::from_std(socket)?;
        let hall =
            Hall { door: Arc::clone(door), live: Arc::clone(&live), stop: stop.clone(), connections: JoinSet::new() };
        accepting.spawn(accept(listener, origin, entrance, hall, stop.clone()));
    }
    let tidying = tokio::spawn(tidy(Arc::clone(&live), control.clone()));
    control.worker_runs();
    stopped(&mut stop).await;
    let shared = control.shared();
    // Whoever takes over must not meet what is held.
    let held = || if lock.is_some() { shared.gate.under_way() } else { 0 };
    let writes = || shared.writes_under_way().max(held());
    let drained = timeout(control.config().drain_timeout, async {
        while accepting.join_next().await.is_some() {}
        while writes() > 0 {
            sleep(MOMENT).await;
        }
        if control.worker_has_written() {
            lock.iter().for_each(|lock| lock.give_way());
        }
        while shared.tunnels() > 0 {
            sleep(MOMENT).await;
        }
    });
    if drained.await.is_err() {
        // Answers that go on for ever, and tunnels, are for the client to begin anew; a write is not.
        if writes() > 0 {
            control.is_cut_short();
        }
        if control.stops_waiting() {
            let (writes, tunnels) = (shared.writes_under_way(), shared.tunnels());
            tracing::warn!(writes, tunnels, "stopped before everything had ended");
        }
    }
    tidying.abort();
    Ok(())
}

async fn tidy(live: Arc<Live>, control: Control) {
    let mut every = interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        live.gateway().close_expired();
        control.beat(&live);
    }
}

/// Returns once the process should stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Returns some time after that.
async fn last_call(stop: &mut watch::Receiver<bool>) {
    stopped(stop).await;
    sleep(LAST_CALL).await;
}

/// The connections of one listener that one worker serves.
struct Hall {
    door: Arc<Door>,
    live: Arc<Live>,
    stop: watch::Receiver<bool>,
    connections: JoinSet<()>,
}

impl Hall {
    fn serve(&mut self, arrival: Arrival) {
        let Arrival { stream, peer, counted } = arrival;
        let (door, live) = (Arc::clone(&self.door), Arc::clone(&self.live));
        let served = connection::serve(stream, peer, door, live, self.stop.clone());
        self.connections.spawn(async move {
            served.await;
            drop(counted);
        });
    }
}

/// Accepts connections until the stop, then waits until they have ended.
async fn accept(
    listener: TcpListener,
    origin: Origin,
    mut entrance: Entrance,
    mut hall: Hall,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let arrived = tokio::select! {
            accepted = listener.accept() => accepted.and_then(|(stream, peer)| entrance.accepted(stream, peer)),
            handed = entrance.handed() => handed.map(Some),
            () = stopped(&mut stop) => break,
            Some(_) = hall.connections.join_next(), if !hall.connections.is_empty() => continue,
        };
        match arrived {
            Ok(arrival) => arrival.into_iter().for_each(|arrival| hall.serve(arrival)),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    entrance.close().into_iter().for_each(|arrival| hall.serve(arrival));
    if origin == Origin::Beside {
        if let Err(error) = sockets::let_nobody_in(SockRef::from(&listener)) {
            tracing::debug!(%error, "connections may be lost that are made at this moment");
        }
        sleep(HANDSHAKES).await;
    }
    if origin != Origin::Passed {
        for (stream, peer) in waiting(listener) {
            hall.serve(entrance.keep(stream, peer));
        }
    }
    while hall.connections.join_next().await.is_some() {}
}

/// The connections that wait to be accepted: closing the socket would break them off.
fn waiting(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let listener = listener.into_std().inspect_err(|error| tracing::warn!(%error, "connections that wait are lost"));
    std::iter::from_fn(move || {
        let listener = listener.as_ref().ok()?;
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    if let Ok(stream) = stream {
                        return Some((stream, peer));
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                // Nobody waits any more.
                Err(_) => return None,
            }
        }
    })
    .take(QUEUE)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_that_does_not_answer_keeps_no_worker_from_its_end() {
        let (go, told) = std::sync::mpsc::channel::<()>();
        let runtime = runtime::Builder::new_current_thread().build().expect("a runtime");
        let ended = block_on(runtime, async {
            tokio::task::spawn_blocking(move || told.recv());
            "ended"
        });
        assert_eq!(ended, "ended");
        drop(go);
    }
}
