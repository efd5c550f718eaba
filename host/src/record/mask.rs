//! What a recording does not tell: credentials, and the content of messages. Octets are replaced one by one, so that
//! lengths and line ends stay as they are, and most of what a protocol does with them.
//!
//! Of command lines, only what is known to be harmless stays: verbs, domains, paths, names that are looked up. Everything
//! else may be a password that a client sends blindly, or a message whose DATA was refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mailcell_conformance::transcript::Input;
use mailcell_core::command::Verb;
use mailcell_core::{Identity, Reply};

/// Fields of a header section whose names stay: they are what a core looks for.
const NAMES: [&[u8]; 2] = [b"subject", b"date"];

/// What XCLIENT says of a client.
const ATTRIBUTES: [&[u8]; 8] = [b"name", b"addr", b"port", b"proto", b"helo", b"login", b"destaddr", b"destport"];

/// What AUTH may name. Anything else in that place may be credentials.
const MECHANISMS: [&[u8]; 8] =
    [b"PLAIN", b"LOGIN", b"SCRAM-SHA-256", b"SCRAM-SHA-1", b"CRAM-MD5", b"DIGEST-MD5", b"NTLM", b"XOAUTH2"];

/// The longest word that is kept of a line that is no command.
const WORD_OCTETS_MAX: usize = 12;

/// What octets from a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command line.
    Line,
    /// A line that the core called a secret.
    Secret,
    /// Message data.
    Data,
}

/// Masks what a session was told.
pub fn mask_inputs(told: Vec<(Input, Kind)>, with_content: bool) -> Vec<Input> {
    // Behind AUTH, or data that was refused, lines that are no commands are what a client sends all the same.
    let mut is_sensitive = false;
    let mask = |(mut input, kind)| {
        if let Input::Reply(reply) = &mut input {
            mask_reply(reply);
        }
        if let Input::Client(octets) = &mut input {
            match kind {
                Kind::Line => is_sensitive = mask_command(octets, is_sensitive),
                Kind::Secret => mask_credentials(octets),
                Kind::Data if with_content => is_sensitive = false,
                Kind::Data => {
                    is_sensitive = false;
                    mask_message(octets);
                }
            }
        }
        input
    };
    told.into_iter().map(mask).collect()
}

/// Of what passwords are proved with, the length stays.
fn mask_reply(reply: &mut Reply) {
    if let Reply::ScramChallenge(text) | Reply::Authenticated(Identity { server_final: text, .. }) = reply {
        *text = "x".repeat(text.len());
    }
}

