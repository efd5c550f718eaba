//! Where mail is kept: two stores behind one trait, [`sqlite`] embedded and [`mysql`] for MySQL and MariaDB, and
//! [`discard`] for measuring. Only the first two and the tables in [`schema`] hold SQL; [`batch`] lets many sessions share a commit.

pub mod batch;
mod columns;
pub mod discard;
pub mod mysql;
pub mod schema;
pub mod sqlite;

use async_trait::async_trait;
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or did not answer in time; a later try may succeed.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database answered, and does not take this.
    #[error("the database refused: {0}")]
    Refused(String),
    /// There is no room for it now.
    #[error("the database has no room: {0}")]
    Full(String),
    /// A user of that name is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// The schema is not one that this version can use.
    #[error("{0}")]
    Schema(String),
    /// The address or a setting makes no sense; only [`open`] says so.
    #[error("{0}")]
    Setting(String),
}

/// What a store gives.
pub type Result<T> = std::result::Result<T, StoreError>;

/// How the connection to a database server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// In the clear.
    #[default]
    Disabled,
    /// TLS; the certificate and the name are verified against the CA file, or the built-in roots without one.
    Required,
    /// TLS against eavesdropping only: nothing is verified.
    Insecure,
}

/// How to open a store, beside its address.
#[derive(Clone)]
pub struct Options {
    /// Every call ends within it.
    pub deadline: Duration,
    /// Of the database account; it takes the place of one in the address.
    pub password: Option<String>,
    /// For [`mysql`].
    pub tls: TlsMode,
    /// Certificates in PEM form that [`TlsMode::Required`] trusts, instead of the built-in roots.
    pub ca_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options { deadline: Duration::from_secs(20), password: None, tls: TlsMode::default(), ca_file: None }
    }
}

/// Opens a store by its address, `sqlite:PATH` or `mysql://USER[:PASSWORD]@HOST[:PORT]/DATABASE`, and brings its schema
/// up to date. `discard:` keeps nothing.
///
/// # Errors
/// `Setting` for another address, `Schema` for a database that is not Mailcell's or newer, `Unavailable` otherwise.
pub async fn open(url: &str, options: &Options) -> Result<Arc<dyn MailStore>> {
    Ok(match Address::of(url, options)? {
        Address::Sqlite(path) => Arc::new(sqlite::open(path, options.deadline).await?),
        Address::Mysql(options) => Arc::new(mysql::open(options).await?),
        Address::Discard => Arc::new(discard::Discard),
    })
}

/// Looks at an address without opening anything.
///
/// # Errors
/// `Setting` when it is none.
pub fn check(url: &str, options: &Options) -> Result<()> {
    match Address::of(url, options)? {
        Address::Mysql(options) => mysql::check(&options),
        Address::Sqlite(_) | Address::Discard => Ok(()),
    }
}

/// Where messages go.
enum Address<'a> {
    Sqlite(&'a str),
    Mysql(mysql::MysqlOptions),
    Discard,
}

impl Address<'_> {
    fn of<'a>(url: &'a str, options: &Options) -> Result<Address<'a>> {
        if let Some(path) = url.strip_prefix("sqlite:").filter(|path| !path.is_empty()) {
            return Ok(Address::Sqlite(path));
        }
        if url.starts_with("mysql://") {
            let Options { deadline, password, tls, ca_file } = options.clone();
            return Ok(Address::Mysql(mysql::MysqlOptions { url: url.to_owned(), password, tls, ca_file, deadline }));
        }
        if url == "discard:" {
            return Ok(Address::Discard);
        }
        // Not the address itself: it may hold a password.
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let expected = "a database address is sqlite:PATH or mysql://USER@HOST/DATABASE";
        Err(StoreError::Setting(format!("{expected}, not {scheme:?}")))
    }
}

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
    /// What MAIL and RCPT asked of whoever hands the message on, if they did: a JSON object of `mail`, a text, and `rcpt`, a
    /// list of one text for each recipient.
    pub parameters: Option<String>,
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
    /// See [`Message::parameters`].
    pub parameters: Option<String>,
}

impl MessageSummary {
    /// The message, with its octets.
    fn with_octets(self, headers: Vec<u8>, body: Vec<u8>, trace: Vec<u8>) -> Message {
        let MessageSummary { id, mail_from, rcpt_to, subject, date, received_at, parameters, .. } = self;
        Message { id, mail_from, rcpt_to, subject, date, headers, body, trace, received_at, parameters }
    }
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

impl Credentials {
    fn from_columns(password: Option<String>, scram: Option<String>) -> Option<Self> {
        (password.is_some() || scram.is_some())
            .then(|| Credentials { password: password.unwrap_or_default(), scram: scram.unwrap_or_default() })
    }
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
    /// The users of that name with their credentials, at most two; of every domain if none is given.
    async fn users_named(&self, local_part: &str, domain: Option<&str>) -> Result<Vec<User>>;
    /// The mailboxes of a mailing group, ordered by user name and domain; empty when there is none.
    async fn expand_group(&self, name: &str) -> Result<Vec<String>>;
    /// Whether messages can be stored at all.
    fn is_writable(&self) -> bool {
        true
    }
    /// Makes a message durable. The same id twice is stored once.
    async fn store_message(&self, message: Message) -> Result<()>;
    /// The largest message in octets that the database takes.
    fn message_octets_max(&self) -> u64;
    /// Whether the octets of messages are looked at; if not, they need not be there.
    fn takes_octets(&self) -> bool {
        true
    }

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

/// A message to store, with a body.
#[cfg(test)]
fn sample(body: &[u8]) -> Message {
    Message {
        id: Uuid::now_v7(),
        mail_from: "Alice@Client.test".into(),
        rcpt_to: vec!["Bob@mx.test".into(), "carol@mx.test".into()],
        subject: Some("Grüße".into()),
        date: MessageDate { at: Timestamp::constant(1_700_000_000, 0), zone_minutes: -330 },
        headers: b"Subject: Gr\xfc\xdfe\r\n\r\n".to_vec(),
        body: body.to_vec(),
        trace: b"Return-Path: <Alice@Client.test>\r\n".to_vec(),
        received_at: Timestamp::constant(1_700_000_001, 123_456_000),
        parameters: Some(r#"{"mail":"RET=FULL","rcpt":["NOTIFY=NEVER",""]}"#.into()),
    }
}
