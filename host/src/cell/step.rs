//! A step as a core returned it, checked: what passes here is carried out, all of it or nothing.

use super::bindings::exports::mailcell::smtp::session as wit;
use super::limits;
use crate::credentials::PASSWORD_OCTETS_MAX;
use mailcell_core::address::is_printable;
use mailcell_core::limits::SCRAM_OCTETS_MAX;
use mailcell_core::{Due, Input, Message, Next, Order, Reply, Request, Response, Step};
use std::net::IpAddr;

/// A step that was checked.
#[derive(Debug)]
pub struct Effects {
    /// Lines for the client as they go over the wire.
    pub output: Vec<u8>,
    /// The code of the last line, if there is one.
    pub code: Option<u16>,
    /// In order.
    pub orders: Vec<Order>,
    /// What happens next.
    pub next: Next,
}

/// The effects of an input.
#[derive(Debug)]
pub struct Answer {
    /// Octets that were read of a block of message data; 0 for everything else.
    pub consumed: usize,
    /// The effects.
    pub effects: Effects,
}

/// What a core queued through its imports during one call.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) orders: Vec<Order>,
    pub(super) requests: Vec<Request>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.requests.is_empty()
    }

    /// The step in the types of [`mailcell_core`], where waiting for a reply without a request, or a request and not
    /// waiting, cannot be said.
    pub(super) fn complete(self, step: wit::Step) -> Checked<Step> {
        let mut requests = self.requests.into_iter();
        let next = match (step.next, requests.next(), requests.next()) {
            (wit::Next::AwaitReply, Some(request), None) => Next::AwaitReply(request),
            (wit::Next::ReadLine(line), None, None) => {
                Next::ReadLine { octets_max: line.octets_max, secret: line.secret }
            }
            (wit::Next::ReadData, None, None) => Next::ReadData,
            (wit::Next::StartTls, None, None) => Next::StartTls,
            (wit::Next::Close, None, None) => Next::Close,
            (wit::Next::AwaitReply, None, _) => return Err("waiting for a reply without a request"),
            (_, Some(_), _) => return Err("a request out of turn"),
            (_, None, Some(_)) => unreachable!("a second request follows a first one"),
        };
        if step.responses.len() > limits::RESPONSES_MAX {
            return Err("too many responses");
        }
        let responses = step.responses.into_iter().map(|response| Response {
            code: response.code,
            enhanced: response.enhanced.map(|status| (status.class, status.subject, status.detail)),
            text: response.text.into(),
            more: response.more,
        });
        Ok(Step { responses: responses.collect(), orders: self.orders, next })
    }
}

/// What must hold from one step of a session to the next. It goes with the session from core to core.
#[derive(Clone, Debug, Default)]
pub(super) struct Checker {
    /// What the last step said; nothing before the first one and behind the last.
    due: Option<Due>,
    /// The code of a multi-line response that is still open.
    open_response: Option<u16>,
    /// Octets of message data that the core has read since it began to. What it leaves it is given again.
    read: u64,
    /// Octets that it appended of them.
    appended: u64,
    /// Whether the last reply was a page with another one behind it.
    page_due: bool,
    /// Whether the last event may have been the end of a message.
    may_end_message: bool,
}

type Checked<T> = Result<T, &'static str>;

impl Checker {
    /// What the core was told, and how much of it it has read if that was data.
    pub(super) fn told(&mut self, input: &Input<'_>, consumed: usize) {
        self.may_end_message = false;
        match input {
            Input::Data(_) => {
                self.read += consumed as u64;
                self.may_end_message = true;
            }
            Input::Reply(reply) => {
                self.page_due = matches!(&**reply, Reply::Mailboxes(page) if page.more);
                self.may_end_message =
                    matches!(**reply, Reply::Stored(_) | Reply::OutOfSpace | Reply::Refused | Reply::Unavailable);
            }
            // An empty chunk may be the last one.
            Input::Line(line) => {
                self.may_end_message = line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"))
            }
            Input::Event(_) => {}
        }
    }

