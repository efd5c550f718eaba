//! `mailcell replay`

use super::core::read_recording;
use super::output;
use crate::cell::{self, DEFAULT_CORE, Engine, Generation};
use crate::swap::{self, prove::in_a_cell};
use anyhow::{Context, bail};
use mailcell_conformance::check;
use mailcell_conformance::transcript::Transcript;
use std::io::Write;
use std::path::PathBuf;

/// Run recorded sessions in a core, and show what differs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mailcell replay recordings/fault-*.txt
  mailcell replay recordings/*.txt --core new.wasm

A recording is a text: `C:` what the client sent, `S:` what the server said, `Q:` and `A:` a request of the core and its
reply, `E:` an event, `M:` the message that a request is about. In a difference, `-` is as recorded, `+` is as the core has
it, and `!:` says how a session was lost. Exit codes: 0 all is as recorded, 1 it is not,
or that cannot be told.")]
pub(super) struct Args {
    /// Recordings, or transcripts
    #[arg(required = true)]
    recordings: Vec<PathBuf>,
    /// A WebAssembly component [default: the core that this program carries]
    #[arg(long, value_name = "FILE")]
    core: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let engine = Engine::new(4)?;
    let core = match args.core {
        Some(file) => {
            let component = cell::read_component(&file)?;
            swap::stage(&engine, component).await.with_context(|| file.display().to_string())?
        }
        None => Generation::from_bytes(&engine, DEFAULT_CORE)?,
    };
    let mut out = output::stdout();
    let mut differ = 0;
    let mut unreadable = None;
    for path in &args.recordings {
        let read =
            read_recording(path).and_then(|(_, text)| Ok(Transcript::parse(&path.display().to_string(), &text)?));
        let recording = match read {
            Ok(recording) => recording,
            Err(error) => {
                writeln!(out, "{error:#}")?;
                unreadable = Some(error);
                continue;
            }
        };
        let expected = recording.effects();
        let got = check::fold(check::run(&recording, &|config| in_a_cell(&core, config)), &expected);
        if got != expected {
            differ += 1;
            let diff = check::difference(&recording.write(&expected), &recording.write(&got));
            writeln!(out, "{}:\n{diff}", path.display())?;
        }
    }
    writeln!(out, "{} of {} sessions differ", differ, args.recordings.len())?;
    out.flush()?;
    match unreadable {
        Some(error) => Err(error),
        None if differ > 0 => bail!("not all is as recorded"),
        None => Ok(()),
    }
}
