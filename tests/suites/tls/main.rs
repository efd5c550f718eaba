//! TLS: with clients that nobody here wrote, through moves and sleep, what comes in its place, and its certificates.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod authentication;
mod certificates;

use mailcell_tests::cores;
use mailcell_tests::program::{PATIENCE, Server, command, run};
use mailcell_tests::tls::Certificate;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

/// A server with STARTTLS on one listener and TLS from the start on another.
struct Setup {
    server: Server,
    implicit: SocketAddr,
    certificate: Certificate,
    directory: TempDir,
}

fn setup(arguments: &[&str]) -> Setup {
    setup_with(Certificate::make().unwrap(), arguments)
}

fn setup_with(certificate: Certificate, arguments: &[&str]) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", directory.path().join("mail.db").display());
    let [file, key] = [&certificate.certificate, &certificate.key].map(|path| path.to_str().unwrap());
    let mut all = vec!["--listen", "127.0.0.1:0 tls=implicit", "--database", &database];
    all.extend(["--tls-certificate", file, "--tls-key", key]);
    all.extend(arguments);
    let server = Server::start(Path::new(PROGRAM), &all, &[]);
    let implicit = server.wait_for_listener();
    Setup { server, implicit, certificate, directory }
}

impl Setup {
    /// The stored messages: protocol and octets of each, the latest first.
    fn messages(&self) -> Vec<String> {
        let database = format!("sqlite:{}", self.directory.path().join("mail.db").display());
        let mailcell = |arguments: &[&str]| {
            let finished = run(command(Path::new(PROGRAM), &[arguments, &["--database", &database]].concat()), b"");
            assert!(finished.status.success(), "{}", finished.stderr);
            finished.text()
        };
        let list: serde_json::Value = serde_json::from_str(&mailcell(&["message", "list", "--json"])).unwrap();
        let ids = list.as_array().unwrap().iter().map(|message| message["id"].as_str().unwrap().to_owned());
        ids.map(|id| mailcell(&["message", "show", &id])).collect()
    }

    fn send(&self, program: &str, arguments: &[&str], input: &[u8]) -> String {
        let mut client = Command::new(program);
        client.args(arguments);
        let finished = run(client, input);
        assert!(finished.status.success(), "{program} {arguments:?}\n{}\n{}", finished.text(), finished.stderr);
        finished.text()
    }

    fn add_user(&self, mailbox: &str, password: &str) {
        let database = format!("sqlite:{}", self.directory.path().join("mail.db").display());
        let arguments = ["user", "add", mailbox, "--password-stdin", "--database", &database];
        let finished = run(command(Path::new(PROGRAM), &arguments), password.as_bytes());
        assert!(finished.status.success(), "{}", finished.stderr);
    }

    /// A session under TLS by STARTTLS, greeted.
    async fn secure(&self) -> Client<TlsStream<TcpStream>> {
        let mut clear = Client::connect(self.server.address).await;
        clear.say("EHLO client.test", "250").await;
        clear.say("STARTTLS", "220").await;
        let mut client = Client(BufReader::new(self.certificate.connect(clear.0.into_inner()).await.unwrap()));
        client.say("EHLO client.test", "250").await;
        client
    }
}

struct Client<S>(BufReader<S>);

