//! Runs a transcript over TCP, against the whole server and a real database.

use crate::component::GENERATION;
use crate::database::Database;
use crate::tls::Certificate;
use mailcell::server::{Server, default_core};
use mailcell::store::MailStore;
use mailcell_conformance::check;
use mailcell_conformance::host::{Effect, write_request};
use mailcell_conformance::transcript::{Input, Transcript};
use mailcell_core::{Date, Event, Message, Reply, Request};
use std::sync::LazyLock;
use std::time::Duration;
use surroundings::{make_database, open_store, settings};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;

mod surroundings;

/// How long a transcript may take in one cut.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a session may be idle where a transcript wants it to be, and may take to end when the server is stopped.
const IMPATIENCE: Duration = Duration::from_secs(2);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime starts"));

/// Why a transcript cannot run over TCP: a database does not change its mind within one session, a server does not repeat its
/// nonces, and what becomes of octets behind STARTTLS is a matter of when they come.
pub fn why_not(text: &str) -> Option<&'static str> {
    let transcript = Transcript::parse("", text).ok()?;
    let is_injected = |effects: &[Effect]| effects.contains(&Effect::StartTls) && effects.contains(&Effect::Close);
    if transcript.turns.iter().any(|turn| is_injected(&turn.effects)) {
        return Some("octets behind STARTTLS");
    }
    if replies(&transcript).any(|reply| matches!(reply, Reply::ScramChallenge(_))) {
        return Some("the server's nonce is another one each time");
    }
    let outcomes: Vec<_> = replies(&transcript).filter(|reply| is_of_a_message(reply)).collect();
    let is_alike = outcomes.windows(2).all(|pair| std::mem::discriminant(pair[0]) == std::mem::discriminant(pair[1]));
    (!is_alike).then_some("the database changes its mind")
}

fn is_of_a_message(reply: &Reply) -> bool {
    matches!(reply, Reply::Stored(_) | Reply::Unavailable | Reply::OutOfSpace | Reply::Refused)
}

