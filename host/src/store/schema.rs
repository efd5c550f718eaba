//! The two tables, in both dialects, as a list of versions, and the rules of going from one version to another.
//!
//! SQLite keeps the version in `user_version`, and upgrades in one transaction. MySQL keeps it in the comment of
//! `messages` (`mailcell schema 1`) and commits every statement by itself; so `messages` is created first, marked 0,
//! and each version's number is written after its statements. Hosts that start together may run the same
//! statements twice, which is harmless: "is there already" counts as done.

use super::{Result, StoreError};
use std::fmt::Write;

/// Which SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The embedded database.
    Sqlite,
    /// MySQL 8, MariaDB 10.6 and later, and what speaks like them.
    Mysql,
}

/// One version of the schema: what leads to it from the version before.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Counted from 1, without gaps.
    pub version: u32,
    /// For SQLite.
    pub sqlite: &'static [&'static str],
    /// For MySQL; each may be run again after it was run.
    pub mysql: &'static [&'static str],
}

impl Migration {
    fn statements(&self, dialect: Dialect) -> &'static [&'static str] {
        match dialect {
            Dialect::Sqlite => self.sqlite,
            Dialect::Mysql => self.mysql,
        }
    }
}

/// Every version, the oldest first.
pub const MIGRATIONS: &[Migration] = &[MESSAGES_AND_USERS, PARAMETERS];

const MESSAGES_AND_USERS: Migration = Migration {
    version: 1,
    sqlite: &[
        "CREATE TABLE messages (
    id BLOB NOT NULL PRIMARY KEY,
    mail_from TEXT NOT NULL,
    rcpt_to TEXT NOT NULL,
    subject TEXT,
    date TEXT NOT NULL,
    date_zone INTEGER NOT NULL,
    size INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    headers BLOB NOT NULL,
    body BLOB NOT NULL,
    trace BLOB NOT NULL
) STRICT",
        "CREATE INDEX messages_received_at ON messages (received_at)",
        "CREATE TABLE users (
    id BLOB NOT NULL PRIMARY KEY,
    username TEXT NOT NULL,
    domain TEXT NOT NULL,
    mailgroup TEXT,
    password TEXT,
    scram TEXT,
    UNIQUE (username, domain)
) STRICT",
        "CREATE INDEX users_mailgroup ON users (mailgroup)",
    ],
    mysql: &[
        "CREATE TABLE IF NOT EXISTS messages (
    id BINARY(16) NOT NULL,
    mail_from VARBINARY(320) NOT NULL,
    rcpt_to MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    subject MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    date DATETIME NOT NULL,
    date_zone SMALLINT NOT NULL,
    headers LONGBLOB NOT NULL,
    body LONGBLOB NOT NULL,
    trace BLOB NOT NULL,
    size BIGINT NOT NULL,
    received_at DATETIME(6) NOT NULL,
    PRIMARY KEY (id),
    KEY messages_received_at (received_at)
) ENGINE=InnoDB COMMENT='mailcell schema 0'",
        "CREATE TABLE IF NOT EXISTS users (
    id BINARY(16) NOT NULL,
    username VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    domain VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    mailgroup VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    password VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    scram VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    PRIMARY KEY (id),
    UNIQUE KEY users_mailbox (username, domain),
    KEY users_mailgroup (mailgroup)
) ENGINE=InnoDB",
    ],
};

/// What MAIL and RCPT ask of whoever hands the message on.
const PARAMETERS: Migration = Migration {
    version: 2,
    sqlite: &["ALTER TABLE messages ADD COLUMN parameters TEXT"],
    mysql: &["ALTER TABLE messages ADD COLUMN parameters MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL"],
};

/// What is known of a database before it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether there is a table `users`.
    pub users: bool,
    /// Whether there is a table `messages`.
    pub messages: bool,
    /// The version that Mailcell wrote, if it did.
    pub mark: Option<u32>,
}

