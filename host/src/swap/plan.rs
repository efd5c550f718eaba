//! Who is served by which generation, and what that means for one session.

use super::shadow::Trial;
use crate::cell::Generation;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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
    /// The trial that it is part of, with what is seen where it looks on.
    pub trial: Arc<Trial>,
}

/// Who is served by which generation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Grows by one with each change.
    pub version: u64,
    /// What connections that come are served by, the canary's share excepted.
    pub current: Generation,
    /// What the last promotion did about open sessions.
    pub mode: Mode,
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
    /// Everyone is served by one generation.
    pub fn new(current: Generation) -> Plan {
        Plan {
            version: 0,
            current,
            mode: Mode::Migrate,
            canary: None,
            shadow: None,
            withdrawn: Vec::new(),
            over: Vec::new(),
        }
    }

    /// What a session in that generation does.
    pub fn verdict(&self, generation: &Generation) -> Verdict {
        let serves = generation.is(&self.current) || self.canary.as_ref().is_some_and(|c| c.generation.is(generation));
        match () {
            () if serves => Verdict::Stay,
            () if is_in(&self.over, generation) => Verdict::End,
            () if self.mode == Mode::Migrate || is_in(&self.withdrawn, generation) => {
                Verdict::Move(self.current.clone())
            }
            () => Verdict::Stay,
        }
    }

    /// Whether that trial of a core that looks on is still going on.
    pub fn is_looking_on(&self, trial: &Arc<Trial>) -> bool {
        self.shadow.as_ref().is_some_and(|share| Arc::ptr_eq(&share.trial, trial))
    }

    /// The trial that is going on, if one is.
    pub fn trial(&self) -> Option<&Arc<Trial>> {
        self.shadow.as_ref().or(self.canary.as_ref()).map(|share| &share.trial)
    }

    /// Whether that trial is going on.
    pub(super) fn is_trying(&self, trial: &Arc<Trial>) -> bool {
        self.trial().is_some_and(|going_on| Arc::ptr_eq(going_on, trial))
    }

    /// The generation comes into service, or is tried: nothing is held against it any more.
    pub(super) fn clear(&mut self, generation: &Generation) {
        self.end_trial(generation);
        self.forget(generation);
    }

    /// It is neither canary nor shadow any more.
    pub(super) fn end_trial(&mut self, generation: &Generation) {
        for share in [&mut self.canary, &mut self.shadow] {
            share.take_if(|share| share.generation.is(generation));
        }
    }

    /// Nobody is in it any more.
    pub(super) fn forget(&mut self, generation: &Generation) {
        self.withdrawn.retain(|other| !other.is(generation));
        self.over.retain(|other| !other.is(generation));
    }

    /// Its sessions leave.
    pub(super) fn withdraw(&mut self, generation: &Generation) {
        if !is_in(&self.withdrawn, generation) {
            self.withdrawn.push(generation.clone());
        }
    }

    /// Its sessions end.
    pub(super) fn end(&mut self, generation: &Generation) {
        if !is_in(&self.over, generation) {
            self.over.push(generation.clone());
        }
    }
}

fn is_in(list: &[Generation], generation: &Generation) -> bool {
    list.iter().any(|other| other.is(generation))
}
