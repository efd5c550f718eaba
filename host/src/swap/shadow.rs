//! A core that looks on: it gets the events of a live session, and what it makes of them is compared and thrown away.

use super::plan::Share;
use crate::cell::{Answer, Cell, Effects, Facts, Fault};
use mailcell_core::command::{self, Verb};
use mailcell_core::{Input, Next, Order};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Kinds of differences that are told apart.
const KINDS_MAX: usize = 20;

/// What was seen of a core that looked on.
#[derive(Debug, Default)]
pub struct Trial {
    sessions: AtomicU64,
    /// Different behaviour, and how often.
    differences: Mutex<BTreeMap<String, u64>>,
    fault: Mutex<Option<Fault>>,
    /// Those that look on at this moment.
    taken: Arc<AtomicU64>,
}

impl Trial {
    /// Sessions that it saw.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Relaxed)
    }

    /// Each kind of different behaviour, and how often it was seen.
    pub fn differences(&self) -> Vec<(String, u64)> {
        self.differences.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect()
    }

    /// Why a cell was lost, the last time that one was.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn differs(&self, what: String) {
        let mut differences = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        if differences.len() < KINDS_MAX || differences.contains_key(&what) {
            *differences.entry(what).or_default() += 1;
        }
    }
}

/// The other side of one session.
pub struct Shadow {
    /// Absent once it is lost, or has gone another way than the session.
    cell: Option<Cell>,
    trial: Arc<Trial>,
    /// What each side has appended, however it was cut.
    message: DefaultHasher,
    live_message: DefaultHasher,
    _place: Place,
}

/// Cells for those that look on are few, and taken from nobody who serves.
struct Place(Arc<AtomicU64>);

impl Place {
    fn take(taken: &Arc<AtomicU64>, places: u64) -> Option<Place> {
        let take = |taken: u64| (taken < places).then_some(taken + 1);
        taken.try_update(Relaxed, Relaxed, take).ok().map(|_| Place(taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Shadow {
    /// Opens the same session, unless so many `places` are taken already.
    pub fn open(share: &Share, places: u64, facts: &Facts, live: &Effects) -> Option<Shadow> {
        let place = Place::take(&share.trial.taken, places)?;
        let opened = match Cell::open(&share.generation, facts) {
            Err(Fault::NoRoom) => return None,
            opened => opened,
        };
        share.trial.sessions.fetch_add(1, Relaxed);
        let mut shadow = Shadow {
            cell: None,
            trial: share.trial.clone(),
            message: DefaultHasher::new(),
            live_message: DefaultHasher::new(),
            _place: place,
        };
        match opened {
            Ok((cell, effects)) => {
                shadow.cell = Some(cell);
                shadow.compare("the greeting", &effects, live);
            }
            Err(fault) => shadow.lost(fault),
        }
        shadow.cell.is_some().then_some(shadow)
    }

    /// The trial that it belongs to.
    pub fn trial(&self) -> &Arc<Trial> {
        &self.trial
    }

    /// Gives it what the session was given, and says whether it still looks on. `live` is what came of that.
    pub fn deliver(&mut self, input: &Input<'_>, live: &Answer) -> bool {
        let Some(cell) = &mut self.cell else { return false };
        let what = match input {
            Input::Line(line) => {
                // Whatever else a line holds may be a secret.
                let verb = str::from_utf8(line).ok().and_then(|line| command::split(line).0);
                verb.map_or("a line", |verb: Verb| verb.row().name).to_owned()
            }
            Input::Data(_) => "message data".to_owned(),
            Input::Reply(_) => "a reply".to_owned(),
            Input::Event(event) => format!("{event:?}"),
        };
        match cell.deliver(input) {
            Ok(answer) if answer.consumed != live.consumed => {
                self.trial.differs(format!("{what}: another count of octets"));
                self.cell = None;
            }
            Ok(answer) => self.compare(&what, &answer.effects, &live.effects),
            Err(fault) => self.lost(fault),
        }
        self.cell.is_some()
    }

    fn lost(&mut self, fault: Fault) {
        *self.trial.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        self.cell = None;
    }

    /// Texts may differ; codes, requests, the message and what is next may not. A shadow that goes another way gets no
    /// further events, which would not be its.
    fn compare(&mut self, what: &str, effects: &Effects, live: &Effects) {
        hash(&mut self.message, &effects.orders);
        hash(&mut self.live_message, &live.orders);
        let is_stored = matches!(live.next, Next::AwaitReply(mailcell_core::Request::StoreMessage(_)));
        let is_same_message = self.message.finish() == self.live_message.finish();
        let difference = match () {
            () if is_stored && !is_same_message => Some("another message".to_owned()),
            () if effects.code != live.code => Some(format!("{} in the place of {}", code(effects), code(live))),
            () if !is_same_way(&effects.next, &live.next) => {
                Some(format!("{} in the place of {}", name(&effects.next), name(&live.next)))
            }
            () => None,
        };
        if let Some(difference) = difference {
            self.trial.differs(format!("{what}: {difference}"));
        }
        if !is_same_way(&effects.next, &live.next) {
            self.cell = None;
        }
    }
}

/// A discarded message leaves its traces in both sides alike, if both have discarded it.
fn hash(message: &mut DefaultHasher, orders: &[Order]) {
    for order in orders {
        match order {
            Order::Append(octets) => message.write(octets),
            Order::Discard => message.write(b"discard"),
        }
    }
}

fn code(effects: &Effects) -> String {
    effects.code.map_or_else(|| "nothing".to_owned(), |code| code.to_string())
}

/// A longest line may differ: it is not behaviour that a client sees within the limits of RFC 5321.
fn is_same_way(next: &Next, live: &Next) -> bool {
    match (next, live) {
        (Next::ReadLine { .. }, Next::ReadLine { .. }) => true,
        (next, live) => next == live,
    }
}

fn name(next: &Next) -> &'static str {
    match next {
        Next::ReadLine { .. } => "reading a line",
        Next::ReadData => "reading data",
        Next::AwaitReply(_) => "a request",
        Next::StartTls => "TLS",
        Next::Close => "the end",
    }
}
