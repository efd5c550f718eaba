//! Transcripts: sessions written down as data, one behaviour a file.
//!
//! ```text
//! # What the behaviour is.
//! # RFC 5321 4.1.4
//! config: message-octets-max 2000
//!
//! S: 220 mx.test Mailcell ESMTP ready
//! C: VRFY bob
//! Q: find-user bob
//! A: user bob@mx.test
//! S: 250 2.1.5 <bob@mx.test>
//! ```
//!
//! | line | what it is |
//! |---|---|
//! | `#`, empty | a comment; behind the first event it stands before the `C:` or `E:` line that it explains |
//! | `config: KEY VALUE` | a setting of the core, before the first event; `name` is `mx.test` unless given |
//! | `C:` | octets from the client, CRLF implied; `C*9:` is nine such lines sent at once |
//! | `S:` | a line to the client as on the wire; `S*9:` is nine of them |
//! | `S: 250 *` | a whole response with that code, whatever its lines |
//! | `S: <start-tls>` | TLS begins, which `E: tls-established` tells |
//! | `S: <close>` | the server ends the connection |
//! | `E:` | an event of the host: `idle-timeout`, `session-expired`, `drain`, `line-too-long`, `tls-established` |
//! | `M:` | a line of the message that the next `Q: store-message` is about |
//! | `Q:` | a request of the core, as [`crate::host::write_request`] writes it |
//! | `A:` | the reply: `user MAILBOX` (a line each, `more` behind them if another page follows, `more utf8` if only that is |
//! | | not ASCII), `none`, `stored ID`, `unavailable`, `out-of-space`, `refused`, `authenticated USER`, `not-authenticated`, |
//! | | `scram-challenge TEXT`, `scram-authenticated TEXT USER`, `admitted`, `not-admitted` |
//!
//! [`crate::escape`] says how octets and repetition are written in `C:`, `S:`, `M:` and `A: user` lines. A recorded session is such a
//! file too. What a session does that no transcript can expect (a trap, a step that breaks the contract) is shown as `!:`.

use crate::escape;
use crate::host::Effect;
use mailcell_core::{Config, Event, MailboxPage, Reply};
use reply::{parse_reply, write_reply};
use std::fmt::Write;
use std::path::Path;

mod reply;

/// How often a line may be repeated by `*`.
const TIMES_MAX: usize = 1_000_000;

/// The server's name unless a transcript says otherwise.
pub const NAME: &str = "mx.test";

/// Why a transcript cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{name}:{line}: {message}")]
pub struct TranscriptError {
    /// The file.
    pub name: String,
    /// Counted from one.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// A session written down.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// The file, or what it is called without one.
    pub name: String,
    /// The lines before the first event as they stand in the file.
    header: Vec<String>,
    /// The settings of the core.
    pub config: Vec<(String, String)>,
    /// What happens before any input: the greeting.
    pub opening: Vec<Effect>,
    /// The inputs and what comes of each.
    pub turns: Vec<Turn>,
}

/// An input and what comes of it.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Where it stands, counted from one.
    pub line: usize,
    /// The input and the comments before it as they stand in the file.
    text: Vec<String>,
    /// The input.
    pub input: Input,
    /// What comes of it.
    pub effects: Vec<Effect>,
}

/// What comes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Octets from the client.
    Client(Vec<u8>),
    /// The answer to a request.
    Reply(Reply),
    /// An event of the host's own.
    Event(Event),
}