/// The migrations to run, the oldest first; empty when the schema is current.
///
/// # Errors
/// [`StoreError::Schema`] when the schema is newer than `migrations`, or the tables are not Mailcell's.
pub fn plan(state: State, migrations: &[Migration]) -> Result<&[Migration]> {
    let known = migrations.last().map_or(0, |migration| migration.version);
    let foreign = |table: &str| {
        StoreError::Schema(format!(
            "the database has a table {table} without Mailcell's mark; give Mailcell a database of its own"
        ))
    };
    match state {
        State { mark: Some(mark), .. } if mark > known => Err(StoreError::Schema(format!(
            "the database has schema version {mark} and this Mailcell knows versions up to {known}; upgrade Mailcell"
        ))),
        State { mark: Some(mark), users, messages } if mark > 0 && !(users && messages) => {
            let table = if users { "messages" } else { "users" };
            Err(StoreError::Schema(format!(
                "the database is marked as schema version {mark}, but its table {table} is missing"
            )))
        }
        State { mark: None, messages: true, .. } => Err(foreign("messages")),
        State { mark: None, users: true, .. } => Err(foreign("users")),
        State { mark, .. } => Ok(&migrations[(mark.unwrap_or(0) as usize).min(migrations.len())..]),
    }
}

/// The text of the mark in the comment of MySQL's `messages`.
pub fn mark_text(version: u32) -> String {
    format!("mailcell schema {version}")
}

/// The version in a table comment, `None` for another comment.
pub fn mark_version(comment: &str) -> Option<u32> {
    comment.strip_prefix("mailcell schema ")?.parse().ok()
}

/// The statement that writes the version once its migration has run.
pub fn mark_statement(dialect: Dialect, version: u32) -> String {
    match dialect {
        Dialect::Sqlite => format!("PRAGMA user_version = {version}"),
        Dialect::Mysql => format!("ALTER TABLE messages COMMENT='{}'", mark_text(version)),
    }
}

/// The whole schema as a script, for `mailcell schema print`: run by hand on an empty database, it leaves nothing to
/// do.
pub fn print(dialect: Dialect) -> String {
    let mut script = String::new();
    for migration in MIGRATIONS {
        let _ = writeln!(script, "-- Mailcell, schema version {}", migration.version);
        for statement in migration.statements(dialect) {
            let _ = writeln!(script, "{statement};\n");
        }
        let _ = writeln!(script, "{};", mark_statement(dialect, migration.version));
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_knows_every_state() {
        let all = State { users: true, messages: true, mark: Some(2) };
        assert_eq!(plan(State::default(), MIGRATIONS).unwrap().len(), 2);
        assert_eq!(plan(State { mark: Some(0), ..State::default() }, MIGRATIONS).unwrap().len(), 2);
        assert_eq!(plan(State { mark: Some(1), ..all }, MIGRATIONS).unwrap().len(), 1);
        assert!(plan(all, MIGRATIONS).unwrap().is_empty());
        let says = |state, text: &str| {
            let error = plan(state, MIGRATIONS).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        says(State { mark: Some(7), ..all }, "version 7 and this Mailcell knows versions up to 2; upgrade");
        says(State { mark: None, ..all }, "a table messages without Mailcell's mark");
        says(State { mark: None, messages: false, ..all }, "a table users without Mailcell's mark");
        says(State { users: false, ..all }, "its table users is missing");
    }

    #[test]
    fn marks_are_read_back() {
        assert_eq!(mark_version(&mark_text(12)), Some(12));
        assert_eq!(mark_version("mailcell schema"), None);
        assert_eq!(mark_version("someone else's"), None);
    }

    #[test]
    fn versions_count_from_one() {
        for (i, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, i + 1);
        }
        assert!(print(Dialect::Mysql).contains("COMMENT='mailcell schema 2';"));
        assert!(print(Dialect::Sqlite).contains("PRAGMA user_version = 2;"));
    }
}
