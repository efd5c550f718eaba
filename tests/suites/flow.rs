//! A core is replaced again and again while a thousand sessions are in every state of the table and mail flows.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use mailcell::admin::Swap;
use mailcell::admin::client::Client;
use mailcell::cell::DEFAULT_CORE;
use mailcell::store::{self, Options};
use mailcell_tests::cores;
use mailcell_tests::load::{Load, Session, message, on_the_wire};
use mailcell_tests::mariadb::MariaDb;
use mailcell_tests::program::{PATIENCE, Server};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

/// Sessions that send one message after the other.
const SENDERS: usize = 400;

/// Sessions in each of [`STATES`].
const EACH: usize = 75;

/// Where a session waits while cores are replaced.
const STATES: [State; 8] = [
    State::Start,
    State::Helo,
    State::Ehlo,
    State::Sender,
    State::Recipients,
    State::Data,
    State::HalfLine,
    State::LongLine,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Helo,
    Ehlo,
    Sender,
    Recipients,
    /// In the middle of a line of message data.
    Data,
    /// In the middle of a command.
    HalfLine,
    /// In the middle of a command that is too long already.
    LongLine,
}

/// A session that waits in a state, and is looked at behind each swap.
struct Waiting {
    state: State,
    number: usize,
    session: Session,
    /// Octets of the message that were sent.
    sent: usize,
}

impl Waiting {
    async fn open(server: &Server, state: State, number: usize) -> Result<Waiting, String> {
        let mut session = Session::open(server.address).await?;
        let lines: &[&str] = match state {
            State::Start => &[],
            State::Helo => &["HELO client.test"],
            State::Ehlo | State::HalfLine | State::LongLine => &["EHLO client.test"],
            State::Sender => &["EHLO client.test", "MAIL FROM:<ann@client.test>"],
            State::Recipients | State::Data => {
                &["EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<bob@mx.test>"]
            }
        };
        for line in lines {
            session.say(line, "250").await?;
        }
        let mut waiting = Waiting { state, number, session, sent: 0 };
        match state {
            State::Data => {
                waiting.session.say("DATA", "354").await?;
            }
            State::HalfLine => waiting.send(b"NO").await?,
            State::LongLine => waiting.send(&[b'x'; 3000]).await?,
            _ => {}
        }
        Ok(waiting)
    }

    async fn send(&mut self, octets: &[u8]) -> Result<(), String> {
        self.session.send(octets).await.map_err(|error| format!("{:?}: {error}", self.state))
    }

    fn wire(&self) -> Vec<u8> {
        on_the_wire(&message(self.number, self.number))
    }

    /// Does something that leaves the state as it is, and sees which core answers where that shows.
    async fn look(&mut self, round: usize, is_variant: bool) -> Result<(), String> {
        match self.state {
            State::Data => {
                // A piece of the message each time; the end is not sent before the last round.
                let wire = self.wire();
                let until = (wire.len() - 5).min(self.sent + 1 + round % 11);
                self.send(&wire[self.sent..until]).await?;
                self.sent = until;
            }
            State::HalfLine => {
                self.send(b"OP\r\n").await?;
                self.session.expect("250 2.0.0 Ok", "NOOP").await?;
                self.send(b"NO").await?;
            }
            State::LongLine => {
                self.send(b"y\r\n").await?;
                self.session.expect("500", "a long line").await?;
                self.send(&[b'x'; 3000]).await?;
            }
            _ => {
                let help = self.session.say("HELP", "214").await?;
                if help.contains("a variant") != is_variant {
                    return Err(format!("{:?}: another core answers: {help:?}", self.state));
                }
            }
        }
        if matches!(self.state, State::Data) || self.session.has_nothing_left() {
            Ok(())
        } else {
            Err("a response too many".to_owned())
        }
    }

    /// Goes on to a stored message, which shows that nothing of the session was lost; gives its id and octets.
    async fn finish(mut self) -> Result<(String, Vec<u8>), String> {
        match self.state {
            State::HalfLine => {
                self.send(b"OP\r\n").await?;
                self.session.expect("250", "NOOP").await?;
            }
            State::LongLine => {
                self.send(b"\r\n").await?;
                self.session.expect("500", "a long line").await?;
            }
            State::Sender | State::Recipients => {
                self.session.say("MAIL FROM:<ann@client.test>", "503").await?;
            }
            State::Helo | State::Ehlo | State::Start => {
                self.session.say("RCPT TO:<bob@mx.test>", "503").await?;
            }
            State::Data => {}
        }
        let rest: &[&str] = match self.state {
            State::Start => &["EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<bob@mx.test>"],
            State::Helo | State::Ehlo | State::HalfLine | State::LongLine => {
                &["MAIL FROM:<ann@client.test>", "RCPT TO:<bob@mx.test>"]
            }
            State::Sender => &["RCPT TO:<bob@mx.test>"],
            State::Recipients | State::Data => &[],
        };
        for line in rest {
            self.session.say(line, "250").await?;
        }
        if self.state != State::Data {
            self.session.say("DATA", "354").await?;
        }
        let wire = self.wire();
        self.send(&wire[self.sent..]).await?;
        let stored = if self.state == State::Helo { "250 Stored as " } else { "250 2.0.0 Stored as " };
        let response = self.session.expect(stored, "the end of data").await?;
        self.session.say("QUIT", "221").await?;
        Ok((response.trim_end().rsplit(' ').next().unwrap().to_owned(), message(self.number, self.number)))
    }
}

async fn open_all(server: &Server) -> Vec<Waiting> {
    let mut all = Vec::new();
    for number in 0..EACH * STATES.len() {
        let opened = Waiting::open(server, STATES[number % STATES.len()], 10_000 + number).await;
        all.push(opened.unwrap_or_else(|error| panic!("{error}")));
    }
    all
}

