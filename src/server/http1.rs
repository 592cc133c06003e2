//! A connection that speaks HTTP/1: what its requests meet, when it ends, and what is said on it then.

use std::{
    error::Error,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tokio::{
    io::AsyncWriteExt,
    sync::{oneshot, watch},
    time::timeout,
};

use super::{
    Live,
    connection::{FAREWELL, Open, last_words, read_and_drop, say, too_slow},
    last_call,
    socket::Stream,
};
use crate::{
    config::Limits,
    core::message::{Response, request::Parts},
    gateway::{Client, Delivery, FromClient, Upgrade, Upgraded},
    http1::{Body, Connection, End, Handler, Times, request::Bounds},
};

/// How long is read and dropped what a client sends behind a request to go on with another protocol, where it may not.
const DECLINED: Duration = Duration::from_secs(5);

/// What the requests of one connection meet.
struct Requests<'a> {
    live: &'a Live,
    limits: &'a Limits,
    client: Arc<Client>,
    stop: Stop,
    begun: AtomicUsize,
    /// Who waits for the connection, should it go on with another protocol.
    switching: Mutex<Option<oneshot::Sender<Upgraded>>>,
}

/// Whether the stop has been told, looked at without a lock: it is told once, and never taken back.
struct Stop {
    was_told: bool,
    word: watch::Receiver<bool>,
}

impl Stop {
    fn new(mut word: watch::Receiver<bool>) -> Self {
        let was_told = *word.borrow_and_update();
        Self { was_told, word }
    }

    fn is_told(&self) -> bool {
        // An error: whoever could say so is gone.
        self.was_told || self.word.has_changed().unwrap_or(true)
    }
}

impl Requests<'_> {
    fn switching(&self, waiting: Option<oneshot::Sender<Upgraded>>) -> Option<oneshot::Sender<Upgraded>> {
        std::mem::replace(&mut *self.switching.lock().unwrap_or_else(PoisonError::into_inner), waiting)
    }
}

impl Handler for &Requests<'_> {
    type Io = Stream;
    type Body = Delivery;

    fn handle(
        &self,
        mut head: Box<Parts>,
        body: Body<Stream>,
        asks_to_switch: bool,
    ) -> impl Future<Output = Response<Delivery>> {
        if asks_to_switch {
            let (sender, connection) = oneshot::channel();
            self.switching(Some(sender));
            head.extensions.insert(Upgrade::new(async { connection.await.map_err(std::io::Error::other) }));
        }
        // One after another, so nobody else counts meanwhile.
        self.begun.store(self.begun.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.live.gateway().handle(Arc::clone(&self.client), head, FromClient::new(body), None)
    }

    fn is_last(&self) -> bool {
        self.begun.load(Ordering::Relaxed) >= self.limits.requests_per_connection || self.stop.is_told()
    }

    fn has_informational(&self) -> bool {
        self.client.has_informational()
    }

    fn next_informational(&self, writer: &Waker) -> Option<Bytes> {
        self.client.next_informational(writer)
    }

    fn client_has_ended(&self) {
        self.client.has_ended();
    }
}

/// Serves a connection that speaks HTTP/1.
pub(super) async fn serve(
    open: Open,
    live: &Live,
    limits: &Limits,
    stop: watch::Receiver<bool>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let Open { stream, client, began, .. } = open;
    let bounds = Bounds { bytes: limits.header_bytes, fields: limits.headers };
    let times =
        Times { head: limits.header_read_timeout, idle: limits.idle_timeout, half_closed: limits.half_close_timeout };
    let mut stopping = stop.clone();
    let mut called = pin!(last_call(&mut stopping));
    let stop = Stop::new(stop);
    let requests = Requests { live, limits, client, stop, begun: AtomicUsize::new(0), switching: Mutex::default() };
    let mut listens = false;
    // Whoever has nothing under way is asked to go. To listen anew for every request would cost more than to look.
    let is_to_close = |cx: &mut Context<'_>| {
        let is_told = !std::mem::replace(&mut listens, true) || requests.stop.is_told();
        is_told && called.as_mut().poll(cx).is_ready()
    };
    let (end, stream) = Connection::new(stream, &requests, bounds, times, began).serve(is_to_close).await;
    let Some(mut stream) = stream else { return broken(end) };
    match end {
        End::Broken(_) | End::Answered { may_send: false, .. } => return broken(end),
        End::CutShort(cause) => {
            stream.resets();
            return Err(cause);
        }
        // Whether the client hears of it in time does not matter.
        End::Quiet | End::Idle => drop(timeout(FAREWELL, stream.shutdown()).await),
        End::Late => {
            live.gateway().could_not_read(&requests.client, StatusCode::REQUEST_TIMEOUT);
            say(&mut stream, &too_slow()).await;
        }
        End::Refused(refusal) => {
            live.gateway().could_not_read(&requests.client, refusal.status());
            say(&mut stream, &last_words(&refusal.status().to_string(), "", &format!("{refusal}\n"))).await;
        }
        // It has its answer, and may be sending still.
        End::Answered { is_declined, .. } => {
            let patience = if is_declined { DECLINED } else { FAREWELL };
            let _ = timeout(patience, read_and_drop(&mut stream)).await;
        }
        End::Switched(ahead) => {
            stream.becomes_tunnel(&ahead);
            if let Some(waiting) = requests.switching(None) {
                // Nobody waits any more where the backend has broken off.
                let _ = waiting.send(Box::new(stream));
            }
        }
    }
    Ok(())
}

fn broken(end: End) -> Result<(), Box<dyn Error + Send + Sync>> {
    if let End::Broken(cause) = end { Err(cause) } else { Ok(()) }
}
