//! The threads that serve sessions. Each has a runtime of its own and accepts connections by itself: a session stays where it
//! came in, so no other thread is woken for it or takes it away, and what it touches stays near one processor.

use crate::busy_poll;
use std::future::poll_fn;
use std::io;
use std::mem::replace;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

/// Connections that come to one thread before it is the next one's turn. Few are served best together: their messages share
/// commits, what one says wakes the thread for all, and the database has the other processors.
const TOGETHER: usize = 32;

/// Running threads. They end with this, and whatever still runs on them is cut off.
pub struct Threads(Vec<Thread>);

struct Thread {
    runtime: Handle,
    /// Its end is the thread's.
    _running: oneshot::Sender<()>,
}

impl Threads {
    /// Starts so many, which may busy-poll; with 0, one for each processor.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(count: usize, busy_poll: bool) -> io::Result<Threads> {
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        let count = if count == 0 { processors() } else { count };
        (0..count).map(|number| start(number, busy_poll)).collect::<io::Result<_>>().map(Threads)
    }

    /// The runtime of each.
    pub fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|thread| &thread.runtime)
    }
}

fn start(number: usize, busy_poll: bool) -> io::Result<Thread> {
    let mut builder = Builder::new_current_thread();
    if busy_poll {
        busy_poll::enable(&mut builder);
    } else {
        // Before a thread sleeps it lets whoever waits for its processor go first: a client there says something meanwhile, and an
        // answer is cheaper than to sleep, be woken, and answer.
        builder.on_thread_park(thread::yield_now);
    }
    let runtime = builder.enable_all().build()?;
    if busy_poll {
        runtime.spawn(busy_poll::look());
    }
    let handle = runtime.handle().clone();
    let (running, ended) = oneshot::channel();
    thread::Builder::new().name(format!("sessions-{number}")).spawn(move || {
        // Nothing is ever sent: it ends when the sender does.
        let _: Result<(), _> = runtime.block_on(ended);
        runtime.shutdown_background();
    })?;
    Ok(Thread { runtime: handle, _running: running })
}

/// Lets those tasks of this thread go first that are ready. What they all say then leaves together, and whoever is at the other
/// end of many connections is woken once for it.
pub async fn others_first() {
    let mut is_behind_them = false;
    poll_fn(|context| match replace(&mut is_behind_them, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Whose turn it is to accept connections.
pub struct Turns(watch::Sender<Turn>);

struct Turn {
    thread: usize,
    /// Of each thread.
    connections: Vec<usize>,
}

/// A connection of a thread, until this is dropped.
pub struct Counted {
    turns: Arc<Turns>,
    thread: usize,
}

impl Turns {
    /// For so many threads, of which the first begins.
    pub fn new(threads: usize) -> Arc<Turns> {
        Arc::new(Turns(watch::Sender::new(Turn { thread: 0, connections: vec![0; threads] })))
    }

    /// Waits for a thread's turn.
    pub async fn comes_to(&self, thread: usize) {
        // It fails when there is no sender, which this is.
        let _ = self.0.subscribe().wait_for(|turn| turn.thread == thread).await;
    }

    /// Whether it is a thread's turn.
    pub fn is_with(&self, thread: usize) -> bool {
        self.0.borrow().thread == thread
    }

    /// Counts a connection that a thread has accepted. With enough of them the turn passes to whoever has fewer.
    pub fn count(self: &Arc<Self>, thread: usize) -> Counted {
        self.0.send_if_modified(|turn| {
            turn.connections[thread] += 1;
            turn.passes()
        });
        Counted { turns: self.clone(), thread }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Nobody else's turn begins by it, so that short connections do not send it to and fro.
        self.turns.0.send_if_modified(|turn| {
            turn.connections[self.thread] -= 1;
            false
        });
    }
}

impl Turn {
    fn passes(&mut self) -> bool {
        let fullness = |thread: usize| self.connections[thread] / TOGETHER;
        let emptiest = (0..self.connections.len()).min_by_key(|thread| fullness(*thread));
        let next = emptiest.filter(|thread| fullness(*thread) < fullness(self.thread));
        self.thread = next.unwrap_or(self.thread);
        next.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_are_together_and_many_are_spread() {
        let turns = Turns::new(3);
        let mut counted = Vec::new();
        let accept = |counted: &mut Vec<Counted>| {
            let thread = (0..3).find(|thread| turns.is_with(*thread)).unwrap();
            counted.push(turns.count(thread));
            thread
        };
        let threads: Vec<_> = (0..6 * TOGETHER).map(|_| accept(&mut counted)).collect();
        let groups: Vec<_> = threads.chunks(TOGETHER).map(|group| (group[0], group[TOGETHER - 1])).collect();
        assert_eq!(groups, [(0, 0), (1, 1), (2, 2), (2, 2), (0, 0), (1, 1)]);
        // Where most have left, those who come are together again.
        counted.retain(|counted| counted.thread == 0);
        let threads: Vec<_> = (0..=TOGETHER).map(|_| accept(&mut counted)).collect();
        assert_eq!((&threads[..TOGETHER], threads[TOGETHER]), (&[1; TOGETHER][..], 2));
    }

    #[tokio::test]
    async fn what_several_say_leaves_together() {
        let said = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let local = tokio::task::LocalSet::new();
        for number in 0..5 {
            let said = said.clone();
            local.spawn_local(async move {
                said.borrow_mut().push(("read", number));
                others_first().await;
                said.borrow_mut().push(("write", number));
            });
        }
        local.await;
        let said = said.borrow();
        let (first, then) = said.split_at(5);
        assert!(first.iter().all(|(what, _)| *what == "read"));
        assert_eq!(then, [0, 1, 2, 3, 4].map(|number| ("write", number)));
    }

    #[tokio::test]
    async fn a_thread_waits_for_its_turn() {
        let turns = Turns::new(2);
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.comes_to(1).await }
        });
        turns.comes_to(0).await;
        let mut counted: Vec<_> = (1..TOGETHER).map(|_| turns.count(0)).collect();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        counted.push(turns.count(0));
        waiting.await.unwrap();
        // Whoever leaves sends nobody's turn away.
        drop(counted);
        assert!(turns.is_with(1) && !turns.is_with(0));
    }
}
