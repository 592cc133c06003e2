//! A worker's connections to one server.
//!
//! Over HTTP/1.1 a connection carries one request at a time, over HTTP/2 many. A request takes one that is there; else it
//! makes one if the server may have one more ([`Places`]); else it waits, in line, until there is
//! one or the other. All of that together takes `connect_timeout` at most.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    Broken, Fault,
    connect::{self, connect},
    fleet::{Agreed, Fleet, Server},
    http1,
    http2::{self, Slot},
    places::{Place, Places, Spare},
    wire::{Watch, Wire},
};
use crate::{clock, config::Protocol, tls::upstream::Asks};

/// How many requests in a row a connection serves for its own worker while others wait for a place.
const SERVES_BEFORE_OTHERS: usize = 8;

/// A worker's connections to one server.
pub(super) struct Pool {
    /// What its connections find it by.
    this: Weak<Self>,
    fleet: Arc<Fleet>,
    pub(super) server: Arc<Server>,
    kept: Mutex<Kept>,
    line: Arc<Line>,
    /// Held while a connection is made that many requests can use, so that they do not all make one.
    making: tokio::sync::Mutex<()>,
}

struct Kept {
    /// Connections on which nothing is under way, the one used last at the end.
    http1: Vec<Idle>,
    http2: Vec<http2::Connection>,
}

struct Idle {
    connection: Box<http1::Connection>,
    until: Instant,
}

/// What a request is sent by.
pub(super) enum Ready {
    Http1(Box<http1::Connection>),
    Http2(Slot),
}

/// Those who wait for a connection in one worker.
#[derive(Debug)]
pub(super) struct Line {
    freed: Notify,
    waiting: AtomicUsize,
    places: Arc<Places>,
}

impl Line {
    /// There is a connection, or room on one. Wakes one who waits.
    pub(super) fn freed(&self) {
        self.freed.notify_one();
    }

    /// Whether another worker waits for a connection.
    pub(super) fn others_wait(&self) -> bool {
        self.places.awaited() > self.waiting.load(Ordering::Relaxed)
    }

    fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Pool {
    pub(super) fn new(fleet: &Arc<Fleet>, server: &Arc<Server>) -> Arc<Self> {
        let places = Arc::clone(&server.places);
        let pool = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            fleet: Arc::clone(fleet),
            server: Arc::clone(server),
            kept: Mutex::new(Kept { http1: Vec::new(), http2: Vec::new() }),
            line: Arc::new(Line { freed: Notify::new(), waiting: AtomicUsize::new(0), places }),
            making: tokio::sync::Mutex::new(()),
        });
        let spare: Arc<dyn Spare> = Arc::clone(&pool) as Arc<dyn Spare>;
        server.places.enrol(Arc::downgrade(&spare));
        pool
    }

    /// Something to send a request by, and whether it has carried one before. With `only_http1` it is an HTTP/1.1
    /// connection, where the configuration leaves a choice.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves the line; a connection that was being made is given up.
    pub(super) async fn ready(&self, only_http1: bool) -> Result<(Ready, bool), Fault> {
        if !self.line.is_awaited()
            && let Some(ready) = self.take(only_http1)
        {
            return Ok(ready);
        }
        let deadline = clock::now() + self.fleet.config().connect_timeout;
        // In a box, since few requests have to wait, and all would have room for it.
        match timeout_at(deadline, Box::pin(self.next(only_http1, deadline))).await {
            Ok(ready) => ready,
            Err(_) if self.server.places.any_free() => Err(self.timed_out()),
            Err(_) => Err(Fault::Full(self.server.origin.authority.clone())),
        }
    }

    /// Whether a request could be sent without waiting in line.
    pub(super) fn has_room(&self) -> bool {
        if self.server.places.any_free() {
            return true;
        }
        let kept = self.kept();
        !kept.http1.is_empty() || !kept.http2.is_empty()
    }

    async fn next(&self, only_http1: bool, deadline: Instant) -> Result<(Ready, bool), Fault> {
        let making = if self.is_shared(only_http1) {
            loop {
                let freed = self.line.freed.notified();
                // Whoever made one meanwhile made it for many.
                if let Some(ready) = self.take(only_http1) {
                    return Ok(ready);
                }
                tokio::select! {
                    biased;
                    making = self.making.lock() => break Some(making),
                    () = freed => {}
                }
            }
        } else {
            None
        };
        let mut place = pin!(self.server.places.take(&self.line.waiting));
        let place = loop {
            let freed = self.line.freed.notified();
            if let Some(ready) = self.take(only_http1) {
                return Ok(ready);
            }
            tokio::select! {
                biased;
                place = place.as_mut() => break place,
                () = freed => {}
            }
        };
        let made = timeout_at(deadline, self.make(place, only_http1, deadline)).await;
        drop(making);
        made.unwrap_or_else(|_| Err(self.timed_out()))
    }

    fn timed_out(&self) -> Fault {
        Fault::ConnectTimeout(self.server.origin.authority.clone())
    }

    /// Whether a new connection may carry many requests.
    fn is_shared(&self, only_http1: bool) -> bool {
        match self.asks(only_http1) {
            Asks::Http1 => false,
            Asks::Http2 => true,
            Asks::Either => self.server.tls.is_some() && self.server.agreed.load() != Agreed::Http1,
        }
    }

    fn asks(&self, only_http1: bool) -> Asks {
        match (self.fleet.config().protocol, only_http1) {
            (Protocol::Auto, true) => Asks::Http1,
            (protocol, _) => connect::asks(protocol),
        }
    }

    async fn make(&self, place: Place, only_http1: bool, deadline: Instant) -> Result<(Ready, bool), Fault> {
        let connected = connect(&self.server, self.asks(only_http1), deadline).await?;
        if connected.is_http2 {
            let connection = http2::Connection::begin(connected, place, &self.server, &self.line).await?;
            let slot = connection.slot();
            self.kept().http2.push(connection);
            // There is room for all who wait.
            self.line.freed();
            let (slot, served) = slot.ok_or_else(|| Fault::Full(self.server.origin.authority.clone()))?;
            return Ok((Ready::Http2(slot), served));
        }
        let wire = Wire { stream: connected.stream, watch: Watch::Nobody, _place: Some(place) };
        let mut connection = http1::Connection::new(wire, connected.peer, Weak::clone(&self.this));
        if !connection.is_quiet() {
            return Err(Fault::Connection(Broken::Closed));
        }
        Ok((Ready::Http1(connection), false))
    }

    /// What is there.
    fn take(&self, only_http1: bool) -> Option<(Ready, bool)> {
        let mut kept = self.kept();
        if !only_http1 {
            kept.http2.retain_mut(http2::Connection::is_usable);
            if let Some((slot, served)) = kept.http2.iter().find_map(http2::Connection::slot) {
                return Some((Ready::Http2(slot), served));
            }
        }
        let now = clock::now();
        while let Some(mut idle) = kept.http1.pop() {
            if self.is_usable(&mut idle, now) {
                return Some((Ready::Http1(idle.connection), true));
            }
        }
        None
    }

    fn is_usable(&self, idle: &mut Idle, now: Instant) -> bool {
        idle.until > now && idle.connection.peer.is_current(&self.server) && idle.connection.is_quiet()
    }

    /// Closes the connections that have been idle for too long, or that lead where the server's name no longer does.
    pub(super) fn close_expired(&self) {
        let (now, idle_timeout) = (Instant::now(), self.fleet.config().idle_timeout);
        let mut kept = self.kept();
        kept.http1.retain_mut(|idle| self.is_usable(idle, now));
        kept.http2.retain_mut(|connection| {
            connection.is_usable() && connection.idle_since().is_none_or(|since| now < since + idle_timeout)
        });
    }
}

impl Pool {
    /// How many uploads are followed over its HTTP/2 connections.
    #[cfg(test)]
    pub(super) fn followed_streams(&self) -> usize {
        self.kept().http2.iter().map(http2::Connection::followed_streams).sum()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer is through, and its connection can carry the next request until then.
    pub(super) fn give_back(&self, mut connection: Box<http1::Connection>, until: Instant) {
        connection.served += 1;
        let is_due = !self.line.is_awaited() || connection.served.is_multiple_of(SERVES_BEFORE_OTHERS);
        if self.line.others_wait() && is_due {
            return;
        }
        self.kept().http1.push(Idle { connection, until });
        self.line.freed();
        // Whoever has begun to wait since that was looked at may have found nothing to close here.
        if self.line.others_wait() && !self.line.is_awaited() {
            self.close_one();
        }
    }
}

impl Spare for Pool {
    fn close_one(&self) -> bool {
        let mut kept = self.kept();
        if !kept.http1.is_empty() {
            drop(kept.http1.remove(0));
            return true;
        }
        let idle = kept.http2.iter().position(|connection| connection.idle_since().is_some());
        idle.map(|at| drop(kept.http2.swap_remove(at))).is_some()
    }

    fn idle(&self) -> usize {
        let kept = self.kept();
        kept.http1.len() + kept.http2.iter().filter(|connection| connection.idle_since().is_some()).count()
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("server", &self.server.origin).finish_non_exhaustive()
    }
}
