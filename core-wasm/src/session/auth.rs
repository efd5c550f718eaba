//! AUTH: the exchange of credentials, which the host checks. RFC 4954; PLAIN is RFC 4616.

use super::{Awaiting, Outcome, Session, TlsState};
use crate::command::Verb;
use crate::limits;
use crate::responses::{self, Template};
use crate::settings::Auth;
use crate::step::{Request, Step};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// What the client's next line is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Exchange {
    Plain,
    LoginUser,
    LoginPassword { user: String },
}

impl Exchange {
    /// What the client is asked for, in base64.
    fn prompt(&self) -> &'static str {
        match self {
            Exchange::Plain => "",
            Exchange::LoginUser => "VXNlcm5hbWU6",
            Exchange::LoginPassword { .. } => "UGFzc3dvcmQ6",
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
            "" => return Err(responses::BAD_ARGUMENT),
            _ => return Err(responses::AUTH_UNKNOWN),
        };
        match initial {
            None => Ok(self.ask_client(exchange)),
            // RFC 4954 4: "=" is an initial response of no octets.
            Some("=") => self.take_credentials(exchange, b""),
            Some(initial) => self.take_credentials(exchange, initial.as_bytes()),
        }
    }

    fn ask_client(&mut self, exchange: Exchange) -> Outcome {
        let prompt = exchange.prompt();
        self.exchange = Some(exchange);
        Outcome::Respond(responses::AUTH_GO_ON.with(prompt))
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
        let text = String::from_utf8(text).map_err(|_| responses::AUTH_BAD_BASE64)?;
        let (user, password) = match exchange {
            Exchange::LoginUser => return Ok(self.ask_client(Exchange::LoginPassword { user: text })),
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
        let fits = |text: &str, octets_max: usize| {
            !text.is_empty() && text.len() <= octets_max && !text.chars().any(char::is_control)
        };
        if !fits(&user, limits::PATH_OCTETS_MAX) || !fits(&password, limits::PASSWORD_OCTETS_MAX) {
            return Err(responses::AUTH_FAILED);
        }
        Ok(Outcome::Ask(Awaiting::Auth, Request::CheckPassword { user, password }))
    }

    /// What the host has found. Who is wrong three times is not waited for.
    pub(super) fn end_auth(&mut self, user: Option<&str>) -> Step {
        match user {
            Some(user) => {
                self.user = Some(user.to_owned());
                self.finish(Outcome::Respond(responses::AUTH_OK.plain()))
            }
            None => {
                self.failures += 1;
                match self.failures >= limits::AUTH_FAILURES_MAX {
                    true => self.fail(responses::TOO_MANY_ERRORS),
                    false => self.finish_error(Some(Verb::Auth), responses::AUTH_FAILED),
                }
            }
        }
    }
}
