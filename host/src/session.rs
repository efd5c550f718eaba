//! The core's side of a connection: a cell, and its moves from generation to generation.

use crate::cell::{Answer, Cell, Effects, Facts, Fault, Generation, Saved};
use crate::record::Recorder;
use crate::shared::Shared;
use crate::swap::{Shadow, Slot, Turn, Verdict};
use mailcell_core::{Due, Input};
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, warn};

/// One session, in whichever generation holds it.
pub struct Session {
    slot: Arc<Slot>,
    /// The version of the plan that was followed last.
    followed: u64,
    /// Whether the plan has the session end.
    ends: bool,
    facts: Facts,
    cell: Cell,
    seat: Seat,
    /// Where the session came from, until the core that has it has answered an event.
    fallback: Option<(Generation, Saved)>,
    /// Generations that failed to hold this session; it does not go there again.
    unfit: Vec<Generation>,
    recorder: Option<Recorder>,
    shadow: Option<Shadow>,
}

/// A session's place among those of a generation.
struct Seat(Generation);

impl Seat {
    fn take(generation: &Generation) -> Seat {
        generation.stats().enter();
        Seat(generation.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.stats().leave();
    }
}

impl Session {
    /// Opens a session in the generation that serves connections that come.
    ///
    /// # Errors
    /// When the core fails, which is counted.
    pub fn open(shared: &Shared, facts: Facts) -> Result<(Session, Effects), Fault> {
        let slot = shared.slot.clone();
        let followed = slot.version();
        let (generation, looking_on) = slot.admit();
        let mut recorder = shared.recordings.as_ref().map(|recordings| recordings.begin(&generation, &facts));
        let opened = Cell::open(&generation, &facts);
        let (cell, effects) = opened.inspect_err(|fault| {
            generation.stats().lost(fault);
            if let Some(recorder) = &mut recorder {
                recorder.save_fault(fault);
            }
        })?;
        generation.stats().opened();
        if let Some(recorder) = &mut recorder {
            recorder.waits_for(&effects.next);
        }
        let places = u64::from(shared.settings.connections) / 32 + 1;
        let shadow = looking_on.and_then(|share| Shadow::open(&share, places, &facts, &effects));
        let seat = Seat::take(&generation);
        let session = Session {
            slot,
            followed,
            ends: false,
            facts,
            cell,
            seat,
            fallback: None,
            unfit: Vec::new(),
            recorder,
            shadow,
        };
        Ok((session, effects))
    }

    /// The generation that holds the session.
    pub fn generation(&self) -> &Generation {
        &self.seat.0
    }

    /// Tells the core what happened. Whoever is to move, moves before. What the core of another generation fails to
    /// answer first after a move, the one before answers.
    ///
    /// # Errors
    /// When the session is lost.
    pub fn deliver(&mut self, input: &Input<'_>) -> Result<Answer, Fault> {
        self.follow()?;
        if let Some(recorder) = &mut self.recorder {
            recorder.keep(input);
        }
        let answer = match self.call(input) {
            Ok(answer) => answer,
            Err(fault) => self.go_back(input, fault)?,
        };
        self.fallback = None;
        if let Some(recorder) = &mut self.recorder {
            recorder.answered(input, &answer);
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.deliver(input, &answer);
        }
        Ok(answer)
    }

    fn call(&mut self, input: &Input<'_>) -> Result<Answer, Fault> {
        let start = Instant::now();
        let answer = self.cell.deliver(input);
        let stats = self.seat.0.stats();
        match &answer {
            Ok(answer) => stats.answered(&answer.effects, start.elapsed()),
            Err(fault) => stats.lost(fault),
        }
        answer
    }

    /// Restores the session where it was before its last move, and tells that core what the other one failed at.
    fn go_back(&mut self, input: &Input<'_>, fault: Fault) -> Result<Answer, Fault> {
        self.record_fault(&fault);
        if self.fallback.is_none() {
            return Err(fault);
        }
        self.restore_fallback(&fault)?;
        self.call(input).inspect_err(|fault| self.record_fault(fault))
    }

