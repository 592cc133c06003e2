//! Places: how many connections there may be, of all clients and of one address.
//!
//! All workers count together. Who finds no place is told so, if it speaks plain HTTP, and a few at a time: telling must
//! not cost what the limit saves.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// How many connections without a place are told so at once; any others are just closed.
const TOLD: usize = 64;
/// How often the log says that connections were turned away.
const REPORTS: Duration = Duration::from_secs(10);

/// The connections that there are.
#[derive(Debug)]
pub(super) struct Places {
    taken: AtomicUsize,
    /// Never more entries than places taken.
    by_address: Mutex<HashMap<IpAddr, usize>>,
    told: Semaphore,
    report: Mutex<Report>,
}

/// What the log has not been told yet.
#[derive(Debug, Default)]
struct Report {
    turned_away: u64,
    last: Option<Instant>,
}

/// One connection's place. Dropped, it is free again.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: Option<IpAddr>,
}

impl Places {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            by_address: Mutex::default(),
            told: Semaphore::new(TOLD),
            report: Mutex::default(),
        })
    }

    /// A place among at most so many; `None` where all are taken.
    pub(super) fn take(self: &Arc<Self>, most: usize) -> Option<Place> {
        let one_more = |taken| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Place { places: Arc::clone(self), address: None })
    }

    /// One more has found no place. `None`: it is not told.
    pub(super) fn turn_away(&self, limit: &'static str) -> Option<SemaphorePermit<'_>> {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.turned_away += 1;
        if report.last.is_none_or(|last| last.elapsed() >= REPORTS) {
            tracing::warn!(limit, turned_away = report.turned_away, "connections are turned away");
            *report = Report { turned_away: 0, last: Some(Instant::now()) };
        }
        drop(report);
        self.told.try_acquire().ok()
    }
}

impl Place {
    /// Counts the connection as this address's. Returns whether it may have one more.
    pub(super) fn is_of(&mut self, address: IpAddr, most: usize) -> bool {
        let network = network(address);
        let mut by_address = self.places.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = by_address.entry(network).or_default();
        let has_room = *taken < most;
        if has_room {
            *taken += 1;
            self.address = Some(network);
        }
        has_room
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            let mut by_address = self.places.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(taken) = by_address.get_mut(&address) {
                *taken -= 1;
                if *taken == 0 {
                    by_address.remove(&address);
                }
            }
        }
    }
}

/// Lets the process have as many open files as the system allows it: each connection is one, and many systems begin with
/// 1024 for programs that know no better.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => tracing::debug!(from = limit.current, to = limit.maximum, "there may be more open files"),
        Err(error) => tracing::debug!(%error, limit = limit.current, "the limit of open files could not be raised"),
    }
}

/// What counts as one address: of IPv6 its first 64 bits, since everybody has as many addresses as they like below them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_place_that_is_left_is_free_again() {
        let places = Places::new();
        let (first, second) = (places.take(2), places.take(2));
        assert!(first.is_some() && second.is_some());
        assert!(places.take(2).is_none());
        drop(first);
        assert!(places.take(2).is_some());
    }

    #[test]
    fn an_address_is_counted_as_who_it_belongs_to() {
        let rows = [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:0:0:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ];
        for (one, other, is_same) in rows {
            let places = Places::new();
            let (mut first, mut second) = (places.take(9).expect("a place"), places.take(9).expect("a place"));
            assert!(first.is_of(ip(one), 1));
            assert_eq!(second.is_of(ip(other), 1), !is_same, "{one} {other}");
            drop(first);
            let mut third = places.take(9).expect("a place");
            assert!(third.is_of(ip(one), 1));
            drop((second, third));
            assert!(places.by_address.lock().expect("no panic").is_empty());
        }
    }
}
