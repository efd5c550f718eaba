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
        let (name, is_utf8) = self.split_utf8(argument);
        if !name.is_ascii() && !is_utf8 {
            return Err(responses::NOT_ASCII);
        }
        let request = match verb {
            Verb::Vrfy => user_named(name),
            _ => address::is_local_part(name).then(|| Request::ExpandGroup { name: address::lookup_name(name) }),
        };
        // What is no name cannot be the name of anyone.
        let request = request.ok_or_else(|| not_found(verb))?;
        Ok(Outcome::Ask(Awaiting::Lookup { verb, begun: false, is_utf8 }, request))
    }

    /// Takes SMTPUTF8 from the end of an argument. RFC 6531 3.7.4.2.
    fn split_utf8<'a>(&self, argument: &'a str) -> (&'a str, bool) {
        match argument.rsplit_once(' ') {
            Some((name, word)) if self.is_extended() && word.eq_ignore_ascii_case("SMTPUTF8") => (name, true),
            _ => (argument, false),
        }
    }

    /// What is found cannot be said in ASCII. RFC 6531 3.7.4.2.
    pub(super) fn refuse_utf8(&mut self, verb: Verb) -> Step {
        match verb {
            Verb::Vrfy => self.finish(Outcome::Respond(responses::LOOKUP_NEEDS_UTF8.plain())),
            _ => self.finish_error(Some(verb), responses::GROUP_NEEDS_UTF8),
        }
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
        let awaiting = Awaiting::Lookup { verb, begun: true, is_utf8: true };
        let mut step = self.finish(Outcome::Ask(awaiting, Request::NextPage));
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