    fn restore_fallback(&mut self, fault: &Fault) -> Result<(), Fault> {
        let Some((generation, saved)) = self.fallback.take() else { return Err(fault.clone()) };
        warn!(%fault, core = self.seat.0.short_digest(), "a core fails at its first event; the session goes back");
        self.cell =
            Cell::restore(&generation, &self.facts, &saved).inspect_err(|fault| generation.stats().lost(fault))?;
        self.unfit.push(std::mem::replace(&mut self.seat, Seat::take(&generation)).0.clone());
        // What the plan says of that core may have changed meanwhile.
        self.followed = u64::MAX;
        self.slot.returned();
        if let Some(recorder) = &mut self.recorder {
            recorder.moved(&generation);
        }
        Ok(())
    }

    fn record_fault(&mut self, fault: &Fault) {
        if let Some(recorder) = &mut self.recorder {
            recorder.save_fault(fault);
        }
    }

    /// Waits until there is another plan, and until it is this idle session's turn to follow it. Those that have something to
    /// do follow before they do it.
    pub async fn turn_to_follow(&self) -> Turn {
        self.slot.turn(self.followed).await
    }

    /// Does what the plan says of this session, if it has changed. Between two events only.
    ///
    /// # Errors
    /// When the core that has the session traps while it saves it.
    pub fn follow(&mut self) -> Result<(), Fault> {
        if self.slot.version() == self.followed {
            return Ok(());
        }
        let (version, verdict) = self.slot.verdict(&self.seat.0);
        self.followed = version;
        self.ends = matches!(verdict, Verdict::End);
        self.shadow.take_if(|shadow| !self.slot.is_looking_on(shadow.trial()));
        match verdict {
            Verdict::Move(to) => self.go_to(&to),
            Verdict::End | Verdict::Stay => Ok(()),
        }
    }

    /// Whether the session is to end where it next reads a line, as its generation's time is over.
    pub fn ends(&self) -> bool {
        self.ends
    }

    fn go_to(&mut self, to: &Generation) -> Result<(), Fault> {
        if self.unfit.iter().any(|unfit| unfit.is(to)) {
            self.slot.stayed(&self.seat.0, "the core failed to hold it before".to_owned());
            return Ok(());
        }
        let start = Instant::now();
        let Some((from, saved)) = self.saved_for(to)? else { return Ok(()) };
        match Cell::restore(to, &self.facts, &saved) {
            Ok(cell) => {
                self.cell = cell;
                self.seat = Seat::take(to);
                to.stats().moved_in();
                self.slot.moved(start.elapsed(), saved.octets());
                debug!(core = to.short_digest(), "moved");
                self.fallback = (!from.is(to)).then_some((from, saved));
                self.shadow = None;
                if let Some(recorder) = &mut self.recorder {
                    recorder.moved(to);
                }
            }
            Err(fault) => {
                to.stats().lost(&fault);
                self.unfit.push(to.clone());
                warn!(%fault, core = to.short_digest(), "a session stays, as it is not taken over");
                self.slot.stayed(&self.seat.0, fault.to_string());
            }
        }
        Ok(())
    }

    /// The session as that generation can read it, and where it is from. A core that has not answered yet may be one that
    /// cannot: then the session goes on from where it was before.
    fn saved_for(&mut self, to: &Generation) -> Result<Option<(Generation, Saved)>, Fault> {
        if let Some((from, saved)) = &self.fallback
            && to.reads().contains(&saved.schema())
        {
            return Ok(Some((from.clone(), saved.clone())));
        }
        let Some(schema) = self.seat.0.schema_to(to) else {
            let (writes, reads) = (self.seat.0.writes(), to.reads());
            self.slot.stayed(&self.seat.0, format!("it writes layouts {writes:?}, the other core reads {reads:?}"));
            return Ok(None);
        };
        match self.cell.save(schema) {
            Ok(saved) => Ok(Some((self.seat.0.clone(), saved))),
            Err(fault) => {
                self.seat.0.stats().lost(&fault);
                self.record_fault(&fault);
                match fault {
                    // The cell is gone with it.
                    Fault::Trap(_) => self.restore_fallback(&fault)?,
                    _ => self.slot.stayed(&self.seat.0, fault.to_string()),
                }
                Ok(None)
            }
        }
    }

    /// The longest line that the core reads at this moment, CRLF counted.
    pub fn line_octets_max(&self) -> usize {
        if let Some(Due::Line { octets_max, .. }) = self.cell.due() { octets_max as usize } else { 0 }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            recorder.finish();
        }
    }
}
