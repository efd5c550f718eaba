//! One instance of a component: the events of a session become calls, and what they return becomes plain types.

use super::Fault;
use super::bindings::Core;
use super::bindings::exports::mailcell::smtp::{migration, session as wit};
use super::bindings::mailcell::smtp::mail_store;
use super::engine::Place;
use super::generation::Generation;
use super::instance::Facts;
use super::limits;
use super::one_line;
use super::state::CellState;
use mailcell_core::{Answer, Due, Event, Identity, Input, MailboxPage, Reply, Schemas, Step};
use wasmtime::Store;

/// An instance with a store, and so with limits, of its own.
pub(super) struct Component {
    store: Store<CellState>,
    core: Core,
    /// Last, as it is free when the store is gone.
    _place: Place,
}

/// Where a core says that a session is.
pub(super) type Position = (Option<Due>, u64);

impl Component {
    pub(super) fn instantiate(generation: &Generation) -> Result<Component, Fault> {
        let place = generation.engine().take_place().ok_or(Fault::NoRoom)?;
        let pre = generation.pre(&place);
        let mut store = Store::new(pre.engine(), CellState::new());
        store.limiter(CellState::limits);
        store.set_hostcall_fuel(limits::HOSTCALL_FUEL);
        store.set_max_component_handles(0);
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().keep_budget()));
        store.set_epoch_deadline(1);
        let core = pre.instantiate(&mut store).map_err(|error| Fault::Trap(one_line(&error)))?;
        Ok(Component { store, core, _place: place })
    }

    pub(super) fn open(&mut self, facts: &Facts) -> Result<Step, Fault> {
        let peer = wit::Peer { address: facts.address.clone() };
        let step = self.call(|core, store| core.mailcell_smtp_session().call_open(store, &facts.config, &peer))?;
        self.complete(step)
    }

    pub(super) fn deliver(&mut self, input: &Input<'_>) -> Result<Answer, Fault> {
        let step = match input {
            Input::Line(line) => self.call(|core, store| core.mailcell_smtp_session().call_on_line(store, line))?,
            Input::Data(block) => {
                let data = self.call(|core, store| core.mailcell_smtp_session().call_on_data(store, block))?;
                return Ok(Answer { consumed: data.consumed as usize, step: self.complete(data.step)? });
            }
            Input::Reply(reply) => {
                let reply = to_wit(reply);
                self.call(|core, store| core.mailcell_smtp_session().call_on_reply(store, &reply))?
            }
            Input::Event(event) => {
                let event = match event {
                    Event::LineTooLong => wit::Event::LineTooLong,
                    Event::IdleTimeout => wit::Event::IdleTimeout,
                    Event::SessionExpired => wit::Event::SessionExpired,
                    Event::Drain => wit::Event::Drain,
                    Event::TlsEstablished => wit::Event::TlsEstablished,
                    Event::Unknown => wit::Event::Ext(wit::Extension { name: "unknown".to_owned(), value: Vec::new() }),
                };
                self.call(|core, store| core.mailcell_smtp_session().call_on_event(store, &event))?
            }
        };
        self.complete(step).map(Answer::from)
    }

    pub(super) fn schemas(&mut self) -> Result<Schemas, Fault> {
        let schemas = self.call(|core, store| core.mailcell_smtp_migration().call_schemas(store))?;
        self.expect_nothing_queued()?;
        if schemas.writes.len().max(schemas.reads.len()) > limits::SCHEMAS_MAX {
            return Err(Fault::Refused("too many layouts"));
        }
        Ok(Schemas { writes: schemas.writes, reads: schemas.reads })
    }

    pub(super) fn save(&mut self, schema: u32) -> Result<(Position, Vec<u8>), Fault> {
        let saved = self.call(|core, store| core.mailcell_smtp_migration().call_save(store, schema))?;
        self.expect_nothing_queued()?;
        if saved.state.len() > limits::STATE_OCTETS_MAX {
            return Err(Fault::Refused("a state that is too long"));
        }
        Ok((position(&saved.position), saved.state))
    }

    pub(super) fn restore(&mut self, facts: &Facts, schema: u32, state: &[u8]) -> Result<Position, Fault> {
        let peer = wit::Peer { address: facts.address.clone() };
        let at = self.call(|core, store| {
            core.mailcell_smtp_migration().call_restore(store, &facts.config, &peer, schema, state)
        })?;
        self.expect_nothing_queued()?;
        at.map(|at| position(&at)).map_err(|why| Fault::Unread(printable(&why)))
    }

    fn call<T>(&mut self, event: impl FnOnce(&Core, &mut Store<CellState>) -> wasmtime::Result<T>) -> Result<T, Fault> {
        self.store.set_epoch_deadline(1);
        self.store.data_mut().start_call();
        event(&self.core, &mut self.store).map_err(|error| Fault::Trap(one_line(&error)))
    }

    fn complete(&mut self, step: wit::Step) -> Result<Step, Fault> {
        self.store.data_mut().take_queue().complete(step).map_err(Fault::Refused)
    }

    /// Where a session changes hands, a core says where it is, and asks for nothing.
    fn expect_nothing_queued(&mut self) -> Result<(), Fault> {
        match self.store.data_mut().take_queue().is_empty() {
            true => Ok(()),
            false => Err(Fault::Refused("a request or an order while a session changes hands")),
        }
    }
}

fn position(position: &migration::Position) -> Position {
    let due = match position.next {
        wit::Next::ReadLine(line) => Some(Due::Line { octets_max: line.octets_max, secret: line.secret }),
        wit::Next::ReadData => Some(Due::Data),
        wit::Next::AwaitReply => Some(Due::Reply),
        wit::Next::StartTls => Some(Due::Tls),
        wit::Next::Close => None,
    };
    (due, position.octets)
}

fn to_wit(reply: &Reply) -> wit::Reply {
    match reply {
        Reply::Mailboxes(MailboxPage { mailboxes, more, is_ascii }) => wit::Reply::Mailboxes(mail_store::MailboxPage {
            mailboxes: mailboxes.clone(),
            more: *more,
            is_ascii: *is_ascii,
        }),
        Reply::Stored(id) => wit::Reply::Stored(id.clone()),
        Reply::Unavailable => wit::Reply::Unavailable,
        Reply::OutOfSpace => wit::Reply::OutOfSpace,
        Reply::Refused => wit::Reply::Refused,
        Reply::Authenticated(Identity { user, server_final }) => {
            wit::Reply::Authenticated(mail_store::Identity { user: user.clone(), server_final: server_final.clone() })
        }
        Reply::NotAuthenticated => wit::Reply::NotAuthenticated,
        Reply::ScramChallenge(message) => wit::Reply::ScramChallenge(message.clone()),
        Reply::Admitted => wit::Reply::Admitted,
        Reply::NotAdmitted => wit::Reply::NotAdmitted,
    }
}

/// What a core says of itself, for a log.
fn printable(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
