//! The embedded store: one SQLite file in WAL mode, `synchronous=FULL`.
//!
//! One thread owns the connection that writes; messages batch there (see [`batch`]), and changes
//! of users run between two batches. Look-ups have connections of their own, so they never wait behind a commit.

mod connections;
mod wal;
mod writer;

use self::writer::Writer;
use super::batch::{self, Queue};
use super::columns::{self, damaged, mailbox};
use super::{Credentials, Group, MailStore, Message, MessageFilter, MessageSummary, Result, StoreError};
use super::{User, UserChange};
use async_trait::async_trait;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params, params_from_iter};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// Connections for look-ups.
const READERS: usize = 2;
/// Octets of a row that SQLite takes (SQLITE_MAX_LENGTH), less what is not header section or body.
const MESSAGE_OCTETS_MAX: u64 = 1_000_000_000 - 512 * 1024;

/// Messages and users in one file.
pub struct SqliteStore {
    queue: Arc<Queue<Writer>>,
    readers: Arc<Readers>,
    deadline: Duration,
    is_writable: bool,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// Opens the file, creating it and its tables if need be. Every later call ends within `deadline`.
///
/// # Errors
/// `Unavailable` when the file cannot be opened or is locked for too long, `Schema` when it is not Mailcell's or newer.
pub async fn open(path: impl AsRef<Path>, deadline: Duration) -> Result<SqliteStore> {
    let path = path.as_ref().to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let name = path.display().to_string();
        connections::open(&path, deadline).map_err(|error| match error {
            StoreError::Unavailable(text) => StoreError::Unavailable(format!("{name}: {text}")),
            StoreError::Schema(text) => StoreError::Schema(format!("{name}: {text}")),
            other => other,
        })
    });
    let (writer, readers) = opened.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
    // SQLite takes a file that may only be read as one that is only read.
    let is_writable = !writer.connection().is_readonly(rusqlite::MAIN_DB).map_err(fault)?;
    let queue = Queue::new(batch::Limits::default());
    let ended = writer::start(Arc::clone(&queue), writer)?;
    let readers = Arc::new(Readers { idle: Mutex::new(readers), free: Arc::new(Semaphore::new(READERS)) });
    Ok(SqliteStore { queue, readers, deadline, is_writable, ended: Mutex::new(Some(ended)) })
}

/// Connections that only read.
struct Readers {
    idle: Mutex<Vec<Connection>>,
    free: Arc<Semaphore>,
}

impl SqliteStore {
    /// Runs a look-up on a connection of its own.
    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let until = Instant::now() + self.deadline;
        let late = || StoreError::Unavailable(format!("no answer within {} s", self.deadline.as_secs_f32()));
        let free = timeout_at(until, Arc::clone(&self.readers.free).acquire_owned()).await;
        let permit = free.map_err(|_| late())?.map_err(|_| StoreError::Unavailable("it is being closed".into()))?;
        let readers = Arc::clone(&self.readers);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit; // also of a look-up that nobody waits for any more
            let idle = || readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(connection) = idle().pop() else {
                return Err(StoreError::Unavailable("it is being closed".into()));
            };
            let found = look(&connection);
            idle().push(connection);
            found.map_err(fault)
        });
        match timeout_at(until, task).await {
            Ok(Ok(found)) => found,
            Ok(Err(panic)) => Err(StoreError::Unavailable(panic.to_string())),
            Err(_) => Err(late()),
        }
    }

    /// Runs a change on the writer's connection.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let deadline = self.deadline;
        self.queue
            .run_task(deadline, move |writer| {
                writer.connection().busy_timeout(deadline).map_err(fault)?;
                change(writer.connection()).map_err(fault)
            })
            .await
    }
}

#[async_trait]
impl MailStore for SqliteStore {
    async fn find_user(&self, local_part: &str, domain: Option<&str>) -> Result<Vec<String>> {
        let (local_part, domain) = (local_part.to_ascii_lowercase(), domain.map(str::to_ascii_lowercase));
        self.read(move |connection| {
            let sql = "SELECT username, domain FROM users WHERE username = ?1 AND domain = coalesce(?2, domain)
                       ORDER BY domain";
            rows(connection, sql, params![local_part, domain], user_mailbox)
        })
        .await
    }

