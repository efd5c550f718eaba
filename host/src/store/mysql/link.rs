//! One connection to the server, with a deadline on every wait.
//!
//! mysql_async has no timeouts. A connection on which a wait was cut short or failed is *broken*: it is closed without
//! a word, never used again.

use super::super::batch::Limits;
use super::super::{Result, StoreError, TlsMode};
use super::MysqlOptions;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Params, Row, ServerError, SslOpts};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// How long an idle connection is trusted: less than what firewalls and servers commonly allow.
const IDLE_MAX: Duration = Duration::from_secs(240);
/// How long the server keeps a connection that says nothing, and the locks of one that died.
const SERVER_IDLE_SECONDS_MAX: u64 = 300;
const KEEPALIVE: Duration = Duration::from_secs(30);
/// What the driver accepts from the server, in octets: the most that a server can be set to. What we send is
/// checked against the server's own limit, before sending.
const RECEIVE_OCTETS_MAX: usize = 1 << 30;

/// Why a statement failed, by what can be done about it. Nothing was committed, unless the statement was COMMIT.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is gone; another one may do.
    Lost(String),
    /// The server took the transaction back; the same again may go through.
    Again(String),
    /// The time is up.
    Late,
    /// The row is at fault.
    Refused(String),
    /// There is no room for the row.
    Full(String),
    /// A unique key is taken.
    Duplicate,
    /// The account may not do this, or not even connect.
    Denied(String),
    /// Anything else.
    Failed(String),
}

impl Fault {
    fn of(error: &Error) -> Fault {
        let Error::Server(ServerError { code, message, state }) = error else {
            return Fault::Lost(error.to_string());
        };
        let text = format!("{message} (error {code})");
        match code {
            // Deadlock, lock wait; certification conflict (Galera, group replication, TiDB).
            1205 | 1213 | 3101 | 9007 => Fault::Again(text),
            // Shutting down, killed, idle for too long; read-only after a failover; a node that its cluster left behind (Galera),
            // where another connection may reach one that is ready. What such a node sent at COMMIT before it failed (1180) the
            // others may have committed.
            1053 | 1927 | 4031 | 1290 | 1836 | 1047 | 1180 => Fault::Lost(text),
            1062 => Fault::Duplicate,
            // Of the disk, of a table.
            1021 | 1114 => Fault::Full(text),
            1044 | 1045 | 1049 | 1142 | 1143 | 1227 | 1698 | 3118 | 3879 | 4151 => Fault::Denied(text),
            // Null, row size, packet size, range, invalid characters, wrong value, too long, JSON, SIGNAL, CHECK; a transaction
            // or a row that is too large (TiDB).
            1048 | 1118 | 1153 | 1264 | 1292 | 1300 | 1301 | 1366 | 1406 | 1644 | 3140 | 3819 | 4025 | 8004 | 8025 => {
                Fault::Refused(text)
            }
            // What a trigger or a constraint of the administrator's says has any number: data exceptions, violated constraints,
            // SIGNAL.
            _ if ["22", "23", "45"].iter().any(|class| state.starts_with(class)) => Fault::Refused(text),
            _ => Fault::Failed(text),
        }
    }

    /// Whether the connection answered, so that it can go on after a ROLLBACK.
    fn leaves_link(&self) -> bool {
        !matches!(self, Fault::Lost(_) | Fault::Late)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(text) => StoreError::Refused(text),
            Fault::Full(text) => StoreError::Full(text),
            Fault::Duplicate => StoreError::Refused("a key is there already".into()),
            Fault::Late => StoreError::Unavailable("no answer in time".into()),
            Fault::Lost(text) | Fault::Again(text) | Fault::Denied(text) | Fault::Failed(text) => {
                StoreError::Unavailable(text)
            }
        }
    }
}

/// What came of a COMMIT.
pub(super) enum Commit {
    Done,
    /// Certainly taken back by the server.
    Not(Fault),
    /// The answer was lost, or says nothing.
    Doubtful(Fault),
}