impl Client<TcpStream> {
    async fn connect(address: SocketAddr) -> Client<TcpStream> {
        let mut client = Client(BufReader::new(TcpStream::connect(address).await.unwrap()));
        client.expect("220").await;
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, octets: &str) {
        self.0.write_all(octets.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    async fn expect(&mut self, code: &str) -> String {
        let mut response = String::new();
        loop {
            let start = response.len();
            let read = timeout(PATIENCE, self.0.read_line(&mut response)).await.expect("a response comes in time");
            assert!(read.unwrap() > 0, "closed after {response:?}");
            if response.as_bytes().get(start + 3) != Some(&b'-') {
                assert!(response.starts_with(code), "expected {code}, got {response}");
                return response;
            }
        }
    }

    async fn say(&mut self, line: &str, code: &str) -> String {
        self.send(&format!("{line}\r\n")).await;
        self.expect(code).await
    }

    async fn begin_message(&mut self) {
        self.say("MAIL FROM:<ann@client.test>", "250").await;
        self.say("RCPT TO:<bob@mx.test>", "250").await;
        self.say("DATA", "354").await;
    }

    /// What comes until the server closes.
    async fn rest(mut self) -> String {
        let mut rest = Vec::new();
        // A server that closes with input unread, or without a word, breaks the connection.
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("the server closes");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[test]
fn curl() {
    let setup = setup(&[]);
    let (port, implicit) = (setup.server.address.port(), setup.implicit.port());
    let file = setup.certificate.certificate.to_str().unwrap();
    let mail = setup.directory.path().join("mail.eml");
    std::fs::write(&mail, "Subject: by curl\r\n\r\nHello\r\n").unwrap();
    for url in [format!("smtp://mx.test:{port}/client.test"), format!("smtps://mx.test:{implicit}/client.test")] {
        let resolve = format!("mx.test:{}:127.0.0.1", if url.starts_with("smtps") { implicit } else { port });
        let ssl = ["--silent", "--show-error", "--ssl-reqd", "--cacert", file, "--resolve", &resolve];
        let mail = ["--mail-from", "ann@client.test", "--mail-rcpt", "bob@mx.test", "-T", mail.to_str().unwrap()];
        setup.send("curl", &[&ssl[..], &mail, &[&url]].concat(), b"");
    }
    let messages = setup.messages();
    assert_eq!(messages.len(), 2);
    assert!(messages.iter().all(|message| message.contains("with ESMTPS id")), "{messages:?}");
}

#[test]
fn swaks() {
    let setup = setup(&[]);
    let (port, implicit) = (setup.server.address.port().to_string(), setup.implicit.port().to_string());
    for (port, tls) in [(&port, "--tls"), (&implicit, "--tls-on-connect")] {
        let arguments = ["--server", "127.0.0.1", "--port", port, "--helo", "client.test", tls];
        let envelope = ["--from", "ann@client.test", "--to", "bob@mx.test", "--body", "Hello"];
        let log = setup.send("swaks", &[&arguments[..], &envelope].concat(), b"");
        assert!(log.contains("TLSv1.3"), "{log}");
    }
    assert_eq!(setup.messages().len(), 2);
}

#[test]
fn python() {
    let setup = setup(&[]);
    let script = "import smtplib, ssl, sys\n\
        context = ssl.create_default_context(cafile=sys.argv[3])\n\
        context.check_hostname = False\n\
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):\n\
        \x20   context.minimum_version = context.maximum_version = version\n\
        \x20   with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'client.test', timeout=30) as smtp:\n\
        \x20       smtp.starttls(context=context)\n\
        \x20       smtp.ehlo()\n\
        \x20       assert not smtp.has_extn('starttls')\n\
        \x20       smtp.sendmail('ann@client.test', ['bob@mx.test'], 'Subject: one\\r\\n\\r\\nHello\\r\\n' * 9000)\n\
        \x20   with smtplib.SMTP_SSL('127.0.0.1', int(sys.argv[2]), 'client.test', context=context, timeout=30) as smtp:\n\
        \x20       smtp.sendmail('ann@client.test', ['bob@mx.test'], 'Subject: two\\r\\n\\r\\nHello\\r\\n')\n";
    let (port, implicit) = (setup.server.address.port().to_string(), setup.implicit.port().to_string());
    setup.send("python3", &["-c", script, &port, &implicit, setup.certificate.certificate.to_str().unwrap()], b"");
    assert_eq!(setup.messages().len(), 4);
}

#[test]
fn what_a_trusted_peer_said_in_the_clear_is_forgotten() {
    let setup = setup(&["--xclient-from", "127.0.0.0/8", "--auth", "on"]);
    let script = "import smtplib, ssl, sys\n\
        context = ssl.create_default_context(cafile=sys.argv[2])\n\
        context.check_hostname = False\n\
        with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'proxy.test', timeout=30) as smtp:\n\
        \x20   smtp.ehlo()\n\
        \x20   said = smtp.docmd('XCLIENT', 'ADDR=192.0.2.7 HELO=client.test LOGIN=ann@mx.test')\n\
        \x20   assert said[0] == 220, said\n\
        \x20   smtp.ehlo()\n\
        \x20   smtp.starttls(context=context)\n\
        \x20   smtp.sendmail('ann@client.test', ['bob@mx.test'], 'Subject: one\\r\\n\\r\\nHello\\r\\n')\n";
    let port = setup.server.address.port().to_string();
    setup.send("python3", &["-c", script, &port, setup.certificate.certificate.to_str().unwrap()], b"");
    let [message] = &setup.messages()[..] else { panic!("one message") };
    assert!(message.contains("from proxy.test ([127.0.0.1])") && message.contains("with ESMTPS id"), "{message}");
}

#[test]
fn openssl_and_no_weak_protocol_or_cipher() {
    let setup = setup(&[]);
    let (address, implicit) = (setup.server.address.to_string(), setup.implicit.to_string());
    let file = setup.certificate.certificate.to_str().unwrap();
    let checked =
        ["s_client", "-CAfile", file, "-verify_return_error", "-verify_hostname", "mx.test", "-crlf", "-ign_eof"];
    let quit = b"EHLO client.test\nQUIT\n";
    let by_starttls =
        setup.send("openssl", &[&checked[..], &["-starttls", "smtp", "-connect", &address]].concat(), quit);
    assert!(by_starttls.contains("Verify return code: 0 (ok)") && by_starttls.contains("221 2.0.0"), "{by_starttls}");
    let at_once = setup.send("openssl", &[&checked[..], &["-quiet", "-connect", &implicit]].concat(), quit);
    assert!(at_once.contains("220 mx.test") && at_once.contains("221 2.0.0"), "{at_once}");

    for arguments in [&["--starttls-smtp", &address][..], &[&implicit]] {
        let report = setup.send("sslscan", &[&["--no-colour"], arguments].concat(), b"");
        for version in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"] {
            let is_off = |line: &str| line.starts_with(version) && line.contains("disabled");
            assert!(report.lines().any(is_off), "{version}: {report}");
        }
        let ciphers: Vec<_> =
            report.lines().filter(|line| line.starts_with("Accepted") || line.starts_with("Preferred")).collect();
        let is_strong = |line: &&str| {
            let name = line.split_whitespace().nth(4).unwrap();
            name.starts_with("TLS_")
                || (name.starts_with("ECDHE-") && (name.contains("GCM") || name.contains("CHACHA20")))
        };
        assert!(ciphers.len() >= 4 && ciphers.iter().all(is_strong), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn octets_behind_starttls_end_the_session() {
    let setup = setup(&[]);
    let mut client = Client::connect(setup.server.address).await;
    client.say("EHLO client.test", "250").await;
    client.send("STARTTLS\r\nNOOP\r\n").await;
    assert_eq!(
        client.rest().await,
        "220 2.0.0 Ready to start TLS\r\n421 4.7.0 mx.test Octets behind STARTTLS; closing connection\r\n"
    );
    // In the place of a hello, too.
    let mut client = Client::connect(setup.server.address).await;
    client.say("EHLO client.test", "250").await;
    client.say("STARTTLS", "220").await;
    client.send("MAIL FROM:<mallory@client.test>\r\n").await;
    assert!(!client.rest().await.contains("250"));
    setup.secure().await.say("NOOP", "250").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_tls_in_the_middle_of_a_message_stores_nothing() {
    let setup = setup(&[]);
    for is_clean in [true, false] {
        let mut client = setup.secure().await;
        client.begin_message().await;
        client.send("Subject: cut off\r\n\r\n.").await;
        let mut stream = client.0.into_inner();
        match is_clean {
            true => stream.shutdown().await.unwrap(),
            false => drop(stream.into_inner().0.into_std()),
        }
    }
    // What a client of plain text would take for the end of data is no end of TLS either.
    let mut client = setup.secure().await;
    client.begin_message().await;
    let (mut clear, _) = client.0.into_inner().into_inner();
    clear.write_all(b"\r\n.\r\n").await.unwrap();
    assert!(!Client(BufReader::new(clear)).rest().await.contains("250"));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(setup.messages().len(), 0);
}

/// RFC 8446 6.1: each side sends close_notify before it closes, so a client's comes behind the response to QUIT.
#[tokio::test(flavor = "multi_thread")]
async fn who_ends_tls_in_order_is_not_reset() {
    let setup = setup(&[]);
    let secured = setup.secure().await;
    let at_once = setup.certificate.connect(TcpStream::connect(setup.implicit).await.unwrap()).await.unwrap();
    let mut at_once = Client(BufReader::new(at_once));
    at_once.expect("220").await;
    for mut client in [secured, at_once] {
        client.say("QUIT", "221").await;
        sleep(Duration::from_millis(100)).await;
        client.0.shutdown().await.unwrap();
        let (socket, _) = client.0.into_inner().into_inner();
        sleep(Duration::from_millis(100)).await;
        assert!(socket.take_error().unwrap().is_none(), "reset");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_under_tls_hibernate_and_move_to_another_core() {
    let setup = setup(&["--hibernate-after", "100ms"]);
    let file = setup.directory.path().join("variant.wasm");
    std::fs::write(&file, cores::variant()).unwrap();
    setup.add_user("ann@mx.test", "secret");
    let (mut asleep, mut in_data) = (setup.secure().await, setup.secure().await);
    // Somebody who is known, and somebody who is about to be.
    let (mut known, mut knocking) = (setup.secure().await, setup.secure().await);
    known.say("AUTH PLAIN AGFubkBteC50ZXN0AHNlY3JldA==", "235").await;
    knocking.say("AUTH LOGIN YW5uQG14LnRlc3Q=", "334").await;
    in_data.begin_message().await;
    in_data.send("Subject: half\r\n\r\none\r\n").await;
    let mut in_chunk = setup.secure().await;
    in_chunk.say("MAIL FROM:<ann@client.test>", "250").await;
    in_chunk.say("RCPT TO:<bob@mx.test>", "250").await;
    in_chunk.say("BDAT 7\r\none\r\n", "250").await;
    in_chunk.send("BDAT 9 LAST\r\n.\r\ntw").await;
    let mut before = Client::connect(setup.server.address).await;
    before.say("EHLO client.test", "250").await;
    before.say("STARTTLS", "220").await;
    sleep(Duration::from_millis(500)).await;
    let control = setup.server.control();
    let swap = ["core", "swap", file.to_str().unwrap(), "--control", control.to_str().unwrap()];
    let swapped = run(command(Path::new(PROGRAM), &swap), b"");
    assert!(swapped.status.success(), "{}", swapped.stderr);
    in_data.send("two\r\n.\r\n").await;
    in_data.expect("250").await;
    in_chunk.send("o\r\n\n").await;
    in_chunk.expect("554 5.6.0").await;
    in_chunk.say("MAIL FROM:<ann@client.test>", "250").await;
    in_chunk.say("RCPT TO:<bob@mx.test>", "250").await;
    in_chunk.say("BDAT 4 LAST\r\nhi", "250").await;
    known.say("AUTH PLAIN", "503").await;
    knocking.say("c2VjcmV0", "235").await;
    // Still under TLS, as both cores know.
    asleep.say("STARTTLS", "503").await;
    asleep.begin_message().await;
    asleep.say("Subject: whole\r\n\r\nHello\r\n.", "250").await;
    // One that was about to begin TLS goes on in the other core, too.
    let mut client = Client(BufReader::new(setup.certificate.connect(before.0.into_inner()).await.unwrap()));
    client.say("MAIL FROM:<ann@client.test>", "503").await;
    client.say("EHLO client.test", "250").await;
    let messages = setup.messages();
    assert_eq!(messages.len(), 3);
    assert!(messages.iter().all(|message| message.contains("with ESMTPS id")), "{messages:?}");
    assert!(
        messages.iter().any(|message| message.contains("one\r\ntwo") || message.contains("one\ntwo")),
        "{messages:?}"
    );
}
