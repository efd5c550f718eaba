//! Messages that may be stored though their senders were told that they are not. They are removed as soon as the
//! database answers: DELETE waits for the row lock of an undecided transaction, so its result is final.

use super::link::{Connector, Fault};
use super::writer::marks;
use mysql_async::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How many keys may wait to be removed.
const KEYS_MAX: usize = 4096;
/// Keys of one statement.
const STATEMENT_KEYS_MAX: usize = 64;
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where writers leave keys.
#[derive(Clone)]
pub(super) struct Doubt {
    keys: mpsc::Sender<Uuid>,
}

impl Doubt {
    /// Starts the task; it ends when every `Doubt` is dropped and every key removed.
    pub(super) fn start(connector: Arc<Connector>) -> (Doubt, JoinHandle<()>) {
        let (keys, waiting) = mpsc::channel(KEYS_MAX);
        (Doubt { keys }, tokio::spawn(run(connector, waiting)))
    }

    /// Removes messages in the background.
    pub(super) fn remove(&self, ids: Vec<Uuid>) {
        for id in ids {
            if self.keys.try_send(id).is_err() {
                tracing::warn!(%id, "too many doubtful messages; this one is perhaps stored and will not be removed");
            }
        }
    }
}

async fn run(connector: Arc<Connector>, mut waiting: mpsc::Receiver<Uuid>) {
    let mut pause = PAUSE;
    while let Some(first) = waiting.recv().await {
        let mut ids = vec![first];
        while ids.len() < STATEMENT_KEYS_MAX
            && let Ok(id) = waiting.try_recv()
        {
            ids.push(id);
        }
        loop {
            match remove(&connector, &ids).await {
                Ok(removed) => {
                    tracing::warn!(?ids, removed, "doubtful messages are not stored, or are removed now");
                    pause = PAUSE;
                    break;
                }
                Err(fault) => {
                    tracing::debug!(?ids, ?fault, "doubtful messages cannot be removed yet");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

async fn remove(connector: &Connector, ids: &[Uuid]) -> Result<u64, Fault> {
    let until = Instant::now() + connector.deadline;
    let mut link = connector.connect(until).await?;
    // Another node of a cluster may have yet to carry out what it knows is committed: DELETE waits for that (Galera). Other
    // servers do not know the variable.
    match link.run("SET SESSION wsrep_sync_wait = 2", until).await {
        Ok(()) | Err(Fault::Failed(_)) => {}
        Err(fault) => return Err(fault),
    }
    // One statement that commits itself: a transaction that dies between DELETE and COMMIT would keep a gap lock at the
    // end of the key, where every other message goes. A frozen server that carries this out when it thaws does right.
    let sql = format!("DELETE FROM messages WHERE id IN ({})", marks(ids.len()));
    let values: Vec<Value> = ids.iter().map(|id| Value::from(id.as_bytes())).collect();
    link.exec(&sql, values, until).await
}
