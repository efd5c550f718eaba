//! One connection that sends one message at a time into MariaDB, against a client that does no more than `INSERT` and `COMMIT`; and
//! what that client takes when it also says as much to somebody who only answers: less is not to be had. By DATA a message takes two
//! exchanges, by BDAT one.

use crate::table::{Goal, Row, median};
use crate::tools::{Tools, run};
use mailcell_tests::load::Session;
use mailcell_tests::mariadb::MariaDb;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Value};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 10;

/// Messages in a round.
const MESSAGES: usize = 200;

/// Octets of a message.
const OCTETS: usize = 4096;

/// How long whoever only answers waits for something to answer.
const ANSWERING_TIME_MAX: Duration = Duration::from_secs(60);

pub(crate) fn measure(tools: &Tools) -> Result<Vec<Row>, String> {
    let server = MariaDb::launch_with(&["--innodb-flush-log-at-trx-commit=1"]).map_err(|error| error.to_string())?;
    let database = server.database("mail").map_err(|error| error.to_string())?;
    let mailcell = tools.mailcell(&["--database", &database])?;
    run(async {
        let mut session = Session::open(mailcell.address).await?;
        session.say("EHLO client.test", "250").await?;
        let opts = Opts::from_url(&database).map_err(|error| error.to_string())?;
        // Over TCP, as the server does it.
        let opts = OptsBuilder::from_opts(opts).prefer_socket(false);
        let mut client = Conn::new(opts).await.map_err(|error| error.to_string())?;
        let mut answering = Session::open(answering().map_err(|error| error.to_string())?).await?;
        let what = "one message after the other into MariaDB";
        let mut rows = Vec::new();
        for (what, exchanges) in [(what, by_data()), ("the same by BDAT", by_bdat())] {
            let (mut messages, mut least, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                messages.push(send(&mut session, &exchanges).await?);
                least.push(insert(&mut client, &mut answering, &exchanges).await?);
                inserts.push(insert(&mut client, &mut answering, &[]).await?);
            }
            rows.push(row(what, exchanges.len(), &messages, &least, &inserts));
        }
        client.disconnect().await.map_err(|error| error.to_string())?;
        Ok(rows)
    })
}

fn row(what: &str, exchanges: usize, messages: &[Duration], least: &[Duration], inserts: &[Duration]) -> Row {
    let ratio = |times: &[Duration]| {
        median(times.iter().zip(inserts).map(|(time, insert)| time.as_secs_f64() / insert.as_secs_f64()).collect())
    };
    let micros = |times: &[Duration]| median(times.iter().map(|time| time.as_secs_f64() * 1e6).collect());
    Row {
        what: what.to_owned(),
        figure: format!("{:.0} µs each", micros(messages)),
        against: format!(
            "INSERT and COMMIT, {:.0} µs (and exchanges, {exchanges}: {:.2})",
            micros(inserts),
            ratio(least)
        ),
        ratio: ratio(messages),
        goal: Goal::AtMost(1.1),
    }
}

fn body() -> String {
    let line = "x".repeat(76) + "\r\n";
    "Subject: hello\r\n\r\n".to_owned() + &line.repeat(OCTETS / line.len())
}

/// What is sent at once, and the codes of what comes back.
type Exchange = (String, &'static [&'static str]);

/// Commands go out together, as every client sends them to a server that lists PIPELINING.
const MAIL_AND_RCPT: &str = "MAIL FROM:<ann@client.test>\r\nRCPT TO:<bob@mx.test>\r\n";

fn by_data() -> Vec<Exchange> {
    vec![(format!("{MAIL_AND_RCPT}DATA\r\n"), &["250", "250", "354"]), (body() + ".\r\n", &["250"])]
}

/// Nobody waits before a chunk. RFC 3030 4.2.
fn by_bdat() -> Vec<Exchange> {
    let body = body();
    vec![(format!("{MAIL_AND_RCPT}BDAT {} LAST\r\n{body}", body.len()), &["250", "250", "250"])]
}

/// The time of one message.
async fn send(session: &mut Session, exchanges: &[Exchange]) -> Result<Duration, String> {
    let start = Instant::now();
    for _ in 0..MESSAGES {
        for (octets, codes) in exchanges {
            session.send(octets.as_bytes()).await.map_err(|error| error.to_string())?;
            for code in *codes {
                session.expect(code, "a message").await?;
            }
        }
    }
    Ok(start.elapsed() / MESSAGES as u32)
}

/// Serves one connection: whatever comes is answered at once, and nothing is done with it.
fn answering() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWERING_TIME_MAX))?;
        let mut octets = vec![0; 2 * OCTETS];
        stream.write_all(b"220 Hello\r\n")?;
        while stream.read(&mut octets)? > 0 {
            stream.write_all(b"250 Ok\r\n")?;
        }
        Ok(())
    });
    Ok(address)
}

/// The time of one row of the same size, written by a prepared statement in a transaction of its own, with exchanges before it.
async fn insert(client: &mut Conn, answering: &mut Session, exchanges: &[Exchange]) -> Result<Duration, String> {
    let failed = |error: mysql_async::Error| error.to_string();
    client.query_drop("SET autocommit = 0, time_zone = '+00:00'").await.map_err(failed)?;
    let sql = "INSERT INTO messages (id, mail_from, rcpt_to, subject, date, date_zone, headers, body, trace, size, received_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let statement = client.prep(sql).await.map_err(failed)?;
    let start = Instant::now();
    for _ in 0..MESSAGES {
        for (octets, _) in exchanges {
            answering.send(octets.as_bytes()).await.map_err(|error| error.to_string())?;
            answering.expect("250", "an exchange").await?;
        }
        let values: Vec<Value> = vec![
            Value::from(uuid::Uuid::now_v7().as_bytes()),
            "ann@client.test".into(),
            "[\"bob@mx.test\"]".into(),
            "hello".into(),
            "2026-01-31 12:00:00".into(),
            0.into(),
            "Subject: hello\r\n\r\n".into(),
            body().into(),
            vec![b'x'; 200].into(),
            (OCTETS as u64).into(),
            "2026-01-31 12:00:00.000000".into(),
        ];
        client.exec_drop(&statement, values).await.map_err(failed)?;
        client.query_drop("COMMIT").await.map_err(failed)?;
    }
    Ok(start.elapsed() / MESSAGES as u32)
}
