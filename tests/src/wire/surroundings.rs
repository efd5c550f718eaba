//! What a transcript wants around its session: a database that gives its replies, and the server's settings.

use super::{IMPATIENCE, replies};
use crate::database::Database;
use crate::tls::Certificate;
use mailcell::config::{Auth, Protocol, Settings, TlsUse};
use mailcell::credentials;
use mailcell::store::{self, MailStore, Options, User};
use mailcell_conformance::host::Effect;
use mailcell_conformance::transcript::{Input, Transcript};
use mailcell_core::{Event, Reply};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes the database that the transcript's replies describe.
pub(super) async fn make_database(transcript: &Transcript, database: &Database) -> Result<(String, Options), String> {
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

pub(super) async fn open_store(url: &str, options: &Options) -> Result<Arc<dyn MailStore>, String> {
    store::open(url, options).await.map_err(|error| error.to_string())
}

/// Everyone whom a reply names, in the group that was asked for.
fn users(transcript: &Transcript) -> Vec<User> {
    let mut users = BTreeMap::new();
    let mut group = None;
    let effects = transcript.effects();
    for (turn, before) in transcript.turns.iter().zip(&effects) {
        if let (Input::Reply(Reply::Authenticated(identity)), Some(Effect::Request(request))) =
            (&turn.input, before.last())
        {
            let password = request.rsplit_once(' ').map_or("", |(_, password)| password);
            let credentials = credentials::from_password(password).expect("it is a password");
            user_of(&mut users, &identity.user).credentials = Some(credentials);
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

pub(super) fn settings(transcript: &Transcript, certificate: Option<&Certificate>) -> Settings {
    let mut settings = Settings { listen: vec!["127.0.0.1:0".parse().expect("an address")], ..Settings::default() };
    settings.connections = 32;
    // As a core has it that is told nothing.
    settings.auth = Auth::Off;
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
            "accept" => settings.accept = value.parse().expect("a value of the setting"),
            "domains" => settings.domains = value.split(',').map(str::to_owned).collect(),
            "lookup" => settings.lookup = value.parse().expect("a value of the setting"),
            "auth" => settings.auth = value.parse().expect("a value of the setting"),
            "tls" if value == "on" => settings.listen[0].tls = Some(TlsUse::Implicit),
            "tls" => settings.listen[0].tls = settings.listen[0].tls.or(Some(TlsUse::Offered)),
            "require-tls" => settings.listen[0].tls = Some(TlsUse::Required),
            "dsn" => settings.dsn = value == "on",
            "xclient" => settings.xclient_from = vec!["127.0.0.1/32".parse().expect("a network")],
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
            Input::Reply(Reply::NotAdmitted) => settings.network_connections = 0,
            Input::Reply(Reply::OutOfSpace) => (settings.message_memory, settings.spool_size) = (1, 1),
            _ => {}
        }
    }
    settings
}
