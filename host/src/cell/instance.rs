//! A cell: one instance of a core, serving one session.

use super::bindings::Core;
use super::bindings::exports::mailcell::smtp::{migration, session as wit};
use super::generation::Generation;
use super::limits;
use super::one_line;
use super::state::CellState;
use super::step::{Answer, Checker, Effects};
use mailcell_core::{Due, Event, Input, MailboxPage, Next, Reply};
use std::sync::Arc;
use wasmtime::{PoolConcurrencyLimitError, Store};

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
    state: Vec<u8>,
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
    /// See [`Fault`].
    pub fn open(generation: &Generation, facts: &Facts) -> Result<(Cell, Effects), Fault> {
        let mut cell = Cell::instantiate(generation)?;
        let peer = wit::Peer { address: facts.address.clone() };
        let step = cell.call(|core, store| core.mailcell_smtp_session().call_open(store, &facts.config, &peer))?;
        let effects = cell.check(step)?;
        Ok((cell, effects))
    }

    /// Instantiates a core and has it take a session over.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn restore(generation: &Generation, facts: &Facts, saved: &Saved) -> Result<Cell, Fault> {
        let mut cell = Cell::instantiate(generation)?;
        let peer = wit::Peer { address: facts.address.clone() };
        let position = cell.call(|core, store| {
            core.mailcell_smtp_migration().call_restore(store, &facts.config, &peer, saved.schema, &saved.state)
        })?;
        let position = position.map_err(|why| Fault::Unread(printable(&why)))?;
        cell.checker = saved.checker.clone();
        cell.check_position(position)?;
        Ok(cell)
    }

    /// The layouts of saved sessions that a core knows: what it writes, what it reads.
    ///
    /// # Errors
    /// See [`Fault`].
    pub(super) fn schemas(generation: &Generation) -> Result<(Vec<u32>, Vec<u32>), Fault> {
        let mut cell = Cell::instantiate(generation)?;
        let schemas = cell.call(|core, store| core.mailcell_smtp_migration().call_schemas(store))?;
        cell.expect_nothing_queued()?;
        if schemas.writes.len().max(schemas.reads.len()) > limits::SCHEMAS_MAX {
            return Err(Fault::Refused("too many layouts"));
        }
        Ok((schemas.writes, schemas.reads))
    }

    fn instantiate(generation: &Generation) -> Result<Cell, Fault> {
        let engine = generation.pre().engine();
        let mut store = Store::new(engine, CellState::new());
        store.limiter(CellState::limits);
        store.set_hostcall_fuel(limits::HOSTCALL_FUEL);
        store.set_max_component_handles(0);
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().keep_budget()));
        store.set_epoch_deadline(1);
        let core = generation.pre().instantiate(&mut store).map_err(|error| {
            match error.is::<PoolConcurrencyLimitError>() {
                true => Fault::NoRoom,
                false => Fault::Trap(one_line(&error)),
            }
        })?;
        Ok(Cell { store, core, checker: Checker::default() })
    }

    /// Tells the core what happened. A block of message data has at most [`limits::BLOCK_OCTETS_MAX`].
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn deliver(&mut self, input: &Input<'_>) -> Result<Answer, Fault> {
        let step = match input {
            Input::Line(line) => self.call(|core, store| core.mailcell_smtp_session().call_on_line(store, line))?,
            Input::Data(block) => return self.deliver_data(block),
            Input::Reply(reply) => {
                self.checker.reply(reply);
                let reply = to_wit(reply);
                self.call(|core, store| core.mailcell_smtp_session().call_on_reply(store, &reply))?
            }
            Input::Event(event) => {
                let event = match event {
                    Event::LineTooLong => wit::Event::LineTooLong,
                    Event::IdleTimeout => wit::Event::IdleTimeout,
                    Event::SessionExpired => wit::Event::SessionExpired,
                    Event::Drain => wit::Event::Drain,
                    Event::Unknown => wit::Event::Ext(wit::Extension { name: "unknown".to_owned(), value: Vec::new() }),
                };
                self.call(|core, store| core.mailcell_smtp_session().call_on_event(store, &event))?
            }
        };
        let effects = self.check(step)?;
        if is_end_of_time(input) && !matches!(effects.next, Next::Close) {
            return Err(Fault::Refused("no end of a session whose time was up"));
        }
        Ok(Answer { consumed: 0, effects })
    }

    fn deliver_data(&mut self, block: &[u8]) -> Result<Answer, Fault> {
        self.checker.offer(block.len());
        let data = self.call(|core, store| core.mailcell_smtp_session().call_on_data(store, block))?;
        let consumed = data.consumed as usize;
        let effects = self.check(data.step)?;
        if consumed > block.len() || (consumed < block.len() && matches!(effects.next, Next::ReadData)) {
            return Err(Fault::Refused("another count of octets than it was given"));
        }
        Ok(Answer { consumed, effects })
    }

    /// The session as bytes of that layout; nothing changes by it.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn save(&mut self, schema: u32) -> Result<Saved, Fault> {
        let saved = self.call(|core, store| core.mailcell_smtp_migration().call_save(store, schema))?;
        if saved.state.len() > limits::STATE_OCTETS_MAX {
            return Err(Fault::Refused("a state that is too long"));
        }
        self.check_position(saved.position)?;
        Ok(Saved { schema, state: saved.state, checker: self.checker.clone() })
    }

    fn call<T>(&mut self, event: impl FnOnce(&Core, &mut Store<CellState>) -> wasmtime::Result<T>) -> Result<T, Fault> {
        self.store.set_epoch_deadline(1);
        self.store.data_mut().start_call();
        event(&self.core, &mut self.store).map_err(|error| Fault::Trap(one_line(&error)))
    }

    fn check(&mut self, step: wit::Step) -> Result<Effects, Fault> {
        let queue = self.store.data_mut().take_queue();
        self.checker.check(step, queue).map_err(Fault::Refused)
    }

    /// Where a session changes hands, the core says where it is, and asks for nothing. How long a line may be is the
    /// core's own affair.
    fn check_position(&mut self, position: migration::Position) -> Result<(), Fault> {
        self.expect_nothing_queued()?;
        let due = match position.next {
            wit::Next::ReadLine(line) => Some(Due::Line { octets_max: line.octets_max, secret: line.secret }),
            wit::Next::ReadData => Some(Due::Data),
            wit::Next::AwaitReply => Some(Due::Reply),
            wit::Next::Close => None,
        };
        self.checker.change_hands(due, position.octets).map_err(Fault::Refused)
    }

    /// What the session waits for; nothing at its end.
    pub fn due(&self) -> Option<Due> {
        self.checker.due()
    }

    fn expect_nothing_queued(&mut self) -> Result<(), Fault> {
        match self.store.data_mut().take_queue().is_empty() {
            true => Ok(()),
            false => Err(Fault::Refused("a request or an order while a session changes hands")),
        }
    }
}

fn is_end_of_time(input: &Input<'_>) -> bool {
    matches!(input, Input::Event(Event::IdleTimeout | Event::SessionExpired | Event::Drain))
}

fn to_wit(reply: &Reply) -> wit::Reply {
    match reply {
        Reply::Mailboxes(MailboxPage { mailboxes, more }) => {
            wit::Reply::Mailboxes(super::bindings::mailcell::smtp::mail_store::MailboxPage {
                mailboxes: mailboxes.clone(),
                more: *more,
            })
        }
        Reply::Stored(id) => wit::Reply::Stored(id.clone()),
        Reply::Unavailable => wit::Reply::Unavailable,
        Reply::OutOfSpace => wit::Reply::OutOfSpace,
        Reply::Refused => wit::Reply::Refused,
    }
}

/// What a core says of itself, for a log.
fn printable(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
