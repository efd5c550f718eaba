//! Swapping a core while mail is flowing: stage, prove, shadow, canary, promote, retire, and back again.
//!
//! | file | what it is |
//! |---|---|
//! | `slot` | which generation serves whom; sessions follow it by themselves |
//! | `stage` | a file becomes a generation |
//! | `prove` | a generation against its specification, recordings and moves |
//! | `shadow` | a generation that looks on |
//! | `departure` | when a generation must go |
//! | `keys` | who may bring one |

mod departure;
pub mod keys;
pub mod prove;
mod shadow;
mod slot;
mod stage;

pub use prove::{Accepted, Finding, Report};
pub use shadow::Shadow;
pub use slot::{GenerationStatus, Mode, Moves, Plan, Slot, State, Verdict};
pub use stage::{compile_here, stage};

use crate::cell::{Counts, Engine, Generation, digest};
use crate::config::Settings;
use crate::record;
use anyhow::{Context, bail};
use keys::TrustedKeys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

/// How often the counters of a core that is watched are looked at, and a file that is watched.
const LOOK: Duration = Duration::from_secs(1);

/// Candidates that are kept between their proof and their swap.
const CANDIDATES_MAX: usize = 8;

/// How a core comes into service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// What open sessions do.
    pub mode: Mode,
    /// The share of new sessions, in percent, that the core looks on at first.
    pub shadow: Option<u8>,
    /// The share of new connections, in percent, that it serves first.
    pub canary: Option<u8>,
    /// How long it looks on, and how long it is a canary.
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
    drain: Duration,
    watch: Duration,
    state: Mutex<Swapping>,
    /// One proof at a time: it takes a processor.
    proving: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Swapping {
    /// Cores that were proved, each against the core that served then.
    candidates: Vec<Candidate>,
    /// Cores that were withdrawn: how often, and until when they stay away.
    barred: BTreeMap<String, (u32, Instant, String)>,
    progress: String,
    trial: Option<JoinHandle<()>>,
}

struct Candidate {
    core: Generation,
    against: Generation,
    report: Report,
}

impl Swapper {
    /// For that slot.
    pub fn new(engine: Engine, slot: Arc<Slot>, settings: &Settings) -> Arc<Swapper> {
        Arc::new(Swapper {
            engine,
            slot,
            keys: settings.core_keys.clone(),
            file: settings.core.clone(),
            recordings: settings.record_directory.clone(),
            drain: settings.core_drain,
            watch: settings.core_watch,
            state: Mutex::default(),
            proving: tokio::sync::Mutex::default(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Swapping> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self, text: String) {
        info!(slot = self.slot.name(), "{text}");
        self.state().progress = text;
    }

    /// Stages and proves a core, which serves nobody yet. The same bytes again are the same core.
    ///
    /// # Errors
    /// When it is no core, or nobody's whom the server trusts.
    pub async fn check(&self, component: Vec<u8>, signature: Option<&str>) -> anyhow::Result<Report> {
        self.keys.check(&component, signature)?;
        let _one = self.proving.lock().await;
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
            let recorded = recordings.map(|directory| record::read_all(&directory)).transpose()?.unwrap_or_default();
            anyhow::Ok(prove::prove(&core, &against, &prove::sessions_to_run(&recorded)?))
        });
        let report = proof.await??;
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
        if self.slot.plan().current.digest() == digest {
            return Ok("it serves already".to_owned());
        }
        let is_share = |share: Option<u8>| share.is_none_or(|percent| (1..=100).contains(&percent));
        if !is_share(options.shadow) || !is_share(options.canary) {
            bail!("a share is a number from 1 to 100");
        }
        let mut state = self.state();
        if state.trial.as_ref().is_some_and(|trial| !trial.is_finished()) {
            bail!("a swap is under way: {}", state.progress);
        }
        let live = self.slot.plan().current;
        let is_it = |known: &&Candidate| known.core.digest() == digest && known.against.is(&live);
        let found = state.candidates.iter().find(is_it).map(|known| (known.core.clone(), known.report.clone()));
        let (core, report) = found.context("it was not checked against the core that serves")?;
        report.verdict(&options.accepted).map_err(anyhow::Error::msg)?;
        if let Some((_, until, why)) = state.barred.get(digest) {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                bail!("it was withdrawn ({why}), and stays away for another {} s", left.as_secs() + 1);
            }
        }
        let (swapper, options) = (self.clone(), options.clone());
        let is_trial = options.shadow.or(options.canary).is_some();
        state.progress = format!("{} comes into service", core.short_digest());
        if !is_trial {
            // Promoted when this returns; the first minutes are watched in the background.
            let before = self.slot.plan().current;
            drop(state);
            self.promote(&core, &options);
            let watch = tokio::spawn(async move { swapper.watch_promoted(&core, &before).await });
            // The watch of a core that is replaced ends by itself.
            drop(watch);
            return Ok("it serves".to_owned());
        }
        state.trial = Some(tokio::spawn(async move { swapper.try_out(core, options).await }));
        Ok("it is tried out".to_owned())
    }

    fn promote(&self, core: &Generation, options: &Options) {
        self.slot.promote(core, options.mode, self.drain);
        self.progress(format!("{} serves", core.short_digest()));
    }

