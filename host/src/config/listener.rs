//! Where mail is received, and how: an address, and behind it `NAME=VALUE` with spaces between.

use super::{Group, Protocol, Settings, TlsUse, find, values};
use std::net::SocketAddr;
use std::str::FromStr;

/// The slot of a listener that names none.
pub const DEFAULT_SLOT: &str = "default";

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// What there is of TLS, if it is said.
    pub tls: Option<TlsUse>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether a proxy says first where the client is.
    pub is_proxied: bool,
    /// The slot whose core serves it.
    pub slot: String,
    /// Settings that hold here in the place of the general ones: names and values, which were checked.
    own: Vec<(&'static str, Vec<String>)>,
}

impl Listener {
    /// Takes listeners apart that have commas between them. A comma that no address follows belongs to a value, as in
    /// `domains=a.example,b.example`.
    pub(super) fn split(text: &str) -> Vec<String> {
        let mut listeners: Vec<String> = Vec::new();
        for piece in text.split(',') {
            let is_address = piece.split(' ').find(|part| !part.is_empty()).is_some_and(is_address);
            match listeners.last_mut() {
                Some(last) if !is_address && last.contains('=') => *last = format!("{last},{piece}"),
                _ => listeners.push(piece.to_owned()),
            }
        }
        listeners
    }

    /// Whether it has a setting of that name for itself.
    pub fn has(&self, name: &str) -> bool {
        self.own.iter().any(|(own, _)| *own == name)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let taken = match name {
            "tls" => value.parse().map(|tls| self.tls = Some(tls)),
            "protocol" => value.parse().map(|protocol| self.protocol = protocol),
            "proxy" => values::choice(value, "on", "off", "expected on or off").map(|is_on| self.is_proxied = is_on),
            "slot" => values::slot(value).map(|slot| self.slot = slot),
            _ => return self.take_setting(name, value).map_err(|error| error.to_string()),
        };
        taken.map_err(|expected| format!("{name}: {expected}, found {value:?}"))
    }

