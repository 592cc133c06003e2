//! What goes on beside the workers: one thread for everything that serves no client.

use std::{io, thread};

use tokio::{runtime, sync::oneshot};

/// The thread. Dropped, it ends at once, and what it was doing with it.
#[derive(Debug)]
pub(super) struct Background {
    tasks: runtime::Handle,
    /// Dropped before the thread is waited for.
    until: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Background {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let tasks = runtime.handle().clone();
        let (until, dropped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("background".into()).spawn(move || {
            // An error is the end that is meant.
            let _ = runtime.block_on(dropped);
        })?;
        Ok(Self { tasks, until: Some(until), thread: Some(thread) })
    }

    /// Has this done for as long as the thread runs.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.until = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, not even in a panic, of which the log knows.
            let _ = thread.join();
        }
    }
}
