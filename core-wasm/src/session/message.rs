//! The end of a message: it is stored or refused, and the client is told, by LMTP once for each recipient.

use super::{Awaiting, Outcome, Session, TlsState};
use crate::command::Verb;
use crate::reading::Fault;
use crate::responses;
use crate::step::{Message, Request, Response, Step};
use std::borrow::Cow;

impl Session {
    /// The end of data was read: the message is stored or refused.
    ///
    /// After a line that is too long, "data is cleared, sender and recipients stay", by the specification; after
    /// anything else, and of a message in chunks, the transaction is over.
    pub(super) fn end_data(&mut self) -> Step {
        let reading = self.reading.take().expect("data is being read");
        let refusal = match reading.fault() {
            Some(Fault::LongLine) if reading.has_an_end() => {
                let answers = self.recipients();
                let step = self.finish_error(Some(Verb::Data), responses::LINE_TOO_LONG);
                return self.for_each_recipient(step, answers);
            }
            Some(Fault::LongLine) => Some(responses::CHUNK_LINE_TOO_LONG.plain()),
            Some(Fault::MessageTooLarge) => {
                Some(responses::MESSAGE_TOO_LARGE.with(&self.settings.message_octets_max.to_string()))
            }
            Some(Fault::HeadersTooLarge) => {
                Some(responses::HEADERS_TOO_LARGE.with(&self.settings.header_octets_max.to_string()))
            }
            Some(Fault::Unclean) => Some(responses::BAD_DATA.plain()),
            None => None,
        };
        self.answers = self.recipients();
        let transaction = self.transaction.take().expect("data belongs to a transaction");
        if let Some(refusal) = refusal {
            return self.end_message(refusal);
        }
        let greeting = self.greeting.as_ref().expect("a transaction belongs to a greeting");
        let protocol = if greeting.extended { self.protocol(transaction.is_utf8) } else { "SMTP" };
        let (rcpt_to, mut rcpt_parameters): (_, Vec<_>) =
            transaction.rcpt_to.into_iter().map(|recipient| (recipient.mailbox, recipient.parameters)).unzip();
        if rcpt_parameters.iter().all(String::is_empty) {
            rcpt_parameters.clear();
        }
        let message = Message {
            mail_from: transaction.mail_from,
            rcpt_to,
            mail_parameters: transaction.parameters,
            rcpt_parameters,
            client_name: greeting.client_name.clone(),
            protocol: Cow::Borrowed(protocol),
            subject: reading.content().subject(),
            date: reading.content().date(),
            header_octets: reading.content().header_octets(),
            octets: reading.content().octets(),
        };
        self.finish(Outcome::Ask(Awaiting::Store, Request::StoreMessage(Box::new(message))))
    }

    /// What is said at the end of a message. RFC 2033 4.2: by LMTP "one reply for each previously successful RCPT command".
    pub(super) fn end_message(&mut self, response: Response) -> Step {
        let answers = std::mem::take(&mut self.answers);
        let step = self.finish(Outcome::Respond(response));
        self.for_each_recipient(step, answers)
    }

    pub(super) fn for_each_recipient(&self, mut step: Step, answers: u32) -> Step {
        if self.settings.lmtp && answers > 1 && step.responses.len() == 1 {
            step.responses = vec![step.responses[0].clone(); answers as usize];
        }
        step
    }

    pub(super) fn recipients(&self) -> u32 {
        self.transaction.as_ref().map_or(0, |transaction| transaction.rcpt_to.len() as u32)
    }

    /// The name for `with` in trace lines: RFC 3848, and RFC 6531 3.7.3 for those with UTF8.
    fn protocol(&self, is_utf8: bool) -> &'static str {
        const NAMES: [[&str; 4]; 4] = [
            ["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"],
            ["LMTP", "LMTPA", "LMTPS", "LMTPSA"],
            ["UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"],
            ["UTF8LMTP", "UTF8LMTPA", "UTF8LMTPS", "UTF8LMTPSA"],
        ];
        let place = |high: bool, low: bool| 2 * usize::from(high) + usize::from(low);
        NAMES[place(is_utf8, self.settings.lmtp)][place(self.tls == TlsState::Established, self.user.is_some())]
    }
}
