//! `mailcell config`

use super::args::database_options;
use super::output;
use crate::cell::Engine;
use crate::config::{Settings, check_environment, default_file};
use crate::server;
use crate::tls::Certificates;
use anyhow::Context;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check a configuration file, and those that it names: whether a server would start with it, but for what it needs of the
    /// system.
    Check {
        /// A file in TOML
        file: PathBuf,
    },
    /// Print the default configuration, with comments.
    #[command(after_help = "Example:\n  mailcell config show > mailcell.toml")]
    Show,
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    check_environment()?;
    let mut out = output::stdout();
    match command {
        Command::Check { file } => {
            check(&file).await?;
            writeln!(out, "{}: ok", file.display())?;
        }
        Command::Show => write!(out, "{}", default_file())?,
    }
    Ok(out.flush()?)
}

async fn check(file: &Path) -> anyhow::Result<()> {
    let mut settings = Settings::default();
    settings.read_file(file)?;
    settings.check()?;
    database_options(&settings)?;
    Certificates::of(&settings)?;
    let engine = Engine::new(1)?;
    for core in &settings.core {
        server::load(&engine, &core.file, &settings).await.with_context(|| core.file.display().to_string())?;
    }
    Ok(())
}
