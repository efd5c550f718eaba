//! A host without sockets, clock and database around whatever speaks the core's events.

use crate::escape;
use mailcell_core::command::{Verb, begins_with};
use mailcell_core::{Answer, Config, Core, Event, Input, Message, Next, Order, Reply, Request, Response, Step};
use std::borrow::Cow;

/// The largest block of message data that a host hands over at once.
const BLOCK_OCTETS_MAX: usize = 64 << 10;

/// What a host says to a client that goes on in the clear behind STARTTLS.
const INJECTED: &str = "421 4.7.0 mx.test Octets behind STARTTLS; closing connection";

/// A session of a core in plain Rust, or of a component in a cell, which may be lost.
pub trait Subject {
    /// Tells the session what happened.
    ///
    /// # Errors
    /// Why the session is lost.
    fn deliver(&mut self, input: Input<'_>) -> Result<Answer, String>;
}

impl<C: Core> Subject for C {
    fn deliver(&mut self, input: Input<'_>) -> Result<Answer, String> {
        Ok(Core::deliver(self, input))
    }
}

/// A session and its first step, or why there is none.
pub type Opened = Result<(Box<dyn Subject>, Step), String>;

/// Opens a session.
pub type Open<'a> = &'a dyn Fn(&Config) -> Opened;

/// Opens a session of a core in plain Rust.
///
/// # Errors
/// None.
pub fn native<C: Core + 'static>(config: &Config) -> Opened {
    let (core, step) = C::open(config);
    Ok((Box::new(core), step))
}

/// Opens a session of a core in plain Rust that is saved and restored after each of its events.
///
/// # Errors
/// None.
pub fn moving<C: Core + 'static>(config: &Config) -> Opened {
    let (core, step) = C::open(config);
    Ok((Box::new(Moving { core, config: config.to_owned(), appended: 0 }), step))
}

struct Moving<C> {
    core: C,
    config: Vec<(String, String)>,
    /// Octets of the message so far, as a host counts them.
    appended: u64,
}

impl<C: Core> Subject for Moving<C> {
    fn deliver(&mut self, input: Input<'_>) -> Result<Answer, String> {
        let answer = self.core.deliver(input);
        for order in &answer.step.orders {
            match order {
                Order::Append(octets) => self.appended += octets.len() as u64,
                Order::Discard => self.appended = 0,
            }
        }
        if let Next::AwaitReply(Request::StoreMessage(_)) = answer.step.next {
            self.appended = 0;
        }
        if answer.step.next != Next::Close {
            for schema in C::schemas().writes {
                let saved = self.core.save(schema);
                let (restored, position) = C::restore(&self.config, schema, &saved.state)?;
                let is_there = Some(position.due) == answer.step.next.due() && position.octets == self.appended;
                if !is_there || position != saved.position {
                    return Err(format!("{position:?} after {:?} and {} octets", saved.position, self.appended));
                }
                self.core = restored;
            }
        }
        Ok(answer)
    }
}

/// What a session does to the world outside, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A line to the client, without its CRLF.
    Line(Vec<u8>),
    /// In a transcript only: a whole response with this code, whatever its lines.
    AnyResponse(u16),
    /// TLS begins.
    StartTls,
    /// The end of the connection.
    Close,
    /// The octets that go with the `store-message` behind them; absent if there are none.
    Message(Vec<u8>),
    /// A request, as [`write_request`] writes it.
    Request(String),
    /// The session is lost: it broke the contract, or its cell.
    Fault(String),
    /// The session goes another way than the transcript, which has nothing more to tell it.
    Astray(String),
}

/// Frames input, writes responses and holds the message, as the WIT contract asks of a host. A core that breaks that
/// contract loses the session, which shows as [`Effect::Fault`].
pub struct ScriptedHost {
    /// Absent when it could not be opened.
    core: Option<Box<dyn Subject>>,
    next: Next,
    /// What was not read yet.
    input: Vec<u8>,
    /// Whether nothing of the connection was read yet.
    untouched: bool,
    /// Whether the start of the line that is being read was dropped, as it is too long.
    dropping: bool,
    /// Whether it began as one of BDAT.
    of_chunk: bool,
    message: Vec<u8>,
    /// The code of a response whose last line is still to come.
    response_open: Option<u16>,
    effects: Vec<Effect>,
}

impl ScriptedHost {
    /// Opens a session.
    pub fn open(open: Open<'_>, config: &Config) -> ScriptedHost {
        let mut host = ScriptedHost {
            core: None,
            next: Next::Close,
            input: Vec::new(),
            untouched: true,
            dropping: false,
            of_chunk: false,
            message: Vec::new(),
            response_open: None,
            effects: Vec::new(),
        };
        let opened = open(config).and_then(|(core, step)| {
            host.core = Some(core);
            host.carry_out(step)
        });
        host.keep_fault(opened);
        host
    }

    /// Octets from the client.
    pub fn input(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.run();
    }

