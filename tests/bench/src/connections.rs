//! Connect, banner, QUIT: sessions a second, against what throws mail away, in turn.

use crate::table::{Goal, Row, median};
use crate::tools::{Tools, run};
use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ROUNDS: usize = 5;

/// Clients at once, and sessions of each in a round.
const CLIENTS: usize = 20;
const SESSIONS: usize = 250;

pub(crate) fn measure(tools: &Tools) -> Result<Vec<Row>, String> {
    let (sink, mailcell) = (tools.sink()?, tools.mailcell(&["--database", "discard:"])?);
    run(async {
        rate(mailcell.address).await?;
        rate(sink.address).await?;
        let (mut rates, mut sinks) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            rates.push(rate(mailcell.address).await?);
            sinks.push(rate(sink.address).await?);
        }
        let ratio = median(rates.iter().zip(&sinks).map(|(rate, sink)| rate / sink).collect());
        Ok(vec![Row {
            what: "connect, banner, QUIT".to_owned(),
            figure: format!("{:.0}/s", median(rates)),
            against: format!("smtp-sink, {:.0}/s", median(sinks)),
            ratio,
            goal: Goal::AtLeast(0.8),
        }])
    })
}

async fn rate(address: SocketAddr) -> Result<f64, String> {
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(client(address))).collect();
    for client in clients {
        client.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    Ok((CLIENTS * SESSIONS) as f64 / start.elapsed().as_secs_f64())
}

async fn client(address: SocketAddr) -> std::io::Result<()> {
    let mut response = [0; 512];
    for _ in 0..SESSIONS {
        let mut stream = TcpStream::connect(address).await?;
        let octets = stream.read(&mut response).await?;
        if !response[..octets].starts_with(b"220") {
            return Err(std::io::Error::other("not greeted"));
        }
        stream.write_all(b"QUIT\r\n").await?;
        let octets = stream.read(&mut response).await?;
        if !response[..octets].starts_with(b"221") {
            return Err(std::io::Error::other("no answer to QUIT"));
        }
    }
    Ok(())
}
