//! The table of settings.

use super::values::{
    choice, count, database, deadline, domain, duration, keys, name, network, one, parse, path, percent, size, some,
};
use super::{Listener, NamedCore, Refusal, Settings};
use crate::store::TlsMode;
use mailcell_core::limits;

/// Where a value comes from decides how an error names it; what is wrong with it, the row says.
pub(super) type Set = fn(&mut Settings, &[String]) -> Result<(), Refusal>;

/// Who takes a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The server.
    Server,
    /// The server for its sessions, and each listener for those on it.
    Session,
    /// Whatever opens the database.
    Database,
}

/// A row of the table.
pub struct Setting {
    /// The key, and the flag.
    pub name: &'static str,
    /// What a value looks like.
    pub value: &'static str,
    /// As it would be written in the file.
    pub default: &'static str,
    /// Who takes it.
    pub group: Group,
    /// One sentence, or two.
    pub help: &'static str,
    /// Whether it may be given several times.
    pub is_list: bool,
    pub(super) set: Set,
}

impl Setting {
    /// What it is, for people.
    pub fn about(&self) -> String {
        let also = if self.group == Group::Session { " Each listener may have its own." } else { "" };
        format!("{}{also}", self.help)
    }

    /// The values in a text that has commas between them.
    pub fn split(&self, text: &str) -> Vec<String> {
        match self.name {
            "listen" => Listener::split(text),
            _ if self.is_list => text.split(',').map(str::to_owned).collect(),
            _ => vec![text.to_owned()],
        }
    }
}

macro_rules! settings {
    ($($group:ident $name:literal $value:literal $default:literal $help:literal
       |$settings:ident, $text:pat_param| $set:expr;)*) => {
        /// All settings, in the order of the file.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            name: $name, value: $value, default: $default, group: Group::$group, help: $help,
            is_list: settings!(@is_list $default),
            set: |$settings, values| { let $text = values; $set; Ok(()) },
        }),*];
    };
    (@is_list $default:literal) => { $default.as_bytes()[0] == b'[' };
}