impl Transcript {
    /// Reads a file.
    ///
    /// # Errors
    /// With file and line, when it cannot be read or is no transcript.
    pub fn load(path: &Path) -> Result<Transcript, TranscriptError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| TranscriptError {
            name: name.clone(),
            line: 1,
            message: error.to_string(),
        })?;
        Transcript::parse(&name, &text)
    }

    /// Reads a text; `name` is for messages.
    ///
    /// # Errors
    /// With file and line, when it is no transcript.
    pub fn parse(name: &str, text: &str) -> Result<Transcript, TranscriptError> {
        let mut reader = Reader::default();
        for (at, line) in text.lines().enumerate() {
            let fail = |message| TranscriptError { name: name.to_owned(), line: at + 1, message };
            reader.read(at + 1, line).map_err(fail)?;
        }
        let fail = |message: &str| TranscriptError {
            name: name.to_owned(),
            line: text.lines().count(),
            message: message.into(),
        };
        if !reader.header.first().is_some_and(|line| line.starts_with("# ")) {
            return Err(fail("a transcript starts with a comment that says what the behaviour is"));
        }
        if !reader.comments.is_empty() {
            return Err(fail("comments behind the last event explain nothing"));
        }
        let Reader { header, mut config, opening, turns, .. } = reader;
        if !config.iter().any(|(key, _)| key == "name") {
            config.push(("name".into(), NAME.into()));
        }
        Ok(Transcript { name: name.to_owned(), header, config, opening, turns })
    }

    /// Makes a transcript of what a session was told. Each comment is a line without its `#`.
    pub fn of_session(name: &str, comments: &[String], config: &Config, inputs: Vec<Input>) -> Transcript {
        let mut header: Vec<_> = comments.iter().map(|comment| format!("# {comment}")).collect();
        header.extend(config.iter().map(|(key, value)| format!("config: {key} {value}")));
        let turns = inputs.into_iter().enumerate().map(|(at, input)| {
            let mut text = Vec::new();
            match &input {
                Input::Client(octets) => write_lines('C', &escape::encode_lines(octets), &mut text),
                Input::Reply(reply) => text.extend(write_reply(reply)),
                Input::Event(event) => text.push(format!("E: {}", write_event(*event))),
            }
            Turn { line: at + 1, text, input, effects: Vec::new() }
        });
        Transcript {
            name: name.to_owned(),
            header,
            config: config.to_owned(),
            opening: Vec::new(),
            turns: turns.collect(),
        }
    }

    /// Writes the transcript with other effects, as many lists of them as there are turns, the opening's in front.
    pub fn write(&self, effects: &[Vec<Effect>]) -> String {
        let mut lines = self.header.clone();
        for (i, effects) in effects.iter().enumerate() {
            lines.extend(i.checked_sub(1).map_or(&[][..], |turn| &self.turns[turn].text).iter().cloned());
            write_effects(effects, &mut lines);
        }
        lines.join("\n") + "\n"
    }

    /// The effects as they stand in the file, in the form that [`Transcript::write`] takes.
    pub fn effects(&self) -> Vec<Vec<Effect>> {
        std::iter::once(&self.opening).chain(self.turns.iter().map(|turn| &turn.effects)).cloned().collect()
    }
}

fn write_effects(effects: &[Effect], lines: &mut Vec<String>) {
    let mut rest = effects;
    while let Some(effect) = rest.first() {
        let mut read = 1;
        match effect {
            Effect::Line(_) => {
                let texts: Vec<_> = rest
                    .iter()
                    .map_while(|e| if let Effect::Line(line) = e { Some(write_line(line)) } else { None })
                    .collect();
                read = texts.len();
                write_lines('S', &texts, lines);
            }
            Effect::AnyResponse(code) => lines.push(format!("S: {code} *")),
            Effect::StartTls => lines.push("S: <start-tls>".into()),
            Effect::Close => lines.push("S: <close>".into()),
            Effect::Message(octets) => write_lines('M', &escape::encode_lines(octets), lines),
            Effect::Request(text) => lines.push(format!("Q: {text}")),
            Effect::Fault(text) | Effect::Astray(text) => lines.push(format!("!: {text}")),
        }
        rest = &rest[read..];
    }
}

/// A line of the server. One that ends like `250 *` does not stand for all of its code.
fn write_line(line: &[u8]) -> String {
    let text = escape::encode(line);
    text.strip_suffix(" *").map_or(text.clone(), |start| format!("{start} \\x2a"))
}

fn write_lines(kind: char, texts: &[String], lines: &mut Vec<String>) {
    for (times, text) in escape::join_alike(texts) {
        let mut line = String::from(kind);
        if times > 1 {
            write!(line, "*{times}").expect("a String takes everything");
        }
        line.push(':');
        if !text.is_empty() {
            line.push(' ');
            line.push_str(&text);
        }
        lines.push(line);
    }
}

#[derive(Default)]
struct Reader {
    header: Vec<String>,
    config: Vec<(String, String)>,
    opening: Vec<Effect>,
    turns: Vec<Turn>,
    /// Comments that no input has taken yet.
    comments: Vec<String>,
    /// Whether an event has come.
    begun: bool,
}

