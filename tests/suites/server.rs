//! The program as a process: outages of the database, limits, signals, large messages.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use mailcell_tests::mariadb::MariaDb;
use mailcell_tests::program;
use mailcell_tests::program::{Server, command, run};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

struct Setup {
    _directory: TempDir,
    server: Server,
    database: String,
}

fn sqlite(arguments: &[&str]) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", directory.path().join("mail.db").display());
    let server = Server::start(Path::new(PROGRAM), &[&["--database", &database], arguments].concat(), &[]);
    Setup { _directory: directory, server, database }
}

fn messages(database: &str) -> Vec<serde_json::Value> {
    let list = run(command(Path::new(PROGRAM), &["message", "list", "--json", "--database", database]), b"");
    assert!(list.status.success(), "{}", list.stderr);
    serde_json::from_slice(&list.stdout).unwrap()
}

#[track_caller]
fn assert_code(response: &str, code: &str) {
    assert!(response.starts_with(code), "expected {code}: {response:?}");
}

/// A URL without its password, which goes by the environment.
fn without_password(url: &str) -> (String, String) {
    let (password, rest) = url.strip_prefix("mysql://root:").unwrap().split_once('@').unwrap();
    (format!("mysql://root@{rest}"), password.to_owned())
}

/// A server whose second listener is behind a proxy, and the address of that one.
fn behind_a_proxy(believed: &str) -> (Server, std::net::SocketAddr, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", directory.path().join("mail.db").display());
    let arguments = ["--listen", "127.0.0.1:0 proxy=on", "--proxy-from", believed, "--database", &database];
    let server = Server::start(Path::new(PROGRAM), &arguments, &[]);
    let address = server.wait_for_listener();
    (server, address, directory)
}

#[test]
fn a_proxy_says_where_the_client_is() {
    use std::io::Read;
    let (server, address, _directory) = behind_a_proxy("127.0.0.0/8");
    let binary = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 8, 127, 0, 0, 1, 1, 1, 0, 25]].concat();
    for (header, client) in
        [(&b"PROXY TCP4 192.0.2.7 127.0.0.1 257 25\r\n"[..], "192.0.2.7:257"), (&binary, "192.0.2.8:257")]
    {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(&[header, b"EHLO client.test\r\nQUIT\r\n"].concat()).unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        assert!(told.starts_with("220 mx.test") && told.contains("221 2.0.0"), "{told}");
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let message = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nQUIT\r\n";
        stream.write_all(&[header, message].concat()).unwrap();
        server.wait_for_log(client);
    }
    // Lies, and what is no header at all: the connection ends, and the listener goes on.
    for bad in [&b"EHLO client.test\r\n"[..], b"PROXY TCP4 somewhere 127.0.0.1 257 25\r\n", &binary[..20]] {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(bad).unwrap();
        // The server may have closed first.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told);
        assert!(told.is_empty(), "{}", told.escape_ascii());
        server.wait_for_log("no header of the PROXY protocol");
    }
    server.connect();
}

#[test]
fn a_proxy_that_is_not_believed_is_refused() {
    use std::io::{Read, Write};
    let (_server, address, _directory) = behind_a_proxy("192.0.2.1");
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"PROXY TCP4 192.0.2.7 127.0.0.1 257 25\r\n").unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("421 4.3.2 mx.test Not a proxy that is believed here"), "{told}");
}

#[test]
fn mail_flows_again_when_the_database_is_back() {
    let mut mariadb = MariaDb::launch().unwrap();
    let (database, password) = without_password(&mariadb.database("mail").unwrap());
    let environment = [("MAILCELL_DATABASE_PASSWORD", password.as_str())];
    let arguments = ["--database", &database, "--database-deadline", "2s"];
    let server = Server::start(Path::new(PROGRAM), &arguments, &environment);
    assert_code(&server.connect().send_message("Subject: before\r\n\r\nbody"), "250 2.0.0");

    let (mut in_data, mut verifying, mut idle) = (server.connect(), server.connect(), server.connect());
    in_data.begin_message();
    mariadb.stop().unwrap();
    assert_code(&in_data.say("Subject: lost\r\n\r\nbody\r\n."), "421 4.3.0 mx.test ");
    assert!(in_data.is_closed());
    assert_code(&verifying.say("VRFY bob"), "421 4.3.0");
    assert_code(&idle.say("NOOP"), "250");
    // A client that comes meanwhile is greeted, and told at the first command that needs the database.
    let mut late = server.connect();
    assert_code(&late.say("EXPN staff"), "421 4.3.0");

    mariadb.start().unwrap();
    assert_code(&idle.send_message("Subject: after\r\n\r\nbody"), "250 2.0.0");
    let subjects = mariadb.sql("SELECT subject FROM mail.messages ORDER BY id").unwrap();
    assert_eq!(subjects, "before\nafter\n");
}

