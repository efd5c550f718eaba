//! The skin towards WebAssembly: generated types outside, plain ones inside. One instance serves one session.

use crate::{Event, MailboxPage, Next, Order, Reply, Request, Session, Step};
use exports::mailcell::smtp::session as wit;
use mailcell::smtp::mail_store as store;
use std::cell::RefCell;

wit_bindgen::generate!({ path: "../wit", world: "core" });
export!(Component);

struct Component;

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
}

fn with_session<T>(event: impl FnOnce(&mut Session) -> T) -> T {
    SESSION.with_borrow_mut(|session| event(session.as_mut().expect("open comes first")))
}

impl wit::Guest for Component {
    fn open(config: Vec<(String, String)>, _peer: wit::Peer) -> wit::Step {
        let (session, step) = Session::open(&config);
        SESSION.set(Some(session));
        queue(step)
    }

    fn on_line(line: Vec<u8>) -> wit::Step {
        queue(with_session(|session| session.on_line(&line)))
    }

    fn on_data(block: Vec<u8>) -> wit::DataStep {
        let data = with_session(|session| session.on_data(block));
        wit::DataStep { consumed: data.consumed as u32, step: queue(data.step) }
    }

    fn on_reply(reply: wit::Reply) -> wit::Step {
        let reply = match reply {
            wit::Reply::Mailboxes(page) => Reply::Mailboxes(MailboxPage { mailboxes: page.mailboxes, more: page.more }),
            wit::Reply::Stored(id) => Reply::Stored(id),
            wit::Reply::Unavailable => Reply::Unavailable,
            wit::Reply::OutOfSpace => Reply::OutOfSpace,
            wit::Reply::Refused => Reply::Refused,
            wit::Reply::Ext(extension) => panic!("a reply that this core did not ask for: {}", extension.name),
        };
        queue(with_session(|session| session.on_reply(reply)))
    }

    fn on_event(event: wit::Event) -> wit::Step {
        let event = match event {
            wit::Event::LineTooLong => Event::LineTooLong,
            wit::Event::IdleTimeout => Event::IdleTimeout,
            wit::Event::SessionExpired => Event::SessionExpired,
            wit::Event::Drain => Event::Drain,
            wit::Event::Ext(_) => Event::Unknown,
        };
        queue(with_session(|session| session.on_event(event)))
    }
}

/// Hands orders and the request to the host, and gives the rest of the step.
fn queue(step: Step) -> wit::Step {
    for order in step.orders {
        match order {
            Order::Append(octets) => store::append(&octets),
            Order::Discard => store::discard(),
        }
    }
    let next = match step.next {
        Next::ReadLine { octets_max } => wit::Next::ReadLine(wit::LineLimits { octets_max, secret: false }),
        Next::ReadData => wit::Next::ReadData,
        Next::AwaitReply(request) => {
            ask(request);
            wit::Next::AwaitReply
        }
        Next::Close => wit::Next::Close,
    };
    let responses = step.responses.into_iter().map(|response| wit::Response {
        code: response.code,
        enhanced: response.enhanced.map(|(class, subject, detail)| wit::EnhancedStatus { class, subject, detail }),
        text: response.text.into_owned(),
        more: response.more,
    });
    wit::Step { responses: responses.collect(), next }
}

fn ask(request: Request) {
    match request {
        Request::FindUser { local_part, domain } => store::find_user(&local_part, domain.as_deref()),
        Request::ExpandGroup { name } => store::expand_group(&name),
        Request::NextPage => store::next_page(),
        Request::StoreMessage(message) => store::store_message(&store::Message {
            mail_from: message.mail_from,
            rcpt_to: message.rcpt_to,
            client_name: message.client_name,
            protocol: message.protocol.to_owned(),
            subject: message.subject,
            date: message.date.map(|date| store::Date { seconds: date.seconds, zone_minutes: date.zone_minutes }),
            header_octets: message.header_octets,
            octets: message.octets,
        }),
    }
}
