//! Where mail is kept: two stores behind one trait, [`sqlite`] embedded and [`mysql`] for MySQL and MariaDB. Only these
//! two files hold SQL.

pub mod batch;
pub mod mysql;
pub mod sqlite;

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or did not answer in time; a later try may succeed.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database answered, and does not take this.
    #[error("the database refused: {0}")]
    Refused(String),
    /// A user of that name is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// The schema is not one that this version can use.
    #[error("{0}")]
    Schema(String),
}

/// What a store gives.
pub type Result<T> = std::result::Result<T, StoreError>;

/// When the author wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageDate {
    /// In UTC, to the second.
    pub at: Timestamp,
    /// The zone it was written in, in minutes east of UTC.
    pub zone_minutes: i16,
}

/// A complete message: what is stored, and what is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// A UUIDv7 made by the host: storing it twice under one id stores it once.
    pub id: Uuid,
    /// The reverse path's mailbox as sent, empty for the null path.
    pub mail_from: String,
    /// The forward paths' mailboxes as sent, in order.
    pub rcpt_to: Vec<String>,
    /// The decoded subject.
    pub subject: Option<String>,
    /// The `Date` field, or the time of arrival.
    pub date: MessageDate,
    /// The header section as received, the empty line included.
    pub headers: Vec<u8>,
    /// What follows the header section, as received.
    pub body: Vec<u8>,
    /// The `Return-Path` and `Received` lines.
    pub trace: Vec<u8>,
    /// To the microsecond.
    pub received_at: Timestamp,
}

/// A message without its octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageSummary {
    /// See [`Message::id`].
    pub id: Uuid,
    /// See [`Message::mail_from`].
    pub mail_from: String,
    /// See [`Message::rcpt_to`].
    pub rcpt_to: Vec<String>,
    /// See [`Message::subject`].
    pub subject: Option<String>,
    /// See [`Message::date`].
    pub date: MessageDate,
    /// Octets of header section and body together.
    pub size: u64,
    /// See [`Message::received_at`].
    pub received_at: Timestamp,
}

/// Which messages to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// One of the recipients, in any ASCII letter case.
    pub to: Option<String>,
    /// The sender, in any ASCII letter case.
    pub from: Option<String>,
    /// Received at this time or later.
    pub since: Option<Timestamp>,
    /// At most so many, the latest; all without.
    pub limit: Option<u64>,
}

/// What a password becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// An argon2id hash in PHC form.
    pub password: String,
    /// SCRAM-SHA-256 material: salt, iterations, StoredKey and ServerKey in one text.
    pub scram: String,
}

/// A user. Names are in ASCII lower case, the local part quoted only if it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The local part.
    pub username: String,
    /// The domain.
    pub domain: String,
    /// The mailing group.
    pub group: Option<String>,
    /// Never listed: only whether they are there.
    pub credentials: Option<Credentials>,
}

/// A change of a user; `None` leaves a column as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserChange {
    /// `Some(None)` takes the user out of its group.
    pub group: Option<Option<String>>,
    /// A password.
    pub credentials: Option<Credentials>,
}

/// A mailing group and how many members it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// In ASCII lower case.
    pub name: String,
    /// At least one: a group exists while it has members.
    pub members: u64,
}

/// A database that holds users and messages. Every call ends within the store's deadline.
#[async_trait]
pub trait MailStore: Send + Sync + 'static {
    /// The mailboxes `local-part@domain` of a user, ordered by domain; of every domain if none is given.
    async fn find_user(&self, local_part: &str, domain: Option<&str>) -> Result<Vec<String>>;
    /// The mailboxes of a mailing group, ordered by user name and domain; empty when there is none.
    async fn expand_group(&self, name: &str) -> Result<Vec<String>>;
    /// Makes a message durable. The same id twice is stored once.
    async fn store_message(&self, message: Message) -> Result<()>;
    /// The largest message in octets that the database takes.
    fn message_octets_max(&self) -> u64;

    /// Adds a user, or says that it [exists](StoreError::Exists).
    async fn add_user(&self, user: &User) -> Result<()>;
    /// Changes a user; `false` when there is none.
    async fn set_user(&self, username: &str, domain: &str, change: &UserChange) -> Result<bool>;
    /// Removes a user; `false` when there is none.
    async fn remove_user(&self, username: &str, domain: &str) -> Result<bool>;
    /// All users, ordered by domain and name. Credentials hold what is in the database.
    async fn list_users(&self) -> Result<Vec<User>>;
    /// All groups, ordered by name.
    async fn list_groups(&self) -> Result<Vec<Group>>;
    /// The messages of a filter, the latest first.
    async fn list_messages(&self, filter: &MessageFilter) -> Result<Vec<MessageSummary>>;
    /// One message.
    async fn message(&self, id: Uuid) -> Result<Option<Message>>;
    /// Removes a message; `false` when there is none.
    async fn remove_message(&self, id: Uuid) -> Result<bool>;

    /// Finishes what is queued and lets go of the database.
    async fn close(&self);
}
