//! What is written for people and collectors to read, who may stop reading: nobody else waits for them.
//!
//! Lines are written by a thread of their own; what it can't keep up with is dropped and counted.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// How many lines may wait to be written.
const QUEUE: usize = 4096;
/// No line is longer than that; of one that is the end is left out.
const LONGEST: usize = 16 * 1024;
/// How many bytes are written together.
const BATCH: usize = 64 * 1024;
/// How long the end of the process waits for lines to be written.
const LAST: Duration = Duration::from_secs(1);
/// A pause where nothing can be waited for.
const MOMENT: Duration = Duration::from_millis(10);

/// The thread that writes.
#[derive(Debug)]
pub(super) struct Output {
    writer: Writer,
    /// Its sender is dropped when the thread ends.
    ended: Mutex<Receiver<()>>,
}

#[derive(Debug)]
enum Told {
    Line(String),
    /// Nothing more will come.
    End,
}

/// What gives it something to write.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    lines: SyncSender<Told>,
    dropped: Arc<AtomicUsize>,
}

impl Output {
    pub(super) fn to(name: &str, mut output: impl io::Write + Send + 'static) -> Self {
        let (lines, told) = sync_channel(QUEUE);
        let (until_ended, ended) = channel();
        let dropped = Arc::new(AtomicUsize::new(0));
        let lost = Arc::clone(&dropped);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            write_all(&told, &mut output, &lost);
            drop(until_ended);
        });
        if let Err(error) = thread {
            // The log itself may be what there is none of.
            eprintln!("ifmatch: there is no {name}: {error}");
        }
        Self { writer: Writer { lines, dropped }, ended: Mutex::new(ended) }
    }

    pub(super) fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// How many lines there was no room for.
    pub(super) fn dropped(&self) -> usize {
        self.writer.dropped.load(Ordering::Relaxed)
    }

    /// Has all written that is waiting, unless whoever reads it takes nothing. Blocks. What is said after that is lost.
    pub(super) fn finish(&self) {
        let until = Instant::now() + LAST;
        let mut end = self.writer.lines.try_send(Told::End);
        while let Err(TrySendError::Full(_)) = end
            && Instant::now() < until
        {
            thread::sleep(MOMENT);
            end = self.writer.lines.try_send(Told::End);
        }
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // An error is the end, or more time than there is.
        let _ = ended.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

impl Writer {
    /// Has a line written, with its end, or drops it where too many wait already.
    pub(super) fn say(&self, mut line: String) {
        if line.len() > LONGEST {
            line.truncate(line.floor_char_boundary(LONGEST - 1));
            line.push('\n');
        }
        if self.lines.try_send(Told::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// For a log that writes each line at once.
impl io::Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.say(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what comes, as much at once as is there. What can't be written is lost, and counted.
fn write_all(told: &Receiver<Told>, output: &mut impl io::Write, lost: &AtomicUsize) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut ends = false;
    while !ends {
        let mut lines = 0;
        let mut next = told.recv().ok();
        while let Some(Told::Line(line)) = next {
            batch.extend_from_slice(line.as_bytes());
            lines += 1;
            next = if batch.len() < BATCH { told.try_recv().ok() } else { None };
        }
        // Without a line nothing came but the end.
        ends = lines == 0 || matches!(next, Some(Told::End));
        if output.write_all(&batch).and_then(|()| output.flush()).is_err() {
            lost.fetch_add(lines, Ordering::Relaxed);
        }
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that takes nothing until it is told to.
    struct Stuck(Receiver<()>, std::sync::mpsc::Sender<Vec<u8>>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Told so, or left alone.
            let _ = self.0.recv();
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_without_room_are_dropped_and_counted_and_nobody_waits() {
        let ((go, told), (written, output)) = (channel(), channel());
        let log = Output::to("stuck", Stuck(told, written));
        let lines = log.writer();
        // More than wait and are being written.
        let all = QUEUE + BATCH;
        for _ in 0..all {
            lines.say("a line\n".to_owned());
        }
        assert!(log.dropped() > 0);
        drop(go);
        let dropped = log.dropped();
        log.finish();
        let kept: usize = output.iter().map(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count()).sum();
        assert_eq!(kept + dropped, all);
    }

    #[test]
    fn nobody_waits_for_an_output_that_takes_nothing() {
        let ((_go, told), (written, _output)) = (channel(), channel());
        let log = Output::to("stuck", Stuck(told, written));
        let lines = log.writer();
        (0..QUEUE + 2000).for_each(|_| lines.say("a line\n".to_owned()));
        let since = Instant::now();
        log.finish();
        assert!(since.elapsed() < 10 * LAST);
    }

    #[test]
    fn lines_that_nobody_takes_are_counted() {
        let ((go, told), (written, output)) = (channel(), channel());
        drop((go, output));
        let log = Output::to("stuck", Stuck(told, written));
        let lines = log.writer();
        lines.say("a line\n".to_owned());
        log.finish();
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let ((go, told), (written, output)) = (channel(), channel());
        drop(go);
        let log = Output::to("cut", Stuck(told, written));
        log.writer().say("é".repeat(LONGEST));
        log.finish();
        let line = String::from_utf8(output.recv().expect("a line")).expect("UTF-8");
        assert!(line.len() <= LONGEST && line.ends_with("é\n"), "{}", line.len());
    }
}
