//! XCLIENT: a trusted peer says who the client is that it speaks for, and the session begins again as that client's. It is
//! Postfix's extension, and no RFC has it.

use super::{Awaiting, Introduction, Outcome, Session};
use crate::address;
use crate::extensions;
use crate::limits;
use crate::responses::{self, Template};
use crate::step::{Request, Step};
use std::net::IpAddr;

/// What is said of a client: nothing where an attribute is not there, and then of no value where it is not known. Other attributes are
/// read and lead to nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Client {
    /// ADDR.
    address: Option<Option<IpAddr>>,
    /// HELO.
    name: Option<Option<String>>,
    /// LOGIN.
    user: Option<Option<String>>,
}

impl Session {
    pub(super) fn xclient(&mut self, argument: &str) -> Result<Outcome, Template> {
        if !self.settings.xclient {
            return Err(responses::XCLIENT_REFUSED);
        }
        let client = Client::parse(argument).ok_or(responses::BAD_ARGUMENT)?;
        self.greeting = None;
        // What does not fit into one command comes in several.
        self.introduction = Introduction {
            client_name: client.name.unwrap_or(self.introduction.client_name.take()),
            user: client.user.unwrap_or(self.introduction.user.take()),
        };
        self.user = self.introduction.user.clone();
        Ok(match client.address.map(|address| address.map(|address| address.to_string())) {
            Some(address) => Outcome::Ask(Awaiting::Admission, Request::AdmitClient { address }),
            None => Outcome::Respond(self.welcome()),
        })
    }

    /// The session is that client's, whose mistakes begin with it.
    pub(super) fn admitted(&mut self) -> Step {
        (self.errors, self.failures) = (0, 0);
        self.finish(Outcome::Respond(self.welcome()))
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
                "ADDR" if is_known => client.address = Some(Some(parse_address(&value)?)),
                "ADDR" => client.address = Some(None),
                "HELO" if is_known && !address::is_domain_or_literal(&value) => return None,
                "HELO" => client.name = Some(is_known.then_some(value)),
                "LOGIN" => client.user = Some(is_known.then_some(value)),
                "NAME" | "PORT" | "PROTO" | "DESTADDR" | "DESTPORT" => {}
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
            address: Some("192.0.2.7".parse().ok()),
            name: Some(Some("client.test".to_owned())),
            user: Some(Some("ann lee".to_owned())),
        };
        assert_eq!(parse("addr=192.0.2.7 HELO=client.test Login=ann+20lee NAME=x PORT=25 PROTO=ESMTP"), Some(client));
        let at = |address: &str| Some(Client { address: Some(address.parse().ok()), ..Client::default() });
        assert_eq!(parse("ADDR=IPV6:2001:db8::1 DESTADDR=192.0.2.1 DESTPORT=25"), at("2001:db8::1"));
        let unknown = Client { address: Some(None), name: Some(None), user: Some(None) };
        assert_eq!(parse("ADDR=[UNAVAILABLE] HELO=[unavailable] LOGIN=[TEMPUNAVAIL]"), Some(unknown));
        assert_eq!(parse("NAME=client.test"), Some(Client::default()));
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