/// Makes connections.
pub(super) struct Connector {
    opts: Opts,
    /// `HOST:PORT/DATABASE`, for texts.
    pub(super) server: String,
    pub(super) deadline: Duration,
    packet_octets: AtomicU64,
    /// One attempt at a time: servers block a host after many interrupted handshakes, which is what attempts to
    /// reach a frozen server are.
    gate: Mutex<()>,
}

impl Connector {
    pub(super) fn new(options: &MysqlOptions) -> Result<Self> {
        let unclear = |what: &str| StoreError::Setting(format!("the database address {what}"));
        if options.url.contains('?') {
            return Err(unclear("takes no parameters; use the settings"));
        }
        let url = Opts::from_url(&options.url).map_err(|error| unclear(&format!("cannot be read: {error}")))?;
        let database = url.db_name().filter(|name| !name.is_empty()).ok_or_else(|| unclear("names no database"))?;
        let user = url.user().ok_or_else(|| unclear("names no user"))?;
        let host = url.ip_or_hostname().trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = format!("{}:{}/{database}", url.ip_or_hostname(), url.tcp_port());
        // Not the parsed URL itself: the driver resolves the name in that one with a blocking call.
        let opts = OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(url.tcp_port())
            .user(Some(user))
            .pass(options.password.as_deref().or(url.pass()))
            .db_name(Some(database))
            .ssl_opts(tls(options))
            .prefer_socket(false)
            .tcp_keepalive(Some(KEEPALIVE))
            .max_allowed_packet(Some(RECEIVE_OCTETS_MAX))
            .wait_timeout(Some(28_800))
            // One for each count of rows that a batch may have, and a few others.
            .stmt_cache_size(Some(Limits::default().rows_max + 8));
        Ok(Connector {
            opts: opts.into(),
            server,
            deadline: options.deadline,
            packet_octets: AtomicU64::new(0),
            gate: Mutex::new(()),
        })
    }

    /// The server's `max_allowed_packet` as of the latest connect, in octets.
    pub(super) fn packet_octets(&self) -> u64 {
        self.packet_octets.load(Ordering::Relaxed)
    }

    pub(super) async fn connect(&self, until: Instant) -> std::result::Result<Link, Fault> {
        let _gate = timeout_at(until, self.gate.lock()).await.map_err(|_| Fault::Late)?;
        let conn = match timeout_at(until, Conn::new(self.opts.clone())).await {
            Ok(conn) => conn.map_err(|error| Fault::of(&error))?,
            Err(_) => return Err(Fault::Late),
        };
        let mut link = Link { conn, broken: false, used: Instant::now() };
        let lock_wait = self.deadline.as_secs().clamp(1, 3600);
        link.run("SET NAMES utf8mb4 COLLATE utf8mb4_bin", until).await?;
        // Statements of a connection that we gave up must not wait for locks longer than we would have.
        let session = format!(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,\
             NO_ENGINE_SUBSTITUTION', SESSION time_zone = '+00:00', SESSION autocommit = 1, \
             SESSION innodb_lock_wait_timeout = {lock_wait}, SESSION lock_wait_timeout = {lock_wait}, \
             SESSION wait_timeout = {SERVER_IDLE_SECONDS_MAX}"
        );
        link.run(&session, until).await?;
        let mut rows = link.rows("SELECT @@max_allowed_packet", (), until).await?;
        let octets = rows.pop().and_then(|mut row| row.take_opt::<u64, _>(0)?.ok());
        let octets = octets.ok_or_else(|| Fault::Failed("it does not tell max_allowed_packet".into()))?;
        self.packet_octets.store(octets, Ordering::Relaxed);
        Ok(link)
    }
}

fn tls(options: &MysqlOptions) -> Option<SslOpts> {
    match (options.tls, &options.ca_file) {
        (TlsMode::Disabled, _) => None,
        // The built-in roots stay: the driver cannot build a verifier without any.
        (TlsMode::Insecure, _) => Some(SslOpts::default().with_danger_accept_invalid_certs(true)),
        (TlsMode::Required, None) => Some(SslOpts::default()),
        (TlsMode::Required, Some(file)) => {
            Some(SslOpts::default().with_root_certs(vec![file.clone().into()]).with_disable_built_in_roots(true))
        }
    }
}

