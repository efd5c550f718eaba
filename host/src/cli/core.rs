//! `mailcell core`

use super::output;
use crate::admin::Swap;
use crate::admin::client::Client;
use crate::cell::{self, DEFAULT_CORE, Engine, Generation};
use crate::config::{DEFAULT_SLOT, slot_name};
use crate::swap::{self, Mode, Options, State, keys, read_beside};
use crate::swap::{Accepted, Finding, Report, prove};
use anyhow::{Context, bail};
use clap::ArgGroup;
use jiff::SignedDuration;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check a core as a server would before a swap, and show what differs from the specification. No server is needed.
    #[command(after_help = "\
Examples:
  mailcell core check target/mailcell-core.wasm
  mailcell core check new.wasm --recording recordings/*.txt > new.wasm.differences")]
    Check {
        /// A WebAssembly component
        #[arg(required_unless_present = "default")]
        file: Option<PathBuf>,
        /// The core that this program carries
        #[arg(long, conflicts_with = "file")]
        default: bool,
        /// The core that serves: what it does differently already is no difference
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
        /// Recorded sessions to run too
        #[arg(long = "recording", value_name = "FILE", num_args = 1..)]
        recordings: Vec<PathBuf>,
        #[command(flatten)]
        accepted: AcceptedArgs,
    },
    /// Replace the core of a running server. Open sessions move to it; what differs is shown before anything changes.
    #[command(after_help = "\
Examples:
  mailcell core swap new.wasm
  mailcell core swap new.wasm --accept help-in-every-state --accept greeting
  mailcell core swap new.wasm --shadow 10 --canary 5 --for 10m
  mailcell core swap new.wasm --mode drain --differences new.wasm.differences
  mailcell core swap rfc821.wasm --slot strict

A signature is taken from FILE.sig, declared differences from FILE.differences as well. A trial (--shadow, --canary) goes on \
when this command is interrupted: see `mailcell core status` and `rollback`. A server that is started again begins with the \
setting `core`, or the core that it carries.", group = ArgGroup::new("trial").multiple(true))]
    Swap {
        /// A WebAssembly component
        file: PathBuf,
        /// Whether open sessions move to it, or end where they are
        #[arg(long, value_parser = ["migrate", "drain"], default_value = "migrate")]
        mode: String,
        /// Have it look on at this share of new sessions first
        #[arg(long, value_name = "PERCENT", value_parser = percent, group = "trial")]
        shadow: Option<u8>,
        /// Have it serve this share of new connections first
        #[arg(long, value_name = "PERCENT", value_parser = percent, group = "trial")]
        canary: Option<u8>,
        /// How long it looks on, and how long it is a canary
        #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = duration, requires = "trial")]
        time: Duration,
        #[command(flatten)]
        accepted: AcceptedArgs,
        #[command(flatten)]
        slot: SlotArgs,
    },
    /// Show which cores a running server has in each slot, and what they do.
    #[command(after_help = "\
SESSIONS are in a core at this moment, OPENED began in it, MOVED IN came from another one, STAYED were to leave it and could \
not (the note says why). TRAPS and REFUSED are cells that were lost: to a trap or the time limit, or because of a step that \
the server does not carry out.")]
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Go back to the core that served before, or end a trial.
    Rollback {
        #[command(flatten)]
        slot: SlotArgs,
    },
    /// Sign a core, for servers with the setting core-keys. The signature goes to FILE.sig.
    #[command(after_help = "\
Examples:
  mailcell core sign --make-key core.pem
  mailcell core sign --key core.pem new.wasm

A key is Ed25519 in PKCS #8 PEM, as `openssl genpkey -algorithm ed25519` makes it too.")]
    Sign {
        /// A WebAssembly component
        #[arg(required_unless_present = "make_key")]
        file: Option<PathBuf>,
        /// The private key
        #[arg(long, value_name = "FILE", required_unless_present = "make_key")]
        key: Option<PathBuf>,
        /// Make a private key, and print the public one for core-keys
        #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "key"])]
        make_key: Option<PathBuf>,
    },
    /// Compile standard input to standard output, within limits.
    #[command(hide = true)]
    Compile,
}

#[derive(Debug, clap::Args)]
pub(super) struct AcceptedArgs {
    /// A session whose differences are intended; may be given several times
    #[arg(long = "accept", value_name = "SESSION")]
    sessions: Vec<String>,
    /// A file with the differences that are intended, as `mailcell core check` prints them
    #[arg(long, value_name = "FILE")]
    differences: Option<PathBuf>,
}

impl AcceptedArgs {
    fn load(self, core: Option<&Path>) -> anyhow::Result<Accepted> {
        let mut accepted = Accepted { sessions: self.sessions, ..Accepted::default() };
        if let Some(core) = core {
            accepted.declare_beside(core)?;
        }
        if let Some(file) = &self.differences {
            let shown = file.display().to_string();
            let text = std::fs::read(file).with_context(|| format!("cannot read {shown}"))?;
            accepted.declare(&String::from_utf8_lossy(&text), &shown)?;
        }
        Ok(accepted)
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct ControlArgs {
    /// The server's control socket
    #[arg(long, value_name = "FILE", env = "MAILCELL_CONTROL", hide_env = true, default_value = "mailcell.sock")]
    control: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct SlotArgs {
    /// Whose core it is: that of the listeners with slot=NAME
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SLOT, value_parser = slot_name)]
    slot: String,
    #[command(flatten)]
    control: ControlArgs,
}

impl SlotArgs {
    fn client(&self) -> Client {
        Client::of_slot(&self.control.control, &self.slot)
    }
}

fn percent(text: &str) -> Result<u8, &'static str> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse().ok();
    percent.filter(|percent| (1..=100).contains(percent)).ok_or("expected a number from 1 to 100")
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let duration = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    duration.filter(|duration| duration.as_secs() >= 1).ok_or("expected a duration such as 30s, 10m or 1h")
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Check { file, against, recordings, accepted, .. } => check(file, against, &recordings, accepted).await,
        Command::Swap { file, mode, shadow, canary, time, accepted, slot } => {
            let mode = if mode == "drain" { Mode::Drain } else { Mode::Migrate };
            let accepted = accepted.load(Some(&file))?;
            let options = Options { mode, shadow, canary, seconds: time.as_secs(), accepted };
            swap(&file, options, &slot.client()).await
        }
        Command::Status { json, control } => status(json, &Client::new(&control.control)).await,
        Command::Rollback { slot } => output::print_line(&slot.client().rollback().await?.message),
        Command::Sign { file, key, make_key } => sign(file, key, make_key),
        Command::Compile => swap::compile_here(std::io::stdin().lock(), std::io::stdout().lock()),
    }
}

async fn load(engine: &Engine, file: Option<PathBuf>) -> anyhow::Result<Generation> {
    match file {
        Some(file) => {
            let component = cell::read_component(&file)?;
            swap::stage(engine, component).await.with_context(|| file.display().to_string())
        }
        None => Ok(Generation::from_bytes(engine, DEFAULT_CORE)?),
    }
}

async fn check(
    file: Option<PathBuf>,
    against: Option<PathBuf>,
    recordings: &[PathBuf],
    accepted: AcceptedArgs,
) -> anyhow::Result<()> {
    // A session that moves has two cells for a moment.
    let engine = Engine::new(4)?;
    let accepted = accepted.load(file.as_deref())?;
    let recorded: Vec<_> = recordings.iter().map(|path| read_recording(path)).collect::<anyhow::Result<_>>()?;
    accepted.check(|name| recorded.iter().any(|(recording, _)| recording == name))?;
    let core = load(&engine, file).await?;
    let live = match against {
        Some(file) => Some(load(&engine, Some(file)).await?),
        None => None,
    };
    let report = prove::prove(&core, live.as_ref(), &recorded);
    let mut out = output::stdout();
    let numbers = |list: &[u32]| list.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    writeln!(out, "# digest   {}", core.digest())?;
    writeln!(out, "# version  {}", core.version())?;
    writeln!(out, "# size     {} octets", core.octets())?;
    writeln!(out, "# memory   {} octets at the start of a session", core.memory_octets())?;
    writeln!(out, "# imports  {}", core.imports().join(" "))?;
    writeln!(out, "# exports  {}", core.exports().join(" "))?;
    writeln!(out, "# layouts  writes {}, reads {}", numbers(core.writes()), numbers(core.reads()))?;
    write_report(&report, &mut out)?;
    out.flush()?;
    report.verdict(&accepted).map_err(anyhow::Error::msg)
}

/// A recording by the name of its file.
pub(super) fn read_recording(path: &Path) -> anyhow::Result<(String, String)> {
    let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((name, text))
}

/// What a core does otherwise, as diffs: what is not one of their lines starts with `#`.
fn write_report(report: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    let kinds: [(&str, &[Finding]); 3] = [
        ("not safe", &report.violations),
        ("behaves differently", &report.differences),
        ("says it differently, which never refuses", &report.texts),
    ];
    for (kind, findings) in kinds {
        for finding in findings {
            let more = if finding.more == 0 { String::new() } else { format!(" and {} more", finding.more) };
            let cut = if finding.is_cut { ", more than is shown" } else { "" };
            writeln!(out, "\n# {}{more}: {kind}{cut}\n{}", finding.session, finding.diff.trim_end())?;
        }
    }
    for note in &report.notes {
        writeln!(out, "# note: {note}")?;
    }
    let count = |findings: &[Finding]| findings.iter().map(|finding| 1 + finding.more).sum::<usize>();
    let [unsafe_, different, texts] = kinds.map(|(_, findings)| count(findings));
    let different = different + report.unlisted;
    writeln!(
        out,
        "# {} sessions: {unsafe_} not safe, {different} with other behaviour, {texts} with other texts",
        report.sessions
    )?;
    if report.left_out > 0 {
        writeln!(out, "# {} recordings were left out: they cannot be read, or there was no time", report.left_out)?;
    }
    Ok(())
}

async fn swap(file: &Path, options: Options, client: &Client) -> anyhow::Result<()> {
    let component = cell::read_component(file)?;
    let signature = read_beside(file, "sig")?;
    let status = client.status().await?;
    if status.busy {
        bail!("a swap is under way: {}", status.swap);
    }
    let report = client.check(component, signature.as_deref()).await.with_context(|| file.display().to_string())?;
    let mut out = output::stdout();
    writeln!(out, "# digest   {}", report.digest)?;
    writeln!(out, "# version  {}", report.version)?;
    write_report(&report, &mut out)?;
    out.flush()?;
    let is_trial = options.shadow.or(options.canary).is_some();
    let done = client.swap(&Swap { digest: report.digest.clone(), options }).await?;
    writeln!(out, "# {}", done.message)?;
    out.flush()?;
    if is_trial {
        return follow(&report.digest, client, &mut out).await;
    }
    Ok(())
}

/// Says what a trial is doing, to its end.
async fn follow(digest: &str, client: &Client, out: &mut impl Write) -> anyhow::Result<()> {
    let mut said = String::new();
    loop {
        let status = client.status().await?;
        if status.swap != said {
            writeln!(out, "# {}", output::printable(&status.swap))?;
            out.flush()?;
            said = status.swap;
        }
        if !status.busy {
            let serves = |g: &swap::GenerationStatus| g.digest == digest && g.state == State::Current;
            return if status.generations.iter().any(serves) { Ok(()) } else { bail!("it does not serve: {said}") };
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn status(json: bool, client: &Client) -> anyhow::Result<()> {
    let slots = client.all().await?;
    if json {
        return output::print_json(&slots.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?);
    }
    let rows = slots.iter().flat_map(|slot| slot.generations.iter().map(|generation| row(&slot.slot, generation)));
    let heading = [
        "SLOT", "NUMBER", "CORE", "VERSION", "STATE", "SESSIONS", "OPENED", "MOVED IN", "STAYED", "TRAPS", "REFUSED",
        "NOTES",
    ];
    output::print_table(heading, &rows.collect::<Vec<_>>())?;
    for slot in slots {
        let (name, moves) = (slot.slot, slot.moves);
        if moves.sessions > 0 {
            output::print_line(&format!(
                "Moved at the last promotion in {name}: {} within {:.1} ms, the slowest in {:.2} ms; {} went back",
                moves.sessions,
                moves.micros as f64 / 1e3,
                moves.longest_micros as f64 / 1e3,
                moves.returned
            ))?;
        }
        if !slot.swap.is_empty() {
            output::print_line(&format!("Last swap in {name}: {}", output::printable(&slot.swap)))?;
        }
    }
    Ok(())
}

fn row(slot: &str, generation: &swap::GenerationStatus) -> [String; 12] {
    let counts = &generation.counts;
    let state = format!("{:?}", generation.state).to_lowercase();
    let notes = [&generation.reason, &generation.stay].into_iter().flatten().cloned().collect::<Vec<_>>();
    [
        slot.to_owned(),
        generation.number.to_string(),
        generation.digest[..12].to_owned(),
        generation.version.clone(),
        state,
        counts.sessions.to_string(),
        counts.opened.to_string(),
        counts.moved_in.to_string(),
        counts.stayed.to_string(),
        counts.traps.to_string(),
        counts.refusals.to_string(),
        notes.join("; "),
    ]
}

fn sign(file: Option<PathBuf>, key: Option<PathBuf>, make_key: Option<PathBuf>) -> anyhow::Result<()> {
    if let Some(path) = make_key {
        let pem = keys::make_private_key()?;
        let create = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut made = create.with_context(|| format!("cannot make {}", path.display()))?;
        made.write_all(pem.as_bytes())?;
        return output::print_line(&keys::public_key(&pem)?);
    }
    let (Some(file), Some(key)) = (file, key) else { bail!("a core and a key are needed") };
    let pem = std::fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
    let signature = keys::sign(&pem, &cell::read_component(&file)?).with_context(|| key.display().to_string())?;
    let mut name = file.into_os_string();
    name.push(".sig");
    std::fs::write(&name, signature + "\n").with_context(|| format!("cannot write {}", Path::new(&name).display()))
}
