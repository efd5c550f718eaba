//! The boundary in plain Rust: the events of a session and the effects of each. `wit/mailcell.wit` says the same in
//! WIT, and is where each case is explained.

use std::borrow::Cow;

/// A class, a subject and a detail, as `5.1.1`. RFC 3463.
pub type EnhancedStatus = (u8, u16, u16);

/// One line for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// From 200 to 599.
    pub code: u16,
    /// Absent in sessions greeted by HELO.
    pub enhanced: Option<EnhancedStatus>,
    /// Printable, without code and line end.
    pub text: Cow<'static, str>,
    /// Whether further lines of this response follow.
    pub more: bool,
}

/// The date of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Minutes east of UTC.
    pub zone_minutes: i16,
}

/// What is known of a complete message beside its octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Empty for the null path.
    pub mail_from: String,
    /// In order, as sent.
    pub rcpt_to: Vec<String>,
    /// Parameters of MAIL for whoever hands the message on, with a space between.
    pub mail_parameters: String,
    /// Those of each RCPT; empty when none has any.
    pub rcpt_parameters: Vec<String>,
    /// The argument of HELO or EHLO.
    pub client_name: String,
    /// `SMTP`, `ESMTP`, or another name of the registry.
    pub protocol: Cow<'static, str>,
    /// The first `Subject`, decoded.
    pub subject: Option<String>,
    /// The first `Date`, if it is one.
    pub date: Option<Date>,
    /// Octets of the header section, the empty line included.
    pub header_octets: u64,
    /// Octets appended in all.
    pub octets: u64,
}

/// What the core asks and waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The mailboxes of a user, in lower case; of every domain if none is given.
    FindUser {
        /// The name before the `@`.
        local_part: String,
        /// The name behind it.
        domain: Option<String>,
    },
    /// The mailboxes of a mailing group, in lower case.
    ExpandGroup {
        /// The group's name.
        name: String,
    },
    /// The page behind the one last given.
    NextPage,
    /// Whether a user has this password.
    CheckPassword {
        /// As the client says it.
        user: String,
        /// In the clear.
        password: String,
    },
    /// Begin SCRAM-SHA-256 with the client's first message.
    ScramFirst {
        /// As RFC 5802 7 has it.
        message: String,
    },
    /// End it with the client's last message.
    ScramFinal {
        /// As RFC 5802 7 has it.
        message: String,
    },
    /// Count and name the session as another client's.
    AdmitClient {
        /// The client's IP address; that of the peer if it is not known.
        address: Option<String>,
    },
    /// Make durable what was appended.
    StoreMessage(Box<Message>),
}

/// What the core tells the host to do without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Add octets to the message.
    Append(Vec<u8>),
    /// Forget what was appended.
    Discard,
}

/// A part of a list of mailboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxPage {
    /// Each `local-part@domain`.
    pub mailboxes: Vec<String>,
    /// Whether [`Request::NextPage`] gives further ones.
    pub more: bool,
    /// Whether all of the list is ASCII.
    pub is_ascii: bool,
}

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `local-part@domain`.
    pub user: String,
    /// By SCRAM the server's last message; empty otherwise.
    pub server_final: String,
}

/// The host's answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a look-up.
    Mailboxes(MailboxPage),
    /// The message is durable under this id.
    Stored(String),
    /// The database does not answer.
    Unavailable,
    /// No room to hold the message.
    OutOfSpace,
    /// The database does not take this message.
    Refused,
    /// The client is this user.
    Authenticated(Identity),
    /// It is not.
    NotAuthenticated,
    /// What the server says next by SCRAM.
    ScramChallenge(String),
    /// The session is that client's.
    Admitted,
    /// That client has too many connections.
    NotAdmitted,
}

/// What happened that is neither input nor a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A line longer than asked for was dropped.
    LineTooLong,
    /// Nothing complete came for too long.
    IdleTimeout,
    /// The session has lasted too long.
    SessionExpired,
    /// The server is stopping.
    Drain,
    /// TLS has begun, as [`Next::StartTls`] asked.
    TlsEstablished,
    /// Something of a later contract; nothing comes of it.
    Unknown,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// One line of at most so many octets, CRLF counted.
    ReadLine {
        /// The bound.
        octets_max: u32,
        /// Whether the line is a secret that logs and recordings must mask.
        secret: bool,
    },
    /// Blocks of message data.
    ReadData,
    /// The reply to this request.
    AwaitReply(Request),
    /// [`Event::TlsEstablished`].
    StartTls,
    /// The end of the session.
    Close,
}

