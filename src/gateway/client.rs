//! The client at the other end of a connection, and whether it is still there.
//!
//! The end of what a client sends can mean that it has gone, or only that it has nothing more to say and waits for the
//! answer, as `printf … | nc` and some old clients do; TCP does not tell the two apart. So it does not end a request that
//! is under way. Who waits for a turn while others wait behind looks at [`Client::gone`]. A connection that breaks is
//! another matter: that ends everything at once.

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::informational::Queue;
use crate::core::{fields::Fields, value::FieldValue};

/// The longest name of a host (RFC 1035 §2.3.4). What is longer is not kept with a connection.
const LONGEST_NAME: usize = 255;

/// A client, for as long as its connection lives.
#[derive(Debug)]
pub struct Client {
    /// Its address, as `X-Forwarded-For` has it.
    pub(super) address: FieldValue,
    /// The same as `Forwarded` has it: `for=…`, and the protocol.
    pub(super) forwarded: FieldValue,
    /// What a backend is told of it, for the host that was asked first, which is mostly the only one.
    told: OnceLock<(FieldValue, Fields)>,
    /// The address itself.
    pub(super) ip: IpAddr,
    /// Whether its connection is secured.
    pub(super) https: bool,
    /// Whether the end of what it sends has been seen.
    ended: AtomicBool,
    end: Notify,
    /// What precedes the answer, on its way to an HTTP/1.1 client.
    pub(super) informational: Queue,
    /// A place for each write that may be under way at once. A write that goes on without its client keeps its place.
    writes: Arc<Semaphore>,
}

impl Client {
    /// A client with this address, over a connection that is secured or not, of which so many writes may be under way at
    /// once.
    #[must_use]
    pub fn new(ip: IpAddr, https: bool, writes: usize) -> Arc<Self> {
        let ip = ip.to_canonical();
        let proto = if https { "https" } else { "http" };
        let forwarded = match ip {
            IpAddr::V4(ip) => format!("for={ip};proto={proto}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto={proto}"),
        };
        let plain = |text: String| FieldValue::try_from(text).expect("an address is plain ASCII");
        Arc::new(Self {
            address: plain(ip.to_string()),
            forwarded: plain(forwarded),
            told: OnceLock::new(),
            ip,
            https,
            ended: AtomicBool::new(false),
            end: Notify::new(),
            informational: Queue::default(),
            writes: Arc::new(Semaphore::new(writes)),
        })
    }

    /// The end of what it sends has been seen.
    pub fn has_ended(&self) {
        if !self.ended.swap(true, Ordering::SeqCst) {
            self.end.notify_waiters();
        }
    }

    /// Whether there is something to ask for ([`Client::next_informational`]), for who has asked before by the same waker.
    pub fn has_informational(&self) -> bool {
        self.informational.is_used()
    }

    /// An informational answer to be written, asked for by who writes the connection and has nothing else left to write.
    /// `writer` is woken when there is another.
    pub fn next_informational(&self, writer: &Waker) -> Option<Bytes> {
        self.informational.next(writer)
    }

    /// Tells a backend of it in a request for this host: what `make` makes, unless the first was for the same.
    pub(super) fn tell(&self, out: &mut Fields, asked: &FieldValue, make: impl Fn() -> Fields) {
        let is_kept = asked.len() <= LONGEST_NAME;
        let first = is_kept.then(|| self.told.get_or_init(|| (asked.clone(), make())));
        match first.filter(|(host, _)| host == asked) {
            Some((_, told)) => out.append_from(told, |_, _| true),
            None => out.append_from(&make(), |_, _| true),
        }
    }

    /// Waits for a place for one more write.
    pub(super) async fn write_place(&self) -> OwnedSemaphorePermit {
        // Who waits already is given what becomes free, and not overtaken by who comes now.
        match Arc::clone(&self.writes).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => Arc::clone(&self.writes).acquire_owned().await.expect("the semaphore is never closed"),
        }
    }

    /// Returns once there is nothing more to come from the client, which may mean that it is gone.
    pub(super) async fn gone(&self) {
        loop {
            let end = self.end.notified();
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            end.await;
        }
    }
}
