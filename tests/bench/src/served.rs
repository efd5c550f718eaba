//! The server within this program: the same host, with the component or with the same core as plain Rust.

use anyhow::Context;
use mailcell::cell::{DEFAULT_CORE, Engine, Generation};
use mailcell::config::Settings;
use mailcell::log::Log;
use mailcell::server::{Server, default_core};
use mailcell::store;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `serve component|native --database DATABASE --listen ADDRESS ...`
fn serve(arguments: &[String]) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(Log::start()?).with_ansi(false).with_target(false).init();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let value = |name: &str| {
            let value = arguments.iter().skip_while(|argument| *argument != name).nth(1);
            value.with_context(|| format!("{name} is missing"))
        };
        let settings = Settings {
            listen: vec![value("--listen")?.parse().map_err(anyhow::Error::msg)?],
            control: None,
            ..Settings::default()
        };
        let engine = Engine::new(1024)?;
        let core = match arguments.first().map(String::as_str) {
            Some("native") => Generation::native(&engine)?,
            _ => Generation::from_bytes(&engine, DEFAULT_CORE)?,
        };
        let store = store::open(value("--database")?, &store::Options::default()).await?;
        let mut terminate = signal(SignalKind::terminate())?;
        let server = Server::bind(settings, store, default_core(core)).await?;
        server
            .run(async move {
                terminate.recv().await;
            })
            .await;
        Ok(())
    })
}