/// The effects of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Lines for the client, in order.
    pub responses: Vec<Response>,
    /// To be carried out in order, before the request in `next`.
    pub orders: Vec<Order>,
    /// What happens next.
    pub next: Next,
}

/// What a session is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A line without its CRLF, while [`Next::ReadLine`] is due.
    Line(Cow<'a, [u8]>),
    /// A block of message data, while [`Next::ReadData`] is due. A core may take its memory for the orders that it gives.
    Data(Cow<'a, [u8]>),
    /// The answer to the outstanding request.
    Reply(Cow<'a, Reply>),
    /// What is neither input nor a reply.
    Event(Event),
}

/// What a session does about an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Octets that were read of [`Input::Data`]; 0 for everything else.
    pub consumed: usize,
    /// The effects.
    pub step: Step,
}

/// Keys and values, as a session is opened with.
pub type Config = [(String, String)];

/// What host and core must agree on wherever a session changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// What is due.
    pub due: Due,
    /// Octets appended to the message since it began, was discarded or was stored.
    pub octets: u64,
}

/// What a session waits for: a [`Next`] without the request itself, which is the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// See [`Next::ReadLine`].
    Line {
        /// The bound, CRLF counted.
        octets_max: u32,
        /// Whether it is a secret.
        secret: bool,
    },
    /// See [`Next::ReadData`].
    Data,
    /// See [`Next::AwaitReply`].
    Reply,
    /// See [`Next::StartTls`].
    Tls,
}

/// The layouts of saved sessions that a core knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schemas {
    /// What it writes, the preferred one first.
    pub writes: Vec<u32>,
    /// What it reads.
    pub reads: Vec<u32>,
}

/// A session as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it stands.
    pub position: Position,
    /// Everything else that the core knows of it.
    pub state: Vec<u8>,
}

/// A protocol core: [`crate::Session`], or one that is built around it. `export_core!` makes a component of it.
pub trait Core {
    /// Starts a session.
    fn open(config: &Config) -> (Self, Step)
    where
        Self: Sized;

    /// Tells the session what happened.
    ///
    /// # Panics
    /// When something else is due.
    fn deliver(&mut self, input: Input<'_>) -> Answer;

    /// The layouts that [`Core::save`] and [`Core::restore`] know.
    fn schemas() -> Schemas
    where
        Self: Sized;

    /// Gives the session in a layout of [`Schemas::writes`].
    ///
    /// # Panics
    /// On another layout, and when the session is over.
    fn save(&self, schema: u32) -> Snapshot;

    /// Takes a session over.
    ///
    /// # Errors
    /// When the state is none of that layout.
    fn restore(config: &Config, schema: u32, state: &[u8]) -> Result<(Self, Position), String>
    where
        Self: Sized;
}

impl Next {
    /// What is due; nothing at the end.
    pub fn due(&self) -> Option<Due> {
        match *self {
            Next::ReadLine { octets_max, secret } => Some(Due::Line { octets_max, secret }),
            Next::ReadData => Some(Due::Data),
            Next::AwaitReply(_) => Some(Due::Reply),
            Next::StartTls => Some(Due::Tls),
            Next::Close => None,
        }
    }
}

impl MailboxPage {
    /// A page; those behind it are ASCII if it is.
    pub fn new(mailboxes: Vec<String>, more: bool) -> MailboxPage {
        let is_ascii = mailboxes.iter().all(|mailbox| mailbox.is_ascii());
        MailboxPage { mailboxes, more, is_ascii }
    }
}

impl From<Step> for Answer {
    fn from(step: Step) -> Answer {
        Answer { consumed: 0, step }
    }
}

impl Step {
    /// No effect but what happens next.
    pub(crate) const fn nothing(next: Next) -> Step {
        Step { responses: Vec::new(), orders: Vec::new(), next }
    }
}
