//! A connection that speaks HTTP/2: its streams, its clocks, and its end. Floods of frames that carry nothing are cut by
//! `chatter`.
//!
//! This speaks to h2 itself and not to hyper's server, which can't send informational answers, and shows neither how many
//! streams are under way nor whether their answers are taken. One task accepts streams and drives the connection; each
//! stream has a task of its own ([`stream`]). What h2 writes in a row goes out together ([`rounds`]). What is left to h2:
//! frames, windows, and which header lists are malformed.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, RecvStream,
    server::{Builder, SendResponse},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::watch,
    time::{Instant, Sleep, sleep, timeout},
};

use self::rounds::Rounds;
use super::{
    LAST_CALL, Live,
    chatter::{Heard, Quiet},
    connection::{FAREWELL, Open},
    last_call, socket, stopped,
};
use crate::{
    clock,
    config::Limits,
    gateway::{Client, Early},
};

mod body;
mod rounds;
mod stream;
mod tunnel;

/// How long a client may be silent before it is asked whether it is still there, and how long it may then take to answer.
const PING: Duration = Duration::from_secs(20);
/// How many streams a client may reset before they were looked at ("rapid reset"), and how many may be reset because of
/// its errors, before the connection is closed. Header lists, and with them CONTINUATION frames, are bounded by
/// `header_bytes`.
const PENDING_RESETS: usize = 20;
const ERROR_RESETS: usize = 256;
/// How much of an answer may wait to be sent to a client that does not read: of each stream, where it opens a window.
const UNSENT: usize = 64 * 1024;
/// How much of a request's body may come before the gateway takes it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all streams. A few uploads that wait for their turn must not keep the one from coming that has it.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 32;
/// How many more requests a client may give up than it lets be answered. Each costs the backend a request.
const GIVEN_UP: usize = 200;

/// Serves a connection that speaks HTTP/2.
pub(super) async fn serve(
    open: Open,
    live: &Arc<Live>,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) -> Result<(), h2::Error> {
    let begun = tokio::select! {
        begun = Box::pin(timeout(limits.idle_timeout, Connection::begin(open, live, limits))) => begun,
        () = last_call(&mut stop) => return Ok(()),
    };
    // An error: it has said nothing.
    let Ok(begun) = begun else { return Ok(()) };
    let mut connection = begun?;
    let mut stopping = pin!(stopped(&mut stop));
    let ended = poll_fn(|cx| {
        if !connection.is_closing && stopping.as_mut().poll(cx).is_ready() {
            connection.close(LAST_CALL);
        }
        connection.poll(cx)
    });
    let ended = ended.await;
    if connection.has_said_all {
        connection.hear_out().await;
    }
    ended
}

struct Connection<'a> {
    protocol: h2::server::Connection<Rounds<Quiet<socket::Stream>>, Bytes>,
    wire: Rounds<Quiet<socket::Stream>>,
    client: Arc<Client>,
    live: &'a Arc<Live>,
    limits: &'a Limits,
    streams: Arc<Streams>,
    begun: usize,
    pings: PingPong,
    heard: Arc<Heard>,
    last_heard: Instant,
    last_written: Instant,
    /// When it was asked since whether it is still there.
    asked: Option<Instant>,
    /// Whether it has been told that no more requests are taken.
    is_closing: bool,
    /// Whether h2 has closed this side.
    has_said_all: bool,
    /// How long nothing may be under way, counted from then at the earliest.
    patience: Duration,
    since: Instant,
    /// Rings when some patience may be at its end, or before that: to set it anew for every stream would cost more than to
    /// look again when it rings.
    alarm: Pin<Box<Sleep>>,
}

