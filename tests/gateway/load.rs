//! Reloads under load: 200 requests a second, a reload every second, and not one request fails.
//!
//! For as long as `IFMATCH_LOAD_SECONDS` says, by default 4.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::support::{Gateway, H2, Store, gateway::Settings, outside, within};

/// What the file says at its `n`th change: rules, limits, routes, and names of resources.
fn version(store: &Store, n: usize) -> Settings {
    let settings = Gateway::before(store.address);
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
    address: std::net::SocketAddr,
    h2: Option<H2>,
}

impl Client {
    async fn send(&self, method: &str, path: &str, tag: Option<&str>) -> crate::support::Answer {
        let call = crate::support::Call::new(self.address, method, path);
        let call = match tag {
            Some(tag) => call.if_match(tag).body("x"),
            None => call,
        };
        match &self.h2 {
            Some(h2) => h2.send(call).await,
            None => call.send().await,
        }
    }
}

#[tokio::test]
async fn no_request_fails_while_the_configuration_changes_every_second() {
    let seconds = std::env::var("IFMATCH_LOAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).start();
    let (stop, stopped) = watch::channel(false);
    let mut clients = Vec::new();
    for n in 0..10 {
        let path = format!("/{}/{n}", if n % 4 == 0 { "a" } else { "b" });
        store.set(&path, "first");
        let h2 = if n % 2 == 0 { Some(H2::connect(gateway.address).await) } else { None };
        clients.push(outside().spawn(client(Client { address: gateway.address, h2 }, path, stopped.clone())));
    }
    let mut every = interval(Duration::from_secs(1));
    for n in 1..=seconds {
        every.tick().await;
        gateway.reload(&version(&store, n));
        // Here the certificates change too, once there is TLS.
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
