//! Sessions are recorded, and recordings are run again.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use mailcell_tests::cores;
use mailcell_tests::program::{Finished, Server, command, run};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

struct Setup {
    directory: TempDir,
    server: Server,
}

impl Setup {
    fn start(arguments: &[&str]) -> Setup {
        let directory = tempfile::tempdir().unwrap();
        let database = format!("sqlite:{}", directory.path().join("mail.db").display());
        let recordings = directory.path().join("recordings");
        let arguments =
            [&["--database", &database, "--record-directory", recordings.to_str().unwrap()], arguments].concat();
        Setup { server: Server::start(Path::new(PROGRAM), &arguments, &[]), directory }
    }

    fn recordings(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path().join("recordings")).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// Says a few things, with a secret and a message, and waits until that is recorded.
    fn record_a_session(&self) -> PathBuf {
        let mut client = self.server.connect();
        for line in ["AUTH PLAIN AGFubgBzZWNyZXQ=", "AUTH LOGIN", "c2VjcmV0", "NOOP hunter2", "DATA", "Dear secret"] {
            client.say(line);
        }
        client.begin_message();
        // Pipelined behind the end of data, and octets that a file of text does not like.
        client.send(
            b"Subject: My secret plan\r\nX-Key: hunter2\r\n\r\n..dots {1..3} \\ caf\xc3\xa9 \r\n\r\n.\r\nNOOP\r\n",
        );
        assert!(client.read().starts_with("250"));
        assert!(client.read().starts_with("250"));
        assert!(client.say("VRFY {bob*3}").starts_with('5'));
        client.say("QUIT");
        self.server.wait_for_log("recorded");
        self.recordings().pop().unwrap()
    }

    fn write(&self, name: &str, octets: &[u8]) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, octets).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn replay(recording: &Path, core: &[&str]) -> Finished {
    run(command(Path::new(PROGRAM), &[&["replay", recording.to_str().unwrap()], core].concat()), b"")
}

#[test]
fn a_recording_tells_what_happened_and_no_secret() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::start(&["--record", "100"]);
    let recording = setup.record_a_session();
    let text = std::fs::read_to_string(&recording).unwrap();
    for secret in ["AGFubg", "c2Vj", "Dear", "secret", "plan", "hunter2", "dots", "caf"] {
        assert!(!text.contains(secret), "{secret}:\n{text}");
    }
    let digest = mailcell::cell::digest(mailcell::cell::DEFAULT_CORE);
    for line in [
        &format!("# Core {digest}, version 0.1.0."),
        "# The content of messages is masked.",
        "config: name mx.test",
        "C: AUTH PLAIN AHh4eAB4eHh4eHg=",
        "C: xxxx xxxxxx",
        "C: MAIL FROM:<ann@client.test>",
        "C: Subject: xx xxxxxx xxxx",
        "C: x-xxx: xxxxxxx",
        "C: NOOP",
        "S: 221 2.0.0 mx.test Closing connection",
        "S: <close>",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    assert_eq!(std::fs::metadata(&recording).unwrap().permissions().mode() & 0o777, 0o600);

    let same = replay(&recording, &[]);
    assert!(same.status.success(), "{}", same.text());
    assert_eq!(same.text(), "0 of 1 sessions differ\n");
    let variant = setup.write("variant.wasm", &cores::variant());
    let other = replay(&recording, &["--core", &variant]);
    assert_eq!(other.status.code(), Some(1));
    assert!(other.text().contains("\n+S: 220 mx.test Mailcell variant ESMTP ready\n"), "{}", other.text());
}

#[test]
fn whoever_speaks_something_else_is_recorded_as_it_was() {
    let setup = Setup::start(&["--record", "100"]);
    let mut client = setup.server.connect();
    // TLS, where none is spoken.
    client.send(b"\x16\x03\x01");
    assert!(client.read().starts_with("421"));
    setup.server.wait_for_log("recorded");
    let text = std::fs::read_to_string(setup.recordings().pop().unwrap()).unwrap();
    assert!(text.contains("\nS: 421 ") && text.ends_with("\nS: <close>\n"), "{text}");
}

#[test]
fn an_empty_message_of_scram_is_recorded() {
    let setup = Setup::start(&["--record", "100", "--auth", "on"]);
    let mut client = setup.server.connect();
    client.say("EHLO client.test");
    assert!(client.say("AUTH SCRAM-SHA-256 =").starts_with("535"));
    client.say("QUIT");
    let said = setup.server.wait_for_log("recorded");
    assert!(!said.contains("not recorded"), "{said}");
    let text = std::fs::read_to_string(setup.recordings().pop().unwrap()).unwrap();
    assert!(text.contains("\nQ: scram-first\\x20\n"), "{text}");
}

#[test]
fn content_is_kept_when_that_is_asked_for() {
    let setup = Setup::start(&["--record", "100", "--record-content", "keep"]);
    let text = std::fs::read_to_string(setup.record_a_session()).unwrap();
    assert!(text.contains("\nC: Subject: My secret plan\n"), "{text}");
    assert!(text.contains(r"C: ..dots \{1..3\} \\ café\x20"), "{text}");
    assert!(!text.contains("AGFubg") && !text.contains("c2Vj"), "credentials are never kept: {text}");
}

#[test]
fn a_share_is_recorded_and_the_oldest_make_room() {
    let setup = Setup::start(&["--record", "50", "--record-size", "10KiB"]);
    for _ in 0..100 {
        setup.server.connect().say("QUIT");
    }
    setup.server.connect();
    let mut count = 0;
    while count < 50 {
        setup.server.wait_for_log("recorded");
        count += 1;
    }
    // The last session may be being recorded, so that a file goes between the look at the directory and the one at the file.
    let sizes: Vec<_> =
        setup.recordings().iter().filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).collect();
    assert!((5..50).contains(&sizes.len()) && sizes.iter().sum::<u64>() <= 10 << 10, "{sizes:?}");
}

#[test]
fn recordings_prove_a_core() {
    let setup = Setup::start(&["--record", "100"]);
    let recording = setup.record_a_session();
    let name = recording.file_stem().unwrap().to_str().unwrap().to_owned();
    let file = setup.write("different.wasm", &cores::different());
    let mut swap = command(Path::new(PROGRAM), &["core", "swap", &file, "--control"]);
    swap.arg(setup.server.control());
    let refused = run(swap, b"");
    assert!(refused.text().contains(&format!("\n# {name}: behaves differently\n")), "{}", refused.text());
    let checked =
        run(command(Path::new(PROGRAM), &["core", "check", &file, "--recording", recording.to_str().unwrap()]), b"");
    assert!(checked.text().contains(&format!("\n# {name}: behaves differently\n")), "{}", checked.text());
}
