//! Runs a transcript against a core, in three cuts, and shows where it does otherwise.

use crate::host::{Effect, Open, ScriptedHost, write_request};
use crate::transcript::{Input, Transcript};
use mailcell_core::{Event, Reply};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The transcripts of `tests/sessions`, name and text, ordered by name.
pub const SESSIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sessions.rs"));

/// Runs a transcript of [`SESSIONS`] as written, octet by octet and as one burst. With `MAILCELL_REWRITE=1` in the
/// environment, the `S:`, `Q:` and `M:` lines of its file become what the first run gave.
///
/// # Errors
/// A text for people, with a difference of what was expected (`-`) and got (`+`).
pub fn check(name: &str, text: &str, open: Open<'_>) -> Result<(), String> {
    let transcript = Transcript::parse(name, text).map_err(|error| error.to_string())?;
    let expected = transcript.effects();
    let got = run(&transcript, open);
    let raw = got.concat();
    let got = fold(got, &expected);
    if got != expected {
        let is_sound = !raw.iter().any(|effect| matches!(effect, Effect::Fault(_) | Effect::Astray(_)));
        if is_sound && std::env::var_os("MAILCELL_REWRITE").is_some_and(|value| value == "1") {
            let path = path(name);
            std::fs::write(&path, transcript.write(&got)).map_err(|error| format!("{}: {error}", path.display()))?;
        } else {
            return Err(format!("as written:\n{}", difference(&transcript.write(&expected), &transcript.write(&got))));
        }
    }
    for (cut, octets) in [("octet by octet", 1), ("as one burst", usize::MAX)] {
        let cut_up = run_cut(&transcript, open, octets).map_err(|error| format!("{cut}: {error}"))?;
        if cut_up != raw {
            let [raw, cut_up] = [raw, cut_up].map(|effects| transcript.write(&[effects]));
            return Err(format!("{cut} gives other effects than line by line:\n{}", difference(&raw, &cut_up)));
        }
    }
    Ok(())
}

/// Where a transcript of [`SESSIONS`] lies in the repository.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sessions").join(name).with_extension("txt")
}

/// Gives each input by itself, and the effects of each, the opening's in front. A session that is over, or waits for
/// a reply that is not written, gets no further input.
pub fn run(transcript: &Transcript, open: Open<'_>) -> Vec<Vec<Effect>> {
    let mut host = ScriptedHost::open(open, &transcript.config);
    let mut effects = vec![host.take_effects()];
    for turn in &transcript.turns {
        let astray = match (&turn.input, host.awaiting()) {
            _ if host.is_closed() => Some("the session is over already".to_owned()),
            (Input::Reply(reply), Some(_)) => {
                host.reply(reply.clone());
                None
            }
            (Input::Reply(_), None) => Some("nothing was asked".to_owned()),
            (_, Some(request)) => Some(unanswered(&write_request(request))),
            (Input::Client(octets), None) => {
                host.input(octets);
                None
            }
            (Input::Event(Event::TlsEstablished), None) if !host.is_starting_tls() => {
                Some("TLS was not to begin".to_owned())
            }
            (Input::Event(event), None) => {
                host.event(*event);
                None
            }
        };
        if let Some(astray) = astray {
            effects.push(vec![Effect::Astray(astray)]);
            return effects;
        }
        effects.push(host.take_effects());
    }
    if let (Some(request), Some(last)) = (host.awaiting(), effects.last_mut()) {
        last.push(Effect::Astray(unanswered(&write_request(request))));
    }
    effects
}

fn unanswered(request: &str) -> String {
    format!("there is no reply to {request}")
}

/// Folds each response of which only the code is expected into that, where the code is the same.
pub fn fold(got: Vec<Vec<Effect>>, expected: &[Vec<Effect>]) -> Vec<Vec<Effect>> {
    let expected = expected.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
    got.into_iter().zip(expected).map(|(got, expected)| fold_any(got, expected)).collect()
}

/// Gives everything between two events of the host in blocks of `octets`.
fn run_cut(transcript: &Transcript, open: Open<'_>, octets: usize) -> Result<Vec<Effect>, String> {
    let mut host = ScriptedHost::open(open, &transcript.config);
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
