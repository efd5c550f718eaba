//! The transactions that store messages: one INSERT and COMMIT for each batch, on a connection that begins a transaction by itself.
//! A statement that committed itself would save the second round trip; a frozen server carries out such a one when it thaws.
//!
//! When the answer to COMMIT is lost, all of it is done again: keys that are there already make no difference, and where the
//! first transaction is undecided, the second waits for it. What is still unknown at the deadline counts as not stored, and
//! its keys are removed once the database answers.

use super::super::batch::{Backend, Job};
use super::super::{Message, Result, StoreError, columns};
use super::doubt::Doubt;
use super::link::{Commit, Connector, Fault, Link};
use mysql_async::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const COLUMNS: usize = 12;
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

impl Writer {
    pub(super) fn new(connector: Arc<Connector>, doubt: Doubt) -> Self {
        Writer { connector, doubt, link: None }
    }

    async fn take_link(&mut self, until: Instant) -> std::result::Result<Link, Fault> {
        match self.link.take().filter(Link::usable) {
            Some(link) => Ok(link),
            None => {
                let mut link = self.connector.connect(until).await?;
                link.run("SET SESSION autocommit = 0", until).await?;
                // Of text the server would count the characters, in each parameter; the columns check what they take.
                link.run("SET NAMES binary", until).await?;
                Ok(link)
            }
        }
    }

    /// An earlier try may have stored what this one left out, as its callers gave up between both.
    fn remove_left_out(&self, batch: &[Job], fresh: &[bool]) {
        let left_out = batch.iter().zip(fresh).filter(|(_, fresh)| !**fresh);
        self.doubt.remove(left_out.map(|(job, _)| job.message.id).collect());
    }
}

/// What came of one try.
enum Attempt {
    /// All rows are there; each entry says whether it is by this batch.
    Stored(Vec<bool>),
    /// Certainly nothing was stored by it.
    Not(Fault),
    /// A caller gave up before COMMIT; the others try again without it.
    Reduced,
    /// COMMIT got no answer.
    Doubtful(Fault),
}

impl Backend for Writer {
    async fn gather(&mut self) {
        // Once for the sessions that can go on, and once for those that have input to read.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
    }

    async fn commit(&mut self, batch: &mut [Job]) -> Result<Vec<bool>> {
        let last = batch.iter().map(|job| job.deadline).max().unwrap_or_else(Instant::now);
        let (mut pause, mut is_in_doubt) = (RETRY_PAUSE, false);
        let fault = loop {
            // Time for another try, should the answer to the first one not come.
            let until = if is_in_doubt { last } else { last - self.connector.deadline / 4 };
            let attempt = match self.take_link(until).await {
                Ok(mut link) => {
                    let attempt = match batch.iter().any(spent) {
                        false => store(&self.connector, &mut link, batch, is_in_doubt, until).await,
                        true => look_up(&mut link, batch, until).await,
                    };
                    self.link = Some(link).filter(Link::usable);
                    attempt
                }
                // A server that is being started again knows what became of it.
                Err(fault @ Fault::Lost(_)) if is_in_doubt => Attempt::Doubtful(fault),
                Err(fault) => break fault,
            };
            let fault = match attempt {
                Attempt::Stored(fresh) => {
                    if is_in_doubt {
                        self.remove_left_out(batch, &fresh);
                    }
                    return Ok(fresh);
                }
                Attempt::Reduced => continue,
                Attempt::Not(fault @ (Fault::Again(_) | Fault::Lost(_))) if !batch.iter().any(spent) => fault,
                Attempt::Not(fault) => break fault,
                Attempt::Doubtful(fault) => {
                    is_in_doubt = true;
                    fault
                }
            };
            if Instant::now() + pause >= last {
                break fault;
            }
            tracing::debug!(?fault, "trying to store messages again");
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        };
        if is_in_doubt {
            let ids: Vec<Uuid> = batch.iter().map(|job| job.message.id).collect();
            tracing::warn!(?ids, ?fault, "whether messages were stored is not known; they count as not stored");
            self.doubt.remove(ids);
        }
        match fault.into() {
            // Taken one by one, the rows would be stored under keys that are about to be removed.
            StoreError::Refused(text) if is_in_doubt => Err(StoreError::Unavailable(text)),
            error => Err(error),
        }
    }

