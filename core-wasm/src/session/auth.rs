//! AUTH: the exchange of credentials, which the host checks. RFC 4954; PLAIN is RFC 4616, SCRAM-SHA-256 is RFC 7677.

use super::{Awaiting, Outcome, Session, TlsState};
use crate::address;
use crate::command::Verb;
use crate::limits;
use crate::responses::{self, Template};
use crate::settings::Auth;
use crate::step::{Identity, Request, Step};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// What the client's next line is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Exchange {
    Plain,
    LoginUser,
    LoginPassword {
        user: String,
    },
    ScramFirst,
    ScramFinal,
    /// The client has been proved to be this user, and has the server's proof: it answers with nothing.
    ScramEnd {
        user: String,
    },
}

impl Exchange {
    /// What the client is asked for, if it is not the host who asks.
    fn prompt(&self) -> &'static str {
        match self {
            Exchange::LoginUser => "Username:",
            Exchange::LoginPassword { .. } => "Password:",
            Exchange::Plain | Exchange::ScramFirst | Exchange::ScramFinal | Exchange::ScramEnd { .. } => "",
        }
    }
}

impl Session {
    /// Whether AUTH can be used as things are.
    pub(super) fn offers_auth(&self) -> bool {
        match self.settings.auth {
            Auth::Off => false,
            Auth::Tls => self.tls == TlsState::Established,
            Auth::On => true,
        }
    }

    pub(super) fn auth(&mut self, argument: &str) -> Result<Outcome, Template> {
        if self.settings.auth == Auth::Off {
            return Err(responses::NOT_IMPLEMENTED);
        }
        if !self.is_extended() {
            return Err(responses::SEND_EHLO_FIRST);
        }
        if self.user.is_some() {
            return Err(responses::AUTH_ALREADY);
        }
        if !self.offers_auth() {
            return Err(responses::AUTH_NEEDS_TLS);
        }
        let (mechanism, initial) =
            argument.split_once(' ').map_or((argument, None), |(mechanism, initial)| (mechanism, Some(initial)));
        let exchange = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => Exchange::Plain,
            "LOGIN" => Exchange::LoginUser,
            "SCRAM-SHA-256" => Exchange::ScramFirst,
            "" => return Err(responses::BAD_ARGUMENT),
            _ => return Err(responses::AUTH_UNKNOWN),
        };
        match initial {
            None => Ok(self.prompt(exchange)),
            // RFC 4954 4: "=" is an initial response of no octets.
            Some("=") => self.take_credentials(exchange, b""),
            Some(initial) => self.take_credentials(exchange, initial.as_bytes()),
        }
    }

    fn prompt(&mut self, exchange: Exchange) -> Outcome {
        let prompt = exchange.prompt();
        self.ask_client(exchange, prompt)
    }

    fn ask_client(&mut self, exchange: Exchange, text: &str) -> Outcome {
        self.exchange = Some(exchange);
        Outcome::Respond(responses::AUTH_GO_ON.with(&STANDARD.encode(text)))
    }

    /// A line of the exchange.
    pub(super) fn on_credentials(&mut self, exchange: Exchange, line: &[u8]) -> Step {
        // RFC 4954 4: "*" cancels it.
        let taken = if line == b"*" { Err(responses::AUTH_CANCELLED) } else { self.take_credentials(exchange, line) };
        match taken {
            Ok(outcome) => self.finish(outcome),
            Err(template) => self.finish_error(Some(Verb::Auth), template),
        }
    }

    fn take_credentials(&mut self, exchange: Exchange, encoded: &[u8]) -> Result<Outcome, Template> {
        let text = STANDARD.decode(encoded).map_err(|_| responses::AUTH_BAD_BASE64)?;
        let text = String::from_utf8(text).map_err(|_| responses::AUTH_FAILED)?;
        let (user, password) = match exchange {
            Exchange::LoginUser => return Ok(self.prompt(Exchange::LoginPassword { user: text })),
            Exchange::ScramFirst => return ask_host(text, |message| Request::ScramFirst { message }),
            Exchange::ScramFinal => return ask_host(text, |message| Request::ScramFinal { message }),
            // RFC 4954 4: data that the mechanism does not expect. RFC 5802 3: there is none behind the server's last message.
            Exchange::ScramEnd { .. } if !text.is_empty() => return Err(responses::AUTH_FAILED),
            Exchange::ScramEnd { user } => return Ok(self.authenticate(user)),
            Exchange::LoginPassword { user } => (user, text),
            // RFC 4616 2: `message = [authzid] UTF8NUL authcid UTF8NUL passwd`.
            Exchange::Plain => {
                let mut parts = text.split('\0');
                match (parts.next(), parts.next(), parts.next(), parts.next()) {
                    (Some(other), Some(user), Some(password), None) if other.is_empty() || other == user => {
                        (user.to_owned(), password.to_owned())
                    }
                    _ => return Err(responses::AUTH_FAILED),
                }
            }
        };
        let fits =
            |text: &str, octets_max: usize| !text.is_empty() && text.len() <= octets_max && address::is_printable(text);
        if !fits(&user, limits::PATH_OCTETS_MAX) || !fits(&password, limits::PASSWORD_OCTETS_MAX) {
            return Err(responses::AUTH_FAILED);
        }
        Ok(Outcome::Ask(Awaiting::Auth, Request::CheckPassword { user, password }))
    }

    fn authenticate(&mut self, user: String) -> Outcome {
        self.user = Some(user);
        Outcome::Respond(responses::AUTH_OK.plain())
    }

    /// The client is who it says. By SCRAM it is told what proves that the server is, too.
    pub(super) fn authenticated(&mut self, identity: &Identity) -> Step {
        let user = identity.user.clone();
        let outcome = match identity.server_final.as_str() {
            "" => self.authenticate(user),
            server_final => self.ask_client(Exchange::ScramEnd { user }, server_final),
        };
        self.finish(outcome)
    }

    /// What the server says next by SCRAM.
    pub(super) fn challenge(&mut self, message: &str) -> Step {
        let outcome = self.ask_client(Exchange::ScramFinal, message);
        self.finish(outcome)
    }

    /// Who is wrong three times is not waited for.
    pub(super) fn not_authenticated(&mut self) -> Step {
        self.failures += 1;
        match self.failures >= limits::AUTH_FAILURES_MAX {
            true => self.fail(responses::TOO_MANY_ERRORS),
            false => self.finish_error(Some(Verb::Auth), responses::AUTH_FAILED),
        }
    }
}

/// Messages of SCRAM are the host's affair.
fn ask_host(message: String, request: impl FnOnce(String) -> Request) -> Result<Outcome, Template> {
    match message.len() <= limits::SCRAM_OCTETS_MAX && address::is_printable(&message) {
        true => Ok(Outcome::Ask(Awaiting::Auth, request(message))),
        false => Err(responses::AUTH_FAILED),
    }
}
