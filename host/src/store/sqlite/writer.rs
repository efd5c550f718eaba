//! The thread that writes, and its transactions.

use super::super::batch::{self, Backend, Job, Queue};
use super::super::{Message, Result, StoreError, columns};
use super::fault;
use rusqlite::{Connection, TransactionBehavior, params};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

/// How often the processor is offered to others before each transaction: once is little when there are several.
const YIELDS: usize = 3;
/// How far the thread stands back, as for nice(1): the more messages others bring, the fewer transactions they take. It is
/// still a fourth of a processor that someone else wants all of.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// The thread that writes; the receiver ends when it has finished.
pub(super) fn start(queue: Arc<Queue<Writer>>, writer: Writer) -> Result<oneshot::Receiver<()>> {
    let no_thread = |error: std::io::Error| StoreError::Unavailable(format!("cannot start its thread: {error}"));
    // A runtime of its own, without timers: SQLite blocks, and the thread must be able to end after the server's.
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(no_thread)?;
    let (end, ended) = oneshot::channel();
    let body = move || {
        stand_back();
        let mut writer = runtime.block_on(batch::run(queue, writer));
        writer.undo_now();
        drop(writer);
        let _ = end.send(());
    };
    std::thread::Builder::new().name("sqlite-writer".into()).spawn(body).map_err(no_thread)?;
    Ok(ended)
}

fn stand_back() {
    // Elsewhere it would be the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "the thread that writes keeps its priority");
    }
}

/// The connection that writes.
pub(super) struct Writer {
    connection: Connection,
    /// Committed though their callers had given up; removed as soon as the database lets us.
    undo: Vec<Uuid>,
}

impl Backend for Writer {
    async fn gather(&mut self) {
        // Threads that share a processor with this one are in the middle of other messages.
        for _ in 0..YIELDS {
            std::thread::yield_now();
        }
    }

    async fn commit(&mut self, batch: &mut [Job]) -> Result<Vec<bool>> {
        self.undo_now();
        let latest = batch.iter().map(|job| job.deadline).max().unwrap_or_else(Instant::now);
        let left = latest.saturating_duration_since(Instant::now());
        self.connection.busy_timeout(left).map_err(fault)?;
        insert_all(&mut self.connection, batch)
    }

    async fn undo(&mut self, ids: Vec<Uuid>) {
        self.undo.extend(ids);
        self.undo_now();
    }
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Self {
        Writer { connection, undo: Vec::new() }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn undo_now(&mut self) {
        if self.undo.is_empty() {
            return;
        }
        let removed =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
                for id in &self.undo {
                    transaction.execute("DELETE FROM messages WHERE id = ?", [id.as_bytes().as_slice()])?;
                }
                transaction.commit()
            });
        match removed {
            Ok(()) => self.undo.clear(),
            Err(error) => tracing::warn!(ids = ?self.undo, %error, "messages answered too late are still stored"),
        }
    }
}

fn insert_all(connection: &mut Connection, batch: &[Job]) -> Result<Vec<bool>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fault)?;
    let mut fresh = Vec::with_capacity(batch.len());
    for job in batch {
        fresh.push(!job.cancelled() && insert(&transaction, &job.message).map_err(fault)?);
    }
    for (job, fresh) in batch.iter().zip(&mut fresh) {
        if *fresh && job.cancelled() {
            *fresh = false;
            let id = job.message.id;
            transaction.execute("DELETE FROM messages WHERE id = ?", [id.as_bytes().as_slice()]).map_err(fault)?;
        }
    }
    transaction.commit().map_err(fault)?;
    Ok(fresh)
}

/// Whether the message was not there yet.
fn insert(connection: &Connection, message: &Message) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO messages
         (id, mail_from, rcpt_to, subject, date, date_zone, headers, body, trace, size, received_at, parameters)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
    )?;
    let rows = statement.execute(params![
        message.id.as_bytes().as_slice(),
        message.mail_from,
        columns::recipients(&message.rcpt_to),
        message.subject,
        columns::date(message),
        message.date.zone_minutes,
        message.headers,
        message.body,
        message.trace,
        (message.headers.len() + message.body.len()) as i64,
        columns::micros(message.received_at),
        message.parameters,
    ])?;
    Ok(rows == 1)
}
