//! A gateway in a thread of its own, on a port of its own. Dropped, it is stopped and joined.

use std::{io, net::SocketAddr, thread};

use ifmatch::{
    config::Config,
    server::{Control, Server},
};
use tokio::sync::watch;

use super::{Call, Raw, Scrape};

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) control: Control,
    stop: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

/// What the gateway's file says.
#[derive(Debug)]
pub(crate) struct Settings {
    backend: SocketAddr,
    workers: usize,
    drain_timeout: &'static str,
    top: String,
    listener: String,
    upstream: String,
    guard: String,
    rest: String,
}

impl Settings {
    /// One worker, so that [`Gateway::barrier`] works.
    pub(crate) fn one_worker(mut self) -> Self {
        self.workers = 1;
        self
    }

    /// Instead of the short time that tests have for it.
    pub(crate) fn drain_timeout(mut self, duration: &'static str) -> Self {
        self.drain_timeout = duration;
        self
    }

    /// Keys that stand at the top of the file.
    pub(crate) fn top(mut self, keys: &str) -> Self {
        self.top.push_str(keys);
        self.top.push('\n');
        self
    }

    /// Keys of the listener.
    pub(crate) fn listener(mut self, keys: &str) -> Self {
        self.listener.push_str(keys);
        self.listener.push('\n');
        self
    }

    /// Keys of the upstream.
    pub(crate) fn upstream(mut self, keys: &str) -> Self {
        self.upstream.push_str(keys);
        self.upstream.push('\n');
        self
    }

    /// Keys of `[guard]`.
    pub(crate) fn guard(mut self, keys: &str) -> Self {
        self.guard.push_str(keys);
        self.guard.push('\n');
        self
    }

    /// With an admin listener.
    pub(crate) fn admin(self) -> Self {
        self.rest("[admin]\naddress = \"127.0.0.1:0\"")
    }

    /// Whole tables.
    pub(crate) fn rest(mut self, tables: &str) -> Self {
        self.rest.push_str(tables);
        self.rest.push('\n');
        self
    }

    pub(crate) fn start(&self) -> Gateway {
        Gateway::start(&self.text())
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> String {
        let Self { backend, workers, drain_timeout, top, listener, upstream, guard, rest } = self;
        format!(
            "workers = {workers}\ndrain_timeout = \"{drain_timeout}\"\n{top}\n\
             [[listeners]]\naddress = \"127.0.0.1:0\"\n{listener}\
             [upstreams.backend]\nservers = [\"http://{backend}\"]\n{upstream}\n[guard]\n{guard}\n{rest}\n"
        )
    }
}

impl Gateway {
    /// Before this backend, with settings yet to come.
    pub(crate) fn before(backend: SocketAddr) -> Settings {
        let empty = String::new;
        Settings {
            backend,
            workers: 2,
            drain_timeout: "2s",
            top: empty(),
            listener: empty(),
            upstream: empty(),
            guard: empty(),
            rest: empty(),
        }
    }

    /// From the text of a file.
    pub(crate) fn start(file: &str) -> Self {
        let config = config(file);
        let server = Server::bind(config).expect("a port");
        let address = server.addresses()[0];
        let admin = server.admin_address();
        let control = server.control();
        let (stop, stopped) = watch::channel(false);
        let thread = thread::Builder::new().name("gateway".into()).spawn(move || server.run(&stopped));
        Self { address, admin, control, stop, thread: Some(thread.expect("a thread")) }
    }

    /// The same with the text of a file.
    pub(crate) fn reload_text(&self, file: &str) -> io::Result<Vec<String>> {
        self.control.reload(config(file))
    }

    /// Replaces the configuration. Returns the keys that need a restart.
    pub(crate) fn reload(&self, settings: &Settings) -> Vec<String> {
        self.control.reload(config(&settings.text())).expect("no file that can't be used")
    }

    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        Call::new(self.address, method, path)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call("GET", path)
    }

    pub(crate) fn put(&self, path: &str, body: &str) -> Call {
        self.call("PUT", path).body(body)
    }

    /// Something that an operator asks. The file must have an `[admin]`.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Call {
        Call::new(self.admin.expect("an admin listener"), method, path)
    }

    /// What is counted so far.
    pub(crate) async fn scrape(&self) -> Scrape {
        let answer = self.ask("GET", "/metrics").expect(200).await;
        let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.field("content-type"), Some(media_type));
        Scrape::parse(answer.text()).unwrap_or_else(|error| panic!("{error}\n{}", answer.text()))
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw::connect(self.address).await
    }

    /// Returns once all that was sent before has got as far as it can, where there is one worker.
    ///
    /// A worker handles what happens in the order in which it happens. So once requests have been answered that came
    /// later, by connections that were made later, each with several events of its own, those that came earlier wait for
    /// something that is not the worker. What is asked for here is refused without a look at backend or tracker.
    pub(crate) async fn barrier(&self) {
        for _ in 0..5 {
            let mut raw = self.raw().await;
            raw.send("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n").await;
            assert_eq!(raw.answer("GET").await.status, 400);
        }
    }

    /// Says that the gateway should stop, as a signal does.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until it has stopped.
    pub(crate) async fn stopped(mut self) {
        let thread = self.thread.take().expect("it is stopped once");
        let joined = tokio::task::spawn_blocking(|| thread.join());
        let ended = super::within("the gateway to stop", joined).await.expect("a task");
        ended.expect("no panic in the gateway").expect("workers that could be started");
    }
}

fn config(file: &str) -> Config {
    Config::parse(file).unwrap_or_else(|errors| panic!("{file}\n{errors}"))
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !thread::panicking() {
                ended.expect("no panic in the gateway").expect("workers that could be started");
            }
        }
    }
}
