//! The program as a process, used by clients that nobody here wrote. What they sent comes out of `message show --raw`
//! octet for octet.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use mailcell_tests::program::{Server, command, run};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

/// Lines with dots, quotes of `From `, octets above 127, white space at the end, and an empty line.
const MESSAGE: &str = "From: Ann <ann@client.test>\n\
    To: Bob <bob@mx.test>\n\
    Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\n\
    Date: Fri, 21 Nov 1997 09:55:06 -0600\n\
    Message-ID: <1@client.test>\n\
    \n\
    .\n\
    ..two\n\
    .three at the start\n\
    From here on\n\
    gr\u{fc}\u{df}e \n\
    \n\
    the end\n";

struct Setup {
    directory: TempDir,
    server: Server,
    database: String,
}

fn setup() -> Setup {
    setup_with(&[])
}

fn setup_with(arguments: &[&str]) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", directory.path().join("mail.db").display());
    let server = Server::start(Path::new(PROGRAM), &[&["--database", &database], arguments].concat(), &[]);
    Setup { directory, server, database }
}

impl Setup {
    fn mailcell(&self, arguments: &[&str]) -> Vec<u8> {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--database", &self.database]);
        let finished = run(command(Path::new(PROGRAM), &arguments), b"");
        assert!(finished.status.success(), "{arguments:?}: {}", finished.stderr);
        finished.stdout
    }

    /// The one message that is stored, raw, and what `message list --json` says of it.
    fn only_message(&self) -> (Vec<u8>, serde_json::Value) {
        let list: serde_json::Value = serde_json::from_slice(&self.mailcell(&["message", "list", "--json"])).unwrap();
        assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
        let id = list[0]["id"].as_str().unwrap();
        (self.mailcell(&["message", "show", "--raw", id]), list[0].clone())
    }

    fn send(&self, client: Command, input: &[u8]) {
        let shown = format!("{client:?}");
        let finished = run(client, input);
        assert!(finished.status.success(), "{shown}\n{}\n{}", finished.text(), finished.stderr);
    }

    #[track_caller]
    fn expect(&self, octets: &[u8]) {
        let (raw, summary) = self.only_message();
        assert_eq!(raw.escape_ascii().to_string(), octets.escape_ascii().to_string());
        assert_eq!(summary["mail_from"], "ann@client.test");
        assert_eq!(summary["rcpt_to"], serde_json::json!(["bob@mx.test"]));
        assert_eq!(summary["subject"], "Grüße");
        assert_eq!(summary["date"], "1997-11-21T09:55:06-06:00");
        assert_eq!(summary["size"], octets.len());
    }
}

