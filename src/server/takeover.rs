//! Taking over from another process on the same addresses.
//!
//! Both listen, but only one lets writes through: the one that holds an exclusive lock on a file, for as long as it
//! lives; the operating system releases it however the process ends. Who waits for it serves reads, learns nothing from
//! them and has writes wait at the [gate](crate::tracker::gate). So the two never judge writes to one resource at the
//! same time.
//!
//! The file says whether its last holder left in good order, all its turns over. If not, it was killed, and the backend
//! may still be at work on what it sent: then the new holder waits for as long as a turn is held after a write in
//! doubt.
//!
//! Absent: telling the other process to stop. Whoever starts the new one does that, by SIGTERM.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;

use crate::tracker::gate::Gate;

/// A pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);
/// The file holds no more than a number.
const MARK_BYTES: u64 = 32;

/// The lock, held or waited for.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Whether writes are let through by it. Who holds it and still waits for another's leaves no word.
    serves: AtomicBool,
    /// How long turns are held after a write in doubt, at most, in milliseconds.
    hold: AtomicU64,
}

impl Lock {
    /// Opens the file, and makes it where there is none.
    /// `hold` is how long a write in doubt is waited for.
    pub(super) fn open(path: &Path, hold: Duration) -> io::Result<Arc<Self>> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|error| {
            io::Error::new(error.kind(), format!("takeover: {} can't be opened: {error}", path.display()))
        })?;
        Ok(Arc::new(Self { file, serves: AtomicBool::new(false), hold: AtomicU64::new(millis(hold)) }))
    }

    /// From here on turns are held for so long. What was longer before may still be held.
    pub(super) fn holds_for(&self, hold: Duration) {
        let before = self.hold.fetch_max(millis(hold), Ordering::SeqCst);
        if before < millis(hold) && self.serves.load(Ordering::SeqCst) {
            self.mark_or_tell();
        }
    }

    fn hold(&self) -> Duration {
        Duration::from_millis(self.hold.load(Ordering::SeqCst))
    }

    /// Takes the lock if nobody holds it and there is nothing to wait for. Returns whether it did.
    pub(super) fn take_at_once(&self) -> bool {
        let free = self.try_take().is_ok_and(|taken| taken) && self.mark().is_none();
        let serves = free && self.set_mark().is_ok();
        self.serves.store(serves, Ordering::SeqCst);
        serves
    }

    /// Waits for the lock, and then opens the gate.
    pub(super) async fn take_over(self: Arc<Self>, gate: Arc<Gate>) {
        let mut told = false;
        loop {
            match self.try_take() {
                Ok(true) => break,
                Ok(false) if told => {}
                Ok(false) => tracing::info!("another process serves; writes wait until it has stopped"),
                Err(error) if told => tracing::debug!(%error, "the takeover lock can't be taken"),
                Err(error) => tracing::error!(%error, "the takeover lock can't be taken; writes wait"),
            }
            told = true;
            sleep(PAUSE).await;
        }
        if let Some(last) = self.mark() {
            let hold = self.hold().max(last);
            tracing::warn!(?hold, "the last process did not end in good order; its writes may still be under way");
            sleep(hold).await;
        }
        self.serves.store(true, Ordering::SeqCst);
        self.mark_or_tell();
        gate.has_alone();
        if told {
            tracing::info!("taken over");
        }
    }

    /// Every turn is over: who takes over next has nothing to wait for.
    pub(super) fn leave_in_order(&self) {
        if self.serves.load(Ordering::SeqCst)
            && let Err(error) = self.file.set_len(0)
        {
            tracing::warn!(%error, "the takeover lock can't be written to");
        }
    }

    fn try_take(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// How long the turns of a holder are held that did not leave in good order.
    fn mark(&self) -> Option<Duration> {
        let mut mark = String::new();
        let mut file = &self.file;
        let read = file.rewind().and_then(|()| file.take(MARK_BYTES).read_to_string(&mut mark));
        match read {
            Ok(0) => None,
            Ok(_) | Err(_) => Some(Duration::from_millis(mark.trim().parse().unwrap_or_default())),
        }
    }

    /// In one write over what is there: without a mark a process that is killed in between would seem to have left.
    fn set_mark(&self) -> io::Result<()> {
        let mark = format!("{:>20}\n", self.hold().as_millis());
        self.file.write_all_at(mark.as_bytes(), 0)?;
        self.file.set_len(mark.len() as u64)
    }

    fn mark_or_tell(&self) {
        if let Err(error) = self.set_mark() {
            tracing::warn!(%error, "the takeover lock can't be written to");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::tracker::Tracker;

    const HOLD: Duration = Duration::from_secs(5);

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ifmatch-{}-{name}.lock", std::process::id()))
    }

    fn gate() -> Arc<Gate> {
        let gate = Gate::new(Arc::new(Tracker::new(10, 10)));
        gate.share([]);
        gate
    }

    async fn is_open(gate: &Arc<Gate>) -> bool {
        gate.enter(Duration::ZERO).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_opens_once_the_other_has_left() {
        let path = path("left");
        let first = Lock::open(&path, HOLD).expect("a file");
        Arc::clone(&first).take_over(gate()).await;

        let second = gate();
        let waiting = tokio::spawn(Lock::open(&path, HOLD).expect("a file").take_over(Arc::clone(&second)));
        sleep(Duration::from_secs(60)).await;
        assert!(!is_open(&second).await);
        first.leave_in_order();
        drop(first);
        sleep(2 * PAUSE).await;
        assert!(is_open(&second).await);
        waiting.await.expect("no panic");
        std::fs::remove_file(&path).expect("the file");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_process_sent_that_was_killed_is_waited_for() {
        let path = path("killed");
        let first = Lock::open(&path, HOLD).expect("a file");
        Arc::clone(&first).take_over(gate()).await;
        drop(first);

        let second = gate();
        let lock = Lock::open(&path, Duration::from_secs(1)).expect("a file");
        let waiting = tokio::spawn(Arc::clone(&lock).take_over(Arc::clone(&second)));
        sleep(HOLD - PAUSE).await;
        assert!(!is_open(&second).await);
        sleep(2 * PAUSE).await;
        assert!(is_open(&second).await);
        waiting.await.expect("no panic");
        std::fs::remove_file(&path).expect("the file");
    }

    #[test]
    fn who_does_not_hold_the_lock_leaves_no_word() {
        let path = path("waiting");
        let (first, second) = (Lock::open(&path, HOLD).expect("a file"), Lock::open(&path, HOLD).expect("a file"));
        assert!(first.try_take().expect("a lock"));
        first.set_mark().expect("a mark");
        assert!(!second.try_take().expect("no error"));
        second.leave_in_order();
        assert_eq!(first.mark(), Some(HOLD));
        std::fs::remove_file(&path).expect("the file");
    }

    #[tokio::test(start_paused = true)]
    async fn who_still_waits_for_what_another_sent_leaves_its_mark() {
        let path = path("impatient");
        let killed = Lock::open(&path, HOLD).expect("a file");
        Arc::clone(&killed).take_over(gate()).await;
        drop(killed);
        let next = Lock::open(&path, Duration::ZERO).expect("a file");
        assert!(!next.take_at_once());
        let waiting = tokio::spawn(Arc::clone(&next).take_over(gate()));
        sleep(HOLD / 2).await;
        waiting.abort();
        next.leave_in_order();
        assert_eq!(next.mark(), Some(HOLD));
        std::fs::remove_file(&path).expect("the file");
    }

    #[tokio::test]
    async fn the_longest_hold_there_was_is_marked() {
        let path = path("longer");
        let lock = Lock::open(&path, HOLD).expect("a file");
        lock.holds_for(2 * HOLD);
        assert_eq!(lock.mark(), None, "another process has the lock");
        assert!(lock.take_at_once());
        lock.holds_for(HOLD);
        assert_eq!(lock.mark(), Some(2 * HOLD));
        lock.holds_for(3 * HOLD);
        assert_eq!(lock.mark(), Some(3 * HOLD));
        lock.leave_in_order();
        assert_eq!(lock.mark(), None);
        std::fs::remove_file(&path).expect("the file");
    }
}
