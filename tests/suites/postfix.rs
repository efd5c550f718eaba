//! A real Postfix takes mail by SMTP and hands it over by LMTP to the program as a process.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use libtest_mimic::{Arguments, Trial};
use mailcell_tests::postfix::{Package, Postfix};
use mailcell_tests::process::free_address;
use mailcell_tests::program::{Server, command, run};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

/// Lines with dots, one that quotes `From `, white space at the end, an empty line, and octets that are no UTF-8. Its header section
/// is complete, as Postfix would complete it otherwise.
const MESSAGE: &[u8] = b"From: Ann <ann@client.test>\r\n\
    To: Bob <bob@mx.test>\r\n\
    Subject: handed over\r\n\
    Date: Fri, 21 Nov 1997 09:55:06 -0600\r\n\
    Message-ID: <1@client.test>\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=iso-8859-1\r\n\
    Content-Transfer-Encoding: 8bit\r\n\
    \r\n\
    .\r\n\
    ..two\r\n\
    .three at the start\r\n\
    From here on\r\n\
    gr\xfc\xdfe, \x80 and \xff \r\n\
    \r\n\
    the end\r\n";

fn main() {
    let arguments = Arguments::from_args();
    let tests: [(&str, fn()); 3] = [
        ("a_message_for_several_arrives_as_it_was_sent", a_message_for_several_arrives_as_it_was_sent),
        ("only_a_recipient_who_is_refused_bounces", only_a_recipient_who_is_refused_bounces),
        ("mail_waits_until_the_server_is_back", mail_waits_until_the_server_is_back),
    ];
    let is_possible = Postfix::is_possible();
    if !is_possible {
        eprintln!("Postfix starts as root only: its tests are left out");
    }
    let trial = |(name, test): (&str, fn())| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(!is_possible)
    };
    libtest_mimic::run(&arguments, tests.map(trial).into()).exit();
}

/// A server that speaks LMTP, and the Postfix in front of it. Postfix ends first.
struct Setup {
    postfix: Postfix,
    server: Option<Server>,
    lmtp: SocketAddr,
    directory: TempDir,
    arguments: &'static [&'static str],
}

fn setup(arguments: &'static [&'static str]) -> Setup {
    let lmtp = free_address().unwrap();
    // Postfix tries again each second what could not be handed over. Addresses are never looked up.
    let settings = format!(
        "default_transport = lmtp:inet:{lmtp}\n\
         lmtp_dns_support_level = disabled\n\
         lmtp_connection_cache_on_demand = no\n\
         queue_run_delay = 1s\n\
         minimal_backoff_time = 1s\n\
         maximal_backoff_time = 1s\n"
    );
    let postfix = Postfix::start(&Package::find().unwrap(), &settings, "lmtp unix - - n - - lmtp\n").unwrap();
    let mut setup = Setup { postfix, server: None, lmtp, directory: tempfile::tempdir().unwrap(), arguments };
    setup.start();
    setup
}

impl Setup {
    /// Starts the server, on the same port and database each time.
    fn start(&mut self) {
        let (listen, database) = (format!("{} protocol=lmtp", self.lmtp), self.database());
        let arguments = [&["--listen", &listen, "--database", &database], self.arguments].concat();
        let server = Server::start(Path::new(PROGRAM), &arguments, &[]);
        server.wait_for_log("protocol=lmtp");
        self.server = Some(server);
    }

    fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        server.terminate();
        assert!(server.wait().success());
    }

    fn database(&self) -> String {
        format!("sqlite:{}", self.directory.path().join("mail.db").display())
    }

    fn mailcell(&self, arguments: &[&str]) -> Vec<u8> {
        let database = self.database();
        let arguments = [arguments, &["--database", &database]].concat();
        let finished = run(command(Path::new(PROGRAM), &arguments), b"");
        assert!(finished.status.success(), "{arguments:?}: {}", finished.stderr);
        finished.stdout
    }

    /// What `message list --json` says of the stored messages.
    fn messages(&self) -> Vec<serde_json::Value> {
        serde_json::from_slice(&self.mailcell(&["message", "list", "--json"])).unwrap()
    }

    fn raw(&self, message: &serde_json::Value) -> Vec<u8> {
        self.mailcell(&["message", "show", "--raw", message["id"].as_str().unwrap()])
    }

    /// Gives Postfix the message.
    fn send(&self, recipients: &[&str]) {
        let script = "import smtplib, sys\n\
            with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'client.test', timeout=30) as smtp:\n\
            \x20   refused = smtp.sendmail('ann@client.test', sys.argv[2:], sys.stdin.buffer.read(), ['BODY=8BITMIME'])\n\
            \x20   assert not refused, refused\n";
        let mut client = Command::new("python3");
        client.args(["-c", script, &self.postfix.address.port().to_string()]).args(recipients);
        let finished = run(client, MESSAGE);
        assert!(finished.status.success(), "{}", finished.stderr);
    }

    /// Waits until Postfix has logged what became of a recipient, and gives that line.
    fn wait_for(&self, recipient: &str, outcome: &str) -> String {
        self.postfix.wait_for_log(&[&format!("to=<{recipient}>"), outcome]).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// What Postfix puts in front of a message is a field `Received`, and nothing else; behind it is what was sent.
#[track_caller]
fn assert_handed_over(raw: &[u8]) {
    let shown = raw.escape_ascii().to_string();
    let received = raw.strip_suffix(MESSAGE).unwrap_or_else(|| panic!("{shown}"));
    let received = std::str::from_utf8(received).unwrap();
    assert!(
        received.starts_with("Received: from client.test ") && received.contains("by mx.test (Postfix)"),
        "{shown}"
    );
    let is_one_field = received.lines().skip(1).all(|line| line.starts_with(['\t', ' ']));
    assert!(is_one_field && received.ends_with("\r\n"), "{shown}");
}

/// The recipients of a stored message by name, as Postfix has an order of its own.
fn recipients_of(message: &serde_json::Value) -> Vec<&str> {
    let mut recipients: Vec<_> =
        message["rcpt_to"].as_array().unwrap().iter().map(|recipient| recipient.as_str().unwrap()).collect();
    recipients.sort_unstable();
    recipients
}

fn a_message_for_several_arrives_as_it_was_sent() {
    let setup = setup(&[]);
    let recipients = ["bob@mx.test", "carol@elsewhere.test", "eve@mx.test"];
    setup.send(&recipients);
    for recipient in recipients {
        let line = setup.wait_for(recipient, "status=");
        assert!(line.contains("postfix/lmtp") && line.contains("status=sent (250 2.0.0 Stored as "), "{line}");
    }
    let messages = setup.messages();
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(message["mail_from"], "ann@client.test");
    assert_eq!(recipients_of(message), recipients);
    assert_eq!(message["subject"], "handed over");
    assert_handed_over(&setup.raw(message));
}

fn only_a_recipient_who_is_refused_bounces() {
    let setup = setup(&["--accept", "users"]);
    // Ann is one, so that what Postfix tells her comes here as well.
    for user in ["ann@client.test", "bob@mx.test", "eve@mx.test"] {
        setup.mailcell(&["user", "add", user]);
    }
    setup.send(&["bob@mx.test", "nobody@mx.test", "eve@mx.test"]);
    for recipient in ["bob@mx.test", "eve@mx.test"] {
        let line = setup.wait_for(recipient, "status=");
        assert!(line.contains("status=sent (250 2.0.0 Stored as "), "{line}");
    }
    let line = setup.wait_for("nobody@mx.test", "status=");
    assert!(line.contains("dsn=5.1.1, status=bounced ") && line.contains(" said: 550 5.1.1 No such user"), "{line}");
    assert!(line.contains("(in reply to RCPT TO command)"), "{line}");
    setup.wait_for("ann@client.test", "status=sent");

    let messages = setup.messages();
    assert_eq!(messages.len(), 2, "{messages:?}");
    let from = |sender| messages.iter().find(|message| message["mail_from"] == sender).unwrap();
    let (sent, bounce) = (from("ann@client.test"), from(""));
    assert_eq!(recipients_of(sent), ["bob@mx.test", "eve@mx.test"]);
    assert_handed_over(&setup.raw(sent));
    assert_eq!(recipients_of(bounce), ["ann@client.test"]);
    let report = String::from_utf8_lossy(&setup.raw(bounce)).into_owned();
    assert!(report.contains("Final-Recipient: rfc822; nobody@mx.test") && report.contains("550 5.1.1"), "{report}");
    assert!(!report.contains("Final-Recipient: rfc822; bob@mx.test"), "{report}");
}

fn mail_waits_until_the_server_is_back() {
    let mut setup = setup(&[]);
    setup.stop();
    setup.send(&["bob@mx.test"]);
    let line = setup.wait_for("bob@mx.test", "status=");
    assert!(line.contains("status=deferred ") && line.contains("Connection refused"), "{line}");
    assert_eq!(setup.messages().len(), 0);

    setup.start();
    setup.wait_for("bob@mx.test", "status=sent (250 2.0.0 Stored as ");
    let messages = setup.messages();
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_handed_over(&setup.raw(message));
}
