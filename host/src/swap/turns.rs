//! Idle sessions follow a change a few at a time. Woken all at once, ten thousand of them would be in front of every
//! session that has something to do, and many would have two cells at the same time.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;

/// Turns at once: more than one, so that the next session is on its way while one moves on another thread.
const TURNS_MAX: u64 = 4;

/// The queue of idle sessions. A few turns go through it for each change, and end behind the last session that waited
/// when the change came: those that came later have seen it.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    turn: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Sessions in the queue.
    waiting: u64,
    /// How many of them are still to get a turn.
    left: u64,
    /// Turns under way.
    turns: u64,
}

/// A session's turn. The next one has its own when this is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// An empty queue.
    pub(super) fn new() -> Turns {
        Turns(Arc::new(Shared { turn: Arc::new(Semaphore::new(0)), state: Mutex::default() }))
    }

    /// Something has changed: everyone who waits gets a turn.
    pub(super) fn call(&self) {
        let mut state = self.lock();
        state.left = state.waiting;
        let more = state.left.min(TURNS_MAX).saturating_sub(state.turns);
        state.turns += more;
        self.0.turn.add_permits(more as usize);
    }

    /// Waits for a turn. `has_changed` is asked once, when the session is in the queue: whoever has missed a change
    /// does not wait.
    pub(super) async fn wait(&self, has_changed: impl FnOnce() -> bool) -> Turn {
        let _place = Place::take(self);
        // In line before it asks: behind a change that it does not see, its turn is its own, and nobody's who comes later. A task
        // that has used up its budget would not get in line.
        let mut turn = pin!(unconstrained(self.0.turn.clone().acquire_owned()));
        let permit = match poll_fn(|context| Poll::Ready(turn.as_mut().poll(context))).await {
            Poll::Ready(permit) => permit,
            Poll::Pending if has_changed() => return Turn { turns: self.clone(), permit: None },
            Poll::Pending => turn.await,
        };
        // The semaphore is never closed.
        let permit = permit.ok();
        let mut state = self.lock();
        state.left = state.left.saturating_sub(1);
        drop(state);
        Turn { turns: self.clone(), permit }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut state = self.turns.lock();
        if state.turns > state.left {
            state.turns -= 1;
            permit.forget();
        }
    }
}

/// A session's place in the queue.
struct Place<'a>(&'a Turns);

impl Place<'_> {
    fn take(turns: &Turns) -> Place<'_> {
        turns.lock().waiting += 1;
        Place(turns)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::task::{Context, Waker};
    use std::time::Duration;
    use tokio::task::coop::has_budget_remaining;

    #[tokio::test(flavor = "multi_thread")]
    async fn each_change_reaches_everyone_once_and_a_few_at_a_time() {
        let (turns, version) = (Turns::new(), Arc::new(AtomicU64::new(0)));
        let (now, followed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        for _ in 0..500 {
            let (turns, version, now, followed) = (turns.clone(), version.clone(), now.clone(), followed.clone());
            tokio::spawn(async move {
                let mut seen = 0;
                loop {
                    let turn = turns.wait(|| version.load(SeqCst) != seen).await;
                    if turn.permit.is_some() {
                        assert!(now.fetch_add(1, SeqCst) < TURNS_MAX, "too many at a time");
                    }
                    let change = version.load(SeqCst);
                    followed.fetch_add(change - seen, SeqCst);
                    seen = change;
                    tokio::task::yield_now().await;
                    if turn.permit.is_some() {
                        now.fetch_sub(1, SeqCst);
                    }
                }
            });
        }
        for change in 1..=20 {
            tokio::time::sleep(Duration::from_millis(change % 3)).await;
            version.fetch_add(1, SeqCst);
            turns.call();
        }
        let all = async {
            while followed.load(SeqCst) < 500 * 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
    }

    #[tokio::test]
    async fn whoever_misses_a_change_keeps_his_turn_whoever_comes_behind_it() {
        for is_tired in [false, true] {
            let turns = Turns::new();
            let mut later = Box::pin(turns.wait(|| false));
            // A change, and one who has seen it, come right behind the question.
            let asked = || {
                turns.call();
                drop(later.as_mut().poll(&mut Context::from_waker(Waker::noop())));
                false
            };
            let free = Semaphore::new(1);
            while is_tired && has_budget_remaining() {
                drop(free.acquire().await);
            }
            assert!(tokio::time::timeout(Duration::from_secs(5), turns.wait(asked)).await.is_ok(), "{is_tired}");
        }
    }

    #[tokio::test]
    async fn who_leaves_the_queue_keeps_nobody_waiting() {
        let turns = Turns::new();
        let never: fn() -> bool = || false;
        let mut gone = Box::pin(turns.wait(never));
        let mut stays = Box::pin(turns.wait(never));
        for session in [&mut gone, &mut stays] {
            assert!(tokio::time::timeout(Duration::from_millis(1), session).await.is_err());
        }
        turns.call();
        drop(gone);
        stays.await;
        assert_eq!(turns.lock().waiting, 0);
    }
}
