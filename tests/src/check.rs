//! Runs a transcript against a core, in three cuts, and shows where it does otherwise.

use crate::driver::{Core, Effect, ScriptedHost, write_request};
use crate::transcript::{Input, Transcript};
use mailcell_core::Reply;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Makes a core for one session.
pub type MakeCore<'a> = &'a dyn Fn() -> Box<dyn Core>;

/// Runs the transcript of a file as written, octet by octet and as one burst. With `MAILCELL_REWRITE=1` in the
/// environment, the `S:`, `Q:` and `M:` lines become what the first run gave.
///
/// # Errors
/// A text for people, with a difference of what was expected (`-`) and got (`+`).
pub fn check(path: &Path, core: MakeCore) -> Result<(), String> {
    let transcript = Transcript::load(path).map_err(|error| error.to_string())?;
    let expected = transcript.effects();
    let mut got = run_as_written(&transcript, core)?;
    let raw = got.concat();
    for (got, expected) in got.iter_mut().zip(&expected) {
        *got = fold_any(std::mem::take(got), expected);
    }
    if got != expected {
        if std::env::var_os("MAILCELL_REWRITE").is_some_and(|value| value == "1") {
            std::fs::write(path, transcript.write(&got)).map_err(|error| format!("{}: {error}", path.display()))?;
        } else {
            return Err(format!("as written:\n{}", difference(&transcript.write(&expected), &transcript.write(&got))));
        }
    }
    for (cut, octets) in [("octet by octet", 1), ("as one burst", usize::MAX)] {
        let cut_up = run_cut(&transcript, core, octets).map_err(|error| format!("{cut}: {error}"))?;
        if cut_up != raw {
            let [raw, cut_up] = [raw, cut_up].map(|effects| transcript.write(&[effects]));
            return Err(format!("{cut} gives other effects than line by line:\n{}", difference(&raw, &cut_up)));
        }
    }
    Ok(())
}

/// The transcripts of this package, ordered by name.
pub fn all() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("sessions");
    let entries = std::fs::read_dir(&directory).expect("tests/sessions is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a directory can be read").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

/// Gives each input by itself, and the effects of each.
fn run_as_written(transcript: &Transcript, core: MakeCore) -> Result<Vec<Vec<Effect>>, String> {
    let mut host = ScriptedHost::open(core(), &transcript.config);
    let mut effects = vec![host.take_effects()];
    for turn in &transcript.turns {
        let fail = |message: String| Err(format!("{}:{}: {message}", transcript.path.display(), turn.line));
        if host.is_closed() {
            return fail("the connection is closed already".into());
        }
        match (&turn.input, host.awaiting()) {
            (Input::Reply(reply), Some(_)) => host.reply(reply.clone()),
            (Input::Reply(_), None) => return fail("nothing was asked".into()),
            (_, Some(request)) => {
                return fail(format!("an A: line is missing before this one, for {}", write_request(request)));
            }
            (Input::Client(octets), None) => host.input(octets),
            (Input::Event(event), None) => host.event(*event),
        }
        effects.push(host.take_effects());
    }
    match host.awaiting() {
        Some(request) => Err(format!(
            "{}: an A: line is missing at the end, for {}",
            transcript.path.display(),
            write_request(request)
        )),
        None => Ok(effects),
    }
}

/// Gives everything between two events of the host in blocks of `octets`.
fn run_cut(transcript: &Transcript, core: MakeCore, octets: usize) -> Result<Vec<Effect>, String> {
    let mut host = ScriptedHost::open(core(), &transcript.config);
    let mut replies: VecDeque<Reply> = VecDeque::new();
    let mut client = Vec::new();
    for turn in &transcript.turns {
        match &turn.input {
            Input::Client(octets) => client.extend_from_slice(octets),
            Input::Reply(reply) => replies.push_back(reply.clone()),
            Input::Event(event) => {
                send(&mut host, &std::mem::take(&mut client), octets, &mut replies)?;
                host.event(*event);
            }
        }
    }
    send(&mut host, &client, octets, &mut replies)?;
    Ok(host.take_effects())
}

fn send(host: &mut ScriptedHost, input: &[u8], octets: usize, replies: &mut VecDeque<Reply>) -> Result<(), String> {
    for block in input.chunks(octets) {
        host.input(block);
        while let Some(request) = host.awaiting() {
            let reply = replies.pop_front().ok_or_else(|| format!("no A: line for {}", write_request(request)))?;
            host.reply(reply);
        }
    }
    Ok(())
}

/// Folds a response into one [`Effect::AnyResponse`] where that is expected and the code is the same.
fn fold_any(got: Vec<Effect>, expected: &[Effect]) -> Vec<Effect> {
    let mut folded = Vec::new();
    let mut got = got.into_iter().peekable();
    while let Some(effect) = got.next() {
        let any = expected.get(folded.len());
        let (Some(Effect::AnyResponse(code)), Effect::Line(line)) = (any, &effect) else {
            folded.push(effect);
            continue;
        };
        if !line.starts_with(code.to_string().as_bytes()) {
            folded.push(effect);
            continue;
        }
        let mut last = is_last(line);
        while let Some(Effect::Line(line)) = got.next_if(|effect| !last && matches!(effect, Effect::Line(_))) {
            last = is_last(&line);
        }
        folded.push(Effect::AnyResponse(*code));
    }
    folded
}

/// RFC 5321 4.2: a hyphen behind the code says that another line follows.
fn is_last(line: &[u8]) -> bool {
    line.get(3) != Some(&b'-')
}

/// What was expected (`-`) and got (`+`).
pub fn difference(expected: &str, got: &str) -> String {
    similar::TextDiff::from_lines(expected, got).unified_diff().context_radius(3).header("expected", "got").to_string()
}
