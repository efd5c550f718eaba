//! The core's tables against what is expected of them, written down a second time.

use mailcell_conformance::check::SESSIONS;
use mailcell_conformance::host::{Effect, ScriptedHost, native};
use mailcell_conformance::transcript::{NAME, Transcript};
use mailcell_core::command::Verb;
use mailcell_core::responses::{self, Template};
use mailcell_core::{Reply, sequence};

/// What each command leads to in each state, with a good argument. A cell is the answer's code and the state behind it;
/// DATA's is the answer to the end of data.
///
/// STARTTLS is as without a certificate, XCLIENT as by a peer who is not trusted.
const EXPECTED: &str = "
    command  Start       Ready       Sender          Recipients      Chunks
    HELO     250 Ready   503 Ready   503 Sender      503 Recipients 503 Chunks
    EHLO     250 Ready   250 Ready   250 Ready       250 Ready 250 Ready
    LHLO     500 Start   500 Ready   500 Sender      500 Recipients  500 Chunks
    STARTTLS 503 Start   502 Ready   503 Sender      503 Recipients 503 Chunks
    AUTH     503 Start   502 Ready   503 Sender      503 Recipients  503 Chunks
    XCLIENT  550 Start   550 Ready   503 Sender      503 Recipients  503 Chunks
    MAIL     503 Start   250 Sender  503 Sender      503 Recipients 503 Chunks
    RCPT     503 Start   503 Ready   250 Recipients  250 Recipients 503 Chunks
    DATA     503 Start   503 Ready   503 Sender      250 Ready 503 Chunks
    BDAT     503 Start   503 Ready   503 Sender      250 Chunks 250 Chunks
    RSET     250 Start   250 Ready   250 Ready       250 Ready 250 Ready
    VRFY     250 Start   250 Ready   250 Sender      250 Recipients 250 Chunks
    EXPN     250 Start   250 Ready   250 Sender      250 Recipients 250 Chunks
    HELP     214 Start   214 Ready   214 Sender      214 Recipients 214 Chunks
    NOOP     250 Start   250 Ready   250 Sender      250 Recipients 250 Chunks
    QUIT     221 closed  221 closed  221 closed      221 closed 221 closed
    SEND     502 Start   502 Ready   502 Sender      502 Recipients 502 Chunks
    SOML     502 Start   502 Ready   502 Sender      502 Recipients 502 Chunks
    SAML     502 Start   502 Ready   502 Sender      502 Recipients 502 Chunks
    TURN     502 Start   502 Ready   502 Sender      502 Recipients 502 Chunks
    XYZZY    500 Start   500 Ready   500 Sender      500 Recipients 500 Chunks
";

/// The states, and the commands that lead from each to the next.
const STATES: [(&str, &str); 5] = [
    ("Start", ""),
    ("Ready", "{} client.test"),
    ("Sender", "MAIL FROM:<ann@client.test>"),
    ("Recipients", "RCPT TO:<bob@mx.test>"),
    ("Chunks", "BDAT 0"),
];

struct Session(ScriptedHost);

impl Session {
    /// A session in that state, greeted by that verb.
    fn in_state(state: usize, greeting: &str) -> Session {
        let mut session =
            Session(ScriptedHost::open(&native::<mailcell_core::Session>, &[("name".into(), NAME.into())]));
        for (_, command) in &STATES[1..=state] {
            assert_eq!(session.command(&command.replace("{}", greeting)), "250");
        }
        session
    }

    /// Sends a command, a message too if that is asked for, and gives the last code.
    fn command(&mut self, line: &str) -> String {
        self.0.take_effects();
        self.0.input(format!("{line}\r\n").as_bytes());
        if self.0.is_reading_data() {
            self.0.input(b"hi\r\n.\r\n");
        }
        match self.0.awaiting() {
            Some(mailcell_core::Request::StoreMessage(_)) => self.0.reply(Reply::Stored("1".into())),
            Some(_) => self.0.reply(Reply::Mailboxes(page("bob@mx.test"))),
            None => {}
        }
        let effects = self.0.take_effects();
        let mut codes =
            effects.iter().filter_map(|effect| if let Effect::Line(line) = effect { line.get(..3) } else { None });
        String::from_utf8_lossy(codes.next_back().expect("each command is answered")).into_owned()
    }

