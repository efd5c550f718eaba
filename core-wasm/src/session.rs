//! A session: each event is checked, parsed and carried out, and gives one step.

use crate::address;
use crate::command::{self, Verb};
use crate::limits;
use crate::reading::{Form, Reading};
use crate::responses::{self, Template};
use crate::sequence::{self, State, Verdict};
use crate::settings::{Settings, Tls};
use crate::step::{Answer, Config, Event, Next, Order, Reply, Request, Response, Step};
use auth::Exchange;
use chunks::Chunk;
use sender::Transaction;
use serde::{Deserialize, Serialize};

mod auth;
mod chunks;
mod hello;
mod lookup;
mod message;
mod recipient;
mod sender;
mod snapshot;
mod xclient;

/// One SMTP session.
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    /// Whether a line has been read.
    started: bool,
    /// Whether the session is under TLS, or about to be.
    tls: TlsState,
    greeting: Option<Greeting>,
    /// What a trusted peer says of the client that it speaks for.
    introduction: Introduction,
    /// An AUTH exchange whose next line is the client's.
    exchange: Option<Exchange>,
    /// Who the client is, if it has said so.
    user: Option<String>,
    /// How often it was wrong about that.
    failures: u32,
    transaction: Option<Transaction>,
    /// The message, once its octets come.
    reading: Option<Reading>,
    /// A chunk of it that is being read, or is read and dropped.
    chunk: Option<Chunk>,
    awaiting: Option<Awaiting>,
    /// How many recipients the message that is being stored has.
    answers: u32,
    /// Errors since the start or the last accepted message.
    errors: u32,
}

/// What HELO or EHLO said.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Greeting {
    client_name: String,
    /// EHLO. A session greeted by HELO is one of RFC 821: no extensions, no enhanced status codes, 7-bit data.
    extended: bool,
}

/// What XCLIENT said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Introduction {
    /// The client's argument of HELO or EHLO.
    client_name: Option<String>,
    /// Who the client is.
    user: Option<String>,
}

/// The request whose reply is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Awaiting {
    /// A list of mailboxes; whether a page of it has been sent, and whether it may be other than ASCII.
    Lookup {
        verb: Verb,
        begun: bool,
        is_utf8: bool,
    },
    Store,
    /// Whether a recipient is a user.
    Recipient,
    /// Who the client is.
    Auth,
    /// Whether the client that a trusted peer speaks for may have a session.
    Admission,
}

/// How far TLS is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum TlsState {
    Clear,
    /// STARTTLS was accepted.
    Starting,
    Established,
}

/// What a command leads to.
enum Outcome {
    Respond(Response),
    RespondLines(Vec<Response>),
    Ask(Awaiting, Request),
    ReadData(Response),
    StartTls(Response),
    Close(Response),
}

use Outcome::{Ask, Close, ReadData, Respond, RespondLines, StartTls};

impl Session {
    /// Starts a session and greets the client.
    pub fn open(config: &Config) -> (Session, Step) {
        let settings = Settings::from_pairs(config);
        let mut session = Session {
            tls: if settings.tls == Tls::On { TlsState::Established } else { TlsState::Clear },
            settings,
            started: false,
            greeting: None,
            introduction: Introduction::default(),
            exchange: None,
            user: None,
            failures: 0,
            transaction: None,
            reading: None,
            chunk: None,
            awaiting: None,
            answers: 0,
            errors: 0,
        };
        let step = session.finish(Respond(session.welcome()));
        (session, step)
    }

