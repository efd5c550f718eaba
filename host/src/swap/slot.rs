//! A slot: which generation serves whom. Everything here is cheap and decided under one lock; what takes time is done
//! before (staging, proving) and after (sessions move by themselves, each when it is between two events).

use super::plan::{Mode, Plan, Share, Verdict};
use super::shadow::Trial;
use super::turns::{Turn, Turns};
use crate::cell::{Counts, Generation};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::time::Instant;

/// Generations out of service that may have sessions; those of an older one are ended. So many stay in the status, too.
const OUT_MAX: u64 = 4;

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
    /// When the sessions that it still has end; nothing while it serves, and when they were told.
    deadline: Option<Instant>,
    /// When it left service, in the order of such events.
    left: u64,
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
    plan: RwLock<Plan>,
    version: AtomicU64,
    connections: AtomicU64,
    entries: Mutex<Entries>,
    turns: Turns,
}

#[derive(Debug)]
struct Entries {
    /// The number of the next generation.
    next: u64,
    all: Vec<Entry>,
    /// What served before the current one, for a rollback.
    previous: Option<Generation>,
    /// How often a generation has left service.
    left: u64,
    /// How long sessions may stay in one that has.
    drain: Duration,
    promoted_at: Instant,
    moves: Moves,
}

impl Slot {
    /// A slot that is served by that generation; sessions stay at most `drain` in one that was replaced.
    pub fn new(name: &str, current: Generation, drain: Duration) -> Slot {
        let mut entries = Entries {
            next: 1,
            all: Vec::new(),
            previous: None,
            left: 0,
            drain,
            promoted_at: Instant::now(),
            moves: Moves::default(),
        };
        entries.serve(&current, State::Current);
        Slot {
            name: name.to_owned(),
            plan: RwLock::new(Plan::new(current)),
            version: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            entries: Mutex::new(entries),
            turns: Turns::new(),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The plan as it is.
    pub fn plan(&self) -> Plan {
        self.read().clone()
    }

    /// What a session in that generation does, and the version of the plan that says so.
    pub fn verdict(&self, generation: &Generation) -> (u64, Verdict) {
        let plan = self.read();
        (plan.version, plan.verdict(generation))
    }

    /// Whether that trial of a core that looks on is still going on.
    pub fn is_looking_on(&self, trial: &Arc<Trial>) -> bool {
        self.read().is_looking_on(trial)
    }

    fn read(&self) -> RwLockReadGuard<'_, Plan> {
        self.plan.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of the plan, at the price of one load.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Waits, as an idle session that has followed that version, until it is its turn to follow another one.
    pub async fn turn(&self, followed: u64) -> Turn {
        self.turns.wait(|| self.version() != followed).await
    }

    /// The generation that serves a connection that has come, and one that looks on.
    pub fn admit(&self) -> (Generation, Option<Share>) {
        // Spread evenly: of a hundred connections in a row, so many are the canary's.
        let at = self.connections.fetch_add(1, Ordering::Relaxed).wrapping_mul(37) % 100;
        let plan = self.read();
        let of_share = |share: &Option<Share>| share.as_ref().filter(|share| at < u64::from(share.percent)).cloned();
        match of_share(&plan.canary) {
            Some(canary) => (canary.generation, None),
            None => (plan.current.clone(), of_share(&plan.shadow)),
        }
    }

    /// Makes a generation the current one, if `before` still is.
    pub fn promote(&self, generation: &Generation, before: &Generation, mode: Mode) -> bool {
        self.change(|plan, entries| {
            if !plan.current.is(before) {
                return false;
            }
            plan.mode = mode;
            plan.clear(generation);
            let old = std::mem::replace(&mut plan.current, generation.clone());
            if !old.is(generation) {
                entries.leave(&old, State::Retiring);
                entries.previous = Some(old);
            }
            entries.serve(generation, State::Current);
            entries.end_oldest(plan);
            true
        })
    }

    /// Gives a generation a share of the connections that come, as `state` says, for that trial.
    pub fn try_out(&self, generation: &Generation, state: State, percent: u8, trial: &Arc<Trial>) {
        self.change(|plan, entries| {
            plan.clear(generation);
            let share = Some(Share { generation: generation.clone(), percent, trial: trial.clone() });
            match state {
                State::Shadow => (plan.shadow, plan.canary) = (share, None),
                _ => (plan.shadow, plan.canary) = (None, share),
            }
            entries.serve(generation, state);
        });
    }

    /// Takes a generation out of service: its sessions go to the current one. If it is the current one, that is the one
    /// which served before it. Gives what serves then; nothing when there is no other one.
    pub fn withdraw(&self, generation: &Generation, reason: String) -> Option<Generation> {
        self.change(|plan, entries| {
            if plan.current.is(generation) {
                let previous = entries.previous.take()?;
                plan.clear(&previous);
                plan.current = previous.clone();
                plan.mode = Mode::Migrate;
                entries.serve(&previous, State::Current);
            }
            plan.end_trial(generation);
            plan.withdraw(generation);
            entries.previous.take_if(|previous| previous.is(generation));
            entries.leave(generation, State::Withdrawn);
            entries.entry(generation).reason = Some(reason);
            entries.end_oldest(plan);
            Some(plan.current.clone())
        })
    }

    /// Takes what is being tried out of service or, if nothing is, the current generation. Gives what serves then;
    /// nothing when no other one has served before.
    pub fn roll_back(&self, reason: &str) -> Option<Generation> {
        let plan = self.plan();
        let tried: Vec<_> = plan.canary.iter().chain(&plan.shadow).map(|share| share.generation.clone()).collect();
        match tried.is_empty() {
            true => self.withdraw(&plan.current, reason.to_owned()),
            false => tried.iter().filter_map(|generation| self.withdraw(generation, reason.to_owned())).next_back(),
        }
    }

    /// The generation of that digest, if it is still here.
    pub fn find(&self, digest: &str) -> Option<Generation> {
        let entries = self.lock();
        let entry = entries.all.iter().find(|entry| entry.generation.digest() == digest);
        entry.map(|entry| entry.generation.clone())
    }

    /// Ends what is beyond its time, and forgets generations that nobody needs.
    pub fn tidy(&self) {
        let now = Instant::now();
        let is_due = |entry: &Entry| entry.deadline.is_some_and(|deadline| deadline <= now);
        let is_idle = |entry: &Entry, entries: &Entries| {
            let is_out = matches!(entry.state, State::Retiring | State::Withdrawn);
            let is_previous = entries.previous.as_ref().is_some_and(|previous| previous.is(&entry.generation));
            is_out && !is_previous && entry.left + OUT_MAX < entries.left && entry.sessions() == 0
        };
        let entries = self.lock();
        let is_tidy = !entries.all.iter().any(|entry| is_due(entry) || is_idle(entry, &entries));
        drop(entries);
        if is_tidy {
            return;
        }
        self.change(|plan, entries| {
            for entry in entries.all.iter_mut().filter(|entry| is_due(entry)) {
                entry.deadline = None;
                plan.end(&entry.generation);
            }
            let (idle, kept) = std::mem::take(&mut entries.all).into_iter().partition(|entry| is_idle(entry, entries));
            entries.all = kept;
            Vec::from_iter(idle).iter().for_each(|entry: &Entry| plan.forget(&entry.generation));
        });
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

    fn change<T>(&self, change: impl FnOnce(&mut Plan, &mut Entries) -> T) -> T {
        let mut entries = self.lock();
        let mut plan = self.plan.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut plan, &mut entries);
        plan.version += 1;
        self.version.store(plan.version, Ordering::Release);
        drop(plan);
        self.turns.call();
        changed
    }
}

impl Entries {
    fn entry(&mut self, generation: &Generation) -> &mut Entry {
        let at = self.all.iter().position(|entry| entry.generation.is(generation)).unwrap_or_else(|| {
            let (number, generation) = (self.next, generation.clone());
            self.next += 1;
            // A session has gone back to it: for as long as to any other that was replaced.
            let deadline = Some(Instant::now() + self.drain);
            let (state, left) = (State::Retiring, self.left);
            self.all.push(Entry { number, generation, state, reason: None, stay: None, deadline, left });
            self.all.len() - 1
        });
        &mut self.all[at]
    }

    /// A generation comes into service.
    fn serve(&mut self, generation: &Generation, state: State) {
        let entry = self.entry(generation);
        (entry.state, entry.reason, entry.stay, entry.deadline) = (state, None, None, None);
        if state == State::Current {
            self.moves = Moves::default();
            self.promoted_at = Instant::now();
        }
    }

    /// A generation goes out of service.
    fn leave(&mut self, generation: &Generation, state: State) {
        self.left += 1;
        let (left, deadline) = (self.left, Some(Instant::now() + self.drain));
        let entry = self.entry(generation);
        (entry.state, entry.left, entry.deadline) = (state, left, deadline);
    }

    /// Keeps the number of generations out of service that have sessions bounded. What went last is among those that
    /// stay: its sessions are about to move.
    fn end_oldest(&mut self, plan: &mut Plan) {
        let is_out = |entry: &&mut Entry| matches!(entry.state, State::Retiring | State::Withdrawn);
        let mut out: Vec<_> = self.all.iter_mut().filter(is_out).filter(|entry| entry.sessions() > 0).collect();
        out.sort_by_key(|entry| entry.left);
        let extra = (out.len() as u64).saturating_sub(OUT_MAX);
        for entry in out.into_iter().take(extra as usize) {
            entry.deadline = None;
            plan.end(&entry.generation);
        }
    }
}

impl Entry {
    fn sessions(&self) -> u64 {
        self.generation.stats().counts().sessions
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
