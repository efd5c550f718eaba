//! Recordings on disk: one file a session, written by a thread of its own, bounded in size and age.

use super::mask;
use super::{Recorder, Recording};
use crate::cell::{Facts, Generation, digest};
use crate::config::Settings;
use crate::swap::prove::in_a_cell;
use anyhow::Context;
use jiff::Timestamp;
use mailcell_conformance::check;
use mailcell_conformance::host::Effect;
use mailcell_conformance::transcript::Transcript;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

/// Sessions that wait to be written; further ones are not recorded.
const WAITING_MAX: usize = 64;

/// What the names of recordings start with, and end in.
const KINDS: [&str; 2] = ["fault", "session"];
const EXTENSION: &str = "txt";
/// What the names of recordings that are being written end in.
const UNFINISHED: &str = "part";

/// Octets of all sessions that are being recorded, at the same time.
const HELD_OCTETS_MAX: u64 = 64 << 20;

/// How long the recordings that wait may take at the end of the server.
const FINISH_TIME_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether recordings are too old: never more often, and at least as often.
const LOOK_UP_MIN: Duration = Duration::from_secs(1);
const LOOK_UP_MAX: Duration = Duration::from_secs(600);

/// How often it is said at the most that sessions are not recorded.
const REPORT_PAUSE: Duration = Duration::from_secs(10);

/// Recordings that [`read_all`] reads, the latest.
const READ_MAX: usize = 1_000;

/// Where recordings go, and which sessions are recorded.
#[derive(Clone)]
pub struct Recordings {
    writer: SyncSender<Work>,
    percent: u8,
    sessions: Arc<AtomicU64>,
    held: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

enum Work {
    Write(Box<Recording>),
    /// Says when everything before it is written.
    Finish(oneshot::Sender<()>),
}

/// What a session that is recorded takes of the memory for all of them.
pub(super) struct Held {
    pub(super) octets: usize,
    all: Arc<AtomicU64>,
}

impl Held {
    /// Takes more; `false` when there is no more.
    pub(super) fn add(&mut self, octets: usize) -> bool {
        let add = |all: u64| Some(all + octets as u64).filter(|all| *all <= HELD_OCTETS_MAX);
        let is_added = self.all.try_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        self.octets += if is_added { octets } else { 0 };
        is_added
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.octets as u64, Ordering::Relaxed);
    }
}

impl Recordings {
    /// As the settings say; `None` when nothing is to be recorded.
    ///
    /// # Errors
    /// When the directory cannot be made or written to.
    pub fn start(settings: &Settings) -> anyhow::Result<Option<Recordings>> {
        let report = |sessions| warn!(sessions, "sessions are not recorded: too many were waiting to be written");
        Recordings::start_with(settings, report)
    }

