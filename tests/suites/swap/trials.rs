//! Trials: whom they take nothing from, and how they end.

use crate::{Setup, VARIANT, default_core};
use mailcell::admin::Swap;
use mailcell::admin::client::Client;
use mailcell::cell::{Engine, Fault, Generation};
use mailcell::config::{NamedCore, Settings};
use mailcell::server::{self, Server};
use mailcell::store::discard::Discard;
use mailcell::swap::{Mode, Options, Slots, State, Swapper};
use mailcell_tests::cores;
use mailcell_tests::load::Session;
use mailcell_tests::program::PATIENCE;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const HOUR: u64 = 3600;

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_looks_on_takes_no_cell_from_those_who_serve() {
    let setup = Setup::start(&["--cells", "64", "--connections", "1000", "--hibernate-after", "1h"]);
    let client = Client::new(&setup.server.control());
    let digest = client.check(VARIANT.clone(), None).await.unwrap().digest;
    let options = Options { shadow: Some(100), seconds: HOUR, ..Options::default() };
    client.swap(&Swap { digest, options }).await.unwrap();
    let sessions: Vec<_> = (0..64).map(|_| setup.server.connect()).collect();
    let counts = client.status().await.unwrap().generations[0].counts;
    assert_eq!(counts.sessions, sessions.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nothing_looks_on_at_any_more_leaves_the_place_to_another() {
    let settings =
        Settings { listen: vec!["127.0.0.1:0".parse().unwrap()], cells: 8, control: None, ..Settings::default() };
    let engine = server::engine(&settings).unwrap();
    let cores = [default_core(), &cores::rfc821()];
    let [usual, other] = cores.map(|bytes| Generation::from_bytes(&engine, bytes).unwrap());
    let server = Server::bind(settings, Arc::new(Discard), server::default_core(usual)).await.unwrap();
    let (address, slots, shared) = (server.addresses()[0], server.slots().clone(), server.shared().clone());
    let slot = slots.get("default").unwrap().slot();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.run(async { drop(stopped.await) }));

    assert_eq!(shared.trial_places, 1);
    slot.try_out(&other, State::Shadow, 100, &Arc::default());
    let seen = || slot.plan().trial().unwrap().sessions();
    let mut first = Session::open(address).await.unwrap();
    let _unseen = Session::open(address).await.unwrap();
    assert_eq!(seen(), 1);
    // One core reads a chunk, and the other one knows no such command.
    first.say("BDAT 4\r\nNOOP", "503").await.unwrap();
    let _second = Session::open(address).await.unwrap();
    assert_eq!(seen(), 2);
    drop((first, stop));
    server.await.unwrap();
}

/// A slot in which another core has followed the carried one, and may be followed by it.
fn slots(settings: &Settings) -> (Slots, Generation, Generation) {
    let engine = Engine::new(8).unwrap();
    // A section that says a version makes it another core.
    let other = [default_core(), b"\0\x0b\x07version1.0"].concat();
    let [usual, other] = [default_core(), &other].map(|bytes| Generation::from_bytes(&engine, bytes).unwrap());
    let slots = Slots::new(vec![("default".to_owned(), usual.clone())], settings);
    assert!(slots.get("default").unwrap().slot().promote(&other, &usual, Mode::Migrate));
    (slots, usual, other)
}

async fn swapper() -> (Arc<Swapper>, Generation, String) {
    let (slots, _, other) = slots(&Settings::default());
    let swapper = slots.get("default").unwrap().clone();
    let digest = swapper.check(default_core().to_vec(), None).await.unwrap().digest;
    (swapper, other, digest)
}

#[tokio::test]
async fn a_rollback_ends_the_trial_and_nothing_else() {
    let (swapper, serving, digest) = swapper().await;
    for (shadow, canary) in [(Some(10), None), (None, Some(10)), (Some(10), Some(10))] {
        let options = Options { shadow, canary, seconds: HOUR, ..Options::default() };
        swapper.swap(&digest, &options).unwrap();
        swapper.roll_back().unwrap();
        let (plan, status) = (swapper.slot().plan(), swapper.status());
        assert!(plan.current.is(&serving) && plan.trial().is_none(), "{status:#?}");
        assert!(!status.busy && status.swap.starts_with("rolled back: "), "{status:#?}");
    }
    // Its task, which has yet to run, leaves the next trial of the same core alone.
    let trial = |percent, seconds| Options { shadow: Some(percent), seconds, ..Options::default() };
    swapper.swap(&digest, &trial(10, 1)).unwrap();
    swapper.roll_back().unwrap();
    swapper.swap(&digest, &trial(20, HOUR)).unwrap();
    let refusal = swapper.swap(&digest, &trial(30, HOUR)).unwrap_err().to_string();
    assert!(refusal.starts_with("a swap is under way: "), "{refusal}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = swapper.status();
    assert!(status.busy && status.swap.contains("looks on at 20 %"), "{status:#?}");
    assert!(status.generations.iter().any(|generation| generation.state == State::Shadow), "{status:#?}");
}

/// Ten thousand sessions move within milliseconds, and a few of them may be lost later.
#[tokio::test]
async fn a_core_is_judged_by_all_sessions_that_moved_to_it() {
    for (moved, is_withdrawn) in [(1_000, false), (0, true)] {
        let (swapper, _, digest) = swapper().await;
        swapper.swap(&digest, &Options::default()).unwrap();
        // Before its watch has begun.
        let core = swapper.slot().plan().current;
        (0..moved).for_each(|_| core.stats().moved_in());
        tokio::time::sleep(Duration::from_millis(100)).await;
        (0..3).for_each(|_| core.stats().lost(&Fault::Trap(String::new())));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(!swapper.slot().plan().current.is(&core), is_withdrawn, "{:#?}", swapper.status());
    }
}

/// A file may be replaced between its first reading, which takes as long as compiling it, and the first look at it.
#[tokio::test]
async fn a_file_that_changed_while_the_server_started_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("core.wasm");
    let core = vec![NamedCore { slot: "default".to_owned(), file: file.clone() }];
    let (slots, usual, _) = slots(&Settings { core, ..Settings::default() });
    std::fs::write(&file, default_core()).unwrap();
    let swapper = slots.get("default").unwrap();
    let running = tokio::spawn(swapper.clone().run(true));
    let deadline = Instant::now() + PATIENCE;
    while !swapper.slot().plan().current.is(&usual) {
        assert!(Instant::now() < deadline, "{:#?}", swapper.status());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.abort();
}
