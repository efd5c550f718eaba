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
    /// The argument of HELO or EHLO.
    pub client_name: String,
    /// `SMTP` or `ESMTP`.
    pub protocol: &'static str,
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
    /// Make durable what was appended.
    StoreMessage(Message),
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
    },
    /// Blocks of message data.
    ReadData,
    /// The reply to this request.
    AwaitReply(Request),
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

/// The effects of a block of message data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataStep {
    /// Octets of the block that were read.
    pub consumed: usize,
    /// The effects.
    pub step: Step,
}

impl Step {
    /// No effect but what happens next.
    pub(crate) const fn nothing(next: Next) -> Step {
        Step { responses: Vec::new(), orders: Vec::new(), next }
    }
}
