//! Sessions that hibernate: they lose nothing, they wake for whatever happens, and cores that mean harm find nothing in it.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use mailcell::cell::DEFAULT_CORE;
use mailcell_tests::cores;
use mailcell_tests::load::Session;
use mailcell_tests::program::{Server, command, run};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::sleep;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

/// Long enough for a session to go to sleep after [`SOON`].
const A_WHILE: Duration = Duration::from_millis(600);
const SOON: [&str; 2] = ["--hibernate-after", "100ms"];

fn start(core: Option<&[u8]>, arguments: &[&str]) -> (Server, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", directory.path().join("mail.db").display());
    let file = directory.path().join("core.wasm");
    std::fs::write(&file, core.unwrap_or(DEFAULT_CORE)).unwrap();
    let mut all = vec!["--database", &database, "--core", file.to_str().unwrap()];
    all.extend(arguments);
    (Server::start(Path::new(PROGRAM), &all, &[]), directory)
}

/// What a client says up to a point, and what it says from there to the end of its message.
const POINTS: [(&[&str], &str); 6] = [
    (&[], "EHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubject: one\r\n\r\n.\r\n"),
    (&["EHLO client.test\r\n"], "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubject: one\r\n\r\n.\r\n"),
    // In the middle of a command.
    (&["EHLO client.test\r\n", "MAIL FR"], "OM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubject: one\r\n\r\n.\r\n"),
    (
        &["EHLO client.test\r\n", "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"],
        "RCPT TO:<e@f.test>\r\nDATA\r\nSubject: one\r\n\r\n.\r\n",
    ),
    // In the middle of a header field, and of the end of data.
    (&["EHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubj"], "ect: one\r\n\r\n.\r\n"),
    (&["EHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubject: one\r\n\r\n."], "\r\n"),
];

/// Reads responses until a message is stored.
async fn read_until_stored(session: &mut Session) {
    loop {
        let response = session.read().await.unwrap();
        assert!(response.starts_with('2') || response.starts_with('3'), "{response}");
        if response.starts_with("250 2.0.0 Stored as ") {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_sleep_anywhere_and_lose_nothing() {
    // Far fewer cells than sessions: whoever is idle has none.
    let (server, directory) = start(None, &[&SOON[..], &["--cells", "3"]].concat());
    let mut sessions = Vec::new();
    for _ in 0..5 {
        for (said, rest) in POINTS {
            let mut session = Session::open(server.address).await.unwrap();
            for part in said {
                session.send(part.as_bytes()).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
            sessions.push((session, rest));
        }
    }
    sleep(A_WHILE).await;
    let count = sessions.len();
    for (session, rest) in &mut sessions {
        session.send(rest.as_bytes()).await.unwrap();
        read_until_stored(session).await;
    }
    let mail = rusqlite::Connection::open(directory.path().join("mail.db")).unwrap();
    let sql = "SELECT count(*), count(DISTINCT hex(headers)), min(subject), min(mail_from) FROM messages WHERE length(body) = 0";
    let found = mail.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    assert_eq!(found.unwrap(), (count as i64, 1_i64, "one".to_owned(), "a@b.test".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_needs_a_cell_gets_that_of_an_idle_session() {
    let (server, _directory) = start(None, &["--hibernate-after", "1h", "--cells", "1"]);
    let mut first = Session::open(server.address).await.unwrap();
    // The idle one gives its cell back when it looks up, long before its time.
    let mut second = Session::open(server.address).await.unwrap();
    second.say("NOOP", "250").await.unwrap();
    first.say("NOOP", "250").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_no_cell_is_told() {
    // A core that does not save its session keeps its cell.
    let (server, _directory) = start(Some(&cores::hostile()), &[&SOON[..], &["--cells", "1"]].concat());
    let mut keeps = Session::open(server.address).await.unwrap();
    keeps.say("EHLO client.test", "250").await.unwrap();
    keeps.say("XHARM save-lies", "250").await.unwrap();
    sleep(A_WHILE).await;
    let refused = Session::open(server.address).await.err().unwrap();
    assert!(refused.contains("421 4.3.2 mx.test Too many sessions"), "{refused}");
    keeps.say("QUIT", "221").await.unwrap();
    Session::open(server.address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_could_not_sleep_is_asked_again_by_another_core() {
    let (server, directory) = start(Some(&cores::hostile()), &[&SOON[..], &["--cells", "1"]].concat());
    let mut keeps = Session::open(server.address).await.unwrap();
    keeps.say("EHLO client.test", "250").await.unwrap();
    keeps.say("XHARM save-lies", "250").await.unwrap();
    sleep(A_WHILE).await;
    keeps.say("XHARM none", "250").await.unwrap();
    let file = directory.path().join("usual.wasm");
    std::fs::write(&file, DEFAULT_CORE).unwrap();
    let control = server.control();
    let swap = ["core", "swap", file.to_str().unwrap(), "--control", control.to_str().unwrap()];
    let swapped = tokio::task::block_in_place(|| run(command(Path::new(PROGRAM), &swap), b""));
    assert!(swapped.status.success(), "{}", swapped.stderr);
    // It moves as bytes, and is awake once more before it sleeps.
    sleep(A_WHILE).await;
    keeps.say("XHARM none", "500").await.unwrap();
    sleep(A_WHILE).await;
    Session::open(server.address).await.unwrap();
    keeps.say("NOOP", "250").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_session_is_woken_by_time_and_by_the_end() {
    let (mut server, _directory) = start(None, &[&SOON[..], &["--idle-timeout", "1500ms"]].concat());
    let mut idle = Session::open(server.address).await.unwrap();
    idle.say("EHLO client.test", "250").await.unwrap();
    idle.expect("421 4.4.2", "the idle timeout").await.unwrap();
    let mut asleep = Session::open(server.address).await.unwrap();
    asleep.say("EHLO client.test", "250").await.unwrap();
    sleep(A_WHILE).await;
    server.terminate();
    asleep.expect("421 4.3.2", "the end").await.unwrap();
    drop(asleep);
    assert!(tokio::task::block_in_place(|| server.wait()).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_does_harm_in_it_costs_its_session_only() {
    let (server, _directory) = start(Some(&cores::hostile()), &SOON);
    let mut good = Session::open(server.address).await.unwrap();
    good.say("EHLO client.test", "250").await.unwrap();
    // Trapped while it is saved.
    let mut lost = Vec::new();
    for harm in ["save", "trap-in-save"] {
        let mut session = Session::open(server.address).await.unwrap();
        session.say("EHLO client.test", "250").await.unwrap();
        session.say(&format!("XHARM {harm}"), "250").await.unwrap();
        lost.push((harm, session));
    }
    for (harm, session) in &mut lost {
        session.expect("421 4.3.0", harm).await.unwrap();
    }
    // What it gives is no session: it stays awake.
    for harm in ["save-lies", "save-asks", "save-long"] {
        let mut session = Session::open(server.address).await.unwrap();
        session.say("EHLO client.test", "250").await.unwrap();
        session.say(&format!("XHARM {harm}"), "250").await.unwrap();
        sleep(A_WHILE).await;
        session.say("NOOP", "250").await.unwrap_or_else(|error| panic!("{harm}: {error}"));
    }
    // It does not wake.
    for name in ["spin-in-restore.test", "lie-in-restore.test"] {
        let mut session = Session::open(server.address).await.unwrap();
        session.say(&format!("EHLO {name}"), "250").await.unwrap();
        sleep(A_WHILE).await;
        session.say("NOOP", "421 4.3.0").await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    good.say("NOOP", "250").await.unwrap();
}
