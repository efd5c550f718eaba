//! Each listener has settings of its own, and a slot whose core serves it.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use mailcell_tests::cores;
use mailcell_tests::program::{Client, Finished, PATIENCE, Server, command, run};
use mailcell_tests::tls::Certificate;
use rustix::process::Signal;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

static RFC821: LazyLock<Vec<u8>> = LazyLock::new(cores::rfc821);
static VARIANT: LazyLock<Vec<u8>> = LazyLock::new(cores::variant);

/// A server with a listener that has nothing of its own, and others that have.
struct Setup {
    directory: TempDir,
    server: Server,
    others: Vec<SocketAddr>,
}

impl Setup {
    fn start(others: &[&str], arguments: &[&str]) -> Setup {
        Setup::start_in(tempfile::tempdir().unwrap(), others, arguments)
    }

    fn start_in(directory: TempDir, others: &[&str], arguments: &[&str]) -> Setup {
        let database = database(&directory);
        let listeners: Vec<_> = others.iter().map(|other| format!("127.0.0.1:0 {other}")).collect();
        let mut all: Vec<_> = listeners.iter().flat_map(|listener| ["--listen", listener]).collect();
        all.extend(["--database", &database]);
        all.extend(arguments);
        let server = Server::start(Path::new(PROGRAM), &all, &[]);
        let others = others.iter().map(|_| server.wait_for_listener()).collect();
        Setup { directory, server, others }
    }

    /// `mailcell core …` for this server.
    fn core(&self, arguments: &[&str]) -> Finished {
        let mut command = command(Path::new(PROGRAM), &[&["core"], arguments].concat());
        command.arg("--control").arg(self.server.control());
        run(command, b"")
    }

    #[track_caller]
    fn core_ok(&self, arguments: &[&str]) -> String {
        let done = self.core(arguments);
        assert!(done.status.success(), "{}{}", done.text(), done.stderr);
        done.text()
    }

    /// What a slot is doing.
    fn status(&self, slot: &str) -> serde_json::Value {
        let all: Vec<serde_json::Value> = serde_json::from_str(&self.core_ok(&["status", "--json"])).unwrap();
        all.into_iter().find(|status| status["slot"] == slot).unwrap_or_default()
    }

