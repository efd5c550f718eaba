//! Messages a second, with connections that are used again: the server against what throws mail away, in turn.

use crate::table::{Goal, Row, median};
use crate::tools::{Load, Tools};
use mailcell_tests::mariadb::MariaDb;
use mailcell_tests::postfix::Postfix;
use std::net::SocketAddr;

/// Runs of each of the two that are compared.
const ROUNDS: usize = 5;

const LOAD: Load = Load { sessions: 20, octets: 4096, messages: 20_000 };

/// What MariaDB gets beside the tests' settings: memory as a server has it, and durability spelled out.
const MARIADB: [&str; 4] = [
    "--innodb-flush-log-at-trx-commit=1",
    "--sync-binlog=1",
    "--innodb-buffer-pool-size=1G",
    "--innodb-log-file-size=512M",
];

pub(crate) fn discard(tools: &Tools) -> Result<Vec<Row>, String> {
    against_sink(tools, "messages, 20 connections, nothing kept", "discard:", 0.9).map(|row| vec![row])
}

pub(crate) fn sqlite(tools: &Tools) -> Result<Vec<Row>, String> {
    against_sink(tools, "messages, 20 connections, into SQLite", "sqlite:mail.db", 0.7).map(|row| vec![row])
}

pub(crate) fn mariadb(tools: &Tools) -> Result<Vec<Row>, String> {
    let (_server, database) = start_mariadb()?;
    let against_sink = against_sink(tools, "messages, 20 connections, into MariaDB", &database, 0.5)?;
    let (postfix, mailcell) = (throwing_away(tools)?, tools.mailcell(&["--database", &database])?);
    let few = Load { messages: 2_000, ..LOAD };
    let rounds = in_turn(tools, (mailcell.address, LOAD), (postfix.address, few))?;
    Ok(vec![against_sink, row("the same", "Postfix's queue", &rounds, Goal::AtLeast(5.0))])
}

/// MariaDB, and a database in it.
fn start_mariadb() -> Result<(MariaDb, String), String> {
    let server = MariaDb::launch_with(&MARIADB).map_err(|error| error.to_string())?;
    server.sql(&write_the_log_once()).map_err(|error| error.to_string())?;
    let database = server.database("mail").map_err(|error| error.to_string())?;
    Ok((server, database))
}

/// Writes as much as the log of [`MARIADB`] holds. The first time round, each flush has the file system note which blocks are written, and a
/// seventh fewer messages are stored; it happens once in a server's life.
fn write_the_log_once() -> String {
    let row = "INSERT INTO filling.octets VALUES (REPEAT('x', 8 << 20));";
    let rows = row.repeat(512 / 8);
    format!("CREATE DATABASE filling; CREATE TABLE filling.octets (octets LONGBLOB); {rows} DROP DATABASE filling;")
}

/// Postfix that throws mail away behind its queue.
fn throwing_away(tools: &Tools) -> Result<Postfix, String> {
    Postfix::start(&tools.postfix, "default_transport = discard:\n", "discard unix - - n - - discard\n")
}

/// What the sandbox costs: where there is little beside it, and where messages are kept.
pub(crate) fn native(tools: &Tools) -> Result<Vec<Row>, String> {
    let (_server, mariadb) = start_mariadb()?;
    let stores = [("nothing kept", "discard:"), ("into SQLite", "sqlite:mail.db"), ("into MariaDB", &mariadb)];
    let compare = |(store, database)| {
        let (component, native) = (tools.within("component", database)?, tools.within("native", database)?);
        let load = Load { messages: 30_000, ..LOAD };
        let rounds = in_turn(tools, (component.address, load), (native.address, load))?;
        Ok(row(&format!("through the component, {store}"), "the native core", &rounds, Goal::AtLeast(0.95)))
    };
    stores.into_iter().map(compare).collect()
}

/// Against itself; the generator has a thousand connections too, so what throws mail away goes the same way. There are so many messages
/// that opening the connections, which a row of its own measures, hardly counts.
pub(crate) fn thousand(tools: &Tools) -> Result<Vec<Row>, String> {
    let few = Load { messages: 120_000, ..LOAD };
    let many = Load { sessions: 1_000, ..few };
    let (sink, mailcell) = (tools.sink()?, tools.mailcell(&["--database", "discard:"])?);
    let rounds = in_turn(tools, (mailcell.address, many), (mailcell.address, few))?;
    let of_sink = in_turn(tools, (sink.address, many), (sink.address, few))?;
    let of_sink = median(of_sink.iter().map(|(many, few)| many / few).collect());
    let against = format!("20 connections (smtp-sink: {of_sink:.2})");
    Ok(vec![row("messages, 1,000 connections", &against, &rounds, Goal::AtLeast(0.9))])
}

fn against_sink(tools: &Tools, what: &str, database: &str, goal: f64) -> Result<Row, String> {
    let (sink, mailcell) = (tools.sink()?, tools.mailcell(&["--database", database])?);
    let rounds = in_turn(tools, (mailcell.address, LOAD), (sink.address, LOAD))?;
    Ok(row(what, "smtp-sink", &rounds, Goal::AtLeast(goal)))
}

/// The rates of both in each round. What comes first changes from round to round; a round before the first is not counted.
fn in_turn(tools: &Tools, one: (SocketAddr, Load), other: (SocketAddr, Load)) -> Result<Vec<(f64, f64)>, String> {
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let rate = |(address, load)| tools.rate(address, load);
        let rates = match round % 2 {
            0 => {
                let first = rate(one)?;
                (first, rate(other)?)
            }
            _ => {
                let first = rate(other)?;
                (rate(one)?, first)
            }
        };
        rounds.push(rates);
    }
    rounds.remove(0);
    Ok(rounds)
}

/// A row of the medians.
fn row(what: &str, against: &str, rounds: &[(f64, f64)], goal: Goal) -> Row {
    let of = |figure: fn(&(f64, f64)) -> f64| median(rounds.iter().map(figure).collect());
    Row {
        what: what.to_owned(),
        figure: format!("{:.0}/s", of(|(one, _)| *one)),
        against: format!("{against}, {:.0}/s", of(|(_, other)| *other)),
        ratio: of(|(one, other)| one / other),
        goal,
    }
}
