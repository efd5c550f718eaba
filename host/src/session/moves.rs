//! How a session follows its slot's plan from generation to generation.

use super::{Core, Seat, Session};
use crate::cell::{Cell, Fault, Generation, Saved};
use crate::swap::{Turn, Verdict};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tracing::{debug, warn};

/// How long a session that found no room goes on where it is before it tries again.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

impl Session {
    /// Waits until there is another plan, and until it is this idle session's turn to follow it. Where there was no room that is
    /// some time later, as whoever makes some may need the thread.
    pub async fn turn_to_follow(&self) -> Turn {
        if self.is_crowded {
            sleep(ROOM_PAUSE).await;
        }
        self.slot.turn(self.followed).await
    }

    /// Follows in an idle session's turn. It moves as bytes and hibernates then, as it has no need of a cell. One that hibernates
    /// in a layout that the other core does not read is woken for it.
    ///
    /// # Errors
    /// See [`Session::follow`].
    pub async fn follow_in_turn(&mut self) -> Result<(), Fault> {
        if let (Core::Asleep(saved), (_, Verdict::Move(to))) = (&self.core, self.slot.verdict(&self.seat.0))
            && !to.reads().contains(&saved.schema())
            && self.seat.0.schema_to(&to).is_some()
        {
            match self.wake().await {
                // It sleeps on where it is.
                Err(Fault::NoRoom) => {}
                woken => woken?,
            }
        }
        self.follow_plan(true)
    }

    /// Does what the plan says of this session, if it has changed. Between two events only.
    ///
    /// # Errors
    /// When the core that has the session traps while it saves it.
    pub fn follow(&mut self) -> Result<(), Fault> {
        self.follow_plan(false)
    }

    fn follow_plan(&mut self, is_idle: bool) -> Result<(), Fault> {
        if self.slot.version() == self.followed {
            return Ok(());
        }
        let (version, verdict) = self.slot.verdict(&self.seat.0);
        (self.followed, self.is_crowded) = (version, false);
        self.ends = matches!(verdict, Verdict::End);
        self.shadow.take_if(|shadow| !self.slot.is_looking_on(shadow.trial()));
        match verdict {
            Verdict::Move(to) => self.go_to(&to, is_idle),
            Verdict::End | Verdict::Stay => Ok(()),
        }
    }

    /// Whether the session is to end where it next reads a line, as its generation's time is over.
    pub fn ends(&self) -> bool {
        self.ends
    }

    fn go_to(&mut self, to: &Generation, is_idle: bool) -> Result<(), Fault> {
        if self.unfit.iter().any(|unfit| unfit.is(to)) {
            self.slot.stayed(&self.seat.0, "the core failed to hold it before".to_owned());
            return Ok(());
        }
        let start = Instant::now();
        if let Core::Asleep(saved) = &self.core {
            // Its bytes move as they are, where the other core reads them.
            if to.reads().contains(&saved.schema()) {
                let (octets, from) = (saved.octets(), (self.seat.0.clone(), (**saved).clone()));
                let fallback = self.fallback.take().unwrap_or_else(|| Box::new(from));
                self.has_moved(to, fallback, start, octets);
            } else if self.seat.0.schema_to(to).is_some() {
                self.is_behind = true;
            } else {
                self.has_no_way_to(to);
            }
            return Ok(());
        }
        let Some((from, saved)) = self.saved_for(to)? else { return Ok(()) };
        if is_idle {
            (self.core, self.permit) = (Core::Asleep(Box::new(saved.clone())), None);
            let octets = saved.octets();
            self.has_moved(to, Box::new((from, saved)), start, octets);
            return Ok(());
        }
        match Cell::restore(to, &self.facts, &saved) {
            Ok(cell) => {
                self.core = Core::Awake(Box::new(cell));
                let octets = saved.octets();
                self.has_moved(to, Box::new((from, saved)), start, octets);
                debug!(core = to.short_digest(), "moved");
            }
            // Nobody's fault: it is tried again at the next event, or a moment later.
            Err(Fault::NoRoom) => (self.followed, self.is_crowded) = (u64::MAX, true),
            Err(fault) => {
                to.stats().lost(&fault);
                self.unfit.push(to.clone());
                warn!(%fault, core = to.short_digest(), "a session stays, as it is not taken over");
                self.slot.stayed(&self.seat.0, fault.to_string());
            }
        }
        Ok(())
    }

    fn has_moved(&mut self, to: &Generation, fallback: Box<(Generation, Saved)>, start: Instant, octets: usize) {
        self.seat = Seat::take(to);
        to.stats().moved_in();
        self.slot.moved(start.elapsed(), octets);
        self.fallback = Some(fallback).filter(|fallback| !fallback.0.is(to));
        (self.shadow, self.is_sleepless) = (None, false);
        if let Some(recorder) = &mut self.recorder {
            recorder.moved(to);
        }
    }

    /// The session as that generation can read it, and where it is from. A core that has not answered yet may be one that
    /// cannot: then the session goes on from where it was before.
    fn saved_for(&mut self, to: &Generation) -> Result<Option<(Generation, Saved)>, Fault> {
        if let Some((from, saved)) = self.fallback.as_deref()
            && to.reads().contains(&saved.schema())
        {
            return Ok(Some((from.clone(), saved.clone())));
        }
        let Some(schema) = self.seat.0.schema_to(to) else {
            self.has_no_way_to(to);
            return Ok(None);
        };
        match self.save(schema)? {
            Ok(saved) => Ok(Some((self.seat.0.clone(), saved))),
            Err(fault) => {
                if !matches!(fault, Fault::Trap(_)) {
                    self.slot.stayed(&self.seat.0, fault.to_string());
                }
                Ok(None)
            }
        }
    }

    fn has_no_way_to(&self, to: &Generation) {
        let (writes, reads) = (self.seat.0.writes(), to.reads());
        self.slot.stayed(&self.seat.0, format!("it writes layouts {writes:?}, the other core reads {reads:?}"));
    }
}
