//! The configuration. Every setting is one row of [`SETTINGS`]: its key in the file is its flag without the hyphens in
//! front, and its environment variable is that name in capitals behind `MAILCELL_`. What is none of them is refused, wherever
//! it stands.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. What a listener says of itself
//! wins over all of them, on that listener.

mod check;
mod environment;
mod listener;
mod secrets;
mod slots;
mod table;
mod values;
mod words;

pub use environment::{check_environment, variable};
pub use listener::{DEFAULT_SLOT, Listener};
pub use slots::{NamedCore, slot_name};
pub use table::{Group, SETTINGS, Setting};
pub use words::{Accept, Auth, Lookup, Protocol, TlsUse};

use crate::store::TlsMode;
use crate::swap::keys::TrustedKeys;
use ipnet::IpNet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// What a hundred recipients' DSN parameters take of a row, in JSON.
const NOTICES_OCTETS_MAX: u64 = 128 << 10;

/// A configuration that was checked.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the table says it")]
pub struct Settings {
    pub listen: Vec<Listener>,
    pub proxy_from: Vec<IpNet>,
    pub xclient_from: Vec<IpNet>,
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub name: String,
    pub core: Vec<NamedCore>,
    pub core_keys: TrustedKeys,
    pub core_watch_file: bool,
    pub core_drain: Duration,
    pub core_watch: Duration,
    pub control: Option<PathBuf>,
    pub record_directory: Option<PathBuf>,
    pub record: u8,
    pub record_content: bool,
    pub record_size: u64,
    pub record_age: Duration,
    pub database: String,
    pub database_password_file: Option<PathBuf>,
    pub database_tls: TlsMode,
    pub database_ca_file: Option<PathBuf>,
    pub database_deadline: Duration,
    pub message_size: u64,
    pub header_size: u64,
    pub recipients: u32,
    pub accept: Accept,
    pub domains: Vec<String>,
    pub lookup: Lookup,
    pub auth: Auth,
    pub dsn: bool,
    pub keep_bare_newlines: bool,
    pub errors: u32,
    pub idle_timeout: Duration,
    pub session_age: Duration,
    pub data_rate: u64,
    pub write_timeout: Duration,
    pub connections: u32,
    pub cells: u32,
    pub threads: u16,
    pub busy_poll: bool,
    pub hibernate_after: Duration,
    pub network_connections: u32,
    pub message_memory: usize,
    pub spool_size: u64,
    pub spool_directory: PathBuf,
    pub store_memory: u64,
    pub drain_timeout: Duration,
    pub log: tracing::Level,
    pub log_json: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let mut settings = Settings::empty();
        let file = default_file();
        settings.apply_file(&file, "the default configuration").expect("the table's defaults are good");
        settings
    }
}

impl Settings {
    /// What the table fills in.
    fn empty() -> Settings {
        Settings {
            listen: Vec::new(),
            proxy_from: Vec::new(),
            xclient_from: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            name: String::new(),
            core: Vec::new(),
            core_keys: TrustedKeys::default(),
            core_watch_file: false,
            core_drain: Duration::ZERO,
            core_watch: Duration::ZERO,
            control: None,
            record_directory: None,
            record: 0,
            record_content: false,
            record_size: 0,
            record_age: Duration::ZERO,
            database: String::new(),
            database_password_file: None,
            database_tls: TlsMode::Disabled,
            database_ca_file: None,
            database_deadline: Duration::ZERO,
            message_size: 0,
            header_size: 0,
            recipients: 0,
            accept: Accept::Any,
            domains: Vec::new(),
            lookup: Lookup::On,
            auth: Auth::Tls,
            dsn: false,
            keep_bare_newlines: false,
            errors: 0,
            idle_timeout: Duration::ZERO,
            session_age: Duration::ZERO,
            data_rate: 0,
            write_timeout: Duration::ZERO,
            connections: 0,
            cells: 0,
            threads: 0,
            busy_poll: false,
            hibernate_after: Duration::ZERO,
            network_connections: 0,
            message_memory: 0,
            spool_size: 0,
            spool_directory: PathBuf::new(),
            store_memory: 0,
            drain_timeout: Duration::ZERO,
            log: tracing::Level::INFO,
            log_json: false,
        }
    }

