//! The core as the component that the server carries, in a cell of the server's own.

use crate::driver::Core;
use mailcell::cell::{self, Cell, Effects, Engine, Generation};
use mailcell_core::{DataStep, Date, Event, Message, Next, Order, Reply, Request, Response, Step};
use std::borrow::Cow;
use std::sync::LazyLock;

/// The component, compiled once for all tests of a process.
pub static GENERATION: LazyLock<Generation> = LazyLock::new(|| {
    let engine = Engine::new(256).expect("there is address space");
    Generation::from_bytes(&engine, cell::DEFAULT_CORE).expect("the server carries a core")
});

/// A session of the component.
#[derive(Default)]
pub struct Component(Option<Cell>);

impl Component {
    fn cell(&mut self) -> &mut Cell {
        self.0.as_mut().expect("open comes first")
    }
}

impl Core for Component {
    fn open(&mut self, config: &[(String, String)]) -> Step {
        let (cell, effects) = Cell::open(&GENERATION, config, "127.0.0.1").expect("the core opens");
        self.0 = Some(cell);
        step(effects)
    }

    fn on_line(&mut self, line: &[u8]) -> Step {
        step(self.cell().on_line(line).expect("no fault"))
    }

    fn on_data(&mut self, block: &[u8]) -> DataStep {
        let (consumed, effects) = self.cell().on_data(block).expect("no fault");
        DataStep { consumed, step: step(effects) }
    }

    fn on_reply(&mut self, reply: Reply) -> Step {
        let reply = match reply {
            Reply::Mailboxes(page) => {
                cell::Reply::Mailboxes(cell::MailboxPage { mailboxes: page.mailboxes, more: page.more })
            }
            Reply::Stored(id) => cell::Reply::Stored(id),
            Reply::Unavailable => cell::Reply::Unavailable,
            Reply::OutOfSpace => cell::Reply::OutOfSpace,
            Reply::Refused => cell::Reply::Refused,
        };
        step(self.cell().on_reply(&reply).expect("no fault"))
    }

    fn on_event(&mut self, event: Event) -> Step {
        let event = match event {
            Event::LineTooLong => cell::Event::LineTooLong,
            Event::IdleTimeout => cell::Event::IdleTimeout,
            Event::SessionExpired => cell::Event::SessionExpired,
            Event::Drain => cell::Event::Drain,
            Event::Unknown => panic!("no host sends it"),
        };
        step(self.cell().on_event(&event).expect("no fault"))
    }
}

fn step(effects: Effects) -> Step {
    let orders = effects.orders.into_iter().map(|order| match order {
        cell::Order::Append(octets) => Order::Append(octets),
        cell::Order::Discard => Order::Discard,
    });
    let next = match effects.next {
        cell::Next::ReadLine { octets_max, .. } => Next::ReadLine { octets_max: octets_max as u32 },
        cell::Next::ReadData => Next::ReadData,
        cell::Next::AwaitReply(asked) => Next::AwaitReply(request(asked)),
        cell::Next::Close => Next::Close,
    };
    Step { responses: responses(&effects.output), orders: orders.collect(), next }
}

/// The lines of a step; an enhanced status code stays in the text, where the wire has it.
fn responses(output: &[u8]) -> Vec<Response> {
    let output = str::from_utf8(output).expect("responses are ASCII");
    let line = |line: &str| Response {
        code: line[..3].parse().expect("a line starts with a code"),
        enhanced: None,
        text: Cow::Owned(line[4..].to_owned()),
        more: line.as_bytes()[3] == b'-',
    };
    output.split_terminator("\r\n").map(line).collect()
}

fn request(request: cell::Request) -> Request {
    match request {
        cell::Request::FindUser { local_part, domain } => Request::FindUser { local_part, domain },
        cell::Request::ExpandGroup { name } => Request::ExpandGroup { name },
        cell::Request::NextPage => Request::NextPage,
        cell::Request::StoreMessage(message) => Request::StoreMessage(Message {
            mail_from: message.mail_from,
            rcpt_to: message.rcpt_to,
            client_name: message.client_name,
            protocol: if message.protocol == "SMTP" { "SMTP" } else { "ESMTP" },
            subject: message.subject,
            date: message.date.map(|date| Date { seconds: date.seconds, zone_minutes: date.zone_minutes }),
            header_octets: message.header_octets,
            octets: message.octets,
        }),
    }
}
