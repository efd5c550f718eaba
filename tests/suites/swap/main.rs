//! A core is replaced in a running server, by the command line: what a person sees, and what sessions see.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod access;
mod proof;
mod room;
mod trials;

use mailcell_tests::cores;
use mailcell_tests::program::{Client, Finished, PATIENCE, Server, command, run};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Instant;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

static VARIANT: LazyLock<Vec<u8>> = LazyLock::new(cores::variant);

struct Setup {
    directory: TempDir,
    server: Server,
}

impl Setup {
    fn start(arguments: &[&str]) -> Setup {
        let directory = tempfile::tempdir().unwrap();
        let database = format!("sqlite:{}", directory.path().join("mail.db").display());
        let server = Server::start(Path::new(PROGRAM), &[&["--database", &database], arguments].concat(), &[]);
        Setup { directory, server }
    }

    fn file(&self, name: &str, octets: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, octets).unwrap();
        path
    }

    /// `mailcell core …` for this server.
    fn core(&self, arguments: &[&str]) -> Finished {
        let mut command = command(Path::new(PROGRAM), &[&["core"], arguments].concat());
        command.arg("--control").arg(self.server.control());
        run(command, b"")
    }

    #[track_caller]
    fn swap(&self, file: &Path, arguments: &[&str]) -> String {
        let done = self.core(&[&["swap", file.to_str().unwrap()], arguments].concat());
        assert!(done.status.success(), "{}{}", done.text(), done.stderr);
        done.text()
    }

    /// Why a swap is refused, in one line.
    #[track_caller]
    fn refusal(&self, file: &Path, arguments: &[&str]) -> String {
        let done = self.core(&[&["swap", file.to_str().unwrap()], arguments].concat());
        assert_eq!(done.status.code(), Some(1), "{}", done.text());
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        done.stderr
    }

    fn status(&self) -> serde_json::Value {
        let done = self.core(&["status", "--json"]);
        assert!(done.status.success(), "{}", done.stderr);
        let status: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        status[0].clone()
    }

    fn generation(&self, number: u64) -> serde_json::Value {
        let status = self.status();
        let generations = status["generations"].as_array().unwrap();
        generations.iter().find(|generation| generation["number"] == number).cloned().unwrap_or_default()
    }

    #[track_caller]
    fn wait_until(&self, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.status()) {
            assert!(Instant::now() < deadline, "not {what}: {:#}", self.status());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn default_core() -> &'static [u8] {
    mailcell::cell::DEFAULT_CORE
}

fn help(client: &mut Client) -> String {
    client.say("HELP").lines().next().unwrap_or_default().to_owned()
}

#[test]
fn open_sessions_move_wherever_they_are() {
    let setup = Setup::start(&[]);
    let mut fresh = setup.server.connect();
    let mut in_data = setup.server.connect();
    in_data.begin_message();
    in_data.send(b"Subject: half of a su");
    let mut in_line = setup.server.connect();
    in_line.send(b"EHLO client.t");
    let mut with_recipients = setup.server.connect();
    for line in ["EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<bob@mx.test>"] {
        assert!(with_recipients.say(line).starts_with("250"));
    }
    let shown = setup.swap(&setup.file("variant.wasm", &VARIANT), &[]);
    assert!(shown.contains(": says it differently, which never refuses\n"), "{shown}");
    for line in [
        "-S: 220 mx.test Mailcell ESMTP ready",
        "+S: 220 mx.test Mailcell variant ESMTP ready",
        "+S: 214-2.0.0 Commands of a variant:",
    ] {
        assert!(shown.contains(&format!("\n{line}\n")), "{shown}");
    }
    assert!(shown.lines().count() < 150, "the same change is shown once: {shown}");
    assert!(shown.ends_with("it serves\n"), "{shown}");
    setup.wait_until("moved", |status| status["moves"]["sessions"] == 4);
    assert_eq!(setup.generation(1)["counts"]["sessions"], 0);
    assert_eq!(setup.generation(2)["state"], "current");
    assert_eq!(setup.generation(2)["version"], "unknown");

    assert_eq!(help(&mut fresh), "214-2.0.0 Commands of a variant:");
    in_line.send(b"est\r\n");
    assert!(in_line.read().starts_with("250-mx.test"));
    assert!(in_data.say("bject\r\n\r\nbody\r\n.").starts_with("250 2.0.0 Stored as "));
    assert!(with_recipients.say("DATA").starts_with("354"));
    assert!(with_recipients.say("body\r\n.").starts_with("250 2.0.0"));
    let (_, greeting) = setup.server.connect_raw();
    assert_eq!(greeting, "220 mx.test Mailcell variant ESMTP ready\r\n");

    // The same bytes again change nothing, and the way back is open.
    assert!(setup.swap(&setup.file("again.wasm", &VARIANT), &[]).ends_with("it serves already\n"));
    let done = setup.core(&["rollback"]);
    assert!(done.text().ends_with(" serves\n"), "{}{}", done.text(), done.stderr);
    assert_eq!(help(&mut fresh), "214-2.0.0 Commands:");
    assert_eq!(setup.generation(2)["reason"], "rolled back");
}