    /// Reads a file over what is set.
    ///
    /// # Errors
    /// One line with the file's name, and the line and what was expected when it can be read.
    pub fn read_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
        self.apply_file(&text, &path.display().to_string())
    }

    fn apply_file(&mut self, text: &str, file: &str) -> anyhow::Result<()> {
        let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            anyhow::anyhow!("{file}:{}: {}", line(at), error.message().replace('\n', ", "))
        })?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let at = line(key.span().start);
            let values = texts(value.get_ref()).ok_or_else(|| {
                anyhow::anyhow!("{file}:{at}: {}: expected a text, a number or a list of texts", key.get_ref())
            })?;
            let setting = find(key.get_ref()).map_err(|error| anyhow::anyhow!("{file}:{at}: {error}"))?;
            self.set(setting, &values, &format!("{file}:{at}: {}", setting.name))?;
        }
        Ok(())
    }

    /// Sets one setting, which an error calls `shown`.
    ///
    /// # Errors
    /// What was expected.
    pub fn set(&mut self, setting: &Setting, values: &[String], shown: &str) -> anyhow::Result<()> {
        (setting.set)(self, values).map_err(|refusal| match refusal {
            Refusal::Expected(expected) => {
                let found = values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
                anyhow::anyhow!("{shown}: {expected}, found {found}")
            }
            Refusal::Said(why) => anyhow::anyhow!("{shown}: {why}"),
        })
    }

    /// Whether strangers may leave mail for anyone.
    pub fn is_open_to_the_world(&self) -> bool {
        let is_open = |listener: &Listener| self.of(listener).accept == Accept::Any;
        self.listen.iter().any(|listener| !listener.address.ip().is_loopback() && is_open(listener))
    }

    /// What a core is told on such a listener; what is empty is not said. The smaller of both sizes is what SIZE shows.
    pub fn core_config(
        &self,
        protocol: Protocol,
        tls: TlsUse,
        database_octets_max: u64,
        is_trusted: bool,
    ) -> Vec<(String, String)> {
        let choose = |yes: bool, [on, off]: [&str; 2]| if yes { on } else { off }.to_owned();
        let asked = if self.dsn { NOTICES_OCTETS_MAX } else { 0 };
        [
            ("name", self.name.clone()),
            ("protocol", protocol.word().to_owned()),
            ("message-octets-max", self.message_size.min(database_octets_max.saturating_sub(asked)).to_string()),
            ("header-octets-max", self.header_size.to_string()),
            ("recipients-max", self.recipients.to_string()),
            ("errors-max", self.errors.to_string()),
            ("accept", self.accept.word().to_owned()),
            ("domains", self.domains.join(",")),
            ("lookup", self.lookup.word().to_owned()),
            ("auth", self.auth.word().to_owned()),
            (
                "tls",
                match tls {
                    TlsUse::Off => "off",
                    TlsUse::Offered | TlsUse::Required => "starttls",
                    TlsUse::Implicit => "on",
                }
                .to_owned(),
            ),
            ("require-tls", choose(tls == TlsUse::Required, ["on", "off"])),
            ("dsn", choose(self.dsn, ["on", "off"])),
            ("xclient", choose(is_trusted, ["on", ""])),
            ("bare-newlines", choose(self.keep_bare_newlines, ["keep", "refuse"])),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}

/// Why values are refused.
enum Refusal {
    /// What was expected, to be said with what was found.
    Expected(&'static str),
    /// The whole of it.
    Said(String),
}

impl From<&'static str> for Refusal {
    fn from(expected: &'static str) -> Refusal {
        Refusal::Expected(expected)
    }
}

impl From<String> for Refusal {
    fn from(why: String) -> Refusal {
        Refusal::Said(why)
    }
}

/// The default configuration as a file with comments.
pub fn default_file() -> String {
    let mut file = String::from("# Mailcell's settings and their defaults.\n");
    for setting in SETTINGS {
        file += &format!("\n# {}\n{} = {}\n", setting.about(), setting.name, setting.default);
    }
    file
}

fn find(name: &str) -> anyhow::Result<&'static Setting> {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
        return Ok(setting);
    }
    let near = SETTINGS.iter().find(|setting| is_near(setting.name, name));
    let hint = near.map(|near| format!("; is it `{}`?", near.name)).unwrap_or_default();
    anyhow::bail!("there is no setting `{name}`{hint}")
}

