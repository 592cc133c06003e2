//! Reloads under load: 200 requests a second over TLS, a reload and another certificate every second, and not one
//! request fails.
//!
//! For as long as `IFMATCH_LOAD_SECONDS` says, by default 4.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::support::{
    Answer, Call, Gateway, H2, Store,
    client::HOST_NAME,
    gateway::Settings,
    outside,
    tls::{Authority, Folder, Tls, was_shown},
    within,
};

/// What the file says at its `n`th change: rules, limits, routes, and names of resources.
fn version(store: &Store, folder: &Folder, n: usize) -> Settings {
    let settings = Gateway::before(store.address).listener(&format!("tls = {{ {} }}", folder.files("own")));
    match n % 5 {
        0 => settings,
        1 => settings.guard("line = 64").rest("[limits]\nheaders = 50"),
        2 => settings.rest("[[routes]]\npath = \"/a/{*rest}\"\n[[routes]]\nguard = { missing = \"require\" }"),
        3 => settings.guard("query = \"ignore\"").upstream("response_timeout = \"20s\""),
        _ => settings.guard("partition = [\"Host\"]").upstream("host = \"rewrite\""),
    }
}

/// Reads the tag of its own resource and writes with it, ten times a second each, until the end.
async fn client(gateway: Client, path: String, stopped: watch::Receiver<bool>) -> usize {
    let mut every = interval(Duration::from_millis(50));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writes = 0;
    while !*stopped.borrow() {
        every.tick().await;
        let read = gateway.send("GET", &path, None).await;
        assert_eq!(read.status, 200, "{read:?}");
        every.tick().await;
        let written = gateway.send("PUT", &path, Some(&read.tag())).await;
        assert_eq!(written.status, 200, "{written:?}");
        writes += 1;
    }
    writes
}

/// With a connection for each request, or one for all.
struct Client {
    address: SocketAddr,
    h2: Option<H2>,
}

impl Client {
    async fn start(address: SocketAddr, is_http2: bool) -> Self {
        if !is_http2 {
            return Self { address, h2: None };
        }
        let stream = Tls::new().alpn(&["h2"]).connect(address, HOST_NAME).await.expect("a handshake");
        Self { address, h2: Some(H2::over(stream).await) }
    }

    async fn send(&self, method: &str, path: &str, tag: Option<&str>) -> Answer {
        let call = Call::new(self.address, method, path);
        let call = match tag {
            Some(tag) => call.if_match(tag).body("x"),
            None => call,
        };
        match &self.h2 {
            Some(h2) => h2.send(call).await,
            None => call.send_over(Tls::new().connect(self.address, HOST_NAME).await.expect("a handshake")).await,
        }
    }
}

#[tokio::test]
async fn no_request_fails_while_the_configuration_changes_every_second() {
    let seconds = std::env::var("IFMATCH_LOAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let store = Store::start().await;
    let (folder, authority) = (Folder::new(), Authority::new());
    folder.keep("own", &authority.certify(&[HOST_NAME]));
    let gateway = version(&store, &folder, 0).start();
    let (stop, stopped) = watch::channel(false);
    let mut clients = Vec::new();
    for n in 0..10 {
        let path = format!("/{}/{n}", if n % 4 == 0 { "a" } else { "b" });
        store.set(&path, "first");
        let with = Client::start(gateway.address, n % 2 == 0).await;
        clients.push(outside().spawn(client(with, path, stopped.clone())));
    }
    let mut every = interval(Duration::from_secs(1));
    for n in 1..=seconds {
        every.tick().await;
        let certificate = authority.certify(&[HOST_NAME]);
        folder.keep("own", &certificate);
        assert!(gateway.reload(&version(&store, &folder, n)).is_empty());
        let stream = Tls::new().connect(gateway.address, HOST_NAME).await.expect("a handshake");
        assert!(was_shown(&stream, &certificate));
    }
    every.tick().await;
    stop.send_replace(true);
    let mut writes = 0;
    for client in clients {
        writes += within("a client", client).await.expect("no request failed");
    }
    assert_eq!(store.count("PUT"), writes);
    assert!(writes >= seconds * 20, "only {writes} writes");
}