async fn look_at_all(waiting: Vec<Waiting>, round: usize, is_variant: bool) -> Vec<Waiting> {
    let looks: Vec<_> = waiting
        .into_iter()
        .map(|mut one| {
            tokio::spawn(async move {
                let state = one.state;
                one.look(round, is_variant).await.unwrap_or_else(|error| panic!("round {round}, {state:?}: {error}"));
                one
            })
        })
        .collect();
    let mut all = Vec::new();
    for look in looks {
        all.push(look.await.unwrap());
    }
    all
}

/// Has a core serve, and waits until every session is in it.
async fn swap(client: &Client, core: &[u8]) {
    let report = client.check(core.to_vec(), None).await.unwrap();
    assert!(report.differences.is_empty() && report.violations.is_empty(), "{report:#?}");
    client.swap(&Swap { digest: report.digest.clone(), options: Default::default() }).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.status().await.unwrap();
        if status.generations.iter().all(|g| g.digest == report.digest || g.counts.sessions == 0) {
            assert_eq!(status.moves.returned, 0);
            return;
        }
        assert!(Instant::now() < deadline, "sessions do not move: {status:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Has every session end well, and gives the messages that were accepted.
async fn finish_all(load: Load, waiting: Vec<Waiting>) -> BTreeMap<String, Vec<u8>> {
    let outcome = load.stop().await;
    assert!(outcome.errors.is_empty(), "{}: {:?}", outcome.errors.len(), outcome.errors.first());
    let mut accepted = outcome.accepted;
    for one in waiting {
        let state = one.state;
        let (id, octets) = one.finish().await.unwrap_or_else(|error| panic!("{state:?}: {error}"));
        assert!(accepted.insert(id, octets).is_none(), "an id was given twice");
    }
    accepted
}

/// What is in the database is what was accepted: each message once and octet for octet.
async fn assert_stored(url: &str, options: &Options, accepted: &BTreeMap<String, Vec<u8>>) {
    let store = store::open(url, options).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let stored = loop {
        let stored = store.list_messages(&Default::default()).await.unwrap();
        // What a 421 answered is taken back when the database answers again.
        if stored.len() == accepted.len() || Instant::now() > deadline {
            break stored;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(stored.len(), accepted.len());
    for summary in stored {
        let message = store.message(summary.id).await.unwrap().unwrap();
        let octets = [message.headers, message.body].concat();
        assert_eq!(accepted.get(&summary.id.to_string()), Some(&octets), "{}", summary.id);
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_swaps_and_no_session_notices() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("mail.db").display());
    let server = Server::start(Path::new(PROGRAM), &["--database", &url, "--errors", "1000"], &[]);
    let client = Client::new(&server.control());
    let variant = cores::variant();
    let mut waiting = open_all(&server).await;
    let load = Load::start(server.address, SENDERS, false);
    load.flow(SENDERS as u64).await;
    for round in 0..50 {
        let is_variant = round % 2 == 0;
        swap(&client, if is_variant { &variant } else { DEFAULT_CORE }).await;
        waiting = look_at_all(waiting, round, is_variant).await;
        load.flow(50).await;
    }
    let accepted = finish_all(load, waiting).await;
    let status = client.status().await.unwrap();
    let lost: u64 = status.generations.iter().map(|g| g.counts.traps + g.counts.refusals + g.counts.stayed).sum();
    assert_eq!(lost, 0, "{status:#?}");
    assert_stored(&url, &Options::default(), &accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_while_the_database_is_restarted() {
    let mut mariadb = MariaDb::launch().unwrap();
    let url = mariadb.database("mail").unwrap();
    let (password, rest) = url.strip_prefix("mysql://root:").unwrap().split_once('@').unwrap();
    let database = format!("mysql://root@{rest}");
    let arguments = ["--database", &database, "--database-deadline", "5s", "--errors", "1000"];
    let server = Server::start(Path::new(PROGRAM), &arguments, &[("MAILCELL_DATABASE_PASSWORD", password)]);
    let client = Client::new(&server.control());
    let variant = cores::variant();
    let mut waiting = open_all(&server).await;
    let load = Load::start(server.address, SENDERS, true);
    load.flow(SENDERS as u64).await;
    for round in 0..10 {
        match round {
            3 => tokio::task::block_in_place(|| mariadb.stop().unwrap()),
            6 => {
                load.meet_an_outage().await;
                tokio::task::block_in_place(|| mariadb.start().unwrap());
            }
            _ => {}
        }
        let is_variant = round % 2 == 0;
        swap(&client, if is_variant { &variant } else { DEFAULT_CORE }).await;
        waiting = look_at_all(waiting, round, is_variant).await;
    }
    load.flow(SENDERS as u64).await;
    let accepted = finish_all(load, waiting).await;
    let options = Options { password: Some(password.to_owned()), ..Options::default() };
    assert_stored(&database, &options, &accepted).await;
}

/// Fewer than descriptors allow a process here, and more than fit under the default limit of memory mappings twice.
const IDLE: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_sessions_move_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("mail.db").display());
    let server = Server::start(Path::new(PROGRAM), &["--database", &url, "--connections", "12000"], &[]);
    let client = Client::new(&server.control());
    let variant = cores::variant();
    let mut idle = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        idle.push(Session::open(server.address).await.unwrap());
    }
    for core in [&variant[..], DEFAULT_CORE, &variant] {
        // None of them says anything meanwhile.
        swap(&client, core).await;
        assert_eq!(client.status().await.unwrap().moves.sessions, IDLE as u64);
    }
    for session in &mut idle {
        assert!(session.say("HELP", "214").await.unwrap().contains("a variant"));
    }
}