    pub(super) fn due(&self) -> Option<Due> {
        self.due
    }

    /// Compares where a core says that the session is with where it is. A core that reads longer lines is another core, and
    /// not another position.
    pub(super) fn change_hands(&mut self, due: Option<Due>, octets: u64) -> Checked<()> {
        let is_alike = match (self.due, due) {
            (Some(Due::Line { secret, .. }), Some(Due::Line { secret: says_secret, .. })) => secret == says_secret,
            (Some(due), Some(says)) => due == says,
            _ => false,
        };
        if !is_alike || octets != self.appended {
            return Err("a session in another position than it is in");
        }
        if let Some(Due::Line { octets_max, .. }) = due {
            check_line_limit(octets_max)?;
        }
        self.due = due;
        Ok(())
    }

    /// Checks a step; an error says what is wrong with it.
    pub(super) fn check(&mut self, step: Step) -> Checked<Effects> {
        let Step { responses, orders, next } = step;
        // One event has one response; a second one would shift every answer behind it. The end of a message alone is answered
        // for each recipient, by LMTP.
        if !self.may_end_message && responses.iter().rev().skip(1).any(|response| !response.more) {
            return Err("two responses to one event");
        }
        let mut output = Vec::with_capacity(responses.iter().map(|response| response.text.len() + 16).sum());
        for response in &responses {
            self.write_response(response, &mut output)?;
        }
        let code = responses.last().map(|response| response.code);
        if code == Some(421) && !matches!(next, Next::Close) {
            return Err("a 421 that does not close");
        }
        self.check_orders(&orders)?;
        match &next {
            Next::AwaitReply(request) => self.check_request(request)?,
            Next::ReadLine { octets_max, .. } => check_line_limit(*octets_max)?,
            Next::ReadData | Next::StartTls | Next::Close => {}
        }
        if self.open_response.is_some() && !matches!(next, Next::AwaitReply(_)) {
            return Err("a response without its last line");
        }
        // A message may come in several parts, with commands between.
        if !matches!(next, Next::ReadData) && self.appended == 0 {
            self.read = 0;
        }
        self.due = next.due();
        Ok(Effects { output, code, orders, next })
    }

    fn write_response(&mut self, response: &Response, output: &mut Vec<u8>) -> Checked<()> {
        let code = response.code;
        if !(200..=599).contains(&code) {
            return Err("a response code out of bounds");
        }
        if self.open_response.is_some_and(|open| open != code) {
            return Err("a response with two codes");
        }
        self.open_response = response.more.then_some(code);
        // Whether a client may be told what is not ASCII is for the core to know.
        if !is_printable(&response.text) {
            return Err("a response with a control character");
        }
        let start = output.len();
        output.extend_from_slice(&digits(code));
        output.push(if response.more { b'-' } else { b' ' });
        if let Some((class, subject, detail)) = response.enhanced {
            if u16::from(class) != code / 100 || subject > 999 || detail > 999 {
                return Err("an enhanced status code that does not fit");
            }
            push_number(output, class.into());
            output.push(b'.');
            push_number(output, subject);
            output.push(b'.');
            push_number(output, detail);
            output.push(b' ');
        }
        output.extend_from_slice(response.text.as_bytes());
        output.extend_from_slice(b"\r\n");
        match output.len() - start > limits::RESPONSE_OCTETS_MAX {
            true => Err("a response line that is too long"),
            false => Ok(()),
        }
    }

    fn check_orders(&mut self, orders: &[Order]) -> Checked<()> {
        if orders.len() > limits::ORDERS_MAX {
            return Err("too many orders");
        }
        for order in orders {
            match order {
                Order::Append(octets) => self.appended += octets.len() as u64,
                Order::Discard => self.appended = 0,
            }
        }
        match self.appended > self.read + limits::CARRIED_OCTETS_MAX {
            true => Err("more appended than read"),
            false => Ok(()),
        }
    }

