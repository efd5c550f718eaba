//! The core's side of a connection: a cell, its sleep, and its moves from generation to generation.

mod moves;

use crate::cell::{Answer, Cell, Effects, Facts, Fault, Generation, Saved};
use crate::permits::{CellPermit, Cells};
use crate::record::Recorder;
use crate::shared::{Entrance, Shared};
use crate::swap::{Shadow, Slot};
use mailcell_core::{Due, Input};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tracing::warn;

/// One session, in whichever generation holds it.
pub struct Session {
    slot: Arc<Slot>,
    cells: Cells,
    /// For the cell, while there is one.
    permit: Option<CellPermit>,
    /// The version of the plan that was followed last.
    followed: u64,
    /// Whether the plan has the session end.
    ends: bool,
    facts: Facts,
    core: Core,
    seat: Seat,
    /// Where the session came from, until the core that has it has answered an event.
    fallback: Option<Box<(Generation, Saved)>>,
    /// Generations that failed to hold this session; it does not go there again.
    unfit: Vec<Generation>,
    /// Whether its core cannot save it, so that it stays awake.
    is_sleepless: bool,
    /// Whether there was no room for it where it is to go.
    is_crowded: bool,
    /// Whether it has slept through a change that takes a cell to be followed.
    is_behind: bool,
    recorder: Option<Box<Recorder>>,
    shadow: Option<Box<Shadow>>,
}

/// What a session is made of.
enum Core {
    Awake(Box<Cell>),
    /// Hibernating: the bytes that a cell will be made of when there is something to tell it.
    Asleep(Box<Saved>),
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
    /// Opens a session in the generation that serves connections that come there, as soon as there is a cell for it.
    ///
    /// # Errors
    /// When the core fails, which is counted.
    pub async fn open(shared: &Shared, entrance: &Entrance, facts: Facts) -> Result<(Session, Effects), Fault> {
        let cells = shared.cells.clone();
        let permit = cells.take().await.ok_or(Fault::NoRoom)?;
        let slot = entrance.slot.clone();
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
        let shadow = looking_on.and_then(|share| Shadow::open(&share, shared.trial_places, &facts, &effects));
        let seat = Seat::take(&generation);
        let session = Session {
            slot,
            cells,
            permit: Some(permit),
            followed,
            ends: false,
            facts,
            core: Core::Awake(Box::new(cell)),
            seat,
            fallback: None,
            unfit: Vec::new(),
            is_sleepless: false,
            is_crowded: false,
            is_behind: false,
            recorder: recorder.map(Box::new),
            shadow: shadow.map(Box::new),
        };
        Ok((session, effects))
    }

    /// The generation that holds the session.
    pub fn generation(&self) -> &Generation {
        &self.seat.0
    }

    /// The session is another client's from here on.
    pub fn name_client(&mut self, client: IpAddr) {
        self.facts.address = client.to_string();
    }

    /// Gives a session that hibernates a cell again, as soon as there is one.
    ///
    /// # Errors
    /// When there is none in time, or no core that has held the session takes it.
    pub async fn wake(&mut self) -> Result<(), Fault> {
        if let Core::Awake(_) = self.core {
            return Ok(());
        }
        let permit = self.cells.take().await.ok_or(Fault::NoRoom)?;
        let Core::Asleep(saved) = &self.core else { unreachable!("nothing else wakes it") };
        match Cell::restore(&self.seat.0, &self.facts, saved) {
            Ok(cell) => {
                (self.core, self.permit) = (Core::Awake(Box::new(cell)), Some(permit));
                if std::mem::take(&mut self.is_behind) {
                    self.followed = u64::MAX;
                }
                Ok(())
            }
            // Nobody's fault: it sleeps on where it is.
            Err(Fault::NoRoom) => Err(Fault::NoRoom),
            Err(fault) => {
                self.blame(&fault);
                self.permit = Some(permit);
                self.restore_fallback(&fault)
            }
        }
    }