    /// The answer to the outstanding request.
    ///
    /// # Panics
    /// When there is none.
    pub fn reply(&mut self, reply: Reply) {
        assert!(self.awaiting().is_some(), "no request is outstanding");
        if matches!(self.next, Next::AwaitReply(Request::StoreMessage(_))) {
            self.message.clear();
        }
        self.deliver(Input::Reply(Cow::Owned(reply)));
        self.run();
    }

    /// An event of the host's own; nothing comes of it once the session is over.
    pub fn event(&mut self, event: Event) {
        // A line that was too long was a connection's first as any other is.
        self.untouched &= event != Event::LineTooLong;
        if !self.is_closed() {
            self.deliver(Input::Event(event));
            self.run();
        }
    }

    /// The outstanding request.
    pub fn awaiting(&self) -> Option<&Request> {
        if let Next::AwaitReply(request) = &self.next { Some(request) } else { None }
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        self.next == Next::Close
    }

    /// Whether TLS is to begin.
    pub fn is_starting_tls(&self) -> bool {
        self.next == Next::StartTls
    }

    /// Whether message data is being read.
    pub fn is_reading_data(&self) -> bool {
        self.next == Next::ReadData
    }

    /// What happened since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Goes on until input or a reply is missing, or the session is over.
    fn run(&mut self) {
        loop {
            match self.next {
                Next::ReadLine { octets_max, secret } => match self.frame(octets_max as usize, secret) {
                    Some(Ok(line)) => drop(self.deliver(Input::Line(line.into()))),
                    Some(Err(event)) => drop(self.deliver(Input::Event(event))),
                    None => return,
                },
                Next::ReadData if !self.input.is_empty() => {
                    let block = self.input[..self.input.len().min(BLOCK_OCTETS_MAX)].to_vec();
                    let consumed = self.deliver(Input::Data(block.into()));
                    self.input.drain(..consumed);
                }
                // RFC 3207 and CVE-2011-0411: what came in the clear behind STARTTLS could be anybody's.
                Next::StartTls if !self.input.is_empty() => {
                    self.effects.push(Effect::Line(INJECTED.into()));
                    self.effects.push(Effect::Close);
                    self.next = Next::Close;
                }
                Next::ReadData | Next::AwaitReply(_) | Next::StartTls | Next::Close => return,
            }
        }
    }

    /// Tells the core, carries out what it answers, and gives how many octets it read of a block.
    fn deliver(&mut self, input: Input<'_>) -> usize {
        let block = if let Input::Data(block) = &input { block.len() } else { 0 };
        let answered =
            self.core.as_mut().map_or_else(|| Err("there is no session".to_owned()), |core| core.deliver(input));
        let mut consumed = 0;
        let done = answered.and_then(|answer| {
            let is_over = answer.step.next != Next::ReadData;
            if answer.consumed > block || (answer.consumed < block && !is_over) {
                return Err(format!("{} octets read of {block}", answer.consumed));
            }
            consumed = answer.consumed;
            self.carry_out(answer.step)
        });
        self.keep_fault(done);
        consumed
    }

    fn keep_fault(&mut self, done: Result<(), String>) {
        if let Err(fault) = done {
            self.effects.push(Effect::Fault(fault));
            self.next = Next::Close;
        }
    }

