//! A cell: one instance of a core, serving one session, and the checks on what it returns.

use super::component::{Component, Position};
use super::generation::Generation;
use super::step::{Answer, Checker, Effects};
use mailcell_core::{Core, Due, Event, Input, Next, Schemas, Step};
use std::sync::Arc;

/// Why a cell is lost. The session ends with a 421, and no other one notices.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// It trapped, ran out of its budget, or could not be instantiated.
    #[error("the core trapped: {0}")]
    Trap(String),
    /// It returned what the host does not carry out.
    #[error("the core returned {0}")]
    Refused(&'static str),
    /// There is no room for another cell, which is nobody's fault.
    #[error("there is no room for another session")]
    NoRoom,
    /// It does not take a session over.
    #[error("the core does not read the session: {0}")]
    Unread(String),
}

/// What a session was opened with.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Keys and values.
    pub config: Arc<mailcell_core::Config>,
    /// The client's IP address.
    pub address: String,
}

/// A session as bytes, with what the host knows of it.
#[derive(Clone, Debug)]
pub struct Saved {
    schema: u32,
    state: Box<[u8]>,
    checker: Checker,
}

impl Saved {
    /// Octets of the core's part.
    pub fn octets(&self) -> usize {
        self.state.len()
    }

    /// The core's part.
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// The layout of the core's part.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// What the session waits for.
    pub fn due(&self) -> Option<Due> {
        self.checker.due()
    }
}

/// One instance of a core.
pub struct Cell {
    instance: Instance,
    checker: Checker,
}

#[expect(clippy::large_enum_variant, reason = "nearly every one is a component")]
enum Instance {
    Component(Component),
    /// The core that the server carries, without a sandbox: to measure what that costs.
    Native(Box<mailcell_core::Session>),
}

impl Cell {
    /// Instantiates a core and opens its session.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn open(generation: &Generation, facts: &Facts) -> Result<(Cell, Effects), Fault> {
        let (instance, step) = match generation.is_native() {
            true => {
                let (session, step) = mailcell_core::Session::open(&facts.config);
                (Instance::Native(Box::new(session)), step)
            }
            false => {
                let mut component = Component::instantiate(generation)?;
                let step = component.open(facts)?;
                (Instance::Component(component), step)
            }
        };
        let mut cell = Cell { instance, checker: Checker::default() };
        let effects = cell.check(step)?;
        Ok((cell, effects))
    }

    /// Instantiates a core and has it take a session over.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn restore(generation: &Generation, facts: &Facts, saved: &Saved) -> Result<Cell, Fault> {
        let (instance, position) = match generation.is_native() {
            true => {
                let restored = mailcell_core::Session::restore(&facts.config, saved.schema, &saved.state);
                let (session, position) = restored.map_err(Fault::Unread)?;
                (Instance::Native(Box::new(session)), (Some(position.due), position.octets))
            }
            false => {
                let mut component = Component::instantiate(generation)?;
                let position = component.restore(facts, saved.schema, &saved.state)?;
                (Instance::Component(component), position)
            }
        };
        let mut cell = Cell { instance, checker: saved.checker.clone() };
        cell.check_position(position)?;
        Ok(cell)
    }

    /// The layouts of saved sessions that a core knows.
    ///
    /// # Errors
    /// See [`Fault`].
    pub(super) fn schemas(generation: &Generation) -> Result<Schemas, Fault> {
        Component::instantiate(generation)?.schemas()
    }

    /// Tells the core what happened. A block of message data has at most [`super::limits::BLOCK_OCTETS_MAX`].
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn deliver(&mut self, input: &Input<'_>) -> Result<Answer, Fault> {
        let answer = match &mut self.instance {
            Instance::Component(component) => component.deliver(input)?,
            Instance::Native(session) => session.deliver(input.clone()),
        };
        let (consumed, offered) = (answer.consumed, if let Input::Data(block) = input { block.len() } else { 0 });
        let is_reading = matches!(answer.step.next, Next::ReadData);
        if consumed > offered || (consumed < offered && is_reading) {
            return Err(Fault::Refused("another count of octets than it was given"));
        }
        self.checker.told(input, consumed);
        let effects = self.check(answer.step)?;
        if is_end_of_time(input) && !matches!(effects.next, Next::Close) {
            return Err(Fault::Refused("no end of a session whose time was up"));
        }
        Ok(Answer { consumed, effects })
    }

    /// The session as bytes of that layout; nothing changes by it.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn save(&mut self, schema: u32) -> Result<Saved, Fault> {
        let (position, state) = match &mut self.instance {
            Instance::Component(component) => component.save(schema)?,
            Instance::Native(session) => {
                let saved = session.save(schema);
                ((Some(saved.position.due), saved.position.octets), saved.state)
            }
        };
        self.check_position(position)?;
        Ok(Saved { schema, state: state.into(), checker: self.checker.clone() })
    }

    fn check(&mut self, step: Step) -> Result<Effects, Fault> {
        self.checker.check(step).map_err(Fault::Refused)
    }

    /// Where a session changes hands, the core says where it is. How long a line may be is the core's own affair.
    fn check_position(&mut self, (due, octets): Position) -> Result<(), Fault> {
        self.checker.change_hands(due, octets).map_err(Fault::Refused)
    }

    /// What the session waits for; nothing at its end.
    pub fn due(&self) -> Option<Due> {
        self.checker.due()
    }
}

fn is_end_of_time(input: &Input<'_>) -> bool {
    matches!(input, Input::Event(Event::IdleTimeout | Event::SessionExpired | Event::Drain))
}
