//! The transactions that store messages, and what happens when the answer to COMMIT is lost.

use super::super::batch::{Backend, Job};
use super::super::{Message, Result, StoreError, columns};
use super::doubt::Doubt;
use super::link::{Commit, Connector, Fault, Link};
use mysql_async::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const COLUMNS: usize = 11;
/// Rows of one statement. Counts are powers of two, so that a connection prepares few statements.
const STATEMENT_ROWS_MAX: usize = 32;
/// What a statement takes beside its values, in octets, generously.
const STATEMENT_OVERHEAD: u64 = 4096;
/// A message that goes alone and is larger than this is sent without keeping a copy for a second try.
const KEPT_OCTETS_MAX: usize = 4 << 20;
const RETRY_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// One writer with a connection of its own.
pub(super) struct Writer {
    connector: Arc<Connector>,
    doubt: Doubt,
    link: Option<Link>,
}

/// What came of one transaction.
enum Attempt {
    Committed(Vec<bool>),
    Not(Fault),
    /// A caller gave up before COMMIT; the others try again without it.
    Reduced,
    Doubtful(Doubtful),
}

/// A transaction whose COMMIT got no answer.
struct Doubtful {
    /// What it was to store.
    ids: Vec<Uuid>,
    fresh: Vec<bool>,
    fault: Fault,
}

impl Writer {
    pub(super) fn new(connector: Arc<Connector>, doubt: Doubt) -> Self {
        Writer { connector, doubt, link: None }
    }

    async fn take_link(&mut self, until: Instant) -> std::result::Result<Link, Fault> {
        match self.link.take().filter(Link::usable) {
            Some(link) => Ok(link),
            None => self.connector.connect(until).await,
        }
    }
}

