//! The verbs: what they are called, what they take, what HELP says of them.

use crate::responses;
use crate::step::Response;
use serde::{Deserialize, Serialize};

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// The verb.
    pub verb: Verb,
    /// As it stands on the wire, in upper case.
    pub name: &'static str,
    /// The whole command's syntax.
    pub syntax: &'static str,
    /// What it does, in one sentence.
    pub help: &'static str,
}

macro_rules! verbs {
    ($($verb:ident $name:literal $syntax:literal $help:literal)*) => {
        /// A command that the server knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the table says it")]
        pub enum Verb { $($verb),* }

        /// All verbs, in the order in which HELP lists them.
        pub const ALL: &[Row] = &[$(Row { verb: Verb::$verb, name: $name, syntax: $syntax, help: $help }),*];
    };
}

#[rustfmt::skip]
verbs! {
    Helo "HELO" "HELO <domain>"            "Greets the server and starts a session without extensions."
    Ehlo "EHLO" "EHLO <domain>"            "Greets the server and lists the extensions that it offers."
    Lhlo "LHLO" "LHLO <domain>"            "Greets a server of LMTP."
    Starttls "STARTTLS" "STARTTLS"         "Starts TLS; everything said before is forgotten."
    Auth "AUTH" "AUTH PLAIN|LOGIN|SCRAM-SHA-256 [<base64>]"
                                           "Says who the client is."
    Xclient "XCLIENT" "XCLIENT <attribute>=<value> ..."
                                           "Says who the client is that a trusted peer speaks for."
    Mail "MAIL" "MAIL FROM:<local-part@domain> [SIZE=<octets>] [BODY=7BIT|8BITMIME|BINARYMIME] [SMTPUTF8]"
                                           "Starts a message and names its sender; <> for a bounce."
    Rcpt "RCPT" "RCPT TO:<local-part@domain>"
                                           "Names a recipient; up to 100 may be given, one each time."
    Data "DATA" "DATA"                     "Sends the message; a line with a single dot ends it."
    Bdat "BDAT" "BDAT <octets> [LAST]"     "Sends a part of the message; LAST ends it."
    Rset "RSET" "RSET"                     "Forgets sender, recipients and data."
    Vrfy "VRFY" "VRFY <user> [SMTPUTF8]"              "Tells whether a user exists, and the mailboxes."
    Expn "EXPN" "EXPN <group> [SMTPUTF8]"             "Lists the members of a mailing group."
    Help "HELP" "HELP [<command>]"         "Explains a command, or lists the commands."
    Noop "NOOP" "NOOP"                     "Does nothing but keep the connection open."
    Quit "QUIT" "QUIT"                     "Ends the session."
    Send "SEND" "SEND FROM:<path>"         "Not implemented."
    Soml "SOML" "SOML FROM:<path>"         "Not implemented."
    Saml "SAML" "SAML FROM:<path>"         "Not implemented."
    Turn "TURN" "TURN"                     "Not implemented."
}

impl Verb {
    /// The verb of that name, in any letter case.
    pub fn named(name: &str) -> Option<Verb> {
        ALL.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.verb)
    }

    /// Whether it may hold what is not ASCII. RFC 6531 3.1.
    pub(crate) fn takes_utf8(self) -> bool {
        matches!(self, Verb::Mail | Verb::Rcpt | Verb::Vrfy | Verb::Expn)
    }

    /// Whether there is more to it than its name.
    fn is_implemented(self) -> bool {
        !matches!(self, Verb::Send | Verb::Soml | Verb::Saml | Verb::Turn)
    }

    /// What the table says of it.
    pub fn row(self) -> &'static Row {
        &ALL[self as usize]
    }
}

/// Splits a command line into its verb, if it is one, and its argument.
///
/// RFC 5321 4.1.1: a verb ends at a space or at the end of the line.
pub fn split(line: &str) -> (Option<Verb>, &str) {
    let (name, argument) = line.split_once(' ').unwrap_or((line, ""));
    (Verb::named(name), argument)
}

/// Whether a line begins with that verb, whatever is wrong with the rest of it. Behind one of BDAT is a chunk, and no commands.
pub fn begins_with(line: &[u8], verb: Verb) -> bool {
    let name = verb.row().name.as_bytes();
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        && !line.get(name.len()).is_some_and(u8::is_ascii_alphanumeric)
}

/// Whether a connection's first line shows that the client does not speak SMTP.
pub(crate) fn is_another_protocol(line: &[u8]) -> bool {
    let is_http = [&b"GET "[..], b"POST ", b"CONNECT "].iter().any(|method| line.starts_with(method));
    is_http || !line.first().is_some_and(u8::is_ascii_alphabetic)
}

/// What HELP says of a verb, or of all that a session has.
pub(crate) fn help(argument: &str, is_offered: impl Fn(Verb) -> bool) -> Vec<Response> {
    if let Some(verb) = Verb::named(argument) {
        let row = verb.row();
        return [row.syntax, row.help].map(|line| responses::HELP_LINE.with(line)).into();
    }
    let list = |is_implemented: bool| {
        let rows = ALL.iter().filter(|row| row.verb.is_implemented() == is_implemented && is_offered(row.verb));
        let names: Vec<_> = rows.map(|row| row.name).collect();
        names.chunks(8).map(|names| format!("  {}", names.join(" "))).collect::<Vec<_>>()
    };
    let mut lines = vec!["Commands:".to_owned()];
    lines.extend(list(true));
    lines.push("Not implemented:".to_owned());
    lines.extend(list(false));
    lines.push("HELP <command> explains one.".to_owned());
    lines.iter().map(|line| responses::HELP_LINE.with(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_verbs() {
        for (i, row) in ALL.iter().enumerate() {
            assert_eq!(row.verb as usize, i);
            assert_eq!(Verb::named(&row.name.to_lowercase()), Some(row.verb));
        }
    }

    #[test]
    fn beginnings() {
        for line in ["BDAT", "bdat 6 LAST", "Bdat\t6", "BDAT-6"] {
            assert!(begins_with(line.as_bytes(), Verb::Bdat), "{line}");
        }
        for line in ["", "BDA", "BDATA 6", "BDAT6", " BDAT 6", "DATA"] {
            assert!(!begins_with(line.as_bytes(), Verb::Bdat), "{line}");
        }
    }

    #[test]
    fn a_verb_ends_at_a_space() {
        assert_eq!(split("hElP mail"), (Some(Verb::Help), "mail"));
        assert_eq!(split("QUIT"), (Some(Verb::Quit), ""));
        assert_eq!(split("QUITE"), (None, ""));
        assert_eq!(split(" QUIT"), (None, "QUIT"));
    }
}
