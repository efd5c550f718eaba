//! Group commit: messages of many sessions share a transaction.
//!
//! Batching is natural: there is no timer and no added delay. A writer takes whatever is waiting, up to
//! [`Limits`], and while it commits the next batch gathers. A message that the database refuses is taken out
//! by trying the batch again row by row, so its neighbours go through.
//!
//! **Invariant:** a message whose caller was told anything but `Ok` is not left stored. The caller's answer channel
//! decides: once closed, the writer can no longer answer `Ok`, and what was committed all the same is
//! [undone](Backend::undo).

use super::{Message, Result, StoreError};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// How much goes into one transaction, and how much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages in one transaction, at least 1.
    pub rows_max: usize,
    /// Octets in one transaction; a single larger message goes alone.
    pub octets_max: usize,
    /// Messages and tasks that are waiting or being written.
    pub waiting_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { rows_max: 64, octets_max: 4 << 20, waiting_max: 4096 }
    }
}

/// What commits.
pub trait Backend: Send + Sized + 'static {
    /// Lets whoever is about to store a message go first, so that more of them share the next commit. Nobody waits for a
    /// time: it is over when no one else has anything to do.
    fn gather(&mut self) -> impl Future<Output = ()> + Send;

    /// Commits all the jobs that are not [cancelled](Job::cancelled), or none. On success each entry says whether
    /// that message was not there before. `Refused` means that at least one row was at fault, and that nothing was
    /// committed.
    fn commit(&mut self, batch: &mut [Job]) -> impl Future<Output = Result<Vec<bool>>> + Send;

    /// Removes messages that this backend committed after their callers had given up.
    fn undo(&mut self, ids: Vec<Uuid>) -> impl Future<Output = ()> + Send;
}

/// A message on its way into the database.
pub struct Job {
    /// A backend may take the octets out of a batch of one, giving up a second try.
    pub message: Message,
    /// When the caller stops waiting.
    pub deadline: Instant,
    octets: usize,
    answer: oneshot::Sender<Result<()>>,
    /// Where the caller is.
    home: Handle,
    _slot: OwnedSemaphorePermit,
}

