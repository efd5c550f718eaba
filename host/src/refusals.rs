//! What is refused at MAIL and RCPT: a line of the log each, with the envelope so far.

use crate::cell::{Effects, limits};
use mailcell_core::address::Path;
use mailcell_core::command::{Verb, begins_with};
use tracing::{debug, info};

/// So many lines has a session. Of what a core refuses it does not count all as errors.
const LINES_MAX: u32 = 100;

/// So many octets of a command are kept, which a path fits into.
const OCTETS_MAX: usize = limits::NAME_OCTETS_MAX;

/// Commands that leave a transaction as it is.
const BESIDE: [Verb; 5] = [Verb::Rcpt, Verb::Noop, Verb::Vrfy, Verb::Expn, Verb::Help];

/// What one session's refusals are about.
#[derive(Debug, Default)]
pub struct Refusals {
    /// MAIL, until its transaction ends.
    mail: Vec<u8>,
    /// RCPT, while the database is asked about it.
    rcpt: Option<Box<[u8]>>,
    lines: u32,
}

impl Refusals {
    /// A command, or nothing in the place of a secret, and what came of it.
    pub fn command(&mut self, line: &[u8], effects: &Effects) {
        let line = &line[..line.len().min(OCTETS_MAX)];
        match effects.code {
            Some(400..) => self.log(line, effects),
            Some(_) if begins_with(line, Verb::Mail) => {
                self.mail.clear();
                self.mail.extend_from_slice(line);
            }
            None if begins_with(line, Verb::Rcpt) => self.rcpt = Some(line.into()),
            _ if BESIDE.iter().any(|verb| begins_with(line, *verb)) => {}
            _ => self.mail.clear(),
        }
    }

    /// What came of a reply.
    pub fn reply(&mut self, effects: &Effects) {
        if let (Some(line), Some(400..)) = (self.rcpt.take(), effects.code) {
            self.log(&line, effects);
        }
    }

    fn log(&mut self, line: &[u8], effects: &Effects) {
        let (code, response) = (effects.code, last_response(effects));
        let (is_mail, is_rcpt) = (begins_with(line, Verb::Mail), begins_with(line, Verb::Rcpt));
        if !(is_mail || is_rcpt) || self.lines > LINES_MAX {
            debug!(code, response, "refused");
            return;
        }
        self.lines += 1;
        if self.lines > LINES_MAX {
            info!("further refusals of the session are not logged");
        } else if is_mail {
            info!(code, response, from = named("FROM:", line), "sender refused");
        } else {
            let from = Some(&self.mail).filter(|mail| !mail.is_empty()).map(|mail| named("FROM:", mail));
            info!(code, response, from, to = named("TO:", line), "recipient refused");
        }
    }
}

/// Whom a command names, as the envelope of a message would have it; what it says in the place of a path, if it has none.
fn named(keyword: &str, line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let argument = line.get(5..).unwrap_or_default();
    // Behind a bare line end may be credentials, and a message.
    let argument = argument.split(['\r', '\n']).next().unwrap_or_default();
    Path::behind(keyword, argument).map_or_else(|| argument.to_owned(), |(path, _)| path.to_envelope())
}

/// Of several they are alike: by LMTP there is one for each recipient.
pub fn last_response(effects: &Effects) -> Option<&str> {
    str::from_utf8(&effects.output).ok()?.lines().last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailcell_core::Next;

    fn effects(output: &str) -> Effects {
        let code = output.get(..3).map(|code| code.parse().unwrap());
        Effects { output: output.into(), code, orders: Vec::new(), next: Next::ReadData }
    }

    #[test]
    fn of_responses_alike_one_is_logged() {
        let effects = effects("552 5.3.4 Too large\r\n552 5.3.4 Too large\r\n");
        assert_eq!(last_response(&effects), Some("552 5.3.4 Too large"));
    }

    #[test]
    fn whom_a_command_names() {
        let [from, to] = ["FROM:", "TO:"].map(|keyword| move |line: &str| named(keyword, line.as_bytes()));
        assert_eq!(from("MAIL FROM:<ann@client.test> SIZE=9 AUTH=<>"), "ann@client.test");
        assert_eq!(from("mail from: <>"), "");
        assert_eq!(to("RCPT TO:<@relay.test:\"a>b\"@mx.test>"), "\"a>b\"@mx.test");
        assert_eq!(to("RCPT TO:bob"), "TO:bob");
        assert_eq!(to("RCPT"), "");
        // Who sends bare line ends sends all of the message in one line.
        assert_eq!(to("RCPT TO:bob\nDATA\nDear Bob"), "TO:bob");
        assert_eq!(named("TO:", b"RCPT TO:<\xff@mx.test>"), "\u{fffd}@mx.test");
    }

    #[test]
    fn a_sender_is_known_while_recipients_are_named() {
        let mut refusals = Refusals::default();
        let mail = "MAIL FROM:<ann@client.test>";
        for (line, response, known) in [
            (mail, "250 Ok", mail),
            ("RCPT TO:<bob@mx.test>", "250 Ok", mail),
            ("RCPT TO:<eve@mx.test>", "550 No", mail),
            ("RCPT TO:<eve@mx.test>", "", mail),
            ("MAIL FROM:<eve@client.test>", "503 No", mail),
            ("NOOP", "250 Ok", mail),
            ("VRFY bob", "", mail),
            ("DATA", "354 Go on", ""),
            (mail, "250 Ok", mail),
            ("BDAT 9 LAST", "", ""),
        ] {
            refusals.command(line.as_bytes(), &effects(response));
            assert_eq!(refusals.mail, known.as_bytes(), "{line}");
            assert_eq!(refusals.rcpt.is_some(), line.starts_with("RCPT") && response.is_empty(), "{line}");
            refusals.reply(&effects("250 Ok"));
        }
        let long = format!("MAIL FROM:<ann@client.test> AUTH={}", "x".repeat(OCTETS_MAX));
        refusals.command(long.as_bytes(), &effects("250 Ok"));
        assert_eq!((refusals.mail.len(), named("FROM:", &refusals.mail).as_str()), (OCTETS_MAX, "ann@client.test"));
    }
}
