//! A session that is to move, or to go back, where there is no room for a second cell.

use crate::{VARIANT, default_core};
use mailcell::cell::{Cell, Engine, Facts, Generation};
use mailcell::config::Settings;
use mailcell::server::{self, Server};
use mailcell::shared::Shared;
use mailcell::store::{self, Options};
use mailcell::swap::{Mode, Slots};
use mailcell_tests::cores;
use mailcell_tests::load::Session;
use mailcell_tests::program::PATIENCE;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Running {
    address: SocketAddr,
    slots: Arc<Slots>,
    shared: Arc<Shared>,
    usual: Generation,
    other: Generation,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    _directory: TempDir,
}

impl Running {
    /// A server that the carried core serves, and another core, with room for so many cells in all.
    async fn start(cells: u32, other: &[u8]) -> Running {
        let engine = Engine::new(cells).unwrap();
        let [usual, other] = [default_core(), other].map(|bytes| Generation::from_bytes(&engine, bytes).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let database = format!("sqlite:{}", directory.path().join("mail.db").display());
        let store = store::open(&database, &Options::default()).await.unwrap();
        let settings =
            Settings { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 1, control: None, ..Settings::default() };
        let server = Server::bind(settings, store, server::default_core(usual.clone())).await.unwrap();
        let (address, slots, shared) = (server.addresses()[0], server.slots().clone(), server.shared().clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(server.run(async { drop(stopped.await) }));
        Running { address, slots, shared, usual, other, stop, server, _directory: directory }
    }

    fn promote(&self) {
        assert!(self.slots.get("default").unwrap().slot().promote(&self.other, &self.usual, Mode::Migrate));
    }

    /// Waits until a session is in the other core.
    async fn wait_for_move(&self) {
        let deadline = Instant::now() + PATIENCE;
        while sessions(&self.other) == 0 {
            assert!(Instant::now() < deadline, "it does not move");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        drop(self.stop);
        self.server.await.unwrap();
    }
}

fn sessions(generation: &Generation) -> u64 {
    generation.stats().counts().sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_back_though_there_is_no_room_for_a_second_cell() {
    let running = Running::start(1, &cores::hostile()).await;
    let mut session = Session::open(running.address).await.unwrap();
    session.say("EHLO trap-after-move.test", "250").await.unwrap();
    running.promote();
    running.wait_for_move().await;
    session.say("NOOP", "250").await.unwrap();
    assert_eq!((sessions(&running.usual), sessions(&running.other)), (1, 0));
    drop(session);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_room_to_move_goes_on_and_moves_when_there_is_some() {
    let running = Running::start(2, &VARIANT).await;
    let (address, usual, variant) = (running.address, &running.usual, &running.other);

    // Its message waits for memory, and so the session for the reply to a request.
    let memory = running.shared.store_memory.reserve(u64::MAX).await;
    let mut waiting = Session::open(address).await.unwrap();
    for (line, code) in [("EHLO c.test", "250"), ("MAIL FROM:<a@c.test>", "250"), ("RCPT TO:<b@d.test>", "250")] {
        waiting.say(line, code).await.unwrap();
    }
    waiting.say("DATA", "354").await.unwrap();
    waiting.send(b"Subject: one\r\n\r\n.\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let other = Cell::open(usual, &Facts { config: [].as_slice().into(), address: String::new() }).unwrap();
    running.promote();
    // The thread that serves it has time for others meanwhile.
    let refused = Session::open(address).await.err().unwrap();
    assert!(refused.contains("421 4.3.2"), "{refused}");
    assert_eq!((sessions(usual), sessions(variant)), (1, 0));
    drop(other);
    running.wait_for_move().await;
    drop(memory);
    waiting.expect("250 2.0.0 Stored", "the end of data").await.unwrap();
    assert!(waiting.say("HELP", "214").await.unwrap().contains("a variant"));
    drop(waiting);
    running.stop().await;
}
