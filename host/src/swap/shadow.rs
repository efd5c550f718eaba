//! A core that looks on: it gets the events of a live session, and what it makes of them is compared and thrown away.

use super::slot::Share;
use crate::cell::{Answer, Cell, Effects, Facts, Fault};
use mailcell_core::{Input, Next};
use std::collections::BTreeMap;
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
}

impl Shadow {
    /// Opens the same session.
    pub fn open(share: &Share, facts: &Facts, live: &Effects) -> Option<Shadow> {
        share.trial.sessions.fetch_add(1, Relaxed);
        let mut shadow = Shadow { cell: None, trial: share.trial.clone() };
        match Cell::open(&share.generation, facts) {
            Ok((cell, effects)) => {
                shadow.cell = Some(cell);
                shadow.compare("the greeting", &effects, live);
            }
            Err(fault) => shadow.lost(fault),
        }
        shadow.cell.is_some().then_some(shadow)
    }

    /// Gives it what the session was given. `live` is what came of that.
    pub fn deliver(&mut self, input: &Input<'_>, live: &Answer) {
        let Some(cell) = &mut self.cell else { return };
        let what = match input {
            Input::Line(line) => {
                let verb = line.split(|b| *b == b' ').next().unwrap_or_default();
                let is_verb = verb.len() <= 10 && verb.iter().all(u8::is_ascii_alphabetic);
                if is_verb { String::from_utf8_lossy(verb).to_uppercase() } else { "a line".to_owned() }
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
    }

    fn lost(&mut self, fault: Fault) {
        *self.trial.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        self.cell = None;
    }

    /// Texts may differ; codes, requests, the message and what is next may not. A shadow that goes another way gets no
    /// further events, which would not be its.
    fn compare(&mut self, what: &str, effects: &Effects, live: &Effects) {
        let difference = match () {
            () if effects.code != live.code => Some(format!("{} in the place of {}", code(effects), code(live))),
            () if effects.orders != live.orders => Some("another message".to_owned()),
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
        Next::Close => "the end",
    }
}