/// Runs a transcript in three cuts.
///
/// # Errors
/// A text for people, with a difference of what was expected (`-`) and got (`+`).
pub fn check(name: &str, text: &str, database: &Database) -> Result<(), String> {
    let transcript = Transcript::parse(name, text).map_err(|error| error.to_string())?;
    RUNTIME.block_on(async {
        for cut in [Cut::AsWritten, Cut::Octets, Cut::Burst] {
            let run = timeout(PATIENCE, run(&transcript, database, cut));
            let got = run.await.map_err(|_| format!("{cut:?}: no end within {PATIENCE:?}"))??;
            let expected = expected(&transcript);
            let got = fold(got, &expected);
            if got != expected {
                return Err(format!("{cut:?}:\n{}", check::difference(&expected.join("\n"), &got.join("\n"))));
            }
        }
        Ok(())
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    AsWritten,
    Octets,
    Burst,
}

fn replies(transcript: &Transcript) -> impl Iterator<Item = &Reply> {
    transcript.turns.iter().filter_map(|turn| if let Input::Reply(reply) = &turn.input { Some(reply) } else { None })
}

async fn run(transcript: &Transcript, database: &Database, cut: Cut) -> Result<Vec<String>, String> {
    let (url, options) = make_database(transcript, database).await?;
    let store = open_store(&url, &options).await?;
    if replies(transcript).any(|reply| *reply == Reply::Unavailable) {
        database.take_tables_away(&url)?;
    }
    let has_tls = transcript.config.iter().any(|(key, value)| key == "tls" && value != "off");
    let certificate = has_tls.then(Certificate::make).transpose()?;
    let settings = settings(transcript, certificate.as_ref());
    let server = Server::bind(settings, store, default_core(GENERATION.clone())).await;
    let server = server.map_err(|error| format!("{error:#}"))?;
    let address = server.addresses()[0];
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.run(async {
        // Without a sender the server is to stop as well.
        let _ = stopped.await;
    }));
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut client = Client {
        stream: Some(BufReader::new(Box::new(stream))),
        certificate,
        lines: Vec::new(),
        closed: false,
        stop: Some(stop),
    };
    if transcript.config.iter().any(|(key, value)| key == "tls" && value == "on") {
        client.secure().await?;
    }
    client.run(transcript, cut).await?;
    let Client { lines: mut got, closed, stream, stop, .. } = client;
    drop((stream, stop));
    server.await.map_err(|error| error.to_string())?;
    got.extend(closed.then(|| "<close>".to_owned()));
    // A server that has stopped has let go of its store: what is durable is looked at by another one.
    if !replies(transcript).any(|reply| *reply == Reply::Unavailable) {
        got.extend(stored(open_store(&url, &options).await?.as_ref()).await?);
    }
    Ok(got)
}

/// A connection, whatever is between it and the wire.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

struct Client {
    /// Absent while TLS begins.
    stream: Option<BufReader<Box<dyn Duplex>>>,
    certificate: Option<Certificate>,
    lines: Vec<String>,
    closed: bool,
    stop: Option<oneshot::Sender<()>>,
}

impl Client {
    async fn run(&mut self, transcript: &Transcript, cut: Cut) -> Result<(), String> {
        let mut due = responses(&transcript.opening);
        let mut held = Vec::new();
        self.read(due).await;
        for turn in &transcript.turns {
            match &turn.input {
                Input::Client(octets) => held.extend_from_slice(octets),
                Input::Reply(_) => {}
                Input::Event(event) => {
                    self.write(&std::mem::take(&mut held), cut).await;
                    self.read(due).await;
                    match event {
                        Event::Drain => self.stop = None,
                        Event::TlsEstablished => self.secure().await?,
                        _ => {}
                    }
                }
            }
            due += responses(&turn.effects);
            if cut == Cut::AsWritten {
                self.write(&std::mem::take(&mut held), cut).await;
                self.read(due).await;
            }
        }
        self.write(&held, cut).await;
        self.read(due).await;
        let closes = transcript.turns.iter().any(|turn| turn.effects.contains(&Effect::Close));
        if closes {
            // What comes behind the last response is unexpected, and read all the same.
            self.read(usize::MAX).await;
        }
        Ok(())
    }

    /// Begins TLS, as its client.
    async fn secure(&mut self) -> Result<(), String> {
        if let (Some(stream), Some(certificate)) = (self.stream.take(), &self.certificate) {
            self.stream = Some(BufReader::new(Box::new(certificate.connect(stream.into_inner()).await?)));
        }
        Ok(())
    }

    /// A server that has closed takes no more; what it said before is still to be read.
    async fn write(&mut self, octets: &[u8], cut: Cut) {
        let size = if cut == Cut::Octets { 1 } else { octets.len().max(1) };
        for block in octets.chunks(size) {
            let Some(stream) = &mut self.stream else { return };
            if stream.write_all(block).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }

    /// Reads until so many whole responses have come since the start, or the server closes.
    async fn read(&mut self, due: usize) {
        let is_last = |line: &String| line.as_bytes().get(3) != Some(&b'-');
        let mut line = Vec::new();
        while !self.closed && self.lines.iter().filter(|line| is_last(line)).count() < due {
            line.clear();
            let Some(stream) = &mut self.stream else { return };
            match stream.read_until(b'\n', &mut line).await {
                Ok(1..) => self.lines.push(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()),
                Ok(0) | Err(_) => self.closed = true,
            }
        }
    }
}

fn responses(effects: &[Effect]) -> usize {
    let is_last = |effect: &&Effect| match effect {
        Effect::Line(line) => line.get(3) != Some(&b'-'),
        Effect::AnyResponse(_) => true,
        _ => false,
    };
    effects.iter().filter(is_last).count()
}

/// What a transcript says that a client sees, and that a database holds at the end.
fn expected(transcript: &Transcript) -> Vec<String> {
    let effects = transcript.effects();
    let stored: Vec<_> =
        replies(transcript).filter_map(|r| if let Reply::Stored(id) = r { Some(id) } else { None }).collect();
    let mut lines = Vec::new();
    for effect in effects.iter().flatten() {
        match effect {
            Effect::Line(line) => {
                let line = String::from_utf8_lossy(line).into_owned();
                lines.push(
                    stored.iter().fold(line, |line, id| line.replace(&format!("Stored as {id}"), "Stored as ID")),
                );
            }
            Effect::AnyResponse(code) => lines.push(format!("{code} *")),
            Effect::Close => lines.push("<close>".to_owned()),
            Effect::StartTls | Effect::Message(_) | Effect::Request(_) | Effect::Fault(_) | Effect::Astray(_) => {}
        }
    }
    for (turn, before) in transcript.turns.iter().zip(&effects) {
        if let (Input::Reply(Reply::Stored(_)), Some(Effect::Request(request))) = (&turn.input, before.last()) {
            lines.push(request.clone());
            let octets =
                before.iter().find_map(|e| if let Effect::Message(octets) = e { Some(&octets[..]) } else { None });
            lines.push(show(octets.unwrap_or_default()));
        }
    }
    lines
}

fn show(octets: &[u8]) -> String {
    octets.escape_ascii().to_string().replace("\\r\\n", "\\r\\n\n")
}

/// Gives what was got in the form of what is expected: ids by that name, whole responses where only the code matters.
fn fold(got: Vec<String>, expected: &[String]) -> Vec<String> {
    let mut folded: Vec<String> = Vec::new();
    let mut inside = false;
    for line in got {
        let line = match line.split_once("Stored as ") {
            Some((start, id)) if uuid::Uuid::try_parse(id).is_ok() => format!("{start}Stored as ID"),
            _ => line,
        };
        if !inside {
            let any = expected.get(folded.len()).and_then(|expected| expected.strip_suffix(" *"));
            match any.filter(|code| line.starts_with(code)) {
                Some(code) => folded.push(format!("{code} *")),
                None => {
                    folded.push(line);
                    continue;
                }
            }
        }
        inside = line.as_bytes().get(3) == Some(&b'-');
    }
    folded
}

/// The messages of a database as a transcript writes them, the earliest first.
async fn stored(store: &dyn MailStore) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let summaries = store.list_messages(&Default::default()).await.map_err(|error| error.to_string())?;
    for summary in summaries.iter().rev() {
        let message = store.message(summary.id).await.map_err(|error| error.to_string())?;
        let message = message.ok_or("a message that was listed is not there")?;
        let trace = String::from_utf8_lossy(&message.trace).into_owned();
        let between = |start: &str, end: &str| {
            let rest = trace.split_once(start).map_or("", |(_, rest)| rest);
            rest.split_once(end).map_or("", |(found, _)| found).to_owned()
        };
        let is_arrival = message.date.at.as_second() == message.received_at.as_second();
        let (mail_parameters, rcpt_parameters) = parameters(message.parameters.as_deref())?;
        let date = Date { seconds: message.date.at.as_second(), zone_minutes: message.date.zone_minutes };
        lines.push(write_request(&Request::StoreMessage(Box::new(Message {
            mail_from: message.mail_from,
            rcpt_to: message.rcpt_to,
            mail_parameters,
            rcpt_parameters,
            client_name: between("from ", " ("),
            protocol: between("with ", " id").into(),
            subject: message.subject,
            date: (!is_arrival).then_some(date),
            header_octets: message.headers.len() as u64,
            octets: (message.headers.len() + message.body.len()) as u64,
        }))));
        lines.push(show(&[message.headers, message.body].concat()));
    }
    Ok(lines)
}

fn parameters(json: Option<&str>) -> Result<(String, Vec<String>), String> {
    let Some(json) = json else { return Ok(Default::default()) };
    let mut kept: serde_json::Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let taken = (serde_json::from_value(kept["mail"].take()), serde_json::from_value(kept["rcpt"].take()));
    Ok((taken.0.map_err(|error| error.to_string())?, taken.1.map_err(|error| error.to_string())?))
}
