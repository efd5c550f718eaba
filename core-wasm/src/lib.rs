//! The SMTP protocol of Mailcell as a state machine over events, without input or output.
//!
//! Rules that hold everywhere in this crate:
//!
//! 1. The same events give the same effects. There is no clock, no randomness, no thread, no file and no map with
//!    an order of its own; `clippy.toml` forbids them.
//! 2. Every event gives one [`Step`]: responses, orders and exactly one [`Next`].
//! 3. A client's mistake is a response. A host's misuse (a line while a request is outstanding) is a panic, which the
//!    host sees as a trap and which costs this session only.
//! 4. Nothing grows with the message: its octets pass through, and only the first `Subject` and `Date` are kept, up to
//!    [`limits`].
//! 5. What a client or the database supplied never puts a control character into a response.
//!
//! Obeyed: RFC 5321 (SMTP), 2033 (LMTP), 1870 (SIZE), 2034 and 3463 (enhanced status codes), 2920 (pipelining), 3030 (CHUNKING,
//! BINARYMIME), 3207 (STARTTLS), 3461 (DSN), 3848 (names of protocols), 6152 (8BITMIME), 6531 (SMTPUTF8), 8689 (REQUIRETLS),
//! 9422 (LIMITS), 4954, 4616, 5802 and 7677 (AUTH), 5322 and 2047 (header section).
//!
//! | file | what it is |
//! |---|---|
//! | `step` | the boundary in plain Rust: events in, effects out |
//! | `session` | the session: check, parse, carry out |
//! | `session/auth` | AUTH |
//! | `session/chunks` | BDAT |
//! | `session/hello` | how a session begins: HELO, EHLO, LHLO, STARTTLS |
//! | `session/lookup` | VRFY and EXPN |
//! | `session/message` | the end of a message |
//! | `session/recipient` | RCPT: whom mail is accepted for |
//! | `session/sender` | MAIL, and what it begins |
//! | `session/snapshot` | a session as bytes and back |
//! | `session/xclient` | XCLIENT |
//! | `sequence` | which command is allowed in which state: one table |
//! | `command` | verbs, their syntax and help: one table |
//! | `responses` | everything the server says: one table |
//! | `address` | paths, mailboxes, domains |
//! | `extensions` | EHLO keywords, parameters of MAIL and RCPT |
//! | `reading` | a message while it is received |
//! | `data` | message octets: end of data, dots, line ends |
//! | `octets` | loops over every octet of a message |
//! | `content` | header section: subject, date, where the body starts |
//! | `limits` | every bound |
//! | `component` | the skin towards WebAssembly |
//! | `shelves` | small blocks of memory that are used again |

pub mod address;
pub mod command;
mod content;
mod data;
mod extensions;
pub mod limits;
mod octets;
mod reading;
pub mod responses;
pub mod sequence;
mod session;
mod settings;
#[cfg(any(target_arch = "wasm32", test))]
#[allow(unsafe_code, reason = "it is an allocator")]
mod shelves;
mod step;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(unsafe_code, reason = "the generated export glue needs it")]
pub mod component;

#[cfg(all(target_arch = "wasm32", feature = "component"))]
export_core!(Session);

pub use session::Session;
pub use step::{
    Answer, Config, Core, Date, Due, EnhancedStatus, Event, Identity, Input, MailboxPage, Message, Next, Order,
    Position, Reply, Request, Response, Schemas, Snapshot, Step,
};