#[test]
fn sessions_may_end_where_they_are() {
    let setup = Setup::start(&["--core-drain", "2s"]);
    let (mut idle, mut in_data) = (setup.server.connect(), setup.server.connect());
    in_data.begin_message();
    setup.swap(&setup.file("variant.wasm", &VARIANT), &["--mode", "drain"]);
    assert_eq!(help(&mut idle), "214-2.0.0 Commands:");
    assert_eq!(help(&mut setup.server.connect()), "214-2.0.0 Commands of a variant:");
    assert_eq!(setup.generation(1)["state"], "retiring");
    // When its time is over, a session ends where it reads a line, and nowhere else.
    assert!(idle.read().starts_with("421 4.3.2 mx.test"));
    assert!(in_data.say("body\r\n.").starts_with("250 2.0.0"));
    assert!(in_data.read().starts_with("421 4.3.2 mx.test"));
    setup.wait_until("rid of the old core's sessions", |status| status["generations"][0]["counts"]["sessions"] == 0);
}

#[test]
fn a_session_that_the_other_core_does_not_read_stays() {
    let setup = Setup::start(&[]);
    let mut before = setup.server.connect();
    setup.swap(&setup.file("foreign.wasm", &cores::foreign()), &[]);
    setup.wait_until("said", |status| status["generations"][0]["counts"]["stayed"] == 1);
    let stay = setup.generation(1)["stay"].to_string();
    assert!(stay.contains("writes layouts [3], the other core reads [9]"), "{stay}");
    assert_eq!(help(&mut before), "214-2.0.0 Commands:");
    assert_eq!(help(&mut setup.server.connect()), "214-2.0.0 Commands of a variant:");
    let shown = setup.core(&["status"]).text();
    assert!(shown.contains("the other core reads [9]"), "{shown}");
}

#[test]
fn other_behaviour_must_be_declared() {
    let setup = Setup::start(&[]);
    let file = setup.file("different.wasm", &cores::different());
    let mut open = setup.server.connect();
    let refusal = setup.refusal(&file, &[]);
    assert!(refusal.contains("it behaves differently, undeclared, in "), "{refusal}");
    assert_eq!(open.say("NOOP"), "250 2.0.0 Ok\r\n");

    // Checked without a server, what is printed is what declares it; against itself, a core does nothing new.
    let itself = ["core", "check", file.to_str().unwrap(), "--against", file.to_str().unwrap()];
    let itself = run(command(Path::new(PROGRAM), &itself), b"");
    assert!(itself.text().ends_with(" 0 not safe, 0 with other behaviour, 0 with other texts\n"), "{}", itself.text());
    let checked = run(command(Path::new(PROGRAM), &["core", "check", file.to_str().unwrap()]), b"");
    assert_eq!(checked.status.code(), Some(1));
    assert!(checked.text().contains("+S: 251 2.0.0 Ok"), "{}", checked.text());
    let names: Vec<_> = checked.text().lines().filter_map(different).map(str::to_owned).collect();
    assert!(!names.is_empty());
    let refusal = setup.refusal(&file, &["--accept", "all"]);
    assert!(refusal.contains("there is no session `all` whose differences could be accepted"), "{refusal}");
    let refusal = setup.refusal(&file, &["--differences", file.to_str().unwrap()]);
    assert!(
        refusal.contains("different.wasm:1: expected differences as `mailcell core check` prints them"),
        "{refusal}"
    );
    let refusal = setup.refusal(&file, &["--accept", &names[0]]);
    assert!(names.len() == 1 || refusal.contains("undeclared"), "{refusal}");
    let named: Vec<_> = names.iter().flat_map(|name| ["--accept", name]).collect();
    setup.swap(&file, &named);
    assert_eq!(open.say("NOOP"), "251 2.0.0 Ok\r\n");
    assert!(setup.core(&["rollback"]).status.success());
    assert_eq!(open.say("NOOP"), "250 2.0.0 Ok\r\n");
    let declared = setup.file("intended", &checked.stdout);
    let shown = setup.swap(&file, &["--differences", declared.to_str().unwrap()]);
    assert_eq!(open.say("NOOP"), "251 2.0.0 Ok\r\n");
    // And so is what a swap prints that was done.
    assert!(setup.core(&["rollback"]).status.success());
    setup.file("different.wasm.differences", shown.as_bytes());
    setup.swap(&file, &[]);
    assert_eq!(open.say("NOOP"), "251 2.0.0 Ok\r\n");
}

