//! Runs a transcript over TCP, against the whole server and a real database.

use crate::component::GENERATION;
use crate::database::Database;
use crate::tls::Certificate;
use mailcell::config::{Protocol, Settings, TlsUse};
use mailcell::credentials;
use mailcell::server::Server;
use mailcell::store::{self, MailStore, Options, User};
use mailcell_conformance::check;
use mailcell_conformance::host::{Effect, write_request};
use mailcell_conformance::transcript::{Input, Transcript};
use mailcell_core::{Date, Event, Message, Reply, Request};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a transcript may take in one cut.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a session may be idle where a transcript wants it to be, and may take to end when the server is stopped.
const IMPATIENCE: Duration = Duration::from_secs(2);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime starts"));

/// Why a transcript cannot run over TCP: a database does not change its mind within one session, and what becomes of octets
/// behind STARTTLS is a matter of when they come.
pub fn why_not(text: &str) -> Option<&'static str> {
    let transcript = Transcript::parse("", text).ok()?;
    let is_injected = |effects: &[Effect]| effects.contains(&Effect::StartTls) && effects.contains(&Effect::Close);
    if transcript.turns.iter().any(|turn| is_injected(&turn.effects)) {
        return Some("octets behind STARTTLS");
    }
    let outcomes: Vec<_> = replies(&transcript).filter(|reply| is_of_a_message(reply)).collect();
    let is_alike = outcomes.windows(2).all(|pair| std::mem::discriminant(pair[0]) == std::mem::discriminant(pair[1]));
    (!is_alike).then_some("the database changes its mind")
}

fn is_of_a_message(reply: &Reply) -> bool {
    !matches!(reply, Reply::Mailboxes(_) | Reply::Authenticated(_) | Reply::NotAuthenticated)
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

/// Makes the database that the transcript's replies describe.
async fn make_database(transcript: &Transcript, database: &Database) -> Result<(String, Options), String> {
    let (url, options) = database.fresh()?;
    let store = open_store(&url, &options).await?;
    for user in users(transcript) {
        store.add_user(&user).await.map_err(|error| error.to_string())?;
    }
    store.close().await;
    if replies(transcript).any(|reply| *reply == Reply::Refused) {
        database.refuse_messages(&url)?;
    }
    Ok((url, options))
}

async fn open_store(url: &str, options: &Options) -> Result<Arc<dyn MailStore>, String> {
    store::open(url, options).await.map_err(|error| error.to_string())
}

/// Everyone whom a reply names, in the group that was asked for.
fn users(transcript: &Transcript) -> Vec<User> {
    let mut users = BTreeMap::new();
    let mut group = None;
    let effects = transcript.effects();
    for (turn, before) in transcript.turns.iter().zip(&effects) {
        if let (Input::Reply(Reply::Authenticated(name)), Some(Effect::Request(request))) = (&turn.input, before.last())
        {
            let password = request.rsplit_once(' ').map_or("", |(_, password)| password);
            let credentials = credentials::from_password(password).expect("it is a password");
            user_of(&mut users, name).credentials = Some(credentials);
        }
        let Input::Reply(Reply::Mailboxes(page)) = &turn.input else { continue };
        if let Some(Effect::Request(request)) = before.last() {
            match request.split_once(' ') {
                Some(("expand-group", name)) => group = Some(name.to_owned()),
                Some(_) => group = None,
                // A further page of the same list.
                None => {}
            }
        }
        for mailbox in &page.mailboxes {
            let user = user_of(&mut users, mailbox);
            user.group = group.clone().or(user.group.take());
        }
    }
    users.into_values().collect()
}

fn user_of<'a>(users: &'a mut BTreeMap<String, User>, mailbox: &str) -> &'a mut User {
    let (username, domain) = mailbox.rsplit_once('@').expect("a mailbox has an @");
    users.entry(mailbox.to_owned()).or_insert_with(|| User {
        username: username.to_owned(),
        domain: domain.to_owned(),
        group: None,
        credentials: None,
    })
}

fn settings(transcript: &Transcript, certificate: Option<&Certificate>) -> Settings {
    let mut settings = Settings { listen: vec!["127.0.0.1:0".parse().expect("an address")], ..Settings::default() };
    settings.connections = 32;
    // As a core has it that is told nothing.
    settings.auth = "off".to_owned();
    settings.control = None;
    for (key, value) in &transcript.config {
        let number = || value.parse::<u64>().expect("a number");
        match key.as_str() {
            "name" => settings.name = value.clone(),
            "message-octets-max" => settings.message_size = number(),
            "header-octets-max" => settings.header_size = number(),
            "recipients-max" => settings.recipients = number() as u32,
            "errors-max" => settings.errors = number() as u32,
            "protocol" if value == "lmtp" => settings.listen[0].protocol = Protocol::Lmtp,
            "protocol" => {}
            "accept" => settings.accept = value.clone(),
            "domains" => settings.domains = value.split(',').map(str::to_owned).collect(),
            "lookup" => settings.lookup = value.clone(),
            "auth" => settings.auth = value.clone(),
            "tls" if value == "on" => settings.listen[0].tls = Some(TlsUse::Implicit),
            "tls" => settings.listen[0].tls = settings.listen[0].tls.or(Some(TlsUse::Offered)),
            "require-tls" => settings.listen[0].tls = Some(TlsUse::Required),
            "bare-newlines" => settings.keep_bare_newlines = value == "keep",
            _ => panic!("no setting of the server's: {key}"),
        }
    }
    if let Some(certificate) = certificate {
        settings.tls_certificate = Some(certificate.certificate.clone());
        settings.tls_key = Some(certificate.key.clone());
    }
    settings.drain_timeout = IMPATIENCE;
    for turn in &transcript.turns {
        match &turn.input {
            Input::Event(Event::IdleTimeout) => settings.idle_timeout = IMPATIENCE,
            Input::Event(Event::SessionExpired) => settings.session_age = IMPATIENCE,
            Input::Reply(Reply::OutOfSpace) => (settings.message_memory, settings.spool_size) = (1, 1),
            _ => {}
        }
    }
    settings
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
    let server = Server::bind(settings, store, GENERATION.clone()).await;
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
        let date = Date { seconds: message.date.at.as_second(), zone_minutes: message.date.zone_minutes };
        lines.push(write_request(&Request::StoreMessage(Message {
            mail_from: message.mail_from,
            rcpt_to: message.rcpt_to,
            client_name: between("from ", " ("),
            protocol: between("with ", " id").into(),
            subject: message.subject,
            date: (!is_arrival).then_some(date),
            header_octets: message.headers.len() as u64,
            octets: (message.headers.len() + message.body.len()) as u64,
        })));
        lines.push(show(&[message.headers, message.body].concat()));
    }
    Ok(lines)
}
