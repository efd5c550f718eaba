//! Cores that mean harm, in a running server: the session in question ends with 421, a thousand others that are sending
//! mail at that moment do not notice, and the counters say what happened.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use mailcell::admin::Swap;
use mailcell::admin::client::Client;
use mailcell::cell::{Counts, DEFAULT_CORE};
use mailcell::swap::{Options, Status};
use mailcell_tests::cores;
use mailcell_tests::load::{Load, Outcome, Session};
use mailcell_tests::program::{PATIENCE, Server, command, run};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

/// Sessions that send mail meanwhile.
const OTHERS: usize = 1_000;

/// Harm that is done at once, as a trap or as a step that is refused.
const AT_ONCE: [(&str, bool); 11] = [
    ("loop", true),
    ("grow", true),
    ("recurse", true),
    ("trap", true),
    ("million", true),
    ("long", true),
    ("crlf", false),
    ("code", false),
    ("two", false),
    ("ask", false),
    ("append", false),
];

/// Each of these tests brings a thousand sessions; one after the other they are enough for a small machine.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Setup {
    directory: TempDir,
    server: Server,
    client: Client,
}

impl Setup {
    fn start(core: &[u8], arguments: &[&str]) -> Setup {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("core.wasm");
        std::fs::write(&file, core).unwrap();
        let database = format!("sqlite:{}", directory.path().join("mail.db").display());
        let arguments = [&["--database", &database, "--core", file.to_str().unwrap()], arguments].concat();
        let server = Server::start(Path::new(PROGRAM), &arguments, &[]);
        let client = Client::new(&server.control());
        Setup { directory, server, client }
    }

    async fn open(&self) -> Session {
        Session::open(self.server.address).await.unwrap()
    }

    /// Swaps, whatever is different.
    async fn swap(&self, core: &[u8]) -> Result<(), String> {
        let report = self.client.check(core.to_vec(), None).await.map_err(|error| format!("{error:#}"))?;
        let swap = Swap { digest: report.digest, options: Options::default() };
        self.client.swap(&swap).await.map(drop).map_err(|error| format!("{error:#}"))
    }

    async fn counts(&self, at: usize) -> Counts {
        self.client.status().await.unwrap().generations[at].counts
    }

