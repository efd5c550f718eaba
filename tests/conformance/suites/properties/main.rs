//! What holds for every input. [`ScriptedHost`] makes a fault of a malformed response or a step out of turn, so that
//! running anything through it is half of each test.

mod input;

use input::{command, data_octets, preamble};
use mailcell_conformance::host::{Effect, Open, ScriptedHost, moving, native};
use mailcell_core::{Core, Due, Event, Identity, MailboxPage, Next, Reply, Request, Session, Step};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Small limits, so that random input reaches them.
const LIMITS: [(&str, &str); 8] = [
    ("name", "mx.test"),
    ("message-octets-max", "3000"),
    ("header-octets-max", "500"),
    ("recipients-max", "3"),
    ("errors-max", "8"),
    ("auth", "on"),
    ("dsn", "on"),
    ("xclient", "on"),
];

fn open(settings: &[(&str, &str)]) -> ScriptedHost {
    open_with(&native::<Session>, settings)
}

fn open_with(open: Open<'_>, settings: &[(&str, &str)]) -> ScriptedHost {
    let config: Vec<_> = settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    ScriptedHost::open(open, &config)
}

/// Answers by the request alone, so that every cut gets the same replies in the same order.
fn answer(host: &mut ScriptedHost, pages_left: &mut u32) {
    while let Some(request) = host.awaiting() {
        let reply = match request {
            Request::FindUser { local_part, .. } | Request::ExpandGroup { name: local_part } => {
                match local_part.as_str() {
                    "down" => Reply::Unavailable,
                    "bob" => mailboxes(&["bob@mx.test"], false),
                    "j\u{f6}rg" | "joerg" => mailboxes(&["j\u{f6}rg@b\u{fc}cher.test"], false),
                    "staff" => {
                        *pages_left = 2;
                        mailboxes(&["ann@mx.test", "bob@mx.test"], true)
                    }
                    _ => mailboxes(&[], false),
                }
            }
            Request::CheckPassword { user, .. } => match user.len() % 2 {
                0 => Reply::Authenticated(Identity { user: user.clone(), server_final: String::new() }),
                _ => Reply::NotAuthenticated,
            },
            Request::ScramFirst { message } => match message.len() % 3 {
                0 => Reply::NotAuthenticated,
                _ => Reply::ScramChallenge("r=1".to_owned()),
            },
            Request::ScramFinal { message } => match message.len() % 3 {
                0 => Reply::NotAuthenticated,
                _ => Reply::Authenticated(Identity { user: "ann@mx.test".to_owned(), server_final: "v=1".to_owned() }),
            },
            Request::AdmitClient { address } => match address.as_ref().map_or(1, String::len) % 2 {
                0 => Reply::NotAdmitted,
                _ => Reply::Admitted,
            },
            Request::NextPage => {
                *pages_left -= 1;
                mailboxes(&["zoe@mx.test"], *pages_left > 0)
            }
            Request::StoreMessage(message) => match message.octets % 7 {
                0 => Reply::OutOfSpace,
                1 => Reply::Refused,
                _ => Reply::Stored(format!("{}", message.octets)),
            },
        };
        host.reply(reply);
    }
}

fn mailboxes(list: &[&str], more: bool) -> Reply {
    Reply::Mailboxes(MailboxPage::new(list.iter().map(|mailbox| mailbox.to_string()).collect(), more))
}

/// The effects of an input, cut at those places.
fn effects(settings: &[(&str, &str)], input: &[u8], cuts: &[Index]) -> Vec<Effect> {
    effects_of(open(settings), input, cuts)
}

fn effects_of(mut host: ScriptedHost, input: &[u8], cuts: &[Index]) -> Vec<Effect> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(input.len() + 1)).chain([0, input.len()]).collect();
    ends.sort_unstable();
    let mut pages_left = 0;
    for block in ends.windows(2).map(|ends| &input[ends[0]..ends[1]]).filter(|block| !block.is_empty()) {
        host.input(block);
        answer(&mut host, &mut pages_left);
    }
    take_sound(&mut host)
}