impl<'a> Connection<'a> {
    /// In a box: whoever waits for it would keep room for it more than once.
    async fn begin(open: Open, live: &'a Arc<Live>, limits: &'a Limits) -> Result<Box<Self>, h2::Error> {
        let Open { stream, client, .. } = open;
        let heard = Arc::<Heard>::default();
        let wire = Rounds::new(Quiet::new(stream, Arc::clone(&heard)));
        let mut handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(u32::try_from(limits.streams_per_connection).unwrap_or(u32::MAX))
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(Some(ERROR_RESETS))
            .max_send_buffer_size(UNSENT)
            .enable_connect_protocol()
            .handshake(wire.clone());
        let mut protocol = poll_fn(|cx| {
            let polled = Pin::new(&mut handshake).poll(cx);
            wire.end(cx);
            polled
        })
        .await?;
        let pings = protocol.ping_pong().expect("nobody has taken it yet");
        let (now, patience) = (Instant::now(), limits.idle_timeout);
        Ok(Box::new(Self {
            protocol,
            wire,
            client,
            live,
            limits,
            streams: Streams::new(now),
            begun: 0,
            pings,
            heard,
            last_heard: now,
            last_written: now,
            asked: None,
            is_closing: false,
            has_said_all: false,
            patience,
            since: now,
            alarm: Box::pin(sleep(patience.min(PING))),
        }))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            let ended = self.poll_streams(cx);
            self.wire.end(cx);
            if ended.is_ready() {
                return ended;
            }
            if self.heard.came() {
                (self.last_heard, self.asked) = (Instant::now(), None);
            }
            if self.heard.went() {
                self.last_written = Instant::now();
            }
            ready!(self.alarm.as_mut().poll(cx));
            if !self.is_worth_waiting_for(cx) {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Accepts streams, and has h2 write what there is.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match ready!(self.protocol.poll_accept(cx)) {
                None => {
                    self.has_said_all = true;
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                Some(Ok(_)) if self.streams.counts().given_up > GIVEN_UP => {
                    tracing::debug!("a client gives up more requests than it lets be answered");
                    return Poll::Ready(Ok(()));
                }
                Some(Ok((request, respond))) => self.accept(request, respond),
            }
        }
    }

    fn accept(&mut self, request: http::Request<RecvStream>, respond: SendResponse<Bytes>) {
        self.begun += 1;
        if self.begun >= self.limits.requests_per_connection && !self.is_closing {
            self.close(self.limits.send_timeout);
        }
        let under_way = self.streams.begin();
        if request.headers().len() > self.limits.headers {
            stream::too_many_fields(respond);
            return;
        }
        let early = Arc::<Early>::default();
        let is_head = request.method() == http::Method::HEAD;
        let is_to_pause = !request.body().is_end_stream();
        let (request, tunnel) = stream::received(request, &early);
        let (head, body) = request.into_parts();
        let client = Arc::clone(&self.client);
        let answer = self.live.gateway().handle(client, Box::new(head), body, Some(Arc::clone(&early)));
        let mut stream = stream::Stream {
            answer: Some(Box::pin(answer)),
            respond,
            early,
            is_head,
            send_timeout: self.limits.send_timeout,
            tunnel,
            under_way: Some(under_way),
            sending: None,
            is_to_pause,
        };
        tokio::spawn(poll_fn(move |cx| clock::steadily(|| Pin::new(&mut stream).poll(cx))));
    }

    /// There are no more requests. Those that are under way are answered, and then it may take so long to go.
    fn close(&mut self, patience: Duration) {
        self.protocol.graceful_shutdown();
        (self.is_closing, self.patience, self.since) = (true, patience, Instant::now());
        let deadline = self.since + patience;
        if deadline < self.alarm.deadline() {
            self.alarm.as_mut().reset(deadline);
        }
    }

    /// The alarm rings. Sets it anew, unless the client is gone, or does not go.
    fn is_worth_waiting_for(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        let mut next = now + self.patience;
        let idle_since = self.streams.counts().idle_since;
        // The end of an answer may still be in h2's hands. Who takes nothing of it is cut by the socket.
        if let Some(idle) = idle_since.filter(|_| !self.heard.waits()) {
            let deadline = idle.max(self.since).max(self.last_written) + self.patience;
            if deadline > now {
                next = deadline;
            } else if self.is_closing {
                return false;
            } else {
                self.close(self.limits.send_timeout);
                next = now + self.patience;
            }
        }
        if self.heard.waits() {
            // It would have to take all of that before it saw that it is asked.
            (self.last_heard, self.asked) = (now, None);
        }
        let silent_until = self.asked.unwrap_or(self.last_heard) + PING;
        if silent_until > now {
            next = next.min(silent_until);
        } else if self.asked.is_some() {
            tracing::debug!("a client does not answer any more");
            return false;
        } else {
            self.ask(cx);
            next = next.min(now + PING);
        }
        self.alarm.as_mut().reset(next);
        true
    }

    /// Reads on for as long as something comes, such as windows that are opened by who still reads the end of an answer. To
    /// close on bytes that were not read would destroy that on its way.
    async fn hear_out(&mut self) {
        let (most, mut dropped) = (self.limits.send_timeout, vec![0; 4096]);
        let all = async { while let Ok(Ok(1..)) = timeout(FAREWELL, self.read(&mut dropped)).await {} };
        let _ = timeout(most, all).await;
    }

    async fn read(&mut self, dropped: &mut [u8]) -> io::Result<usize> {
        let mut came = ReadBuf::new(dropped);
        let read = poll_fn(|cx| {
            self.wire.end(cx);
            Pin::new(&mut self.wire).poll_read(cx, &mut came)
        });
        read.await?;
        Ok(came.filled().len())
    }

    /// Asks whether the client is still there. Whatever it sends then is an answer.
    fn ask(&mut self, cx: &mut Context<'_>) {
        self.asked = Some(Instant::now());
        // h2 asks once more only where the answer to the time before has been looked at. Where none came, that still counts.
        let _ = self.pings.poll_pong(cx);
        let _ = self.pings.send_ping(Ping::opaque());
    }
}

/// The streams of a connection.
#[derive(Debug)]
struct Streams(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    under_way: usize,
    /// How many more were given up than answered.
    given_up: usize,
    /// Since when none is under way.
    idle_since: Option<Instant>,
}

impl Streams {
    fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Counts { under_way: 0, given_up: 0, idle_since: Some(now) })))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins.
    fn begin(self: &Arc<Self>) -> UnderWay {
        let mut counts = self.counts();
        counts.under_way += 1;
        counts.idle_since = None;
        UnderWay { streams: Arc::clone(self), is_answered: false }
    }
}

/// One stream. Dropped without an answer, its request was given up.
#[derive(Debug)]
struct UnderWay {
    streams: Arc<Streams>,
    is_answered: bool,
}

impl UnderWay {
    fn answered(&mut self) {
        self.is_answered = true;
        let mut counts = self.streams.counts();
        counts.given_up = counts.given_up.saturating_sub(1);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut counts = self.streams.counts();
        counts.under_way -= 1;
        counts.given_up += usize::from(!self.is_answered);
        if counts.under_way == 0 {
            counts.idle_since = Some(Instant::now());
        }
    }
}