impl Backend for Writer {
    async fn commit(&mut self, batch: &mut [Job]) -> Result<Vec<bool>> {
        let last = batch.iter().map(|job| job.deadline).max().unwrap_or_else(Instant::now);
        // Time for the look-up, should the answer to COMMIT be lost.
        let until = last - self.connector.deadline / 4;
        let mut pause = RETRY_PAUSE;
        loop {
            let mut link = self.take_link(until).await?;
            let attempt = transaction(&self.connector, &mut link, batch, until).await;
            if link.usable() {
                self.link = Some(link);
            }
            match attempt {
                Attempt::Committed(fresh) => return Ok(fresh),
                Attempt::Reduced => continue,
                Attempt::Doubtful(doubtful) => return self.resolve(batch, doubtful, last).await,
                Attempt::Not(fault @ (Fault::Again(_) | Fault::Lost(_)))
                    if Instant::now() + pause < until && batch.iter().all(|job| !spent(job)) =>
                {
                    tracing::debug!(?fault, "trying the transaction again");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                Attempt::Not(fault) => return Err(fault.into()),
            }
        }
    }

    async fn undo(&mut self, ids: Vec<Uuid>) {
        self.doubt.remove(ids);
    }
}

impl Writer {
    /// Finds out whether a transaction was committed whose answer was lost. The uncommitted rows are locked, so a
    /// locking read waits for the outcome.
    async fn resolve(&self, batch: &[Job], doubtful: Doubtful, until: Instant) -> Result<Vec<bool>> {
        let Doubtful { ids, fresh, fault } = doubtful;
        loop {
            let asked = match self.connector.connect(until).await {
                Ok(mut link) => stored(&mut link, &ids, until).await,
                Err(fault) => Err(fault),
            };
            match asked {
                Ok(true) => return Ok(fresh),
                Err(Fault::Lost(_) | Fault::Again(_)) if Instant::now() + RETRY_PAUSE_MAX < until => {
                    sleep(RETRY_PAUSE_MAX / 4).await;
                }
                // Absent for certain, it stays so; removing it all the same costs nothing.
                Ok(false) | Err(_) => break,
            }
        }
        tracing::warn!(?ids, ?fault, "the answer to COMMIT was lost; the messages count as not stored");
        let fresh = batch.iter().zip(&fresh).filter(|(_, fresh)| **fresh);
        self.doubt.remove(fresh.map(|(job, _)| job.message.id).collect());
        Err(StoreError::Unavailable("the answer to COMMIT was lost".into()))
    }
}

/// Whether the messages of a transaction are there: all of them or none.
async fn stored(link: &mut Link, ids: &[Uuid], until: Instant) -> std::result::Result<bool, Fault> {
    let sql = format!("SELECT id FROM messages WHERE id IN ({}) FOR UPDATE", marks(ids.len()));
    let ids: Vec<Value> = ids.iter().map(|id| Value::from(id.as_bytes())).collect();
    let wanted = ids.len();
    Ok(link.rows(&sql, ids, until).await?.len() == wanted)
}

pub(super) fn marks(count: usize) -> String {
    vec!["?"; count].join(",")
}

/// Whether the octets of a job were given away to an attempt that failed.
fn spent(job: &Job) -> bool {
    job.octets() > 0 && job.message.headers.is_empty() && job.message.body.is_empty() && job.octets() > KEPT_OCTETS_MAX
}

async fn transaction(connector: &Connector, link: &mut Link, batch: &mut [Job], until: Instant) -> Attempt {
    let packet = connector.packet_octets().saturating_sub(STATEMENT_OVERHEAD);
    if let Some(job) = batch.iter().find(|job| row_octets(job) > packet) {
        let octets = job.octets();
        let text = format!("a message of {octets} octets does not fit max_allowed_packet ({packet} octets)");
        return Attempt::Not(Fault::Refused(text));
    }
    if let Err(fault) = link.run("START TRANSACTION", until).await {
        return Attempt::Not(fault);
    }
    let live: Vec<bool> = batch.iter().map(|job| !job.cancelled()).collect();
    let fresh = match insert(link, batch, &live, packet, until).await {
        Ok(fresh) => fresh,
        Err(fault) => {
            link.roll_back(&fault, until).await;
            return Attempt::Not(fault);
        }
    };
    if batch.iter().zip(&live).any(|(job, live)| *live && job.cancelled()) {
        return match link.run("ROLLBACK", until).await {
            Ok(()) if batch.iter().all(|job| !spent(job)) => Attempt::Reduced,
            Ok(()) => Attempt::Not(Fault::Late),
            Err(fault) => Attempt::Not(fault),
        };
    }
    match link.commit(until).await {
        Commit::Done => Attempt::Committed(fresh),
        Commit::Not(fault) => {
            link.roll_back(&fault, until).await;
            Attempt::Not(fault)
        }
        Commit::Doubtful(fault) => {
            let ids = batch.iter().zip(&live).filter(|(_, live)| **live).map(|(job, _)| job.message.id).collect();
            Attempt::Doubtful(Doubtful { ids, fresh, fault })
        }
    }
}

/// Inserts the live jobs; says which rows are new. Within a statement that met an old row, none counts as new: it is
/// better to leave one message too many than to remove one that was answered `250`.
async fn insert(
    link: &mut Link,
    batch: &mut [Job],
    live: &[bool],
    packet: u64,
    until: Instant,
) -> std::result::Result<Vec<bool>, Fault> {
    let mut fresh = vec![false; batch.len()];
    let rows: Vec<usize> = (0..batch.len()).filter(|&i| live[i]).collect();
    let alone = batch.len() == 1;
    let mut rest = rows.as_slice();
    while !rest.is_empty() {
        let count = statement_rows(rest.iter().map(|&i| row_octets(&batch[i])), packet);
        let (now, later) = rest.split_at(count);
        let mut params = Vec::with_capacity(count * COLUMNS);
        for &i in now {
            let give = alone && batch[i].octets() > KEPT_OCTETS_MAX;
            row(&mut batch[i].message, give, &mut params);
        }
        let inserted = link.exec(&insert_sql(count), params, until).await?;
        for &i in now {
            fresh[i] = inserted == count as u64;
        }
        rest = later;
    }
    Ok(fresh)
}

/// How many of the next rows go into one statement: a power of two that fits the packet, at least 1.
fn statement_rows(octets: impl Iterator<Item = u64>, packet: u64) -> usize {
    let mut sum = 0;
    let fitting = octets.take(STATEMENT_ROWS_MAX).take_while(|octets| {
        sum += octets;
        sum <= packet
    });
    let fitting = fitting.count().max(1);
    1 << fitting.ilog2()
}

/// What a row takes in a statement at most, in octets.
fn row_octets(job: &Job) -> u64 {
    let recipients: usize = columns::recipients(&job.message.rcpt_to).len();
    (job.octets() + recipients + COLUMNS * 12 + 64) as u64
}

fn insert_sql(rows: usize) -> String {
    let row = format!("({})", marks(COLUMNS));
    format!(
        "INSERT INTO messages (id, mail_from, rcpt_to, subject, date, date_zone, headers, body, trace, size, \
         received_at) \
         VALUES {} ON DUPLICATE KEY UPDATE id = id",
        vec![row; rows].join(",")
    )
}

/// Appends the values of a row; with `give` the large ones are moved, not copied.
fn row(message: &mut Message, give: bool, params: &mut Vec<Value>) {
    let size = (message.headers.len() + message.body.len()) as i64;
    let octets = |octets: &mut Vec<u8>| if give { std::mem::take(octets) } else { octets.clone() };
    let (headers, body) = (octets(&mut message.headers), octets(&mut message.body));
    params.extend([
        Value::from(message.id.as_bytes()),
        message.mail_from.as_str().into(),
        columns::recipients(&message.rcpt_to).into(),
        message.subject.as_deref().into(),
        columns::date(message).into(),
        message.date.zone_minutes.into(),
        headers.into(),
        body.into(),
        message.trace.as_slice().into(),
        size.into(),
        columns::micros(message.received_at).into(),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_have_few_sizes_and_fit_the_packet() {
        assert_eq!(statement_rows([10; 64].into_iter(), 1000), 32);
        assert_eq!(statement_rows([10; 31].into_iter(), 1000), 16);
        assert_eq!(statement_rows([100; 64].into_iter(), 399), 2);
        assert_eq!(statement_rows([10, 10, 10, 5000].into_iter(), 1000), 2);
        assert_eq!(statement_rows([10].into_iter(), 1000), 1);
    }
}