    async fn users_named(&self, local_part: &str, domain: Option<&str>) -> Result<Vec<User>> {
        let (local_part, domain) = (local_part.to_ascii_lowercase(), domain.map(str::to_ascii_lowercase));
        self.read(move |connection| {
            let sql = "SELECT username, domain, mailgroup, password, scram FROM users
                       WHERE username = ?1 AND domain = coalesce(?2, domain) ORDER BY domain LIMIT 2";
            rows(connection, sql, params![local_part, domain], user)
        })
        .await
    }

    async fn expand_group(&self, name: &str) -> Result<Vec<String>> {
        let name = name.to_ascii_lowercase();
        self.read(move |connection| {
            let sql = "SELECT username, domain FROM users WHERE mailgroup = ? ORDER BY username, domain";
            rows(connection, sql, params![name], user_mailbox)
        })
        .await
    }

    fn is_writable(&self) -> bool {
        self.is_writable
    }

    async fn store_message(&self, message: Message) -> Result<()> {
        self.queue.store(message, self.deadline).await
    }

    fn message_octets_max(&self) -> u64 {
        MESSAGE_OCTETS_MAX
    }

    async fn add_user(&self, user: &User) -> Result<()> {
        let user = user.clone();
        let name = mailbox(&user.username, &user.domain);
        let inserted = self.change(move |connection| {
            let credentials = user.credentials.as_ref();
            connection.execute(
                "INSERT INTO users (id, username, domain, mailgroup, password, scram) VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (username, domain) DO NOTHING",
                params![
                    Uuid::now_v7().as_bytes().as_slice(),
                    user.username,
                    user.domain,
                    user.group,
                    credentials.map(|credentials| &credentials.password),
                    credentials.map(|credentials| &credentials.scram),
                ],
            )
        });
        if inserted.await? == 0 { Err(StoreError::Exists(name)) } else { Ok(()) }
    }

    async fn set_user(&self, username: &str, domain: &str, change: &UserChange) -> Result<bool> {
        let (username, domain, change) = (username.to_owned(), domain.to_owned(), change.clone());
        let changed = self.change(move |connection| {
            let credentials = change.credentials.as_ref();
            connection.execute(
                "UPDATE users SET mailgroup = CASE WHEN ?1 THEN ?2 ELSE mailgroup END,
                    password = coalesce(?3, password), scram = coalesce(?4, scram)
                 WHERE username = ?5 AND domain = ?6",
                params![
                    change.group.is_some(),
                    change.group.as_ref().and_then(Option::as_ref),
                    credentials.map(|credentials| &credentials.password),
                    credentials.map(|credentials| &credentials.scram),
                    username,
                    domain,
                ],
            )
        });
        Ok(changed.await? > 0)
    }

    async fn remove_user(&self, username: &str, domain: &str) -> Result<bool> {
        let (username, domain) = (username.to_owned(), domain.to_owned());
        let sql = "DELETE FROM users WHERE username = ? AND domain = ?";
        Ok(self.change(move |connection| connection.execute(sql, params![username, domain])).await? > 0)
    }

    async fn list_users(&self) -> Result<Vec<User>> {
        let sql = "SELECT username, domain, mailgroup, password, scram FROM users ORDER BY domain, username";
        self.read(move |connection| rows(connection, sql, [], user)).await
    }

    async fn list_groups(&self) -> Result<Vec<Group>> {
        let sql = "SELECT mailgroup, count(*) FROM users WHERE mailgroup IS NOT NULL GROUP BY mailgroup
                   ORDER BY mailgroup";
        let group = |row: &Row<'_>| Ok(Group { name: row.get(0)?, members: row.get::<_, i64>(1)?.unsigned_abs() });
        self.read(move |connection| rows(connection, sql, [], group)).await
    }

