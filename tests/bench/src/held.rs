//! Sessions over an in-memory transport: as many as one likes, with the same code behind them as behind TCP.

use crate::tools::resident_octets;
use mailcell::cell::DEFAULT_CORE;
use mailcell::cell::Generation;
use mailcell::config::{DEFAULT_SLOT, Settings};
use mailcell::server::{self, Server, default_core};
use mailcell::shared::Entrance;
use mailcell::store;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{sleep, timeout};

/// How much a transport holds on its way.
const TRANSPORT_OCTETS: usize = 4 << 10;

/// `hold COUNT`: prints the octets that so many idle sessions take.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let count = arguments.first().and_then(|count| count.parse().ok()).unwrap_or(1_000);
    let held =
        tokio::runtime::Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(hold(count)));
    match held {
        Ok(octets) => {
            println!("{octets}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn hold(count: usize) -> anyhow::Result<f64> {
    let memory = || resident_octets(std::process::id()).map_err(anyhow::Error::msg);
    let settings = Settings { listen: Vec::new(), control: None, ..Settings::default() };
    let engine = server::engine(&settings)?;
    let core = Generation::from_bytes(&engine, DEFAULT_CORE)?;
    let store = store::open("discard:", &store::Options::default()).await?;
    // No descriptor stands behind these connections, so none limits them.
    let server = Server::with_connections(settings, store, default_core(core), count as u32 + 1).await?;
    let mut clients = Vec::with_capacity(count);
    let listener = "127.0.0.1:0".parse().map_err(anyhow::Error::msg)?;
    let slot = server.slots().get(DEFAULT_SLOT)?.slot().clone();
    let entrance = Arc::new(Entrance::new(&listener, &server.shared().settings, slot)?);
    drop(client(&server, &entrance).await?);
    let before = memory()?;
    for _ in 0..count {
        clients.push(client(&server, &entrance).await?);
    }
    sleep(Duration::from_secs(4)).await;
    let after = memory()?;
    // All of them are there and answer.
    for client in clients.iter_mut().step_by(101) {
        say(client, "NOOP\r\n", "250").await?;
    }
    Ok(after - before)
}

async fn client(server: &Server, entrance: &Arc<Entrance>) -> anyhow::Result<DuplexStream> {
    let (mut client, stream) = duplex(TRANSPORT_OCTETS);
    server.reception().receive(stream, ([127, 0, 0, 1], 0).into(), entrance, ());
    say(&mut client, "", "220").await?;
    say(&mut client, "EHLO client.test\r\n", "250").await?;
    Ok(client)
}

async fn say(client: &mut DuplexStream, line: &str, code: &str) -> anyhow::Result<()> {
    client.write_all(line.as_bytes()).await?;
    let mut response = [0; 1024];
    let octets = timeout(Duration::from_secs(30), client.read(&mut response)).await??;
    anyhow::ensure!(
        response[..octets].starts_with(code.as_bytes()),
        "{:?}",
        response[..octets].escape_ascii().to_string()
    );
    Ok(())
}