fn take_sound(host: &mut ScriptedHost) -> Vec<Effect> {
    let effects = host.take_effects();
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Fault(_))), "{effects:?}");
    effects
}

/// A few seconds' worth of cases; `PROPTEST_CASES` in the environment asks for more.
fn settings() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(3000), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn octets_of_any_kind_do_no_harm(start in preamble(), octets in vec(any::<u8>(), 0..600), cuts in vec(any::<Index>(), 0..8)) {
        let input = [start.as_bytes(), &octets].concat();
        prop_assert_eq!(effects(&LIMITS, &input, &cuts), effects(&LIMITS, &input, &[]));
    }

    #[test]
    fn commands_give_the_same_however_they_are_cut(
        start in preamble(), lines in vec(command(), 0..30), cuts in vec(any::<Index>(), 0..40), keep in any::<bool>(),
    ) {
        let input = [start.as_bytes(), &lines.concat()].concat();
        let newlines = ("bare-newlines", if keep { "keep" } else { "refuse" });
        let settings = [&LIMITS[..], &[newlines]].concat();
        let whole = effects(&settings, &input, &[]);
        prop_assert_eq!(&effects(&settings, &input, &cuts), &whole);
        let octet_by_octet = {
            let mut host = open(&settings);
            let mut pages_left = 0;
            for octet in &input {
                host.input(&[*octet]);
                answer(&mut host, &mut pages_left);
            }
            take_sound(&mut host)
        };
        prop_assert_eq!(&octet_by_octet, &whole);
    }

    #[test]
    fn data_gives_the_same_however_it_is_cut(
        extended in any::<bool>(), keep in any::<bool>(), pieces in data_octets(), cuts in vec(any::<Index>(), 0..30),
    ) {
        let hello = if extended { "EHLO" } else { "HELO" };
        let start = format!("{hello} c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
        let input = [start.as_bytes(), &pieces, b"\r\n.\r\nQUIT\r\n"].concat();
        let settings = [LIMITS[0], LIMITS[1], LIMITS[2], ("bare-newlines", if keep { "keep" } else { "refuse" })];
        let whole = effects(&settings, &input, &[]);
        prop_assert_eq!(&effects(&settings, &input, &cuts), &whole);
        prop_assert_eq!(whole.last(), Some(&Effect::Close), "the end of data was not found");
    }

    #[test]
    fn chunks_come_out_as_they_went_in(
        chunks in vec(vec(any::<u8>(), 0..300), 1..8), cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut input = b"EHLO c\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\n".to_vec();
        for (at, chunk) in chunks.iter().enumerate() {
            let last = if at + 1 == chunks.len() { " LAST" } else { "" };
            input.extend(format!("BDAT {}{last}\r\n", chunk.len()).bytes());
            input.extend(chunk);
        }
        input.extend(b"NOOP\r\n");
        let whole = chunks.concat();
        let got = effects(&[], &input, &cuts);
        let message = got.iter().find_map(|effect| if let Effect::Message(octets) = effect { Some(octets) } else { None });
        prop_assert_eq!(message.map_or(&b""[..], Vec::as_slice), &whole[..]);
        prop_assert_eq!(got.last(), Some(&Effect::Line(b"250 2.0.0 Ok".to_vec())), "what is behind the last chunk is a command");
    }

    #[test]
    fn a_message_comes_out_as_it_went_in(
        lines in vec(prop_oneof![vec(select(vec![b'.', b' ', b'a', b':', 0xff, 0x80]), 0..6), vec(any::<u8>(), 0..200)], 0..20),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let clean = |line: &Vec<u8>| line.iter().copied().filter(|b| !b"\r\n\0".contains(b)).chain(*b"\r\n").collect::<Vec<_>>();
        let lines: Vec<_> = lines.iter().map(clean).collect();
        let mut input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n".to_vec();
        for line in &lines {
            if line.starts_with(b".") {
                input.push(b'.');
            }
            input.extend(line);
        }
        input.extend(b".\r\n");
        let stored: Vec<_> = effects(&LIMITS[..1], &input, &cuts).into_iter()
            .filter_map(|effect| if let Effect::Message(octets) = effect { Some(octets) } else { None }).collect();
        prop_assert_eq!(stored.concat(), lines.concat());
    }

    #[test]
    fn data_needs_a_sender_and_a_recipient_of_its_transaction(lines in vec(model_command(), 0..60)) {
        let mut host = open(&[("name", "mx.test"), ("errors-max", "1000"), ("recipients-max", "4")]);
        let mut model = Model::default();
        for (number, (verb, argument)) in lines.iter().enumerate() {
            host.take_effects();
            let argument = argument.replace('#', &number.to_string());
            host.input(format!("{verb}{argument}\r\n").as_bytes());
            model.command(verb, &argument, &code(&mut host))?;
            if host.is_reading_data() {
                let (message, fault) = if number % 5 == 0 { ("x".repeat(2000), true) } else { ("hi".to_owned(), false) };
                host.input(format!("{message}\r\n.\r\n").as_bytes());
                model.end_of_data(&mut host, fault)?;
            }
        }
    }

    #[test]
    fn events_of_the_host_end_a_session_wherever_it_is(
        start in preamble(), lines in vec(command(), 0..10), event in select(vec![Event::IdleTimeout, Event::SessionExpired, Event::Drain]),
    ) {
        let mut host = open(&LIMITS);
        host.input(&[start.as_bytes(), &lines.concat()].concat());
        answer(&mut host, &mut 0);
        if !host.is_closed() {
            host.event(Event::Unknown);
            host.event(event);
        }
        prop_assert!(host.is_closed());
        take_sound(&mut host);
    }

    #[test]
    fn a_session_that_moves_after_each_event_is_the_same(
        start in preamble(), lines in vec(command(), 0..30), pieces in data_octets(), cuts in vec(any::<Index>(), 0..40),
    ) {
        let input = [start.as_bytes(), &lines.concat(), &pieces].concat();
        let moved = effects_of(open_with(&moving::<Session>, &LIMITS), &input, &cuts);
        prop_assert_eq!(moved, effects(&LIMITS, &input, &cuts));
    }

    #[test]
    fn a_state_of_any_kind_is_refused_or_goes_on(
        start in preamble(), lines in vec(command(), 0..5), further in vec(command(), 0..5),
        changes in vec((any::<Index>(), 0..16_usize, vec(0..4_u8, 0..4)), 0..3),
    ) {
        let (mut session, step) = Session::open(&[]);
        let start: Vec<_> = start.lines().map(|line| line.as_bytes().to_vec()).collect();
        let steps = go_on(&mut session, step.next.due(), &[start, lines].concat());
        if steps.last().is_none_or(|step| step.next != Next::Close) {
            let schema = Session::schemas().writes[0];
            let mut state = session.save(schema).state;
            for (at, removed, octets) in changes {
                let at = at.index(state.len() + 1);
                state.splice(at..(at + removed).min(state.len()), octets);
            }
            if let Ok((mut session, position)) = Session::restore(&[], schema, &state) {
                prop_assert_eq!(session.save(schema).position, position);
                go_on(&mut session, Some(position.due), &further);
            }
        }
    }

    #[test]
    fn the_same_events_give_the_same_effects(start in preamble(), lines in vec(command(), 0..30)) {
        let lines: Vec<_> = start.lines().map(|line| line.as_bytes().to_vec()).chain(lines).collect();
        let [one, other] = [(); 2].map(|()| {
            let (mut session, step) = Session::open(&[]);
            (go_on(&mut session, step.next.due(), &lines), step)
        });
        prop_assert_eq!(one, other);
    }
}