fn different(line: &str) -> Option<&str> {
    line.strip_prefix("# ").and_then(|line| line.strip_suffix(": behaves differently"))
}

#[test]
fn what_is_no_core_is_refused_and_changes_nothing() {
    let setup = Setup::start(&[]);
    let mut open = setup.server.connect();
    for (name, octets, why) in [
        ("text", b"not wasm".to_vec(), "not a WebAssembly component"),
        ("more", cores::importing_more(), "run-sql"),
        ("start", cores::spinning_at_start(), "it cannot be started: the core trapped"),
        ("hungry", cores::hungry(), "exceeds the limit"),
        ("huge", cores::huge(), "a core has at most 8388608 octets"),
    ] {
        let refusal = setup.refusal(&setup.file(name, &octets), &[]);
        assert!(refusal.contains(why), "{name}: {refusal}");
    }
    let missing = setup.refusal(Path::new("/nowhere/core.wasm"), &[]);
    assert!(missing.contains("cannot read /nowhere/core.wasm"), "{missing}");
    assert_eq!(setup.status()["generations"].as_array().unwrap().len(), 1);
    assert_eq!(help(&mut open), "214-2.0.0 Commands:");
    let done = setup.core(&["rollback"]);
    assert!(done.stderr.contains("no core has served before"), "{}", done.stderr);
}

#[test]
fn the_file_is_read_again_at_a_signal_and_when_it_changes() {
    for (reload, notify) in [("signal", true), ("watch", false)] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("core.wasm");
        std::fs::write(&file, default_core()).unwrap();
        let setup = Setup::start(&["--core", file.to_str().unwrap(), "--core-reload", reload]);
        let mut open = setup.server.connect();
        std::fs::write(&file, &*VARIANT).unwrap();
        if notify {
            setup.server.signal(Signal::HUP);
        }
        setup.server.wait_for_log("serves");
        assert_eq!(help(&mut open), "214-2.0.0 Commands of a variant:");
        std::fs::write(&file, b"broken").unwrap();
        if notify {
            setup.server.signal(Signal::HUP);
        }
        let refused = setup.server.wait_for_log("refused");
        assert!(refused.contains("not a WebAssembly component"), "{refused}");
        assert_eq!(help(&mut open), "214-2.0.0 Commands of a variant:");
    }
}

#[test]
fn a_core_looks_on_and_is_a_canary_before_it_serves() {
    let setup = Setup::start(&[]);
    let file = setup.file("variant.wasm", &VARIANT);
    let file = file.to_str().unwrap().to_owned();
    let control = setup.server.control();
    let swapping = std::thread::spawn(move || {
        let arguments = ["core", "swap", &file, "--shadow", "100", "--canary", "50%", "--for", "4s"];
        let mut command = command(Path::new(PROGRAM), &arguments);
        command.arg("--control").arg(control);
        run(command, b"")
    });
    setup.wait_until("looking on", |status| status["generations"][1]["state"] == "shadow");
    let mut seen = setup.server.connect();
    assert_eq!(help(&mut seen), "214-2.0.0 Commands:");
    let meanwhile = setup.refusal(&setup.file("other.wasm", &cores::different()), &[]);
    assert!(meanwhile.contains("a swap is under way"), "{meanwhile}");
    setup.wait_until("a canary", |status| status["generations"][1]["state"] == "canary");
    let helps: Vec<_> = (0..20).map(|_| help(&mut setup.server.connect())).collect();
    let variants = helps.iter().filter(|help| help.contains("variant")).count();
    assert!((8..=12).contains(&variants), "about half of the connections: {helps:?}");
    assert_eq!(help(&mut seen), "214-2.0.0 Commands:", "an open session stays");
    let done = swapping.join().unwrap();
    assert!(done.status.success(), "{}{}", done.text(), done.stderr);
    assert_eq!(help(&mut seen), "214-2.0.0 Commands of a variant:");
}

