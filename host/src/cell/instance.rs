//! A cell: one instance of a core, serving one session.

use super::bindings::Core;
use super::bindings::exports::mailcell::smtp::session as wit;
use super::generation::Generation;
use super::limits;
use super::one_line;
use super::state::CellState;
use super::step::{Checker, Effects, Event, Next, Reply};
use wasmtime::Store;

/// Why a cell is lost. The session ends with a 421, and no other one notices.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It trapped, ran out of its budget, or could not be instantiated.
    #[error("the core trapped: {0}")]
    Trap(String),
    /// It returned what the host does not carry out.
    #[error("the core returned {0}")]
    Refused(&'static str),
}

/// One instance of a core.
pub struct Cell {
    store: Store<CellState>,
    core: Core,
    checker: Checker,
}

impl Cell {
    /// Instantiates a core and opens its session.
    ///
    /// # Errors
    /// As every event: see [`Fault`].
    pub fn open(generation: &Generation, config: &[(String, String)], address: &str) -> Result<(Cell, Effects), Fault> {
        let engine = generation.pre().engine();
        let mut store = Store::new(engine, CellState::new());
        store.limiter(CellState::limits);
        store.set_hostcall_fuel(limits::HOSTCALL_FUEL);
        store.set_max_component_handles(0);
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().keep_budget()));
        store.set_epoch_deadline(1);
        let core = generation.pre().instantiate(&mut store).map_err(|error| Fault::Trap(one_line(&error)))?;
        let mut cell = Cell { store, core, checker: Checker::default() };
        let peer = wit::Peer { address: address.to_owned() };
        let effects = cell.call(|session, store| session.call_open(store, config, &peer))?;
        Ok((cell, effects))
    }

    /// A command line without its CRLF.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn on_line(&mut self, line: &[u8]) -> Result<Effects, Fault> {
        self.call(|session, store| session.call_on_line(store, line))
    }

    /// A block of message data of at most [`limits::BLOCK_OCTETS_MAX`]; gives how much of it was read.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn on_data(&mut self, block: &[u8]) -> Result<(usize, Effects), Fault> {
        self.checker.offer(block.len());
        let mut consumed = 0;
        let effects = self.call(|session, store| {
            let data = session.call_on_data(store, block)?;
            consumed = data.consumed as usize;
            Ok(data.step)
        })?;
        let is_all = consumed == block.len();
        if consumed > block.len() || (!is_all && matches!(effects.next, Next::ReadData)) {
            return Err(Fault::Refused("another count of octets than it was given"));
        }
        Ok((consumed, effects))
    }

    /// The answer to the outstanding request.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn on_reply(&mut self, reply: &Reply) -> Result<Effects, Fault> {
        self.checker.reply(reply);
        self.call(|session, store| session.call_on_reply(store, reply))
    }

    /// What is neither input nor a reply.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn on_event(&mut self, event: &Event) -> Result<Effects, Fault> {
        self.call(|session, store| session.call_on_event(store, event))
    }

    fn call(
        &mut self,
        event: impl FnOnce(&wit::Guest, &mut Store<CellState>) -> wasmtime::Result<wit::Step>,
    ) -> Result<Effects, Fault> {
        self.store.set_epoch_deadline(1);
        self.store.data_mut().start_call();
        let step = event(self.core.mailcell_smtp_session(), &mut self.store);
        let step = step.map_err(|error| Fault::Trap(one_line(&error)))?;
        let queue = self.store.data_mut().take_queue();
        self.checker.check(step, queue).map_err(Fault::Refused)
    }
}
