//! Connections for look-ups and for changes made by an administrator.

use super::super::{Result, StoreError};
use super::link::{Commit, Connector, Fault, Link};
use mysql_async::{Row, Value};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

/// Connections at most.
const LINKS_MAX: usize = 8;
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Pool {
    connector: Arc<Connector>,
    idle: Mutex<Vec<Link>>,
    free: Semaphore,
}

/// A statement with its parameters.
pub(super) type Statement = (&'static str, Vec<Value>);

impl Pool {
    pub(super) fn new(connector: Arc<Connector>, link: Option<Link>) -> Self {
        Pool { connector, idle: Mutex::new(link.into_iter().collect()), free: Semaphore::new(LINKS_MAX) }
    }

    /// The rows of a look-up.
    pub(super) async fn rows(&self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>> {
        let until = Instant::now() + self.connector.deadline;
        let _free = timeout_at(until, self.free.acquire()).await.map_err(|_| Fault::Late)?.map_err(closed)?;
        loop {
            let (mut link, reused) = self.link(until).await?;
            let found = link.rows(sql, params.clone(), until).await;
            self.give_back(link);
            match found {
                Ok(rows) => return Ok(rows),
                Err(Fault::Lost(_)) if reused => {}
                Err(Fault::Again(_) | Fault::Lost(_)) if Instant::now() + RETRY_PAUSE < until => {
                    sleep(RETRY_PAUSE).await
                }
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    /// Runs `change` in a transaction if `guard`, a locking read, finds a row; gives the rows affected, `None` without
    /// such a row. `Exists` with an empty name says that a unique key is taken.
    pub(super) async fn change(&self, guard: Option<Statement>, change: Statement) -> Result<Option<u64>> {
        let until = Instant::now() + self.connector.deadline;
        let _free = timeout_at(until, self.free.acquire()).await.map_err(|_| Fault::Late)?.map_err(closed)?;
        loop {
            let (mut link, reused) = self.link(until).await?;
            let changed = attempt(&mut link, &guard, &change, until).await;
            match changed {
                Ok(changed) => match link.commit(until).await {
                    Commit::Done => {
                        self.give_back(link);
                        return Ok(changed);
                    }
                    Commit::Not(_) if Instant::now() + RETRY_PAUSE < until => sleep(RETRY_PAUSE).await,
                    Commit::Not(fault) => return Err(fault.into()),
                    Commit::Doubtful(_) => {
                        let text = "the answer to COMMIT was lost; whether the change was made is not known";
                        return Err(StoreError::Unavailable(text.into()));
                    }
                },
                Err(fault) => {
                    link.roll_back(&fault, until).await;
                    self.give_back(link);
                    match fault {
                        Fault::Lost(_) if reused => {}
                        Fault::Again(_) | Fault::Lost(_) if Instant::now() + RETRY_PAUSE < until => {
                            sleep(RETRY_PAUSE).await
                        }
                        Fault::Duplicate => return Err(StoreError::Exists(String::new())),
                        fault => return Err(fault.into()),
                    }
                }
            }
        }
    }

    /// A connection, and whether it was used before: such a one may have been closed by the server meanwhile.
    async fn link(&self, until: Instant) -> std::result::Result<(Link, bool), Fault> {
        loop {
            let idle = self.idle().pop();
            match idle {
                Some(link) if link.usable() => return Ok((link, true)),
                Some(_) => {}
                None => return Ok((self.connector.connect(until).await?, false)),
            }
        }
    }

    fn give_back(&self, link: Link) {
        if link.usable() {
            self.idle().push(link);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Link>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the connections.
    pub(super) fn close(&self) {
        self.free.close();
        self.idle().clear();
    }
}

async fn attempt(
    link: &mut Link,
    guard: &Option<Statement>,
    change: &Statement,
    until: Instant,
) -> std::result::Result<Option<u64>, Fault> {
    link.run("START TRANSACTION", until).await?;
    if let Some((sql, params)) = guard
        && link.rows(sql, params.clone(), until).await?.is_empty()
    {
        return Ok(None);
    }
    link.exec(change.0, change.1.clone(), until).await.map(Some)
}

fn closed(_: tokio::sync::AcquireError) -> StoreError {
    StoreError::Unavailable("it is being closed".into())
}