/// Masks a command line, and tells whether what follows it may be content.
fn mask_command(line: &mut [u8], is_sensitive: bool) -> bool {
    // A connection's first octet that starts no line comes alone, and tells nothing.
    if line.len() == 1 {
        return is_sensitive;
    }
    let end = line.iter().position(|octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n')).unwrap_or(line.len());
    let (word, rest) = line.split_at_mut(end);
    let name = word.to_ascii_uppercase();
    let verb = str::from_utf8(&name).ok().and_then(Verb::named);
    let is_auth = name == b"AUTH";
    if verb.is_none() && !is_auth {
        let is_word = word.len() <= WORD_OCTETS_MAX && word.iter().all(u8::is_ascii_alphabetic);
        if is_sensitive || !is_word {
            word.iter_mut().for_each(mask_secret);
        }
        rest.iter_mut().for_each(mask_secret);
        return is_sensitive;
    }
    if is_auth {
        mask_auth(rest);
    } else if !verb.is_some_and(|verb| is_harmless(verb, rest.trim_ascii())) {
        rest.iter_mut().for_each(mask_secret);
    }
    is_auth || matches!(verb, Some(Verb::Data | Verb::Bdat))
}

/// Masks what is behind AUTH, but for a mechanism.
fn mask_auth(argument: &mut [u8]) {
    let start = argument.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    let end = argument[start..].iter().position(u8::is_ascii_whitespace).map_or(argument.len(), |at| start + at);
    let spaces = argument[end..].iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    let is_mechanism = MECHANISMS.iter().any(|known| argument[start..end].eq_ignore_ascii_case(known));
    mask_credentials(&mut argument[if is_mechanism { end + spaces } else { start }..]);
}

/// Whether an argument is what the verb takes, and no sentence that starts with the verb's name.
fn is_harmless(verb: Verb, argument: &[u8]) -> bool {
    let starts = |prefix: &[u8]| argument.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let is_one_word = !argument.contains(&b' ');
    match verb {
        // Behind a bare line end may be anything.
        _ if argument.iter().any(u8::is_ascii_control) => false,
        Verb::Mail => starts(b"FROM:"),
        Verb::Rcpt => starts(b"TO:"),
        Verb::Helo | Verb::Ehlo | Verb::Lhlo => is_one_word,
        Verb::Vrfy | Verb::Expn => match argument.iter().position(|octet| *octet == b' ') {
            Some(at) => argument[at..].eq_ignore_ascii_case(b" SMTPUTF8"),
            None => is_one_word,
        },
        Verb::Xclient => argument.split(|octet| *octet == b' ').all(is_attribute),
        Verb::Bdat => {
            let (size, marker) = argument.split_at(argument.iter().take_while(|octet| octet.is_ascii_digit()).count());
            !size.is_empty() && (marker.is_empty() || marker.eq_ignore_ascii_case(b" LAST"))
        }
        Verb::Help => str::from_utf8(argument).is_ok_and(|argument| Verb::named(argument).is_some()),
        _ => argument.is_empty(),
    }
}

/// Whether a word is what XCLIENT says of a client.
fn is_attribute(word: &[u8]) -> bool {
    let name = &word[..word.iter().position(|octet| *octet == b'=').unwrap_or(0)];
    ATTRIBUTES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Masks message data as it came over the wire, but for the names of the fields that matter. Dots and other signs stay:
/// they are what a protocol looks at.
fn mask_message(data: &mut [u8]) {
    for line in data.split_mut(|octet| *octet == b'\n') {
        let name = line.iter().position(|octet| *octet == b':').unwrap_or(0);
        let kept = if NAMES.iter().any(|known| line[..name].eq_ignore_ascii_case(known)) { name } else { 0 };
        for octet in &mut line[kept..] {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => *octet = b'x',
                0x80.. => *octet = 0xe9,
                _ => {}
            }
        }
    }
}

/// Masks credentials so that they are such ones still, of the same form and length, where they are in base64.
fn mask_credentials(line: &mut [u8]) {
    let end = line.strip_suffix(b"\r\n").unwrap_or(line).len();
    match STANDARD.decode(&line[..end]) {
        Ok(mut decoded) if end > 0 => {
            decoded.iter_mut().filter(|octet| **octet != 0).for_each(|octet| *octet = b'x');
            line[..end].copy_from_slice(STANDARD.encode(decoded).as_bytes());
        }
        // A cancelled exchange, or no octets at all, tells nothing.
        _ if matches!(&line[..end], b"*" | b"=") => {}
        _ => line.iter_mut().for_each(mask_secret),
    }
}

/// Of a secret only its length is told, and where its lines end.
fn mask_secret(octet: &mut u8) {
    if !matches!(octet, b' ' | b'\t' | b'\r' | b'\n') {
        *octet = b'x';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(told: &[(&str, Kind)]) -> Vec<String> {
        let told = told.iter().map(|(text, kind)| (Input::Client(text.as_bytes().to_vec()), *kind)).collect();
        let show = |input| match input {
            Input::Client(octets) => octets.escape_ascii().to_string().trim_end_matches("\\r\\n").to_owned(),
            other => format!("{other:?}"),
        };
        mask_inputs(told, false).into_iter().map(show).collect()
    }

    #[track_caller]
    fn check(lines: &[(&str, &str)]) {
        let told: Vec<_> = lines.iter().map(|(line, _)| format!("{line}\r\n")).collect();
        let told: Vec<_> = told.iter().map(|line| (line.as_str(), Kind::Line)).collect();
        assert_eq!(masked(&told), lines.iter().map(|(_, expected)| *expected).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_known_to_be_harmless_stays() {
        for line in [
            "EHLO client.test",
            "LHLO client.test",
            "MAIL FROM:<ann@client.test> SIZE=9",
            "rcpt to:<bob@mx.test>",
            "VRFY bob",
            "EXPN staff smtputf8",
            "XCLIENT ADDR=192.0.2.7 login=ann",
            "HELP data",
            "QUIT",
            "X",
            "XDO",
        ] {
            check(&[(line, line)]);
        }
    }

    #[test]
    fn credentials_are_masked_wherever_they_are() {
        check(&[
            ("AUTH PLAIN AGFubgBzZWNyZXQ=", "AUTH PLAIN AHh4eAB4eHh4eHg="),
            ("auth\tlogin x y", "auth\\tlogin x x"),
            ("AUTH SCRAM-SHA-256 =", "AUTH SCRAM-SHA-256 ="),
            ("AUTH cram-md5", "AUTH cram-md5"),
            // In the place of a mechanism.
            ("AUTH AGFubgBzZWNyZXQ=", "AUTH AHh4eAB4eHh4eHg="),
            ("AUTH ann secret", "AUTH xxx xxxxxx"),
        ]);
        check(&[
            ("AUTH LOGIN", "AUTH LOGIN"),
            ("c2VjcmV0", "xxxxxxxx"),
            ("secret", "xxxxxx"),
            ("NOOP", "NOOP"),
            ("word", "word"),
        ]);
        check(&[("VRFY my secret", "VRFY xx xxxxxx"), ("XCLIENT ADDR=1 secret", "XCLIENT xxxxxx xxxxxx")]);
        check(&[("NOOP password", "NOOP xxxxxxxx"), ("Authorization: Basic QQ==", "xxxxxxxxxxxxxx xxxxx xxxx")]);
        assert_eq!(masked(&[("pa55 w\r\n", Kind::Secret)]), ["xxxx x"]);
        assert_eq!(masked(&[("c2VjcmV0\r\n", Kind::Secret)]), ["eHh4eHh4"]);
    }

    #[test]
    fn a_first_octet_that_starts_no_line_stays() {
        assert_eq!(masked(&[("\x16", Kind::Line)]), ["\\x16"]);
    }

    #[test]
    fn what_is_behind_a_bare_line_end_is_masked() {
        check(&[
            ("AUTH LOGIN\nc2VjcmV0", "AUTH LOGIN\\nxxxxxxxx"),
            ("MAIL FROM:<ann@client.test>\nAUTH PLAIN AGFu", "MAIL xxxxxxxxxxxxxxxxxxxxxx\\nxxxx xxxxx xxxx"),
            ("VRFY bob\nsecret", "VRFY xxx\\nxxxxxx"),
            ("NOOP\n", "NOOP\\n"),
        ]);
        assert_eq!(masked(&[("YW5u\rsecret\r\n", Kind::Secret)]), ["xxxx\\rxxxxxx"]);
    }

    #[test]
    fn content_whose_data_was_refused_is_masked() {
        check(&[
            ("DATA", "DATA"),
            ("Subject: merger", "xxxxxxxx xxxxxx"),
            ("Dear Bob,", "xxxx xxxx"),
            ("help me sell", "help xx xxxx"),
            ("mail the cheque", "mail xxx xxxxxx"),
            ("RSET", "RSET"),
        ]);
        check(&[("BDAT 5 LAST", "BDAT 5 LAST"), ("hello", "xxxxx")]);
        check(&[("BDAT 5 pounds", "BDAT x xxxxxx"), ("BDAT 5", "BDAT 5")]);
    }

    #[test]
    fn content_is_masked_and_its_shape_stays() {
        let message = "Subject: caf\u{e9} 9\r\nX-Private: a\r\n\r\n..dot\r\nhi\0\r.\r\n.\r\n";
        assert_eq!(
            masked(&[(message, Kind::Data)]),
            ["Subject: xxx\\xe9\\xe9 x\\r\\nx-xxxxxxx: x\\r\\n\\r\\n..xxx\\r\\nxx\\x00\\r.\\r\\n."]
        );
    }
}
