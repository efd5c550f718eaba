//! The host's side of a cell: its limits, its budget, and what the core has queued.

use super::bindings::mailcell::smtp::mail_store;
use super::limits;
use super::step::Queue;
use mailcell_core::{Date, Message, Order, Request};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder, UpdateDeadline};

/// What a cell's store holds.
pub(super) struct CellState {
    limits: StoreLimits,
    queue: Queue,
    /// The thread's CPU time at the first tick of this call.
    ticked: Option<Duration>,
}

impl CellState {
    pub(super) fn new() -> CellState {
        let limits = StoreLimitsBuilder::new()
            .memory_size(limits::MEMORY_OCTETS_MAX)
            .table_elements(limits::TABLE_ELEMENTS_MAX)
            .instances(limits::CORE_INSTANCES_MAX as usize + 1)
            .tables(limits::TABLES_MAX as usize)
            .memories(limits::MEMORIES_MAX as usize)
            .build();
        CellState { limits, queue: Queue::default(), ticked: None }
    }

    pub(super) fn limits(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.limits
    }

    pub(super) fn start_call(&mut self) {
        self.ticked = None;
    }

    pub(super) fn take_queue(&mut self) -> Queue {
        std::mem::take(&mut self.queue)
    }

    /// Looks at a call that has lasted for a tick. The budget is CPU time: a tick that passes while the thread is
    /// descheduled must not trap an innocent core. It is counted from the first tick on, so that a short call asks no
    /// clock.
    pub(super) fn keep_budget(&mut self) -> UpdateDeadline {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let time = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32);
        let start = *self.ticked.get_or_insert(time);
        match time.saturating_sub(start) > limits::CALL_CPU_MAX {
            true => UpdateDeadline::Interrupt,
            false => UpdateDeadline::Continue(1),
        }
    }

    /// One more than allowed makes the step be refused. Who calls on is trapped, and nothing of it is held: a call takes the host
    /// time, and where a core has neither a loop nor a function between two of them nobody looks at the clock.
    fn ask(&mut self, request: Request) -> wasmtime::Result<()> {
        let requests = &mut self.queue.requests;
        if requests.len() > limits::REQUESTS_MAX {
            return Err(wasmtime::Error::msg("requests without end"));
        }
        requests.push(request);
        Ok(())
    }

    fn order(&mut self, order: Order) -> wasmtime::Result<()> {
        let orders = &mut self.queue.orders;
        if orders.len() > limits::ORDERS_MAX {
            return Err(wasmtime::Error::msg("orders without end"));
        }
        orders.push(order);
        Ok(())
    }
}

/// The imports: a call only queues.
impl mail_store::Host for CellState {
    fn find_user(&mut self, local_part: String, domain: Option<String>) -> wasmtime::Result<()> {
        self.ask(Request::FindUser { local_part, domain })
    }

    fn expand_group(&mut self, name: String) -> wasmtime::Result<()> {
        self.ask(Request::ExpandGroup { name })
    }

    fn next_page(&mut self) -> wasmtime::Result<()> {
        self.ask(Request::NextPage)
    }

    fn check_password(&mut self, user: String, password: String) -> wasmtime::Result<()> {
        self.ask(Request::CheckPassword { user, password })
    }

    fn scram_first(&mut self, message: String) -> wasmtime::Result<()> {
        self.ask(Request::ScramFirst { message })
    }

    fn scram_final(&mut self, message: String) -> wasmtime::Result<()> {
        self.ask(Request::ScramFinal { message })
    }

    fn admit_client(&mut self, address: Option<String>) -> wasmtime::Result<()> {
        self.ask(Request::AdmitClient { address })
    }

    fn store_message(&mut self, message: mail_store::Message) -> wasmtime::Result<()> {
        self.ask(Request::StoreMessage(Box::new(Message {
            mail_from: message.mail_from,
            rcpt_to: message.rcpt_to,
            mail_parameters: message.mail_parameters,
            rcpt_parameters: message.rcpt_parameters,
            client_name: message.client_name,
            protocol: message.protocol.into(),
            subject: message.subject,
            date: message.date.map(|date| Date { seconds: date.seconds, zone_minutes: date.zone_minutes }),
            header_octets: message.header_octets,
            octets: message.octets,
        })))
    }

    fn append(&mut self, octets: Vec<u8>) -> wasmtime::Result<()> {
        self.order(Order::Append(octets))
    }

    fn discard(&mut self) -> wasmtime::Result<()> {
        self.order(Order::Discard)
    }
}
