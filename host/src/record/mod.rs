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

pub use writer::{Recordings, is_name, read_all};

use crate::cell::{Answer, Facts, Fault, Generation};
use mailcell_conformance::transcript::Input as Told;
use mailcell_core::{Input, Next, Reply};
use mask::Kind;
use writer::Held;

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
    held: Held,
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
        let octets = EVENT_OCTETS
            + match input {
                Input::Line(octets) | Input::Data(octets) => octets.len(),
                Input::Reply(reply) => match &**reply {
                    Reply::Mailboxes(page) => page.mailboxes.iter().map(|mailbox| mailbox.len() + EVENT_OCTETS).sum(),
                    _ => 0,
                },
                Input::Event(_) => 0,
            };
        if self.held.octets + octets > SESSION_OCTETS_MAX || !self.held.add(octets) {
            self.is_complete = false;
            self.comments.push("Only the beginning: there was no room for more of the session.".to_owned());
            return;
        }
        let kind = if self.is_secret { Kind::Secret } else { Kind::Line };
        match (input, self.told.last_mut()) {
            (Input::Data(block), Some((Told::Client(data), Kind::Data))) => data.extend_from_slice(block),
            (Input::Data(block), _) => self.told.push((Told::Client(block.to_vec()), Kind::Data)),
            // An octet that starts no line of text was handed over alone, and its line may never end.
            (Input::Line(line), None) if line.len() == 1 && !line[0].is_ascii_alphabetic() => {
                self.told.push((Told::Client(line.to_vec()), kind));
            }
            (Input::Line(line), _) => self.told.push((Told::Client([line, &b"\r\n"[..]].concat()), kind)),
            (Input::Reply(reply), _) => self.told.push((Told::Reply(reply.clone().into_owned()), Kind::Line)),
            (Input::Event(event), _) => self.told.push((Told::Event(*event), Kind::Line)),
        }
    }

    /// What came of the event that was kept last.
    pub fn answered(&mut self, input: &Input<'_>, answer: &Answer) {
        self.waits_for(&answer.effects.next);
        let (Input::Data(block), Some((Told::Client(data), Kind::Data))) = (input, self.told.last_mut()) else {
            return;
        };
        if self.is_complete {
            // What the core did not read is kept when it comes again, as a line.
            data.truncate(data.len() - (block.len() - answer.consumed));
        }
    }

    /// What the session waits for, as the core said.
    pub fn waits_for(&mut self, next: &Next) {
        self.is_secret = matches!(next, Next::ReadLine { secret: true, .. });
    }

    /// The session is in another core from here on.
    pub fn moved(&mut self, to: &Generation) {
        self.comments.push(format!("Moved to the core {} before event {}.", to.digest(), self.told.len() + 1));
        self.generation = to.clone();
    }

    /// The session was lost, or nearly: what was kept is written.
    pub fn save_fault(&mut self, fault: &Fault) {
        if matches!(fault, Fault::NoRoom) {
            return;
        }
        let recording = self.recording(Some(fault.to_string()), self.told.clone());
        self.recordings.write(recording);
    }

    /// The session is over: it is written if it was chosen.
    pub fn finish(mut self) {
        if self.is_chosen {
            let told = std::mem::take(&mut self.told);
            self.recordings.write(self.recording(None, told));
        }
    }

    fn recording(&self, fault: Option<String>, told: Vec<(Told, Kind)>) -> Recording {
        let (generation, facts) = (self.generation.clone(), self.facts.clone());
        Recording { generation, facts, told, comments: self.comments.clone(), fault }
    }
}