fn crlf(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

#[test]
fn curl() {
    let setup = setup();
    let file = setup.directory.path().join("mail.eml");
    std::fs::write(&file, crlf(MESSAGE)).unwrap();
    let mut client = Command::new("curl");
    client.args(["--silent", "--show-error", &format!("smtp://{}/client.test", setup.server.address)]);
    client.args(["--mail-from", "ann@client.test", "--mail-rcpt", "bob@mx.test", "--upload-file"]).arg(&file);
    setup.send(client, b"");
    setup.expect(&crlf(MESSAGE));
}

#[test]
fn swaks() {
    let setup = setup();
    let mut client = Command::new("swaks");
    client.args(["--server", "127.0.0.1", "--port", &setup.server.address.port().to_string(), "--helo", "client.test"]);
    client.args(["--from", "ann@client.test", "--to", "bob@mx.test", "--data", "-", "--pipeline"]);
    setup.send(client, MESSAGE.as_bytes());
    // swaks ends the data with a line end of its own.
    let (raw, _) = setup.only_message();
    let expected = crlf(MESSAGE);
    assert!(raw.starts_with(&expected), "{}", raw.escape_ascii());
    assert!(matches!(&raw[expected.len()..], b"" | b"\r\n"), "{}", raw.escape_ascii());
}

#[test]
fn python_smtplib() {
    let setup = setup();
    let script = "import smtplib, sys\n\
        with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'client.test', timeout=30) as smtp:\n\
        \x20   smtp.ehlo()\n\
        \x20   assert smtp.has_extn('pipelining') and smtp.esmtp_features['size'] == '26214400', smtp.esmtp_features\n\
        \x20   smtp.sendmail('ann@client.test', ['bob@mx.test'], sys.stdin.buffer.read().replace(b'\\n', b'\\r\\n'), ['BODY=8BITMIME'])\n\
        \x20   assert smtp.verify('nobody')[0] == 550\n\
        \x20   assert smtp.noop()[0] == 250 and smtp.rset()[0] == 250\n\
        \x20   assert smtp.docmd('HELP', 'mail')[0] == 214\n";
    let mut client = Command::new("python3");
    client.args(["-c", script, &setup.server.address.port().to_string()]);
    setup.send(client, MESSAGE.as_bytes());
    setup.expect(&crlf(MESSAGE));
}

#[test]
fn python_lmtp() {
    let setup = setup_with(&["--listen", "127.0.0.1:0 protocol=lmtp"]);
    let port = setup.server.wait_for_listener().port().to_string();
    let script = "import smtplib, sys\n\
        with smtplib.LMTP('127.0.0.1', int(sys.argv[1]), 'client.test') as lmtp:\n\
        \x20   code, text = lmtp.ehlo()\n\
        \x20   assert code == 250, text\n\
        \x20   lmtp.mail('ann@client.test')\n\
        \x20   lmtp.rcpt('bob@mx.test')\n\
        \x20   lmtp.rcpt('eve@mx.test')\n\
        \x20   code, text = lmtp.data(b'Subject: handed over\\r\\n\\r\\nHello\\r\\n')\n\
        \x20   assert code == 250, text\n\
        \x20   code, text = lmtp.getreply()\n\
        \x20   assert code == 250 and b'Stored as' in text, text\n\
        \x20   assert lmtp.noop()[0] == 250\n";
    let mut client = Command::new("python3");
    client.args(["-c", script, &port]);
    setup.send(client, b"");
    assert_eq!(setup.only_message().1["rcpt_to"], serde_json::json!(["bob@mx.test", "eve@mx.test"]));
}

#[test]
fn python_with_addresses_in_utf8() {
    let setup = setup();
    setup.mailcell(&["user", "add", "J\u{f6}rg@b\u{fc}cher.test", "--group", "g\u{e4}ste"]);
    let script = "import email.message, smtplib, sys\n\
        with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'client.test', timeout=30) as smtp:\n\
        \x20   smtp.ehlo()\n\
        \x20   message = email.message.EmailMessage()\n\
        \x20   message['Subject'], message['From'] = 'Gr\u{fc}\u{df}e', 'j\u{f6}rg@b\u{fc}cher.test'\n\
        \x20   message['To'] = '\u{7528}\u{6237}@\u{4f8b}\u{5b50}.test'\n\
        \x20   message.set_content('Sch\u{f6}n')\n\
        \x20   smtp.send_message(message)\n\
        \x20   smtp.command_encoding = 'utf-8'\n\
        \x20   code, text = smtp.docmd('VRFY', 'J\u{f6}rg SMTPUTF8')\n\
        \x20   assert (code, text.decode()) == (250, '2.1.5 <J\u{f6}rg@b\u{fc}cher.test>'.replace('J', 'j')), text\n\
        \x20   code, text = smtp.docmd('EXPN', 'g\u{e4}ste SMTPUTF8')\n\
        \x20   assert code == 250 and 'b\u{fc}cher' in text.decode(), text\n\
        \x20   assert smtp.docmd('EXPN', 'g\u{e4}ste')[0] == 553\n";
    let mut client = Command::new("python3");
    client.args(["-c", script, &setup.server.address.port().to_string()]);
    setup.send(client, b"");
    let (_, summary) = setup.only_message();
    assert_eq!(summary["mail_from"], "j\u{f6}rg@b\u{fc}cher.test");
    assert_eq!(summary["rcpt_to"], serde_json::json!(["\u{7528}\u{6237}@\u{4f8b}\u{5b50}.test"]));
    assert_eq!(summary["subject"], "Gr\u{fc}\u{df}e");
    let eml = setup.directory.path().join("eml");
    let to = "\u{7528}\u{6237}@\u{4f8b}\u{5b50}.test";
    setup.mailcell(&["message", "export", "--to", to, "--eml", eml.to_str().unwrap()]);
    let file = std::fs::read_dir(eml).unwrap().next().unwrap().unwrap();
    let exported = std::fs::read_to_string(file.path()).unwrap();
    assert!(exported.starts_with("Return-Path: <j\u{f6}rg@b\u{fc}cher.test>\r\n"), "{exported}");
    assert!(exported.contains("with UTF8SMTP id") && exported.contains(&format!("for <{to}>")), "{exported}");
}

#[test]
fn python_asks_for_notices() {
    let setup = setup_with(&["--dsn", "on"]);
    let script = "import smtplib, sys\n\
        with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'client.test', timeout=30) as smtp:\n\
        \x20   smtp.sendmail('ann@client.test', ['bob@mx.test'], 'Subject: hi\\r\\n\\r\\nHello\\r\\n',\n\
        \x20       ['RET=HDRS', 'ENVID=QQ314159'], ['NOTIFY=SUCCESS,DELAY', 'ORCPT=rfc822;bob@mx.test'])\n";
    let mut client = Command::new("python3");
    client.args(["-c", script, &setup.server.address.port().to_string()]);
    setup.send(client, b"");
    let (_, summary) = setup.only_message();
    let asked = serde_json::json!({
        "mail": "RET=HDRS ENVID=QQ314159",
        "rcpt": ["NOTIFY=SUCCESS,DELAY ORCPT=rfc822;bob@mx.test"],
    });
    assert_eq!(summary["parameters"], asked);
    let id = summary["id"].as_str().unwrap();
    let shown = String::from_utf8(setup.mailcell(&["message", "show", id])).unwrap();
    assert!(shown.contains("asked     {\"mail\":\"RET=HDRS ENVID=QQ314159\""), "{shown}");
}

#[test]
fn swaks_speaks_for_somebody() {
    let setup = setup_with(&["--xclient-from", "127.0.0.0/8", "--network-connections", "1"]);
    let swaks = |address: &str| {
        let mut client = Command::new("swaks");
        let port = setup.server.address.port().to_string();
        client.args(["--server", "127.0.0.1", "--port", &port, "--helo", "proxy.test", "--data", "-"]);
        client.args(["--xclient-addr", address, "--xclient-helo", "client.test", "--xclient-login", "ann@mx.test"]);
        client.args(["--from", "ann@client.test", "--to", "bob@mx.test"]);
        run(client, MESSAGE.as_bytes())
    };
    let sent = swaks("192.0.2.7");
    assert!(sent.status.success(), "{}{}", sent.text(), sent.stderr);
    let line = setup.server.wait_for_log("stored");
    assert!(line.contains("for_client=192.0.2.7"), "{line}");
    let (_, summary) = setup.only_message();
    let shown = String::from_utf8(setup.mailcell(&["message", "show", summary["id"].as_str().unwrap()])).unwrap();
    assert!(shown.contains("from client.test ([192.0.2.7])") && shown.contains("with ESMTPA id"), "{shown}");
    // The limit on one client's connections holds for those that a peer speaks for.
    let mut held = setup.server.connect();
    assert!(held.say("XCLIENT ADDR=192.0.2.7").starts_with("220"));
    let refused = swaks("192.0.2.7");
    assert!(refused.text().contains("421 4.7.0"), "{}", refused.text());
    assert!(swaks("192.0.2.8").status.success());
}

#[test]
fn msmtp() {
    let setup = setup();
    let mut client = Command::new("msmtp");
    client.args(["--file=/dev/null", "--host=127.0.0.1", &format!("--port={}", setup.server.address.port())]);
    client.args(["--domain=client.test", "--from=ann@client.test", "--auth=off", "--tls=off", "bob@mx.test"]);
    setup.send(client, MESSAGE.as_bytes());
    setup.expect(&crlf(MESSAGE));
}

#[test]
fn exports_are_read_by_python() {
    let setup = setup();
    let mut client = Command::new("python3");
    let send = "import smtplib, sys\n\
        with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'client.test', timeout=30) as smtp:\n\
        \x20   smtp.sendmail('ann@client.test', ['bob@mx.test'], sys.stdin.buffer.read().replace(b'\\n', b'\\r\\n'))\n\
        \x20   smtp.sendmail('', ['eve@mx.test', 'bob@mx.test'], b'Subject: two\\r\\n\\r\\nbody\\r\\n')\n";
    client.args(["-c", send, &setup.server.address.port().to_string()]);
    setup.send(client, MESSAGE.as_bytes());

    let mbox = setup.directory.path().join("mail.mbox");
    let eml = setup.directory.path().join("eml");
    setup.mailcell(&["message", "export", "--mbox", mbox.to_str().unwrap()]);
    setup.mailcell(&["message", "export", "--to", "BOB@mx.test", "--eml", eml.to_str().unwrap()]);
    let read = "import mailbox, email, pathlib, sys\n\
        one, two = mailbox.mbox(sys.argv[1])\n\
        assert (one['From'], two['Subject']) == ('Ann <ann@client.test>', 'two'), (one, two)\n\
        assert one['Return-Path'] == '<ann@client.test>' and two['Return-Path'] == '<>'\n\
        assert 'from client.test ([127.0.0.1])' in one['Received'] and 'for <bob@mx.test>' in one['Received']\n\
        assert 'for' not in two['Received'].split(';')[0]\n\
        assert b'>From here on' in one.get_payload(decode=True), one.get_payload()\n\
        files = sorted(pathlib.Path(sys.argv[2]).iterdir())\n\
        assert len(files) == 2, files\n\
        octets = files[0].read_bytes()\n\
        assert octets.endswith(sys.stdin.buffer.read().replace(b'\\n', b'\\r\\n')), octets\n\
        assert octets.startswith(b'Return-Path: <ann@client.test>\\r\\nReceived: from client.test'), octets\n";
    let mut client = Command::new("python3");
    client.args(["-c", read]).args([&mbox, &eml]);
    setup.send(client, MESSAGE.as_bytes());
    // As in the database, nobody else reads them.
    for file in std::fs::read_dir(&eml).unwrap().map(|entry| entry.unwrap().path()).chain([mbox.clone()]) {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }

    let again = run(
        command(
            Path::new(PROGRAM),
            &["message", "export", "--mbox", mbox.to_str().unwrap(), "--database", &setup.database],
        ),
        b"",
    );
    assert_eq!(again.status.code(), Some(1), "a file that is there is not overwritten");
}