    fn take_setting(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        let setting = find(name)?;
        anyhow::ensure!(
            setting.group == Group::Session,
            "`{name}` holds for the whole server, and no listener has its own"
        );
        // A list may be empty here where the general one is not: `domains=`.
        let values = if setting.is_list && value.is_empty() { Vec::new() } else { setting.split(value) };
        Settings::empty().set(setting, &values, name)?;
        self.own.push((setting.name, values));
        Ok(())
    }
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Listener, String> {
        let mut parts = text.split(' ').filter(|part| !part.is_empty());
        let first = parts.next().unwrap_or_default();
        let expected = "expected an address and a port such as 127.0.0.1:2525";
        let address = first.parse().map_err(|_| format!("{expected}, found {first:?}"))?;
        let (protocol, slot) = (Protocol::Smtp, DEFAULT_SLOT.to_owned());
        let mut listener = Listener { address, tls: None, protocol, is_proxied: false, slot, own: Vec::new() };
        let mut taken = Vec::new();
        for part in parts {
            let pair = part.split_once('=');
            let (name, value) = pair.ok_or_else(|| format!("{address}: expected NAME=VALUE, found {part:?}"))?;
            listener.take(name, value).map_err(|why| format!("{address}: {why}"))?;
            if taken.contains(&name) {
                return Err(format!("{address}: {name} is said twice"));
            }
            taken.push(name);
        }
        Ok(listener)
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok()
}

impl Settings {
    /// The settings as they are on a listener: its own in the place of the general ones.
    pub fn of(&self, listener: &Listener) -> Settings {
        let mut settings = self.clone();
        for (name, values) in &listener.own {
            let set = find(name).and_then(|setting| settings.set(setting, values, name));
            set.expect("it was checked when the listener was read");
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Accept;
    use std::time::Duration;

    fn error(text: &str) -> String {
        text.parse::<Listener>().unwrap_err()
    }

    #[test]
    fn an_address_and_what_is_behind_it() {
        let tls = |text: &str| text.parse().map(|listener: Listener| listener.tls);
        assert_eq!(tls("[::1]:25"), Ok(None));
        assert_eq!(tls("127.0.0.1:465  tls=implicit"), Ok(Some(TlsUse::Implicit)));
        let listener: Listener = "[::1]:24 protocol=lmtp tls=off proxy=on slot=strict".parse().unwrap();
        assert_eq!((listener.protocol, listener.tls), (Protocol::Lmtp, Some(TlsUse::Off)));
        assert_eq!((listener.is_proxied, listener.slot.as_str()), (true, "strict"));
        let plain: Listener = "[::1]:24".parse().unwrap();
        assert_eq!((plain.is_proxied, plain.slot.as_str()), (false, DEFAULT_SLOT));
    }

    #[test]
    fn what_is_wrong_with_a_listener_is_said() {
        let no_address = "expected an address and a port such as 127.0.0.1:2525, found";
        assert_eq!(error("tls=implicit"), format!("{no_address} \"tls=implicit\""));
        assert_eq!(error(""), format!("{no_address} \"\""));
        assert_eq!(error("[::1]:24 lmtp"), "[::1]:24: expected NAME=VALUE, found \"lmtp\"");
        assert_eq!(error("[::1]:24 protocol=http"), "[::1]:24: protocol: expected smtp or lmtp, found \"http\"");
        assert_eq!(
            error("127.0.0.1:465 tls=on"),
            "127.0.0.1:465: tls: expected off, starttls, required or implicit, found \"on\""
        );
        assert_eq!(error("[::1]:24 proxy=yes"), "[::1]:24: proxy: expected on or off, found \"yes\"");
        assert_eq!(
            error("[::1]:24 slot=a/b"),
            "[::1]:24: slot: expected a name of letters, digits and hyphens, found \"a/b\""
        );
        assert_eq!(
            error("[::1]:24 message-size=huge"),
            "[::1]:24: message-size: expected a size such as 64KiB or 25MiB, found \"huge\""
        );
        assert_eq!(
            error("[::1]:24 domains=a.test,b_c"),
            "[::1]:24: domains: expected a domain such as mx.example.org, found \"a.test\", \"b_c\""
        );
        assert_eq!(
            error("[::1]:24 message-sise=1"),
            "[::1]:24: there is no setting `message-sise`; is it `message-size`?"
        );
        assert_eq!(
            error("[::1]:24 threads=2"),
            "[::1]:24: `threads` holds for the whole server, and no listener has its own"
        );
        assert_eq!(error("[::1]:24 errors=2 errors=3"), "[::1]:24: errors is said twice");
        assert_eq!(error("[::1]:24 tls=off tls=off"), "[::1]:24: tls is said twice");
    }

    #[test]
    fn its_own_settings_are_in_the_place_of_the_general_ones() {
        let general = Settings { recipients: 7, errors: 9, ..Settings::default() };
        let text = "127.0.0.1:25 recipients=5 domains=a.test,b.test accept=domains idle-timeout=3s bare-newlines=keep";
        let listener: Listener = text.parse().unwrap();
        let own = general.of(&listener);
        assert_eq!((own.recipients, own.errors), (5, 9));
        assert_eq!((own.accept, &own.domains), (Accept::Domains, &vec!["a.test".to_owned(), "b.test".to_owned()]));
        assert_eq!((own.idle_timeout, own.keep_bare_newlines), (Duration::from_secs(3), true));
        assert!(listener.has("recipients") && !listener.has("errors"));
        assert_eq!(general.of(&"127.0.0.1:25".parse().unwrap()).recipients, 7);
        assert!(own.of(&"127.0.0.1:25 domains=".parse().unwrap()).domains.is_empty());
    }

    #[test]
    fn a_comma_is_between_listeners_or_in_a_value() {
        assert_eq!(Listener::split("[::1]:25,127.0.0.1:26"), ["[::1]:25", "127.0.0.1:26"]);
        assert_eq!(
            Listener::split("[::1]:25 domains=a.test,[192.0.2.1],b.test errors=5, 127.0.0.1:26 tls=off"),
            ["[::1]:25 domains=a.test,[192.0.2.1],b.test errors=5", " 127.0.0.1:26 tls=off"]
        );
        // What is no listener stays for itself, so that an error names it.
        assert_eq!(Listener::split("[::1]:25,elsewhere"), ["[::1]:25", "elsewhere"]);
    }
}
