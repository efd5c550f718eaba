//! How a session begins: HELO, EHLO and LHLO, and STARTTLS.

use super::{Greeting, Outcome, Session, TlsState};
use crate::address;
use crate::extensions;
use crate::responses::{self, Template};
use crate::settings::Tls;
use crate::step::Order;

impl Session {
    pub(super) fn greet(&mut self, argument: &str, extended: bool) -> Result<(Outcome, Vec<Order>), Template> {
        if !address::is_domain_or_literal(argument) {
            return Err(responses::HELLO_BAD_DOMAIN);
        }
        self.greeting = Some(Greeting { client_name: argument.to_owned(), extended });
        // RFC 5321 4.1.4: a further EHLO clears everything "exactly as if a RSET command had been issued".
        let orders = self.forget_message();
        let name = responses::HELLO.with(&self.settings.name);
        if !extended {
            return Ok((Outcome::Respond(name), orders));
        }
        let keywords = {
            let is_under_tls = self.tls == TlsState::Established;
            extensions::keywords(&self.settings, is_under_tls, self.offers_auth(), self.offers_lookup())
        };
        let lines = std::iter::once(name).chain(keywords.iter().map(|k| responses::HELLO.with(k))).collect();
        Ok((Outcome::RespondLines(lines), orders))
    }

    /// RFC 3207.
    pub(super) fn start_tls(&mut self, argument: &str) -> Result<Outcome, Template> {
        match self.tls {
            TlsState::Established => Err(responses::TLS_ALREADY),
            _ if self.settings.tls != Tls::Offered => Err(responses::NOT_IMPLEMENTED),
            _ if !self.is_extended() => Err(responses::SEND_EHLO_FIRST),
            // RFC 3207 4: "501 Syntax error (no parameters allowed)".
            _ if !argument.is_empty() => Err(responses::BAD_ARGUMENT),
            _ => Ok(Outcome::StartTls(responses::START_TLS.plain())),
        }
    }
}