/// Gives each line as what is due, a line or data, while one of them is.
fn go_on(session: &mut Session, mut due: Option<Due>, lines: &[Vec<u8>]) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in lines {
        let step = match due {
            Some(Due::Line { .. }) => session.on_line(line.strip_suffix(b"\r\n").unwrap_or(line)),
            Some(Due::Data) => session.on_data(line.clone()).step,
            _ => break,
        };
        due = step.next.due();
        steps.push(step);
    }
    steps
}

fn model_command() -> impl Strategy<Value = (&'static str, &'static str)> {
    let rcpt = ("RCPT", " TO:<r#@mx.test>");
    let mail = ("MAIL", " FROM:<s#@mx.test>");
    select(vec![
        ("HELO", " c"),
        ("HELO", " _"),
        ("EHLO", " c"),
        ("EHLO", ""),
        mail,
        mail,
        mail,
        ("MAIL", " FROM:<s#@>"),
        rcpt,
        rcpt,
        rcpt,
        ("RCPT", " TO:<r#>"),
        ("RSET", ""),
        ("RSET", " x"),
        ("NOOP", ""),
        ("DATA", ""),
        ("DATA", ""),
        ("DATA", " x"),
        ("TURN", ""),
    ])
}

fn code(host: &mut ScriptedHost) -> String {
    let effects = host.take_effects();
    let Some(Effect::Line(line)) = effects.last() else { panic!("no answer: {effects:?}") };
    String::from_utf8_lossy(&line[..3]).into_owned()
}