    async fn undo(&mut self, ids: Vec<Uuid>) {
        self.doubt.remove(ids);
    }
}

/// Whether a message that was given away to an earlier try is there. A locking read waits for a row that is undecided.
async fn look_up(link: &mut Link, batch: &[Job], until: Instant) -> Attempt {
    let ids: Vec<Value> = batch.iter().map(|job| Value::from(job.message.id.as_bytes())).collect();
    let sql = format!("SELECT id FROM messages WHERE id IN ({}) FOR UPDATE", marks(ids.len()));
    let wanted = ids.len();
    let found = link.rows(&sql, ids, until).await;
    // What was found is known, even if its lock cannot be given back.
    let _ = link.run("ROLLBACK", until).await;
    match found {
        Ok(rows) if rows.len() == wanted => Attempt::Stored(vec![true; wanted]),
        Ok(_) => Attempt::Not(Fault::Lost("the connection, in the middle of a message".into())),
        Err(fault @ (Fault::Lost(_) | Fault::Again(_))) => Attempt::Doubtful(fault),
        Err(fault) => Attempt::Not(fault),
    }
}

pub(super) fn marks(count: usize) -> String {
    vec!["?"; count].join(",")
}

/// Whether the octets of a job were given away to an attempt that failed.
fn spent(job: &Job) -> bool {
    job.octets() > 0 && job.message.headers.is_empty() && job.message.body.is_empty() && job.octets() > KEPT_OCTETS_MAX
}

/// Stores the jobs that are not cancelled; says which rows are new. In a batch that met an old row, none counts as new, but for
/// one that an earlier try may have stored: it is better to leave one message too many than to remove one that was answered
/// `250`.
async fn store(
    connector: &Connector,
    link: &mut Link,
    batch: &mut [Job],
    is_in_doubt: bool,
    until: Instant,
) -> Attempt {
    let packet = connector.packet_octets().saturating_sub(STATEMENT_OVERHEAD);
    let octets: u64 = batch.iter().map(row_octets).sum();
    if octets > packet {
        let text = format!("{octets} octets do not fit max_allowed_packet ({packet} octets)");
        return Attempt::Not(Fault::Refused(text));
    }
    let give = batch.len() == 1 && batch[0].octets() > KEPT_OCTETS_MAX;
    let live: Vec<bool> = batch.iter().map(|job| !job.cancelled()).collect();
    let mut params = Vec::with_capacity(batch.len() * COLUMNS);
    let of_live = batch.iter_mut().zip(&live).filter(|(_, live)| **live);
    of_live.for_each(|(job, _)| row(&mut job.message, give, &mut params));
    let rows = params.len() / COLUMNS;
    if rows == 0 {
        return Attempt::Stored(live);
    }
    let inserted = match link.exec(&insert_sql(rows), params, until).await {
        Ok(inserted) => inserted,
        Err(fault) => {
            link.roll_back(&fault, until).await;
            return Attempt::Not(fault);
        }
    };
    if batch.iter().zip(&live).any(|(job, live)| *live && job.cancelled()) {
        return match link.run("ROLLBACK", until).await {
            Ok(()) if !batch.iter().any(spent) => Attempt::Reduced,
            Ok(()) => Attempt::Not(Fault::Late),
            Err(fault) => Attempt::Not(fault),
        };
    }
    match link.commit(until).await {
        Commit::Done if is_in_doubt || inserted == rows as u64 => Attempt::Stored(live),
        Commit::Done => Attempt::Stored(vec![false; live.len()]),
        Commit::Not(fault) => {
            link.roll_back(&fault, until).await;
            Attempt::Not(fault)
        }
        Commit::Doubtful(fault) => Attempt::Doubtful(fault),
    }
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
         received_at, parameters) \
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
        message.parameters.as_deref().into(),
    ]);
}
