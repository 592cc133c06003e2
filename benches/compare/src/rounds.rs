//! How it is measured: short slices in random order, and what they used.
//!
//! On a machine that others use as well a long run of one proxy says as much of the others' work as of the proxy. So all are
//! visited in each round, for some milliseconds each, and only what was measured in one round is compared.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    load::Client,
    peers::{Certificate, Proxy},
    secure::{self, Stream},
    shape::{FIRST, Shape, Tag},
};

/// How many requests are under way at once.
pub(crate) const CLIENTS: usize = 64;
/// How many HTTP/2 connections they share.
pub(crate) const CONNECTIONS: usize = 8;

/// Who sends requests.
#[derive(Debug)]
pub(crate) enum Sender {
    /// Over HTTP/1.1: a number of connections, of which one at a time is used, in turn.
    Plain(VecDeque<Client>),
    /// Over HTTP/1.1 to ever other resources, by chance.
    Roaming(Roamer),
    /// Over HTTP/2 with TLS.
    Secure(Stream),
}

/// What came of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) requests: f64,
    pub(crate) cpu: Duration,
    pub(crate) time: Duration,
}

impl Slice {
    /// Microseconds of CPU time a request.
    pub(crate) fn cost(self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests
    }

    /// Requests a second.
    pub(crate) fn rate(self) -> f64 {
        self.requests / self.time.as_secs_f64()
    }
}

/// The load of one shape on one proxy.
#[derive(Debug)]
pub(crate) struct Load {
    shape: Shape,
    checks: bool,
    senders: Vec<Sender>,
}

impl Load {
    /// So many connections over HTTP/1.1, of which at most [`CLIENTS`] are in use at once.
    pub(crate) async fn plain(proxy: &Proxy, shape: Shape, connections: usize) -> io::Result<Self> {
        let mut senders = Vec::new();
        senders.resize_with(connections.min(CLIENTS), VecDeque::new);
        for number in 0..connections {
            let mut client = Client::new(proxy.plain, shape, number);
            client.prepare().await?;
            senders[number % CLIENTS].push_back(client);
        }
        let senders = senders.into_iter().map(Sender::Plain).collect();
        Ok(Self { shape, checks: proxy.peer.checks(), senders })
    }

    /// Writes to so many resources, all of which are read first.
    pub(crate) async fn roaming(proxy: &Proxy, shape: Shape, resources: usize) -> io::Result<Self> {
        let mut running = JoinSet::new();
        for number in 0..CLIENTS {
            let mut client = Client::new(proxy.plain, shape, number);
            running.spawn(async move {
                for resource in (number..resources).step_by(CLIENTS) {
                    client.aim(resource, FIRST);
                    client.prepare().await?;
                }
                let mut chance = Chance::new();
                chance.0 += 2 * number as u64;
                Ok::<_, io::Error>(Roamer { client, number, resources, chance, written: HashMap::new() })
            });
        }
        let mut senders = Vec::new();
        while let Some(filled) = running.join_next().await {
            senders.push(Sender::Roaming(filled.map_err(io::Error::other)??));
        }
        Ok(Self { shape, checks: proxy.peer.checks(), senders })
    }

    /// All clients on this path.
    pub(crate) fn on(proxy: &Proxy, shape: Shape, path: &str) -> Self {
        let clients = (0..CLIENTS).map(|number| Client::on(proxy.plain, shape, path, number));
        let senders = clients.map(|client| Sender::Plain(VecDeque::from([client]))).collect();
        Self { shape, checks: proxy.peer.checks(), senders }
    }

