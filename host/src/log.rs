//! The log's way to standard error. Lines gather for a moment and leave together: a write for each would cost a message as
//! much as two of its commands. A warning or an error leaves at once, and takes along what is before it.
//!
//! **Invariant:** only the log's own thread writes, and nobody waits for it but who ends the program, for a bounded time. Where
//! nobody reads what is written, as in a pipe that is full, lines are dropped and counted.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing::{Level, Metadata, warn};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line waits for others.
const PAUSE: Duration = Duration::from_millis(20);

/// So many octets do not wait.
const OCTETS_MAX: usize = 64 << 10;

/// So many octets may wait while others are being written; further lines are dropped.
const WAITING_OCTETS_MAX: usize = 1 << 20;

/// How long the end of the program waits for what has gathered.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

/// Where the lines gather. Whoever ends the program flushes it first.
#[derive(Clone)]
pub struct Log(Arc<Gathered>);

struct Gathered {
    waiting: Mutex<Waiting>,
    /// There is a first line, or one that does not wait.
    begun: Condvar,
    /// Something has been written.
    written: Condvar,
    target: fn(&[u8]) -> io::Result<()>,
    /// Says how many lines were dropped.
    report: fn(u64),
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    is_urgent: bool,
    is_being_written: bool,
    dropped: u64,
}

impl Log {
    /// A log to standard error, with a thread that empties it.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start() -> io::Result<Log> {
        let report = |dropped| warn!(dropped, "lines of the log were dropped: nobody read them in time");
        Log::to(|lines| io::stderr().lock().write_all(lines), report)
    }

    fn to(target: fn(&[u8]) -> io::Result<()>, report: fn(u64)) -> io::Result<Log> {
        let (waiting, begun, written) = (Mutex::default(), Condvar::new(), Condvar::new());
        let log = Log(Arc::new(Gathered { waiting, begun, written, target, report }));
        let gathered = Arc::downgrade(&log.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            let mut lines = Vec::new();
            while let Some(gathered) = gathered.upgrade() {
                gathered.write_out(&mut lines);
            }
        })?;
        Ok(log)
    }

    /// Waits, not for long, until what has gathered is written.
    pub fn flush(&self) {
        let mut waiting = self.0.lock();
        self.0.hurry(&mut waiting);
        let is_left = |waiting: &mut Waiting| waiting.is_being_written || !waiting.lines.is_empty();
        drop(self.0.written.wait_timeout_while(waiting, FLUSH_TIME_MAX, is_left));
    }
}

impl Gathered {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hurry(&self, waiting: &mut Waiting) {
        if !waiting.is_urgent {
            waiting.is_urgent = true;
            self.begun.notify_one();
        }
    }

    fn take(&self, line: &[u8], is_urgent: bool) {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() > WAITING_OCTETS_MAX {
            waiting.dropped += 1;
            return;
        }
        if waiting.lines.is_empty() {
            self.begun.notify_one();
        }
        waiting.lines.extend_from_slice(line);
        if is_urgent || waiting.lines.len() > OCTETS_MAX {
            self.hurry(&mut waiting);
        }
    }

    /// Waits for lines and writes them, by way of `lines`, which is empty and keeps its memory. A log that nobody reads any more
    /// must not cost a session.
    fn write_out(&self, lines: &mut Vec<u8>) {
        let wait = |waiting, time, is_calm: fn(&mut Waiting) -> bool| {
            let waited = self.begun.wait_timeout_while(waiting, time, is_calm);
            waited.unwrap_or_else(PoisonError::into_inner).0
        };
        // Looks up now and then whether anyone is left who could write.
        let waiting = wait(self.lock(), Duration::from_secs(1), |waiting| waiting.lines.is_empty());
        let mut waiting = wait(waiting, PAUSE, |waiting| !waiting.is_urgent);
        std::mem::swap(lines, &mut waiting.lines);
        let dropped = std::mem::take(&mut waiting.dropped);
        (waiting.is_urgent, waiting.is_being_written) = (false, !lines.is_empty());
        drop(waiting);
        if dropped > 0 {
            (self.report)(dropped);
        }
        if !lines.is_empty() {
            let _ = (self.target)(lines);
            lines.clear();
        }
        self.lock().is_being_written = false;
        self.written.notify_all();
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { gathered: &self.0, is_urgent: true }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { gathered: &self.0, is_urgent: *meta.level() <= Level::WARN }
    }
}

/// Takes one line.
pub struct Line<'a> {
    gathered: &'a Gathered,
    is_urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.gathered.take(line, self.is_urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    fn until(is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lines_gather_and_leave_in_order() {
        static WRITTEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let target = |lines: &[u8]| {
            WRITTEN.lock().unwrap().push(String::from_utf8_lossy(lines).into_owned());
            Ok(())
        };
        let log = Log::to(target, |_| {}).unwrap();
        let calm = || Line { gathered: &log.0, is_urgent: false };
        calm().write_all(b"one\n").unwrap();
        calm().write_all(b"two\n").unwrap();
        log.make_writer().write_all(b"error\n").unwrap();
        log.flush();
        let all = || WRITTEN.lock().unwrap().concat();
        assert_eq!(all(), "one\ntwo\nerror\n");
        calm().write_all(b"three\n").unwrap();
        until(|| all() == "one\ntwo\nerror\nthree\n");
    }

    #[test]
    fn nobody_waits_for_who_does_not_read() {
        static READER: Mutex<()> = Mutex::new(());
        static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let target = |lines: &[u8]| {
            drop(READER.lock());
            WRITTEN.lock().unwrap().extend_from_slice(lines);
            Ok(())
        };
        let log = Log::to(target, |dropped| _ = DROPPED.fetch_add(dropped, Ordering::SeqCst)).unwrap();
        let stuck = READER.lock().unwrap();
        let started = Instant::now();
        let line = |number: u64| format!("{number:099}\n");
        let lines = 3 * WAITING_OCTETS_MAX as u64 / 100;
        let say = |number| log.make_writer().write_all(line(number).as_bytes()).unwrap();
        say(0);
        until(|| log.0.lock().is_being_written);
        (1..lines).for_each(say);
        log.flush();
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(log.0.lock().lines.len() <= WAITING_OCTETS_MAX);
        drop(stuck);
        until(|| DROPPED.load(Ordering::SeqCst) > 0);
        let kept = lines - DROPPED.load(Ordering::SeqCst);
        let expected = (0..kept).map(line).collect::<String>().into_bytes();
        until(|| WRITTEN.lock().unwrap().len() >= expected.len());
        assert_eq!(*WRITTEN.lock().unwrap(), expected);
    }
}
