//! Recorded sessions. Recording is asked for by a directory; then every session that is lost to its core is written there,
//! and of the others a share.
//!
//! A recording is a transcript, as `mailcell-conformance` reads and writes them and as `tests/sessions` holds them: what
//! the client sent, what the core asked and was answered, what it said. Comments in front name the core and the
//! configuration by their digests. Credentials are masked and, unless the configuration says otherwise, message content
//! (see [`mask`]). The effects in a recording are those that its core has on the masked events: they are found by running
//! these through a cell of their own, so that a recording is always true to itself.

pub mod mask;
mod writer;

pub use writer::{Recordings, read_all};

use crate::cell::{Answer, Facts, Fault, Generation};
use mailcell_conformance::transcript::Input as Told;
use mailcell_core::{Input, Next};
use mask::Kind;

/// Octets of one session that are recorded; its beginning is what a longer one leaves.
const SESSION_OCTETS_MAX: usize = 256 << 10;

/// What each event costs beside its octets.
const EVENT_OCTETS: usize = 64;

/// A session while it is recorded.
pub struct Recorder {
    recordings: Recordings,
    generation: Generation,
    facts: Facts,
    told: Vec<(Told, Kind)>,
    octets: usize,
    comments: Vec<String>,
    /// Whether it is written at its end.
    is_chosen: bool,
    is_complete: bool,
    /// Whether the core called the line that comes a secret.
    is_secret: bool,
}

/// A session as it goes to be written.
struct Recording {
    generation: Generation,
    facts: Facts,
    told: Vec<(Told, Kind)>,
    comments: Vec<String>,
    /// Why it was lost.
    fault: Option<String>,
}

impl Recorder {
    /// Keeps an event. Blocks of message data that follow each other are one.
    pub fn keep(&mut self, input: &Input<'_>) {
        if !self.is_complete {
            return;
        }
        let octets = match input {
            Input::Line(octets) | Input::Data(octets) => octets.len(),
            Input::Reply(_) | Input::Event(_) => 0,
        };
        self.octets += octets + EVENT_OCTETS;
        if self.octets > SESSION_OCTETS_MAX {
            self.is_complete = false;
            self.comments.push("Only the beginning: the session was longer than a recording.".to_owned());
            return;
        }
        let kind = if self.is_secret { Kind::Secret } else { Kind::Line };
        match (input, self.told.last_mut()) {
            (Input::Data(block), Some((Told::Client(data), Kind::Data))) => data.extend_from_slice(block),
            (Input::Data(block), _) => self.told.push((Told::Client(block.to_vec()), Kind::Data)),
            (Input::Line(line), _) => self.told.push((Told::Client([line, &b"\r\n"[..]].concat()), kind)),
            (Input::Reply(reply), _) => self.told.push((Told::Reply(reply.clone().into_owned()), Kind::Line)),
            (Input::Event(event), _) => self.told.push((Told::Event(*event), Kind::Line)),
        }
    }

    /// What came of the event that was kept last.
    pub fn answered(&mut self, input: &Input<'_>, answer: &Answer) {
        self.is_secret = matches!(answer.effects.next, Next::ReadLine { secret: true, .. });
        let (Input::Data(block), Some((Told::Client(data), Kind::Data))) = (input, self.told.last_mut()) else {
            return;
        };
        if self.is_complete {
            // What the core did not read is kept when it comes again, as a line.
            data.truncate(data.len() - (block.len() - answer.consumed));
        }
    }

    /// The session is in another core from here on.
    pub fn moved(&mut self, to: &Generation) {
        self.comments.push(format!("Moved to the core {} before event {}.", to.digest(), self.told.len() + 1));
        self.generation = to.clone();
    }

    /// The session was lost: what was kept is written.
    pub fn save_fault(&mut self, fault: &Fault) {
        self.is_chosen = false;
        self.recordings.write(Recording {
            generation: self.generation.clone(),
            facts: self.facts.clone(),
            told: std::mem::take(&mut self.told),
            comments: std::mem::take(&mut self.comments),
            fault: Some(fault.to_string()),
        });
    }

    /// The session is over: it is written if it was chosen.
    pub fn finish(self) {
        if self.is_chosen {
            self.recordings.write(Recording {
                generation: self.generation,
                facts: self.facts,
                told: self.told,
                comments: self.comments,
                fault: None,
            });
        }
    }
}
