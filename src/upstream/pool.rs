//! A worker's connections to one server.
//!
//! Over HTTP/1.1 a connection carries one request at a time, over HTTP/2 many. A request takes one that is there; else it
//! makes one if the server may have one more ([`Places`]); else it waits, in line, until there is
//! one or the other. All of that together takes `connect_timeout` at most.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    BoxError, Broken, Fault,
    connect::{self, Peer, connect},
    fleet::{Agreed, Counted, Fleet, Server},
    http2::{self, Slot},
    places::{Place, Places, Spare},
    wire::{Handle, Unsent, Watch, Way, Wire},
};
use crate::{config::Protocol, tls::upstream::Asks};

/// How many answers' fields hyper accepts, which is 100 by itself.
const MOST_FIELDS: usize = 256;
/// How much of an answer may wait for its client, and so how long its head may be.
const BUFFER: usize = 128 * 1024;
/// How many requests in a row a connection serves for its own worker while others wait for a place.
const SERVES_BEFORE_OTHERS: usize = 8;

/// A worker's connections to one server. `B` is the body of the requests that they carry.
pub(super) struct Pool<B> {
    fleet: Arc<Fleet>,
    pub(super) server: Arc<Server>,
    kept: Mutex<Kept<B>>,
    line: Arc<Line>,
    /// Held while a connection is made that many requests can use, so that they do not all make one.
    making: tokio::sync::Mutex<()>,
}

struct Kept<B> {
    /// Connections on which nothing is under way, the one used last at the end.
    http1: Vec<Idle<B>>,
    http2: Vec<http2::Connection>,
}

struct Idle<B> {
    connection: Connection<B>,
    until: Instant,
    _counted: Counted,
}

/// An HTTP/1.1 connection and the task that drives it. Dropping the sender lets the task finish.
pub(super) struct Connection<B> {
    pub(super) sender: SendRequest<B>,
    pub(super) handle: Handle,
    peer: Peer,
    served: usize,
}

/// What a request is sent by.
pub(super) enum Ready<B> {
    Http1(Connection<B>),
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

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(fleet: &Arc<Fleet>, server: &Arc<Server>) -> Arc<Self> {
        let places = Arc::clone(&server.places);
        let pool = Arc::new(Self {
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
    pub(super) async fn ready(&self, only_http1: bool) -> Result<(Ready<B>, bool), Fault> {
        if !self.line.is_awaited()
            && let Some(ready) = self.take(only_http1).await
        {
            return Ok(ready);
        }
        let deadline = Instant::now() + self.fleet.config().connect_timeout;
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

    async fn next(&self, only_http1: bool, deadline: Instant) -> Result<(Ready<B>, bool), Fault> {
        let making = if self.is_shared(only_http1) {
            loop {
                let freed = self.line.freed.notified();
                // Whoever made one meanwhile made it for many.
                if let Some(ready) = self.take(only_http1).await {
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
            if let Some(ready) = self.take(only_http1).await {
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

    async fn make(&self, place: Place, only_http1: bool, deadline: Instant) -> Result<(Ready<B>, bool), Fault> {
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
        let unsent: Arc<Unsent> = Arc::default();
        let watch = Watch::Http1(Arc::clone(&unsent));
        let (sender, driver) = http1::Builder::new()
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .max_headers(MOST_FIELDS)
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(Wire { stream: connected.stream, watch, _place: Some(place) }))
            .await
            .map_err(|error| Fault::Connection(Broken::Http1(error)))?;
        let task = tokio::spawn(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "a connection to a backend ended");
            }
        });
        let handle = Handle(Way::Connection { unsent, task: task.abort_handle() });
        Ok((Ready::Http1(Connection { sender, handle, peer: connected.peer, served: 0 }), false))
    }

    /// What is there.
    async fn take(&self, only_http1: bool) -> Option<(Ready<B>, bool)> {
        poll_fn(|cx| Poll::Ready(self.poll_take(only_http1, cx))).await
    }

    fn poll_take(&self, only_http1: bool, cx: &mut Context<'_>) -> Option<(Ready<B>, bool)> {
        let mut kept = self.kept();
        if !only_http1 {
            kept.http2.retain_mut(http2::Connection::is_usable);
            if let Some((slot, served)) = kept.http2.iter().find_map(http2::Connection::slot) {
                return Some((Ready::Http2(slot), served));
            }
        }
        let now = Instant::now();
        let mut at = kept.http1.len();
        while at > 0 {
            at -= 1;
            let candidate = &mut kept.http1[at];
            let is_current = candidate.until > now && candidate.connection.peer.is_current(&self.server);
            match candidate.connection.sender.poll_ready(cx) {
                Poll::Ready(Ok(())) if is_current => {
                    return Some((Ready::Http1(kept.http1.swap_remove(at).connection), true));
                }
                Poll::Ready(_) => drop(kept.http1.swap_remove(at)),
                // Its last answer is through, but the rest of the request it answered is not.
                Poll::Pending => {}
            }
        }
        None
    }

    /// Closes the connections that have been idle for too long, or that lead where the server's name no longer does.
    pub(super) fn close_expired(&self) {
        let (now, idle_timeout) = (Instant::now(), self.fleet.config().idle_timeout);
        let mut kept = self.kept();
        kept.http1.retain_mut(|idle| {
            idle.until > now && !idle.connection.sender.is_closed() && idle.connection.peer.is_current(&self.server)
        });
        kept.http2.retain_mut(|connection| {
            connection.is_usable() && connection.idle_since().is_none_or(|since| now < since + idle_timeout)
        });
    }
}

impl<B> Pool<B> {
    /// How many uploads are followed over its HTTP/2 connections.
    #[cfg(test)]
    pub(super) fn followed_streams(&self) -> usize {
        self.kept().http2.iter().map(http2::Connection::followed_streams).sum()
    }

    fn kept(&self) -> MutexGuard<'_, Kept<B>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer is through, and its connection can carry the next request until then.
    pub(super) fn give_back(&self, mut connection: Connection<B>, until: Instant) {
        connection.served += 1;
        let is_due = !self.line.is_awaited() || connection.served.is_multiple_of(SERVES_BEFORE_OTHERS);
        if connection.sender.is_closed() || self.line.others_wait() && is_due {
            return;
        }
        self.kept().http1.push(Idle { connection, until, _counted: self.server.idles() });
        self.line.freed();
    }
}

impl<B: Send> Spare for Pool<B> {
    fn close_one(&self) -> bool {
        let mut kept = self.kept();
        // One that still sends the rest of a request is in use.
        if let Some(at) = kept.http1.iter().position(|idle| idle.connection.sender.is_ready()) {
            drop(kept.http1.remove(at));
            return true;
        }
        let idle = kept.http2.iter().position(|connection| connection.idle_since().is_some());
        idle.map(|at| drop(kept.http2.swap_remove(at))).is_some()
    }
}

impl<B> std::fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("server", &self.server.origin).finish_non_exhaustive()
    }
}

impl<B> std::fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}
