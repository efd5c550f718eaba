//! Something that speaks the core's events, and a host around it without sockets, clock and database.

use crate::escape;
use mailcell_core::{DataStep, Event, Message, Next, Order, Reply, Request, Response, Session, Step};

/// The largest block of message data that a host hands over at once.
const BLOCK_OCTETS_MAX: usize = 64 << 10;

/// A protocol core: the plain Rust one, or a component.
pub trait Core {
    /// Starts a session; the first call.
    fn open(&mut self, config: &[(String, String)]) -> Step;
    /// A line without its CRLF.
    fn on_line(&mut self, line: &[u8]) -> Step;
    /// A block of message data.
    fn on_data(&mut self, block: &[u8]) -> DataStep;
    /// The answer to the outstanding request.
    fn on_reply(&mut self, reply: Reply) -> Step;
    /// What is neither input nor a reply.
    fn on_event(&mut self, event: Event) -> Step;
}

/// The core as plain Rust.
#[derive(Default)]
pub struct Native(Option<Session>);

impl Native {
    fn session(&mut self) -> &mut Session {
        self.0.as_mut().expect("open comes first")
    }
}

impl Core for Native {
    fn open(&mut self, config: &[(String, String)]) -> Step {
        let (session, step) = Session::open(config);
        self.0 = Some(session);
        step
    }

    fn on_line(&mut self, line: &[u8]) -> Step {
        self.session().on_line(line)
    }

    fn on_data(&mut self, block: &[u8]) -> DataStep {
        self.session().on_data(block.to_vec())
    }

    fn on_reply(&mut self, reply: Reply) -> Step {
        self.session().on_reply(reply)
    }

    fn on_event(&mut self, event: Event) -> Step {
        self.session().on_event(event)
    }
}

/// What a session does to the world outside, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A line to the client, without its CRLF.
    Line(Vec<u8>),
    /// In a transcript only: a whole response with this code, whatever its lines.
    AnyResponse(u16),
    /// The end of the connection.
    Close,
    /// The octets that go with the `store-message` behind them; absent if there are none.
    Message(Vec<u8>),
    /// A request, as [`write_request`] writes it.
    Request(String),
}

/// Frames input, writes responses and holds the message, as the WIT contract asks of a host, and panics when the core
/// breaks that contract.
pub struct ScriptedHost {
    core: Box<dyn Core>,
    next: Next,
    /// What was not read yet.
    input: Vec<u8>,
    /// Whether nothing of the connection was read yet.
    untouched: bool,
    /// Whether the start of the line that is being read was dropped, as it is too long.
    dropping: bool,
    message: Vec<u8>,
    /// The code of a response whose last line is still to come.
    response_open: Option<u16>,
    effects: Vec<Effect>,
}

impl ScriptedHost {
    /// Opens a session.
    pub fn open(mut core: Box<dyn Core>, config: &[(String, String)]) -> ScriptedHost {
        let step = core.open(config);
        let mut host = ScriptedHost {
            core,
            next: Next::Close,
            input: Vec::new(),
            untouched: true,
            dropping: false,
            message: Vec::new(),
            response_open: None,
            effects: Vec::new(),
        };
        host.carry_out(step);
        host
    }

    /// Octets from the client.
    pub fn input(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.run();
    }

    /// The answer to the outstanding request.
    pub fn reply(&mut self, reply: Reply) {
        assert!(self.awaiting().is_some(), "no request is outstanding");
        if matches!(self.next, Next::AwaitReply(Request::StoreMessage(_))) {
            self.message.clear();
        }
        let step = self.core.on_reply(reply);
        self.carry_out(step);
        self.run();
    }

    /// An event of the host's own.
    pub fn event(&mut self, event: Event) {
        let step = self.core.on_event(event);
        self.carry_out(step);
        self.run();
    }