    async fn wait_until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.client.status().await.unwrap();
            if holds(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "not {what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn assert_unharmed(outcome: &Outcome) {
    assert!(
        outcome.errors.is_empty(),
        "{} of {OTHERS} others noticed: {:?}",
        outcome.errors.len(),
        outcome.errors.first()
    );
    assert!(outcome.accepted.len() >= OTHERS, "{} messages", outcome.accepted.len());
}

async fn assert_421(session: &mut Session, what: &str) {
    session.expect("421 4.3.0 mx.test Internal error; closing connection", what).await.unwrap();
    assert!(session.read().await.unwrap_err().starts_with("closed"), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn harm_in_any_export_costs_one_session() {
    let _one = ONE_AT_A_TIME.lock().await;
    let setup = Setup::start(&cores::hostile(), &[]);
    let load = Load::start(setup.server.address, OTHERS, false);
    load.flow(OTHERS as u64).await;
    let mut expected = Counts::default();
    for (harm, traps) in AT_ONCE {
        let mut session = setup.open().await;
        session.send(format!("XHARM {harm}\r\n").as_bytes()).await.unwrap();
        assert_421(&mut session, harm).await;
        if traps {
            expected.traps += 1
        } else {
            expected.refusals += 1
        }
        let counts = setup.counts(0).await;
        assert_eq!((counts.traps, counts.refusals), (expected.traps, expected.refusals), "{harm}");
    }
    // Endless loops in the exports that are not `on-line`.
    let arm = async |export: &str| {
        let mut session = setup.open().await;
        session.say("EHLO client.test", "250").await.unwrap();
        for line in ["MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>"] {
            session.say(line, "250").await.unwrap();
        }
        session.say(&format!("XHARM {export}"), "250").await.unwrap();
        session
    };
    let mut session = arm("on-data").await;
    session.say("DATA", "354").await.unwrap();
    session.send(b"Subject: half").await.unwrap();
    assert_421(&mut session, "on-data").await;
    let mut session = arm("on-reply").await;
    session.send(b"VRFY bob\r\n").await.unwrap();
    assert_421(&mut session, "on-reply").await;
    let mut session = arm("on-event").await;
    session.send(&[b'x'; 4000]).await.unwrap();
    session.send(b"\r\n").await.unwrap();
    assert_421(&mut session, "on-event").await;
    // Data that is appended and not read, again and again.
    let mut session = arm("again").await;
    session.say("DATA", "354").await.unwrap();
    session.send(&[b'x'; 1_000]).await.unwrap();
    assert_421(&mut session, "again").await;
    let counts = setup.counts(0).await;
    assert_eq!((counts.traps, counts.refusals), (expected.traps + 3, expected.refusals + 1));
    assert_unharmed(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_loops_when_it_opens_costs_its_sessions_only() {
    let setup = Setup::start(&cores::hostile(), &["--name", "harm.test"]);
    for _ in 0..2 {
        let error = Session::open(setup.server.address).await.err().unwrap();
        assert!(error.contains("421 4.3.0 harm.test Internal error"), "{error}");
    }
    assert_eq!(setup.counts(0).await.traps, 2);
    drop(setup.directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn harm_while_sessions_move_costs_one_session_or_none() {
    let _one = ONE_AT_A_TIME.lock().await;
    // What hibernates is saved before anything moves, and the harm is done then.
    let setup = Setup::start(&cores::hostile(), &["--hibernate-after", "1h"]);
    let mut lost = Vec::new();
    let mut stay = Vec::new();
    for (harm, traps) in
        [("save", true), ("trap-in-save", true), ("save-lies", false), ("save-asks", false), ("save-long", false)]
    {
        let mut session = setup.open().await;
        session.say("EHLO client.test", "250").await.unwrap();
        session.say(&format!("XHARM {harm}"), "250").await.unwrap();
        if traps { &mut lost } else { &mut stay }.push((harm, session));
    }
    let load = Load::start(setup.server.address, OTHERS, false);
    load.flow(OTHERS as u64).await;
    setup.swap(DEFAULT_CORE).await.unwrap();
    for (harm, mut session) in lost {
        assert_421(&mut session, harm).await;
    }
    // A cell whose state is refused is alive: the session goes on in it.
    setup.wait_until("moved", |status| status.generations[0].counts.sessions == 3).await;
    for (harm, mut session) in stay {
        session.say("NOOP", "250").await.unwrap_or_else(|error| panic!("{harm}: {error}"));
        session.say("QUIT", "221").await.unwrap();
    }
    let counts = setup.counts(0).await;
    assert_eq!((counts.traps, counts.refusals, counts.stayed), (2, 3, 3));
    load.flow(OTHERS as u64).await;

    // Sessions that are restored with harm go back and lose nothing. They were idle, and so moved as bytes.
    let mut kept = Vec::new();
    for name in ["spin-in-restore.test", "lie-in-restore.test", "trap-after-move.test"] {
        let mut session = setup.open().await;
        session.say(&format!("EHLO {name}"), "250").await.unwrap();
        session.say("MAIL FROM:<ann@client.test>", "250").await.unwrap();
        kept.push((name, session));
    }
    let hostile = cores::hostile();
    setup.swap(&hostile).await.unwrap();
    setup.wait_until("back", |status| status.generations[0].counts.sessions >= OTHERS as u64).await;
    for (name, session) in &mut kept {
        session.say("RCPT TO:<bob@mx.test>", "250").await.unwrap_or_else(|error| panic!("{name}: {error}"));
        session.say("DATA", "354").await.unwrap();
        session.say(".", "250 2.0.0 Stored as ").await.unwrap();
    }
    let status = setup.client.status().await.unwrap();
    assert_eq!(status.moves.returned, 3);
    assert_eq!(status.generations[1].counts.stayed, 3);
    assert_eq!(status.generations[1].counts.sessions, 3);
    assert_unharmed(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_that_fail_are_refused_while_mail_flows() {
    let _one = ONE_AT_A_TIME.lock().await;
    let setup = Setup::start(DEFAULT_CORE, &[]);
    let load = Load::start(setup.server.address, OTHERS, false);
    load.flow(OTHERS as u64).await;
    for (candidate, why) in [
        (cores::trapping(), "it cannot be started: the core trapped"),
        (cores::spinning(), "it cannot be started: the core trapped"),
        (cores::spinning_at_start(), "it cannot be started: the core trapped"),
        (cores::importing_more(), "run-sql"),
        (cores::hungry(), "exceeds the limit"),
        (b"\0asm".to_vec(), "not a WebAssembly component"),
    ] {
        let refusal = setup.swap(&candidate).await.unwrap_err();
        assert!(refusal.contains(why), "{why}: {refusal}");
    }
    assert_eq!(setup.client.status().await.unwrap().generations.len(), 1);
    assert_unharmed(&load.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_loses_sessions_is_withdrawn_by_itself_and_stays_away() {
    let _one = ONE_AT_A_TIME.lock().await;
    let setup = Setup::start(DEFAULT_CORE, &[]);
    let load = Load::start(setup.server.address, 100, false);
    load.flow(200).await;
    let hostile = cores::hostile();
    setup.swap(&hostile).await.unwrap();
    for _ in 0..20 {
        let mut session = setup.open().await;
        session.send(b"XHARM trap\r\n").await.unwrap();
        assert_421(&mut session, "a trap").await;
    }
    setup.wait_until("withdrawn", |status| status.swap.contains("was withdrawn: 20 traps")).await;
    let refusal = setup.swap(&hostile).await.unwrap_err();
    assert!(refusal.contains("stays away for another"), "{refusal}");
    let status = setup.client.status().await.unwrap();
    assert_eq!(status.generations[0].state, mailcell::swap::State::Current);
    let mut session = setup.open().await;
    session.say("XHARM trap", "500").await.unwrap();
    let outcome = load.stop().await;
    assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_loses_sessions_is_withdrawn_and_the_others_go_back() {
    let setup = Setup::start(DEFAULT_CORE, &[]);
    let report = setup.client.check(cores::hostile(), None).await.unwrap();
    let options = Options { canary: Some(100), seconds: 3600, ..Options::default() };
    setup.client.swap(&Swap { digest: report.digest, options }).await.unwrap();
    setup.wait_until("a canary", |status| status.generations.len() == 2).await;
    let mut innocent = setup.open().await;
    innocent.say("EHLO client.test", "250").await.unwrap();
    innocent.say("MAIL FROM:<ann@client.test>", "250").await.unwrap();
    for _ in 0..5 {
        let mut session = setup.open().await;
        session.send(b"XHARM code\r\n").await.unwrap();
        assert_421(&mut session, "code").await;
    }
    setup.wait_until("withdrawn", |status| !status.busy && status.swap.contains("was withdrawn: 0 traps and 5")).await;
    setup.wait_until("back", |status| status.generations[0].counts.sessions == 1).await;
    innocent.say("RCPT TO:<bob@mx.test>", "250").await.unwrap();
    innocent.say("XHARM trap", "500").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_leaves_a_recording_that_traps_again() {
    let recordings = tempfile::tempdir().unwrap();
    let directory = recordings.path().to_str().unwrap();
    let setup = Setup::start(&cores::hostile(), &["--record-directory", directory]);
    let mut session = setup.open().await;
    session.say("EHLO client.test", "250").await.unwrap();
    session.send(b"XTRAP with a secret\r\n").await.unwrap();
    assert_421(&mut session, "a trap").await;
    setup.server.wait_for_log("recorded");
    let file = std::fs::read_dir(recordings.path()).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\nC: XTRAP xxxx x xxxxxx\n") && !text.contains("it is not lost"), "{text}");
    let core = setup.directory.path().join("core.wasm");
    let replay =
        |core: &str| run(command(Path::new(PROGRAM), &["replay", file.to_str().unwrap(), "--core", core]), b"");
    // The recording holds no effect that a transcript can expect, so the trap shows as what differs.
    let again = replay(core.to_str().unwrap());
    assert_eq!(again.status.code(), Some(1), "{}", again.text());
    assert!(again.text().contains("+!: the core trapped: "), "{}", again.text());
    let good = setup.directory.path().join("good.wasm");
    std::fs::write(&good, DEFAULT_CORE).unwrap();
    let other = replay(good.to_str().unwrap());
    assert!(other.text().contains("+S: 500 5.5.1"), "{}", other.text());
    // What the core that serves fails at keeps no better one out.
    let report = setup.client.check(DEFAULT_CORE.to_vec(), None).await.unwrap();
    assert_eq!(report.verdict(&Default::default()), Ok(()));
    assert_eq!(report.left_out, 0);
    // And no recording, however broken, keeps a good one out.
    std::fs::write(recordings.path().join("notes.txt"), b"\xff").unwrap();
    std::fs::write(file.with_file_name("fault-019e2f6a-30f4-7d11-9a51-5b1f0b6c2a0e.txt"), b"broken").unwrap();
    std::fs::create_dir(file.with_file_name("session-019e2f6a-30f4-7d11-9a51-5b1f0b6c2a0e.txt")).unwrap();
    let report = setup.client.check(cores::variant(), None).await.unwrap();
    assert_eq!((report.verdict(&Default::default()), report.left_out), (Ok(()), 1));
}
