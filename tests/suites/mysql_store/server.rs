//! A private MariaDB with the accounts `mailcell` (everything) and `plain` (no DDL), password `secret`, and the
//! database `mail`.

use mailcell_tests::mariadb::MariaDb;
use std::sync::Arc;

const ACCOUNTS: &str = "CREATE DATABASE mail;
CREATE USER 'mailcell'@'%' IDENTIFIED BY 'secret';
GRANT ALL ON *.* TO 'mailcell'@'%' WITH GRANT OPTION;
CREATE USER 'plain'@'%' IDENTIFIED BY 'secret';
GRANT SELECT, INSERT, UPDATE, DELETE ON mail.* TO 'plain'@'%';";

pub(crate) struct Server {
    mariadb: Arc<MariaDb>,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start(options: &[&str]) -> Server {
        let mariadb = MariaDb::launch_with(options).unwrap();
        mariadb.sql(ACCOUNTS).unwrap();
        Server { port: mariadb.port(), mariadb: Arc::new(mariadb) }
    }

    pub(crate) fn url(&self, user: &str) -> String {
        format!("mysql://{user}:secret@127.0.0.1:{}/mail", self.port)
    }

    /// Runs statements, one after the other on one connection, and gives what the last one says.
    pub(crate) async fn sql(&self, statements: &[&str]) -> String {
        let (mariadb, statements) = (self.mariadb.clone(), script(statements));
        tokio::task::spawn_blocking(move || mariadb.sql(&statements).unwrap()).await.unwrap()
    }

    /// The first column of the first row.
    pub(crate) async fn number(&self, sql: &str) -> u64 {
        self.sql(&[sql]).await.trim().parse().unwrap()
    }

    pub(crate) fn freeze(&self) {
        self.mariadb.freeze().unwrap();
    }

    pub(crate) fn thaw(&self) {
        self.mariadb.thaw().unwrap();
    }

    pub(crate) fn stop(&mut self) {
        Arc::get_mut(&mut self.mariadb).unwrap().stop().unwrap();
    }

    pub(crate) fn run(&mut self) {
        Arc::get_mut(&mut self.mariadb).unwrap().start().unwrap();
    }
}

/// The body of a trigger holds semicolons, so statements end otherwise.
fn script(statements: &[&str]) -> String {
    format!("DELIMITER $$\nUSE mail$$\n{}$$\n", statements.join("$$\n"))
}