impl Job {
    /// Whether the caller has been told that the message is not stored, or has gone.
    pub fn cancelled(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers that it is stored; gives the id when the caller has given up on it, and it is there by this batch.
    fn succeed(self, fresh: bool) -> Option<Uuid> {
        (self.answer.send(Ok(())).is_err() && fresh).then_some(self.message.id)
    }

    /// What the message takes in memory and in a statement, in octets, without fixed overhead.
    pub fn octets(&self) -> usize {
        self.octets
    }
}

type Task<B> = Box<dyn FnOnce(&mut B) + Send>;

enum Work<B> {
    Message(Box<Job>),
    Task(Task<B>),
    Undo(Vec<Uuid>),
}

/// What a writer does next.
enum Next<B> {
    Batch(Vec<Job>),
    Task(Task<B>),
    Undo(Vec<Uuid>),
}

struct Waiting<B> {
    work: VecDeque<Work<B>>,
    closed: bool,
}

/// The queue between the sessions and the writers.
pub struct Queue<B> {
    limits: Limits,
    waiting: Mutex<Waiting<B>>,
    ready: Notify,
    slots: Arc<Semaphore>,
}

impl<B: Backend> Queue<B> {
    /// An open, empty queue; each of its writers runs [`run`].
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Queue {
            limits,
            waiting: Mutex::new(Waiting { work: VecDeque::new(), closed: false }),
            ready: Notify::new(),
            slots: Arc::new(Semaphore::new(limits.waiting_max)),
        })
    }

    /// Makes a message durable, or fails within `limit`. After a failure it is not left stored.
    pub async fn store(&self, message: Message, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let slot = self.slot(deadline).await?;
        let (answer, mut wait) = oneshot::channel();
        let octets = octets(&message);
        let home = Handle::current();
        self.push(Work::Message(Box::new(Job { message, deadline, octets, answer, home, _slot: slot })))?;
        match timeout_at(deadline, &mut wait).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(stopped())),
            Err(_) => {
                // Either the answer got in before the channel closed, or the writer sees it closed: never both.
                wait.close();
                // What nobody waits for takes no memory behind a writer that is stuck.
                self.lock().work.retain(|work| !matches!(work, Work::Message(job) if job.cancelled()));
                wait.try_recv().unwrap_or_else(|_| Err(late(limit)))
            }
        }
    }

    /// Runs a task on a writer, between two batches. One that did not start before `limit` never runs.
    pub async fn run_task<T: Send + 'static>(
        &self,
        limit: Duration,
        task: impl FnOnce(&mut B) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        let slot = self.slot(deadline).await?;
        let (answer, wait) = oneshot::channel();
        self.push(Work::Task(Box::new(move |backend| {
            let _slot = slot;
            if !answer.is_closed() {
                let _ = answer.send(task(backend));
            }
        })))?;
        match timeout_at(deadline, wait).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(stopped())),
            Err(_) => Err(late(limit)),
        }
    }

    /// Takes nothing more in; the writers finish what is queued and end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
    }

    async fn slot(&self, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        match timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(StoreError::Unavailable("too many messages are waiting for it".into())),
        }
    }

    fn push(&self, work: Work<B>) -> Result<()> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(stopped());
        }
        waiting.work.push_back(work);
        drop(waiting);
        self.ready.notify_one();
        Ok(())
    }

    /// Has messages removed, also while the queue is being closed.
    fn undo(&self, ids: Vec<Uuid>) {
        self.lock().work.push_back(Work::Undo(ids));
        self.ready.notify_one();
    }

    /// `None` when the queue is closed and empty.
    async fn next(&self) -> Option<Next<B>> {
        loop {
            {
                let mut waiting = self.lock();
                let next = take(&mut waiting.work, &self.limits);
                if !waiting.work.is_empty() || waiting.closed {
                    self.ready.notify_one(); // for the next writer
                }
                if next.is_some() {
                    return next;
                }
                if waiting.closed {
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<B>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of the queue: a task, or the messages that fit one transaction. Cancelled messages are dropped.
fn take<B>(work: &mut VecDeque<Work<B>>, limits: &Limits) -> Option<Next<B>> {
    let mut batch: Vec<Job> = Vec::new();
    let mut octets = 0;
    while batch.len() < limits.rows_max {
        match work.pop_front() {
            Some(Work::Message(job)) if job.cancelled() => {}
            Some(Work::Message(job)) if batch.is_empty() || octets + job.octets <= limits.octets_max => {
                octets += job.octets;
                batch.push(*job);
            }
            Some(Work::Task(task)) if batch.is_empty() => return Some(Next::Task(task)),
            Some(Work::Undo(ids)) if batch.is_empty() => return Some(Next::Undo(ids)),
            Some(other) => {
                work.push_front(other);
                break;
            }
            None => break,
        }
    }
    (!batch.is_empty()).then_some(Next::Batch(batch))
}

/// A writer: runs until the queue is closed and empty, and gives its backend back.
pub async fn run<B: Backend>(queue: Arc<Queue<B>>, mut backend: B) -> B {
    loop {
        backend.gather().await;
        let Some(next) = queue.next().await else { break };
        match next {
            Next::Task(task) => task(&mut backend),
            Next::Batch(batch) => write(&queue, &mut backend, batch).await,
            Next::Undo(ids) => backend.undo(ids).await,
        }
    }
    backend
}

async fn write<B: Backend>(queue: &Arc<Queue<B>>, backend: &mut B, mut batch: Vec<Job>) {
    match backend.commit(&mut batch).await {
        Ok(fresh) => settle(queue, backend, batch, fresh).await,
        Err(StoreError::Refused(_)) if batch.len() > 1 => {
            for job in batch {
                if job.cancelled() {
                    continue;
                }
                let mut alone = vec![job];
                match backend.commit(&mut alone).await {
                    Ok(fresh) => settle(queue, backend, alone, fresh).await,
                    Err(error) => fail(alone, &error),
                }
            }
        }
        Err(error) => fail(batch, &error),
    }
}

/// Answers those who wait. Callers on another thread are answered there and in one go: waking them one by one from here would
/// cost as much as storing a message.
async fn settle<B: Backend>(queue: &Arc<Queue<B>>, backend: &mut B, batch: Vec<Job>, fresh: Vec<bool>) {
    let here = Handle::current().id();
    let (near, far): (Vec<_>, Vec<_>) = batch.into_iter().zip(fresh).partition(|(job, _)| job.home.id() == here);
    let mut homes: Vec<(Handle, Vec<(Job, bool)>)> = Vec::new();
    for (job, fresh) in far {
        match homes.iter_mut().find(|(home, _)| home.id() == job.home.id()) {
            Some((_, jobs)) => jobs.push((job, fresh)),
            None => homes.push((job.home.clone(), vec![(job, fresh)])),
        }
    }
    for (home, jobs) in homes {
        let queue = Arc::clone(queue);
        home.spawn(async move {
            let late: Vec<_> = jobs.into_iter().filter_map(|(job, fresh)| job.succeed(fresh)).collect();
            if !late.is_empty() {
                queue.undo(late);
            }
        });
    }
    let late: Vec<_> = near.into_iter().filter_map(|(job, fresh)| job.succeed(fresh)).collect();
    if !late.is_empty() {
        backend.undo(late).await;
    }
}

fn fail(batch: Vec<Job>, error: &StoreError) {
    for job in batch {
        let _ = job.answer.send(Err(error.clone()));
    }
}

fn octets(message: &Message) -> usize {
    message.headers.len()
        + message.body.len()
        + message.trace.len()
        + message.mail_from.len()
        + message.rcpt_to.iter().map(|mailbox| mailbox.len() + 8).sum::<usize>()
        + [&message.subject, &message.parameters].into_iter().flatten().map(String::len).sum::<usize>()
}

fn late(limit: Duration) -> StoreError {
    StoreError::Unavailable(format!("no answer within {} s", limit.as_secs_f32()))
}

/// What whoever comes after the end is told.
pub(super) fn stopped() -> StoreError {
    StoreError::Unavailable("it is being closed".into())
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
