//! A session that is to move where there is no room for a second cell.

use crate::{VARIANT, default_core};
use mailcell::cell::{Cell, Engine, Facts, Generation};
use mailcell::config::Settings;
use mailcell::server::{self, Server};
use mailcell::store::{self, Options};
use mailcell::swap::Mode;
use mailcell_tests::load::Session;
use mailcell_tests::program::PATIENCE;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_room_to_move_goes_on_and_moves_when_there_is_some() {
    let engine = Engine::new(2).unwrap();
    let [usual, variant] = [default_core(), &VARIANT].map(|bytes| Generation::from_bytes(&engine, bytes).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", directory.path().join("mail.db").display());
    let store = store::open(&database, &Options::default()).await.unwrap();
    let settings =
        Settings { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 1, control: None, ..Settings::default() };
    let server = Server::bind(settings, store, server::default_core(usual.clone())).await.unwrap();
    let (address, slots, shared) = (server.addresses()[0], server.slots().clone(), server.shared().clone());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.run(async { drop(stopped.await) }));

    // Its message waits for memory, and so the session for the reply to a request.
    let memory = shared.store_memory.reserve(u64::MAX).await;
    let mut waiting = Session::open(address).await.unwrap();
    for (line, code) in [("EHLO c.test", "250"), ("MAIL FROM:<a@c.test>", "250"), ("RCPT TO:<b@d.test>", "250")] {
        waiting.say(line, code).await.unwrap();
    }
    waiting.say("DATA", "354").await.unwrap();
    waiting.send(b"Subject: one\r\n\r\n.\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let other = Cell::open(&usual, &Facts { config: [].as_slice().into(), address: String::new() }).unwrap();
    assert!(slots.get("default").unwrap().slot().promote(&variant, &usual, Mode::Migrate));
    // The thread that serves it has time for others meanwhile.
    let refused = Session::open(address).await.err().unwrap();
    assert!(refused.contains("421 4.3.2"), "{refused}");
    let sessions = |generation: &Generation| generation.stats().counts().sessions;
    assert_eq!((sessions(&usual), sessions(&variant)), (1, 0));
    drop(other);
    let deadline = Instant::now() + PATIENCE;
    while sessions(&variant) == 0 {
        assert!(Instant::now() < deadline, "it does not move");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(memory);
    waiting.expect("250 2.0.0 Stored", "the end of data").await.unwrap();
    assert!(waiting.say("HELP", "214").await.unwrap().contains("a variant"));
    drop((waiting, stop));
    server.await.unwrap();
}
