//! A configuration takes the place of another while the gateway runs.
//!
//! Every worker gets a new [`Gateway`]. What began under the old configuration ends under it; connections stay, and so
//! does all that is known of resources that keep their names. A configuration with an error changes nothing at all.
//! What can't change without a restart stays as it is, and is named.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use super::{Live, connection::Door, longest_hold, systemd, takeover::Lock};
use crate::{
    config::{Config, ConfigErrors, open_file},
    gateway::{Gateway, Shared},
    telemetry::metrics::ServerState,
    upstream::{FailureKind, Fleet, Server},
};

/// How long a file must stay as it is before it is read: whoever writes it may not be done.
const SETTLING: Duration = Duration::from_millis(100);
/// How often it is looked at for that, at most.
const LOOKS: usize = 50;
/// No more of a file is looked at.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What a running gateway is told and asked, from any thread.
#[derive(Debug, Clone)]
pub struct Control(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Shared,
    /// What each worker serves with.
    workers: Vec<Arc<Live>>,
    /// What the connections of each listener begin with.
    doors: Vec<Arc<Door>>,
    /// What another process waits for that takes over.
    lock: Option<Arc<Lock>>,
    began: Instant,
    applied: Mutex<Applied>,
    /// The file is to be read again.
    asked: Notify,
    phase: watch::Sender<Phase>,
    /// Where servers are asked for their health.
    background: OnceLock<Handle>,
    /// How many workers accept connections.
    running: AtomicUsize,
    /// How many have sent their last write.
    written: AtomicUsize,
    cut_short: AtomicBool,
    stops_waiting: AtomicBool,
}

#[derive(Debug)]
struct Applied {
    config: Arc<Config>,
    /// The servers of each upstream.
    fleets: Vec<Arc<Fleet>>,
    /// The file that it was read from.
    file: Option<PathBuf>,
    /// The files as they were when they were read: certificates, and the configuration's own.
    files: Fingerprints,
}

/// Where in its life a gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all workers accept connections yet.
    Starting,
    /// All do.
    Serving,
    /// None does any more; what is under way is being finished.
    Draining,
}

impl Control {
    pub(super) fn new(
        shared: Shared,
        workers: Vec<Arc<Live>>,
        doors: Vec<Arc<Door>>,
        fleets: Vec<Arc<Fleet>>,
        config: Arc<Config>,
        lock: Option<Arc<Lock>>,
    ) -> Self {
        let files = Fingerprints::of(config.files());
        Self(Arc::new(Inner {
            shared,
            workers,
            doors,
            lock,
            began: Instant::now(),
            applied: Mutex::new(Applied { config, fleets, file: None, files }),
            asked: Notify::new(),
            phase: watch::Sender::new(Phase::Starting),
            background: OnceLock::new(),
            running: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            cut_short: AtomicBool::new(false),
            stops_waiting: AtomicBool::new(false),
        }))
    }

    pub(super) fn doors(&self) -> &[Arc<Door>] {
        &self.0.doors
    }

