//! A slot: which generation serves whom. Everything here is cheap and decided under one lock; what takes time is done
//! before (staging, proving) and after (sessions move by themselves, each when it is between two events).

use super::shadow::Trial;
use crate::cell::{Counts, Generation};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Generations that may have sessions beside the current one; the sessions of an older one are ended.
const GENERATIONS_MAX: usize = 4;

/// Idle sessions that move at the same time: those that have something to do must not wait behind all of them.
const MOVERS: usize = 1;

/// What a promotion does about sessions that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They move.
    #[default]
    Migrate,
    /// They end where they are.
    Drain,
}

/// A generation beside the current one, for a share of the connections that come.
#[derive(Clone, Debug)]
pub struct Share {
    /// The generation.
    pub generation: Generation,
    /// From 1 to 100.
    pub percent: u8,
    /// What is seen where it looks on.
    pub trial: Arc<Trial>,
}

/// Who is served by which generation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Grows by one with each change.
    pub version: u64,
    /// What connections that come are served by, the canary's share excepted.
    pub current: Generation,
    mode: Mode,
    /// Serves its share of new connections.
    pub canary: Option<Share>,
    /// Looks on at its share of new connections.
    pub shadow: Option<Share>,
    /// Whose sessions leave whatever the mode.
    withdrawn: Vec<Generation>,
    /// Whose sessions end.
    over: Vec<Generation>,
}

/// What a session does about a plan.
#[derive(Debug)]
pub enum Verdict {
    /// Nothing.
    Stay,
    /// It goes to that generation.
    Move(Generation),
    /// It ends where it next reads a line.
    End,
}

impl Plan {
    /// What a session in that generation does.
    pub fn verdict(&self, generation: &Generation) -> Verdict {
        let is_in = |list: &[Generation]| list.iter().any(|other| other.is(generation));
        let serves = generation.is(&self.current) || self.canary.as_ref().is_some_and(|c| c.generation.is(generation));
        match () {
            () if serves => Verdict::Stay,
            () if is_in(&self.over) => Verdict::End,
            () if self.mode == Mode::Migrate || is_in(&self.withdrawn) => Verdict::Move(self.current.clone()),
            () => Verdict::Stay,
        }
    }
}

/// What a generation is to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Looks on at a share of the sessions.
    Shadow,
    /// Serves a share of the connections.
    Canary,
    /// Serves.
    Current,
    /// Served before; the sessions that it still has leave it or end.
    Retiring,
    /// Failed; its sessions go back.
    Withdrawn,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    generation: Generation,
    state: State,
    /// Why it was withdrawn.
    reason: Option<String>,
    /// Why sessions could not leave it, of the last one that could not.
    stay: Option<String>,
    /// When the sessions that it still has end.
    deadline: Option<Instant>,
}

/// A generation as `mailcell core status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Counted from one.
    pub number: u64,
    /// SHA-256.
    pub digest: String,
    /// What the component calls its version.
    pub version: String,
    /// What it is to its slot.
    pub state: State,
    /// Counters.
    pub counts: Counts,
    /// Why it was withdrawn.
    pub reason: Option<String>,
    /// Why sessions could not leave it.
    pub stay: Option<String>,
}

/// The last time that sessions moved.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Moves {
    /// Sessions that moved, since the promotion.
    pub sessions: u64,
    /// Of them, those that went back, as the core that they went to failed at once.
    pub returned: u64,
    /// Microseconds from the promotion to the last move.
    pub micros: u64,
    /// The longest that one session took, in microseconds.
    pub longest_micros: u64,
    /// The longest saved session, in octets.
    pub octets_max: u64,
}

/// One slot.
#[derive(Debug)]
pub struct Slot {
    name: String,
    plan: watch::Sender<Plan>,
    version: AtomicU64,
    connections: AtomicU64,
    entries: Mutex<Entries>,
    /// Taken by idle sessions while they move.
    pub(crate) movers: Arc<Semaphore>,
}

#[derive(Debug)]
struct Entries {
    /// The number of the next generation.
    next: u64,
    all: Vec<Entry>,
    /// What served before the current one, for a rollback.
    previous: Option<Generation>,
    promoted_at: Instant,
    moves: Moves,
}

