//! The log's way to standard error. Lines gather for a moment and leave together: a write for each would cost a message as
//! much as two of its commands. A warning or an error leaves at once, and takes along what is before it.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line waits for others.
const PAUSE: Duration = Duration::from_millis(20);

/// So many octets do not wait.
const OCTETS_MAX: usize = 64 << 10;

/// Where the lines gather. Whoever ends the program flushes it first.
#[derive(Clone)]
pub struct Log(Arc<Gathered>);

struct Gathered {
    lines: Mutex<Vec<u8>>,
    begun: Condvar,
    target: fn(&[u8]) -> io::Result<()>,
}

impl Log {
    /// A log to standard error, with a thread that empties it.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start() -> io::Result<Log> {
        Log::to(|lines| io::stderr().lock().write_all(lines))
    }

    fn to(target: fn(&[u8]) -> io::Result<()>) -> io::Result<Log> {
        let log = Log(Arc::new(Gathered { lines: Mutex::default(), begun: Condvar::new(), target }));
        let gathered = Arc::downgrade(&log.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            while let Some(gathered) = gathered.upgrade() {
                let empty = gathered.lock();
                // Looks up now and then whether anyone is left who could write.
                drop(gathered.begun.wait_timeout_while(empty, Duration::from_secs(1), |lines| lines.is_empty()));
                thread::sleep(PAUSE);
                gathered.write_out(&mut gathered.lock());
            }
        })?;
        Ok(log)
    }

    /// Writes what has gathered.
    pub fn flush(&self) {
        self.0.write_out(&mut self.0.lock());
    }
}

impl Gathered {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log that nobody reads any more must not cost a session.
    fn write_out(&self, lines: &mut Vec<u8>) {
        if !lines.is_empty() {
            let _ = (self.target)(lines);
            lines.clear();
        }
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
        let mut lines = self.gathered.lock();
        if lines.is_empty() && !self.is_urgent {
            self.gathered.begun.notify_one();
        }
        lines.extend_from_slice(line);
        if self.is_urgent || lines.len() > OCTETS_MAX {
            self.gathered.write_out(&mut lines);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static WRITTEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[test]
    fn lines_gather_and_a_warning_takes_them_along() {
        let log = Log::to(|lines| {
            WRITTEN.lock().unwrap().push(String::from_utf8_lossy(lines).into_owned());
            Ok(())
        });
        let log = log.unwrap();
        let calm = || Line { gathered: &log.0, is_urgent: false };
        calm().write_all(b"one\n").unwrap();
        calm().write_all(b"two\n").unwrap();
        log.make_writer().write_all(b"error\n").unwrap();
        let all = || WRITTEN.lock().unwrap().concat();
        assert_eq!(all(), "one\ntwo\nerror\n");
        calm().write_all(b"three\n").unwrap();
        let start = std::time::Instant::now();
        while all() != "one\ntwo\nerror\nthree\n" {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", all());
            thread::sleep(Duration::from_millis(5));
        }
    }
}
