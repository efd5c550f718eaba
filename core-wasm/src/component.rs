//! The skin towards WebAssembly: generated types outside, plain ones inside. One instance serves one session.

use crate::shelves::Shelves;
use crate::step::{
    Core, Due, Event, Identity, Input, MailboxPage, Next, Order, Position, Reply, Request, Snapshot, Step,
};
use exports::mailcell::smtp::migration as moving;
use exports::mailcell::smtp::session as wit;
use mailcell::smtp::mail_store as store;
use std::borrow::Cow;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicU8;

wit_bindgen::generate!({ path: "../wit", world: "core", pub_export_macro: true });

/// Makes the exports of a component of a [`Core`]: once, in a crate of the type `cdylib`.
#[macro_export]
macro_rules! export_core {
    ($core:ty) => {
        #[allow(unsafe_code, unreachable_pub, reason = "the generated export glue needs it")]
        mod exports {
            use super::*;

            type Component = $crate::component::Component<$core>;
            $crate::component::export!(Component with_types_in $crate::component);
        }
    };
}

/// What a session allocates comes from here: a memory that never grows, as each growth and each reset behind it changes the
/// protection of pages, which costs more than the rest of a short session. Pages that nobody touches are not there.
#[global_allocator]
static ALLOCATOR: Shelves<talc::wasm::WasmArenaTalc> = Shelves::new({
    static mut ARENA: [MaybeUninit<u8>; ARENA_OCTETS] = [MaybeUninit::uninit(); ARENA_OCTETS];
    // Nothing else knows the arena.
    unsafe { talc::wasm::new_wasm_arena_allocator(&raw mut ARENA) }
});

// A component has one thread.
unsafe impl<A> Sync for Shelves<A> {}

/// With stack and static data, a little less than the memory that the host gives a cell.
const ARENA_OCTETS: usize = 640 << 10;

/// Static data that is written begins with a page: what is small of it, and where the arena begins, is in one page then, of which each
/// session has its own, and not in two.
#[used]
static WRITTEN: Page = Page(AtomicU8::new(1));

#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "it is for its place")] AtomicU8);

/// A core as a component.
pub struct Component<C>(PhantomData<C>);

thread_local! {
    static SESSION: RefCell<Option<Box<dyn Session>>> = const { RefCell::new(None) };
}

/// What every core does once its session is there.
trait Session {
    fn deliver(&mut self, input: Input<'_>) -> wit::DataStep;
    fn save(&self, schema: u32) -> Snapshot;
}

impl<C: Core> Session for C {
    fn deliver(&mut self, input: Input<'_>) -> wit::DataStep {
        let answer = Core::deliver(self, input);
        wit::DataStep { consumed: answer.consumed as u32, step: queue(answer.step) }
    }

    fn save(&self, schema: u32) -> Snapshot {
        Core::save(self, schema)
    }
}

fn with_session<T>(act: impl FnOnce(&mut dyn Session) -> T) -> T {
    SESSION.with_borrow_mut(|session| act(session.as_mut().expect("open or restore comes first").as_mut()))
}

fn deliver(input: Input<'_>) -> wit::DataStep {
    with_session(|session| session.deliver(input))
}

impl<C: Core + 'static> wit::Guest for Component<C> {
    fn open(config: Vec<(String, String)>, _peer: wit::Peer) -> wit::Step {
        let (session, step) = C::open(&config);
        SESSION.set(Some(Box::new(session)));
        queue(step)
    }

    fn on_line(line: Vec<u8>) -> wit::Step {
        deliver(Input::Line(line.into())).step
    }

    fn on_data(block: Vec<u8>) -> wit::DataStep {
        deliver(Input::Data(block.into()))
    }

    fn on_reply(reply: wit::Reply) -> wit::Step {
        let reply = match reply {
            wit::Reply::Mailboxes(page) => {
                Reply::Mailboxes(MailboxPage { mailboxes: page.mailboxes, more: page.more, is_ascii: page.is_ascii })
            }
            wit::Reply::Stored(id) => Reply::Stored(id),
            wit::Reply::Unavailable => Reply::Unavailable,
            wit::Reply::OutOfSpace => Reply::OutOfSpace,
            wit::Reply::Refused => Reply::Refused,
            wit::Reply::Authenticated(identity) => {
                Reply::Authenticated(Identity { user: identity.user, server_final: identity.server_final })
            }
            wit::Reply::NotAuthenticated => Reply::NotAuthenticated,
            wit::Reply::ScramChallenge(message) => Reply::ScramChallenge(message),
            wit::Reply::Admitted => Reply::Admitted,
            wit::Reply::NotAdmitted => Reply::NotAdmitted,
            wit::Reply::Ext(extension) => panic!("a reply that this core did not ask for: {}", extension.name),
        };
        deliver(Input::Reply(Cow::Owned(reply))).step
    }

    fn on_event(event: wit::Event) -> wit::Step {
        let event = match event {
            wit::Event::LineTooLong => Event::LineTooLong,
            wit::Event::IdleTimeout => Event::IdleTimeout,
            wit::Event::SessionExpired => Event::SessionExpired,
            wit::Event::Drain => Event::Drain,
            wit::Event::TlsEstablished => Event::TlsEstablished,
            wit::Event::Ext(_) => Event::Unknown,
        };
        deliver(Input::Event(event)).step
    }
}

impl<C: Core + 'static> moving::Guest for Component<C> {
    fn schemas() -> moving::SchemaNumbers {
        let schemas = C::schemas();
        moving::SchemaNumbers { writes: schemas.writes, reads: schemas.reads }
    }

    fn save(schema: u32) -> moving::Snapshot {
        let saved = with_session(|session| session.save(schema));
        moving::Snapshot { position: position(saved.position), state: saved.state }
    }

    fn restore(
        config: Vec<(String, String)>,
        _peer: wit::Peer,
        schema: u32,
        state: Vec<u8>,
    ) -> Result<moving::Position, String> {
        let (session, at) = C::restore(&config, schema, &state)?;
        SESSION.set(Some(Box::new(session)));
        Ok(position(at))
    }
}

fn position(position: Position) -> moving::Position {
    let next = match position.due {
        Due::Line { octets_max, secret } => wit::Next::ReadLine(wit::LineLimits { octets_max, secret }),
        Due::Data => wit::Next::ReadData,
        Due::Reply => wit::Next::AwaitReply,
        Due::Tls => wit::Next::StartTls,
    };
    moving::Position { next, octets: position.octets }
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
        Next::ReadLine { octets_max, secret } => wit::Next::ReadLine(wit::LineLimits { octets_max, secret }),
        Next::ReadData => wit::Next::ReadData,
        Next::AwaitReply(request) => {
            ask(request);
            wit::Next::AwaitReply
        }
        Next::StartTls => wit::Next::StartTls,
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
        Request::CheckPassword { user, password } => store::check_password(&user, &password),
        Request::ScramFirst { message } => store::scram_first(&message),
        Request::ScramFinal { message } => store::scram_final(&message),
        Request::AdmitClient { address } => store::admit_client(address.as_deref()),
        Request::StoreMessage(message) => store::store_message(&store::Message {
            mail_from: message.mail_from,
            rcpt_to: message.rcpt_to,
            mail_parameters: message.mail_parameters,
            rcpt_parameters: message.rcpt_parameters,
            client_name: message.client_name,
            protocol: message.protocol.into_owned(),
            subject: message.subject,
            date: message.date.map(|date| store::Date { seconds: date.seconds, zone_minutes: date.zone_minutes }),
            header_octets: message.header_octets,
            octets: message.octets,
        }),
    }
}
