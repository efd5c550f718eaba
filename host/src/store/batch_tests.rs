use super::*;
use crate::store::sample;
use std::sync::atomic::{AtomicBool, Ordering};

/// Commits what comes, slowly; a subject of `bad` is refused.
#[derive(Clone, Default)]
struct Fake {
    batches: Arc<Mutex<Vec<usize>>>,
    stored: Arc<Mutex<Vec<Uuid>>>,
    delay: Duration,
    /// Commits without looking at cancellation, as a database that thaws after the deadline does.
    deaf: bool,
    undone: Arc<AtomicBool>,
}

impl Backend for Fake {
    async fn gather(&mut self) {
        tokio::task::yield_now().await;
    }

    async fn commit(&mut self, batch: &mut [Job]) -> Result<Vec<bool>> {
        self.batches.lock().unwrap().push(batch.len());
        tokio::time::sleep(self.delay).await;
        if batch.iter().any(|job| job.message.subject.as_deref() == Some("bad")) {
            return Err(StoreError::Refused("bad".into()));
        }
        for job in batch.iter().filter(|job| self.deaf || !job.cancelled()) {
            self.stored.lock().unwrap().push(job.message.id);
        }
        Ok(vec![true; batch.len()])
    }

    async fn undo(&mut self, ids: Vec<Uuid>) {
        self.stored.lock().unwrap().retain(|id| !ids.contains(id));
        self.undone.store(true, Ordering::SeqCst);
    }
}

/// Far beyond what any test here should take.
const LIMIT: Duration = Duration::from_secs(20);

fn start(fake: &Fake, limits: Limits) -> Arc<Queue<Fake>> {
    let queue = Queue::new(limits);
    tokio::spawn(run(Arc::clone(&queue), fake.clone()));
    queue
}

/// Stores messages at once, in order, and gives their results.
async fn store_all(queue: &Arc<Queue<Fake>>, messages: Vec<Message>, limit: Duration) -> Vec<Result<()>> {
    let mut waits = Vec::new();
    for message in messages {
        let queue = Arc::clone(queue);
        waits.push(tokio::spawn(async move { queue.store(message, limit).await }));
    }
    let mut results = Vec::new();
    for wait in waits {
        results.push(wait.await.unwrap());
    }
    results
}

#[tokio::test]
async fn what_waits_shares_the_next_commit() {
    let fake = Fake { delay: Duration::from_millis(10), ..Fake::default() };
    let queue = start(&fake, Limits::default());
    let messages = (0..100).map(|_| sample(b"x")).collect();
    assert!(store_all(&queue, messages, LIMIT).await.iter().all(Result::is_ok));
    let batches = fake.batches.lock().unwrap().clone();
    assert_eq!(batches.iter().sum::<usize>(), 100);
    assert!(batches.len() <= 4 && batches.iter().all(|&rows| rows <= 64), "{batches:?}");
}

#[tokio::test]
async fn a_refused_row_leaves_its_neighbours_alone() {
    let fake = Fake { delay: Duration::from_millis(10), ..Fake::default() };
    let queue = start(&fake, Limits::default());
    let mut messages: Vec<Message> = (0..8).map(|_| sample(b"x")).collect();
    messages[5].subject = Some("bad".into());
    let results = store_all(&queue, messages, LIMIT).await;
    for (i, result) in results.iter().enumerate() {
        assert_eq!(i == 5, matches!(result, Err(StoreError::Refused(_))), "row {i}: {result:?}");
    }
    assert_eq!(fake.stored.lock().unwrap().len(), 7);
}

#[tokio::test]
async fn octets_bound_a_batch_and_a_larger_message_goes_alone() {
    let fake = Fake { delay: Duration::from_millis(10), ..Fake::default() };
    let queue = start(&fake, Limits { octets_max: 1000, ..Limits::default() });
    let messages = vec![sample(&[b'a'; 300]), sample(&[b'b'; 5000]), sample(&[b'c'; 300]), sample(&[b'd'; 300])];
    assert!(store_all(&queue, messages, LIMIT).await.iter().all(Result::is_ok));
    assert_eq!(*fake.batches.lock().unwrap(), [1, 1, 2]);
}

#[tokio::test]
async fn a_message_given_up_on_is_not_left_stored() {
    for deaf in [false, true] {
        let fake = Fake { delay: Duration::from_millis(300), deaf, ..Fake::default() };
        // Rows of one, so that the second message is still in the queue when its caller gives up.
        let queue = start(&fake, Limits { rows_max: 1, ..Limits::default() });
        let started = Instant::now();
        let results = store_all(&queue, vec![sample(b"x"), sample(b"y")], Duration::from_millis(100)).await;
        assert!(results.iter().all(|result| matches!(result, Err(StoreError::Unavailable(_)))));
        assert!(started.elapsed() < Duration::from_millis(250));
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(fake.stored.lock().unwrap().is_empty(), "deaf: {deaf}");
        assert_eq!(*fake.batches.lock().unwrap(), [1], "the one in the queue never reaches the database");
    }
}

#[tokio::test]
async fn a_full_queue_costs_no_more_than_the_deadline() {
    let fake = Fake { delay: Duration::from_secs(60), ..Fake::default() };
    let queue = start(&fake, Limits { waiting_max: 2, ..Limits::default() });
    let started = Instant::now();
    let messages = (0..5).map(|_| sample(b"x")).collect();
    assert!(store_all(&queue, messages, Duration::from_millis(100)).await.iter().all(Result::is_err));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn close_finishes_what_is_queued() {
    let fake = Fake { delay: Duration::from_millis(10), ..Fake::default() };
    let queue = Queue::new(Limits::default());
    let writers: Vec<_> = (0..2).map(|_| tokio::spawn(run(Arc::clone(&queue), fake.clone()))).collect();
    let stores = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { store_all(&queue, (0..10).map(|_| sample(b"x")).collect(), LIMIT).await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    queue.close();
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(stores.await.unwrap().iter().all(Result::is_ok));
    assert!(matches!(queue.store(sample(b"x"), LIMIT).await, Err(StoreError::Unavailable(_))));
}