    /// The outstanding request.
    pub fn awaiting(&self) -> Option<&Request> {
        if let Next::AwaitReply(request) = &self.next { Some(request) } else { None }
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        self.next == Next::Close
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
            let step = match self.next {
                Next::ReadLine { octets_max } => match self.frame(octets_max as usize) {
                    Some(Ok(line)) => self.core.on_line(&line),
                    Some(Err(event)) => self.core.on_event(event),
                    None => return,
                },
                Next::ReadData if !self.input.is_empty() => {
                    let block = self.input.len().min(BLOCK_OCTETS_MAX);
                    let data = self.core.on_data(&self.input[..block]);
                    let all = data.consumed == block;
                    assert!(data.consumed <= block, "more was consumed than was given");
                    assert!(all || data.step.next != Next::ReadData, "data is left, and yet more is asked for");
                    self.input.drain(..data.consumed);
                    data.step
                }
                Next::ReadData | Next::AwaitReply(_) | Next::Close => return,
            };
            self.carry_out(step);
        }
    }

    /// A line or the event in the place of one that is too long; nothing while its end has not come.
    fn frame(&mut self, octets_max: usize) -> Option<Result<Vec<u8>, Event>> {
        let first = *self.input.first()?;
        if std::mem::take(&mut self.untouched) && !first.is_ascii_alphabetic() {
            return Some(Ok(self.input.drain(..1).collect()));
        }
        let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") else {
            if self.input.len() >= octets_max {
                // Only a CR at the end can still matter.
                let kept = usize::from(self.input.ends_with(b"\r"));
                self.input.drain(..self.input.len() - kept);
                self.dropping = true;
            }
            return None;
        };
        let line: Vec<u8> = self.input.drain(..end + 2).collect();
        if std::mem::take(&mut self.dropping) || line.len() > octets_max {
            return Some(Err(Event::LineTooLong));
        }
        Some(Ok(line[..end].to_vec()))
    }

    fn carry_out(&mut self, step: Step) {
        for response in &step.responses {
            self.write(response);
        }
        let closes = step.next == Next::Close;
        let says_so = step.responses.iter().any(|response| matches!(response.code, 221 | 421));
        assert_eq!(closes, says_so, "a session ends with 221 or 421 and nothing else: {step:?}");
        for order in &step.orders {
            match order {
                Order::Append(octets) => self.message.extend_from_slice(octets),
                Order::Discard => self.message.clear(),
            }
        }
        match &step.next {
            Next::Close => self.effects.push(Effect::Close),
            Next::AwaitReply(request) => {
                if let Request::StoreMessage(message) = request {
                    assert_eq!(message.octets, self.message.len() as u64, "the core's count of appended octets");
                    assert!(message.header_octets <= message.octets, "a header section longer than its message");
                    let octets = (!self.message.is_empty()).then(|| Effect::Message(self.message.clone()));
                    self.effects.extend(octets);
                }
                self.effects.push(Effect::Request(write_request(request)));
            }
            Next::ReadLine { octets_max } => assert!(*octets_max >= 512, "RFC 5321 4.5.3.1.4"),
            Next::ReadData => {}
        }
        assert!(
            self.response_open.is_none() || matches!(step.next, Next::AwaitReply(Request::NextPage)),
            "a response without a last line: {step:?}"
        );
        self.next = step.next;
    }

    /// Writes a line, and holds the core to what may stand in one.
    fn write(&mut self, response: &Response) {
        let Response { code, enhanced, text, more } = response;
        assert!((200..600).contains(code), "{response:?}");
        assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{response:?}");
        assert!(self.response_open.is_none_or(|open| open == *code), "two codes in one response: {response:?}");
        self.response_open = more.then_some(*code);
        let separator = if *more { '-' } else { ' ' };
        let status = enhanced.map_or(String::new(), |(class, subject, detail)| {
            assert_eq!(u16::from(class), code / 100, "{response:?}");
            format!("{class}.{subject}.{detail} ")
        });
        let line = format!("{code}{separator}{status}{text}");
        assert!(line.len() + 2 <= 512, "RFC 5321 4.5.3.1.5: {response:?}");
        self.effects.push(Effect::Line(line.into_bytes()));
    }
}

/// Writes a request on one line.
pub fn write_request(request: &Request) -> String {
    match request {
        Request::FindUser { local_part, domain: Some(domain) } => format!("find-user {local_part} {domain}"),
        Request::FindUser { local_part, domain: None } => format!("find-user {local_part}"),
        Request::ExpandGroup { name } => format!("expand-group {name}"),
        Request::NextPage => "next-page".into(),
        Request::StoreMessage(message) => write_message(message),
    }
}

fn write_message(message: &Message) -> String {
    let recipients: Vec<_> = message.rcpt_to.iter().map(|mailbox| format!("<{mailbox}>")).collect();
    let recipients = escape::join_alike(&recipients);
    let recipients = recipients.iter().flat_map(|(times, text)| std::iter::repeat_n(text.as_str(), *times));
    let subject = message.subject.as_deref();
    let subject =
        subject.map_or("none".into(), |text| format!("{:?}", escape::encode(text.as_bytes())).replace("\\\\", "\\"));
    format!(
        "store-message from=<{}> to={} helo={} protocol={} subject={subject} date={} headers={} size={}",
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