    fn start_with(settings: &Settings, report: fn(u64)) -> anyhow::Result<Option<Recordings>> {
        let Some(directory) = &settings.record_directory else { return Ok(None) };
        let shown = || format!("cannot record to {}", directory.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(shown)?;
        let (writer, waiting) = sync_channel(WAITING_MAX);
        let mut disk = Disk {
            directory: directory.clone(),
            octets_max: settings.record_size,
            age_max: settings.record_age,
            with_content: settings.record_content,
            dropped: Arc::default(),
            report,
            used: 0,
            tidied: Instant::now(),
        };
        let dropped = disk.dropped.clone();
        disk.sweep().and_then(|()| disk.tidy(0)).with_context(shown)?;
        tempfile::tempfile_in(directory).with_context(shown)?;
        std::thread::Builder::new().name("recordings".to_owned()).spawn(move || disk.run(&waiting))?;
        let (sessions, held) = (Arc::default(), Arc::default());
        Ok(Some(Recordings { writer, percent: settings.record, sessions, held, dropped }))
    }

    /// Begins to record a session.
    pub fn begin(&self, generation: &Generation, facts: &Facts) -> Recorder {
        let at = self.sessions.fetch_add(1, Ordering::Relaxed).wrapping_mul(37) % 100;
        Recorder {
            recordings: self.clone(),
            generation: generation.clone(),
            facts: facts.clone(),
            told: Vec::new(),
            held: Held { octets: 0, all: self.held.clone() },
            comments: Vec::new(),
            is_chosen: at < u64::from(self.percent),
            is_complete: true,
            is_secret: false,
        }
    }

    pub(super) fn write(&self, recording: Recording) {
        if self.writer.try_send(Work::Write(Box::new(recording))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits, not for long, until everything is written.
    pub async fn finish(&self) {
        let (done, is_done) = oneshot::channel();
        let writer = self.writer.clone();
        // As many as can be may wait before it.
        let asked = tokio::task::spawn_blocking(move || writer.send(Work::Finish(done)));
        let finished = async { asked.await.is_ok_and(|asked| asked.is_ok()) && is_done.await.is_ok() };
        if !timeout(FINISH_TIME_MAX, finished).await.unwrap_or(false) {
            warn!("the last sessions are not recorded: it takes too long");
        }
    }
}

/// The recordings of a directory, name and text, the latest ones if there are very many. What cannot be read, or is gone
/// meanwhile, is left out and said.
pub fn read_all(directory: &Path) -> Vec<(String, String)> {
    let mut files = files(directory).unwrap_or_else(|error| {
        warn!(%error, directory = %directory.display(), "recordings cannot be read");
        Vec::new()
    });
    let extra = files.len().saturating_sub(READ_MAX);
    let read = |(path, ..): (PathBuf, SystemTime, u64)| {
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let text = fs::read_to_string(&path);
        text.inspect_err(|error| warn!(%error, file = %path.display(), "a recording cannot be read"))
            .ok()
            .map(|text| (name, text))
    };
    files.drain(extra..).filter_map(read).collect()
}

/// The recordings of a directory, the earliest first. Other files are none of ours.
fn files(directory: &Path) -> std::io::Result<Vec<(PathBuf, SystemTime, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !is_recording(&entry.path(), EXTENSION) {
            continue;
        }
        // Another one may have removed it.
        if let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_file) {
            files.push((entry.path(), metadata.modified()?, metadata.len()));
        }
    }
    files.sort_by(|(one, at, _), (other, other_at, _)| (at, one).cmp(&(other_at, other)));
    Ok(files)
}

/// Whether a recording may have that name, whose file has an extension behind it.
pub fn is_name(text: &str) -> bool {
    text.split_once('-').is_some_and(|(kind, id)| KINDS.contains(&kind) && Uuid::try_parse(id).is_ok())
}

fn is_recording(path: &Path, extension: &str) -> bool {
    let is_ours = path.file_stem().and_then(|name| name.to_str()).is_some_and(is_name);
    is_ours && path.extension().is_some_and(|found| found == extension)
}

/// Removes a file, which somebody else may have done meanwhile.
fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

struct Disk {
    directory: PathBuf,
    octets_max: u64,
    age_max: Duration,
    with_content: bool,
    /// Sessions that had no place, until that is said.
    dropped: Arc<AtomicU64>,
    report: fn(u64),
    /// Octets of all recordings, as far as is known.
    used: u64,
    /// When it was looked at them.
    tidied: Instant,
}

impl Disk {
    fn run(mut self, waiting: &Receiver<Work>) {
        let look_up = self.age_max.clamp(LOOK_UP_MIN, LOOK_UP_MAX);
        let is_due = |reported: Option<Instant>| reported.is_none_or(|at| at.elapsed() >= REPORT_PAUSE);
        let mut reported = None;
        loop {
            if is_due(reported) && self.say_dropped() {
                reported = Some(Instant::now());
            }
            // What is dropped meanwhile is said when that is due.
            let pause = if is_due(reported) { look_up } else { look_up.min(REPORT_PAUSE) };
            match waiting.recv_timeout(pause) {
                Ok(Work::Write(recording)) => match self.write(*recording) {
                    Ok(path) => info!(file = %path.display(), "recorded"),
                    Err(error) => warn!(error = %format!("{error:#}"), "a session is not recorded"),
                },
                Ok(Work::Finish(done)) => {
                    self.say_dropped();
                    // Whoever asked may wait no more.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.tidied.elapsed() >= look_up
                && let Err(error) = self.tidy(0)
            {
                warn!(%error, directory = %self.directory.display(), "old recordings cannot be removed");
            }
        }
    }

    /// Says how many sessions had no place, if any had none.
    fn say_dropped(&self) -> bool {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            (self.report)(dropped);
        }
        dropped > 0
    }

    fn write(&mut self, recording: Recording) -> anyhow::Result<PathBuf> {
        let kind = KINDS[usize::from(recording.fault.is_none())];
        let (transcript, effects) = transcript(recording, self.with_content);
        let text = transcript.write(&effects);
        Transcript::parse(kind, &text).context("it could not be read again")?;
        anyhow::ensure!(text.len() as u64 <= self.octets_max, "it is larger than all recordings may be");
        self.make_room(text.len() as u64)?;
        let path = self.directory.join(format!("{kind}-{}.{EXTENSION}", Uuid::now_v7()));
        // Whole or not at all: a swap may read it at any time.
        let unfinished = path.with_extension(UNFINISHED);
        let write = || {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&unfinished, &path)
        };
        let written: std::io::Result<()> = write();
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        self.used += text.len() as u64;
        Ok(path)
    }

