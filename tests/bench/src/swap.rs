//! How long it takes until all sessions are in another core, and what a session sees of it.

use crate::Programs;
use mailcell::admin::Swap;
use mailcell::admin::client::Client;
use mailcell::cell::DEFAULT_CORE;
use mailcell_tests::cores;
use mailcell_tests::load::Session;
use mailcell_tests::program::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::sleep;

/// Sessions that say something all the time, and how long each waits between two commands.
const ACTIVE: usize = 200;
const PAUSE: Duration = Duration::from_millis(20);

/// Swaps in one measurement.
const SWAPS: usize = 10;

pub(crate) fn run(programs: &Programs) -> Result<Vec<String>, String> {
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    let variant = cores::variant();
    [1_000, 10_000].into_iter().map(|sessions| runtime.block_on(measure(programs, &variant, sessions))).collect()
}

async fn measure(programs: &Programs, variant: &[u8], sessions: usize) -> Result<String, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let database = format!("sqlite:{}", directory.path().join("mail.db").display());
    let arguments = ["--database", &database, "--connections", "12000"];
    let server = Server::start(&programs.mailcell, &arguments, &[]);
    let client = Client::new(&server.control());
    let mut idle = Vec::new();
    for _ in ACTIVE..sessions {
        let mut session = Session::open(server.address).await?;
        session.say("EHLO client.test", "250").await?;
        idle.push(session);
    }
    let swapping = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let mut active = Vec::new();
    for _ in 0..ACTIVE {
        let session = Session::open(server.address).await?;
        active.push(tokio::spawn(say_noop(session, swapping.clone(), stop.clone())));
    }
    sleep(Duration::from_secs(2)).await;
    let mut moves = Vec::new();
    for swap in 0..SWAPS {
        let core = if swap % 2 == 0 { variant } else { DEFAULT_CORE };
        let fail = |error| format!("{error:#}");
        let report = client.check(core.to_vec(), None).await.map_err(fail)?;
        swapping.store(true, Relaxed);
        client.swap(&Swap { digest: report.digest, options: Default::default() }).await.map_err(fail)?;
        let moved = loop {
            let moves = client.status().await.map_err(fail)?.moves;
            if moves.sessions as usize >= sessions {
                break moves;
            }
            sleep(Duration::from_millis(20)).await;
        };
        swapping.store(false, Relaxed);
        moves.push(moved);
        sleep(Duration::from_millis(500)).await;
    }
    stop.store(true, Relaxed);
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    for task in active {
        let (at_rest, meanwhile) = task.await.map_err(|error| error.to_string())??;
        quiet.extend(at_rest);
        busy.extend(meanwhile);
    }
    let mut totals: Vec<_> = moves.iter().map(|moves| moves.micros as f64 / 1e3).collect();
    totals.sort_by(f64::total_cmp);
    let longest = moves.iter().map(|moves| moves.longest_micros).max().unwrap_or_default();
    let octets = moves.iter().map(|moves| moves.octets_max).max().unwrap_or_default();
    Ok(format!(
        "{sessions} sessions moved in {:.0} ms (median of {SWAPS}, at most {:.0}), one in at most {longest} µs, {octets} octets each; \
         a NOOP meanwhile {}, else {}",
        totals[SWAPS / 2],
        totals[SWAPS - 1],
        percentiles(busy),
        percentiles(quiet),
    ))
}

type Times = (Vec<Duration>, Vec<Duration>);

/// Times each command, apart whether sessions moved when it began or ended.
async fn say_noop(mut session: Session, swapping: Arc<AtomicBool>, stop: Arc<AtomicBool>) -> Result<Times, String> {
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    while !stop.load(Relaxed) {
        let (before, start) = (swapping.load(Relaxed), Instant::now());
        session.say("NOOP", "250").await?;
        let times = if before || swapping.load(Relaxed) { &mut busy } else { &mut quiet };
        times.push(start.elapsed());
        sleep(PAUSE).await;
    }
    Ok((quiet, busy))
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
    format!("{:.2?} p50, {:.2?} p99, {:.2?} max of {}", at(50), at(99), at(100), times.len())
}
