//! Busy polling: a thread that has work often looks for more of it for a while before it sleeps. To be woken takes longer than
//! most of what it waits for, and whoever wakes it pays for that too; most of all on a virtual machine, whose idle processors are
//! another system's to wake. Every look offers the processor to others, so it takes what nobody wants.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::task::yield_now;

/// How long a thread looks for work since it had some: longer than it takes to store a message. Who sleeps longer than that
/// does not look.
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
            // Behind whatever is found.
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
    /// Whether the last sleep was so short that looking would have found what ended it.
    pays: Cell<bool>,
    /// When looking ends.
    until: Cell<Option<Instant>>,
    /// Since when the thread sleeps.
    asleep: Cell<Option<Instant>>,
}

impl Vigil {
    const fn new() -> Vigil {
        Vigil { worked: Cell::new(false), pays: Cell::new(false), until: Cell::new(None), asleep: Cell::new(None) }
    }

    fn worked(&self) {
        self.worked.set(true);
    }

    /// There is nothing to do: whether the thread looks for work, or sleeps.
    fn begins(&self, now: Instant) -> bool {
        let looks = self.worked.take() && self.pays.get();
        self.until.set(looks.then(|| now + WINDOW));
        self.asleep.set((!looks).then_some(now));
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
        if let Some(asleep) = self.asleep.take() {
            self.pays.set(now - asleep < WINDOW);
            self.worked();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(vigil.begins(at(12.6)));
        assert!(!vigil.lasts(at(13.6)));
        assert!(!vigil.begins(at(13.6)));
        vigil.wakes(at(14.7));
        assert!(!vigil.begins(at(14.8)), "the sleep was long");
    }

    #[test]
    fn looking_finds_work_and_ends() {
        let mut builder = Builder::new_current_thread();
        enable(&mut builder);
        let runtime = builder.enable_all().build().unwrap();
        runtime.spawn(look());
        let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let (answer, answered) = std::sync::mpsc::channel();
        let client = thread::spawn(move || {
            for number in 0..1000 {
                ask.send(number).unwrap();
                assert_eq!(answered.recv_timeout(Duration::from_secs(10)), Ok(number));
            }
        });
        runtime.block_on(async {
            while let Some(number) = asked.recv().await {
                worked();
                answer.send(number).unwrap();
            }
        });
        client.join().unwrap();
        // Who has ended waits to be woken.
        let ends = async {
            loop {
                if let Some(looker) = LOOKER.take() {
                    return LOOKER.set(Some(looker));
                }
                tokio::time::sleep(2 * WINDOW).await;
            }
        };
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), ends).await }).unwrap();
    }
}
