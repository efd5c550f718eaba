//! `mailcell serve`

use super::args::{ServerArgs, open_store};
use crate::config::Settings;
use crate::log::Log;
use crate::server::{self, Server};
use anyhow::Context;
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::filter::LevelFilter;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mailcell serve
  mailcell serve --config /etc/mailcell.toml
  mailcell serve --listen 127.0.0.1:2525 --listen [::1]:2525 --database sqlite:/var/lib/mailcell/mail.db
  mailcell serve --listen 127.0.0.1:2525 --listen '127.0.0.1:24 protocol=lmtp message-size=100MiB recipients=10'
  mailcell serve --listen 127.0.0.1:2525 --listen '127.0.0.1:2526 slot=strict' --core strict=rfc821.wasm
  MAILCELL_DATABASE_PASSWORD=... mailcell serve --database mysql://mail@127.0.0.1/mail")]
pub(super) struct Args {
    #[command(flatten)]
    settings: ServerArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.settings.load()?;
    settings.check()?;
    let log = start_log(&settings)?;
    let done = super::run(serve(settings, log.clone()));
    log.flush();
    done
}

async fn serve(settings: Settings, log: Log) -> anyhow::Result<()> {
    // Before anything is taken, so that a signal that comes early is not lost.
    let mut hangup = signal(SignalKind::hangup())?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut signals = async move || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let ready = async {
        let store = open_store(&settings).await?;
        anyhow::ensure!(store.is_writable(), "the database may only be read: no message could be stored");
        let cores = server::load_cores(&settings).await?;
        Server::bind(settings, store, cores).await
    };
    let server = tokio::select! {
        server = ready => server?,
        signal = signals() => {
            info!(signal, "told to stop before it was ready");
            return Ok(());
        }
    };
    let slots = server.slots().clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            slots.reload().await;
        }
    });
    let stop = async {
        let signal = signals().await;
        info!(signal, "told to stop");
        // Who asks twice does not want to wait for sessions to end. What was answered 250 is durable.
        tokio::spawn(async move {
            let signal = signals().await;
            warn!(signal, "told to stop at once");
            log.flush();
            std::process::exit(1);
        });
    };
    server.run(stop).await;
    Ok(())
}

fn start_log(settings: &Settings) -> anyhow::Result<Log> {
    let writer = Log::start().context("cannot start a thread")?;
    let log = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(settings.log))
        .with_writer(writer.clone())
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // A log that nobody reads any more must not cost a session.
        .log_internal_errors(false);
    if settings.log_json {
        log.json().init()
    } else {
        log.init()
    }
    Ok(writer)
}
