//! Which command is allowed in which state.

use crate::command::Verb;
use crate::responses::{self, Template};

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Connected.
    Start,
    /// Greeted.
    Ready,
    /// MAIL was accepted.
    Sender,
    /// One or more RCPT were accepted.
    Recipients,
    /// One or more BDAT were accepted.
    Chunks,
}

/// What the table says of a command in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The command is looked at.
    Go,
    /// The command is refused and the state stays.
    No(Template),
}

use Verdict::Go;
const AGAIN: Verdict = Verdict::No(responses::HELLO_BAD_SEQUENCE);
const HELO: Verdict = Verdict::No(responses::SEND_HELO_FIRST);
const EHLO: Verdict = Verdict::No(responses::SEND_EHLO_FIRST);
const OPEN: Verdict = Verdict::No(responses::TLS_IN_MESSAGE);
const MAIL: Verdict = Verdict::No(responses::SEND_MAIL_FIRST);
const RCPT: Verdict = Verdict::No(responses::SEND_RCPT_FIRST);
const BDAT: Verdict = Verdict::No(responses::CHUNKS_BEGUN);
const NESTED: Verdict = Verdict::No(responses::NESTED_MAIL);
const NEVER: Verdict = Verdict::No(responses::NOT_IMPLEMENTED);

/// State by command. A row a verb, in the order of [`crate::command::ALL`].
#[rustfmt::skip]
pub const TABLE: &[(Verb, [Verdict; 5])] = &[
    //              Start  Ready  Sender  Recipients Chunks
    (Verb::Helo, [  Go,    AGAIN, AGAIN,  AGAIN,     AGAIN  ]),
    (Verb::Ehlo, [  Go,    Go,    Go,     Go,        Go     ]),
    (Verb::Lhlo, [  Go,    Go,    Go,     Go,        Go     ]),
    (Verb::Starttls, [EHLO,  Go,    OPEN,   OPEN,      OPEN   ]),
    (Verb::Auth, [  EHLO,  Go,    OPEN,   OPEN,      OPEN   ]),
    (Verb::Xclient, [Go,    Go,    OPEN,   OPEN,      OPEN   ]),
    (Verb::Mail, [  HELO,  Go,    NESTED, NESTED,    NESTED ]),
    (Verb::Rcpt, [  HELO,  MAIL,  Go,     Go,        BDAT   ]),
    (Verb::Data, [  HELO,  MAIL,  RCPT,   Go,        BDAT   ]),
    (Verb::Bdat, [  HELO,  MAIL,  RCPT,   Go,        Go     ]),
    (Verb::Rset, [  Go,    Go,    Go,     Go,        Go     ]),
    (Verb::Vrfy, [  Go,    Go,    Go,     Go,        Go     ]),
    (Verb::Expn, [  Go,    Go,    Go,     Go,        Go     ]),
    (Verb::Help, [  Go,    Go,    Go,     Go,        Go     ]),
    (Verb::Noop, [  Go,    Go,    Go,     Go,        Go     ]),
    (Verb::Quit, [  Go,    Go,    Go,     Go,        Go     ]),
    (Verb::Send, [  NEVER, NEVER, NEVER,  NEVER,     NEVER  ]),
    (Verb::Soml, [  NEVER, NEVER, NEVER,  NEVER,     NEVER  ]),
    (Verb::Saml, [  NEVER, NEVER, NEVER,  NEVER,     NEVER  ]),
    (Verb::Turn, [  NEVER, NEVER, NEVER,  NEVER,     NEVER  ]),
];

/// What the table says.
pub fn check(verb: Verb, state: State) -> Verdict {
    TABLE[verb as usize].1[state as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_verbs() {
        assert_eq!(TABLE.len(), crate::command::ALL.len());
        for (i, (verb, _)) in TABLE.iter().enumerate() {
            assert_eq!(*verb as usize, i);
        }
    }
}
