//! Swapping a core while mail is flowing: stage, prove, shadow, canary, promote, retire, and back again.
//!
//! | file | what it is |
//! |---|---|
//! | `slot`, `plan` | which generation serves whom; sessions follow it by themselves |
//! | `slots` | all slots of a server; each listener serves in one |
//! | `stage` | a file becomes a generation |
//! | `prove`, `findings`, `report` | a generation against its specification, recordings and moves |
//! | `trial` | shadow, canary, and the first minutes |
//! | `shadow` | a generation that looks on |
//! | `departure` | when a generation must go |
//! | `turns` | idle sessions follow one after the other |
//! | `keys` | who may bring one |

mod departure;
mod findings;
pub mod keys;
mod plan;
pub mod prove;
mod report;
mod shadow;
mod slot;
mod slots;
mod stage;
mod trial;
mod turns;

pub use findings::{DIFF_OCTETS_MAX, LINES_MAX};
pub use plan::{Mode, Share, Verdict};
pub use report::{Accepted, Finding, Report};
pub use shadow::Shadow;
pub use slot::{GenerationStatus, Moves, Slot, State};
pub use slots::Slots;
pub use stage::{compile_here, stage};
pub use turns::Turn;

use crate::cell::{Engine, Generation, digest};
use crate::config::Settings;
use crate::record;
use anyhow::{Context, bail};
use keys::TrustedKeys;
use plan::Plan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info};

/// How often the counters of a core that is watched are looked at, and a file that is watched.
const LOOK: Duration = Duration::from_secs(1);

/// Candidates that are kept between their proof and their swap.
const CANDIDATES_MAX: usize = 8;

/// What is behind the name of a core's file in that of its declared differences.
const DIFFERENCES: &str = "differences";

/// How a core comes into service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What open sessions do.
    pub mode: Mode,
    /// The share of new sessions, in percent, that the core looks on at first.
    pub shadow: Option<u8>,
    /// The share of new connections, in percent, that it serves first.
    pub canary: Option<u8>,
    /// How long it looks on, and how long it is a canary: needed with one of them.
    pub seconds: u64,
    /// Differences that are intended.
    pub accepted: Accepted,
}

/// What a slot is doing, for people and programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub slot: String,
    /// All generations, the earliest first.
    pub generations: Vec<GenerationStatus>,
    /// The sessions that moved since the last promotion.
    pub moves: Moves,
    /// What is under way, or what became of the last swap.
    pub swap: String,
    /// Whether it is under way.
    pub busy: bool,
}

/// What may replace the core of a slot.
pub struct Swapper {
    engine: Engine,
    slot: Arc<Slot>,
    keys: TrustedKeys,
    file: Option<PathBuf>,
    recordings: Option<PathBuf>,
    watch: Duration,
    /// Locked for each change of the slot's plan, so that what it is made for still holds.
    state: Mutex<Swapping>,
    proving: Proving,
}

/// One proof at a time, of all slots: it takes a processor.
type Proving = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
struct Swapping {
    /// Cores that were proved, each against the core that served then.
    candidates: Vec<Candidate>,
    /// Cores that were withdrawn: how often, and until when they stay away.
    barred: BTreeMap<String, (u32, Instant, String)>,
    progress: String,
}

struct Candidate {
    core: Generation,
    against: Generation,
    report: Report,
}

impl Swapper {
    /// For that slot.
    fn new(slot: Arc<Slot>, proving: Proving, settings: &Settings) -> Arc<Swapper> {
        Arc::new(Swapper {
            engine: slot.plan().current.engine().clone(),
            keys: settings.core_keys.clone(),
            file: settings.core_file(slot.name()).map(Path::to_owned),
            slot,
            recordings: settings.record_directory.clone(),
            watch: settings.core_watch,
            state: Mutex::default(),
            proving,
        })
    }

