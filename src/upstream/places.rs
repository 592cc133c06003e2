//! How many connections a server may have, over all workers.
//!
//! A place is held from before a connection is made until its socket is closed. Who finds none waits in line; meanwhile an
//! unused connection of another worker is closed for it, and pools keep none ([`Places::awaited`]), so that nobody
//! starves beside workers that hold all places.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of one server.
#[derive(Debug)]
pub(super) struct Places {
    all: usize,
    free: Arc<Semaphore>,
    awaited: AtomicUsize,
    pools: Mutex<Vec<Weak<dyn Spare>>>,
}

/// Who has connections, and may have one to spare.
pub(super) trait Spare: Send + Sync {
    /// Closes a connection that is not in use. Returns whether there was one.
    fn close_one(&self) -> bool;

    /// How many connections are not in use.
    fn idle(&self) -> usize;
}

/// The right to have one connection.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "it is given back when it is dropped")] OwnedSemaphorePermit);

impl Places {
    pub(super) fn new(all: usize) -> Self {
        let free = Arc::new(Semaphore::new(all));
        Self { all, free, awaited: AtomicUsize::new(0), pools: Mutex::default() }
    }

    /// Makes a pool known.
    pub(super) fn enrol(&self, pool: Weak<dyn Spare>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }

    /// Whether a connection could be made at once.
    pub(super) fn any_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    /// How many connections there are, those that are being made included.
    pub(super) fn taken(&self) -> usize {
        self.all.saturating_sub(self.free.available_permits())
    }

    /// How many wait for a place, in all workers.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.load(Ordering::Relaxed)
    }

    /// Waits for a place, in order of arrival. `here` counts those of the same worker that wait.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves the line.
    pub(super) async fn take(&self, here: &AtomicUsize) -> Place {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Place(permit);
        }
        let _waiting = (Waiting::among(&self.awaited), Waiting::among(here));
        let mut turn = pin!(Arc::clone(&self.free).acquire_owned());
        // In line first: what is given up from here on comes to those who wait.
        let permit = match poll_fn(|cx| Poll::Ready(turn.as_mut().poll(cx))).await {
            Poll::Ready(permit) => permit,
            Poll::Pending => {
                self.close_one();
                turn.await
            }
        };
        Place(permit.expect("the semaphore is never closed"))
    }

    /// How many connections are not in use, in all workers.
    pub(super) fn idle(&self) -> usize {
        self.pools().iter().filter_map(Weak::upgrade).map(|pool| pool.idle()).sum()
    }

    fn close_one(&self) {
        for pool in self.pools().iter().filter_map(Weak::upgrade) {
            if pool.close_one() {
                return;
            }
        }
    }

    /// A copy, since nothing of theirs is called while this is locked.
    fn pools(&self) -> Vec<Weak<dyn Spare>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(others: &'a AtomicUsize) -> Self {
        others.fetch_add(1, Ordering::Relaxed);
        Self(others)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