impl Slot {
    /// A slot that is served by that generation.
    pub fn new(name: &str, current: Generation) -> Slot {
        let plan = Plan {
            version: 0,
            current: current.clone(),
            mode: Mode::Migrate,
            canary: None,
            shadow: None,
            withdrawn: Vec::new(),
            over: Vec::new(),
        };
        let entry =
            Entry { number: 1, generation: current, state: State::Current, reason: None, stay: None, deadline: None };
        let entries =
            Entries { next: 2, all: vec![entry], previous: None, promoted_at: Instant::now(), moves: Moves::default() };
        Slot {
            name: name.to_owned(),
            plan: watch::Sender::new(plan),
            version: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            entries: Mutex::new(entries),
            movers: Arc::new(Semaphore::new(MOVERS)),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The plan as it is.
    pub fn plan(&self) -> Plan {
        self.plan.borrow().clone()
    }

    /// The version of the plan, at the price of one load.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Follows the plan.
    pub fn subscribe(&self) -> watch::Receiver<Plan> {
        self.plan.subscribe()
    }

    /// The generation that serves a connection that has come, and one that looks on.
    pub fn admit(&self) -> (Generation, Option<Share>) {
        // Spread evenly: of a hundred connections in a row, so many are the canary's.
        let at = self.connections.fetch_add(1, Ordering::Relaxed).wrapping_mul(37) % 100;
        let plan = self.plan.borrow();
        let of_share = |share: &Option<Share>| share.as_ref().filter(|share| at < u64::from(share.percent)).cloned();
        match of_share(&plan.canary) {
            Some(canary) => (canary.generation, None),
            None => (plan.current.clone(), of_share(&plan.shadow)),
        }
    }

    /// Makes a generation the current one.
    pub fn promote(&self, generation: &Generation, mode: Mode, drain: Duration) {
        self.change(|plan, entries| {
            let old = std::mem::replace(&mut plan.current, generation.clone());
            plan.mode = mode;
            for share in [&mut plan.canary, &mut plan.shadow] {
                share.take_if(|share| share.generation.is(generation));
            }
            plan.withdrawn.retain(|other| !other.is(generation));
            plan.over.retain(|other| !other.is(generation));
            if !old.is(generation) {
                entries.set(&old, State::Retiring);
                entries.entry(&old).deadline = Some(Instant::now() + drain);
                entries.previous = Some(old);
            }
            let entry = entries.entry(generation);
            (entry.state, entry.reason, entry.deadline) = (State::Current, None, None);
            entries.moves = Moves::default();
            entries.promoted_at = Instant::now();
            entries.end_oldest(plan);
        });
    }

    /// Gives a generation a share of the connections that come, as `state` says.
    pub fn try_out(&self, generation: &Generation, state: State, percent: u8) -> Arc<Trial> {
        let trial = Arc::new(Trial::default());
        self.change(|plan, entries| {
            let share = Some(Share { generation: generation.clone(), percent, trial: trial.clone() });
            match state {
                State::Shadow => (plan.shadow, plan.canary) = (share, None),
                _ => (plan.shadow, plan.canary) = (None, share),
            }
            plan.withdrawn.retain(|other| !other.is(generation));
            plan.over.retain(|other| !other.is(generation));
            entries.set(generation, state);
        });
        trial
    }

    /// Takes a generation out of service: its sessions go to the current one. If it was the current one, that is the
    /// one which served before it.
    pub fn withdraw(&self, generation: &Generation, reason: String) {
        self.change(|plan, entries| {
            plan.canary.take_if(|share| share.generation.is(generation));
            plan.shadow.take_if(|share| share.generation.is(generation));
            if plan.current.is(generation) {
                let Some(previous) = entries.previous.take() else { return };
                plan.over.retain(|other| !other.is(&previous));
                plan.current = previous.clone();
                plan.mode = Mode::Migrate;
                entries.set(&previous, State::Current);
                entries.entry(&previous).deadline = None;
                entries.moves = Moves::default();
                entries.promoted_at = Instant::now();
            }
            plan.withdrawn.push(generation.clone());
            entries.set(generation, State::Withdrawn);
            entries.entry(generation).reason = Some(reason);
            entries.end_oldest(plan);
        });
    }

    /// What served before the current generation.
    pub fn previous(&self) -> Option<Generation> {
        self.lock().previous.clone()
    }

    /// The generation of that digest, if it is still here.
    pub fn find(&self, digest: &str) -> Option<Generation> {
        let entries = self.lock();
        let entry = entries.all.iter().find(|entry| entry.generation.digest() == digest);
        entry.map(|entry| entry.generation.clone())
    }

    /// Ends what is retiring and beyond its time, and forgets generations that nobody needs.
    pub fn tidy(&self) {
        let now = Instant::now();
        let is_due = |entry: &Entry| entry.deadline.is_some_and(|deadline| deadline <= now);
        if self.lock().all.iter().any(is_due) {
            self.change(|plan, entries| {
                for entry in entries.all.iter_mut().filter(|entry| is_due(entry)) {
                    entry.deadline = None;
                    plan.over.push(entry.generation.clone());
                }
            });
        }
        let is_idle = |entry: &Entry| {
            entry.state == State::Retiring
                && entry.deadline.is_none()
                && entry.generation.stats().counts().sessions == 0
        };
        if self.lock().all.iter().any(is_idle) {
            self.change(|plan, entries| {
                entries.all.retain(|entry| {
                    !is_idle(entry) || entries.previous.as_ref().is_some_and(|p| p.is(&entry.generation))
                });
                let is_known = |generation: &Generation| entries.all.iter().any(|e| e.generation.is(generation));
                plan.over.retain(is_known);
                plan.withdrawn.retain(is_known);
            });
        }
    }

    /// All generations, the earliest first.
    pub fn status(&self) -> Vec<GenerationStatus> {
        let entries = self.lock();
        let status = entries.all.iter().map(|entry| GenerationStatus {
            number: entry.number,
            digest: entry.generation.digest().to_owned(),
            version: entry.generation.version().to_owned(),
            state: entry.state,
            counts: entry.generation.stats().counts(),
            reason: entry.reason.clone(),
            stay: entry.stay.clone(),
        });
        status.collect()
    }

    /// The moves since the last promotion.
    pub fn moves(&self) -> Moves {
        self.lock().moves
    }

    /// A session has moved.
    pub fn moved(&self, took: Duration, octets: usize) {
        let mut entries = self.lock();
        let since = entries.promoted_at.elapsed();
        let moves = &mut entries.moves;
        moves.sessions += 1;
        moves.micros = micros(since);
        moves.longest_micros = moves.longest_micros.max(micros(took));
        moves.octets_max = moves.octets_max.max(octets as u64);
    }

    /// A session has gone back.
    pub fn returned(&self) {
        self.lock().moves.returned += 1;
    }

    /// A session could not leave a generation.
    pub fn stayed(&self, generation: &Generation, why: String) {
        generation.stats().stayed();
        self.lock().entry(generation).stay = Some(why);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Plan, &mut Entries)) {
        let mut entries = self.lock();
        self.plan.send_modify(|plan| {
            change(plan, &mut entries);
            plan.version += 1;
            self.version.store(plan.version, Ordering::Release);
        });
    }
}

impl Entries {
    fn entry(&mut self, generation: &Generation) -> &mut Entry {
        let at = self.all.iter().position(|entry| entry.generation.is(generation)).unwrap_or_else(|| {
            let (number, generation) = (self.next, generation.clone());
            self.next += 1;
            let state = State::Retiring;
            self.all.push(Entry { number, generation, state, reason: None, stay: None, deadline: None });
            self.all.len() - 1
        });
        &mut self.all[at]
    }

    fn set(&mut self, generation: &Generation, state: State) {
        self.entry(generation).state = state;
    }

    /// Keeps the number of generations that have sessions bounded.
    fn end_oldest(&mut self, plan: &mut Plan) {
        let is_old = |entry: &&mut Entry| matches!(entry.state, State::Retiring | State::Withdrawn);
        let old = self.all.iter().filter(|entry| matches!(entry.state, State::Retiring | State::Withdrawn)).count();
        for entry in self.all.iter_mut().filter(is_old).take(old.saturating_sub(GENERATIONS_MAX)) {
            entry.deadline = None;
            if !plan.over.iter().any(|other| other.is(&entry.generation)) {
                plan.over.push(entry.generation.clone());
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
