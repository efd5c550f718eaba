//! A cell: one instance of a core, serving one session.

use super::bindings::Core;
use super::bindings::exports::mailcell::smtp::session as wit;
use super::bindings::mailcell::smtp::mail_store;
use super::generation::Generation;
use super::limits;
use super::step::{Checker, Effects, Event, Message, Next, Order, Queue, Reply, Request};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use wasmtime::{Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline};

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

/// What the store holds for the host's side of a cell.
pub(super) struct CellState {
    limits: StoreLimits,
    queue: Queue,
    /// The thread's CPU time at the first tick of this call.
    ticked: Option<Duration>,
}

impl Cell {
    /// Instantiates a core and opens its session.
    ///
    /// # Errors
    /// As every event: see [`Fault`].
    pub fn open(generation: &Generation, config: &[(String, String)], address: &str) -> Result<(Cell, Effects), Fault> {
        let engine = generation.pre().engine();
        let limits = StoreLimitsBuilder::new()
            .memory_size(limits::MEMORY_OCTETS_MAX)
            .table_elements(limits::TABLE_ELEMENTS_MAX)
            .instances(limits::CORE_INSTANCES_MAX as usize + 1)
            .tables(limits::TABLES_MAX as usize)
            .memories(limits::MEMORIES_MAX as usize)
            .build();
        let mut store = Store::new(engine, CellState { limits, queue: Queue::default(), ticked: None });
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(limits::HOSTCALL_FUEL);
        store.set_max_component_handles(0);
        store.epoch_deadline_callback(|mut context| Ok(keep_budget(context.data_mut())));
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
        self.store.data_mut().ticked = None;
        let step = event(self.core.mailcell_smtp_session(), &mut self.store);
        let step = step.map_err(|error| Fault::Trap(one_line(&error)))?;
        let queue = std::mem::take(&mut self.store.data_mut().queue);
        self.checker.check(step, queue).map_err(Fault::Refused)
    }
}

/// Looks at a call that has lasted for a tick. The budget is CPU time: a tick that passes while the thread is
/// descheduled must not trap an innocent core. It is counted from the first tick on, so that a short call asks no clock.
fn keep_budget(state: &mut CellState) -> UpdateDeadline {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let time = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32);
    let start = *state.ticked.get_or_insert(time);
    match time.saturating_sub(start) > limits::CALL_CPU_MAX {
        true => UpdateDeadline::Interrupt,
        false => UpdateDeadline::Continue(1),
    }
}

/// The imports: a call only queues.
impl mail_store::Host for CellState {
    fn find_user(&mut self, local_part: String, domain: Option<String>) {
        self.ask(Request::FindUser { local_part, domain });
    }

    fn expand_group(&mut self, name: String) {
        self.ask(Request::ExpandGroup { name });
    }

    fn next_page(&mut self) {
        self.ask(Request::NextPage);
    }

    fn store_message(&mut self, message: Message) {
        self.ask(Request::StoreMessage(message));
    }

    fn append(&mut self, octets: Vec<u8>) {
        self.order(Order::Append(octets));
    }

    fn discard(&mut self) {
        self.order(Order::Discard);
    }
}

impl CellState {
    /// What is beyond a bound is not held, and one more than allowed makes the step be refused.
    fn ask(&mut self, request: Request) {
        if self.queue.requests.len() < 2 {
            self.queue.requests.push(request);
        }
    }

    fn order(&mut self, order: Order) {
        if self.queue.orders.len() <= limits::ORDERS_MAX {
            self.queue.orders.push(order);
        }
    }
}

fn one_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
