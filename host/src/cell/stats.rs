//! What has happened in the cells of a generation.

use super::instance::Fault;
use super::step::Effects;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters of one generation.
#[derive(Debug, Default)]
pub struct Stats {
    sessions: AtomicU64,
    opened: AtomicU64,
    moved_in: AtomicU64,
    stayed: AtomicU64,
    traps: AtomicU64,
    refusals: AtomicU64,
    calls: AtomicU64,
    call_nanos: AtomicU64,
    /// Responses by the first digit of their code, from 2 to 5.
    responses: [AtomicU64; 4],
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Sessions in its cells at this moment.
    pub sessions: u64,
    /// Sessions that began in it.
    pub opened: u64,
    /// Sessions that moved to it.
    pub moved_in: u64,
    /// Sessions that were to leave it and could not.
    pub stayed: u64,
    /// Cells lost to a trap or to their budget.
    pub traps: u64,
    /// Cells lost because they returned what the host does not carry out.
    pub refusals: u64,
    /// Events that it answered.
    pub calls: u64,
    /// Nanoseconds that it took for them.
    pub call_nanos: u64,
    /// Responses by the first digit of their code, from 2 to 5.
    pub responses: [u64; 4],
}

impl Stats {
    /// The counters at this moment.
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.load(Relaxed),
            opened: self.opened.load(Relaxed),
            moved_in: self.moved_in.load(Relaxed),
            stayed: self.stayed.load(Relaxed),
            traps: self.traps.load(Relaxed),
            refusals: self.refusals.load(Relaxed),
            calls: self.calls.load(Relaxed),
            call_nanos: self.call_nanos.load(Relaxed),
            responses: self.responses.each_ref().map(|count| count.load(Relaxed)),
        }
    }

    /// A session has begun.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// A session has come from another generation.
    pub fn moved_in(&self) {
        self.moved_in.fetch_add(1, Relaxed);
    }

    /// A session was to leave, and cannot.
    pub fn stayed(&self) {
        self.stayed.fetch_add(1, Relaxed);
    }

    /// A session is in a cell from here on.
    pub fn enter(&self) {
        self.sessions.fetch_add(1, Relaxed);
    }

    /// A session is in that cell no more.
    pub fn leave(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// An event was answered.
    pub fn answered(&self, effects: &Effects, time: Duration) {
        self.calls.fetch_add(1, Relaxed);
        self.call_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if let Some(class) = effects.code.and_then(|code| self.responses.get(usize::from(code / 100).wrapping_sub(2))) {
            class.fetch_add(1, Relaxed);
        }
    }

    /// A cell was lost.
    pub fn lost(&self, fault: &Fault) {
        match fault {
            Fault::Trap(_) => drop(self.traps.fetch_add(1, Relaxed)),
            Fault::Refused(_) | Fault::Unread(_) => drop(self.refusals.fetch_add(1, Relaxed)),
            Fault::NoRoom => {}
        }
    }
}