fn texts(value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::Array(values) => values.iter().map(|value| text(value.get_ref())).collect(),
        value => Some(vec![text(value)?]),
    }
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Whether a name was probably meant for another: one edit away, or with other separators.
pub(crate) fn is_near(name: &str, other: &str) -> bool {
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    let (name, other) = (plain(name), plain(other));
    let common = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let tail = name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
    name.len().abs_diff(other.len()) <= 1 && common + tail + 1 >= name.len().max(other.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Settings::default().apply_file(text, "m.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_those_of_the_table() {
        let settings = Settings::default();
        assert_eq!(settings.listen, ["127.0.0.1:2525".parse().unwrap()]);
        assert_eq!(settings.idle_timeout, Duration::from_secs(600));
        assert_eq!((settings.message_size, settings.spool_size), (25 << 20, 1 << 30));
    }

    #[test]
    fn size_leaves_room_for_what_a_row_holds_beside_the_message() {
        let size = |dsn| {
            let settings = Settings { dsn, ..Settings::default() };
            let config = settings.core_config(Protocol::Smtp, TlsUse::Off, 16 << 20, false);
            config.into_iter().find(|(key, _)| key == "message-octets-max").unwrap().1
        };
        assert_eq!((size(false), size(true)), ("16777216".to_owned(), "16646144".to_owned()));
    }

    #[test]
    fn beyond_loopback_any_recipient_is_worth_a_warning() {
        let is_open = |text: &str| {
            let mut settings = Settings::default();
            settings.apply_file(text, "m.toml").unwrap();
            settings.is_open_to_the_world()
        };
        assert!(!is_open(""));
        assert!(!is_open("listen = ['127.0.0.1:25', '[::1]:25']"));
        assert!(is_open("listen = ['127.0.0.1:25', '0.0.0.0:25']"));
        assert!(is_open("listen = '[::]:25'"));
        assert!(!is_open("listen = '[::]:25'\naccept = 'users'"));
        assert!(!is_open("listen = ['127.0.0.1:25', '[::]:25 accept=users']"));
        assert!(is_open("listen = ['127.0.0.1:25', '[::]:25 accept=any']\naccept = 'users'"));
    }

    #[test]
    fn an_error_names_file_line_and_what_was_expected() {
        assert_eq!(
            error("\nidle-timeout = 10"),
            "m.toml:2: idle-timeout: expected a duration such as 30s, 10m or 1h, found \"10\""
        );
        assert_eq!(
            error("database-deadline = '600h'"),
            "m.toml:1: database-deadline: expected at most 24h, found \"600h\""
        );
        assert_eq!(error("a = 1"), "m.toml:1: there is no setting `a`");
        assert_eq!(error("idle_timout = 1"), "m.toml:1: there is no setting `idle_timout`; is it `idle-timeout`?");
        assert_eq!(error("listen = [1.5]"), "m.toml:1: listen: expected a text, a number or a list of texts");
        assert_eq!(
            error("listen = 'x'"),
            "m.toml:1: listen: expected an address and a port such as 127.0.0.1:2525, found \"x\""
        );
        assert_eq!(error("recipients = 101"), "m.toml:1: recipients: expected a number from 1 to 100, found \"101\"");
        assert_eq!(error("name = 'a b'"), "m.toml:1: name: expected a domain such as mx.example.org, found \"a b\"");
        assert_eq!(
            error("listen = ['[::1]:25', '[::1]:26 recipients=0']"),
            "m.toml:1: listen: [::1]:26: recipients: expected a number from 1 to 100, found \"0\""
        );
        // It may hold a password.
        for text in ["database = ['mysql://u:secret@h/d', 'b']", "database = mysql://u:secret@h/d"] {
            assert!(!error(text).contains("secret"), "{}", error(text));
        }
        assert!(error("log = 'info'\nname =").starts_with("m.toml:2: "));
        assert!(error("log = 'info'\nlog = 'info'").starts_with("m.toml:2: "));
    }
}