settings! {
    Server "listen" "ADDRESS" "[\"127.0.0.1:2525\"]"
        "Addresses to receive mail on. Behind each, with spaces between: tls=off, starttls, required or implicit if it is not to be starttls where there is a certificate; protocol=lmtp for LMTP; proxy=on where a proxy says first who the client is; slot=NAME for a core of that name; and NAME=VALUE for a setting of its own, such as message-size=1MiB. Beyond loopback, whoever reaches one may leave mail for any recipient."
        |s, texts| s.listen = some(texts)?.iter().map(|text| text.parse()).collect::<Result<_, String>>()?;
    Server "proxy-from" "NETWORK" "[]"
        "The proxies that are believed on listeners with proxy=on: addresses, or networks such as 10.0.0.0/8."
        |s, texts| s.proxy_from = texts.iter().map(|text| network(text)).collect::<Result<_, _>>()?;
    Session "xclient-from" "NETWORK" "[]"
        "The peers that are believed when they say by XCLIENT who their client is: addresses, or networks such as 10.0.0.0/8."
        |s, texts| s.xclient_from = texts.iter().map(|text| network(text)).collect::<Result<_, _>>()?;
    Server "tls-certificate" "FILE" "\"\""
        "The certificate for TLS with its chain, as PEM; it is read again when it changes."
        |s, texts| s.tls_certificate = path(one(texts)?);
    Server "tls-key" "FILE" "\"\""
        "The certificate's private key, as PEM."
        |s, texts| s.tls_key = path(one(texts)?);
    Session "name" "DOMAIN" "\"\""
        "The server's name in its greeting and its trace lines; empty for the machine's."
        |s, texts| s.name = name(one(texts)?)?;
    Server "core" "FILE" "[]"
        "The protocol core, a WebAssembly component, if it is not the one that the server carries; as NAME=FILE, the core of the listeners with slot=NAME."
        |s, texts| s.core = NamedCore::parse_all(texts)?;
    Server "core-keys" "KEY" "[]"
        "Ed25519 keys of those who may bring a core, in base64; with none of them, whoever may use the control socket."
        |s, texts| s.core_keys = keys(texts)?;
    Server "core-reload" "signal|watch" "\"signal\""
        "When the files of cores are read again: at SIGHUP, or when they change too, which needs core."
        |s, texts| s.core_watch_file = choice(one(texts)?, "watch", "signal", "expected signal or watch")?;
    Server "core-drain" "DURATION" "\"1h\""
        "How long sessions that do not move may stay in a core that was replaced."
        |s, texts| s.core_drain = duration(one(texts)?)?;
    Server "core-watch" "DURATION" "\"10m\""
        "How long a core is watched after it came into service; one that does worse than the one before is withdrawn."
        |s, texts| s.core_watch = duration(one(texts)?)?;
    Server "control" "FILE" "\"mailcell.sock\""
        "The socket for `mailcell core`, readable by its owner alone; empty for none."
        |s, texts| s.control = path(one(texts)?);
    Server "record-directory" "DIRECTORY" "\"\""
        "Where sessions are recorded, those that a core loses at the least; empty for nowhere."
        |s, texts| s.record_directory = path(one(texts)?);
    Server "record" "PERCENT" "0"
        "The share of all other sessions that is recorded; it needs record-directory."
        |s, texts| s.record = percent(one(texts)?)?;
    Server "record-content" "mask|keep" "\"mask\""
        "What recordings hold of messages: their shape, or all, which needs record-directory."
        |s, texts| s.record_content = choice(one(texts)?, "keep", "mask", "expected mask or keep")?;
    Server "record-size" "SIZE" "\"64MiB\""
        "All recordings together; the oldest make room."
        |s, texts| s.record_size = size(one(texts)?)?;
    Server "record-age" "DURATION" "\"168h\""
        "How long a recording is kept."
        |s, texts| s.record_age = duration(one(texts)?)?;
    Database "database" "URL" "\"sqlite:mailcell.db\""
        "Where mail is kept: sqlite:PATH or mysql://USER@HOST[:PORT]/NAME."
        |s, texts| s.database = database(texts)?;
    Database "database-password-file" "FILE" "\"\""
        "A file that holds the database's password, if MAILCELL_DATABASE_PASSWORD does not or is empty."
        |s, texts| s.database_password_file = path(one(texts)?);
    Database "database-tls" "MODE" "\"disabled\""
        "TLS to a mysql: database: disabled, required (certificate and name are verified), or insecure (encrypted, not verified)."
        |s, texts| s.database_tls = match one(texts)? {
            "disabled" => TlsMode::Disabled,
            "required" => TlsMode::Required,
            "insecure" => TlsMode::Insecure,
            _ => return Err("expected disabled, required or insecure".into()),
        };
    Database "database-ca-file" "FILE" "\"\""
        "The certificate authority that the database's certificate must come from, as PEM, with database-tls required; empty for the public ones."
        |s, texts| s.database_ca_file = path(one(texts)?);
    Database "database-deadline" "DURATION" "\"20s\""
        "How long a client waits for the database before it gets a 421, at most 24h."
        |s, texts| s.database_deadline = deadline(one(texts)?)?;
    Session "message-size" "SIZE" "\"25MiB\""
        "The largest message; less when the database takes less."
        |s, texts| s.message_size = size(one(texts)?)?;
    Session "header-size" "SIZE" "\"256KiB\""
        "The largest header section of a message."
        |s, texts| s.header_size = size(one(texts)?)?;
    Session "recipients" "COUNT" "100"
        "Recipients of one message, at most 100."
        |s, texts| s.recipients = count(one(texts)?, limits::RECIPIENTS_MAX as u64, "expected a number from 1 to 100")? as u32;
    Session "accept" "any|domains|users" "\"any\""
        "Whom mail is accepted for: any recipient, those in the domains, or those of them who are users."
        |s, texts| s.accept = one(texts)?.parse()?;
    Session "domains" "DOMAIN" "[]"
        "The domains of this server, for accept, one that is not ASCII in both its forms; without them accept=users takes users of every domain."
        |s, texts| s.domains = texts.iter().map(|text| domain(text)).collect::<Result<_, _>>()?;
    Session "auth" "tls|on|off" "\"tls\""
        "Whether clients may say who they are by AUTH: under TLS, in the clear too, or never."
        |s, texts| s.auth = one(texts)?.parse()?;
    Session "lookup" "on|authenticated|off" "\"on\""
        "Whether VRFY and EXPN are answered: to everyone, to those who said who they are, or to nobody."
        |s, texts| s.lookup = one(texts)?.parse()?;
    Session "dsn" "off|on" "\"off\""
        "Whether DSN is offered. Senders then ask for notices of delivery, and whoever takes the mail from the database has the duty to send them; what they ask is stored as the message's parameters."
        |s, texts| s.dsn = choice(one(texts)?, "on", "off", "expected off or on")?;
    Session "bare-newlines" "refuse|keep" "\"refuse\""
        "What becomes of a message with a bare CR, a bare LF or a NUL: it is refused, or stored as it came."
        |s, texts| s.keep_bare_newlines = choice(one(texts)?, "keep", "refuse", "expected refuse or keep")?;
    Session "errors" "COUNT" "20"
        "The error that ends a session."
        |s, texts| s.errors = count(one(texts)?, u32::MAX.into(), "expected a number from 1")? as u32;
    Session "idle-timeout" "DURATION" "\"10m\""
        "How long a session may go without a complete command or enough message data."
        |s, texts| s.idle_timeout = duration(one(texts)?)?;
    Session "session-age" "DURATION" "\"1h\""
        "How long a session may last."
        |s, texts| s.session_age = duration(one(texts)?)?;
    Session "data-rate" "OCTETS" "500"
        "Message data keeps a session from being idle at so many octets a second, over a minute."
        |s, texts| s.data_rate = count(one(texts)?, u32::MAX.into(), "expected a number of octets from 1")?;
    Session "write-timeout" "DURATION" "\"1m\""
        "How long a client may take to read what it is sent."
        |s, texts| s.write_timeout = duration(one(texts)?)?;
    Session "connections" "COUNT" "10000"
        "Connections at once, on all listeners together; less when file descriptors do not allow it."
        |s, texts| s.connections = count(one(texts)?, 1_000_000, "expected a number from 1 to 1000000")? as u32;
    Server "cells" "COUNT" "10000"
        "Sessions with a cell at once; less when memory mappings do not allow it. Others hibernate, or wait a moment."
        |s, texts| s.cells = count(one(texts)?, 1_000_000, "expected a number from 1 to 1000000")? as u32;
    Server "hibernate-after" "DURATION" "\"500ms\""
        "How long an idle session keeps its cell; then it hibernates, as a few octets, until the client says something."
        |s, texts| s.hibernate_after = duration(one(texts)?)?;
    Session "network-connections" "COUNT" "100"
        "Connections at once from one client network (an IPv4 address or an IPv6 /64), on all listeners together. Loopback is excepted."
        |s, texts| s.network_connections = count(one(texts)?, 1_000_000, "expected a number from 1 to 1000000")? as u32;
    Server "threads" "COUNT" "0"
        "Threads that serve sessions; 0 for as many as there are processors."
        |s, texts| s.threads = parse(one(texts)?, "expected a number")?;
    Server "busy-poll" "on|off" "\"on\""
        "Whether a thread that is spoken to every half a millisecond looks for work before it sleeps: that answers sooner, and takes mostly what nobody else wants of its processor. Off where processor time is rationed."
        |s, texts| s.busy_poll = choice(one(texts)?, "on", "off", "expected on or off")?;
    Server "message-memory" "SIZE" "\"256KiB\""
        "How much of an arriving message is held in memory; more goes to a spool file."
        |s, texts| s.message_memory = size(one(texts)?)? as usize;
    Server "spool-size" "SIZE" "\"1GiB\""
        "All spool files together; beyond that messages get a 452."
        |s, texts| s.spool_size = size(one(texts)?)?;
    Server "spool-directory" "DIRECTORY" "\"\""
        "Where spool files are made, which have no name; empty for the system's temporary directory."
        |s, texts| s.spool_directory = path(one(texts)?).unwrap_or_else(std::env::temp_dir);
    Server "store-memory" "SIZE" "\"256MiB\""
        "Memory for messages on their way into the database, all together. A message waits for it as long as for the database."
        |s, texts| s.store_memory = size(one(texts)?)?;
    Server "drain-timeout" "DURATION" "\"30s\""
        "How long a session may take to end its command when the server is stopped."
        |s, texts| s.drain_timeout = duration(one(texts)?)?;
    Server "log" "LEVEL" "\"info\""
        "What is logged: error, warn, info, debug or trace."
        |s, texts| s.log = parse(one(texts)?, "expected error, warn, info, debug or trace")?;
    Server "log-format" "text|json" "\"text\""
        "Lines for people, or JSON objects."
        |s, texts| s.log_json = choice(one(texts)?, "json", "text", "expected text or json")?;
}