#[test]
fn a_core_that_looks_on_and_does_otherwise_is_withdrawn_and_stays_away() {
    let setup = Setup::start(&[]);
    let file = setup.file("different.wasm", &cores::different());
    let declared = run(command(Path::new(PROGRAM), &["core", "check", file.to_str().unwrap()]), b"");
    let declared = setup.file("intended", &declared.stdout);
    let arguments = ["--differences", declared.to_str().unwrap()];
    let trial = ["--shadow", "100", "--for", "4s"];
    let (path, control) = (file.clone(), setup.server.control());
    let owned: Vec<String> = arguments.iter().chain(&trial).map(|text| (*text).to_owned()).collect();
    let swapping = std::thread::spawn(move || {
        let mut command = command(Path::new(PROGRAM), &["core", "swap", path.to_str().unwrap()]);
        command.args(owned).arg("--control").arg(control);
        run(command, b"")
    });
    setup.wait_until("looking on", |status| status["generations"][1]["state"] == "shadow");
    let mut client = setup.server.connect();
    assert_eq!(client.say("NOOP"), "250 2.0.0 Ok\r\n");
    let done = swapping.join().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stderr.contains("NOOP: 251 in the place of 250 (1 times)"), "{}", done.stderr);
    assert_eq!(setup.generation(2)["state"], "withdrawn");
    let again = setup.refusal(&file, &arguments);
    assert!(again.contains("stays away for another"), "{again}");
}

#[test]
fn many_cores_come_and_go_and_sessions_move_all_the_same() {
    let setup = Setup::start(&[]);
    let mut open = setup.server.connect();
    let usual = setup.file("usual.wasm", default_core());
    let variant = setup.file("variant.wasm", &VARIANT);
    for _ in 0..4 {
        setup.swap(&variant, &[]);
        assert_eq!(help(&mut open), "214-2.0.0 Commands of a variant:");
        assert!(setup.core(&["rollback"]).status.success());
        assert_eq!(help(&mut open), "214-2.0.0 Commands:");
    }
    let different = setup.file("different.wasm", &cores::different());
    let checked = run(command(Path::new(PROGRAM), &["core", "check", different.to_str().unwrap()]), b"");
    let declared = setup.file("intended", &checked.stdout);
    for file in [&different, &variant, &usual, &different, &variant] {
        setup.swap(file, &["--differences", declared.to_str().unwrap()]);
        assert!(help(&mut open).starts_with("214"), "it is in the core that serves");
        let status = setup.status();
        let sessions = |state: &str| -> u64 {
            let all = status["generations"].as_array().unwrap().iter();
            all.filter(|g| g["state"] == state).map(|g| g["counts"]["sessions"].as_u64().unwrap()).sum()
        };
        assert_eq!((sessions("current"), sessions("retiring"), sessions("withdrawn")), (1, 0, 0), "{status:#}");
    }
}

#[test]
fn a_trial_is_ended_by_a_rollback() {
    let setup = Setup::start(&[]);
    let file = setup.file("variant.wasm", &VARIANT);
    let (path, control) = (file.to_str().unwrap().to_owned(), setup.server.control());
    let swapping = std::thread::spawn(move || {
        let mut command = command(Path::new(PROGRAM), &["core", "swap", &path, "--canary", "100", "--for", "1h"]);
        command.arg("--control").arg(control);
        run(command, b"")
    });
    setup.wait_until("a canary", |status| status["generations"][1]["state"] == "canary");
    let mut tried = setup.server.connect();
    assert_eq!(help(&mut tried), "214-2.0.0 Commands of a variant:");
    assert!(setup.core(&["rollback"]).status.success());
    assert_eq!(help(&mut tried), "214-2.0.0 Commands:");
    let done = swapping.join().unwrap();
    assert!(done.stderr.contains("it does not serve: rolled back"), "{}", done.stderr);
    // It was nobody's fault, and may come again.
    setup.swap(&file, &[]);
    assert_eq!(help(&mut tried), "214-2.0.0 Commands of a variant:");
}
