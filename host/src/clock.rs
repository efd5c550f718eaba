//! When a session has lasted too long, or too long without anything complete; and what is to come within a time.

use crate::config::Settings;
use mailcell_core::Event;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The rate of message data is looked at over so long.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// What is under way when a session has lasted too long may take so long to end.
const OVERTIME: Duration = Duration::from_secs(60);

/// What comes of some work within a time; without one, what comes of it at once. Most work is done at once, which is not worth a timer.
pub async fn within<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(done) => Some(done),
        Poll::Pending if limit.is_zero() => None,
        Poll::Pending => timeout(limit, work).await.ok(),
    }
}

/// The time limits of one session.
pub struct Clock {
    idle_timeout: Duration,
    idle_deadline: Instant,
    session_deadline: Instant,
    /// Octets of message data in a window that are worth a complete command.
    window_octets_min: u64,
    window_start: Instant,
    window_octets: u64,
}

impl Clock {
    /// Starts.
    pub fn new(settings: &Settings, now: Instant) -> Clock {
        Clock {
            idle_timeout: settings.idle_timeout,
            idle_deadline: now + settings.idle_timeout,
            session_deadline: now + settings.session_age,
            window_octets_min: settings.data_rate * RATE_WINDOW.as_secs(),
            window_start: now,
            window_octets: 0,
        }
    }

    /// Something complete came or went.
    pub fn restart(&mut self, now: Instant) {
        self.idle_deadline = now + self.idle_timeout;
    }

    /// Message data came. Only a minute's worth at the least rate counts: single octets keep no session open.
    pub fn count(&mut self, octets: usize, now: Instant) {
        self.window_octets += octets as u64;
        if now.duration_since(self.window_start) > RATE_WINDOW {
            self.window_start = now;
            self.window_octets = octets as u64;
        }
        if self.window_octets >= self.window_octets_min {
            self.window_start = now;
            self.window_octets = 0;
            self.restart(now);
        }
    }

    /// Whether the session has lasted too long.
    pub fn is_session_over(&self, now: Instant) -> bool {
        now > self.session_deadline
    }

    /// Whether it has lasted so much too long that nothing but its core keeps it.
    pub fn is_overdue(&self, now: Instant) -> bool {
        now > self.session_deadline + OVERTIME
    }

    /// When time is up next, and what the core is told then.
    pub fn next(&self) -> (Instant, Event) {
        match self.session_deadline < self.idle_deadline {
            true => (self.session_deadline, Event::SessionExpired),
            false => (self.idle_deadline, Event::IdleTimeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(start: Instant) -> Clock {
        Clock::new(&Settings { data_rate: 500, ..Settings::default() }, start)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_minutes_worth_of_data_keeps_a_session_open_and_single_octets_do_not() {
        let start = Instant::now();
        let (mut drips, mut flows) = (clock(start), clock(start));
        for at in 1..=120 {
            let now = start + MINUTE / 12 * at;
            drips.count(2_000, now);
            flows.count(3_000, now);
        }
        assert_eq!(drips.next(), (start + 10 * MINUTE, Event::IdleTimeout));
        assert!(flows.next().0 > start + 10 * MINUTE);
    }

    #[test]
    fn the_nearer_limit_comes_first() {
        let start = Instant::now();
        let mut clock = clock(start);
        assert_eq!(clock.next(), (start + 10 * MINUTE, Event::IdleTimeout));
        clock.restart(start + 55 * MINUTE);
        assert_eq!(clock.next(), (start + 60 * MINUTE, Event::SessionExpired));
        assert!(!clock.is_session_over(start + 60 * MINUTE));
        assert!(clock.is_session_over(start + 61 * MINUTE));
    }
}
