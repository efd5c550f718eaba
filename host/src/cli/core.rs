//! `mailcell core`

use super::output;
use crate::cell::{self, DEFAULT_CORE, Engine, Generation};
use anyhow::Context;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check a core as the server would, and tell what it is.
    #[command(after_help = "\
Examples:
  mailcell core inspect target/mailcell-core.wasm
  mailcell core inspect --default")]
    Inspect {
        /// A WebAssembly component
        #[arg(required_unless_present = "default")]
        file: Option<PathBuf>,
        /// The core that this program carries
        #[arg(long, conflicts_with = "file")]
        default: bool,
    },
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    let Command::Inspect { file, .. } = command;
    let (name, bytes) = match file {
        Some(file) => (file.display().to_string(), cell::read_component(&file)?),
        None => ("the core that this program carries".to_owned(), DEFAULT_CORE.to_owned()),
    };
    let core = Generation::from_bytes(&Engine::new(1)?, &bytes).context(name)?;
    let mut out = output::stdout();
    writeln!(out, "digest   {}", core.digest())?;
    writeln!(out, "size     {} octets", core.octets())?;
    writeln!(out, "memory   {} octets at the start of a session", core.memory_octets())?;
    writeln!(out, "imports  {}", core.imports().join(" "))?;
    writeln!(out, "exports  {}", core.exports().join(" "))?;
    Ok(out.flush()?)
}
