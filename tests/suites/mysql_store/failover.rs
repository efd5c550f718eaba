//! Nodes of a cluster that take nothing for a while.

use crate::server::Server;
use crate::{DEADLINE, open, options, sample, user, within};
use mailcell::store::MailStore;
use mailcell::store::mysql;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_node_that_is_not_ready_is_left_for_another_connection() {
    within(async {
        let server = Server::start(&[]);
        let store = open(&server, Duration::from_secs(6)).await;
        // The third connection reaches one that is ready; a table without transactions counts them.
        let not_ready = "BEGIN
                 INSERT IGNORE INTO connections VALUES (CONNECTION_ID());
                 IF (SELECT COUNT(*) FROM connections) < 3 THEN
                     SIGNAL SQLSTATE '08S01' SET MYSQL_ERRNO = 1047;
                 END IF;
             END";
        server
            .sql(&[
                "CREATE TABLE connections (id BIGINT PRIMARY KEY) ENGINE=MyISAM",
                &format!("CREATE TRIGGER node BEFORE INSERT ON users FOR EACH ROW {not_ready}"),
                &format!("CREATE TRIGGER other BEFORE INSERT ON messages FOR EACH ROW {not_ready}"),
            ])
            .await;
        store.add_user(&user("bob", "x.org", None)).await.unwrap();
        assert_eq!(server.number("SELECT COUNT(*) FROM connections").await, 3);
        server.sql(&["TRUNCATE connections"]).await;
        store.store_message(sample(b"x")).await.unwrap();
        assert_eq!(server.number("SELECT COUNT(*) FROM connections").await, 3);
    });
}

#[test]
fn a_server_that_is_read_only_is_waited_for() {
    within(async {
        let server = Server::start(&[]);
        open(&server, DEADLINE).await.close().await;
        // Not the account that may write all the same.
        let store = Arc::new(mysql::open(options(server.url("plain"), DEADLINE)).await.unwrap());
        store.store_message(sample(b"first")).await.unwrap();
        server.sql(&["SET GLOBAL read_only = 1"]).await;
        let tries =
            "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'Com_stmt_execute'";
        let before = server.number(tries).await;
        let message = sample(b"x");
        let storing = tokio::spawn({
            let (store, message) = (Arc::clone(&store), message.clone());
            async move { store.store_message(message).await }
        });
        let adding = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.add_user(&user("bob", "x.org", None)).await }
        });
        while server.number(tries).await < before + 4 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server.sql(&["SET GLOBAL read_only = 0"]).await;
        assert_eq!(storing.await.unwrap(), Ok(()));
        assert_eq!(adding.await.unwrap(), Ok(()));
        assert!(store.message(message.id).await.unwrap() == Some(message));
    });
}