    /// A line or the event in the place of one that is too long; nothing while its end has not come.
    fn frame(&mut self, octets_max: usize, is_secret: bool) -> Option<Result<Vec<u8>, Event>> {
        let first = *self.input.first()?;
        if std::mem::take(&mut self.untouched) && !first.is_ascii_alphabetic() {
            return Some(Ok(self.input.drain(..1).collect()));
        }
        let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") else {
            if self.input.len() >= octets_max {
                self.of_chunk |= !self.dropping && begins_with(&self.input, Verb::Bdat);
                // Only a CR at the end can still matter.
                let kept = usize::from(self.input.ends_with(b"\r"));
                self.input.drain(..self.input.len() - kept);
                self.dropping = true;
            }
            return None;
        };
        let line: Vec<u8> = self.input.drain(..end + 2).collect();
        let is_cut = std::mem::take(&mut self.dropping);
        let of_chunk = std::mem::take(&mut self.of_chunk) || (!is_cut && begins_with(&line, Verb::Bdat));
        if is_cut || line.len() > octets_max {
            // Behind a line of BDAT are no commands, so the core is told of it.
            return Some(if of_chunk && !is_secret { Ok(b"BDAT".to_vec()) } else { Err(Event::LineTooLong) });
        }
        Some(Ok(line[..end].to_vec()))
    }

    fn carry_out(&mut self, step: Step) -> Result<(), String> {
        for response in &step.responses {
            self.write(response)?;
        }
        let closes = step.next == Next::Close;
        let says_so = step.responses.iter().any(|response| matches!(response.code, 221 | 421));
        expect(closes == says_so, "a session ends with 221 or 421 and nothing else", &step)?;
        for order in &step.orders {
            match order {
                Order::Append(octets) => self.message.extend_from_slice(octets),
                Order::Discard => self.message.clear(),
            }
        }
        match &step.next {
            Next::Close => self.effects.push(Effect::Close),
            Next::StartTls => self.effects.push(Effect::StartTls),
            Next::AwaitReply(request) => {
                if let Request::StoreMessage(message) = request {
                    expect(
                        message.octets == self.message.len() as u64,
                        "the core's count of appended octets",
                        message,
                    )?;
                    expect(message.header_octets <= message.octets, "a header section in its message", message)?;
                    let octets = (!self.message.is_empty()).then(|| Effect::Message(self.message.clone()));
                    self.effects.extend(octets);
                }
                self.effects.push(Effect::Request(write_request(request)));
            }
            // RFC 5321 4.5.3.1.4.
            Next::ReadLine { octets_max, .. } => expect(*octets_max >= 512, "lines of 512 octets", octets_max)?,
            Next::ReadData => {}
        }
        let may_be_open = matches!(step.next, Next::AwaitReply(Request::NextPage));
        expect(self.response_open.is_none() || may_be_open, "a response with a last line", &step)?;
        self.next = step.next;
        Ok(())
    }

    /// Writes a line, and holds the core to what may stand in one.
    fn write(&mut self, response: &Response) -> Result<(), String> {
        let Response { code, enhanced, text, more } = response;
        expect((200..600).contains(code), "a code", response)?;
        expect(!text.chars().any(char::is_control), "printable text", response)?;
        expect(self.response_open.is_none_or(|open| open == *code), "one code in one response", response)?;
        self.response_open = more.then_some(*code);
        let separator = if *more { '-' } else { ' ' };
        let status = match enhanced {
            Some((class, subject, detail)) => {
                expect(u16::from(*class) == code / 100, "an enhanced status code of the code's class", response)?;
                format!("{class}.{subject}.{detail} ")
            }
            None => String::new(),
        };
        let line = format!("{code}{separator}{status}{text}");
        // RFC 5321 4.5.3.1.5.
        expect(line.len() + 2 <= 512, "a line of at most 512 octets", response)?;
        self.effects.push(Effect::Line(line.into_bytes()));
        Ok(())
    }
}

fn expect(holds: bool, what: &str, found: &impl std::fmt::Debug) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("expected {what}, found {found:?}")) }
}

/// Writes a request on one line. What it is about may be empty, or end in a space, and at the end of a line nobody sees one.
pub fn write_request(request: &Request) -> String {
    let text = match request {
        Request::FindUser { local_part, domain: Some(domain) } => format!("find-user {local_part} {domain}"),
        Request::FindUser { local_part, domain: None } => format!("find-user {local_part}"),
        Request::ExpandGroup { name } => format!("expand-group {name}"),
        Request::NextPage => "next-page".into(),
        Request::CheckPassword { user, password } => {
            format!("check-password {} {}", escape::encode(user.as_bytes()), escape::encode(password.as_bytes()))
        }
        Request::ScramFirst { message } => format!("scram-first {}", escape::encode(message.as_bytes())),
        Request::ScramFinal { message } => format!("scram-final {}", escape::encode(message.as_bytes())),
        Request::AdmitClient { address: Some(address) } => format!("admit-client {address}"),
        Request::AdmitClient { address: None } => "admit-client".to_owned(),
        Request::StoreMessage(message) => write_message(message),
    };
    if let Some(start) = text.strip_suffix(' ') { format!("{start}\\x20") } else { text }
}

fn write_message(message: &Message) -> String {
    let recipients: Vec<_> = message.rcpt_to.iter().map(|mailbox| format!("<{mailbox}>")).collect();
    let recipients = escape::join_alike(&recipients);
    let recipients = recipients.iter().flat_map(|(times, text)| std::iter::repeat_n(text.as_str(), *times));
    let subject = message.subject.as_deref();
    let subject =
        subject.map_or("none".into(), |text| format!("{:?}", escape::encode(text.as_bytes())).replace("\\\\", "\\"));
    let asked = [std::slice::from_ref(&message.mail_parameters), &message.rcpt_parameters].concat();
    let parameters = match asked.iter().all(String::is_empty) {
        true => String::new(),
        false => format!(" parameters=[{}]", asked.join("; ")),
    };
    format!(
        "store-message from=<{}> to={} helo={} protocol={} subject={subject} date={} headers={} size={}{parameters}",
        message.mail_from,
        recipients.collect::<Vec<_>>().join(","),
        message.client_name,
        message.protocol,
        message.date.map_or("none".into(), write_date),
        message.header_octets,
        message.octets,
    )
}

fn write_date(date: mailcell_core::Date) -> String {
    let at = jiff::Timestamp::from_second(date.seconds);
    let zone = jiff::tz::Offset::from_seconds(i32::from(date.zone_minutes) * 60);
    let (Ok(at), Ok(zone)) = (at, zone) else { panic!("{date:?} is none") };
    zone.to_datetime(at).strftime("%Y-%m-%dT%H:%M:%S").to_string() + &write_zone(date.zone_minutes)
}

fn write_zone(minutes: i16) -> String {
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}
