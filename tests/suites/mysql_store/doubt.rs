//! A lost answer to COMMIT, after which all is done again, also when something is different by then.

use crate::proxy::{Mode, Proxy};
use crate::server::Server;
use crate::{DEADLINE, TEST_TIME_MAX, options, sample, settled, unavailable, user, within};
use mailcell::store::mysql::{self, MysqlStore};
use mailcell::store::{MailStore, Message, StoreError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs a test with a store behind a proxy. On one thread, so that what is stored at once shares a batch.
fn with_store(test: impl AsyncFnOnce(Server, Proxy, Arc<MysqlStore>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        let server = Server::start(&[]);
        let proxy = Proxy::start(server.port).await;
        let url = format!("mysql://mailcell:secret@127.0.0.1:{}/mail", proxy.port);
        let store = Arc::new(mysql::open(options(url, DEADLINE)).await.unwrap());
        store.store_message(sample(b"first")).await.unwrap();
        test(server, proxy, store).await;
    };
    runtime.block_on(async { tokio::time::timeout(TEST_TIME_MAX, test).await.expect("the test took too long") });
}

#[test]
fn a_lost_answer_to_commit_is_asked_for_again() {
    within(async {
        let server = Server::start(&[]);
        let proxy = Proxy::start(server.port).await;
        let url = format!("mysql://mailcell:secret@127.0.0.1:{}/mail", proxy.port);
        let store = mysql::open(options(url, Duration::from_secs(4))).await.unwrap();
        let warm = sample(b"first");
        store.store_message(warm).await.unwrap();

        // Some of them too large to be kept for a second try.
        for octets in [20, 5 << 20] {
            proxy.set(Mode::CutAfterCommit);
            let message = sample(&vec![b'a'; octets]);
            store.store_message(message.clone()).await.unwrap();
            assert!(store.message(message.id).await.unwrap() == Some(message));
        }

        proxy.set(Mode::CutBeforeCommit);
        let message = sample(b"it got there at the second try");
        store.store_message(message.clone()).await.unwrap();
        assert!(store.message(message.id).await.unwrap() == Some(message));
        proxy.set(Mode::CutBeforeCommit);
        let message = sample(&[b'b'; 5 << 20]);
        assert!(unavailable(&store.store_message(message.clone()).await));
        assert_eq!(store.message(message.id).await, Ok(None));

        proxy.set(Mode::FreezeAtCommit);
        let started = Instant::now();
        let message = sample(b"committed when it thaws");
        let result = store.store_message(message.clone()).await;
        assert!(unavailable(&result), "{result:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        proxy.thaw();
        settled(&store, &[result], &[message]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(server.number("SELECT COUNT(*) FROM messages").await, 4);
        store.close().await;
    });
}

/// What a node of Galera sent before it lost the others may be committed by them all the same.
#[test]
fn a_node_that_fails_at_commit_is_asked_what_became_of_it() {
    with_store(async |server, proxy, store| {
        for octets in [20, 5 << 20] {
            proxy.set(Mode::FailAfterCommit);
            let message = sample(&vec![b'a'; octets]);
            assert_eq!(store.store_message(message.clone()).await, Ok(()));
            assert!(store.message(message.id).await.unwrap() == Some(message));
        }
        assert_eq!(server.number("SELECT COUNT(*) FROM messages").await, 3);
        proxy.set(Mode::FailAfterCommit);
        let added = store.add_user(&user("bob", "x.org", None)).await;
        assert!(unavailable(&added), "whether the user is there is not known: {added:?}");
    });
}

#[test]
fn a_server_that_is_started_again_is_asked_what_became_of_a_commit() {
    with_store(async |mut server, proxy, store| {
        proxy.set(Mode::CutAfterCommit);
        let message = sample(b"stored before the server stopped");
        let storing = tokio::spawn({
            let (store, message) = (Arc::clone(&store), message.clone());
            async move { store.store_message(message).await }
        });
        proxy.sees_commit().await;
        // The server has it, and the proxy still keeps that to itself.
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.stop();
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.run();
        assert_eq!(storing.await.unwrap(), Ok(()));
        assert!(store.message(message.id).await.unwrap() == Some(message));
    });
}

#[test]
fn what_is_refused_in_doubt_is_not_stored_one_by_one() {
    with_store(async |server, proxy, store| {
        // The connection in use does not know it yet, the next one will: all of the batch exceed it, one does not.
        server.sql(&["SET GLOBAL max_allowed_packet = 1048576"]).await;
        let messages: Vec<Message> = (0..4).map(|_| sample(&[b'x'; 400_000])).collect();
        proxy.set(Mode::CutAfterCommit);
        let results = crate::store_all(&store, &messages).await;
        assert!(results.iter().all(unavailable), "{results:?}");
        settled(&store, &results, &messages).await;
    });
}

#[test]
fn who_gives_up_in_doubt_leaves_nothing_behind() {
    with_store(async |_server, proxy, store| {
        for stays in [true, false] {
            let messages = [sample(b"given up"), sample(b"waited for")];
            proxy.set(Mode::CutAfterCommit);
            let [given_up, waited_for] = messages.clone().map(|message| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.store_message(message).await })
            });
            proxy.sees_commit().await;
            given_up.abort();
            let gone = Err(StoreError::Unavailable("nobody waits".into()));
            let second = if stays {
                waited_for.await.unwrap()
            } else {
                waited_for.abort();
                gone.clone()
            };
            assert_eq!(second.is_ok(), stays);
            // The first try has stored both by now.
            tokio::time::sleep(Duration::from_millis(600)).await;
            settled(&store, &[gone, second], &messages).await;
        }
    });
}

#[test]
fn a_node_that_lags_behind_knows_of_a_message_before_it_removes_it() {
    with_store(async |server, proxy, store| {
        server
            .sql(&[
                "CREATE TABLE waits (mask INT) ENGINE=MyISAM",
                "CREATE TRIGGER removal BEFORE DELETE ON messages FOR EACH ROW
                     INSERT INTO waits VALUES (@@SESSION.wsrep_sync_wait)",
            ])
            .await;
        proxy.set(Mode::FreezeAtCommit);
        let message = sample(b"committed when it thaws");
        let result = store.store_message(message.clone()).await;
        assert!(unavailable(&result), "{result:?}");
        proxy.thaw();
        while server.number("SELECT COUNT(*) FROM waits").await == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(server.number("SELECT MIN(mask & 2) FROM waits").await, 2);
        settled(&store, &[result], &[message]).await;
    });
}