    /// Finds the state out by what it allows.
    fn state(&mut self) -> &'static str {
        if self.0.is_closed() {
            return "closed";
        }
        let probes = [
            ("DATA", "Recipients"),
            ("BDAT 0 LAST", "Chunks"),
            ("RCPT TO:<p@mx.test>", "Sender"),
            ("MAIL FROM:<p@mx.test>", "Ready"),
        ];
        probes.into_iter().find(|(command, _)| self.command(command) == "250").map_or("Start", |(_, state)| state)
    }
}

fn page(mailbox: &str) -> mailcell_core::MailboxPage {
    mailcell_core::MailboxPage::new(vec![mailbox.into()], false)
}

fn with_argument(verb: &str) -> String {
    let argument = match verb {
        "HELO" | "EHLO" => " client.test",
        "MAIL" | "SEND" | "SOML" | "SAML" => " FROM:<ann@client.test>",
        "RCPT" => " TO:<zoe@mx.test>",
        "VRFY" | "EXPN" => " bob",
        "BDAT" => " 0",
        "XCLIENT" => " ADDR=192.0.2.1",
        _ => "",
    };
    format!("{verb}{argument}")
}

fn expected_rows() -> Vec<(&'static str, Vec<String>)> {
    let rows =
        EXPECTED.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|words| words.len() == 11);
    rows.map(|words| (words[0], words[1..].chunks(2).map(|cell| cell.join(" ")).collect())).collect()
}

#[test]
fn each_command_in_each_state() {
    let rows = expected_rows();
    let mut wrong = Vec::new();
    for (verb, cells) in &rows {
        for (state, cell) in cells.iter().enumerate() {
            // BDAT is an extension's.
            let is_extended = STATES[state].0 == "Chunks" || *verb == "BDAT";
            for greeting in ["HELO", "EHLO"].into_iter().skip(usize::from(is_extended)) {
                let mut session = Session::in_state(state, greeting);
                let code = session.command(&with_argument(verb));
                let got = format!("{code} {}", session.state());
                if got != *cell {
                    wrong.push(format!("{verb} in {} after {greeting}: expected {cell}, got {got}", STATES[state].0));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let walked = |verb: Verb| rows.iter().any(|(name, _)| Verb::named(name) == Some(verb));
    assert!(sequence::TABLE.iter().all(|(verb, _)| walked(*verb)), "a verb of the table is not expected anywhere");
    assert_eq!(rows.len(), sequence::TABLE.len() + 1, "one row for each verb and one for what is none");
}

/// Without responses that nobody has seen: every row of the table is in some transcript.
#[test]
fn each_response_is_in_a_transcript() {
    let transcripts =
        SESSIONS.iter().map(|(name, text)| Transcript::parse(name, text).unwrap_or_else(|error| panic!("{error}")));
    let lines: Vec<Vec<u8>> = transcripts
        .flat_map(|transcript| transcript.effects().concat())
        .filter_map(|effect| if let Effect::Line(line) = effect { Some(line) } else { None })
        .collect();
    let missing = responses::ALL.iter().filter(|(_, row)| !lines.iter().any(|line| is_of(line, row)));
    let missing: Vec<_> = missing.map(|(name, _)| name).collect();
    assert!(missing.is_empty(), "no transcript has {missing:?}");
}

fn is_of(line: &[u8], row: &Template) -> bool {
    let line = String::from_utf8_lossy(line);
    let Some(rest) = line.strip_prefix(&row.code.to_string()).and_then(|rest| rest.strip_prefix([' ', '-'])) else {
        return false;
    };
    let status = row.enhanced.map_or(String::new(), |(class, subject, detail)| format!("{class}.{subject}.{detail} "));
    let Some(text) = rest.strip_prefix(&status) else { return false };
    match row.text.split_once("{}") {
        Some((before, after)) => {
            text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
        }
        None => text == row.text,
    }
}