    /// What all workers share.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// The configuration that new requests are served under.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.applied().config)
    }

    /// How all servers are now.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerState> {
        let applied = self.applied();
        let servers = applied.fleets.iter().flat_map(|fleet| fleet.servers().iter().map(move |server| (fleet, server)));
        let state = |(fleet, server): (&Arc<Fleet>, &Arc<Server>)| ServerState {
            upstream: fleet.config().name.clone(),
            server: server.origin().to_string(),
            open: server.connections(),
            idle: server.idle_connections(),
            healthy: server.is_healthy() && !server.is_ejected(),
            failures: FailureKind::ALL.map(|kind| (kind.name(), server.failures(kind))).to_vec(),
        };
        servers.map(state).collect()
    }

    /// Whether there is a server that the health checks do not speak against. Others get no requests at all; one that is
    /// ejected still does where there is no better.
    #[must_use]
    pub fn has_healthy_server(&self) -> bool {
        self.applied().fleets.iter().any(|fleet| fleet.any_healthy())
    }

    /// A gateway that new requests may be served with.
    ///
    /// # Panics
    ///
    /// Never: there is at least one worker.
    #[must_use]
    pub fn gateway(&self) -> Arc<Gateway> {
        self.0.workers.first().expect("there is at least one worker").gateway()
    }

    /// Where in its life the gateway is, and what follows.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Whether the stop came before everything had ended.
    #[must_use]
    pub fn was_cut_short(&self) -> bool {
        self.0.cut_short.load(Ordering::SeqCst)
    }

    /// Has the file read again, as a SIGHUP does.
    pub fn reread(&self) {
        self.0.asked.notify_one();
    }

    /// Serves new requests under this configuration, as far as that needs no restart. Returns the keys that do need
    /// one.
    ///
    /// # Errors
    ///
    /// A file of an upstream's `tls` that can't be used. Nothing has changed then.
    pub fn reload(&self, config: Config) -> io::Result<Vec<String>> {
        let mut applied = self.applied();
        let (config, needs_restart) = without_restart(&applied.config, config);
        let config = Arc::new(config);
        let files = Fingerprints::of(config.files());
        let fleets = self.renewed(&applied.fleets, &config)?;
        self.renew_certificates(&config);
        if let Some(lock) = &self.0.lock {
            lock.holds_for(longest_hold(&config));
        }
        let before: Vec<_> = self.0.workers.iter().map(|worker| worker.gateway()).collect();
        if let Some(first) = before.first() {
            let succession = first.succession(&config);
            let gateways: Vec<_> =
                before.iter().map(|gateway| gateway.succeed(Arc::clone(&config), &fleets, &succession)).collect();
            for (old, new) in before.iter().zip(&gateways) {
                old.be_succeeded_by(new);
            }
            succession.begin(&self.0.shared.gate);
            for (worker, gateway) in self.0.workers.iter().zip(gateways) {
                worker.replace(gateway);
            }
        }
        (applied.config, applied.files, applied.fleets) = (config, files, fleets);
        Ok(needs_restart)
    }

    /// Begins to ask servers for their health, on the runtime that this is called on.
    pub(super) fn start_health_checks(&self) {
        let applied = self.applied();
        // Once in the life of a gateway.
        let _ = self.0.background.set(Handle::current());
        applied.fleets.iter().for_each(Fleet::start_checks);
    }

    /// The servers of the upstreams of this configuration: the same as before where an upstream is, or of a file that
    /// it names, as before; the checks of the others begin.
    fn renewed(&self, old: &[Arc<Fleet>], config: &Config) -> io::Result<Vec<Arc<Fleet>>> {
        let known = |config| old.iter().find(|fleet| fleet.config() == config).cloned();
        let known: Vec<_> = config.upstreams.iter().map(known).collect();
        let fresh: Vec<_> = config.upstreams.iter().zip(&known).filter(|(_, known)| known.is_none()).collect();
        let fresh: Vec<_> = fresh.into_iter().map(|(config, _)| config.clone()).collect();
        let fresh = Fleet::all(&fresh)?;
        for fleet in known.iter().flatten() {
            let upstream = &fleet.config().name;
            if let Err(error) = fleet.renew_tls() {
                tracing::error!(upstream, %error, "a certificate can't be used; what was read before stays");
            }
        }
        if let Some(runtime) = self.0.background.get() {
            let _entered = runtime.enter();
            fresh.iter().for_each(Fleet::start_checks);
        }
        let mut fresh = fresh.into_iter();
        Ok(known.into_iter().filter_map(|known| known.or_else(|| fresh.next())).collect())
    }

    /// Where one can't be used the old one stays.
    fn renew_certificates(&self, config: &Config) {
        for (door, listener) in self.0.doors.iter().zip(&config.listeners) {
            let (Some(acceptor), Some(files)) = (&door.tls, &listener.tls) else { continue };
            match acceptor.reload(files) {
                Ok(true) => tracing::info!(address = %listener.address, "new connections get a new certificate"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(address = %listener.address, %error, "a certificate can't be used; the old one stays");
                }
            }
        }
    }

    /// Reads the file and serves under what it says, unless it has an error. Returns the files that it names.
    fn read_again(&self, path: &Path) -> Vec<PathBuf> {
        systemd::reloading();
        let mut named = Vec::new();
        let checked = Config::load_again(path).and_then(|config| {
            named.extend(config.files().map(Path::to_owned));
            config.check().map(|()| config)
        });
        let applied = checked.map_err(|ConfigErrors { errors }| errors.iter().map(ToString::to_string).collect());
        let applied = applied.and_then(|config| self.reload(config).map_err(|error| vec![error.to_string()]));
        self.0.shared.telemetry.metrics.reloaded(applied.is_ok());
        match applied {
            Ok(needs_restart) => {
                for key in needs_restart {
                    tracing::warn!(key, "a key has changed that needs a restart; what it said before stays");
                }
                tracing::info!(path = %path.display(), "serving under the file as it is now");
                systemd::reloaded("serving");
            }
            Err(errors) => {
                for error in errors {
                    tracing::error!(path = %path.display(), error, "the file can't be used; what it said before stays");
                }
                systemd::reloaded("serving; the file has errors, and what it said before stays");
            }
        }
        named
    }

    /// From here on the configuration is looked for in this file.
    pub(super) fn watch_file(&self, file: PathBuf) {
        let mut applied = self.applied();
        // Now, and not only once somebody watches: it may be changed before that.
        applied.files.look_at([file.as_path()]);
        applied.file = Some(file);
    }

    pub(super) fn worker_runs(&self) {
        if self.0.running.fetch_add(1, Ordering::SeqCst) + 1 == self.0.workers.len() {
            self.0.phase.send_if_modified(|phase| {
                let starts = *phase == Phase::Starting;
                if starts {
                    *phase = Phase::Serving;
                }
                starts
            });
        }
    }

    /// A worker accepts nothing more, and no write is under way. Returns whether it is the last of which that is so.
    pub(super) fn worker_has_written(&self) -> bool {
        self.0.written.fetch_add(1, Ordering::SeqCst) + 1 == self.0.workers.len()
    }

    pub(super) fn drains(&self) {
        self.0.phase.send_replace(Phase::Draining);
    }

    pub(super) fn is_cut_short(&self) {
        self.0.cut_short.store(true, Ordering::SeqCst);
    }

    /// A worker stops waiting. Returns whether it is the first.
    pub(super) fn stops_waiting(&self) -> bool {
        !self.0.stops_waiting.swap(true, Ordering::SeqCst)
    }

    /// A worker says that it is awake.
    pub(super) fn beat(&self, worker: &Live) {
        worker.beat(self.0.began.elapsed());
    }

    /// Whether all workers have said so lately.
    pub(super) fn workers_are_awake(&self, patience: Duration) -> bool {
        let now = self.0.began.elapsed();
        // They say so once a second.
        let patience = patience.max(Duration::from_secs(3));
        self.0.workers.iter().all(|worker| now.saturating_sub(worker.last_beat()) < patience)
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.0.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the file again whenever somebody asks for it, or it or a certificate has changed.
pub(super) async fn watch(control: Control) {
    let Some(file) = control.applied().file.clone() else {
        loop {
            control.0.asked.notified().await;
            tracing::warn!("there is no file to be read again: the gateway was started without one");
        }
    };
    let mut seen = control.applied().files.clone();
    loop {
        let interval = control.config().reload_interval;
        let is_asked = tokio::select! {
            () = control.0.asked.notified() => true,
            () = sleep(interval), if !interval.is_zero() => false,
        };
        let mut now = seen.again();
        if !is_asked && now == seen {
            continue;
        }
        for _ in 0..LOOKS {
            sleep(SETTLING).await;
            let later = now.again();
            let is_settled = later == now;
            now = later;
            if is_settled {
                break;
            }
        }
        // From before the reading: what changes meanwhile is a change. And a file with errors is told of once, and
        // looked at again when it, or one that it names, has changed.
        let named = control.read_again(&file);
        seen = Fingerprints::default();
        seen.look_at(named.iter().map(PathBuf::as_path).chain(control.config().files()).chain([file.as_path()]));
        seen.prefer(now);
    }
}

/// What files hold, by a hash; `None`: a file that can't be read.
#[derive(Debug, Clone, Default, PartialEq)]
struct Fingerprints(BTreeMap<PathBuf, Option<u64>>);

impl Fingerprints {
    fn of<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut prints = Self::default();
        prints.look_at(files);
        prints
    }

    fn look_at<'a>(&mut self, files: impl IntoIterator<Item = &'a Path>) {
        for file in files {
            self.0.entry(file.to_owned()).or_insert_with(|| fingerprint(file));
        }
    }

    /// The same files as they are now.
    fn again(&self) -> Self {
        Self::of(self.0.keys().map(PathBuf::as_path))
    }

    /// Takes over what the other saw of the same files.
    fn prefer(&mut self, other: Self) {
        for (file, print) in other.0 {
            self.0.entry(file).and_modify(|own| *own = print);
        }
    }
}