    fn check_request(&mut self, request: &Request) -> Checked<()> {
        match request {
            Request::StoreMessage(message) => {
                if message.octets != self.appended || message.header_octets > message.octets {
                    return Err("a message of another length than was appended");
                }
                self.appended = 0;
                check_message(message)?;
            }
            Request::FindUser { local_part, domain } => {
                check_name(local_part)?;
                domain.iter().try_for_each(|domain| check_name(domain))?;
            }
            Request::ExpandGroup { name } => check_name(name)?,
            Request::ScramFirst { message } | Request::ScramFinal { message } => {
                if message.len() > SCRAM_OCTETS_MAX || !is_printable(message) {
                    return Err("a message of SCRAM that is too long or holds a control character");
                }
            }
            Request::AdmitClient { .. } if self.appended > 0 => {
                return Err("another client in the middle of a message");
            }
            Request::AdmitClient { address } => {
                if address.as_ref().is_some_and(|address| address.parse::<IpAddr>().is_err()) {
                    return Err("an address of a client that is none");
                }
            }
            Request::CheckPassword { password, .. } if password.len() > PASSWORD_OCTETS_MAX => {
                return Err("a password that is too long");
            }
            Request::CheckPassword { user, .. } => check_name(user)?,
            Request::NextPage if !self.page_due => return Err("a request for a page behind the last one"),
            Request::NextPage => {}
        }
        Ok(())
    }
}

fn check_line_limit(octets_max: u32) -> Checked<()> {
    match (3..=limits::LINE_OCTETS_MAX).contains(&octets_max) {
        true => Ok(()),
        false => Err("a line limit out of bounds"),
    }
}

/// A number below 1000, without the machinery of `fmt`: each response has three.
fn push_number(output: &mut Vec<u8>, number: u16) {
    let digits = digits(number);
    let zeros = digits[..2].iter().take_while(|digit| **digit == b'0').count();
    output.extend_from_slice(&digits[zeros..]);
}

fn digits(code: u16) -> [u8; 3] {
    [code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8)
}

fn check_message(message: &Message) -> Checked<()> {
    if message.rcpt_to.is_empty() || message.rcpt_to.len() > limits::RECIPIENTS_MAX {
        return Err("a message with no or too many recipients");
    }
    if !message.rcpt_parameters.is_empty() && message.rcpt_parameters.len() != message.rcpt_to.len() {
        return Err("parameters of other recipients");
    }
    let mut parameters = message.rcpt_parameters.iter().chain([&message.mail_parameters]);
    if !parameters.all(|text| text.len() <= limits::PARAMETERS_OCTETS_MAX && is_printable(text)) {
        return Err("parameters that are too long or hold a control character");
    }
    let names = [&*message.mail_from, &*message.client_name, &*message.protocol];
    names.into_iter().chain(message.rcpt_to.iter().map(String::as_str)).try_for_each(check_name)?;
    if message.subject.as_ref().is_some_and(|subject| subject.len() > limits::SUBJECT_OCTETS_MAX) {
        return Err("a subject that is too long");
    }
    match &message.date {
        Some(date) if date.zone_minutes.unsigned_abs() >= 24 * 60 => Err("a date that is none"),
        Some(date) if jiff::Timestamp::from_second(date.seconds).is_err() => Err("a date that is none"),
        _ => Ok(()),
    }
}

