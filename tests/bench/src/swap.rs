//! How long it takes until all sessions are in another core, and what a session sees of it.

use crate::table::{Goal, Row, median};
use crate::tools::{Load, Served, Tools, run_on_threads};
use mailcell::admin::Swap;
use mailcell::admin::client::Client;
use mailcell::cell::DEFAULT_CORE;
use mailcell::swap::Moves;
use mailcell_tests::cores;
use mailcell_tests::load::Session;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Sessions that say something all the time, and how long each waits between two commands.
const ACTIVE: usize = 200;
const PAUSE: Duration = Duration::from_millis(20);

/// How long a swap may take.
const SWAP_TIME_MAX: Duration = Duration::from_secs(60);

/// Swaps in one measurement.
const SWAPS: usize = 10;

pub(crate) fn measure(tools: &Tools) -> Result<Vec<Row>, String> {
    let variant = cores::variant();
    run_on_threads(async {
        let mut rows = moves(tools, &variant, 10_000).await?;
        rows.push(throughput(tools, &variant).await?);
        Ok(rows)
    })
}

/// Brings a core into the server and waits until all sessions are in it.
async fn swap(client: &Client, core: &[u8], sessions: usize) -> Result<Moves, String> {
    let fail = |error| format!("{error:#}");
    let report = client.check(core.to_vec(), None).await.map_err(fail)?;
    client.swap(&Swap { digest: report.digest, options: Default::default() }).await.map_err(fail)?;
    let start = Instant::now();
    loop {
        let moves = client.status().await.map_err(fail)?.moves;
        if moves.sessions as usize >= sessions {
            return Ok(moves);
        }
        if start.elapsed() > SWAP_TIME_MAX {
            return Err(format!("{} of {sessions} sessions have moved", moves.sessions));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn open(tools: &Tools, count: usize) -> Result<(Served, Vec<Session>), String> {
    let arguments = ["--database", "discard:", "--connections", "12000", "--cells", "12000", "--hibernate-after", "1h"];
    let server = tools.mailcell(&arguments)?;
    let mut idle = Vec::new();
    for _ in 0..count {
        let mut session = Session::open(server.address).await?;
        session.say("EHLO client.test", "250").await?;
        idle.push(session);
    }
    Ok((server, idle))
}

async fn moves(tools: &Tools, variant: &[u8], sessions: usize) -> Result<Vec<Row>, String> {
    let (server, _idle) = open(tools, sessions - ACTIVE).await?;
    let client = Client::new(&server.control());
    let swapping = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let mut active = Vec::new();
    for _ in 0..ACTIVE {
        let session = Session::open(server.address).await?;
        active.push(tokio::spawn(say_noop(session, swapping.clone(), stop.clone())));
    }
    sleep(Duration::from_secs(2)).await;
    let mut totals = Vec::new();
    for at in 0..SWAPS {
        swapping.store(true, Relaxed);
        let moves = swap(&client, if at % 2 == 0 { variant } else { DEFAULT_CORE }, sessions).await?;
        swapping.store(false, Relaxed);
        totals.push(moves.micros as f64 / 1e6);
        sleep(Duration::from_millis(500)).await;
    }
    stop.store(true, Relaxed);
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    for task in active {
        let (at_rest, meanwhile) = task.await.map_err(|error| error.to_string())??;
        quiet.extend(at_rest);
        busy.extend(meanwhile);
    }
    eprintln!("a NOOP while sessions are checked and moved: {}; else {}", percentiles(busy), percentiles(quiet));
    let seconds = median(totals);
    Ok(vec![Row {
        what: format!("{sessions} live sessions move to another core"),
        figure: format!("{:.0} ms", seconds * 1e3),
        against: "1 s".to_owned(),
        ratio: seconds,
        goal: Goal::AtMost(1.0),
    }])
}

/// Messages a second before a swap, and while all of the idle sessions move.
async fn throughput(tools: &Tools, variant: &[u8]) -> Result<Row, String> {
    const IDLE: usize = 9_900;
    let (server, _idle) = open(tools, IDLE).await?;
    let client = Client::new(&server.control());
    let load = Load { sessions: 100, octets: 4096, messages: 20_000 };
    tools.rate(server.address, load)?;
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for at in 0..5 {
        let core = if at % 2 == 0 { variant } else { DEFAULT_CORE };
        // A core is checked before anything moves, and known from then on.
        client.check(core.to_vec(), None).await.map_err(|error| format!("{error:#}"))?;
        before.push(tools.rate(server.address, load)?);
        let rate = std::thread::scope(|scope| {
            let rate = scope.spawn(|| tools.rate(server.address, load));
            let swapped = tokio::task::block_in_place(|| {
                std::thread::sleep(Duration::from_millis(300));
                tokio::runtime::Handle::current().block_on(swap(&client, core, IDLE))
            });
            let rate = rate.join().map_err(|_| "the generator is lost".to_owned())?;
            swapped.and(rate)
        });
        during.push(rate?);
    }
    let ratio = median(during.iter().zip(&before).map(|(during, before)| during / before).collect());
    Ok(Row {
        what: "messages while 10,000 live sessions move".to_owned(),
        figure: format!("{:.0}/s", median(during)),
        against: format!("before, {:.0}/s", median(before)),
        ratio,
        goal: Goal::AtLeast(0.9),
    })
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
