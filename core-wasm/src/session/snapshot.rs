//! A session as a [`Core`], and as bytes and back: everything but the settings, in the order of [`State`], written by
//! postcard.

use super::auth::Exchange;
use super::chunks::Chunk;
use super::sender::Transaction;
use super::{Awaiting, Greeting, Introduction, Session, TlsState};
use crate::address;
use crate::limits;
use crate::reading::Reading;
use crate::settings::Settings;
use crate::step::{Answer, Config, Core, Due, Input, Next, Position, Schemas, Snapshot, Step};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The number of the layout that [`State`] has. Whoever changes what [`State`] reaches gives it another number and, unless the
/// contract changes too, so that no core of the former layout can be there, goes on reading that one; a test holds the bytes.
const SCHEMA: u32 = 3;

#[derive(Serialize, Deserialize)]
struct State<'a> {
    started: bool,
    tls: TlsState,
    greeting: Cow<'a, Option<Greeting>>,
    introduction: Cow<'a, Introduction>,
    exchange: Cow<'a, Option<Exchange>>,
    user: Cow<'a, Option<String>>,
    failures: u32,
    transaction: Cow<'a, Option<Transaction>>,
    reading: Cow<'a, Option<Reading>>,
    chunk: Option<Chunk>,
    awaiting: Option<Awaiting>,
    answers: u32,
    errors: u32,
}

impl Core for Session {
    fn open(config: &Config) -> (Session, Step) {
        Session::open(config)
    }

    fn deliver(&mut self, input: Input<'_>) -> Answer {
        match input {
            Input::Line(line) => self.on_line(&line).into(),
            Input::Data(block) => self.on_data(block.into_owned()),
            Input::Reply(reply) => self.on_reply(&reply).into(),
            Input::Event(event) => self.on_event(event).into(),
        }
    }

    fn schemas() -> Schemas {
        Schemas { writes: vec![SCHEMA], reads: vec![SCHEMA] }
    }

    fn save(&self, schema: u32) -> Snapshot {
        assert_eq!(schema, SCHEMA, "another layout than `schemas` names");
        Snapshot { position: self.position(), state: self.to_state() }
    }

    fn restore(config: &Config, schema: u32, state: &[u8]) -> Result<(Session, Position), String> {
        if schema != SCHEMA {
            return Err(format!("layout {schema} is not known"));
        }
        let session = Session::from_state(Settings::from_pairs(config), state)?;
        let position = session.position();
        Ok((session, position))
    }
}

impl Session {
    fn to_state(&self) -> Vec<u8> {
        let state = State {
            started: self.started,
            tls: self.tls,
            greeting: Cow::Borrowed(&self.greeting),
            introduction: Cow::Borrowed(&self.introduction),
            exchange: Cow::Borrowed(&self.exchange),
            user: Cow::Borrowed(&self.user),
            failures: self.failures,
            transaction: Cow::Borrowed(&self.transaction),
            reading: Cow::Borrowed(&self.reading),
            chunk: self.chunk,
            awaiting: self.awaiting,
            answers: self.answers,
            errors: self.errors,
        };
        postcard::to_allocvec(&state).expect("memory takes everything")
    }

    /// Reads what another core wrote, and believes nothing that this one could not have written.
    fn from_state(settings: Settings, state: &[u8]) -> Result<Session, String> {
        let (state, rest) =
            postcard::take_from_bytes::<State<'_>>(state).map_err(|error| format!("not a session: {error}"))?;
        let session = Session {
            settings,
            started: state.started,
            tls: state.tls,
            greeting: state.greeting.into_owned(),
            introduction: state.introduction.into_owned(),
            exchange: state.exchange.into_owned(),
            user: state.user.into_owned(),
            failures: state.failures,
            transaction: state.transaction.into_owned(),
            reading: state.reading.into_owned(),
            chunk: state.chunk,
            awaiting: state.awaiting,
            answers: state.answers,
            errors: state.errors,
        };
        let problem = if rest.is_empty() { session.problem() } else { Some("octets behind its end") };
        problem.map_or(Ok(session), |problem| Err(format!("not a session of this core: {problem}")))
    }