    /// So many connections over HTTP/2, of which each carries its part of [`CLIENTS`].
    pub(crate) async fn secure(
        proxy: &Proxy,
        shape: Shape,
        certificate: &Certificate,
        connections: usize,
    ) -> io::Result<Self> {
        // Nobody has written to its resources yet, so what is read of them is current.
        static USED: AtomicUsize = AtomicUsize::new(CLIENTS);
        let mut senders = Vec::with_capacity(CLIENTS);
        for _ in 0..connections {
            let connection = secure::connect(proxy.secure, &certificate.certificate).await?;
            for _ in 0..CLIENTS / connections {
                let mut stream = Stream::new(connection.clone(), shape, USED.fetch_add(1, Ordering::Relaxed));
                stream.prepare().await?;
                senders.push(Sender::Secure(stream));
            }
        }
        Ok(Self { shape, checks: proxy.peer.checks(), senders })
    }

    /// As much as goes in this time, and what the proxy used for it.
    pub(crate) async fn slice(&mut self, proxy: &Proxy, length: Duration) -> io::Result<Slice> {
        let before = proxy.process.cpu()?;
        let begun = Instant::now();
        let mut running = JoinSet::new();
        let (shape, checks) = (self.shape, self.checks);
        for mut sender in self.senders.drain(..) {
            running.spawn(async move {
                let mut requests = 0_usize;
                while requests == 0 || begun.elapsed() < length {
                    let status = sender.request().await?;
                    if shape.is_wrong(status, checks) {
                        return Err(io::Error::other(format!("{status} to a {}", shape.title())));
                    }
                    requests += 1;
                }
                Ok((sender, requests))
            });
        }
        let mut requests = 0;
        while let Some(done) = running.join_next().await {
            let (sender, sent) = done.map_err(io::Error::other)??;
            requests += sent;
            self.senders.push(sender);
        }
        let time = begun.elapsed();
        Ok(Slice { requests: requests as f64, cpu: proxy.process.cpu()? - before, time })
    }
}

impl Sender {
    async fn request(&mut self) -> io::Result<u16> {
        match self {
            Self::Plain(clients) => {
                clients.rotate_left(1);
                clients[0].request().await
            }
            Self::Roaming(roamer) => roamer.request().await,
            Self::Secure(stream) => stream.request().await,
        }
    }
}

/// A client that writes to any of those resources whose number divided by [`CLIENTS`] leaves its own.
#[derive(Debug)]
pub(crate) struct Roamer {
    client: Client,
    number: usize,
    resources: usize,
    chance: Chance,
    written: HashMap<usize, Tag>,
}

impl Roamer {
    async fn request(&mut self) -> io::Result<u16> {
        let resource = self.chance.below(self.resources / CLIENTS) * CLIENTS + self.number;
        self.client.aim(resource, self.written.get(&resource).copied().unwrap_or(FIRST));
        let status = self.client.request().await?;
        self.written.extend(self.client.tag().map(|tag| (resource, tag)));
        Ok(status)
    }
}

/// One slice of each, in random order; as many rounds.
pub(crate) async fn rounds(
    proxies: &[&Proxy],
    loads: &mut [Load],
    rounds: usize,
    length: Duration,
) -> io::Result<Vec<Vec<Slice>>> {
    let mut order: Vec<usize> = (0..proxies.len()).collect();
    let mut chance = Chance::new();
    let mut all = Vec::with_capacity(rounds);
    // The first round warms up.
    for round in 0..=rounds {
        chance.shuffle(&mut order);
        let mut slices = vec![None; proxies.len()];
        for &at in &order {
            let slice = loads[at].slice(proxies[at], length).await;
            slices[at] =
                Some(slice.map_err(|error| io::Error::other(format!("{}: {error}", proxies[at].peer.name())))?);
        }
        if round > 0 {
            all.push(slices.into_iter().flatten().collect());
        }
    }
    Ok(all)
}

/// The middle one.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value that so large a part lies below.
pub(crate) fn quantile(values: impl Iterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * part).round();
    values.get(at as usize).copied().unwrap_or(f64::NAN)
}

/// Chance enough to shuffle by: xorshift.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos());
        Self(now as u64 | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for at in (1..values.len()).rev() {
            values.swap(at, self.below(at + 1));
        }
    }
}
