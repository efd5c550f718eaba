//! Busy polling: a thread that has work often looks for more of it for a while before it sleeps. To be woken takes longer than
//! most of what it waits for, and whoever wakes it pays for that too; most of all on a virtual machine, whose idle processors are
//! another system's to wake. Every look offers the processor to others, so it takes mostly what nobody else wants.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::task::yield_now;

/// How long a thread looks for work after it last had some: longer than it takes to store a message. Where work comes more rarely,
/// it does not look.
const WINDOW: Duration = Duration::from_micros(500);

thread_local! {
    static VIGIL: Vigil = const { Vigil::new() };
    /// Of the task that looks.
    static LOOKER: Cell<Option<Waker>> = const { Cell::new(None) };
}

/// A thread has done some work, and there may be more.
pub fn worked() {
    VIGIL.with(Vigil::worked);
}

/// Lets the threads of a runtime poll that have [`look`] as a task.
pub(crate) fn enable(builder: &mut Builder) {
    builder.on_thread_park(|| {
        if VIGIL.with(|vigil| vigil.begins(Instant::now()))
            && let Some(looker) = LOOKER.take()
        {
            // A thread that has a task does not sleep.
            looker.wake();
        }
    });
    builder.on_thread_unpark(|| VIGIL.with(|vigil| vigil.wakes(Instant::now())));
}

/// Looks for work while it pays; never ends.
pub(crate) async fn look() {
    poll_fn(|context| {
        if VIGIL.with(|vigil| vigil.lasts(Instant::now())) {
            thread::yield_now();
            // Behind what sockets and timers bring; what another thread sends may wait for one look.
            return pin!(yield_now()).poll(context);
        }
        LOOKER.set(Some(context.waker().clone()));
        Poll::Pending
    })
    .await
}

/// Whether a thread looks for work.
struct Vigil {
    /// Whether there was work since this was asked.
    worked: Cell<bool>,
    /// Whether there was so little time without work before the last sleep ended that looking would have found what ended it.
    pays: Cell<bool>,
    /// When looking ends.
    until: Cell<Option<Instant>>,
    /// Since when there was no work, while the thread sleeps.
    idle: Cell<Option<Instant>>,
}

impl Vigil {
    const fn new() -> Vigil {
        Vigil { worked: Cell::new(false), pays: Cell::new(false), until: Cell::new(None), idle: Cell::new(None) }
    }

    fn worked(&self) {
        self.worked.set(true);
    }

    /// There is nothing to do: whether the thread looks for work, or sleeps.
    fn begins(&self, now: Instant) -> bool {
        let looks = self.worked.take() && self.pays.get();
        // What was looked for in vain has not come for that long.
        let since = self.until.take().map_or(now, |until| until - WINDOW);
        self.until.set(looks.then(|| now + WINDOW));
        self.idle.set((!looks).then_some(since));
        looks
    }

    /// Whether it looks once more.
    fn lasts(&self, now: Instant) -> bool {
        if self.worked.take() {
            self.until.set(Some(now + WINDOW));
        }
        self.until.get().is_some_and(|until| now < until)
    }

    /// There is something to do.
    fn wakes(&self, now: Instant) {
        if let Some(since) = self.idle.take() {
            self.pays.set(now - since < WINDOW);
            self.worked();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[test]
    fn a_thread_looks_while_work_comes_soon() {
        let (vigil, start) = (Vigil::new(), Instant::now());
        let at = |windows: f64| start + WINDOW.mul_f64(windows);
        assert!(!vigil.begins(at(0.0)), "nothing is known of when work comes");
        vigil.wakes(at(9.0));
        assert!(!vigil.begins(at(9.1)), "the sleep was long");
        vigil.wakes(at(9.9));
        assert!(vigil.begins(at(10.0)), "the sleep was short");
        assert!(vigil.lasts(at(10.9)));
        vigil.worked();
        assert!(vigil.lasts(at(11.1)), "there was work meanwhile");
        assert!(!vigil.lasts(at(12.1)), "there was none");
        assert!(!vigil.begins(at(12.1)), "it has looked");
        vigil.wakes(at(12.5));
        assert!(!vigil.begins(at(12.6)), "there was no work for longer than it looks");
        vigil.wakes(at(13.0));
        assert!(vigil.begins(at(13.1)), "the sleep was short");
        assert!(!vigil.lasts(at(14.1)));
        assert!(!vigil.begins(at(14.1)));
        vigil.wakes(at(14.2));
        assert!(!vigil.begins(at(14.3)), "it looked for that whole time");
    }

    #[test]
    fn a_thread_looks_and_ends_looking_and_works_meanwhile() {
        let mut builder = Builder::new_current_thread();
        enable(&mut builder);
        let runtime = builder.enable_all().build().unwrap();
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = looks.clone();
        runtime.spawn(async move {
            let mut look = pin!(look());
            poll_fn(|context| {
                counted.fetch_add(1, Relaxed);
                look.as_mut().poll(context)
            })
            .await;
        });
        runtime.block_on(yield_now());
        let (before, deadline) = (looks.load(Relaxed), Duration::from_secs(10));
        VIGIL.with(|vigil| {
            vigil.pays.set(true);
            vigil.worked();
        });
        let ends = async {
            loop {
                tokio::time::sleep(2 * WINDOW).await;
                if let Some(looker) = LOOKER.take() {
                    return LOOKER.set(Some(looker));
                }
            }
        };
        runtime.block_on(async { tokio::time::timeout(deadline, ends).await }).unwrap();
        assert!(looks.load(Relaxed) > before);
        let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let (answer, answered) = std::sync::mpsc::channel();
        let client = thread::spawn(move || {
            for number in 0..1000 {
                ask.send(number).unwrap();
                assert_eq!(answered.recv_timeout(deadline), Ok(number));
            }
        });
        runtime.block_on(async {
            while let Some(number) = asked.recv().await {
                worked();
                answer.send(number).unwrap();
            }
        });
        client.join().unwrap();
    }
}
