//! MAIL, and the transaction that it begins.

use super::{Outcome, Session};
use crate::address::Path;
use crate::responses::{self, Template};
use serde::{Deserialize, Serialize};

/// What MAIL and RCPT said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Transaction {
    pub(super) mail_from: String,
    /// Those of MAIL that are stored with the message.
    pub(super) parameters: String,
    pub(super) rcpt_to: Vec<Recipient>,
    /// The recipient that the database is asked about.
    pub(super) candidate: Option<Recipient>,
    /// BODY=BINARYMIME. RFC 3030 3.
    pub(super) is_binary: bool,
    /// SMTPUTF8. RFC 6531.
    pub(super) is_utf8: bool,
}

/// What RCPT said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Recipient {
    pub(super) mailbox: String,
    /// Those that are stored with the message.
    pub(super) parameters: String,
}

impl Session {
    pub(super) fn mail(&mut self, argument: &str) -> Result<Outcome, Template> {
        let (path, parameters) = Path::behind("FROM:", argument).ok_or(responses::BAD_SENDER)?;
        if let Path::Postmaster(_) = path {
            return Err(responses::BAD_SENDER);
        }
        let parameters = self.offers().read_mail_parameters(parameters)?;
        if !argument.is_ascii() && !parameters.is_utf8 {
            return Err(responses::NOT_ASCII);
        }
        self.transaction = Some(Transaction {
            mail_from: path.to_envelope(),
            parameters: parameters.kept,
            rcpt_to: Vec::new(),
            candidate: None,
            is_binary: parameters.is_binary,
            is_utf8: parameters.is_utf8,
        });
        Ok(Outcome::Respond(responses::SENDER_OK.plain()))
    }

    pub(super) fn is_binary(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.is_binary)
    }
}
