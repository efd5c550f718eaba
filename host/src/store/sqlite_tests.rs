use super::connections::{connect, look, upgrade};
use super::*;
use crate::store::schema::{self, Dialect, MIGRATIONS, Migration};
use crate::store::{MessageDate, sample};
use jiff::Timestamp;

const DEADLINE: Duration = Duration::from_secs(10);

async fn fresh() -> (tempfile::TempDir, SqliteStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path().join("mail.db"), DEADLINE).await.unwrap();
    (dir, store)
}

fn user(name: &str, domain: &str, group: Option<&str>) -> User {
    User { username: name.into(), domain: domain.into(), group: group.map(Into::into), credentials: None }
}

#[tokio::test]
async fn messages_come_back_octet_for_octet() {
    let (dir, store) = fresh().await;
    let every: Vec<u8> = (0..=255).collect();
    let mut sent = vec![sample(b""), sample(&every), sample(&vec![0; 3 << 20])];
    sent[0].subject = None;
    sent[0].mail_from = String::new();
    sent[1].rcpt_to = vec!["\"q\\\"uo,te\"@x.org".into(), "grüße@x.org".into()];
    sent[1].date = MessageDate { at: "1996-12-19T16:39:57-08:00".parse().unwrap(), zone_minutes: -480 };
    for message in &sent {
        store.store_message(message.clone()).await.unwrap();
    }
    store.close().await;
    let store = open(dir.path().join("mail.db"), DEADLINE).await.unwrap();
    for message in sent {
        assert_eq!(store.message(message.id).await.unwrap(), Some(message));
    }
    assert_eq!(store.message(Uuid::now_v7()).await.unwrap(), None);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_writer_stands_back() {
    let nice = || rustix::process::getpriority_process(None).unwrap();
    let (_dir, store) = fresh().await;
    let of_writer = store.queue.run_task(DEADLINE, move |_| Ok(nice())).await.unwrap();
    assert_eq!(of_writer, (nice() + 5).min(19));
}

#[tokio::test]
async fn the_same_id_twice_is_stored_once() {
    let (_dir, store) = fresh().await;
    let message = sample(b"x");
    store.store_message(message.clone()).await.unwrap();
    store.store_message(message.clone()).await.unwrap();
    assert_eq!(store.list_messages(&MessageFilter::default()).await.unwrap().len(), 1);
    assert!(store.remove_message(message.id).await.unwrap());
    assert!(!store.remove_message(message.id).await.unwrap());
}

#[tokio::test]
async fn a_refused_row_leaves_its_neighbours_alone() {
    let (dir, store) = fresh().await;
    let path = dir.path().join("mail.db");
    let trigger = "CREATE TRIGGER t BEFORE INSERT ON messages WHEN new.subject = 'bad'
                   BEGIN SELECT raise(ABORT, 'no'); END";
    Connection::open(&path).unwrap().execute_batch(trigger).unwrap();
    let store = Arc::new(store);
    let mut waits = Vec::new();
    for i in 0..40 {
        let mut message = sample(b"x");
        message.subject = Some(if i == 7 { "bad" } else { "good" }.into());
        let store = Arc::clone(&store);
        waits.push(tokio::spawn(async move { store.store_message(message).await }));
    }
    for (i, wait) in waits.into_iter().enumerate() {
        let stored = wait.await.unwrap();
        assert_eq!(i == 7, matches!(stored, Err(StoreError::Refused(_))), "{i}: {stored:?}");
    }
    assert_eq!(store.list_messages(&MessageFilter::default()).await.unwrap().len(), 39);
}

#[tokio::test]
async fn where_there_is_no_room_a_smaller_message_may_be_taken() {
    let (_dir, store) = fresh().await;
    store.change(|connection| connection.pragma_update(None, "max_page_count", 30)).await.unwrap();
    assert!(matches!(store.store_message(sample(&[b'x'; 200_000])).await, Err(StoreError::Full(_))));
    store.store_message(sample(b"x")).await.unwrap();
}

#[tokio::test]
async fn a_locked_file_is_unavailable_and_nothing_is_stored_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.db");
    let store = open(&path, Duration::from_millis(300)).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    let message = sample(b"x");
    assert!(matches!(store.store_message(message.clone()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.add_user(&user("a", "x", None)).await, Err(StoreError::Unavailable(_))));
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(store.find_user("a", None).await.unwrap(), Vec::<String>::new(), "a look-up does not wait");
    other.execute_batch("ROLLBACK").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(store.message(message.id).await.unwrap(), None);
    store.store_message(message.clone()).await.unwrap();
    assert!(store.message(message.id).await.unwrap().is_some());
}

#[tokio::test]
async fn filters_match_whole_mailboxes() {
    let (_dir, store) = fresh().await;
    let mut ids = Vec::new();
    for (i, to) in ["bob@x.org", "jimbob@x.org", "BOB@x.org", "b_b@x.org"].iter().enumerate() {
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
    assert_eq!(list(MessageFilter::default()).await, [3, 2, 1, 0]);
    assert_eq!(list(to("Bob@X.org")).await, [2, 0]);
    assert_eq!(list(to("b_b@x.org")).await, [3]);
    assert_eq!(list(to("%@x.org")).await, [0; 0]);
    assert_eq!(list(to("first@x.org")).await.len(), 4);
    assert_eq!(list(MessageFilter { from: Some("sender1@y.ORG".into()), ..to("jimbob@x.org") }).await, [1]);
    let since = Some(Timestamp::from_second(1_000_002).unwrap());
    assert_eq!(list(MessageFilter { since, ..MessageFilter::default() }).await, [3, 2]);
    assert_eq!(list(MessageFilter { limit: Some(2), ..MessageFilter::default() }).await, [3, 2]);
}

#[tokio::test]
async fn users_and_groups() {
    let (_dir, store) = fresh().await;
    for (name, domain, group) in [("bob", "b.org", Some("team")), ("bob", "a.org", None), ("al", "b.org", Some("team"))]
    {
        store.add_user(&user(name, domain, group)).await.unwrap();
    }
    let again = store.add_user(&user("bob", "b.org", None)).await;
    assert_eq!(again, Err(StoreError::Exists("bob@b.org".into())));
    assert_eq!(store.find_user("Bob", None).await.unwrap(), ["bob@a.org", "bob@b.org"]);
    assert_eq!(store.find_user("bob", Some("B.org")).await.unwrap(), ["bob@b.org"]);
    assert_eq!(store.expand_group("team").await.unwrap(), ["al@b.org", "bob@b.org"]);
    assert!(store.expand_group("none").await.unwrap().is_empty());
    assert_eq!(store.list_groups().await.unwrap(), [Group { name: "team".into(), members: 2 }]);
    let credentials = Some(Credentials { password: "p".into(), scram: "s".into() });
    let change = UserChange { group: Some(Some("other".into())), credentials: credentials.clone() };
    assert!(store.set_user("bob", "b.org", &change).await.unwrap());
    assert!(store.set_user("bob", "b.org", &UserChange::default()).await.unwrap());
    let listed = store.list_users().await.unwrap();
    assert_eq!(listed[2], User { credentials, ..user("bob", "b.org", Some("other")) });
    assert!(store.set_user("bob", "b.org", &UserChange { group: Some(None), credentials: None }).await.unwrap());
    assert!(!store.set_user("no", "b.org", &change).await.unwrap());
    assert!(store.remove_user("bob", "b.org").await.unwrap());
    assert!(!store.remove_user("bob", "b.org").await.unwrap());
}

#[tokio::test]
async fn a_group_of_100000_members_comes_out_whole() {
    let (dir, store) = fresh().await;
    let fill = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)
                INSERT INTO users SELECT randomblob(16), printf('u%06d', i), 'x.org', 'all', NULL, NULL FROM n";
    Connection::open(dir.path().join("mail.db")).unwrap().execute_batch(fill).unwrap();
    let members = store.expand_group("all").await.unwrap();
    assert_eq!(members.len(), 100_000);
    assert!(members.is_sorted() && members[99_999] == "u099999@x.org");
}

#[tokio::test]
async fn what_is_not_ours_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.db");
    let fails = async |with: &str| {
        let error = open(&path, DEADLINE).await.err().unwrap().to_string();
        assert!(error.contains(with) && !error.contains('\n'), "{error}");
    };
    let run = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    run("CREATE TABLE users (x)");
    fails("a table users without Mailcell's mark").await;
    run("DROP TABLE users; PRAGMA user_version = 9");
    fails("schema version 9 and this Mailcell knows versions up to 2").await;
    std::fs::write(&path, [b'x'; 4096]).unwrap();
    fails("not a database").await;
    let missing = dir.path().join("none/mail.db");
    let error = open(&missing, DEADLINE).await.err().unwrap().to_string();
    assert!(error.contains("none/mail.db") && !error.contains('\n'), "{error}");
}

