//! Which worker serves a connection.
//!
//! The kernel spreads connections over the workers' sockets by chance (`SO_REUSEPORT`), or gives them to whoever asks first
//! (a socket that was passed on). Of many each gets about its share; but of a few long ones, as HTTP/2 has them, one
//! worker may get all, and be late while another has nothing to do. So a worker that has clearly more connections than
//! another hands the next on to that one, before a byte of it was read.
//!
//! Deliberately absent: moving a connection that is served already. Its requests belong to its worker's runtime.

use std::{
    io, iter,
    net::{SocketAddr, TcpStream as Unregistered},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{net::TcpStream, sync::mpsc};

/// How many may wait for a worker to take them over. Beyond that whoever accepted one serves it.
const HANDED: usize = 64;

type Handed = (Unregistered, SocketAddr, Counted);

/// How many connections each worker has.
#[derive(Debug)]
struct Spread(Vec<AtomicUsize>);

/// By which one worker gets the connections of one listener.
#[derive(Debug)]
pub(super) struct Entrance {
    worker: usize,
    spread: Arc<Spread>,
    /// Of all workers, the same listener's.
    workers: Vec<mpsc::Sender<Handed>>,
    handed: mpsc::Receiver<Handed>,
}

/// A connection to be served.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// As long as it lives.
    pub(super) counted: Counted,
}

/// One of a worker's connections.
#[derive(Debug)]
pub(super) struct Counted {
    worker: usize,
    spread: Arc<Spread>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.spread.0[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Spread {
    /// Who is to serve the next that `worker` has accepted: itself, unless somebody has clearly fewer.
    fn choose(&self, worker: usize) -> usize {
        let count = |worker: usize| self.0[worker].load(Ordering::Relaxed);
        let least = (0..self.0.len()).min_by_key(|&other| (count(other), other != worker)).unwrap_or(worker);
        // Where there are many an eighth more or less does not show, and to hand over costs a little.
        if count(worker) > count(least) + count(least) / 8 { least } else { worker }
    }

    fn counted(self: &Arc<Self>, worker: usize) -> Counted {
        self.0[worker].fetch_add(1, Ordering::Relaxed);
        Counted { worker, spread: Arc::clone(self) }
    }
}

/// For so many workers: the entrances of each, one a listener.
pub(super) fn entrances(workers: usize, listeners: usize) -> Vec<Vec<Entrance>> {
    let spread = Arc::new(Spread(iter::repeat_with(AtomicUsize::default).take(workers).collect()));
    let mut entrances: Vec<Vec<_>> = iter::repeat_with(Vec::new).take(workers).collect();
    for _ in 0..listeners {
        let (senders, receivers): (Vec<_>, Vec<_>) = iter::repeat_with(|| mpsc::channel(HANDED)).take(workers).unzip();
        for (worker, handed) in receivers.into_iter().enumerate() {
            let (spread, workers) = (Arc::clone(&spread), senders.clone());
            entrances[worker].push(Entrance { worker, spread, workers, handed });
        }
    }
    entrances
}

impl Entrance {
    /// A connection was accepted here. Returns it if this worker is to serve it.
    ///
    /// # Errors
    ///
    /// It can't be handed over, nor be kept.
    pub(super) fn accepted(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<Option<Arrival>> {
        let chosen = self.spread.choose(self.worker);
        if chosen == self.worker {
            return Ok(Some(self.keep(stream, peer)));
        }
        let Ok(place) = self.workers[chosen].try_reserve() else {
            return Ok(Some(self.keep(stream, peer)));
        };
        place.send((stream.into_std()?, peer, self.spread.counted(chosen)));
        Ok(None)
    }

    /// This worker serves it, whatever the others have.
    pub(super) fn keep(&self, stream: TcpStream, peer: SocketAddr) -> Arrival {
        Arrival { stream, peer, counted: self.spread.counted(self.worker) }
    }

    /// The next that another worker hands over.
    ///
    /// # Cancel safety
    ///
    /// None is lost.
    pub(super) async fn handed(&mut self) -> io::Result<Arrival> {
        match self.handed.recv().await {
            Some(handed) => arrival(handed),
            // Never: a sender is here.
            None => std::future::pending().await,
        }
    }

    /// No more are handed over from here on. Returns those that were.
    pub(super) fn close(&mut self) -> Vec<Arrival> {
        self.handed.close();
        iter::from_fn(|| self.handed.try_recv().ok()).filter_map(|handed| arrival(handed).ok()).collect()
    }
}

fn arrival((stream, peer, counted): Handed) -> io::Result<Arrival> {
    Ok(Arrival { stream: TcpStream::from_std(stream)?, peer, counted })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A spread in which the workers have so many.
    fn spread(counts: &[usize]) -> Spread {
        Spread(counts.iter().map(|&count| AtomicUsize::new(count)).collect())
    }

    #[test]
    fn whoever_has_clearly_fewer_gets_the_next() {
        for (counts, worker, chosen) in [
            (&[0, 0][..], 1, 1),
            (&[1, 0], 0, 1),
            (&[1, 0], 1, 1),
            (&[2, 1, 0], 0, 2),
            (&[1, 1, 1], 2, 2),
            (&[9, 8], 0, 0),
            (&[10, 8], 0, 1),
            (&[112, 100], 0, 0),
            (&[113, 100], 0, 1),
        ] {
            assert_eq!(spread(counts).choose(worker), chosen, "{counts:?} at {worker}");
        }
    }

    #[tokio::test]
    async fn few_connections_that_one_worker_accepts_are_served_by_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut entrances: Vec<_> = entrances(2, 1).into_iter().flatten().collect();
        let mut other = entrances.pop().expect("two");
        let one = entrances.pop().expect("two");
        let (mut clients, mut kept, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..8 {
            clients.push(TcpStream::connect(address).await.expect("a connection"));
            let (stream, peer) = listener.accept().await.expect("a connection");
            match one.accepted(stream, peer).expect("one or the other") {
                Some(arrival) => kept.push(arrival),
                None => taken.push(other.handed().await.expect("a connection")),
            }
        }
        assert_eq!((kept.len(), taken.len()), (4, 4));

        // Once these have ended there is room.
        kept.clear();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, peer) = accepted.expect("a connection");
        assert!(one.accepted(stream, peer).expect("kept").is_some());
        drop(client);
    }

    #[tokio::test]
    async fn none_is_handed_to_a_worker_that_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut entrances: Vec<_> = entrances(2, 1).into_iter().flatten().collect();
        let mut other = entrances.pop().expect("two");
        let one = entrances.pop().expect("two");
        let (mut clients, mut all) = (Vec::new(), Vec::new());
        for (closes, here, there) in [(false, 1, 0), (true, 0, 1), (false, 1, 0), (false, 1, 0)] {
            clients.push(TcpStream::connect(address).await.expect("a connection"));
            let (stream, peer) = listener.accept().await.expect("a connection");
            let kept = one.accepted(stream, peer).expect("one or the other");
            let handed = if closes { other.close() } else { Vec::new() };
            assert_eq!((usize::from(kept.is_some()), handed.len()), (here, there));
            all.push((kept, handed));
        }
    }
}
