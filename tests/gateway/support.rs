//! What the tests stand on: a gateway in its own thread, backends that do as they are told, clients.
//!
//! Nothing here sleeps to wait for something. Whoever waits does so for a signal, and for [`PATIENCE`] at most
//! ([`within`]), after which the test fails with what it waited for. The world outside of the gateway, backends and the
//! connections of clients, lives on a runtime of its own ([`outside`]), so that it goes on while a test joins the gateway.

use std::{sync::LazyLock, time::Duration};

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use tokio::{runtime, time::timeout};

pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod h2_script;
pub(crate) mod openmetrics;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod script;
pub(crate) mod store;
pub(crate) mod tls;
pub(crate) mod wire;

pub(crate) use client::{Answer, Call, H2, Raw};
pub(crate) use frames::Frames;
pub(crate) use gateway::Gateway;
pub(crate) use h2_script::{H2Arrival, H2Script};
pub(crate) use openmetrics::Scrape;
pub(crate) use program::Program;
pub(crate) use script::{Arrival, Script};
pub(crate) use store::{Fate, Habits, HeadHabit, Store, Tags};

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for something that must come.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited for {PATIENCE:?} in vain: {what}"))
}

/// Sends a PUT of `/note` as these bytes: the fields, each with its line end, and whatever of the body.
pub(crate) async fn raw_put(gateway: &Gateway, fields: &str, body: impl AsRef<[u8]>) -> Raw {
    let mut raw = gateway.raw().await;
    raw.send(format!("PUT /note HTTP/1.1\r\nHost: notes.example\r\n{fields}\r\n")).await;
    raw.send(body).await;
    raw
}

/// Starts a call and returns at once.
pub(crate) fn begin(call: Call) -> Pending {
    Pending(tokio::spawn(call.send()), None)
}

/// A call that is under way.
pub(crate) struct Pending(tokio::task::JoinHandle<Answer>, Option<Answer>);

impl Pending {
    /// Its answer.
    pub(crate) async fn answer(mut self) -> Answer {
        self.finished().await;
        self.1.expect("an answer")
    }

    /// Whether it has no answer yet.
    pub(crate) fn waits(&self) -> bool {
        !self.0.is_finished()
    }

    /// Returns once there is an answer.
    pub(crate) async fn finished(&mut self) {
        if self.1.is_none() {
            self.1 = Some(within("the answer to a call under way", &mut self.0).await.expect("the call's task"));
        }
    }
}

/// Where backends and the connections of clients run.
pub(crate) fn outside() -> runtime::Handle {
    static OUTSIDE: LazyLock<runtime::Runtime> = LazyLock::new(|| {
        runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    });
    OUTSIDE.handle().clone()
}

/// An address at which nobody listens, and what keeps it so.
pub(crate) fn nobody() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    (socket, address)
}
