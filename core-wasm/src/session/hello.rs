//! How a session begins: the greeting, HELO, EHLO and LHLO, and STARTTLS.

use super::{Greeting, Introduction, Outcome, Session, TlsState};
use crate::address;
use crate::command::Verb;
use crate::extensions::Offers;
use crate::responses::{self, Template};
use crate::settings::Tls;
use crate::step::{Order, Response, Step};

impl Session {
    /// What a client is told first.
    pub(super) fn welcome(&self) -> Response {
        let greeting = if self.settings.lmtp { responses::LMTP_GREETING } else { responses::GREETING };
        greeting.with(&self.settings.name)
    }

    /// What the session offers as things are.
    pub(super) fn offers(&self) -> Offers {
        let is_under_tls = self.tls == TlsState::Established;
        Offers {
            is_extended: self.is_extended(),
            octets_max: self.settings.message_octets_max,
            recipients_max: self.settings.recipients_max,
            // RFC 3207 4.2: not listed within TLS. RFC 8689 2: listed within TLS only.
            has_starttls: self.settings.tls == Tls::Offered && !is_under_tls,
            has_require_tls: is_under_tls,
            has_dsn: self.settings.dsn,
            has_auth: self.offers_auth(),
            has_lookup: self.offers_lookup(),
            has_xclient: self.settings.xclient,
        }
    }

    /// Whether a verb is one of the protocol that is spoken.
    pub(super) fn knows(&self, verb: Verb) -> bool {
        match verb {
            // RFC 2033 4.1: LHLO takes the place of HELO and EHLO, which are none then.
            Verb::Helo | Verb::Ehlo => !self.settings.lmtp,
            Verb::Lhlo => self.settings.lmtp,
            _ => true,
        }
    }

    /// Whether HELP lists a verb: one of an extension where EHLO lists that.
    pub(super) fn offers_verb(&self, verb: Verb) -> bool {
        let offers = self.offers();
        match verb {
            Verb::Starttls => offers.has_starttls,
            Verb::Auth => offers.has_auth,
            Verb::Xclient => offers.has_xclient,
            Verb::Vrfy | Verb::Expn => offers.has_lookup,
            verb => self.knows(verb),
        }
    }

    pub(super) fn greet(&mut self, argument: &str, extended: bool) -> Result<(Outcome, Vec<Order>), Template> {
        if !address::is_domain_or_literal(argument) {
            return Err(responses::HELLO_BAD_DOMAIN);
        }
        let client_name = self.introduction.client_name.clone().unwrap_or_else(|| argument.to_owned());
        self.greeting = Some(Greeting { client_name, extended });
        // RFC 5321 4.1.4: a further EHLO clears everything "exactly as if a RSET command had been issued".
        let orders = self.forget_message();
        let name = responses::HELLO.with(&self.settings.name);
        if !extended {
            return Ok((Outcome::Respond(name), orders));
        }
        let keywords = self.offers().keywords();
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

    /// RFC 3207 4.2: the server "MUST discard any knowledge obtained from the client".
    pub(super) fn begin_again_under_tls(&mut self) -> Step {
        self.tls = TlsState::Established;
        (self.greeting, self.transaction, self.user) = (None, None, None);
        self.introduction = Introduction::default();
        Step::nothing(self.read_line())
    }
}
