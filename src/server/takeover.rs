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
    io::{self, Read, Seek, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
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
    held: AtomicBool,
}

impl Lock {
    /// Opens the file, and makes it where there is none.
    pub(super) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|error| {
            io::Error::new(error.kind(), format!("takeover: {} can't be opened: {error}", path.display()))
        })?;
        Ok(Arc::new(Self { file, held: AtomicBool::new(false) }))
    }

    /// Takes the lock if nobody holds it and there is nothing to wait for. Returns whether it did.
    pub(super) fn take_at_once(&self, hold: Duration) -> bool {
        let free = self.try_take().is_ok_and(|taken| taken) && self.mark().is_none();
        free && self.set_mark(hold).is_ok()
    }

    /// Waits for the lock, and then opens the gate. `hold` is how long a write in doubt is waited for.
    pub(super) async fn take_over(self: Arc<Self>, gate: Arc<Gate>, hold: Duration) {
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
            let hold = hold.max(last);
            tracing::warn!(?hold, "the last process did not end in good order; its writes may still be under way");
            sleep(hold).await;
        }
        if let Err(error) = self.set_mark(hold) {
            tracing::warn!(%error, "the takeover lock can't be written to");
        }
        gate.has_alone();
        if told {
            tracing::info!("taken over");
        }
    }

    /// Every turn is over: who takes over next has nothing to wait for.
    pub(super) fn leave_in_order(&self) {
        if self.held.load(Ordering::SeqCst)
            && let Err(error) = self.file.set_len(0)
        {
            tracing::warn!(%error, "the takeover lock can't be written to");
        }
    }

    fn try_take(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => {
                self.held.store(true, Ordering::SeqCst);
                Ok(true)
            }
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

    fn set_mark(&self, hold: Duration) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", hold.as_millis())
    }
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

    fn is_open(gate: &Arc<Gate>) -> bool {
        gate.is_open()
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_opens_once_the_other_has_left() {
        let path = path("left");
        let first = Lock::open(&path).expect("a file");
        Arc::clone(&first).take_over(gate(), HOLD).await;

        let second = gate();
        let waiting = tokio::spawn(Lock::open(&path).expect("a file").take_over(Arc::clone(&second), HOLD));
        sleep(Duration::from_secs(60)).await;
        assert!(!is_open(&second));
        first.leave_in_order();
        drop(first);
        sleep(2 * PAUSE).await;
        assert!(is_open(&second));
        waiting.await.expect("no panic");
        std::fs::remove_file(&path).expect("the file");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_process_sent_that_was_killed_is_waited_for() {
        let path = path("killed");
        let first = Lock::open(&path).expect("a file");
        Arc::clone(&first).take_over(gate(), HOLD).await;
        drop(first);

        let second = gate();
        let lock = Lock::open(&path).expect("a file");
        let waiting = tokio::spawn(Arc::clone(&lock).take_over(Arc::clone(&second), Duration::from_secs(1)));
        sleep(HOLD - PAUSE).await;
        assert!(!is_open(&second));
        sleep(2 * PAUSE).await;
        assert!(is_open(&second));
        waiting.await.expect("no panic");
        std::fs::remove_file(&path).expect("the file");
    }

    #[test]
    fn who_does_not_hold_the_lock_leaves_no_word() {
        let path = path("waiting");
        let (first, second) = (Lock::open(&path).expect("a file"), Lock::open(&path).expect("a file"));
        assert!(first.try_take().expect("a lock"));
        first.set_mark(HOLD).expect("a mark");
        assert!(!second.try_take().expect("no error"));
        second.leave_in_order();
        assert_eq!(first.mark(), Some(HOLD));
        std::fs::remove_file(&path).expect("the file");
    }
}