/// One connection.
pub(super) struct Link {
    conn: Conn,
    /// Also set while a statement is under way, so that a dropped future leaves a broken link.
    broken: bool,
    used: Instant,
}

impl Link {
    /// Whether it may be used again.
    pub(super) fn usable(&self) -> bool {
        !self.broken && self.used.elapsed() < IDLE_MAX
    }

    /// A statement without parameters and rows.
    pub(super) async fn run(&mut self, sql: &str, until: Instant) -> std::result::Result<(), Fault> {
        self.broken = true;
        let done = bounded(until, self.conn.query_drop(sql)).await;
        self.note(done)
    }

    /// A prepared statement without rows; gives the rows affected.
    pub(super) async fn exec(
        &mut self,
        sql: &str,
        params: impl Into<Params> + Send,
        until: Instant,
    ) -> std::result::Result<u64, Fault> {
        self.broken = true;
        let done = bounded(until, self.conn.exec_drop(sql, params)).await;
        self.note(done)?;
        Ok(self.conn.affected_rows())
    }

    /// A prepared statement with rows.
    pub(super) async fn rows(
        &mut self,
        sql: &str,
        params: impl Into<Params> + Send,
        until: Instant,
    ) -> std::result::Result<Vec<Row>, Fault> {
        self.broken = true;
        let done = bounded(until, self.conn.exec(sql, params)).await;
        self.note(done)
    }

    pub(super) async fn commit(&mut self, until: Instant) -> Commit {
        match self.run("COMMIT", until).await {
            Ok(()) => Commit::Done,
            Err(fault @ (Fault::Again(_) | Fault::Refused(_))) => Commit::Not(fault),
            Err(fault) => Commit::Doubtful(fault),
        }
    }

    /// Takes the transaction back after `fault`; without success the link is broken, and the server does it.
    pub(super) async fn roll_back(&mut self, fault: &Fault, until: Instant) {
        if fault.leaves_link() {
            self.broken |= self.run("ROLLBACK", until).await.is_err();
        }
    }

    fn note<T>(&mut self, done: std::result::Result<T, Fault>) -> std::result::Result<T, Fault> {
        self.used = Instant::now();
        self.broken = done.as_ref().is_err_and(|fault| !fault.leaves_link());
        done
    }
}

impl Drop for Link {
    /// The driver's own drop would send COM_QUIT from a detached task, after reading what is still to come: for ever,
    /// when the server is frozen. It does not if a command was begun and not finished.
    fn drop(&mut self) {
        if self.broken {
            let mut ping = std::pin::pin!(self.conn.ping());
            let _ = ping.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

async fn bounded<T>(
    until: Instant,
    wait: impl Future<Output = std::result::Result<T, Error>>,
) -> std::result::Result<T, Fault> {
    match timeout_at(until, wait).await {
        Ok(done) => done.map_err(|error| Fault::of(&error)),
        Err(_) => Err(Fault::Late),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_done_about_an_error() {
        let fault =
            |code| Fault::of(&Error::Server(ServerError { code, message: String::new(), state: String::new() }));
        for code in [1205, 1213, 3101, 9007] {
            assert!(matches!(fault(code), Fault::Again(_)) && fault(code).leaves_link(), "{code}");
        }
        // Who is read-only, not ready or stopping will not be otherwise on this connection.
        for code in [1047, 1053, 1180, 1290, 1836, 1927, 4031] {
            assert!(matches!(fault(code), Fault::Lost(_)) && !fault(code).leaves_link(), "{code}");
        }
        // Rows that are too large for TiDB together go through one by one.
        assert!(matches!(fault(8004), Fault::Refused(_)) && matches!(fault(8025), Fault::Refused(_)));
        assert!(matches!(StoreError::from(fault(1114)), StoreError::Full(_)));
    }
}