    async fn list_messages(&self, filter: &MessageFilter) -> Result<Vec<MessageSummary>> {
        let (sql, values) = list_query(filter);
        let found =
            self.read(move |connection| rows(connection, &sql, params_from_iter(values), |row| Ok(summary(row))));
        found.await?.into_iter().collect()
    }

    async fn message(&self, id: Uuid) -> Result<Option<Message>> {
        let sql =
            "SELECT id, mail_from, rcpt_to, subject, date, date_zone, size, received_at, parameters, headers, body,
                   trace
                   FROM messages WHERE id = ?";
        let found = self.read(move |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_row([id.as_bytes().as_slice()], |row| Ok(message(row))).optional()
        });
        found.await?.transpose()
    }

    async fn remove_message(&self, id: Uuid) -> Result<bool> {
        let sql = "DELETE FROM messages WHERE id = ?";
        Ok(self.change(move |connection| connection.execute(sql, [id.as_bytes().as_slice()])).await? > 0)
    }

    async fn close(&self) {
        self.queue.close();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            let _ = tokio::time::timeout(self.deadline, ended).await;
        }
        self.readers.free.close();
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map(params, |row| read(row))?.collect()
}

fn user_mailbox(row: &Row<'_>) -> rusqlite::Result<String> {
    Ok(mailbox(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?))
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    let credentials = Credentials::from_columns(row.get(3)?, row.get(4)?);
    Ok(User { username: row.get(0)?, domain: row.get(1)?, group: row.get(2)?, credentials })
}

/// The query of a filter. `lower` of SQLite knows ASCII only, as the filter wants it.
fn list_query(filter: &MessageFilter) -> (String, Vec<Value>) {
    let mut sql = "SELECT id, mail_from, rcpt_to, subject, date, date_zone, size, received_at, parameters
                   FROM messages WHERE TRUE"
        .to_owned();
    let mut values = Vec::new();
    if let Some(to) = &filter.to {
        sql.push_str(" AND (instr(lower(rcpt_to), ?) OR instr(lower(rcpt_to), ?))");
        values.extend(columns::recipient_needles(to).map(Value::from));
    }
    if let Some(from) = &filter.from {
        sql.push_str(" AND lower(mail_from) = ?");
        values.push(from.to_ascii_lowercase().into());
    }
    if let Some(since) = filter.since {
        sql.push_str(" AND received_at >= ?");
        values.push(columns::micros(since).into());
    }
    sql.push_str(" ORDER BY received_at DESC, id DESC LIMIT ?");
    values.push(filter.limit.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(-1).into());
    (sql, values)
}

fn text(row: &Row<'_>, column: usize) -> Result<String> {
    row.get(column).map_err(|error| damaged("column", &error.to_string()))
}

fn octets(row: &Row<'_>, column: usize) -> Result<Vec<u8>> {
    row.get(column).map_err(|error| damaged("column", &error.to_string()))
}

fn number(row: &Row<'_>, column: usize) -> Result<i64> {
    row.get(column).map_err(|error| damaged("column", &error.to_string()))
}

fn summary(row: &Row<'_>) -> Result<MessageSummary> {
    Ok(MessageSummary {
        id: columns::id(&octets(row, 0)?)?,
        mail_from: text(row, 1)?,
        rcpt_to: columns::parse_recipients(&text(row, 2)?)?,
        subject: row.get(3).map_err(|error| damaged("subject", &error.to_string()))?,
        date: columns::message_date(columns::parse_time(&text(row, 4)?)?, number(row, 5)?)?,
        size: number(row, 6)?.unsigned_abs(),
        received_at: columns::parse_time(&text(row, 7)?)?,
        parameters: row.get(8).map_err(|error| damaged("list of parameters", &error.to_string()))?,
    })
}

fn message(row: &Row<'_>) -> Result<Message> {
    Ok(summary(row)?.with_octets(octets(row, 9)?, octets(row, 10)?, octets(row, 11)?))
}

/// What an error of SQLite means for who asked.
fn fault(error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) => StoreError::Refused(text),
        Some(ErrorCode::DiskFull) => StoreError::Full(text),
        _ => StoreError::Unavailable(text),
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
