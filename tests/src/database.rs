//! The databases that the whole system is tested with.

use crate::mariadb::MariaDb;
use mailcell::store::Options;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// A place for databases, each test with one of its own.
pub enum Database {
    /// Files in a directory.
    Sqlite(TempDir),
    /// A private server.
    MariaDb(MariaDb),
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Database {
    /// A directory for files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn sqlite() -> Result<Database, String> {
        tempfile::tempdir().map(Database::Sqlite).map_err(|error| error.to_string())
    }

    /// A server of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub fn mariadb() -> Result<Database, String> {
        // Large enough for the messages that a session takes by default.
        MariaDb::launch_with(&["--max-allowed-packet=64M"]).map(Database::MariaDb).map_err(|error| error.to_string())
    }

    /// An empty database: its URL, and how it is opened.
    ///
    /// # Errors
    /// When the server does not make it.
    pub fn fresh(&self) -> Result<(String, Options), String> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let url = match self {
            Database::Sqlite(directory) => {
                format!("sqlite:{}", directory.path().join(format!("{number}.db")).display())
            }
            Database::MariaDb(server) => server.database(&format!("t{number}")).map_err(|error| error.to_string())?,
        };
        Ok((url, Options::default()))
    }

    /// Makes every request of a session fail: the database answers, and has no tables any more.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn take_tables_away(&self, url: &str) -> Result<(), String> {
        self.execute(url, "ALTER TABLE users RENAME TO users_away; ALTER TABLE messages RENAME TO messages_away")
    }

    /// Makes the database refuse every message for its content.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn refuse_messages(&self, url: &str) -> Result<(), String> {
        self.execute(
            url,
            match self {
                Database::Sqlite(_) => {
                    "CREATE TRIGGER no BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'no'); END"
                }
                Database::MariaDb(_) => "ALTER TABLE messages ADD CONSTRAINT no CHECK (size < 0)",
            },
        )
    }

    fn execute(&self, url: &str, statements: &str) -> Result<(), String> {
        match self {
            Database::Sqlite(_) => {
                let path = url.strip_prefix("sqlite:").expect("it was made above");
                let connection = rusqlite::Connection::open(path).map_err(|error| error.to_string())?;
                connection.execute_batch(statements).map_err(|error| error.to_string())
            }
            Database::MariaDb(server) => {
                let (_, name) = url.rsplit_once('/').expect("it was made above");
                let sql = format!("USE {name}; {statements}");
                server.sql(&sql).map(drop).map_err(|error| error.to_string())
            }
        }
    }
}
