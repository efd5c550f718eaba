//! The MySQL store against a real MariaDB server, healthy and otherwise.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod doubt;
mod failover;
mod opening;
mod proxy;
mod server;

use jiff::Timestamp;
use mailcell::store::mysql::{self, MysqlOptions, MysqlStore};
use mailcell::store::{self, Credentials, Group, MailStore, Message, MessageDate, MessageFilter, Options, StoreError};
use mailcell::store::{TlsMode, User, UserChange};
use server::Server;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(8);
/// What a test may take in all.
const TEST_TIME_MAX: Duration = Duration::from_secs(90);

/// Runs a test within its time. A server that it started is stopped when it ends, also by a panic.
fn within(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(TEST_TIME_MAX, test).await.expect("the test took too long") });
}

fn options(url: String, deadline: Duration) -> MysqlOptions {
    MysqlOptions { url, password: None, tls: TlsMode::Disabled, ca_file: None, deadline }
}

async fn open(server: &Server, deadline: Duration) -> MysqlStore {
    mysql::open(options(server.url("mailcell"), deadline)).await.unwrap()
}

async fn open_error(url: String) -> String {
    let error = mysql::open(options(url, DEADLINE)).await.err().expect("it must not open").to_string();
    assert!(!error.contains('\n') && !error.contains("secret"), "{error}");
    error
}

