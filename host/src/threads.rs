//! The threads that serve sessions. Each has a runtime of its own and accepts connections by itself: a session stays where it
//! came in, so no other thread is woken for it or takes it away, and what it touches stays near one processor.

use std::io;
use std::thread;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Running threads. They end with this, and whatever still runs on them is cut off.
pub struct Threads(Vec<Thread>);

struct Thread {
    runtime: Handle,
    /// Its end is the thread's.
    _running: oneshot::Sender<()>,
}

impl Threads {
    /// Starts so many; with 0, one for each processor.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(count: usize) -> io::Result<Threads> {
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        let count = if count == 0 { processors() } else { count };
        (0..count).map(start).collect::<io::Result<_>>().map(Threads)
    }

    /// The runtime of each.
    pub fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|thread| &thread.runtime)
    }
}

fn start(number: usize) -> io::Result<Thread> {
    // Before a thread sleeps it lets whoever waits for its processor go first: a client there says something meanwhile, and an
    // answer is cheaper than to sleep, be woken, and answer.
    let runtime = Builder::new_current_thread().enable_all().on_thread_park(thread::yield_now).build()?;
    let handle = runtime.handle().clone();
    let (running, ended) = oneshot::channel();
    thread::Builder::new().name(format!("sessions-{number}")).spawn(move || {
        // Nothing is ever sent: it ends when the sender does.
        let _: Result<(), _> = runtime.block_on(ended);
        runtime.shutdown_background();
    })?;
    Ok(Thread { runtime: handle, _running: running })
}
