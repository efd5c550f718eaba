//! `mailcell config`

use super::output;
use crate::config::{Settings, default_file};
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check a configuration file.
    Check {
        /// A file in TOML
        file: PathBuf,
    },
    /// Print the default configuration, with comments.
    #[command(after_help = "Example:\n  mailcell config show > mailcell.toml")]
    Show,
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    let mut out = output::stdout();
    match command {
        Command::Check { file } => {
            Settings::default().read_file(&file)?;
            writeln!(out, "{}: ok", file.display())?;
        }
        Command::Show => write!(out, "{}", default_file())?,
    }
    Ok(out.flush()?)
}