fn fingerprint(file: &Path) -> Option<u64> {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let mut bytes = Vec::new();
    open_file(file).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)).ok()?;
    Some(HASHER.hash_one(bytes))
}

/// What of a new configuration can be served under at once, and the keys of the rest, which stay as they are.
fn without_restart(old: &Config, mut new: Config) -> (Config, Vec<String>) {
    let mut keys = Vec::new();
    let addresses = |config: &Config| config.listeners.iter().map(|listener| listener.address).collect::<Vec<_>>();
    if addresses(old) == addresses(&new) {
        for (index, (old, new)) in old.listeners.iter().zip(&mut new.listeners).enumerate() {
            keep(&mut keys, &format!("listeners[{index}].proxy_protocol"), old.proxy_protocol, &mut new.proxy_protocol);
            if old.tls.is_some() != new.tls.is_some() {
                keep(&mut keys, &format!("listeners[{index}].tls"), old.tls.clone(), &mut new.tls);
            }
        }
    } else {
        keep(&mut keys, "listeners", old.listeners.clone(), &mut new.listeners);
    }
    keep(&mut keys, "workers", old.workers, &mut new.workers);
    keep(&mut keys, "tracker.capacity", old.tracker.capacity, &mut new.tracker.capacity);
    keep(&mut keys, "tracker.tag_bytes", old.tracker.tag_bytes, &mut new.tracker.tag_bytes);
    keep(&mut keys, "memory.entries", old.memory.entries, &mut new.memory.entries);
    keep(&mut keys, "memory.bytes", old.memory.bytes, &mut new.memory.bytes);
    keep(&mut keys, "report.clients", old.report.clients, &mut new.report.clients);
    keep(&mut keys, "report.reads", old.report.reads, &mut new.report.reads);
    keep(&mut keys, "memory.origins", old.memory.origins, &mut new.memory.origins);
    keep(&mut keys, "admin.address", old.admin, &mut new.admin);
    keep(&mut keys, "log.format", old.log.format, &mut new.log.format);
    keep(&mut keys, "log.level", old.log.level.clone(), &mut new.log.level);
    keep(&mut keys, "takeover", old.takeover.clone(), &mut new.takeover);
    (new, keys)
}