    /// What no session of this core is ever like.
    fn problem(&self) -> Option<&'static str> {
        let recipients = self.transaction.iter().flat_map(|transaction| &transaction.rcpt_to);
        let candidate = self.transaction.iter().flat_map(|transaction| &transaction.candidate);
        let everyone = || recipients.clone().chain(candidate.clone());
        let senders = self.transaction.iter().map(|transaction| &transaction.mail_from);
        let names = self.greeting.iter().map(|greeting| &greeting.client_name).chain(&self.introduction.client_name);
        let mut texts = everyone().map(|recipient| &recipient.mailbox).chain(senders).chain(names);
        let is_text = |text: &String| text.len() <= limits::PATH_OCTETS_MAX && address::is_printable(text);
        let is_kept = |text: &String, octets_max| text.len() <= octets_max && address::is_printable(text);
        let are_kept = self.transaction.iter().all(|said| is_kept(&said.parameters, limits::MAIL_EXTRA_OCTETS_MAX))
            && everyone().all(|said| is_kept(&said.parameters, limits::RCPT_EXTRA_OCTETS_MAX));
        let problems = [
            (self.transaction.is_some() && self.greeting.is_none(), "a transaction without a greeting"),
            (self.reading.is_some() && recipients.clone().next().is_none(), "data without a recipient"),
            (self.is_data_due() && self.awaiting.is_some(), "data and a request at once"),
            (
                self.tls == TlsState::Starting && (self.is_data_due() || self.awaiting.is_some()),
                "TLS and something else at once",
            ),
            (self.awaiting == Some(Awaiting::Store) && self.greeting.is_none(), "a message without a greeting"),
            (self.chunk.is_some_and(|chunk| !chunk.is_sound(self.reading.as_ref())), "a chunk of nothing"),
            (
                (self.awaiting == Some(Awaiting::Recipient)) != candidate.clone().next().is_some(),
                "a question about no recipient",
            ),
            (self.answers as usize > limits::RECIPIENTS_MAX, "too many answers"),
            (
                self.exchange.is_some() && (self.is_data_due() || self.awaiting.is_some() || self.greeting.is_none()),
                "credentials and something else at once",
            ),
            (recipients.count() > limits::RECIPIENTS_MAX, "too many recipients"),
            (!texts.all(is_text), "a name that no command brings"),
            (!are_kept, "a parameter that no command brings"),
            (self.reading.as_ref().is_some_and(|reading| !reading.content().is_bounded()), "a field that is too long"),
        ];
        problems.into_iter().find_map(|(found, problem)| found.then_some(problem))
    }

    fn position(&self) -> Position {
        let due = match (self.awaiting, self.read_line()) {
            _ if self.tls == TlsState::Starting => Due::Tls,
            _ if self.is_data_due() => Due::Data,
            (Some(_), _) => Due::Reply,
            (None, Next::ReadLine { octets_max, secret }) => Due::Line { octets_max, secret },
            (None, next) => unreachable!("{next:?} reads no line"),
        };
        Position { due, octets: self.reading.as_ref().map_or(0, Reading::appended_octets) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sender::Recipient;
    use super::*;
    use crate::reading::Form;

    /// A session in each kind of state, and its bytes in this layout.
    const STATES: [(&str, &str); 6] = [
        ("", "0000000000000000000000000000"),
        ("XYZZY\r\n", "0100000000000000000000000001"),
        ("EHLO c.test\r\n", "01000106632e74657374010000000000000000000000"),
        (
            "EHLO c.test\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nVRFY bob\r\n",
            "01000106632e74657374010000000000010361406200010363406400000000000001000b00000000",
        ),
        (
            "EHLO c.test\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 9 LAST\r\nDa",
            "01000106632e746573740100000000000103614062000103634064000000000101000200000102020244610000020000000109070100000000",
        ),
        (
            "HELO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\nSubject: hi\r\nDa",
            "01000106632e746573740000000000000100000103634064000000000100030200000100020002446101052068690d0a000f0d000000000000",
        ),
    ];

    fn session(input: &str) -> Session {
        let (mut session, _) = Session::open(&[]);
        let mut rest = input.as_bytes();
        while let Some((line, behind)) = rest.iter().position(|b| *b == b'\n').map(|at| rest.split_at(at + 1)) {
            if session.reading.is_some() {
                break;
            }
            session.deliver(Input::Line(line[..line.len() - 2].into()));
            rest = behind;
        }
        if session.reading.is_some() {
            session.deliver(Input::Data(rest.into()));
        }
        session
    }

    #[test]
    fn the_layout_of_schema_3_never_changes() {
        let hex = |octets: Vec<u8>| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        let got: Vec<_> = STATES.iter().map(|(input, _)| (*input, hex(session(input).to_state()))).collect();
        let expected: Vec<_> = STATES.iter().map(|(input, state)| (*input, (*state).to_owned())).collect();
        assert_eq!(got, expected);
    }

    /// As much as commands bring in, so that what is accepted can be restored.
    #[test]
    fn a_session_with_the_longest_parameters_is_restored() {
        let config = [("dsn".to_owned(), "on".to_owned())];
        let (mut session, _) = Session::open(&config);
        let parameters = [" ENVID=".to_owned() + &"+2B".repeat(100), format!(" ORCPT=rfc822;{}", "x".repeat(487))];
        let mut say = |line: String| session.deliver(Input::Line(line.into_bytes().into())).step.responses[0].code;
        assert_eq!(say("EHLO c.test".to_owned()), 250);
        assert_eq!(say(format!("MAIL FROM:<a@b> RET=HDRS{}", parameters[0])), 250);
        for number in 0..100 {
            assert_eq!(say(format!("RCPT TO:<{number}{}@d>{}", "c".repeat(60), parameters[1])), 250);
        }
        let state = session.to_state();
        assert!(state.len() < 96 << 10, "{} octets", state.len());
        assert_eq!(Session::restore(&config, SCHEMA, &state).map(|_| ()), Ok(()));
    }

    fn nobody() -> Recipient {
        Recipient { mailbox: String::new(), parameters: String::new() }
    }

    #[test]
    fn what_no_session_is_like_is_refused() {
        let refusal = |change: fn(&mut Session)| {
            let mut session = session("EHLO c.test\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
            change(&mut session);
            Session::restore(&[], SCHEMA, &session.to_state()).err().unwrap_or_default()
        };
        assert_eq!(refusal(|_| {}), "");
        for (change, why) in [
            ((|s| s.greeting = None) as fn(&mut Session), "a transaction without a greeting"),
            (|s| s.transaction = None, ""),
            (|s| s.transaction.as_mut().unwrap().mail_from.push('\r'), "a name that no command brings"),
            (|s| s.transaction.as_mut().unwrap().candidate = Some(nobody()), "a question about no recipient"),
            (|s| s.awaiting = Some(Awaiting::Recipient), "a question about no recipient"),
            (|s| s.transaction.as_mut().unwrap().rcpt_to = vec![nobody(); 101], "too many recipients"),
            (|s| s.transaction.as_mut().unwrap().parameters.push('\r'), "a parameter that no command brings"),
            (|s| s.reading = Some(Reading::new(Form::lines(false))), ""),
            (
                |s| (s.reading, s.chunk) = (Some(Reading::new(Form::lines(false))), session("BDAT 9\r\n").chunk),
                "a chunk of nothing",
            ),
            (
                |s| (s.tls, s.reading) = (TlsState::Starting, Some(Reading::new(Form::lines(false)))),
                "TLS and something else at once",
            ),
            (
                |s| (s.transaction, s.reading) = (None, Some(Reading::new(Form::lines(false)))),
                "data without a recipient",
            ),
        ] {
            assert!(refusal(change).ends_with(why), "{why}: {}", refusal(change));
        }
        for octets in [
            &b""[..],
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            &[0xff; 40],
        ] {
            assert!(Session::restore(&[], SCHEMA, octets).is_err(), "{octets:?}");
        }
        assert_eq!(Session::restore(&[], 1, &[]).err().unwrap(), "layout 1 is not known");
    }
}