impl Reader {
    fn read(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.ends_with([' ', '\t']) {
            return Err("white space at the end, which nobody sees: write \\x20".into());
        }
        if line.is_empty() || line.starts_with('#') {
            let comments = if self.begun { &mut self.comments } else { &mut self.header };
            comments.push(line.to_owned());
            return Ok(());
        }
        let (kind, text) = line.split_once(':').ok_or("a line starts with its kind and a colon")?;
        let text = match text {
            "" => "",
            text => text.strip_prefix(' ').ok_or("a space stands behind the colon")?,
        };
        if kind == "config" {
            let pair = text.split_once(' ').ok_or("config: KEY VALUE")?;
            self.config.push((pair.0.to_owned(), pair.1.to_owned()));
            self.header.push(line.to_owned());
            return if self.begun { Err("settings stand before the first event".into()) } else { Ok(()) };
        }
        self.begun = true;
        let (kind, times) = match kind.split_once('*') {
            Some((kind @ ("C" | "S" | "M"), times)) => (kind, times.parse().map_err(|_| "no number of times")?),
            _ => (kind, 1),
        };
        if times > TIMES_MAX {
            return Err(format!("more than {TIMES_MAX} times"));
        }
        match kind {
            "C" => self.push(number, line, Input::Client(escape::decode_lines(text)?.concat().repeat(times))),
            "E" => self.push(number, line, Input::Event(parse_event(text)?)),
            "A" => self.read_reply(number, line, text)?,
            "S" | "M" | "Q" if !self.comments.is_empty() => {
                return Err("a comment stands before a C: or E: line".into());
            }
            "S" => self.effects().extend(repeat(parse_server(text)?, times)),
            "M" => self.read_message(&escape::decode_lines(text)?.concat().repeat(times)),
            "Q" => self.effects().push(Effect::Request(text.to_owned())),
            _ => return Err(format!("no such kind of line: {kind:?}")),
        }
        Ok(())
    }

    fn push(&mut self, number: usize, line: &str, input: Input) {
        let mut text = std::mem::take(&mut self.comments);
        text.push(line.to_owned());
        self.turns.push(Turn { line: number, text, input, effects: Vec::new() });
    }

    fn effects(&mut self) -> &mut Vec<Effect> {
        self.turns.last_mut().map_or(&mut self.opening, |turn| &mut turn.effects)
    }

    fn read_message(&mut self, octets: &[u8]) {
        match self.effects().last_mut() {
            Some(Effect::Message(message)) => message.extend_from_slice(octets),
            _ => self.effects().push(Effect::Message(octets.to_owned())),
        }
    }

    fn read_reply(&mut self, number: usize, line: &str, text: &str) -> Result<(), String> {
        let open_page = match self.turns.last_mut() {
            Some(Turn { input: Input::Reply(Reply::Mailboxes(page)), effects, text, .. }) if effects.is_empty() => {
                Some((page, text))
            }
            _ => None,
        };
        match (text.split_once(' ').unwrap_or((text, "")), open_page) {
            (("user", mailbox), Some((page, lines))) if !page.mailboxes.is_empty() && !page.more => {
                page.mailboxes.extend(parse_mailboxes(mailbox)?);
                page.is_ascii = page.mailboxes.iter().all(|mailbox| mailbox.is_ascii());
                lines.push(line.to_owned());
            }
            (("user", mailbox), None) => {
                let mailboxes = parse_mailboxes(mailbox)?;
                self.push(number, line, Input::Reply(Reply::Mailboxes(MailboxPage::new(mailboxes, false))));
            }
            (("more", utf8 @ ("" | "utf8")), Some((page, lines))) if !page.mailboxes.is_empty() && !page.more => {
                page.more = true;
                page.is_ascii &= utf8.is_empty();
                lines.push(line.to_owned());
            }
            (word, None) => self.push(number, line, Input::Reply(parse_reply(word)?)),
            _ => return Err("the reply before this one has come to nothing yet".into()),
        }
        Ok(())
    }
}

fn repeat<T: Clone>(items: Vec<T>, times: usize) -> impl Iterator<Item = T> {
    std::iter::repeat_n(items, times).flatten()
}

fn parse_mailboxes(text: &str) -> Result<Vec<String>, String> {
    let decode = |text: &String| String::from_utf8(escape::decode(text)?).map_err(|_| "no text in UTF-8".to_owned());
    escape::expand_range(text)?.iter().map(decode).collect()
}

const EVENTS: [(&str, Event); 5] = [
    ("idle-timeout", Event::IdleTimeout),
    ("session-expired", Event::SessionExpired),
    ("drain", Event::Drain),
    ("tls-established", Event::TlsEstablished),
    ("line-too-long", Event::LineTooLong),
];

fn parse_event(text: &str) -> Result<Event, String> {
    let found = EVENTS.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, event)| event).ok_or_else(|| format!("no such event: {text:?}"))
}

fn write_event(event: Event) -> &'static str {
    EVENTS.into_iter().find(|(_, known)| *known == event).map_or("unknown", |(name, _)| name)
}

fn parse_server(text: &str) -> Result<Vec<Effect>, String> {
    if text == "<start-tls>" {
        return Ok(vec![Effect::StartTls]);
    }
    if text == "<close>" {
        return Ok(vec![Effect::Close]);
    }
    if let Some(code) = text.strip_suffix(" *") {
        return Ok(vec![Effect::AnyResponse(code.parse().map_err(|_| format!("no code: {code:?}"))?)]);
    }
    let lines = escape::expand_range(text)?;
    lines.iter().map(|line| escape::decode(line).map(Effect::Line)).collect()
}

#[cfg(test)]
mod tests;
