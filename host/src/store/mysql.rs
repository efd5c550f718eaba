//! The store for MySQL and MariaDB, alone or as a cluster that speaks their protocol.
//!
//! Every thread that serves sessions has a writer, so that no message waits for another thread to wake. A writer stores each
//! batch (see [`batch`]) in a transaction. Look-ups and the administrator's changes have a small pool. Every wait has a
//! deadline, and a connection on which one passed is thrown away.

mod doubt;
mod link;
mod pool;
mod upgrade;
mod writer;

use self::doubt::Doubt;
use self::link::{Connector, Fault};
use self::pool::Pool;
use self::writer::Writer;
use super::batch::{self, Queue};
use super::columns::{self, damaged, mailbox};
use super::schema::{MIGRATIONS, Migration};
use super::{Credentials, Group, MailStore, Message, MessageFilter, MessageSummary, Result, StoreError};
use super::{TlsMode, User, UserChange};
use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::DateTime;
use mysql_async::prelude::FromValue;
use mysql_async::{Row, Value};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// What a packet holds beside header section and body, in octets: a hundred of the longest mailboxes in JSON, and once more as they
/// are counted, and a subject of 16 KiB, each octet of which may become three.
const PACKET_RESERVE: u64 = 128 * 1024;

/// How to reach the server.
#[derive(Clone)]
pub struct MysqlOptions {
    /// `mysql://USER[:PASSWORD]@HOST[:PORT]/DATABASE`
    pub url: String,
    /// Takes the place of one in `url`.
    pub password: Option<String>,
    /// How the connection is protected.
    pub tls: TlsMode,
    /// Certificates in PEM form to trust instead of the built-in roots.
    pub ca_file: Option<PathBuf>,
    /// Every call ends within it; a quarter of it is kept for asking again, should an answer be lost.
    pub deadline: Duration,
}

/// Messages and users in a database server.
pub struct MysqlStore {
    connector: Arc<Connector>,
    limits: batch::Limits,
    pool: Pool,
    /// Nothing once it is closed.
    running: Mutex<Option<Running>>,
}

struct Running {
    writers: HashMap<runtime::Id, (Arc<Queue<Writer>>, JoinHandle<Writer>)>,
    doubt: Doubt,
    doubt_task: JoinHandle<()>,
}

/// Looks at the options without connecting.
///
/// # Errors
/// `Setting` for an address that makes no sense.
pub fn check(options: &MysqlOptions) -> Result<()> {
    Connector::new(options).map(drop)
}

/// Connects, and brings the schema up to date.
///
/// # Errors
/// `Setting` for an address that makes no sense, `Unavailable` when the server cannot be reached or refuses the
/// account, `Schema` when the schema is newer or the tables are not Mailcell's.
pub async fn open(options: MysqlOptions) -> Result<MysqlStore> {
    open_with(options, MIGRATIONS).await
}

/// As [`open`], with another list of versions; for tests of upgrades.
pub async fn open_with(options: MysqlOptions, migrations: &[Migration]) -> Result<MysqlStore> {
    let connector = Arc::new(Connector::new(&options)?);
    let name = |text: &str| format!("{}: {text}", connector.server);
    let mut link = match connector.connect(Instant::now() + options.deadline).await {
        Ok(link) => link,
        Err(fault) => return Err(StoreError::Unavailable(name(&open_text(fault)))),
    };
    match upgrade::upgrade(&connector, &mut link, migrations).await {
        Ok(()) => {}
        Err(StoreError::Schema(text)) => return Err(StoreError::Schema(name(&text))),
        Err(StoreError::Unavailable(text)) => return Err(StoreError::Unavailable(name(&text))),
        Err(other) => return Err(other),
    }
    let packet = usize::try_from(connector.packet_octets()).unwrap_or(usize::MAX);
    let defaults = batch::Limits::default();
    let limits = batch::Limits { octets_max: defaults.octets_max.min(packet / 2), ..defaults };
    let (doubt, doubt_task) = Doubt::start(Arc::clone(&connector));
    let running = Mutex::new(Some(Running { writers: HashMap::new(), doubt, doubt_task }));
    Ok(MysqlStore { pool: Pool::new(Arc::clone(&connector), Some(link)), connector, limits, running })
}