    /// Its slot.
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Whether there is a file to read again.
    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Swapping> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self, state: &mut Swapping, text: String) {
        info!(slot = self.slot.name(), "{text}");
        state.progress = text;
    }

    /// Stages and proves a core, which serves nobody yet. The same bytes again are the same core.
    ///
    /// # Errors
    /// When it is no core, or nobody's whom the server trusts.
    pub async fn check(&self, component: Vec<u8>, signature: Option<&str>) -> anyhow::Result<Report> {
        self.keys.check(&component, signature)?;
        let one = self.proving.clone().lock_owned().await;
        let live = self.slot.plan().current;
        let digest = digest(&component);
        if let Some(report) = self.proved(&digest, &live) {
            return Ok(report);
        }
        let candidate = match self.known(&digest) {
            Some(core) => core,
            None => stage(&self.engine, component).await?,
        };
        let recordings = self.recordings.clone();
        let (core, against) = (candidate.clone(), live.clone());
        let proof = tokio::task::spawn_blocking(move || {
            // Held to the end of the proof, also when nobody waits for it any more.
            let _one = one;
            let recorded = recordings.map(|directory| record::read_all(&directory)).unwrap_or_default();
            prove::prove(&core, Some(&against), &recorded)
        });
        let report = proof.await?;
        let mut state = self.state();
        state.candidates.retain(|known| !(known.core.is(&candidate) && known.against.is(&live)));
        state.candidates.push(Candidate { core: candidate, against: live, report: report.clone() });
        let extra = state.candidates.len().saturating_sub(CANDIDATES_MAX);
        state.candidates.drain(..extra);
        Ok(report)
    }

    /// The core of that digest, if it was staged already.
    fn known(&self, digest: &str) -> Option<Generation> {
        let state = self.state();
        let candidate = state.candidates.iter().find(|known| known.core.digest() == digest);
        candidate.map(|known| known.core.clone()).or_else(|| self.slot.find(digest))
    }

    /// What was found of a core, if it was proved against the one that serves and nothing was recorded since.
    fn proved(&self, digest: &str, live: &Generation) -> Option<Report> {
        let state = self.state();
        let is_it = |known: &&Candidate| known.core.digest() == digest && known.against.is(live);
        state.candidates.iter().find(is_it).filter(|_| self.recordings.is_none()).map(|known| known.report.clone())
    }

    /// Brings a core into service that was checked. One that serves already is left as it is.
    ///
    /// # Errors
    /// Why it may not serve.
    pub fn swap(self: &Arc<Self>, digest: &str, options: &Options) -> anyhow::Result<String> {
        options.accepted.check(record::is_name)?;
        let mut state = self.state();
        let plan = self.slot.plan();
        if plan.current.digest() == digest {
            return Ok("it serves already".to_owned());
        }
        let is_trial = trial::check_trial(options)?;
        if plan.trial().is_some() {
            bail!("a swap is under way: {}", state.progress);
        }
        let before = plan.current;
        let is_it = |known: &&Candidate| known.core.digest() == digest && known.against.is(&before);
        let found = state.candidates.iter().find(is_it).map(|known| (known.core.clone(), known.report.clone()));
        let (core, report) = found.context("it was not checked against the core that serves")?;
        report.verdict(&options.accepted).map_err(anyhow::Error::msg)?;
        if let Some((_, until, why)) = state.barred.get(digest) {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                bail!("it was withdrawn ({why}), and stays away for another {} s", left.as_secs() + 1);
            }
        }
        if is_trial {
            self.begin_trial(&mut state, core, before, options.clone());
            return Ok("it is tried out".to_owned());
        }
        match self.promote(&mut state, &core, &before, options.mode) {
            true => Ok("it serves".to_owned()),
            false => bail!("another core has come into service meanwhile"),
        }
    }

    /// Has a core serve, and watches its first minutes.
    fn promote(self: &Arc<Self>, state: &mut Swapping, core: &Generation, before: &Generation, mode: Mode) -> bool {
        // Sessions move at once, and most of them before the watch begins.
        let start = (core.stats().counts(), before.stats().counts());
        let is_promoted = self.slot.promote(core, before, mode);
        if is_promoted {
            self.progress(state, format!("{} serves", core.short_digest()));
            let (swapper, core) = (self.clone(), core.clone());
            // It ends by itself when another core serves.
            tokio::spawn(async move { swapper.watch_promoted(&core, start).await });
        }
        is_promoted
    }

    /// Withdraws a core, if that still holds of the plan.
    fn withdraw(&self, core: &Generation, reason: String, holds: impl FnOnce(&Plan) -> bool) {
        let slot = self.slot.name();
        let mut state = self.state();
        if !holds(&self.slot.plan()) {
            return;
        }
        if self.slot.withdraw(core, reason.clone()).is_none() {
            return error!(
                slot,
                core = core.short_digest(),
                reason,
                "a core does worse, and there is none to go back to"
            );
        }
        error!(slot, core = core.short_digest(), reason, "a core is withdrawn");
        let times = state.barred.get(core.digest()).map_or(0, |(times, ..)| *times) + 1;
        let until = Instant::now() + departure::back_off(times);
        state.barred.insert(core.digest().to_owned(), (times, until, reason.clone()));
        state.progress = format!("{} was withdrawn: {reason}", core.short_digest());
    }

    /// Ends a trial or, if there is none, goes back to the core that served before.
    ///
    /// # Errors
    /// When there is nothing to go back to.
    pub fn roll_back(&self) -> anyhow::Result<String> {
        let mut state = self.state();
        let serving = self.slot.roll_back("rolled back").context("no core has served before this one")?;
        let done = format!("{} serves", serving.short_digest());
        self.progress(&mut state, format!("rolled back: {done}"));
        Ok(done)
    }

    /// What the slot is doing.
    pub fn status(&self) -> Status {
        let state = self.state();
        Status {
            slot: self.slot.name().to_owned(),
            generations: self.slot.status(),
            moves: self.slot.moves(),
            swap: state.progress.clone(),
            busy: self.slot.plan().trial().is_some(),
        }
    }

    /// Reads the configured file again and has it serve, with what lies beside it: `.sig`, its signature, and
    /// `.differences`, those that are intended.
    ///
    /// # Errors
    /// Why it does not serve.
    pub async fn reload(self: &Arc<Self>) -> anyhow::Result<String> {
        let file = self.file.as_ref().context("there is no setting `core` with a file to read again")?;
        let component = crate::cell::read_component(file)?;
        let signature = read_beside(file, "sig")?;
        let mut accepted = Accepted::default();
        accepted.declare_beside(file)?;
        let report = self.check(component, signature.as_deref()).await?;
        for finding in report.violations.iter().chain(&report.differences) {
            debug!(session = finding.session, "a core differs:\n{}", finding.diff);
        }
        self.swap(&report.digest, &Options { accepted, ..Options::default() })
    }

    /// Ends generations whose time is over and, with `watch_file`, follows the configured file. Never returns.
    pub async fn run(self: Arc<Self>, watch_file: bool) {
        let tidy = async {
            loop {
                sleep(LOOK).await;
                self.slot.tidy();
            }
        };
        match self.file.clone().filter(|_| watch_file) {
            Some(file) => tokio::join!(tidy, self.follow(&file)).0,
            None => tidy.await,
        }
    }

    fn holds_another(&self, file: &Path) -> bool {
        let found = crate::cell::read_component(file);
        found.is_ok_and(|component| digest(&component) != self.slot.plan().current.digest())
    }

    /// Has the file's core serve whenever it, its signature or its declared differences have changed.
    async fn follow(self: &Arc<Self>, file: &Path) {
        let stamps = || [file.to_owned(), beside(file, "sig"), beside(file, DIFFERENCES)].map(|path| stamp(&path));
        let slot = self.slot.name();
        let mut seen = stamps();
        // Also when it changed while the server started.
        let mut changing = self.holds_another(file);
        loop {
            sleep(LOOK).await;
            let found = stamps();
            if found != seen {
                // Read it when it has stopped changing.
                (seen, changing) = (found, true);
            } else if std::mem::take(&mut changing) && found[0].is_some() {
                match self.reload().await {
                    Ok(done) => info!(slot, file = %file.display(), "the core's file has changed: {done}"),
                    Err(error) => {
                        error!(slot, file = %file.display(), "the core's file has changed, and is refused: {error:#}")
                    }
                }
            }
        }
    }
}

fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The text of a file of the same name with one more extension, if there is one.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_beside(file: &Path, extension: &str) -> anyhow::Result<Option<String>> {
    let path = beside(file, extension);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

impl Accepted {
    /// Adds the differences in the file that lies beside a core's, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or holds anything else.
    pub fn declare_beside(&mut self, file: &Path) -> anyhow::Result<()> {
        let text = read_beside(file, DIFFERENCES)?.unwrap_or_default();
        self.declare(&text, &beside(file, DIFFERENCES).display().to_string())
    }
}

fn beside(file: &Path, extension: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}