    /// Shadow, canary, promotion and the first minutes.
    async fn try_out(self: Arc<Self>, core: Generation, options: Options) {
        let time = Duration::from_secs(options.seconds);
        let before = self.slot.plan().current;
        if let Some(percent) = options.shadow {
            self.progress(format!("{} looks on at {percent} % of the sessions for {time:?}", core.short_digest()));
            let trial = self.slot.try_out(&core, State::Shadow, percent);
            let end = Instant::now() + time;
            while Instant::now() < end && trial.fault().is_none() {
                sleep(LOOK.min(time)).await;
            }
            let differences = trial.differences();
            let accepts = options.accepted.sessions.iter().any(|name| name == "shadow");
            let shown: Vec<_> = differences.iter().map(|(what, times)| format!("{what} ({times} times)")).collect();
            let reason = match trial.fault() {
                Some(fault) => Some(format!("while it looked on, {fault}")),
                None if differences.is_empty() || accepts => None,
                None => Some(format!("while it looked on at {} sessions: {}", trial.sessions(), shown.join("; "))),
            };
            if let Some(reason) = reason {
                return self.withdraw(&core, reason);
            }
        }
        if let Some(percent) = options.canary {
            self.progress(format!("{} serves {percent} % of the connections for {time:?}", core.short_digest()));
            self.slot.try_out(&core, State::Canary, percent);
            let start = (core.stats().counts(), before.stats().counts());
            let end = Instant::now() + time;
            while Instant::now() < end {
                sleep(LOOK.min(time)).await;
                // The other sessions of the same time are what it is compared with.
                let core_counts = since(&core.stats().counts(), &start.0);
                if let Some(reason) = departure::departure(&core_counts, &since(&before.stats().counts(), &start.1)) {
                    return self.withdraw(&core, reason);
                }
            }
        }
        self.promote(&core, &options);
        // A trial is over with its promotion: a further swap may come.
        tokio::spawn(async move { self.watch_promoted(&core, &before).await });
    }

    /// Looks at the first minutes of a core, and withdraws it if it departs from the one before.
    async fn watch_promoted(&self, core: &Generation, before: &Generation) {
        let (start, baseline) = (core.stats().counts(), before.stats().counts());
        let end = Instant::now() + self.watch;
        while Instant::now() < end && self.slot.plan().current.is(core) {
            sleep(LOOK).await;
            if let Some(reason) = departure::departure(&since(&core.stats().counts(), &start), &baseline) {
                if self.slot.plan().current.is(core) {
                    self.withdraw(core, reason);
                }
                return;
            }
        }
    }

    fn withdraw(&self, core: &Generation, reason: String) {
        error!(core = core.short_digest(), reason, "a core is withdrawn");
        self.slot.withdraw(core, reason.clone());
        let mut state = self.state();
        let times = state.barred.get(core.digest()).map_or(0, |(times, ..)| *times) + 1;
        let until = Instant::now() + departure::back_off(times);
        state.barred.insert(core.digest().to_owned(), (times, until, reason.clone()));
        state.progress = format!("{} was withdrawn: {reason}", core.short_digest());
    }

    /// Ends a trial, or goes back to the core that served before.
    ///
    /// # Errors
    /// When there is nothing to go back to.
    pub fn rollback(&self) -> anyhow::Result<String> {
        let trial = self.state().trial.take_if(|trial| !trial.is_finished());
        if let Some(trial) = trial {
            trial.abort();
            let plan = self.slot.plan();
            for share in plan.canary.iter().chain(&plan.shadow) {
                self.slot.withdraw(&share.generation, "rolled back".to_owned());
            }
            self.progress("the trial was ended".to_owned());
            return Ok("the trial is ended".to_owned());
        }
        let current = self.slot.plan().current;
        let previous = self.slot.previous().context("no core has served before this one")?;
        self.slot.withdraw(&current, "rolled back".to_owned());
        self.progress(format!("{} serves again", previous.short_digest()));
        Ok(format!("{} serves again", previous.short_digest()))
    }

    /// What the slot is doing.
    pub fn status(&self) -> Status {
        let state = self.state();
        Status {
            slot: self.slot.name().to_owned(),
            generations: self.slot.status(),
            moves: self.slot.moves(),
            swap: state.progress.clone(),
            busy: state.trial.as_ref().is_some_and(|trial| !trial.is_finished()),
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
        let declared = read_beside(file, "differences")?.unwrap_or_default();
        let report = self.check(component, signature.as_deref()).await?;
        for finding in report.violations.iter().chain(&report.differences) {
            warn!(session = finding.session, "a core differs:\n{}", finding.diff);
        }
        let accepted = Accepted { sessions: Vec::new(), declared };
        self.swap(&report.digest, &Options { accepted, ..Options::default() })
    }

    /// Ends generations whose time is over and, with `watch_file`, follows the configured file. Never returns.
    pub async fn run(self: Arc<Self>, watch_file: bool) {
        let mut seen = self.file.as_ref().and_then(|file| stamp(file));
        let mut changing = false;
        loop {
            sleep(LOOK).await;
            self.slot.tidy();
            let Some(file) = self.file.as_ref().filter(|_| watch_file) else { continue };
            let found = stamp(file);
            if found != seen {
                // Read it when it has stopped changing.
                (seen, changing) = (found, true);
            } else if std::mem::take(&mut changing) && found.is_some() {
                match self.reload().await {
                    Ok(done) => info!(file = %file.display(), "the core's file has changed: {done}"),
                    Err(error) => {
                        error!(file = %file.display(), "the core's file has changed, and is refused: {error:#}")
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
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    match std::fs::read_to_string(&name) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", Path::new(&name).display())),
    }
}

fn since(counts: &Counts, start: &Counts) -> Counts {
    let mut responses = counts.responses;
    responses.iter_mut().zip(start.responses).for_each(|(count, start)| *count -= start);
    Counts {
        sessions: counts.sessions,
        opened: counts.opened - start.opened,
        moved_in: counts.moved_in - start.moved_in,
        stayed: counts.stayed - start.stayed,
        traps: counts.traps - start.traps,
        refusals: counts.refusals - start.refusals,
        calls: counts.calls - start.calls,
        call_nanos: counts.call_nanos - start.call_nanos,
        responses,
    }
}
