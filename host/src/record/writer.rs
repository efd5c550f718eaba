//! Recordings on disk: one file a session, written by a thread of its own, bounded in size and age.

use super::mask;
use super::{Recorder, Recording};
use crate::cell::{Facts, Generation, digest};
use crate::config::Settings;
use crate::swap::prove::Still;
use anyhow::Context;
use jiff::Timestamp;
use mailcell_conformance::check;
use mailcell_conformance::host::Effect;
use mailcell_conformance::transcript::Transcript;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};
use tracing::{info, warn};
use uuid::Uuid;

/// Sessions that wait to be written; further ones are not recorded.
const WAITING_MAX: usize = 64;

/// What the names of recordings end in.
const EXTENSION: &str = "txt";

/// Recordings that [`read_all`] reads, the latest.
const READ_MAX: usize = 1_000;

/// Where recordings go, and which sessions are recorded.
#[derive(Clone, Debug)]
pub struct Recordings {
    writer: SyncSender<Recording>,
    percent: u8,
    sessions: Arc<AtomicU64>,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("core", &self.generation).finish_non_exhaustive()
    }
}

impl Recordings {
    /// As the settings say; `None` when nothing is to be recorded.
    ///
    /// # Errors
    /// When the directory cannot be made or written to.
    pub fn start(settings: &Settings) -> anyhow::Result<Option<Recordings>> {
        let Some(directory) = &settings.record_directory else { return Ok(None) };
        let shown = || format!("cannot record to {}", directory.display());
        fs::create_dir_all(directory).with_context(shown)?;
        let (writer, waiting) = sync_channel(WAITING_MAX);
        let disk = Disk {
            directory: directory.clone(),
            octets_max: settings.record_size,
            age_max: settings.record_age,
            with_content: settings.record_content,
        };
        disk.tidy(0).with_context(shown)?;
        std::thread::Builder::new().name("recordings".to_owned()).spawn(move || disk.run(&waiting))?;
        Ok(Some(Recordings { writer, percent: settings.record, sessions: Arc::default() }))
    }

    /// Begins to record a session.
    pub fn begin(&self, generation: &Generation, facts: &Facts) -> Recorder {
        let at = self.sessions.fetch_add(1, Ordering::Relaxed).wrapping_mul(37) % 100;
        Recorder {
            recordings: self.clone(),
            generation: generation.clone(),
            facts: facts.clone(),
            told: Vec::new(),
            octets: 0,
            comments: Vec::new(),
            is_chosen: at < u64::from(self.percent),
            is_complete: true,
            is_secret: false,
        }
    }

    pub(super) fn write(&self, recording: Recording) {
        if self.writer.try_send(recording).is_err() {
            warn!("a session is not recorded: the recordings before it are not written yet");
        }
    }
}

/// The recordings of a directory, name and text, the latest ones if there are very many.
///
/// # Errors
/// When one cannot be read.
pub fn read_all(directory: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = files(directory).with_context(|| directory.display().to_string())?;
    let extra = files.len().saturating_sub(READ_MAX);
    let read = |(path, ..): (PathBuf, SystemTime, u64)| {
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok((name, text))
    };
    files.drain(extra..).map(read).collect()
}

/// The recordings of a directory, the earliest first.
fn files(directory: &Path) -> std::io::Result<Vec<(PathBuf, SystemTime, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            let metadata = entry.metadata()?;
            files.push((path, metadata.modified()?, metadata.len()));
        }
    }
    files.sort_by(|(one, at, _), (other, other_at, _)| (at, one).cmp(&(other_at, other)));
    Ok(files)
}

struct Disk {
    directory: PathBuf,
    octets_max: u64,
    age_max: Duration,
    with_content: bool,
}

impl Disk {
    fn run(&self, waiting: &Receiver<Recording>) {
        while let Ok(recording) = waiting.recv() {
            match self.write(recording) {
                Ok(path) => info!(file = %path.display(), "recorded"),
                Err(error) => warn!(error = %format!("{error:#}"), "a session is not recorded"),
            }
        }
    }

    fn write(&self, recording: Recording) -> anyhow::Result<PathBuf> {
        let fault = recording.fault.clone();
        let (transcript, effects) = transcript(recording, self.with_content);
        let text = transcript.write(&effects);
        self.tidy(text.len() as u64)?;
        let kind = if fault.is_some() { "fault" } else { "session" };
        let path = self.directory.join(format!("{kind}-{}.{EXTENSION}", Uuid::now_v7()));
        // Whole or not at all: a swap may read it at any time.
        let unfinished = path.with_extension("part");
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&unfinished, &path)?;
        Ok(path)
    }

    /// Removes what is too old, and then the oldest until `octets` more fit.
    fn tidy(&self, octets: u64) -> std::io::Result<()> {
        let mut files = files(&self.directory)?;
        let mut used: u64 = files.iter().map(|(.., octets)| octets).sum();
        files.reverse();
        while let Some((path, at, size)) = files.pop() {
            let is_old = at.elapsed().is_ok_and(|age| age > self.age_max);
            if !is_old && used + octets <= self.octets_max {
                break;
            }
            fs::remove_file(path)?;
            used -= size;
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
    let effects = check::run(&draft, &|config| Still::open(&generation, config));
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
