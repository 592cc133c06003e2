//! An HTTP/1 connection as hyper sees it: its end kept back while the client may still wait for an answer, and clocks for
//! what hyper waits for.
//!
//! A head must come within `header_read_timeout` from its first byte, and the first byte within `idle_timeout` from the
//! answer before it. hyper has one clock for both; but it says when it begins to wait for a head and when it has one, by
//! way of its timer ([`HeadTimer`]), and the first byte is seen here. The beginning of a head that came together with the
//! request before it is not seen, and has the longer of the two times.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::rt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::socket::{Stream, Tunnel};
use crate::{config::Limits, gateway::Client};

/// The connection.
#[derive(Debug)]
pub(super) struct Patient {
    stream: Stream,
    client: Arc<Client>,
    /// How long its end is kept back while it takes nothing: a client that is gone must not keep its connection, and the
    /// backend's, for ever.
    patience: Duration,
    until: Option<Pin<Box<Sleep>>>,
    clock: Arc<Clock>,
    tunnel: Tunnel,
    /// What is left of an informational answer that is being written.
    preceding: Bytes,
}

/// The clock of one connection.
#[derive(Debug)]
pub(super) struct Clock {
    header_read_timeout: Duration,
    idle_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Whether a head is waited for.
    waits: bool,
    since: Instant,
    /// When its first byte was read.
    began: Option<Instant>,
    /// Whether some of an answer waits to be taken.
    unsent: bool,
    /// Whether a head took too long.
    is_late: bool,
    /// Rings at the deadline, or before it. It is left to run from one head to the next: to set it anew for every request
    /// would cost more than to look at the deadline again when it rings.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// The clock of a connection whose first head began at this time.
    pub(super) fn new(limits: &Limits, began: Instant) -> Arc<Self> {
        let state = State { waits: true, since: began, began: Some(began), unsent: false, is_late: false, alarm: None };
        Arc::new(Self {
            header_read_timeout: limits.header_read_timeout,
            idle_timeout: limits.idle_timeout,
            state: Mutex::new(state),
        })
    }

    /// Whether the connection has ended because a head took too long.
    pub(super) fn is_late(&self) -> bool {
        self.state().is_late
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self, state: &State) -> Instant {
        state.began.map_or(state.since + self.idle_timeout, |began| began + self.header_read_timeout)
    }
}

impl State {
    /// Whether a wait that has reached its deadline is over. It goes on while an answer is on its way to a client that
    /// takes it slowly: no other word may be put into the midst of that.
    fn is_over(&mut self) -> bool {
        if self.unsent {
            self.since = Instant::now();
            self.began = self.began.map(|_| self.since);
            return false;
        }
        self.is_late = self.began.is_some();
        true
    }
}

/// Gives hyper the clock of a connection. hyper asks for a sleep where it begins to wait for a head, and drops that once
/// it has one.
#[derive(Debug)]
pub(super) struct HeadTimer(pub(super) Arc<Clock>);

struct HeadWait(Arc<Clock>);

impl rt::Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn rt::Sleep>> {
        let mut state = self.0.state();
        if !state.waits {
            (state.waits, state.since, state.began) = (true, Instant::now(), None);
        }
        drop(state);
        Box::pin(HeadWait(Arc::clone(&self.0)))
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep(Duration::ZERO)
    }
}

impl rt::Sleep for HeadWait {}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        loop {
            let deadline = self.0.deadline(&state);
            let alarm = state.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if alarm.deadline() > deadline {
                alarm.as_mut().reset(deadline);
            }
            ready!(alarm.as_mut().poll(cx));
            if alarm.deadline() < deadline {
                alarm.as_mut().reset(deadline);
            } else if state.is_over() {
                return Poll::Ready(());
            }
        }
    }
}

impl Drop for HeadWait {
    fn drop(&mut self) {
        self.0.state().waits = false;
    }
}

impl Patient {
    pub(super) fn new(stream: Stream, client: Arc<Client>, limits: &Limits, clock: Arc<Clock>) -> Self {
        let tunnel = stream.tunnel();
        Self {
            stream,
            client,
            patience: limits.half_close_timeout,
            until: None,
            clock,
            tunnel,
            preceding: Bytes::new(),
        }
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Who takes something is still there; a client that is gone answers with a reset.
    fn has_written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.clock.state().unsent = true;
        if let (Some(until), Poll::Ready(Ok(1..))) = (&mut self.until, &written) {
            until.as_mut().reset(Instant::now() + self.patience);
        }
        written
    }

    /// Writes what is left of an informational answer. Nothing else may come before its end.
    fn poll_preceding(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.preceding.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.preceding);
            match ready!(self.has_written(written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.preceding.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == before && buf.remaining() > 0;
        if !is_end {
            let mut state = self.clock.state();
            if state.waits && state.began.is_none() {
                state.began = Some(Instant::now());
            }
        } else if !self.tunnel.has_begun() && self.client.keeps_back_the_end(cx.waker()) {
            let patience = self.patience;
            ready!(self.until.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_preceding(cx))?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.has_written(written)
    }

    /// hyper flushes whenever it has nothing left to write, so this is where an informational answer may begin.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_preceding(cx))?;
            match self.client.next_informational(cx.waker()) {
                Some(next) => self.preceding = next,
                None => break,
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        let mut state = self.clock.state();
        if state.unsent {
            (state.unsent, state.since) = (false, Instant::now());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_preceding(cx))?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.has_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer;
    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_time_whenever_the_alarm_of_another_rings() {
        let began = Instant::now();
        let state = State { waits: true, since: began, began: Some(began), unsent: false, is_late: false, alarm: None };
        let (header_read_timeout, idle_timeout) = (10 * SECOND, 60 * SECOND);
        let clock = Arc::new(Clock { header_read_timeout, idle_timeout, state: Mutex::new(state) });
        let wait = || HeadTimer(Arc::clone(&clock)).sleep(Duration::ZERO);
        let came_after = |since: Instant| (since.elapsed().as_secs_f64() * 10.0).round() / 10.0;

        assert!(timeout(5 * SECOND, wait()).await.is_err(), "a head that began, and came");
        let since = Instant::now();
        wait().await;
        assert_eq!((came_after(since), clock.is_late()), (60.0, false), "none began");

        let since = Instant::now();
        let mut next = wait();
        assert!(timeout(20 * SECOND, &mut next).await.is_err());
        clock.state().began = Some(Instant::now());
        next.await;
        assert_eq!((came_after(since), clock.is_late()), (30.0, true), "one began and did not end");
    }
}