/// What goes into trace lines and statements must not bring a line end along.
fn check_name(name: &str) -> Checked<()> {
    match name.len() <= limits::NAME_OCTETS_MAX && is_printable(name) {
        true => Ok(()),
        false => Err("a name that is too long or holds a control character"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(code: u16, text: &str, more: bool, next: wit::Next) -> wit::Step {
        wit::Step { responses: vec![wit::Response { code, enhanced: None, text: text.to_owned(), more }], next }
    }

    fn line() -> wit::Next {
        wit::Next::ReadLine(wit::LineLimits { octets_max: 512, secret: false })
    }

    #[track_caller]
    fn check(step: wit::Step, queue: Queue, expected: Result<&str, &str>) {
        let got = queue
            .complete(step)
            .and_then(|step| Checker::default().check(step))
            .map(|effects| String::from_utf8(effects.output).unwrap());
        assert_eq!(got.as_deref().map_err(|error| *error), expected);
    }

    #[test]
    fn a_good_step_passes() {
        check(step(250, "Ok", false, line()), Queue::default(), Ok("250 Ok\r\n"));
    }

    #[test]
    fn numbers_have_no_zeros_in_front() {
        let mut output = Vec::new();
        [0, 7, 10, 305, 999].into_iter().for_each(|number| push_number(&mut output, number));
        assert_eq!(output, b"0710305999");
    }

    #[test]
    fn bad_responses_are_refused() {
        let close = || wit::Next::Close;
        check(step(999, "", false, close()), Queue::default(), Err("a response code out of bounds"));
        check(step(199, "", false, close()), Queue::default(), Err("a response code out of bounds"));
        check(step(250, "a\u{85}b", false, close()), Queue::default(), Err("a response with a control character"));
        check(step(250, "a\r\nb", false, close()), Queue::default(), Err("a response with a control character"));
        check(step(250, &"x".repeat(507), false, close()), Queue::default(), Err("a response line that is too long"));
        check(step(250, "a", true, line()), Queue::default(), Err("a response without its last line"));
        check(step(421, "a", false, line()), Queue::default(), Err("a 421 that does not close"));
        let two = vec![wit::Response { code: 250, enhanced: None, text: String::new(), more: false }; 2];
        check(wit::Step { responses: two, next: line() }, Queue::default(), Err("two responses to one event"));
        let million = vec![wit::Response { code: 250, enhanced: None, text: String::new(), more: true }; 257];
        check(wit::Step { responses: million, next: close() }, Queue::default(), Err("too many responses"));
    }

    #[test]
    fn the_end_of_a_message_alone_may_have_several_responses() {
        let response = || Response { code: 250, enhanced: None, text: "Ok".into(), more: false };
        let next = Next::ReadLine { octets_max: 512, secret: false };
        let step = || Step { responses: vec![response(); 2], orders: Vec::new(), next: next.clone() };
        let page = Reply::Mailboxes(mailcell_core::MailboxPage::new(Vec::new(), false));
        for (input, is_allowed) in [
            (Input::Data(b".".into()), true),
            (Input::Reply(std::borrow::Cow::Owned(Reply::Stored("1".to_owned()))), true),
            (Input::Line(b"bdat 0 last".into()), true),
            (Input::Line(b"NOOP".into()), false),
            (Input::Reply(std::borrow::Cow::Owned(page)), false),
        ] {
            let mut checker = Checker::default();
            checker.told(&input, 0);
            assert_eq!(checker.check(step()).is_ok(), is_allowed, "{input:?}");
        }
    }

    #[test]
    fn requests_out_of_turn_are_refused() {
        let queue = || Queue { requests: vec![Request::NextPage], ..Queue::default() };
        let page = "a request for a page behind the last one";
        check(wit::Step { responses: Vec::new(), next: wit::Next::AwaitReply }, queue(), Err(page));
        check(step(250, "a", false, line()), queue(), Err("a request out of turn"));
        check(
            step(250, "a", false, wit::Next::AwaitReply),
            Queue::default(),
            Err("waiting for a reply without a request"),
        );
        let two = Queue { requests: vec![Request::NextPage, Request::NextPage], ..Queue::default() };
        check(step(250, "a", false, wit::Next::AwaitReply), two, Err("a request out of turn"));
    }

    #[test]
    fn more_appended_than_read_is_refused() {
        let mut checker = Checker::default();
        checker.told(&Input::Data(vec![0; 100].into()), 10);
        let step =
            |octets| Step { responses: Vec::new(), orders: vec![Order::Append(vec![0; octets])], next: Next::ReadData };
        assert!(checker.check(step(10)).is_ok());
        assert_eq!(checker.check(step(65)).err(), Some("more appended than read"));
    }
}