    #[track_caller]
    fn wait_until(&self, slot: &str, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.status(slot)) {
            assert!(Instant::now() < deadline, "{slot} is not {what}: {:#}", self.status(slot));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn database(directory: &TempDir) -> String {
    format!("sqlite:{}", directory.path().join("mail.db").display())
}

fn file(directory: &TempDir, name: &str, octets: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, octets).unwrap();
    path
}

/// Opens a session and reads the greeting.
#[track_caller]
fn connect(address: SocketAddr, greeting: &str) -> Client {
    let mut client = Client::connect(address);
    assert_code(&client.read(), greeting);
    client
}

#[track_caller]
fn assert_code(response: &str, code: &str) {
    assert!(response.starts_with(code), "expected {code}: {response:?}");
}

/// Names a sender, and then recipients with what is expected of each.
#[track_caller]
fn name_recipients(client: &mut Client, recipients: &[(&str, &str)]) {
    assert_code(&client.say("MAIL FROM:<ann@client.test>"), "250");
    for (recipient, code) in recipients {
        assert_code(&client.say(&format!("RCPT TO:<{recipient}>")), code);
    }
}

#[test]
fn a_listener_has_limits_of_its_own() {
    let own = "message-size=64KiB recipients=2 accept=domains domains=a.test,b.test errors=2 name=own.test";
    let setup = Setup::start(&[own], &["--message-size", "1MiB", "--recipients", "3"]);
    let (mut general, mut own) = (setup.server.connect(), connect(setup.others[0], "220 own.test "));
    let (sizes, own_sizes) = (general.say("EHLO client.test"), own.say("EHLO client.test"));
    assert!(sizes.contains("250-SIZE 1048576\r\n") && sizes.contains("RCPTMAX=3"), "{sizes}");
    assert!(own_sizes.contains("250-SIZE 65536\r\n") && own_sizes.contains("RCPTMAX=2"), "{own_sizes}");

    let (full, stranger) = ("452 4.5.3", "550 5.7.1");
    let at_general = [("bob@a.test", "250"), ("bob@c.test", "250"), ("eve@a.test", "250"), ("eve@b.test", full)];
    let at_own = [("bob@a.test", "250"), ("bob@c.test", stranger), ("bob@b.test", "250"), ("eve@b.test", full)];
    let large = ("x".repeat(98) + "\r\n").repeat(1000) + ".";
    for (client, recipients, code) in [(&mut general, at_general, "250 2.0.0"), (&mut own, at_own, "552 5.3.4")] {
        name_recipients(client, &recipients);
        assert_code(&client.say("DATA"), "354");
        assert_code(&client.say(&large), code);
    }
    name_recipients(&mut own, &[("bob@a.test", "250")]);
    assert_code(&own.say("DATA"), "354");
    let stored = own.say("small\r\n.");
    assert_code(&stored, "250 2.0.0");
    let id = stored.trim().rsplit(' ').next().unwrap();
    let show = ["message", "show", id, "--database", &database(&setup.directory)];
    let shown = run(command(Path::new(PROGRAM), &show), b"").text();
    assert!(shown.contains("by own.test with ESMTP"), "{shown}");

    for (client, code) in [(&mut general, "500 5.5.1"), (&mut own, "421 4.7.0 own.test ")] {
        assert_code(&client.say("WHAT"), "500 5.5.1");
        assert_code(&client.say("WHAT"), code);
    }
}

#[test]
fn a_listener_has_times_of_its_own() {
    let setup = Setup::start(&["idle-timeout=1s", "session-age=1s"], &["--idle-timeout", "1h", "--session-age", "2h"]);
    let mut general = setup.server.connect();
    for (address, why) in setup.others.iter().zip(["Timeout", "Session too long"]) {
        let ended = connect(*address, "220 mx.test ").read();
        assert_code(&ended, &format!("421 4.4.2 mx.test {why}"));
    }
    assert_code(&general.say("NOOP"), "250");
}

#[test]
fn a_listener_has_connections_of_its_own_within_those_of_all() {
    let setup = Setup::start(&["connections=1", "connections=5"], &["--connections", "3"]);
    let (few, many) = (setup.others[0], setup.others[1]);
    let refused = "421 4.3.2 mx.test Too many connections";
    let only = connect(few, "220 ");
    assert!(connect(few, refused).is_closed());
    let _others = [setup.server.connect(), connect(many, "220 ")];
    connect(many, refused);
    drop(only);
    // Its place is free again, here and everywhere.
    let deadline = Instant::now() + PATIENCE;
    while !Client::connect(few).read().starts_with("220 ") {
        assert!(Instant::now() < deadline, "no connection is greeted");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_listener_has_connections_of_one_network_of_its_own() {
    let setup = Setup::start(&["proxy=on network-connections=1", "proxy=on"], &["--proxy-from", "127.0.0.0/8"]);
    let connect_from = |address: SocketAddr, client: &str| {
        let mut connection = Client::connect(address);
        connection.send(format!("PROXY TCP4 {client} 127.0.0.1 257 25\r\n").as_bytes());
        let greeting = connection.read();
        (connection, greeting)
    };
    let (own, general) = (setup.others[0], setup.others[1]);
    let (_first, greeting) = connect_from(own, "192.0.2.7");
    assert_code(&greeting, "220 ");
    assert_code(&connect_from(own, "192.0.2.7").1, "421 4.3.2 mx.test Too many connections from your network");
    assert_code(&connect_from(own, "192.0.2.8").1, "220 ");
    assert_code(&connect_from(general, "192.0.2.7").1, "220 ");
}

#[test]
fn who_waits_for_tls_is_refused_without_text() {
    let certificate = Certificate::make().unwrap();
    let [pem, key] = [&certificate.certificate, &certificate.key].map(|path| path.to_str().unwrap());
    let setup = Setup::start(&["tls=implicit connections=1"], &["--tls-certificate", pem, "--tls-key", key]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _secured = runtime.block_on(async {
        let connected = async {
            let stream = tokio::net::TcpStream::connect(setup.others[0]).await.unwrap();
            certificate.connect(stream).await.unwrap()
        };
        tokio::time::timeout(PATIENCE, connected).await.unwrap()
    });
    let mut refused = TcpStream::connect(setup.others[0]).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut told = Vec::new();
    refused.read_to_end(&mut told).unwrap();
    assert!(told.is_empty(), "{}", told.escape_ascii());
    assert!(setup.server.wait_for_log("connection refused").contains("Too many connections"));
}

/// The first line of the response to EHLO.
fn hello(client: &mut Client) -> String {
    client.say("EHLO client.test").lines().next().unwrap_or_default().to_owned()
}

/// A server with the usual core, and with that of RFC 821 beside it.
fn with_a_strict_core() -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let core = format!("strict={}", file(&directory, "rfc821.wasm", &RFC821).display());
    Setup::start_in(directory, &["slot=strict"], &["--core", &core])
}

const NO_COMMAND: &str = "500 Command not recognized";

#[test]
fn two_cores_serve_beside_each_other() {
    let setup = with_a_strict_core();
    let mut full = setup.server.connect();
    assert_eq!(hello(&mut full), "250-mx.test");
    let mut strict = connect(setup.others[0], "220 mx.test Mailcell SMTP ready\r\n");
    assert_code(&hello(&mut strict), NO_COMMAND);
    assert_eq!(strict.say("HELO client.test"), "250 mx.test\r\n");
    for (line, answer) in [
        ("MAIL FROM:<ann@client.test>", "250 "),
        ("RCPT TO:<bob@mx.test>", "250 "),
        ("BDAT 4 LAST", NO_COMMAND),
        ("DATA", "354 "),
        ("Subject: plain\r\n\r\nbody\r\n.", "250 Stored as "),
    ] {
        assert_code(&strict.say(line), answer);
    }
    assert_code(&full.send_message("Subject: full\r\n\r\nbody"), "250 2.0.0 Stored as ");

    let (default, other) = (setup.status("default"), setup.status("strict"));
    assert_eq!(default["generations"][0]["digest"], mailcell::cell::digest(mailcell::cell::DEFAULT_CORE));
    assert_eq!(other["generations"][0]["digest"], mailcell::cell::digest(&RFC821));
    for status in [default, other] {
        assert_eq!(status["generations"].as_array().unwrap().len(), 1, "{status:#}");
        assert_eq!(status["generations"][0]["counts"]["sessions"], 1, "{status:#}");
    }
    let shown = setup.core_ok(&["status"]);
    let slots: Vec<_> = shown.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(slots, ["SLOT", "default", "strict"], "{shown}");
}

#[test]
fn a_swap_moves_the_sessions_of_its_slot_alone() {
    let setup = with_a_strict_core();
    let variant = file(&setup.directory, "variant.wasm", &VARIANT);
    let variant = variant.to_str().unwrap();
    let mut full = setup.server.connect();
    let mut strict = connect(setup.others[0], "220 ");
    let mut in_data = connect(setup.others[0], "220 ");
    assert_code(&in_data.say("HELO client.test"), "250 ");
    name_recipients(&mut in_data, &[("bob@mx.test", "250 ")]);
    assert_code(&in_data.say("DATA"), "354 ");
    in_data.send(b"Subject: half of a su");

    assert!(setup.core_ok(&["swap", variant, "--slot", "strict"]).ends_with("it serves\n"));
    setup.wait_until("strict", "moved", |status| status["moves"]["sessions"] == 2);
    assert_eq!(setup.status("strict")["generations"][1]["counts"]["sessions"], 2);
    let default = setup.status("default");
    assert_eq!((&default["moves"]["sessions"], default["generations"].as_array().unwrap().len()), (&0.into(), 1));
    let help = |client: &mut Client| client.say("HELP").lines().next().unwrap_or_default().to_owned();
    assert_eq!(help(&mut strict), "214-2.0.0 Commands of a variant:");
    assert_eq!(help(&mut full), "214-2.0.0 Commands:");
    assert_code(&in_data.say("bject\r\n\r\nbody\r\n."), "250 Stored as ");
    assert_eq!(hello(&mut connect(setup.others[0], "220 mx.test Mailcell variant ESMTP ready")), "250-mx.test");

    // What serves in one slot was not checked in the other, and comes there by itself.
    assert!(setup.core_ok(&["swap", variant]).ends_with("it serves\n"));
    assert_eq!(help(&mut full), "214-2.0.0 Commands of a variant:");
    assert!(setup.core_ok(&["rollback", "--slot", "strict"]).ends_with(" serves\n"));
    assert_code(&hello(&mut strict), NO_COMMAND);
    assert_eq!(help(&mut full), "214-2.0.0 Commands of a variant:");
    assert_eq!(setup.status("strict")["generations"][1]["reason"], "rolled back");
    assert_eq!(setup.status("default")["generations"][1]["state"], "current");
}

#[test]
fn a_slot_that_is_not_there_is_said_to_be_none() {
    let setup = with_a_strict_core();
    let variant = file(&setup.directory, "variant.wasm", &VARIANT);
    for arguments in [&["swap", variant.to_str().unwrap(), "--slot", "lax"][..], &["rollback", "--slot", "lax"]] {
        let done = setup.core(arguments);
        assert_eq!(done.status.code(), Some(1));
        assert_eq!(done.stderr, "mailcell: there is no slot `lax`; there is default, strict\n");
    }
}

#[test]
fn the_files_of_all_slots_are_read_again() {
    for (reload, notify) in [("signal", true), ("watch", false)] {
        let directory = tempfile::tempdir().unwrap();
        let full = file(&directory, "full.wasm", mailcell::cell::DEFAULT_CORE);
        let strict = file(&directory, "strict.wasm", &RFC821);
        let named = format!("strict={}", strict.display());
        let cores = ["--core", full.to_str().unwrap(), "--core", &named, "--core-reload", reload];
        let setup = Setup::start_in(directory, &["slot=strict"], &cores);
        std::fs::write(&full, &*VARIANT).unwrap();
        std::fs::write(&strict, mailcell::cell::DEFAULT_CORE).unwrap();
        if notify {
            setup.server.signal(Signal::HUP);
        }
        for (slot, core) in [("default", &VARIANT[..]), ("strict", mailcell::cell::DEFAULT_CORE)] {
            let digest = mailcell::cell::digest(core);
            setup.wait_until(slot, "served by its other file", |status| {
                let current = &status["generations"][1];
                current["state"] == "current" && current["digest"] == digest
            });
        }
    }
}

#[test]
fn listeners_and_cores_that_do_not_fit_are_refused_at_the_start() {
    let strict = "127.0.0.1:0 slot=strict";
    for (arguments, why) in [
        (
            &["--listen", strict][..],
            "127.0.0.1:0: slot=strict needs a core: there is no strict=FILE in the setting `core`",
        ),
        (&["--core", "strict=a.wasm"], "core: a.wasm serves nobody: no listener has slot=strict"),
        (&["--core", "a.wasm", "--core", "b.wasm"], "--core: there are two cores for the slot `default`"),
        (&["--listen", strict, "--core", "strict=a.wasm"], "a.wasm: cannot read a.wasm"),
        (&["--listen", "127.0.0.1:0 accept=domains"], "127.0.0.1:0: accept=domains needs domains"),
        (
            &["--listen", "127.0.0.1:0 errors=no"],
            "--listen: 127.0.0.1:0: errors: expected a number from 1, found \"no\"",
        ),
        (&["--listen", "127.0.0.1:0 cells=5"], "--listen: 127.0.0.1:0: `cells` holds for the whole server"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut serve = command(Path::new(PROGRAM), &[&["serve", "--control", ""], arguments].concat());
        serve.current_dir(directory.path());
        let done = run(serve, b"");
        let code = if why.starts_with("--") { 2 } else { 1 };
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", done.stderr);
        let line = done.stderr.lines().last().unwrap_or_default();
        assert!(line.starts_with(&format!("mailcell: {why}")), "{arguments:?}: {line}");
    }
}