#[test]
fn an_old_schema_is_brought_up_to_date_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.db");
    let mut connection = connect(&path, DEADLINE).unwrap();
    upgrade(&mut connection, &MIGRATIONS[..1]).unwrap();
    upgrade(&mut connection, MIGRATIONS).unwrap();
    connection.execute_batch("SELECT parameters FROM messages").unwrap();
    let mut longer = MIGRATIONS.to_vec();
    longer.push(Migration { version: 3, sqlite: &["ALTER TABLE users ADD COLUMN note TEXT"], mysql: &[] });
    longer.push(Migration { version: 4, sqlite: &["UPDATE users SET note = 'x'"], mysql: &[] });
    upgrade(&mut connection, &longer).unwrap();
    upgrade(&mut connection, &longer).unwrap();
    connection.execute_batch("SELECT note FROM users").unwrap();
    assert!(matches!(upgrade(&mut connection, MIGRATIONS), Err(StoreError::Schema(_))));
    longer.push(Migration { version: 5, sqlite: &["CREATE TABLE t (x)", "no such statement"], mysql: &[] });
    assert!(upgrade(&mut connection, &longer).is_err());
    assert_eq!(look(&mut connection).unwrap().mark, Some(4), "a failed upgrade leaves the version as it was");
    longer.pop();
    upgrade(&mut connection, &longer).unwrap();
}

