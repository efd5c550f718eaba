//! RCPT: whom mail is accepted for.

use super::sender::{Recipient, Transaction};
use super::{Awaiting, Outcome, Session};
use crate::address::{self, Path};
use crate::command::Verb;
use crate::responses::{self, Template};
use crate::settings::Accept;
use crate::step::{MailboxPage, Request, Step};

impl Session {
    pub(super) fn rcpt(&mut self, argument: &str) -> Result<Outcome, Template> {
        let (path, parameters) = Path::behind("TO:", argument).ok_or(responses::BAD_RECIPIENT)?;
        if path == Path::Null {
            return Err(responses::BAD_RECIPIENT);
        }
        let parameters = self.offers().read_rcpt_parameters(parameters)?;
        if !argument.is_ascii() && !self.transaction().is_utf8 {
            return Err(responses::NOT_ASCII);
        }
        if self.transaction().rcpt_to.len() >= self.settings.recipients_max {
            return Err(responses::TOO_MANY_RECIPIENTS);
        }
        let request = self.admit(path)?;
        let recipient = Recipient { mailbox: path.to_envelope(), parameters };
        match request {
            None => {
                self.transaction().rcpt_to.push(recipient);
                Ok(Outcome::Respond(responses::RECIPIENT_OK.plain()))
            }
            Some(request) => {
                self.transaction().candidate = Some(recipient);
                Ok(Outcome::Ask(Awaiting::Recipient, request))
            }
        }
    }

    /// What is still to be asked about a recipient, if anything.
    fn admit(&self, path: Path<'_>) -> Result<Option<Request>, Template> {
        // RFC 5321 4.5.1: a server "MUST" take mail for the postmaster, of its name, of its domains and without one.
        let Path::Mailbox(mailbox) = path else { return Ok(None) };
        let domains = &self.settings.domains;
        let is_here = domains.iter().any(|domain| domain.eq_ignore_ascii_case(mailbox.domain));
        let is_ours = is_here || mailbox.domain.eq_ignore_ascii_case(&self.settings.name);
        let local_part = address::lookup_name(mailbox.local_part);
        match self.settings.accept {
            Accept::Any => Ok(None),
            _ if is_ours && local_part == "postmaster" => Ok(None),
            Accept::Domains | Accept::Users if !domains.is_empty() && !is_here => Err(responses::NOT_OUR_DOMAIN),
            Accept::Users => {
                Ok(Some(Request::FindUser { local_part, domain: Some(mailbox.domain.to_ascii_lowercase()) }))
            }
            Accept::Domains => Ok(None),
        }
    }

    /// The users of that name have been found.
    pub(super) fn end_rcpt(&mut self, page: &MailboxPage) -> Step {
        let transaction = self.transaction();
        let recipient = transaction.candidate.take().expect("a recipient is asked about");
        if page.mailboxes.is_empty() {
            return self.finish_error(Some(Verb::Rcpt), responses::NO_SUCH_USER);
        }
        transaction.rcpt_to.push(recipient);
        self.finish(Outcome::Respond(responses::RECIPIENT_OK.plain()))
    }

    fn transaction(&mut self) -> &mut Transaction {
        self.transaction.as_mut().expect("the table asks for MAIL before RCPT")
    }
}