#[test]
fn a_frozen_database_gives_421_in_bounded_time_and_stores_nothing_twice() {
    let mariadb = MariaDb::launch().unwrap();
    let (database, password) = without_password(&mariadb.database("mail").unwrap());
    let environment = [("MAILCELL_DATABASE_PASSWORD", password.as_str())];
    let server =
        Server::start(Path::new(PROGRAM), &["--database", &database, "--database-deadline", "2s"], &environment);
    let mut client = server.connect();
    assert_code(&client.send_message("Subject: before\r\n\r\nbody"), "250");
    client.begin_message();
    mariadb.freeze().unwrap();
    let start = Instant::now();
    assert_code(&client.say("Subject: frozen\r\n\r\nbody\r\n."), "421");
    assert!(start.elapsed() < Duration::from_secs(20), "bounded by the deadline, with room for a slow machine");
    mariadb.thaw().unwrap();
    assert_code(&server.connect().send_message("Subject: after\r\n\r\nbody"), "250");
    // What a 421 answered is not left in the database, even if its COMMIT went through when the server thawed.
    let deadline = Instant::now() + program::PATIENCE;
    while mariadb.sql("SELECT subject FROM mail.messages ORDER BY id").unwrap() != "before\nafter\n" {
        assert!(Instant::now() < deadline, "a message that was answered 421 stays");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_database_packet_limit_is_shown_by_size() {
    let mariadb = MariaDb::launch_with(&["--max-allowed-packet=1M"]).unwrap();
    let (database, password) = without_password(&mariadb.database("mail").unwrap());
    let server = Server::start(
        Path::new(PROGRAM),
        &["--database", &database],
        &[("MAILCELL_DATABASE_PASSWORD", password.as_str())],
    );
    let limit = (1 << 20) - (128 << 10);
    let mut client = server.connect();
    let response = client.say("EHLO client.test");
    assert!(response.contains(&format!("250-SIZE {limit}\r\n")), "{response}");
    assert_code(&client.say(&format!("MAIL FROM:<a@b.test> SIZE={}", limit + 1)), "552 5.3.4");
    let body = "x".repeat(97) + "\r\n";
    let largest = body.repeat(limit / body.len());
    assert_code(&client.send_message(largest.trim_end()), "250 2.0.0");
    assert_code(&client.send_message(&(largest + &body)), "552");
    assert_code(&client.send_message("Subject: small"), "250 2.0.0");
}

#[test]
fn each_message_is_a_line_of_the_log() {
    let setup = sqlite(&["--log-format", "json"]);
    let mut client = setup.server.connect();
    assert_code(&client.send_message("body"), "250");
    let line: serde_json::Value = serde_json::from_str(&setup.server.wait_for_log("stored")).unwrap();
    assert_eq!(line["fields"]["from"], "ann@client.test");
    assert_eq!(line["fields"]["to"], "bob@mx.test");
    assert_eq!(line["fields"]["octets"], 6);
    assert_code(&client.send_message("bare\rcr"), "554");
    let line: serde_json::Value = serde_json::from_str(&setup.server.wait_for_log("refused")).unwrap();
    assert_eq!(line["fields"]["code"], 554);
}

#[test]
fn each_refused_sender_and_recipient_is_a_line_of_the_log() {
    let own = ["--accept", "users", "--domains", "mx.test", "--message-size", "64KiB", "--auth", "on"];
    let setup = sqlite(&[&own[..], &["--log-format", "json"]].concat());
    let mut client = setup.server.connect();
    assert_code(&client.say("EHLO client.test"), "250");
    // Whatever it looks like: behind AUTH a line is a secret.
    assert_code(&client.say("AUTH LOGIN"), "334");
    assert_code(&client.say("RCPT TO:<secret>"), "501");
    let (from, user) = (Some("ann@client.test"), "nobody@mx.test");
    for (command, from, to, response) in [
        (
            "MAIL FROM:<ann@client.test> SIZE=99999",
            from,
            None,
            "552 5.3.4 Message too large; the limit is 65536 octets",
        ),
        ("MAIL FROM:ann", Some("FROM:ann"), None, "501 5.1.7 Syntax: MAIL FROM:<local-part@domain>"),
        ("RCPT TO:<bob@mx.test>", None, Some("bob@mx.test"), "503 5.5.1 Send MAIL first"),
        ("MAIL FROM:<ann@client.test>", from, None, ""),
        ("RCPT TO:<nobody@mx.test>", from, Some(user), "550 5.1.1 No such user"),
        ("RCPT TO:<bob@other.test>", from, Some("bob@other.test"), "550 5.7.1 No mail for that domain here"),
        ("RCPT TO:<a\nb>", from, Some("TO:<a"), "500 5.5.2 Control or non-ASCII character in the command"),
    ] {
        let said = client.say(command);
        if response.is_empty() {
            assert_code(&said, "250");
            continue;
        }
        let line = setup.server.wait_for_log("refused");
        assert!(!line.contains("secret") && line.contains(r#""client":"127.0.0.1:"#), "{line}");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let what = if to.is_some() { "recipient refused" } else { "sender refused" };
        assert_eq!((&line["level"], &line["fields"]["message"]), (&"INFO".into(), &what.into()), "{command}");
        let [code, fields @ ..] = ["code", "response", "from", "to"].map(|name| line["fields"][name].clone());
        assert_eq!(fields, [Some(response), from, to].map(serde_json::Value::from), "{command}");
        assert!(response.starts_with(&code.to_string()), "{line}");
    }
}

#[test]
fn refusals_of_a_session_fill_no_log() {
    let setup = sqlite(&["--recipients", "1"]);
    let mut client = setup.server.connect();
    assert_code(&client.say("EHLO client.test"), "250");
    assert_code(&client.say("MAIL FROM:<ann@client.test>"), "250");
    assert_code(&client.say("RCPT TO:<bob@mx.test>"), "250");
    assert_code(&client.say("RCPT TO:<\u{1b}[2J>"), "500");
    let line = setup.server.wait_for_log("recipient refused");
    assert!(line.contains(r#"from="ann@client.test" to="TO:<\u{1b}[2J>""#), "{line}");
    for _ in 0..200 {
        assert_code(&client.say("RCPT TO:<eve@mx.test>"), "452");
    }
    assert_code(&client.say("DATA"), "354");
    assert_code(&client.say("."), "250");
    let (before, _) = setup.server.read_log_until("stored");
    let mut lines: Vec<_> = before.lines().collect();
    assert_eq!(lines.len(), 100, "{before}");
    assert!(lines.pop_if(|line| line.contains("further refusals")).is_some(), "{before}");
    assert!(lines.iter().all(|line| line.contains("recipient refused")), "{before}");
}

#[test]
fn a_thread_serves_whether_it_busy_polls_or_not() {
    for busy_poll in ["on", "off"] {
        let setup = sqlite(&["--threads", "1", "--busy-poll", busy_poll]);
        let mut clients = [(); 3].map(|()| setup.server.connect());
        for _ in 0..20 {
            clients.iter_mut().for_each(|client| assert_code(&client.send_message("body"), "250 2.0.0"));
        }
        assert_eq!(messages(&setup.database).len(), 60);
    }
}

#[test]
fn connections_are_capped() {
    let setup = sqlite(&["--connections", "2"]);
    let (one, _two) = (setup.server.connect(), setup.server.connect());
    let (mut third, greeting) = setup.server.connect_raw();
    assert_code(&greeting, "421 4.3.2 mx.test ");
    assert!(third.is_closed());
    drop(one);
    setup.server.wait_until_greeted();
}

#[test]
fn whoever_says_quit_is_not_waited_for() {
    let setup = sqlite(&["--connections", "1", "--threads", "1"]);
    let mut client = setup.server.connect();
    assert_code(&client.say("QUIT"), "221 2.0.0");
    assert!(client.is_closed());
    // That one has not closed yet.
    assert_code(&setup.server.connect().say("NOOP"), "250");
}

#[test]
fn a_full_spool_is_a_452_and_the_session_goes_on() {
    let setup = sqlite(&["--message-memory", "1KiB", "--spool-size", "10KiB"]);
    let mut client = setup.server.connect();
    let line = "x".repeat(98) + "\r\n";
    assert_code(&client.send_message(&line.repeat(200)), "452 4.3.1");
    assert_code(&client.send_message(&line.repeat(50)), "250 2.0.0");
}

#[test]
fn a_stopped_server_lets_a_message_end_and_loses_nothing() {
    let mut setup = sqlite(&["--drain-timeout", "30s"]);
    let (mut sending, mut idle, mut stuck) = (setup.server.connect(), setup.server.connect(), setup.server.connect());
    sending.begin_message();
    stuck.send(b"NOO");
    setup.server.terminate();
    setup.server.wait_for_log("stopping");
    for session in [&mut idle, &mut stuck] {
        assert_code(&session.read(), "421 4.3.2 mx.test ");
        assert!(session.is_closed());
    }
    assert!(std::net::TcpStream::connect(setup.server.address).is_err(), "it has stopped accepting");
    let id = sending.say("Subject: last\r\n\r\nbody\r\n.");
    assert_code(&id, "250 2.0.0 Stored as ");
    assert_code(&sending.read(), "421 4.3.2");
    assert_eq!(setup.server.wait().code(), Some(0));
    let stored = messages(&setup.database);
    assert_eq!(stored.len(), 1);
    assert!(id.contains(stored[0]["id"].as_str().unwrap()));
}

#[test]
fn whoever_does_not_end_is_cut_off_at_the_drain_deadline() {
    let mut setup = sqlite(&["--drain-timeout", "1s"]);
    let mut sending = setup.server.connect();
    sending.begin_message();
    sending.send(b"half of a");
    setup.server.terminate();
    assert_code(&sending.read(), "421 4.3.2");
    assert_eq!(setup.server.wait().code(), Some(0));
    assert!(messages(&setup.database).is_empty());
}

#[test]
fn whoever_does_not_read_keeps_no_server_from_its_end() {
    let mut setup = sqlite(&["--drain-timeout", "1s", "--write-timeout", "1h", "--database-deadline", "1h"]);
    let mut client = std::net::TcpStream::connect(setup.server.address).unwrap();
    client.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // More help than the buffers of both sides hold.
    while client.write_all("HELP\r\n".repeat(1_000).as_bytes()).is_ok() {}
    setup.server.terminate();
    assert_eq!(setup.server.wait().code(), Some(0));
}

#[test]
fn a_session_that_is_busy_lasts_no_longer_than_others() {
    let setup = sqlite(&["--session-age", "1s", "--errors", "1000000"]);
    for commands in ["NOOP\r\n", "VRFY bob\r\n"] {
        let mut client = setup.server.connect();
        let last = loop {
            // One that waits for nothing is never without input.
            client.send(commands.repeat(100).as_bytes());
            let responses: Vec<_> =
                (0..100).map(|_| client.read()).take_while(|response| !response.is_empty()).collect();
            match responses.iter().find(|response| response.starts_with('4')) {
                Some(last) => break last.clone(),
                None => assert_eq!(responses.len(), 100),
            }
        };
        assert_code(&last, "421 4.4.2 mx.test Session too long");
    }
}

#[test]
fn a_second_signal_stops_the_server_at_once() {
    let mut setup = sqlite(&["--drain-timeout", "1h"]);
    let mut sending = setup.server.connect();
    sending.begin_message();
    setup.server.terminate();
    setup.server.wait_for_log("stopping");
    setup.server.terminate();
    assert_eq!(setup.server.wait().code(), Some(1));
}

#[test]
fn a_large_message_is_held_by_nobody_while_it_arrives() {
    let setup = sqlite(&[]);
    let mut client = setup.server.connect();
    // The first message warms up what every later one uses.
    assert_code(&client.send_message(&("x".repeat(98) + "\r\n").repeat(10_000)), "250");
    let before = setup.server.resident_octets();
    client.begin_message();
    let line: Vec<u8> = (0..998_u32).map(|i| b'a' + (i % 26) as u8).chain(*b"\r\n").collect();
    let message = line.repeat(24_000);
    client.send(&message);
    let grown = setup.server.resident_octets().saturating_sub(before);
    assert!(grown < 6 << 20, "{grown} octets more while 24 MB arrive");
    let response = client.say(".");
    assert_code(&response, "250");
    let id = response.rsplit(' ').next().unwrap().trim();
    let shown = run(command(Path::new(PROGRAM), &["message", "show", "--raw", id, "--database", &setup.database]), b"");
    assert!(shown.stdout == message, "{} octets are not the same", shown.stdout.len());
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let setup = sqlite(&["--write-timeout", "1s"]);
    let mut client = setup.server.connect();
    // Enough help to fill the buffers of both sides.
    let (address, commands) = (setup.server.address, "HELP\r\n".repeat(10_000));
    let pushing = std::thread::spawn(move || {
        for _ in 0..100 {
            if client.try_send(commands.as_bytes()).is_err() {
                return true;
            }
        }
        false
    });
    setup.server.wait_for_log("does not read");
    assert!(pushing.join().unwrap(), "its connection is closed");
    assert!(std::net::TcpStream::connect(address).is_ok());
}
