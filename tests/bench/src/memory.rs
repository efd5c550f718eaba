//! What sessions take: awake, and hibernating. Resident memory of the whole process, shared pages counted once, less what it had
//! before the sessions came.

use crate::table::{Goal, Row};
use crate::tools::{Served, Tools, run};
use mailcell_tests::load::Session;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

/// Sessions that are opened at a time.
const AT_ONCE: usize = 100;

/// Sessions that are woken, one after the other.
const WOKEN: usize = 2_000;

pub(crate) fn live(tools: &Tools) -> Result<Vec<Row>, String> {
    let mailcell = tools.mailcell(&["--database", "discard:", "--hibernate-after", "1h"])?;
    run(async {
        let before = mailcell.resident_octets()?;
        let sessions = open(&mailcell, 10_000).await?;
        Ok(vec![kib("live sessions", sessions.len(), mailcell.resident_octets()? - before, 48.0)])
    })
}

pub(crate) fn idle(tools: &Tools) -> Result<Vec<Row>, String> {
    let mailcell = tools.mailcell(&["--database", "discard:", "--connections", "19400"])?;
    run(async {
        let before = mailcell.resident_octets()?;
        let mut sessions = open(&mailcell, 19_000).await?;
        sleep(Duration::from_secs(4)).await;
        let row = kib("idle sessions over TCP", sessions.len(), mailcell.resident_octets()? - before, 8.0);
        let mut times = Vec::new();
        let step = sessions.len() / WOKEN;
        for session in sessions.iter_mut().step_by(step) {
            let start = Instant::now();
            session.say("NOOP", "250").await?;
            times.push(start.elapsed());
        }
        times.sort();
        let p99 = times[times.len() * 99 / 100].as_secs_f64() * 1e3;
        let waking = Row {
            what: "their first answer after waking, p99".to_owned(),
            figure: format!("{p99:.2} ms"),
            against: "2 ms".to_owned(),
            ratio: p99 / 2.0,
            goal: Goal::AtMost(1.0),
        };
        Ok(vec![row, waking])
    })
}

/// In a process of its own: both ends of all connections, in the same server code.
pub(crate) fn in_memory(_: &Tools) -> Result<Vec<Row>, String> {
    const SESSIONS: usize = 100_000;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    run(async {
        let output = Command::new(program).args(["hold", &SESSIONS.to_string()]).kill_on_drop(true).output();
        let output = output.await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let octets = text.trim().parse::<f64>().map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(vec![kib("idle sessions in memory, both ends", SESSIONS, octets, 8.0)])
    })
}

fn kib(what: &str, sessions: usize, octets: f64, goal: f64) -> Row {
    let each = octets / sessions as f64 / 1024.0;
    Row {
        what: format!("{sessions} {what}, memory each"),
        figure: format!("{each:.1} KiB"),
        against: format!("{goal} KiB"),
        ratio: each / goal,
        goal: Goal::AtMost(1.0),
    }
}

async fn open(mailcell: &Served, count: usize) -> Result<Vec<Session>, String> {
    let mut sessions = Vec::new();
    while sessions.len() < count {
        let opening: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(greeted(mailcell.address))).collect();
        for session in opening {
            sessions.push(session.await.map_err(|error| error.to_string())??);
        }
    }
    Ok(sessions)
}

async fn greeted(address: std::net::SocketAddr) -> Result<Session, String> {
    let mut session = Session::open(address).await?;
    session.say("EHLO client.test", "250").await?;
    Ok(session)
}
