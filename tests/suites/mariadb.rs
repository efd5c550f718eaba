//! The private MariaDB itself.

use mailcell_tests::mariadb::MariaDb;

#[test]
fn starts_freezes_thaws_stops_and_starts_again() {
    let mut server = MariaDb::launch().expect("a server");
    let url = server.database("mail").expect("a database");
    assert!(url.starts_with("mysql://root:") && url.ends_with(&format!("@127.0.0.1:{}/mail", server.port())), "{url}");
    server.sql("CREATE TABLE mail.t (n INT); INSERT INTO mail.t VALUES (7)").expect("a table");
    let durability = server.sql("SELECT @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite").expect("settings");
    assert_eq!(durability, "1\t1\n");

    server.freeze().expect("frozen");
    server.sql("SELECT 1").expect_err("a frozen server does not answer");
    server.thaw().expect("thawed");
    assert_eq!(server.sql("SELECT n FROM mail.t").expect("an answer"), "7\n");

    server.freeze().expect("frozen");
    server.stop().expect("a frozen server stops too");
    server.sql("SELECT 1").expect_err("a stopped server does not answer");
    server.start().expect("started again");
    assert_eq!(server.sql("SELECT n FROM mail.t").expect("an answer"), "7\n");

    server.kill();
    server.start().expect("started after a crash");
    assert_eq!(server.sql("SELECT n FROM mail.t").expect("an answer"), "7\n");

    server.database("mail").expect("the same database anew");
    server.sql("SELECT n FROM mail.t").expect_err("a database anew is empty");
}
