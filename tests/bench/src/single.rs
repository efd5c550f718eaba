//! One connection that sends one message at a time into MariaDB, against a client that does no more than `INSERT` and `COMMIT`.

use crate::table::{Goal, Row, median};
use crate::tools::{Tools, run};
use mailcell_tests::load::Session;
use mailcell_tests::mariadb::MariaDb;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Value};
use std::time::{Duration, Instant};

const ROUNDS: usize = 10;

/// Messages in a round.
const MESSAGES: usize = 200;

/// Octets of a message.
const OCTETS: usize = 4096;

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
        let (mut messages, mut inserts) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            messages.push(send(&mut session).await?);
            inserts.push(insert(&mut client).await.map_err(|error| error.to_string())?);
        }
        client.disconnect().await.map_err(|error| error.to_string())?;
        let ratios =
            messages.iter().zip(&inserts).map(|(message, insert)| message.as_secs_f64() / insert.as_secs_f64());
        let ratio = median(ratios.collect());
        let micros = |times: Vec<Duration>| median(times.iter().map(|time| time.as_secs_f64() * 1e6).collect());
        Ok(vec![Row {
            what: "one message after the other into MariaDB".to_owned(),
            figure: format!("{:.0} µs each", micros(messages)),
            against: format!("INSERT and COMMIT by a client, {:.0} µs", micros(inserts)),
            ratio,
            goal: Goal::AtMost(1.1),
        }])
    })
}

fn body() -> String {
    let line = "x".repeat(76) + "\r\n";
    "Subject: hello\r\n\r\n".to_owned() + &line.repeat(OCTETS / line.len())
}

/// The time of one message. Commands go out together, as every client sends them to a server that lists PIPELINING.
async fn send(session: &mut Session) -> Result<Duration, String> {
    let commands = b"MAIL FROM:<ann@client.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\n";
    let data = body() + ".\r\n";
    let start = Instant::now();
    for _ in 0..MESSAGES {
        session.send(commands).await.map_err(|error| error.to_string())?;
        for (code, what) in [("250", "MAIL"), ("250", "RCPT"), ("354", "DATA")] {
            session.expect(code, what).await?;
        }
        session.send(data.as_bytes()).await.map_err(|error| error.to_string())?;
        session.expect("250", "the end of data").await?;
    }
    Ok(start.elapsed() / MESSAGES as u32)
}

/// The time of one row of the same size, written by a prepared statement in a transaction of its own.
async fn insert(client: &mut Conn) -> mysql_async::Result<Duration> {
    client.query_drop("SET autocommit = 0, time_zone = '+00:00'").await?;
    let sql = "INSERT INTO messages (id, mail_from, rcpt_to, subject, date, date_zone, headers, body, trace, size, received_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let statement = client.prep(sql).await?;
    let start = Instant::now();
    for _ in 0..MESSAGES {
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
        client.exec_drop(&statement, values).await?;
        client.query_drop("COMMIT").await?;
    }
    Ok(start.elapsed() / MESSAGES as u32)
}