impl MysqlStore {
    /// The queue of this thread's writer, which is started when it is first needed.
    fn queue(&self) -> Result<Arc<Queue<Writer>>> {
        let mut running = self.running();
        let Running { writers, doubt, .. } = running.as_mut().ok_or_else(batch::stopped)?;
        let (queue, _) = writers.entry(runtime::Handle::current().id()).or_insert_with(|| {
            let (queue, writer) = (Queue::new(self.limits), Writer::new(Arc::clone(&self.connector), doubt.clone()));
            (Arc::clone(&queue), tokio::spawn(batch::run(queue, writer)))
        });
        Ok(Arc::clone(queue))
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_text(fault: Fault) -> String {
    match fault {
        Fault::Late => "the server does not answer".into(),
        Fault::Denied(text) => format!("the server refuses the account or the database: {text}"),
        Fault::Lost(text) | Fault::Again(text) | Fault::Failed(text) | Fault::Refused(text) | Fault::Full(text) => {
            format!("cannot connect: {text}")
        }
        Fault::Duplicate => "cannot connect".into(),
    }
}

#[async_trait]
impl MailStore for MysqlStore {
    async fn find_user(&self, local_part: &str, domain: Option<&str>) -> Result<Vec<String>> {
        let sql =
            "SELECT username, domain FROM users WHERE username = ? AND domain = COALESCE(?, domain) ORDER BY domain";
        let domain = domain.map(str::to_ascii_lowercase);
        let rows = self.pool.rows(sql, vec![local_part.to_ascii_lowercase().into(), domain.into()]).await?;
        rows.into_iter().map(user_mailbox).collect()
    }

    async fn users_named(&self, local_part: &str, domain: Option<&str>) -> Result<Vec<User>> {
        let sql = "SELECT username, domain, mailgroup, password, scram FROM users
                   WHERE username = ? AND domain = COALESCE(?, domain) ORDER BY domain LIMIT 2";
        let domain = domain.map(str::to_ascii_lowercase);
        let rows = self.pool.rows(sql, vec![local_part.to_ascii_lowercase().into(), domain.into()]).await?;
        rows.into_iter().map(user).collect()
    }

    async fn expand_group(&self, name: &str) -> Result<Vec<String>> {
        let sql = "SELECT username, domain FROM users WHERE mailgroup = ? ORDER BY username, domain";
        let rows = self.pool.rows(sql, vec![name.to_ascii_lowercase().into()]).await?;
        rows.into_iter().map(user_mailbox).collect()
    }

    async fn store_message(&self, message: Message) -> Result<()> {
        self.queue()?.store(message, self.connector.deadline).await
    }

    fn message_octets_max(&self) -> u64 {
        self.connector.packet_octets().saturating_sub(PACKET_RESERVE)
    }

    async fn add_user(&self, user: &User) -> Result<()> {
        let sql = "INSERT INTO users (id, username, domain, mailgroup, password, scram) VALUES (?, ?, ?, ?, ?, ?)";
        let credentials = user.credentials.as_ref();
        let values = vec![
            Value::from(Uuid::now_v7().as_bytes()),
            user.username.as_str().into(),
            user.domain.as_str().into(),
            user.group.as_deref().into(),
            credentials.map(|credentials| credentials.password.as_str()).into(),
            credentials.map(|credentials| credentials.scram.as_str()).into(),
        ];
        match self.pool.change(None, (sql, values)).await {
            Err(StoreError::Exists(_)) => Err(StoreError::Exists(mailbox(&user.username, &user.domain))),
            other => other.map(|_| ()),
        }
    }

    async fn set_user(&self, username: &str, domain: &str, change: &UserChange) -> Result<bool> {
        // Rows affected do not count those that stay the same, so whether the user is there takes a look.
        let guard = "SELECT id FROM users WHERE username = ? AND domain = ? FOR UPDATE";
        let sql = "UPDATE users SET mailgroup = CASE WHEN ? THEN ? ELSE mailgroup END,
                   password = COALESCE(?, password), scram = COALESCE(?, scram) WHERE username = ? AND domain = ?";
        let credentials = change.credentials.as_ref();
        let values = vec![
            i32::from(change.group.is_some()).into(),
            change.group.as_ref().and_then(Option::as_deref).into(),
            credentials.map(|credentials| credentials.password.as_str()).into(),
            credentials.map(|credentials| credentials.scram.as_str()).into(),
            username.into(),
            domain.into(),
        ];
        let guard = (guard, vec![username.into(), domain.into()]);
        Ok(self.pool.change(Some(guard), (sql, values)).await?.is_some())
    }

    async fn remove_user(&self, username: &str, domain: &str) -> Result<bool> {
        let sql = "DELETE FROM users WHERE username = ? AND domain = ?";
        let removed = self.pool.change(None, (sql, vec![username.into(), domain.into()])).await?;
        Ok(removed.is_some_and(|rows| rows > 0))
    }

    async fn list_users(&self) -> Result<Vec<User>> {
        let sql = "SELECT username, domain, mailgroup, password, scram FROM users ORDER BY domain, username";
        self.pool.rows(sql, Vec::new()).await?.into_iter().map(user).collect()
    }

    async fn list_groups(&self) -> Result<Vec<Group>> {
        let sql = "SELECT mailgroup, COUNT(*) FROM users WHERE mailgroup IS NOT NULL GROUP BY mailgroup
                   ORDER BY mailgroup";
        let rows = self.pool.rows(sql, Vec::new()).await?;
        let group = |mut row: Row| Ok(Group { name: take(&mut row, 0)?, members: take(&mut row, 1)? });
        rows.into_iter().map(group).collect()
    }

    async fn list_messages(&self, filter: &MessageFilter) -> Result<Vec<MessageSummary>> {
        let (sql, values) = list_query(filter);
        let rows = self.pool.rows(&sql, values).await?;
        rows.into_iter().map(|mut row| summary(&mut row)).collect()
    }

    async fn message(&self, id: Uuid) -> Result<Option<Message>> {
        let sql =
            "SELECT id, mail_from, rcpt_to, subject, date, date_zone, size, received_at, parameters, headers, body,
                   trace
                   FROM messages WHERE id = ?";
        match self.pool.rows(sql, vec![Value::from(id.as_bytes())]).await?.pop() {
            Some(mut row) => {
                let octets = (take(&mut row, 9)?, take(&mut row, 10)?, take(&mut row, 11)?);
                Ok(Some(summary(&mut row)?.with_octets(octets.0, octets.1, octets.2)))
            }
            None => Ok(None),
        }
    }

    async fn remove_message(&self, id: Uuid) -> Result<bool> {
        let change = ("DELETE FROM messages WHERE id = ?", vec![Value::from(id.as_bytes())]);
        Ok(self.pool.change(None, change).await?.is_some_and(|rows| rows > 0))
    }

    async fn close(&self) {
        let until = Instant::now() + self.connector.deadline;
        let running = self.running().take();
        if let Some(Running { writers, doubt, mut doubt_task }) = running {
            writers.values().for_each(|(queue, _)| queue.close());
            for (_, mut writer) in writers.into_values() {
                if timeout_at(until, &mut writer).await.is_err() {
                    writer.abort();
                }
            }
            drop(doubt);
            if timeout_at(until, &mut doubt_task).await.is_err() {
                doubt_task.abort();
                tracing::warn!("doubtful messages could not be removed; they were named above");
            }
        }
        self.pool.close();
    }
}

impl Drop for MysqlStore {
    fn drop(&mut self) {
        let running = self.running().take();
        running.iter().flat_map(|running| running.writers.values()).for_each(|(queue, _)| queue.close());
    }
}

/// The query of a filter.
fn list_query(filter: &MessageFilter) -> (String, Vec<Value>) {
    let mut sql = "SELECT id, mail_from, rcpt_to, subject, date, date_zone, size, received_at, parameters
                   FROM messages WHERE TRUE"
        .to_owned();
    let mut values = Vec::new();
    if let Some(to) = &filter.to {
        let column = ascii_lower("rcpt_to");
        sql.push_str(&format!(" AND (INSTR({column}, ?) > 0 OR INSTR({column}, ?) > 0)"));
        values.extend(columns::recipient_needles(to).map(|needle| Value::from(needle.into_bytes())));
    }
    if let Some(from) = &filter.from {
        sql.push_str(&format!(" AND {} = ?", ascii_lower("mail_from")));
        values.push(from.to_ascii_lowercase().into_bytes().into());
    }
    if let Some(since) = filter.since {
        sql.push_str(" AND received_at >= ?");
        values.push(columns::micros(since).into());
    }
    sql.push_str(" ORDER BY received_at DESC, id DESC LIMIT ?");
    values.push(filter.limit.unwrap_or(u64::MAX).min(i64::MAX as u64).into());
    (sql, values)
}

/// LOWER would fold letters beyond ASCII too, and does nothing to octets.
fn ascii_lower(column: &str) -> String {
    ('A'..='Z').fold(format!("CAST({column} AS BINARY)"), |inner, letter| {
        format!("REPLACE({inner}, '{letter}', '{}')", letter.to_ascii_lowercase())
    })
}

/// A column's value; the row loses it.
fn take<T: FromValue>(row: &mut Row, column: usize) -> Result<T> {
    match row.take_opt(column) {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(damaged("column", &error.to_string())),
        None => Err(damaged("row", &format!("no column {column}"))),
    }
}

fn take_text(row: &mut Row, column: usize) -> Result<String> {
    String::from_utf8(take(row, column)?).map_err(|error| damaged("text", &error.to_string()))
}

fn take_time(row: &mut Row, column: usize) -> Result<Timestamp> {
    let Value::Date(year, month, day, hour, minute, second, micros) = take(row, column)? else {
        return Err(damaged("time", "another type"));
    };
    let nanos = i32::try_from(micros).unwrap_or(0) * 1000;
    let date = DateTime::new(year as i16, month as i8, day as i8, hour as i8, minute as i8, second as i8, nanos);
    date.map_err(|error| damaged("time", &error.to_string())).and_then(columns::timestamp)
}

fn user_mailbox(mut row: Row) -> Result<String> {
    Ok(mailbox(&take::<String>(&mut row, 0)?, &take::<String>(&mut row, 1)?))
}

fn user(mut row: Row) -> Result<User> {
    Ok(User {
        username: take(&mut row, 0)?,
        domain: take(&mut row, 1)?,
        group: take(&mut row, 2)?,
        credentials: Credentials::from_columns(take(&mut row, 3)?, take(&mut row, 4)?),
    })
}

fn summary(row: &mut Row) -> Result<MessageSummary> {
    Ok(MessageSummary {
        id: columns::id(&take::<Vec<u8>>(row, 0)?)?,
        mail_from: take_text(row, 1)?,
        rcpt_to: columns::parse_recipients(&take_text(row, 2)?)?,
        subject: take(row, 3)?,
        date: columns::message_date(take_time(row, 4)?, take(row, 5)?)?,
        size: take(row, 6)?,
        received_at: take_time(row, 7)?,
        parameters: take(row, 8)?,
    })
}
