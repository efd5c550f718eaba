//! VRFY and EXPN.

use super::{Awaiting, Outcome, Session};
use crate::address::{self, Mailbox};
use crate::command::Verb;
use crate::responses::{self, Template};
use crate::settings::Lookup;
use crate::step::{MailboxPage, Request, Step};

impl Session {
    /// Whether look-ups are answered as things are.
    pub(super) fn offers_lookup(&self) -> bool {
        match self.settings.lookup {
            Lookup::On => true,
            Lookup::Authenticated => self.user.is_some(),
            Lookup::Off => false,
        }
    }

    pub(super) fn look_up(&mut self, verb: Verb, argument: &str) -> Result<Outcome, Template> {
        if argument.is_empty() {
            return Err(responses::BAD_ARGUMENT);
        }
        if !self.offers_lookup() {
            return Ok(Outcome::Respond(responses::LOOKUP_OFF.plain()));
        }
        let request = match verb {
            Verb::Vrfy => user_named(argument),
            _ => {
                address::is_local_part(argument).then(|| Request::ExpandGroup { name: address::lookup_name(argument) })
            }
        };
        // What is no name cannot be the name of anyone.
        let request = request.ok_or_else(|| not_found(verb))?;
        Ok(Outcome::Ask(Awaiting::Lookup { verb, begun: false }, request))
    }

    pub(super) fn list(&mut self, verb: Verb, begun: bool, page: &MailboxPage) -> Step {
        if page.mailboxes.is_empty() && !begun && !page.more {
            return self.finish_error(Some(verb), not_found(verb));
        }
        assert!(!page.mailboxes.is_empty(), "a page behind another one is not empty");
        let mut lines: Vec<_> = page.mailboxes.iter().map(|mailbox| responses::MAILBOX.with(mailbox)).collect();
        if !page.more {
            return self.finish(Outcome::RespondLines(lines));
        }
        lines.iter_mut().for_each(|line| line.more = true);
        let mut step = self.finish(Outcome::Ask(Awaiting::Lookup { verb, begun: true }, Request::NextPage));
        step.responses = self.for_session(lines);
        step
    }
}

/// VRFY takes `bob`, `bob@example.org` and `<bob@example.org>`.
fn user_named(argument: &str) -> Option<Request> {
    let name = argument.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(argument);
    if let Some(mailbox) = Mailbox::parse(name) {
        return Some(Request::FindUser {
            local_part: address::lookup_name(mailbox.local_part),
            domain: Some(mailbox.domain.to_ascii_lowercase()),
        });
    }
    address::is_local_part(name).then(|| Request::FindUser { local_part: address::lookup_name(name), domain: None })
}

fn not_found(verb: Verb) -> Template {
    if verb == Verb::Vrfy { responses::NO_SUCH_USER } else { responses::NO_SUCH_GROUP }
}
