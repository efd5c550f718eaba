//! Opening a database: its schema, what is said when it cannot be opened, TLS.

use crate::server::Server;
use crate::{DEADLINE, open_error, options, sample, user, within};
use mailcell::store::mysql::{self, MysqlOptions};
use mailcell::store::schema::{self, Dialect, MIGRATIONS, Migration};
use mailcell::store::{self, MailStore, Options, StoreError, TlsMode};

#[test]
fn only_a_schema_of_ours_is_used() {
    within(async {
        let server = Server::start(&[]);
        let refused = open_error(server.url("plain")).await;
        assert!(refused.contains("`mailcell schema apply`"), "{refused}");
        server.sql(&["CREATE TABLE users (x INT)"]).await;
        let foreign = open_error(server.url("mailcell")).await;
        assert!(foreign.contains("a table users without Mailcell's mark"), "{foreign}");
        server.sql(&["DROP TABLE users"]).await;
        // A database of an earlier version.
        drop(mysql::open_with(options(server.url("mailcell"), DEADLINE), &MIGRATIONS[..1]).await.unwrap());
        // Hosts that start together.
        let opens: Vec<_> =
            (0..4).map(|_| tokio::spawn(mysql::open(options(server.url("mailcell"), DEADLINE)))).collect();
        for open in opens {
            open.await.unwrap().unwrap();
        }
        let mark = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_COMMENT = 'mailcell schema 2'";
        assert_eq!(server.number(mark).await, 1);
        // An account without DDL, now that the tables are there.
        let plain = mysql::open(options(server.url("plain"), DEADLINE)).await.unwrap();
        plain.store_message(sample(b"x")).await.unwrap();
        plain.add_user(&user("bob", "x.org", None)).await.unwrap();
        // Newer, through a longer list of versions, twice.
        let mut longer = MIGRATIONS.to_vec();
        longer.push(Migration { version: 3, sqlite: &[], mysql: &["ALTER TABLE users ADD COLUMN note TEXT NULL"] });
        longer.push(Migration { version: 4, sqlite: &[], mysql: &["UPDATE users SET note = 'x'"] });
        for _ in 0..2 {
            mysql::open_with(options(server.url("mailcell"), DEADLINE), &longer).await.unwrap();
        }
        assert_eq!(server.number("SELECT COUNT(*) FROM users WHERE note = 'x'").await, 1);
        let newer = open_error(server.url("mailcell")).await;
        assert!(newer.contains("schema version 4 and this Mailcell knows versions up to 2"), "{newer}");
        // A host that died between a statement and the mark left the statement done.
        server.sql(&["ALTER TABLE messages COMMENT='mailcell schema 2'"]).await;
        mysql::open_with(options(server.url("mailcell"), DEADLINE), &longer).await.unwrap();
        // By hand.
        server.sql(&["DROP TABLE users", "DROP TABLE messages"]).await;
        let script = schema::print(Dialect::Mysql);
        let statements: Vec<&str> = script.split(';').map(str::trim).filter(|text| !text.is_empty()).collect();
        server.sql(&statements).await;
        mysql::open(options(server.url("plain"), DEADLINE)).await.unwrap();
    });
}

#[test]
fn what_cannot_be_opened_is_said_in_one_line() {
    within(async {
        let server = Server::start(&[]);
        let says = async |url: String, text: &str| {
            let error = open_error(url).await;
            assert!(error.contains(text), "{error}");
        };
        let at = format!("127.0.0.1:{}", server.port);
        says(format!("mysql://mailcell:wrong@{at}/mail"), "Access denied").await;
        says(format!("mysql://mailcell:secret@{at}/none"), "Unknown database").await;
        says("mysql://mailcell:secret@127.0.0.1:1/mail".into(), "cannot connect").await;
        says(format!("mysql://mailcell:secret@{at}"), "names no database").await;
        says(format!("mysql://{at}/mail"), "names no user").await;
        says(format!("mysql://mailcell:secret@{at}/mail?require_ssl=true"), "takes no parameters").await;
        let error = store::open("postgres://mailcell:secret@x/y", &Options::default()).await.err().unwrap();
        assert!(matches!(&error, StoreError::Setting(text) if text.contains("\"postgres\"")), "{error}");
        let tls = MysqlOptions { tls: TlsMode::Required, ..options(server.url("mailcell"), DEADLINE) };
        assert!(matches!(mysql::open(tls).await, Err(StoreError::Unavailable(_))));
    });
}

/// A CA and a certificate for 127.0.0.1 in a directory of their own, as the server's arguments and the CA's file.
fn certificates() -> (tempfile::TempDir, Vec<String>, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let script = "set -e; cd \"$0\"; chmod 755 .
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=db
        printf 'subjectAltName=IP:127.0.0.1' > ext
        openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem
        chmod 644 *.pem";
    let made = std::process::Command::new("sh").args(["-c", script]).arg(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let path = |name: &str| dir.path().join(name);
    let args = vec![
        format!("--ssl-cert={}", path("cert.pem").display()),
        format!("--ssl-key={}", path("key.pem").display()),
        format!("--ssl-ca={}", path("ca.pem").display()),
    ];
    let ca = path("ca.pem");
    (dir, args, ca)
}

#[test]
fn tls_verifies_unless_told_not_to() {
    within(async {
        let (dir, args, ca) = certificates();
        let server = Server::start(&args.iter().map(String::as_str).collect::<Vec<_>>());
        server
            .sql(&["CREATE USER 'tls'@'%' IDENTIFIED BY 'secret' REQUIRE SSL", "GRANT ALL ON mail.* TO 'tls'@'%'"])
            .await;
        let open = |host: &str, tls: TlsMode, ca_file: Option<std::path::PathBuf>| {
            let url = format!("mysql://tls:secret@{host}:{}/mail", server.port);
            mysql::open(MysqlOptions { tls, ca_file, ..options(url, DEADLINE) })
        };
        assert!(open("127.0.0.1", TlsMode::Disabled, None).await.is_err());
        let store = open("127.0.0.1", TlsMode::Required, Some(ca.clone())).await.unwrap();
        let message = sample(&vec![7; 3 << 20]);
        store.store_message(message.clone()).await.unwrap();
        assert!(store.message(message.id).await.unwrap() == Some(message));
        assert!(open("localhost", TlsMode::Required, Some(ca)).await.is_err(), "another name");
        assert!(open("127.0.0.1", TlsMode::Required, None).await.is_err(), "another CA");
        assert!(open("127.0.0.1", TlsMode::Required, Some(dir.path().join("none"))).await.is_err());
        open("localhost", TlsMode::Insecure, None).await.unwrap();
    });
}