    /// Whether the session could hibernate.
    pub fn can_hibernate(&self) -> bool {
        matches!(self.core, Core::Awake(_)) && !self.is_sleepless && self.shadow.is_none()
    }

    /// Gives the cell back and keeps the session as bytes. A core that does not give them keeps its cell.
    ///
    /// # Errors
    /// When the core traps.
    pub fn hibernate(&mut self) -> Result<(), Fault> {
        let generation = self.seat.0.clone();
        let schema = generation.schema_to(&generation);
        match schema.map(|schema| self.save(schema)).transpose()? {
            Some(Ok(saved)) => {
                self.core = Core::Asleep(Box::new(saved));
                self.permit = None;
            }
            // By that it may have gone back to another one.
            None | Some(Err(_)) => self.is_sleepless = self.seat.0.is(&generation),
        }
        Ok(())
    }

    /// Tells the core what happened. Whoever is to move, moves before. What the core of another generation fails to
    /// answer first after a move, the one before answers.
    ///
    /// # Errors
    /// When the session is lost.
    ///
    /// # Panics
    /// While the session hibernates: [`Session::wake`] comes first.
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
        // Where nothing looks on any more, another session is looked at, and this one may sleep.
        self.shadow.take_if(|shadow| !shadow.deliver(input, &answer));
        Ok(answer)
    }

    fn call(&mut self, input: &Input<'_>) -> Result<Answer, Fault> {
        let start = Instant::now();
        let Core::Awake(cell) = &mut self.core else { panic!("the session hibernates") };
        let answer = cell.deliver(input);
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
        let Some((generation, saved)) = self.fallback.take().map(|fallback| *fallback) else {
            return Err(fault.clone());
        };
        warn!(%fault, core = self.seat.0.short_digest(), "a core fails at its first event; the session goes back");
        // The cell that failed makes room.
        self.core = Core::Asleep(Box::new(saved.clone()));
        let restored = Cell::restore(&generation, &self.facts, &saved);
        self.core = Core::Awake(Box::new(restored.inspect_err(|fault| generation.stats().lost(fault))?));
        self.unfit.push(std::mem::replace(&mut self.seat, Seat::take(&generation)).0.clone());
        self.is_sleepless = false;
        // What the plan says of that core may have changed meanwhile.
        self.followed = u64::MAX;
        self.slot.returned();
        if let Some(recorder) = &mut self.recorder {
            recorder.moved(&generation);
        }
        Ok(())
    }

    /// The core that has the session is to blame for its loss.
    pub fn blame(&mut self, fault: &Fault) {
        self.seat.0.stats().lost(fault);
        self.record_fault(fault);
    }

    fn record_fault(&mut self, fault: &Fault) {
        if let Some(recorder) = &mut self.recorder {
            recorder.save_fault(fault);
        }
    }

    /// Has the cell save the session; the inner error is why it does not. A cell that is lost by it takes the session back to
    /// where it was before.
    fn save(&mut self, schema: u32) -> Result<Result<Saved, Fault>, Fault> {
        let Core::Awake(cell) = &mut self.core else { panic!("the session hibernates") };
        let saved = cell.save(schema);
        if let Err(fault) = &saved {
            self.blame(fault);
            if let Fault::Trap(_) = fault {
                self.restore_fallback(fault)?;
            }
        }
        Ok(saved)
    }

    /// The longest line that the core reads at this moment, CRLF counted.
    pub fn line_octets_max(&self) -> usize {
        if let Some(Due::Line { octets_max, .. }) = self.due() { octets_max as usize } else { 0 }
    }

    /// Whether the line that the core reads next is a secret, and no command.
    pub fn is_line_secret(&self) -> bool {
        matches!(self.due(), Some(Due::Line { secret: true, .. }))
    }

    fn due(&self) -> Option<Due> {
        match &self.core {
            Core::Awake(cell) => cell.due(),
            Core::Asleep(saved) => saved.due(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            recorder.finish();
        }
    }
}
