//! `mailcell replay`

use super::core::read_recording;
use super::output;
use crate::cell::{self, DEFAULT_CORE, Engine, Generation};
use crate::swap::{self, DIFF_OCTETS_MAX, LINES_MAX, prove};
use anyhow::{Context, bail};
use mailcell_conformance::transcript::Transcript;
use std::io::Write;
use std::path::PathBuf;

/// Run recorded sessions in a core, and show what differs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mailcell replay recordings/fault-*.txt
  mailcell replay recordings/*.txt --core new.wasm

A recording is a text: `C:` what the client sent, `S:` what the server said, `Q:` and `A:` a request of the core and its \
reply, `E:` an event, `M:` the message that a request is about. In a difference, `-` is as recorded, `+` is as the core has \
it, and `!:` says how a session was lost, as is one that says far more than is recorded. Where a difference is too long to be \
shown whole, that is said.

Exit codes: 0 all is as recorded, 1 it is not, or that cannot be told.")]
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
        let Some(finding) = prove::replay(&core, &recording) else { continue };
        differ += 1;
        writeln!(out, "{}:\n{}", path.display(), finding.diff)?;
        if finding.is_cut {
            let kib = DIFF_OCTETS_MAX >> 10;
            writeln!(
                out,
                "The rest of it is left out: {kib} KiB are shown, and {LINES_MAX} lines of a session compared.\n"
            )?;
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