    /// A command line without its CRLF.
    ///
    /// # Panics
    /// While another event is due, as [`Session::on_data`] and [`Session::on_reply`] do.
    pub fn on_line(&mut self, line: &[u8]) -> Step {
        assert!(!self.is_data_due() && self.awaiting.is_none(), "a line is not due");
        assert!(self.tls != TlsState::Starting, "TLS is due");
        let first = !std::mem::replace(&mut self.started, true);
        if first && command::is_another_protocol(line) {
            return self.fail(responses::NOT_SMTP);
        }
        if let Some(exchange) = self.exchange.take() {
            return self.on_credentials(exchange, line);
        }
        let line_octets = line.len() + 2;
        // RFC 5321 4.1.1: receivers "SHOULD tolerate trailing white space before the terminating <CRLF>". Spaces and
        // tabs are that; a bare CR or LF is not (RFC 5321 2.3.8).
        let end = line.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |at| at + 1);
        let Some(line) = str::from_utf8(&line[..end]).ok().filter(|line| address::is_printable(line)) else {
            return self.refuse_line(line, None, responses::BAD_OCTETS);
        };
        let (verb, argument) = command::split(line);
        let is_allowed = line.is_ascii() || (self.is_extended() && verb.is_some_and(Verb::takes_utf8));
        if !is_allowed {
            return self.refuse_line(line.as_bytes(), None, responses::BAD_OCTETS);
        }
        let Some(verb) = verb.filter(|verb| self.knows(*verb)) else {
            return self.finish_error(None, responses::UNRECOGNIZED);
        };
        if line_octets > self.command_octets_max(verb) {
            return self.refuse_line(line.as_bytes(), Some(verb), responses::COMMAND_TOO_LONG);
        }
        if verb == Verb::Bdat {
            return self.begin_chunk(argument);
        }
        match self.check(verb).and_then(|()| self.carry_out(verb, argument)) {
            Ok((outcome, orders)) => Step { orders, ..self.finish(outcome) },
            Err(template) => self.finish_error(Some(verb), template),
        }
    }

    /// A block of message data. Message octets come back in the block's own memory.
    pub fn on_data(&mut self, block: Vec<u8>) -> Answer {
        if let Some(chunk) = self.chunk {
            return self.on_chunk(chunk, block);
        }
        let reading = self.reading.as_mut().expect("data is not due");
        let read = reading.read(block, &self.settings);
        let mut step = match read.ended {
            true => self.end_data(),
            false => Step::nothing(Next::ReadData),
        };
        step.orders = read.orders;
        Answer { consumed: read.consumed, step }
    }

    /// The answer to the outstanding request.
    pub fn on_reply(&mut self, reply: &Reply) -> Step {
        let awaiting = self.awaiting.take().expect("a reply is not due");
        match (awaiting, reply) {
            (Awaiting::Auth, Reply::Authenticated(identity)) => self.authenticated(identity),
            (Awaiting::Auth, Reply::NotAuthenticated) => self.not_authenticated(),
            (Awaiting::Auth, Reply::ScramChallenge(message)) => self.challenge(message),
            (Awaiting::Auth, Reply::Unavailable) => self.finish(Respond(responses::AUTH_UNAVAILABLE.plain())),
            (_, Reply::Unavailable) => {
                let (step, answers) = (self.fail(responses::NO_DATABASE), std::mem::take(&mut self.answers));
                self.for_each_recipient(step, answers)
            }
            (Awaiting::Admission, Reply::Admitted) => self.admitted(),
            (Awaiting::Admission, Reply::NotAdmitted) => self.fail(responses::NOT_ADMITTED),
            (Awaiting::Lookup { verb, begun: false, is_utf8: false }, Reply::Mailboxes(page)) if !page.is_ascii => {
                self.refuse_utf8(verb)
            }
            (Awaiting::Lookup { verb, begun, .. }, Reply::Mailboxes(page)) => self.list(verb, begun, page),
            (Awaiting::Recipient, Reply::Mailboxes(page)) => self.end_rcpt(page),
            (Awaiting::Store, Reply::Stored(id)) => {
                self.errors = 0;
                self.end_message(responses::STORED.with(id))
            }
            (Awaiting::Store, Reply::OutOfSpace) => self.end_message(responses::OUT_OF_SPACE.plain()),
            (Awaiting::Store, Reply::Refused) => self.end_message(responses::REFUSED.plain()),
            (awaiting, reply) => panic!("{reply:?} does not answer {awaiting:?}"),
        }
    }

    /// What is neither input nor a reply.
    pub fn on_event(&mut self, event: Event) -> Step {
        assert!(self.awaiting.is_none(), "an event is not due");
        assert_eq!(event == Event::TlsEstablished, self.tls == TlsState::Starting, "TLS is due, and at no other time");
        match event {
            Event::TlsEstablished => self.begin_again_under_tls(),
            Event::LineTooLong => {
                assert!(!self.is_data_due(), "lines are not read");
                self.started = true;
                let template = match self.exchange.take() {
                    Some(_) => responses::AUTH_LINE_TOO_LONG,
                    None => responses::COMMAND_TOO_LONG,
                };
                self.finish_error(None, template)
            }
            Event::IdleTimeout => self.fail(responses::IDLE_TIMEOUT),
            Event::SessionExpired => self.fail(responses::SESSION_EXPIRED),
            Event::Drain => self.fail(responses::SHUTTING_DOWN),
            Event::Unknown if self.is_data_due() => Step::nothing(Next::ReadData),
            Event::Unknown => Step::nothing(self.read_line()),
        }
    }

    /// Whether message data is read, and not a line.
    fn is_data_due(&self) -> bool {
        self.chunk.is_some() || self.reading.as_ref().is_some_and(Reading::has_an_end)
    }

    fn state(&self) -> State {
        match (&self.greeting, &self.transaction) {
            _ if self.reading.is_some() => State::Chunks,
            (None, _) => State::Start,
            (_, None) => State::Ready,
            (_, Some(transaction)) if transaction.rcpt_to.is_empty() => State::Sender,
            _ => State::Recipients,
        }
    }

    fn check(&self, verb: Verb) -> Result<(), Template> {
        // RFC 3207 4: every command other than NOOP, EHLO, STARTTLS and QUIT.
        let is_free = matches!(verb, Verb::Noop | Verb::Ehlo | Verb::Lhlo | Verb::Starttls | Verb::Quit);
        if self.settings.require_tls && self.tls != TlsState::Established && !is_free {
            return Err(responses::TLS_REQUIRED);
        }
        match sequence::check(verb, self.state()) {
            Verdict::Go => Ok(()),
            Verdict::No(template) => Err(template),
        }
    }

    /// Carries a command out; gives what it leads to, and what the host does first.
    fn carry_out(&mut self, verb: Verb, argument: &str) -> Result<(Outcome, Vec<Order>), Template> {
        let outcome = match verb {
            Verb::Ehlo | Verb::Lhlo => return self.greet(argument, true),
            Verb::Helo => return self.greet(argument, false),
            Verb::Starttls => self.start_tls(argument),
            Verb::Auth => self.auth(argument),
            Verb::Xclient => self.xclient(argument),
            Verb::Mail => self.mail(argument),
            Verb::Rcpt => self.rcpt(argument),
            Verb::Data if !argument.is_empty() => Err(responses::BAD_ARGUMENT),
            // RFC 3030 3: a binary message cannot come by DATA.
            Verb::Data if self.is_binary() => Err(responses::BINARY_NEEDS_BDAT),
            Verb::Data => Ok(ReadData(responses::SEND_DATA.plain())),
            Verb::Rset | Verb::Noop | Verb::Quit if !argument.is_empty() => Err(responses::NO_ARGUMENT_TAKEN),
            Verb::Rset => return Ok((Respond(responses::RESET_OK.plain()), self.forget_message())),
            Verb::Noop => Ok(Respond(responses::NOOP_OK.plain())),
            Verb::Quit => Ok(Close(responses::GOODBYE.with(&self.settings.name))),
            Verb::Help => Ok(RespondLines(command::help(argument, |verb| self.offers_verb(verb)))),
            Verb::Vrfy | Verb::Expn => self.look_up(verb, argument),
            Verb::Send | Verb::Soml | Verb::Saml | Verb::Turn => Err(responses::NOT_IMPLEMENTED),
            Verb::Bdat => unreachable!("its octets are read whatever becomes of it"),
        };
        Ok((outcome?, Vec::new()))
    }

    fn is_extended(&self) -> bool {
        self.greeting.as_ref().is_some_and(|greeting| greeting.extended)
    }

    fn read_line(&self) -> Next {
        // The longest of all commands decides: the host frames a line before anyone knows its verb.
        match self.exchange {
            Some(_) => Next::ReadLine { octets_max: limits::AUTH_LINE_OCTETS_MAX as u32, secret: true },
            None => Next::ReadLine { octets_max: self.command_octets_max(Verb::Mail) as u32, secret: false },
        }
    }

    fn command_octets_max(&self, verb: Verb) -> usize {
        let extra = match verb {
            _ if !self.is_extended() => 0,
            // RFC 4954 4: what is longer than a command may be comes in a line of the exchange.
            Verb::Mail | Verb::Auth => limits::MAIL_EXTRA_OCTETS_MAX,
            Verb::Rcpt => limits::RCPT_EXTRA_OCTETS_MAX,
            Verb::Vrfy | Verb::Expn => limits::LOOKUP_EXTRA_OCTETS_MAX,
            _ => 0,
        };
        limits::COMMAND_OCTETS_MAX + extra
    }

    /// The response of an error, or the end of the session when it is one too many.
    fn finish_error(&mut self, verb: Option<Verb>, template: Template) -> Step {
        if is_counted(verb, template.code) {
            self.errors += 1;
            if self.errors >= self.settings.errors_max {
                return self.fail(responses::TOO_MANY_ERRORS);
            }
        }
        // RFC 2033 4.1: LMTP has neither HELO nor EHLO.
        let template = match template {
            responses::SEND_HELO_FIRST | responses::SEND_EHLO_FIRST if self.settings.lmtp => responses::SEND_LHLO_FIRST,
            other => other,
        };
        let value = match template {
            responses::MESSAGE_TOO_LARGE => self.settings.message_octets_max.to_string(),
            _ => verb.map_or("", |verb| verb.row().syntax).to_owned(),
        };
        self.finish(Respond(template.with(&value)))
    }

    /// A 421, which ends the session.
    fn fail(&mut self, template: Template) -> Step {
        self.finish(Close(template.with(&self.settings.name)))
    }

    /// Every step but those in the middle of data is made here.
    fn finish(&mut self, outcome: Outcome) -> Step {
        let (responses, next) = match outcome {
            Respond(response) => (vec![response], self.read_line()),
            RespondLines(mut lines) => {
                let last = lines.len() - 1;
                lines[..last].iter_mut().for_each(|line| line.more = true);
                (lines, self.read_line())
            }
            Ask(awaiting, request) => {
                self.awaiting = Some(awaiting);
                (Vec::new(), Next::AwaitReply(request))
            }
            ReadData(response) => {
                self.reading = Some(Reading::new(Form::lines(!self.is_extended())));
                (vec![response], Next::ReadData)
            }
            StartTls(response) => {
                self.tls = TlsState::Starting;
                (vec![response], Next::StartTls)
            }
            Close(response) => {
                (self.reading, self.chunk) = (None, None);
                (vec![response], Next::Close)
            }
        };
        Step { responses: self.for_session(responses), orders: Vec::new(), next }
    }

    /// RFC 2034 and protocol of RFC 821: no enhanced status codes for a client that said HELO.
    fn for_session(&self, mut responses: Vec<Response>) -> Vec<Response> {
        if self.greeting.as_ref().is_some_and(|greeting| !greeting.extended) {
            responses.iter_mut().for_each(|response| response.enhanced = None);
        }
        responses
    }
}

/// Which errors bring a session nearer to its end. A refused recipient beyond the limit is not one: a client
/// that pipelines more than a hundred would lose the message to all of them.
fn is_counted(verb: Option<Verb>, code: u16) -> bool {
    matches!(code, 500..=504 | 530 | 535 | 538 | 553 | 555)
        || (code == 550 && matches!(verb, Some(Verb::Vrfy | Verb::Expn | Verb::Rcpt | Verb::Xclient)))
}
