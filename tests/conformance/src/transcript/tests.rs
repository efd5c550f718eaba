use super::*;

fn parse(text: &str) -> Result<Transcript, TranscriptError> {
    Transcript::parse("x.txt", text)
}

const EXAMPLE: &str = "\
# All kinds of lines.
# RFC 0

config: errors-max 3
S: 220 mx.test Mailcell ESMTP ready

# Why.
C: EHLO client.test
S: 250 *
C*2: NOOP
S*4: 250 2.0.0 Ok
C: EXPN staff
Q: expand-group staff
A: user u{1..4}@mx.test
A: user bob@mx.test
A: more
S: 250-2.1.5 <u{1..4}@mx.test>
Q: next-page
A: user zed@mx.test
S: 250 2.1.5 <zed@mx.test>
C: a\\
M: line
M:
M*4: x
M: end\\
Q: store-message
A: stored 1
E: drain
S: <close>
";

#[test]
fn what_is_written_is_read_and_written_again() {
    let transcript = parse(EXAMPLE).expect("a transcript");
    assert_eq!(transcript.config, [("errors-max".into(), "3".into()), ("name".into(), NAME.into())]);
    assert_eq!(transcript.write(&transcript.effects()), EXAMPLE);
    let inputs: Vec<_> = transcript.turns.iter().map(|turn| (turn.line, turn.input.clone())).collect();
    let page = |mailboxes: &[&str], more| {
        Input::Reply(Reply::Mailboxes(MailboxPage::new(mailboxes.iter().map(|m| m.to_string()).collect(), more)))
    };
    let expected = [
        (8, Input::Client(b"EHLO client.test\r\n".into())),
        (10, Input::Client(b"NOOP\r\nNOOP\r\n".into())),
        (12, Input::Client(b"EXPN staff\r\n".into())),
        (14, page(&["u1@mx.test", "u2@mx.test", "u3@mx.test", "u4@mx.test", "bob@mx.test"], true)),
        (19, page(&["zed@mx.test"], false)),
        (21, Input::Client(b"a".into())),
        (27, Input::Reply(Reply::Stored("1".into()))),
        (28, Input::Event(Event::Drain)),
    ];
    assert_eq!(inputs, expected);
    let message = Effect::Message(b"line\r\n\r\nx\r\nx\r\nx\r\nx\r\nend".into());
    assert_eq!(transcript.turns[5].effects, [message, Effect::Request("store-message".into())]);
    assert_eq!(transcript.turns[0].effects, [Effect::AnyResponse(250)]);
    assert_eq!(transcript.turns[1].effects.len(), 4);
}

#[test]
fn errors_name_file_and_line() {
    let wrong = [
        ("S: 220 x", 1, "starts with a comment"),
        ("# A.\nS: 220 x ", 2, "white space at the end"),
        ("# A.\nhello", 2, "its kind and a colon"),
        ("# A.\nX: 1", 2, "no such kind"),
        ("# A.\nC:QUIT", 2, "a space stands"),
        ("# A.\nC: \\q", 2, "no such escape"),
        ("# A.\nC*x: a", 2, "no number of times"),
        ("# A.\nS: 220 x\nconfig: a b", 3, "before the first event"),
        ("# A.\nconfig: a", 2, "KEY VALUE"),
        ("# A.\nC: a\n# Why\nS: 250 b", 4, "comment stands before"),
        ("# A.\nC: a\n# Why", 3, "explain nothing"),
        ("# A.\nE: rain", 2, "no such event"),
        ("# A.\nA: perhaps", 2, "no such reply"),
        ("# A.\nA: more", 2, "no such reply"),
        ("# A.\nA: none\nA: user x", 3, "come to nothing"),
        ("# A.\nA: user x\nA: more\nA: user y", 4, "come to nothing"),
        ("# A.\nS: abc *", 2, "no code"),
    ];
    for (text, line, message) in wrong {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(&format!("x.txt:{line}: ")) && error.contains(message), "{text:?}: {error}");
    }
}

#[test]
fn what_a_session_was_told_is_read_again() {
    let client = |octets: &[u8]| Input::Client(octets.to_vec());
    let page = |mailboxes: &[&str], more| {
        Input::Reply(Reply::Mailboxes(MailboxPage::new(mailboxes.iter().map(|m| m.to_string()).collect(), more)))
    };
    let every_octet: Vec<u8> = (0..=255).collect();
    let inputs = vec![
        client(b"NOOP\r\n"),
        client(b"\x16"),
        client(b"\r\n"),
        client(b" \r\n"),
        client(b"a \r\n\r\n\t\r\n# no comment\r\nC: x\r\n"),
        client(b"{1..3}{a*9}\\\r\n"),
        client(b"half a line\\"),
        client(&every_octet),
        client(&b"NOOP\r\n".repeat(9)),
        client(&[b'x'; 4000]),
        page(&[], false),
        page(&["ann@mx.test", "{1..2}@mx.test", "\"a b\"@mx.test"], true),
        Input::Reply(Reply::Stored("1".to_owned())),
        Input::Event(Event::LineTooLong),
        client(b"QUIT\r\n"),
    ];
    let config = [("name".to_owned(), "mx.test".to_owned()), ("odd".to_owned(), "a b".to_owned())];
    let written = Transcript::of_session("x", &["A comment.".to_owned()], &config, inputs.clone());
    // A request stands between two replies.
    let effects = vec![vec![Effect::Request("next-page".to_owned())]; inputs.len() + 1];
    let text = written.write(&effects);
    let read = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(read.config, config);
    assert_eq!(joined(read.turns.into_iter().map(|turn| turn.input)), joined(inputs), "{text}");
}

/// Octets that follow each other in one: each line of a file is an input of its own.
fn joined(inputs: impl IntoIterator<Item = Input>) -> Vec<Input> {
    let mut all: Vec<Input> = Vec::new();
    for input in inputs {
        match (all.last_mut(), input) {
            (Some(Input::Client(before)), Input::Client(octets)) => before.extend(octets),
            (_, input) => all.push(input),
        }
    }
    all
}