#[tokio::test]
async fn hosts_that_start_together_share_the_tables() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.db");
    let opens: Vec<_> = (0..4).map(|_| tokio::spawn(open(path.clone(), DEADLINE))).collect();
    for open in opens {
        open.await.unwrap().unwrap();
    }
}

#[test]
fn tables_and_mark_of_another_host_are_seen_together() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.db");
    let (mut connection, other) = (connect(&path, DEADLINE).unwrap(), connect(&path, DEADLINE).unwrap());
    let turns = std::thread::spawn(move || {
        for _ in 0..300 {
            let made =
                "BEGIN IMMEDIATE; CREATE TABLE users (x); CREATE TABLE messages (x); PRAGMA user_version = 2; COMMIT";
            let gone = "BEGIN IMMEDIATE; DROP TABLE users; DROP TABLE messages; PRAGMA user_version = 0; COMMIT";
            other.execute_batch(&format!("PRAGMA synchronous = OFF; {made}; {gone}")).unwrap();
        }
    });
    while !turns.is_finished() {
        let seen = look(&mut connection).unwrap();
        assert!(seen.users == seen.mark.is_some() && seen.messages == seen.users, "{seen:?}");
    }
    turns.join().unwrap();
}

#[tokio::test]
async fn only_its_owner_may_read_a_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (dir, store) = fresh().await;
    store.store_message(sample(b"x")).await.unwrap();
    for name in ["mail.db", "mail.db-wal", "mail.db-shm"] {
        assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
    }
    store.close().await;
    // What somebody chose for a file stays.
    let path = dir.path().join("mail.db");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    open(&path, DEADLINE).await.unwrap();
    assert_eq!(mode(&path), 0o640);
}

#[test]
fn the_printed_schema_leaves_nothing_to_do() {
    let mut connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(&schema::print(Dialect::Sqlite)).unwrap();
    assert!(schema::plan(look(&mut connection).unwrap(), MIGRATIONS).unwrap().is_empty());
}
