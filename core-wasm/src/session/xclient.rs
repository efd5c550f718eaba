//! XCLIENT: a trusted peer says who the client is that it speaks for, and the session begins again as that client's. It is
//! Postfix's extension, and no RFC has it.

use super::{Awaiting, Outcome, Session};
use crate::address;
use crate::extensions;
use crate::limits;
use crate::responses::{self, Template};
use crate::step::Request;
use std::net::IpAddr;

/// What is said of a client. Other attributes are read and lead to nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Client {
    /// ADDR.
    address: Option<IpAddr>,
    /// HELO.
    name: Option<String>,
    /// LOGIN.
    user: Option<String>,
}

impl Session {
    pub(super) fn xclient(&mut self, argument: &str) -> Result<Outcome, Template> {
        if !self.settings.xclient {
            return Err(responses::XCLIENT_REFUSED);
        }
        let client = Client::parse(argument).ok_or(responses::BAD_ARGUMENT)?;
        (self.greeting, self.introduced_as, self.user) = (None, client.name, client.user);
        Ok(match client.address {
            Some(address) => Outcome::Ask(Awaiting::Admission, Request::AdmitClient { address: address.to_string() }),
            None => Outcome::Respond(self.welcome()),
        })
    }
}

impl Client {
    /// ```text
    /// xclient-cmd = "XCLIENT" 1*( SP attribute "=" value )
    /// value       = xtext / "[UNAVAILABLE]" / "[TEMPUNAVAIL]"
    /// ```
    fn parse(argument: &str) -> Option<Client> {
        let mut client = Client::default();
        for attribute in argument.split(' ') {
            let (name, value) = attribute.split_once('=')?;
            let value = String::from_utf8(extensions::undo_xtext(value)?).ok()?;
            if value.is_empty() || value.len() > limits::PATH_OCTETS_MAX || !address::is_printable(&value) {
                return None;
            }
            let is_known = !matches!(value.to_ascii_uppercase().as_str(), "[UNAVAILABLE]" | "[TEMPUNAVAIL]");
            match name.to_ascii_uppercase().as_str() {
                "ADDR" if is_known => client.address = Some(parse_address(&value)?),
                "HELO" if is_known && !address::is_domain_or_literal(&value) => return None,
                "HELO" => client.name = is_known.then_some(value),
                "LOGIN" => client.user = is_known.then_some(value),
                "ADDR" | "NAME" | "PORT" | "PROTO" | "DESTADDR" | "DESTPORT" => {}
                _ => return None,
            }
        }
        Some(client)
    }
}

/// An IPv4 address, or an IPv6 address behind `IPV6:`.
fn parse_address(value: &str) -> Option<IpAddr> {
    match value.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPV6:")) {
        Some(tag) => value[tag.len()..].parse().ok().map(IpAddr::V6),
        None => value.parse().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes() {
        let parse = |text| Client::parse(text);
        let client = Client {
            address: Some("192.0.2.7".parse().unwrap()),
            name: Some("client.test".to_owned()),
            user: Some("ann lee".to_owned()),
        };
        assert_eq!(parse("addr=192.0.2.7 HELO=client.test Login=ann+20lee NAME=x PORT=25 PROTO=ESMTP"), Some(client));
        let at = |address: &str| Some(Client { address: address.parse().ok(), ..Client::default() });
        assert_eq!(parse("ADDR=IPV6:2001:db8::1 DESTADDR=192.0.2.1 DESTPORT=25"), at("2001:db8::1"));
        assert_eq!(parse("ADDR=[UNAVAILABLE] HELO=[unavailable] LOGIN=[TEMPUNAVAIL]"), Some(Client::default()));
        for bad in [
            "",
            "ADDR",
            "ADDR=",
            "ADDR=2001:db8::1",
            "ADDR=IPV6:192.0.2.7",
            "ADDR=192.0.2.256",
            "HELO=a_b",
            "LOGIN=a+0D",
            "LOGIN=a+0d",
            "PORT=25  PROTO=SMTP",
            "COLOUR=red",
            &format!("LOGIN={}", "a".repeat(257)),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