fn sample(body: &[u8]) -> Message {
    Message {
        id: Uuid::now_v7(),
        mail_from: "Alice@Client.test".into(),
        rcpt_to: vec!["Bob@mx.test".into(), "carol@mx.test".into()],
        subject: Some("Grüße 🦀".into()),
        date: MessageDate { at: "1996-12-19T16:39:57-08:00".parse().unwrap(), zone_minutes: -480 },
        headers: b"Subject: Gr\xfc\xdfe\r\n\r\n".to_vec(),
        body: body.to_vec(),
        trace: b"Return-Path: <Alice@Client.test>\r\n".to_vec(),
        received_at: Timestamp::constant(1_700_000_001, 123_456_000),
        parameters: Some(r#"{"mail":"RET=FULL","rcpt":["NOTIFY=NEVER",""]}"#.into()),
    }
}

fn user(name: &str, domain: &str, group: Option<&str>) -> User {
    User { username: name.into(), domain: domain.into(), group: group.map(Into::into), credentials: None }
}

/// Stores messages at once, and gives their results in order.
async fn store_all(store: &Arc<MysqlStore>, messages: &[Message]) -> Vec<store::Result<()>> {
    let mut waits = Vec::new();
    for message in messages.iter().cloned() {
        let store = Arc::clone(store);
        waits.push(tokio::spawn(async move { store.store_message(message).await }));
    }
    let mut results = Vec::new();
    for wait in waits {
        results.push(wait.await.unwrap());
    }
    results
}

fn unavailable(result: &store::Result<()>) -> bool {
    matches!(result, Err(StoreError::Unavailable(_)))
}

/// Waits until `ids` are as they should be: stored where `Ok` was said, and absent where not.
async fn settled(store: &MysqlStore, results: &[store::Result<()>], messages: &[Message]) {
    let started = Instant::now();
    for (result, message) in results.iter().zip(messages) {
        while store.message(message.id).await.map(|found| found.is_some()) != Ok(result.is_ok()) {
            assert!(started.elapsed() < Duration::from_secs(20), "{result:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[test]
fn messages_come_back_octet_for_octet() {
    within(async {
        let server = Server::start(&["--max-allowed-packet=64M"]);
        let store = open(&server, DEADLINE).await;
        let every: Vec<u8> = (0..=255).collect();
        let large = |octets: usize| (0..octets).map(|i| ((i * 31) >> 3) as u8).collect::<Vec<u8>>();
        // The last ones are beyond what fits one packet of the protocol (16 MiB).
        let bodies = [vec![], every, vec![0; 3 << 20], large(3 << 20), large((16 << 20) - 200), large(40 << 20)];
        let mut sent: Vec<Message> = bodies.iter().map(|body| sample(body)).collect();
        sent[0].subject = None;
        sent[0].mail_from = String::new();
        sent[5].subject = None;
        sent[5].headers = Vec::new();
        sent[1].rcpt_to = vec!["\"q\\\"uo,te\"@x.org".into(), "grüße@x.org".into()];
        for message in &sent {
            store.store_message(message.clone()).await.unwrap();
            store.store_message(message.clone()).await.expect("the same id twice is stored once");
        }
        for message in &sent {
            assert!(store.message(message.id).await.unwrap().as_ref() == Some(message), "{}", message.body.len());
        }
        assert_eq!(server.number("SELECT COUNT(*) FROM messages").await, sent.len() as u64);
        assert!(store.remove_message(sent[0].id).await.unwrap());
        assert!(!store.remove_message(sent[0].id).await.unwrap());
        assert_eq!(store.message(sent[0].id).await.unwrap(), None);
        store.close().await;
        assert!(unavailable(&store.store_message(sample(b"x")).await));
    });
}

#[test]
fn a_refused_row_leaves_its_neighbours_alone() {
    within(async {
        let server = Server::start(&[]);
        let store = Arc::new(open(&server, DEADLINE).await);
        let mut messages: Vec<Message> = (0..150).map(|_| sample(b"x")).collect();
        messages[40].mail_from = "x".repeat(321);
        messages[120].mail_from = "x".repeat(321);
        for (i, result) in store_all(&store, &messages).await.iter().enumerate() {
            assert_eq!(i == 40 || i == 120, matches!(result, Err(StoreError::Refused(_))), "{i}: {result:?}");
        }
        assert_eq!(server.number("SELECT COUNT(*) FROM messages").await, 148);
        // Some already there, some new, in one batch.
        for message in &mut messages {
            message.mail_from = String::new();
        }
        assert!(store_all(&store, &messages).await.iter().all(Result::is_ok));
        assert_eq!(server.number("SELECT COUNT(*) FROM messages").await, 150);
    });
}

#[test]
fn a_row_refused_for_reasons_of_a_trigger_leaves_its_neighbours_alone() {
    within(async {
        let server = Server::start(&[]);
        let store = Arc::new(open(&server, DEADLINE).await);
        // An error of the administrator's own, which has a number that nobody knows.
        server
            .sql(&["CREATE TRIGGER own BEFORE INSERT ON messages FOR EACH ROW
                     IF NEW.subject = 'bad' THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 31000; END IF"])
            .await;
        let mut messages: Vec<Message> = (0..20).map(|_| sample(b"x")).collect();
        messages[7].subject = Some("bad".into());
        for (i, result) in store_all(&store, &messages).await.iter().enumerate() {
            assert_eq!(i == 7, matches!(result, Err(StoreError::Refused(_))), "{i}: {result:?}");
        }
    });
}

#[test]
fn a_message_beyond_the_packet_limit_is_refused_and_the_next_goes_through() {
    within(async {
        let server = Server::start(&["--max-allowed-packet=1M"]);
        let store = Arc::new(open(&server, DEADLINE).await);
        assert_eq!(store.message_octets_max(), (1 << 20) - (128 << 10));
        for octets in [(1 << 20) - 100, 2 << 20, 20 << 20] {
            let refused = store.store_message(sample(&vec![b'x'; octets])).await;
            assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
            store.store_message(sample(b"small")).await.unwrap();
        }
        let headers = sample(b"").headers.len() as u64;
        let fits = sample(&vec![0; (store.message_octets_max() - headers) as usize]);
        // Also with all that an envelope and a subject can be.
        let crowded = Message {
            rcpt_to: vec![format!("\"{}\"@{}", "\\\"".repeat(31), "d".repeat(188)); 100],
            subject: Some("\u{fffd}".repeat(16 << 10)),
            ..sample(&fits.body)
        };
        assert_eq!(store.store_message(crowded).await, Ok(()));
        // Many at once: no statement of a batch exceeds the limit either.
        let many: Vec<Message> =
            (0..12).map(|i| if i % 2 == 0 { fits.clone() } else { sample(&[1; 200_000]) }).collect();
        let results = store_all(&store, &many).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        // The limit follows the server's, from the next connect on.
        server.sql(&["SET GLOBAL max_allowed_packet = 2097152"]).await;
        let lifted = mysql::open(options(server.url("mailcell"), DEADLINE)).await.unwrap();
        assert_eq!(lifted.message_octets_max(), (2 << 20) - (128 << 10));
    });
}

#[test]
fn a_frozen_server_is_unavailable_and_thaws_without_a_trace() {
    within(async {
        let server = Server::start(&[]);
        let deadline = Duration::from_secs(2);
        let store = Arc::new(open(&server, deadline).await);
        let (mut messages, mut results) = (Vec::new(), Vec::new());
        for round in 0..4 {
            let batch: Vec<Message> = (0..200).map(|_| sample(&[b'x'; 5000])).collect();
            let storing = tokio::spawn({
                let (store, batch) = (Arc::clone(&store), batch.clone());
                async move { store_all(&store, &batch).await }
            });
            // Somewhere in the middle of the work, a little later each time.
            tokio::time::sleep(Duration::from_millis(3 + 4 * round)).await;
            server.freeze();
            let started = Instant::now();
            let found = store.find_user("bob", None).await;
            assert!(matches!(found, Err(StoreError::Unavailable(_))), "{found:?}");
            results.extend(storing.await.unwrap());
            assert!(started.elapsed() < deadline + Duration::from_secs(1), "{:?}", started.elapsed());
            messages.extend(batch);
            server.thaw();
            // Without opening again.
            assert_eq!(store.find_user("bob", None).await, Ok(vec![]));
            store.store_message(sample(b"after")).await.unwrap();
        }
        assert!(results.iter().any(unavailable));
        assert!(results.iter().all(|result| result.is_ok() || unavailable(result)));
        settled(&store, &results, &messages).await;
        // And it stays so.
        tokio::time::sleep(Duration::from_secs(1)).await;
        settled(&store, &results, &messages).await;
    });
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    within(async {
        let mut server = Server::start(&[]);
        let store = Arc::new(open(&server, DEADLINE).await);
        let messages: Vec<Message> = (0..20).map(|_| sample(b"x")).collect();
        assert!(store_all(&store, &messages).await.iter().all(Result::is_ok));
        server.stop();
        let started = Instant::now();
        assert!(unavailable(&store.store_message(sample(b"x")).await));
        assert!(matches!(store.expand_group("x").await, Err(StoreError::Unavailable(_))));
        assert!(started.elapsed() < Duration::from_secs(2), "a refused connection is known at once");
        server.run();
        store.store_message(sample(b"x")).await.unwrap();
        // Idle connections that the server closed meanwhile are noticed without an error.
        server.stop();
        server.run();
        let messages: Vec<Message> = (0..20).map(|_| sample(b"x")).collect();
        let results = store_all(&store, &messages).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(store.find_user("bob", None).await, Ok(vec![]));
        store.add_user(&user("bob", "x.org", None)).await.unwrap();
    });
}

#[test]
fn locks_and_deadlocks_are_waited_out() {
    within(async {
        let server = Server::start(&[]);
        let store = Arc::new(open(&server, Duration::from_secs(6)).await);
        let message = sample(b"x");
        // Another one holds the very key for a while.
        let hex = message.id.simple();
        let hold = format!(
            "INSERT INTO messages VALUES (x'{hex}', '', '[]', NULL, '2020-01-01', 0, '', '', '', 0, '2020-01-01', NULL)"
        );
        let other = async { server.sql(&["START TRANSACTION", &hold, "DO SLEEP(1)", "ROLLBACK"]).await };
        let mine = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            store.store_message(message.clone()).await
        };
        let (_, stored) = tokio::join!(other, mine);
        stored.unwrap();
        assert!(store.message(message.id).await.unwrap() == Some(message));
        // The first three inserts fall to a deadlock; a table without transactions counts them.
        server
            .sql(&[
                "CREATE TABLE tries (x INT) ENGINE=MyISAM",
                "CREATE TRIGGER deadlock BEFORE INSERT ON messages FOR EACH ROW BEGIN
                     INSERT INTO tries VALUES (1);
                     IF (SELECT COUNT(*) FROM tries) <= 3 THEN
                         SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213;
                     END IF;
                 END",
            ])
            .await;
        let message = sample(b"x");
        store.store_message(message.clone()).await.unwrap();
        assert!(store.message(message.id).await.unwrap() == Some(message));
        assert_eq!(server.number("SELECT COUNT(*) FROM tries").await, 4);
    });
}

#[test]
fn filters_match_whole_mailboxes() {
    within(async {
        let server = Server::start(&[]);
        let store = open(&server, DEADLINE).await;
        let mut ids = Vec::new();
        for (i, to) in ["bob@x.org", "jimbob@x.org", "BOB@x.org", "b_b@x.org", "Ü@x.org"].iter().enumerate() {
            let mut message = sample(b"x");
            message.rcpt_to = vec!["first@x.org".into(), (*to).into()];
            message.mail_from = format!("Sender{i}@Y.org");
            message.received_at = Timestamp::from_second(1_000_000 + i as i64).unwrap();
            ids.push(message.id);
            store.store_message(message).await.unwrap();
        }
        let list = async |filter: MessageFilter| -> Vec<usize> {
            let found = store.list_messages(&filter).await.unwrap();
            found.iter().map(|summary| ids.iter().position(|id| *id == summary.id).unwrap()).collect()
        };
        let to = |to: &str| MessageFilter { to: Some(to.into()), ..MessageFilter::default() };
        assert_eq!(list(MessageFilter::default()).await, [4, 3, 2, 1, 0]);
        assert_eq!(list(to("Bob@X.org")).await, [2, 0]);
        assert_eq!(list(to("b_b@x.org")).await, [3]);
        assert_eq!(list(to("%@x.org")).await, [0; 0]);
        assert_eq!(list(to("Ü@X.org")).await, [4]);
        assert_eq!(list(to("ü@x.org")).await, [0; 0]);
        assert_eq!(list(to("first@x.org")).await.len(), 5);
        assert_eq!(list(MessageFilter { from: Some("sender1@y.ORG".into()), ..to("jimbob@x.org") }).await, [1]);
        let since = Some(Timestamp::from_second(1_000_003).unwrap());
        assert_eq!(list(MessageFilter { since, ..MessageFilter::default() }).await, [4, 3]);
        assert_eq!(list(MessageFilter { limit: Some(2), ..MessageFilter::default() }).await, [4, 3]);
    });
}

#[test]
fn users_and_groups() {
    within(async {
        let server = Server::start(&[]);
        let options = Options { deadline: DEADLINE, password: Some("secret".into()), ..Options::default() };
        let url = format!("mysql://mailcell@127.0.0.1:{}/mail", server.port);
        let store = store::open(&url, &options).await.unwrap();
        for (name, domain, group) in [("bob", "b.org", Some("t")), ("bob", "a.org", None), ("al", "b.org", Some("t"))] {
            store.add_user(&user(name, domain, group)).await.unwrap();
        }
        let again = store.add_user(&user("bob", "b.org", None)).await;
        assert_eq!(again, Err(StoreError::Exists("bob@b.org".into())));
        let long = store.add_user(&user(&"x".repeat(300), "b.org", None)).await;
        assert!(matches!(long, Err(StoreError::Refused(_))), "{long:?}");
        assert_eq!(store.find_user("Bob", None).await.unwrap(), ["bob@a.org", "bob@b.org"]);
        assert_eq!(store.find_user("bob", Some("B.org")).await.unwrap(), ["bob@b.org"]);
        assert_eq!(store.expand_group("t").await.unwrap(), ["al@b.org", "bob@b.org"]);
        assert_eq!(store.list_groups().await.unwrap(), [Group { name: "t".into(), members: 2 }]);
        let credentials = Some(Credentials { password: "p".into(), scram: "s".into() });
        let change = UserChange { group: Some(Some("other".into())), credentials: credentials.clone() };
        assert!(store.set_user("bob", "b.org", &change).await.unwrap());
        assert!(store.set_user("bob", "b.org", &change).await.unwrap(), "it is there, though nothing changes");
        let listed = store.list_users().await.unwrap();
        assert_eq!(listed[2], User { credentials, ..user("bob", "b.org", Some("other")) });
        assert!(store.set_user("bob", "b.org", &UserChange { group: Some(None), credentials: None }).await.unwrap());
        assert_eq!(store.list_users().await.unwrap()[2].group, None);
        assert!(!store.set_user("no", "b.org", &change).await.unwrap());
        assert!(store.remove_user("bob", "b.org").await.unwrap());
        assert!(!store.remove_user("bob", "b.org").await.unwrap());
        let fill =
            "INSERT INTO users SELECT UNHEX(MD5(seq)), CONCAT('u', LPAD(seq, 6, '0')), 'x.org', 'all', NULL, NULL
                    FROM mail.seq_0_to_99999";
        server.sql(&[fill]).await;
        let members = store.expand_group("all").await.unwrap();
        assert_eq!(members.len(), 100_000);
        assert!(members.is_sorted() && members[99_999] == "u099999@x.org");
    });
}
