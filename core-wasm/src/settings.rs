//! What the host configures when it opens a session.

use crate::limits;
use crate::step::Config;
use std::str::FromStr;

/// What there is of TLS when a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// None.
    Off,
    /// STARTTLS.
    Offered,
    /// The session is under it.
    On,
}

/// Whom VRFY and EXPN are answered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    On,
    /// Those who said who they are.
    Authenticated,
    Off,
}

/// Whether clients may say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// In the clear, too.
    On,
    /// Under TLS.
    Tls,
    Off,
}

/// Which recipients mail is accepted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    /// Any.
    Any,
    /// Those in the server's domains.
    Domains,
    /// Those of them who are users; without domains, all users.
    Users,
}

/// The keys that this core knows, read from the pairs of `open`.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `name`: the server's domain, in the greeting and in every 421.
    pub(crate) name: String,
    /// `protocol`: `lmtp` or `smtp`. RFC 2033.
    pub(crate) lmtp: bool,
    /// `message-octets-max`: what SIZE shows.
    pub(crate) message_octets_max: u64,
    /// `header-octets-max`.
    pub(crate) header_octets_max: u64,
    /// `recipients-max`: at most [`limits::RECIPIENTS_MAX`].
    pub(crate) recipients_max: usize,
    /// `errors-max`: the error that ends the session.
    pub(crate) errors_max: u32,
    /// `lookup`: whether VRFY and EXPN are answered, `on`, `authenticated` or `off`.
    pub(crate) lookup: Lookup,
    /// `auth`: whether AUTH is offered, `on`, `tls` or `off`.
    pub(crate) auth: Auth,
    /// `tls`: `off`, `starttls` when it is offered, `on` when the session is under TLS from its start.
    pub(crate) tls: Tls,
    /// `require-tls`: whether there is no mail without TLS, `on` or `off`.
    pub(crate) require_tls: bool,
    /// `accept`: which recipients mail is accepted for, `any`, `domains` or `users`.
    pub(crate) accept: Accept,
    /// `domains`: those of the server, with commas between.
    pub(crate) domains: Vec<String>,
    /// `dsn`: whether DSN is offered, `on` or `off`. RFC 3461.
    pub(crate) dsn: bool,
    /// `xclient`: whether the peer is believed who its client is, `on` or `off`.
    pub(crate) xclient: bool,
    /// `bare-newlines`: `keep` stores bare CR, bare LF and NUL as they came, `refuse` refuses the message.
    pub(crate) keep_bare_newlines: bool,
}

impl Settings {
    /// Reads the pairs; a key that is not there has its default, one that is not known is ignored.
    ///
    /// # Panics
    /// On a value that is none of its key's: the host checks its configuration before it opens a session.
    pub(crate) fn from_pairs(pairs: &Config) -> Settings {
        let get = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let number = |key: &str, default: u64| get(key).map_or(default, |value| parse(key, value));
        Settings {
            name: get("name").unwrap_or("localhost").to_owned(),
            lmtp: choice("protocol", get("protocol").unwrap_or("smtp"), "lmtp", "smtp"),
            message_octets_max: number("message-octets-max", limits::MESSAGE_OCTETS_MAX),
            header_octets_max: number("header-octets-max", limits::HEADER_OCTETS_MAX),
            recipients_max: number("recipients-max", limits::RECIPIENTS_MAX as u64).min(limits::RECIPIENTS_MAX as u64)
                as usize,
            errors_max: number("errors-max", limits::ERRORS_MAX.into()).min(u32::MAX.into()) as u32,
            lookup: match get("lookup").unwrap_or("on") {
                "on" => Lookup::On,
                "authenticated" => Lookup::Authenticated,
                "off" => Lookup::Off,
                other => panic!("lookup is neither on nor authenticated nor off: {other:?}"),
            },
            auth: match get("auth").unwrap_or("off") {
                "on" => Auth::On,
                "tls" => Auth::Tls,
                "off" => Auth::Off,
                other => panic!("auth is neither on nor tls nor off: {other:?}"),
            },
            tls: match get("tls").unwrap_or("off") {
                "off" => Tls::Off,
                "starttls" => Tls::Offered,
                "on" => Tls::On,
                other => panic!("tls is neither off nor starttls nor on: {other:?}"),
            },
            require_tls: choice("require-tls", get("require-tls").unwrap_or("off"), "on", "off"),
            accept: match get("accept").unwrap_or("any") {
                "any" => Accept::Any,
                "domains" => Accept::Domains,
                "users" => Accept::Users,
                other => panic!("accept is neither any nor domains nor users: {other:?}"),
            },
            domains: get("domains").unwrap_or("").split(',').filter(|d| !d.is_empty()).map(str::to_owned).collect(),
            dsn: choice("dsn", get("dsn").unwrap_or("off"), "on", "off"),
            xclient: choice("xclient", get("xclient").unwrap_or("off"), "on", "off"),
            keep_bare_newlines: choice("bare-newlines", get("bare-newlines").unwrap_or("refuse"), "keep", "refuse"),
        }
    }
}

fn parse<T: FromStr>(key: &str, value: &str) -> T {
    value.parse().unwrap_or_else(|_| panic!("{key} is no number: {value:?}"))
}

fn choice(key: &str, value: &str, yes: &str, no: &str) -> bool {
    assert!(value == yes || value == no, "{key} is neither {yes} nor {no}: {value:?}");
    value == yes
}
