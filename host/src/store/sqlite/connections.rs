//! Connections to the file: how they are opened and set up, and the schema's upgrade.

use super::super::schema::{self, Dialect, MIGRATIONS, Migration, State};
use super::super::{Result, StoreError};
use super::writer::Writer;
use super::{READERS, fault, wal};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Of a file that is being created. A commit writes four pages beside those of its messages (the file's header, the ends of the
/// table and of its indexes), so that small ones write less.
const PAGE_OCTETS: u32 = 4 << 10;
/// How long the write-ahead log gets before it is copied into the file, in octets. All wait for that, so it is not much at a time;
/// what is copied seldom flushes less.
const WAL_OCTETS: u32 = 48 << 20;
/// What the write-ahead log shrinks back to, in octets.
const WAL_OCTETS_KEPT: u32 = 64 << 20;

/// The connection that writes, and those that only read.
pub(super) fn open(path: &Path, deadline: Duration) -> Result<(Writer, Vec<Connection>)> {
    create(path);
    // Not by the writer, which would have all that a migration changes in memory.
    let mut first = connect(path, deadline)?;
    upgrade(&mut first, MIGRATIONS)?;
    let writer = connect_to_write(path, deadline)?;
    let mut readers = vec![first];
    while readers.len() < READERS {
        readers.push(connect(path, deadline)?);
    }
    for reader in &readers {
        reader.pragma_update(None, "query_only", true).map_err(fault)?;
    }
    Ok((Writer::new(writer), readers))
}

/// Creates a file that only its owner may read; its log and its index get the same rights. One that is there is not even opened,
/// as closing it would give back the locks that this process has on it. Where it fails, SQLite says why.
fn create(path: &Path) {
    if path != ":memory:" && !path.as_os_str().is_empty() {
        let _ = File::options().write(true).create_new(true).mode(0o600).open(path);
    }
}

fn connect_to_write(path: &Path, deadline: Duration) -> Result<Connection> {
    let writer = wal::open(path, flags()).map_err(fault)?;
    set_up(&writer, deadline)?;
    let page_octets: u32 = writer.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(fault)?;
    writer.pragma_update(None, "wal_autocheckpoint", WAL_OCTETS / page_octets).map_err(fault)?;
    Ok(writer)
}

pub(super) fn connect(path: &Path, deadline: Duration) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags()).map_err(fault)?;
    set_up(&connection, deadline)?;
    Ok(connection)
}

/// A name is that of a file: no URI, which could ask for padding of the log, say.
fn flags() -> OpenFlags {
    OpenFlags::default().difference(OpenFlags::SQLITE_OPEN_URI)
}

fn set_up(connection: &Connection, deadline: Duration) -> Result<()> {
    connection.busy_timeout(deadline).map_err(fault)?;
    connection.pragma_update(None, "page_size", PAGE_OCTETS).map_err(fault)?;
    switch_to_wal(connection, deadline)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(fault)?;
    connection.pragma_update(None, "journal_size_limit", WAL_OCTETS_KEPT).map_err(fault)
}

/// The switch does not wait for other processes by itself, as every other statement does.
fn switch_to_wal(connection: &Connection, deadline: Duration) -> Result<()> {
    let until = std::time::Instant::now() + deadline;
    loop {
        let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => return Err(StoreError::Setting(format!("a file is needed, and this one is kept in {mode}"))),
            Err(error) if is_busy(&error) && std::time::Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(fault(error)),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Brings the schema up to the last of `migrations`; touches nothing when it is there.
pub(super) fn upgrade(connection: &mut Connection, migrations: &[Migration]) -> Result<()> {
    if schema::plan(look(connection)?, migrations)?.is_empty() {
        return Ok(());
    }
    // The lock first, and then another look: a second host may have been quicker.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fault)?;
    for migration in schema::plan(state(&transaction)?, migrations)? {
        for statement in migration.sqlite {
            transaction.execute_batch(statement).map_err(fault)?;
        }
        transaction.execute_batch(&schema::mark_statement(Dialect::Sqlite, migration.version)).map_err(fault)?;
    }
    transaction.commit().map_err(fault)
}

/// In a transaction, as another host may add the tables and their mark meanwhile.
pub(super) fn look(connection: &mut Connection) -> Result<State> {
    state(&connection.transaction().map_err(fault)?)
}

fn state(transaction: &Transaction<'_>) -> Result<State> {
    let mark: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fault)?;
    let exists = |name: &str| {
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?)";
        transaction.query_row(sql, [name], |row| row.get(0)).map_err(fault)
    };
    Ok(State { users: exists("users")?, messages: exists("messages")?, mark: (mark > 0).then_some(mark) })
}