/// What a client knows of its transaction from the codes it was given, and nothing else.
#[derive(Default)]
struct Model {
    greeted: bool,
    sender: Option<String>,
    recipients: Vec<String>,
}

impl Model {
    fn command(&mut self, verb: &str, argument: &str, code: &str) -> Result<(), TestCaseError> {
        let mailbox =
            || argument.split_once('<').map(|(_, path)| path.trim_end_matches('>').to_owned()).unwrap_or_default();
        match (verb, code) {
            ("HELO", "250") => {
                prop_assert!(!self.greeted, "HELO twice");
                self.greeted = true;
            }
            ("EHLO", "250") => *self = Model { greeted: true, ..Model::default() },
            ("RSET", "250") => *self = Model { greeted: self.greeted, ..Model::default() },
            ("MAIL", "250") => {
                prop_assert!(self.greeted && self.sender.is_none(), "MAIL out of sequence");
                self.sender = Some(mailbox());
            }
            ("RCPT", "250") => {
                prop_assert!(self.sender.is_some(), "RCPT without MAIL");
                self.recipients.push(mailbox());
            }
            ("RCPT", "452") => prop_assert_eq!(self.recipients.len(), 4),
            ("DATA", "354") => {
                prop_assert!(self.sender.is_some() && !self.recipients.is_empty(), "DATA out of sequence")
            }
            ("DATA", "503") => prop_assert!(self.recipients.is_empty(), "DATA was due"),
            (_, code) => prop_assert!(code.starts_with('5') || verb == "NOOP", "{verb}{argument}: {code}"),
        }
        Ok(())
    }

    fn end_of_data(&mut self, host: &mut ScriptedHost, fault: bool) -> Result<(), TestCaseError> {
        if fault {
            prop_assert_eq!(code(host), "500");
            return Ok(());
        }
        let Some(Request::StoreMessage(message)) = host.awaiting() else {
            return Err(TestCaseError::fail("nothing is stored"));
        };
        prop_assert_eq!(Some(&message.mail_from), self.sender.as_ref());
        prop_assert_eq!(&message.rcpt_to, &self.recipients);
        *self = Model { greeted: true, ..Model::default() };
        host.reply(Reply::Stored("1".into()));
        prop_assert_eq!(code(host), "250");
        Ok(())
    }
}