    /// To look at thousands of recordings takes longer than to write one, so the oldest make room for many at a time.
    fn make_room(&mut self, octets: u64) -> std::io::Result<()> {
        let is_full = self.used + octets > self.octets_max;
        if is_full { self.tidy(octets.max(self.octets_max / 8)) } else { Ok(()) }
    }

    /// Removes what a server that was ended left unfinished.
    fn sweep(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if is_recording(&path, UNFINISHED) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what is too old, and then the oldest until `octets` more fit.
    fn tidy(&mut self, octets: u64) -> std::io::Result<()> {
        self.tidied = Instant::now();
        let mut files = files(&self.directory)?;
        self.used = files.iter().map(|(.., octets)| octets).sum();
        files.reverse();
        while let Some((path, at, size)) = files.pop() {
            let is_old = at.elapsed().is_ok_and(|age| age > self.age_max);
            if !is_old && self.used + octets <= self.octets_max {
                break;
            }
            remove(&path)?;
            self.used -= size;
        }
        Ok(())
    }
}

/// Makes the transcript of a session, and finds its effects.
fn transcript(recording: Recording, with_content: bool) -> (Transcript, Vec<Vec<Effect>>) {
    let Recording { generation, facts, told, comments, fault } = recording;
    let inputs = mask::mask_inputs(told, with_content);
    let mut lines = vec![match &fault {
        Some(fault) => format!("A session that was lost: {fault}."),
        None => "A recorded session.".to_owned(),
    }];
    lines.push(format!("Recorded {}.", Timestamp::now()));
    lines.push(format!("Core {}, version {}.", generation.digest(), generation.version()));
    lines.push(format!("Configuration {}.", digest(format!("{:?}", facts.config).as_bytes())));
    lines.extend((!with_content).then(|| "The content of messages is masked.".to_owned()));
    lines.extend(comments);
    let draft = Transcript::of_session("recording", &lines, &facts.config, inputs.clone());
    let effects = check::run(&draft, &|config| in_a_cell(&generation, config));
    let is_lost_again = effects.iter().flatten().any(|effect| matches!(effect, Effect::Fault(_)));
    if fault.is_some() && !is_lost_again {
        lines.push("Run from its beginning in that core, it is not lost.".to_owned());
        return (Transcript::of_session("recording", &lines, &facts.config, inputs), effects);
    }
    // A transcript expects no fault: where it comes, it is what differs.
    let effects = effects.into_iter().map(|mut effects| {
        effects.retain(|effect| !matches!(effect, Effect::Fault(_) | Effect::Astray(_)));
        effects
    });
    (draft, effects.collect())
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
