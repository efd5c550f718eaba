//! The kinds of values that settings have, and what is expected of each.

use crate::store;
use crate::swap::keys::{PublicKey, TrustedKeys};
use bytesize::ByteSize;
use ipnet::IpNet;
use jiff::SignedDuration;
use mailcell_core::address;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

const DOMAIN: &str = "expected a domain such as mx.example.org";

pub(super) fn some(texts: &[String]) -> Result<&[String], &'static str> {
    if texts.is_empty() { Err("expected at least one value") } else { Ok(texts) }
}

pub(super) fn one(texts: &[String]) -> Result<&str, &'static str> {
    match texts {
        [text] => Ok(text),
        _ => Err("expected one value"),
    }
}

pub(super) fn parse<T: FromStr>(text: &str, expected: &'static str) -> Result<T, &'static str> {
    text.parse().map_err(|_| expected)
}

pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

pub(super) fn choice(text: &str, yes: &str, no: &str, expected: &'static str) -> Result<bool, &'static str> {
    if text == yes || text == no { Ok(text == yes) } else { Err(expected) }
}

pub(super) fn count(text: &str, max: u64, expected: &'static str) -> Result<u64, &'static str> {
    parse(text, expected).and_then(|count| if (1..=max).contains(&count) { Ok(count) } else { Err(expected) })
}

pub(super) fn percent(text: &str) -> Result<u8, &'static str> {
    let expected = "expected a number from 0 to 100";
    parse::<u8>(text, expected).and_then(|percent| if percent <= 100 { Ok(percent) } else { Err(expected) })
}

pub(super) fn keys(texts: &[String]) -> Result<TrustedKeys, &'static str> {
    let keys = texts.iter().map(|text| PublicKey::parse(text).ok_or("expected 32 octets in base64"));
    keys.collect::<Result<_, _>>().map(TrustedKeys::new)
}

pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    let expected = "expected a duration such as 30s, 10m or 1h";
    let duration = parse::<SignedDuration>(text, expected)?.unsigned_abs();
    let day = Duration::from_secs(24 * 60 * 60);
    if duration.is_zero() || duration > 365 * day || text.starts_with('-') { Err(expected) } else { Ok(duration) }
}

/// For what waits in SQLite, which counts milliseconds in 31 bits.
pub(super) fn deadline(text: &str) -> Result<Duration, &'static str> {
    let deadline = duration(text)?;
    if deadline > Duration::from_secs(24 * 60 * 60) { Err("expected at most 24h") } else { Ok(deadline) }
}

pub(super) fn size(text: &str) -> Result<u64, &'static str> {
    let expected = "expected a size such as 64KiB or 25MiB";
    let size = parse::<ByteSize>(text, expected)?.as_u64();
    if size == 0 || size > 1 << 40 { Err(expected) } else { Ok(size) }
}

/// A name that a greeting can hold. The machine's own is used only if it is one.
pub(super) fn name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        return Ok(if address::is_domain_or_literal(&machine) { machine } else { "localhost".to_owned() });
    }
    if address::is_domain_or_literal(text) { Ok(text.to_owned()) } else { Err(DOMAIN) }
}

pub(super) fn network(text: &str) -> Result<IpNet, &'static str> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| "expected an address or a network such as 10.0.0.0/8")
}

/// The name of a slot, which needs no quotes anywhere.
pub(super) fn slot(text: &str) -> Result<String, &'static str> {
    let is_name = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    if is_name { Ok(text.to_owned()) } else { Err("expected a name of letters, digits and hyphens") }
}

pub(super) fn domain(text: &str) -> Result<String, &'static str> {
    if address::is_mailbox_domain(text) { Ok(text.to_owned()) } else { Err(DOMAIN) }
}

/// Where mail is kept. What is wrong with it does not show it: it may hold a password.
pub(super) fn database(texts: &[String]) -> Result<String, String> {
    let text = one(texts)?;
    store::check(text, &store::Options::default()).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