fn keep<T: PartialEq>(keys: &mut Vec<String>, key: &str, old: T, new: &mut T) {
    if old != *new {
        keys.push(key.to_owned());
        *new = old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(top: &str, listener: &str, rest: &str) -> Config {
        let file = format!(
            "{top}\n[[listeners]]\naddress = \"127.0.0.1:8080\"\n{listener}\n\
             [upstreams.a]\nservers = [\"http://a:1\"]\n{rest}"
        );
        Config::parse(&file).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn what_needs_a_restart_is_named_and_stays_and_the_rest_is_taken() {
        let old = config("workers = 1", "", "");
        let new = config(
            "workers = 2\ntakeover = \"/lock\"\ndrain_timeout = \"7s\"",
            "proxy_protocol = true\ntls = { cert = \"c\", key = \"k\" }",
            "[tracker]\ncapacity = 5\ntag_bytes = \"5B\"\n[memory]\nentries = 5\nbytes = \"5MiB\"\norigins = 5\n[report]\nclients = 5\nreads = 5\n[admin]\n[log]\nformat = \"json\"\nlevel = \"debug\"\n\
             access = true\n[limits]\nheaders = 7\n[guard]\nwait = \"7s\"",
        );
        let (applied, keys) = without_restart(&old, new.clone());
        assert_eq!(
            keys,
            [
                "listeners[0].proxy_protocol",
                "listeners[0].tls",
                "workers",
                "tracker.capacity",
                "tracker.tag_bytes",
                "memory.entries",
                "memory.bytes",
                "report.clients",
                "report.reads",
                "memory.origins",
                "admin.address",
                "log.format",
                "log.level",
                "takeover"
            ]
        );
        let (limits, routes, drain_timeout) = (new.limits, new.routes, new.drain_timeout);
        let log = crate::config::Log { access: true, ..old.log.clone() };
        let expected = Config { limits, routes, drain_timeout, log, ..old.clone() };
        assert_eq!(applied, expected);
        assert_eq!(without_restart(&old, old.clone()), (old.clone(), Vec::new()));
    }

    #[test]
    fn listeners_change_as_a_whole_and_their_certificates_alone() {
        let tls = |cert: &str| config("", &format!("tls = {{ cert = \"{cert}\", key = \"k\" }}"), "");
        let (applied, keys) = without_restart(&tls("one"), tls("two"));
        assert_eq!((applied, keys), (tls("two"), Vec::new()));

        let mut elsewhere = tls("two");
        elsewhere.listeners[0].address.set_port(1);
        let (applied, keys) = without_restart(&tls("one"), elsewhere);
        assert_eq!((applied, keys), (tls("one"), vec!["listeners".to_owned()]));
    }
}
