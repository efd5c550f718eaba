//! A private MariaDB server for one test: its own directory and port, gone when dropped.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server with the accounts `mailcell` (everything) and `plain` (no DDL), password `secret`, and the database `mail`.
pub(crate) struct Server {
    dir: TempDir,
    child: Option<Child>,
    pub(crate) port: u16,
    args: Vec<String>,
}

const ACCOUNTS: &str = "CREATE DATABASE IF NOT EXISTS mail;
CREATE USER IF NOT EXISTS 'mailcell'@'%' IDENTIFIED BY 'secret';
GRANT ALL ON *.* TO 'mailcell'@'%' WITH GRANT OPTION;
CREATE USER IF NOT EXISTS 'plain'@'%' IDENTIFIED BY 'secret';
GRANT SELECT, INSERT, UPDATE, DELETE ON mail.* TO 'plain'@'%';
";

impl Server {
    pub(crate) async fn start(args: &[&str]) -> Server {
        let dir = tempfile::Builder::new().prefix("mailcell-mariadb-").tempdir().unwrap();
        // Servers remove each other's temporary tables from a tmpdir that they share.
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        if rustix::process::getuid().is_root() {
            assert!(Command::new("chown").args(["-R", "mysql"]).arg(dir.path()).status().unwrap().success());
        }
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=mysql", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg("--innodb-log-file-size=8M")
            .arg(format!("--datadir={}", dir.path().join("data").display()))
            .arg(format!("--tmpdir={}", dir.path().join("tmp").display()))
            .output()
            .unwrap();
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        std::fs::write(dir.path().join("init.sql"), ACCOUNTS).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut server = Server { dir, child: None, port, args };
        server.run().await;
        server
    }

    /// Starts the process, and waits until it answers.
    pub(crate) async fn run(&mut self) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new("mariadbd")
            .args(["--no-defaults", "--user=mysql", "--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--max-connections=50"])
            .args([format!("--datadir={}", path("data")), format!("--socket={}", path("sock"))])
            .arg(format!("--tmpdir={}", path("tmp")))
            .args([format!("--port={}", self.port), format!("--init-file={}", path("init.sql"))])
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while Conn::new(self.opts()).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "{}", std::fs::read_to_string(path("log")).unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn opts(&self) -> OptsBuilder {
        OptsBuilder::default()
            .tcp_port(self.port)
            .user(Some("mailcell"))
            .pass(Some("secret"))
            .db_name(Some("mail"))
            .prefer_socket(false)
    }

    pub(crate) fn url(&self, user: &str) -> String {
        format!("mysql://{user}:secret@127.0.0.1:{}/mail", self.port)
    }

    /// Runs statements, each by itself.
    pub(crate) async fn sql(&self, statements: &[&str]) {
        let mut conn = Conn::new(self.opts()).await.unwrap();
        for statement in statements {
            conn.query_drop(*statement).await.unwrap();
        }
        conn.disconnect().await.unwrap();
    }

    /// The first column of the first row.
    pub(crate) async fn number(&self, sql: &str) -> u64 {
        let mut conn = Conn::new(self.opts()).await.unwrap();
        let number = conn.query_first(sql).await.unwrap().unwrap();
        conn.disconnect().await.unwrap();
        number
    }

    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Stops the process as an administrator would.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.child.take().unwrap().wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
