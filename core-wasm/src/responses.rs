//! Everything that the server says, a row each. `{}` stands for what the session fills in.

use crate::step::{EnhancedStatus, Response};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// The reply code of RFC 5321 4.2.
    pub code: u16,
    /// The status code of RFC 3463.
    pub enhanced: Option<EnhancedStatus>,
    /// The text, with at most one `{}`.
    pub text: &'static str,
}

impl Template {
    /// The response as it stands.
    pub const fn plain(self) -> Response {
        Response { code: self.code, enhanced: self.enhanced, text: std::borrow::Cow::Borrowed(self.text), more: false }
    }

    /// The response with `{}` filled in.
    pub fn with(self, value: &str) -> Response {
        let text = match self.text.split_once("{}") {
            Some((before, behind)) => [before, value, behind].concat().into(),
            None => self.text.into(),
        };
        Response { text, ..self.plain() }
    }
}

impl Response {
    /// The same line with further ones behind it.
    pub fn and_more(self) -> Response {
        Response { more: true, ..self }
    }
}

macro_rules! responses {
    ($($name:ident $code:literal $enhanced:tt $text:literal)*) => {
        $(#[allow(missing_docs, reason = "the row says it")]
        pub const $name: Template = Template {
            code: $code,
            enhanced: responses!(@enhanced $enhanced),
            text: $text,
        };)*

        /// All rows with their names, for tests and documentation.
        pub const ALL: &[(&str, Template)] = &[$((stringify!($name), $name)),*];
    };
    (@enhanced _) => { None };
    (@enhanced $status:tt) => { Some($status) };
}

#[rustfmt::skip]
responses! {
    GREETING            220 _         "{} Mailcell ESMTP ready"
    LMTP_GREETING       220 _         "{} Mailcell LMTP ready"
    HELLO               250 _         "{}"
    HELLO_BAD_SEQUENCE  503 _         "Already greeted"
    HELLO_BAD_DOMAIN    501 _         "Send a domain or an address literal"
    GOODBYE             221 (2, 0, 0) "{} Closing connection"

    START_TLS           220 (2, 0, 0) "Ready to start TLS"
    AUTH_GO_ON          334 _         "{}"
    AUTH_OK             235 (2, 7, 0) "Authentication successful"
    SENDER_OK           250 (2, 1, 0) "Sender ok"
    RECIPIENT_OK        250 (2, 1, 5) "Recipient ok"
    SEND_DATA           354 _         "End data with <CR><LF>.<CR><LF>"
    CHUNK_OK            250 (2, 0, 0) "{} octets received"
    STORED              250 (2, 0, 0) "Stored as {}"
    RESET_OK            250 (2, 0, 0) "Reset"
    NOOP_OK             250 (2, 0, 0) "Ok"
    HELP_LINE           214 (2, 0, 0) "{}"
    MAILBOX             250 (2, 1, 5) "<{}>"
    LOOKUP_NEEDS_UTF8   252 (2, 6, 8) "Not ASCII; ask again with SMTPUTF8 behind the name"
    LOOKUP_OFF          252 (2, 5, 0) "Not answered here; send mail to find out"

    NOT_OUR_DOMAIN      550 (5, 7, 1) "No mail for that domain here"
    NO_SUCH_USER        550 (5, 1, 1) "No such user"
    NO_SUCH_GROUP       550 (5, 1, 1) "No such mailing group"
    GROUP_NEEDS_UTF8    550 (5, 6, 8) "Not ASCII; ask again with SMTPUTF8 behind the name"
    XCLIENT_REFUSED     550 (5, 7, 0) "Not believed here"
    NOT_ASCII           553 (5, 6, 7) "Not ASCII; send SMTPUTF8 with MAIL, VRFY or EXPN"
    BAD_SENDER          501 (5, 1, 7) "Syntax: MAIL FROM:<local-part@domain>"
    BAD_RECIPIENT       501 (5, 1, 3) "Syntax: RCPT TO:<local-part@domain>"
    BAD_PARAMETER       501 (5, 5, 4) "Bad value of a parameter"
    UNKNOWN_PARAMETER   555 (5, 5, 4) "Parameter not recognized or not implemented"
    BAD_ARGUMENT        501 (5, 5, 4) "Syntax: {}"
    NO_ARGUMENT_TAKEN   500 (5, 5, 2) "Syntax: {}"

    SEND_HELO_FIRST     503 (5, 5, 1) "Send HELO or EHLO first"
    SEND_EHLO_FIRST     503 (5, 5, 1) "Send EHLO first"
    SEND_LHLO_FIRST     503 (5, 5, 1) "Send LHLO first"
    TLS_IN_MESSAGE      503 (5, 5, 1) "Finish the message first"
    TLS_ALREADY         503 (5, 5, 1) "TLS has started already"
    AUTH_ALREADY        503 (5, 5, 1) "Authenticated already"
    AUTH_NEEDS_TLS      538 (5, 7, 11) "Send STARTTLS first"
    AUTH_UNKNOWN        504 (5, 5, 4) "Mechanism not recognized"
    AUTH_CANCELLED      501 (5, 7, 0) "Authentication cancelled"
    AUTH_BAD_BASE64     501 (5, 5, 2) "Not base64"
    AUTH_LINE_TOO_LONG  500 (5, 5, 6) "Line too long"
    AUTH_FAILED         535 (5, 7, 8) "Authentication failed"
    AUTH_UNAVAILABLE    454 (4, 7, 0) "Temporary authentication failure"
    TLS_REQUIRED        530 (5, 7, 0) "Send STARTTLS first"
    SEND_MAIL_FIRST     503 (5, 5, 1) "Send MAIL first"
    SEND_RCPT_FIRST     503 (5, 5, 1) "Send RCPT first"
    CHUNKS_BEGUN        503 (5, 5, 1) "Go on with BDAT"
    BINARY_NEEDS_BDAT   503 (5, 5, 1) "Send a BINARYMIME message by BDAT"
    NESTED_MAIL         503 (5, 5, 1) "Sender already given"
    UNRECOGNIZED        500 (5, 5, 1) "Command not recognized"
    NOT_IMPLEMENTED     502 (5, 5, 1) "Command not implemented"
    COMMAND_TOO_LONG    500 (5, 5, 2) "Command line too long"
    BAD_OCTETS          500 (5, 5, 2) "Control or non-ASCII character in the command"

    TOO_MANY_RECIPIENTS 452 (4, 5, 3) "Too many recipients"
    LINE_TOO_LONG       500 (5, 5, 2) "Line too long"
    CHUNK_LINE_TOO_LONG 554 (5, 6, 0) "Line too long"
    TOO_MANY_CHUNKS     554 (5, 5, 0) "Too many chunks"
    MESSAGE_TOO_LARGE   552 (5, 3, 4) "Message too large; the limit is {} octets"
    HEADERS_TOO_LARGE   552 (5, 3, 4) "Header section too large; the limit is {} octets"
    BAD_DATA            554 (5, 6, 0) "Bare CR, bare LF or NUL in the message"
    REFUSED             554 (5, 3, 0) "The database does not take this message"
    OUT_OF_SPACE        452 (4, 3, 1) "Insufficient storage; try again later"

    NO_DATABASE         421 (4, 3, 0) "{} Database unavailable; try again later"
    BAD_CHUNK_SIZE      421 (4, 5, 4) "{} Syntax: BDAT <octets> [LAST]; closing connection"
    IDLE_TIMEOUT        421 (4, 4, 2) "{} Timeout; closing connection"
    SESSION_EXPIRED     421 (4, 4, 2) "{} Session too long; closing connection"
    SHUTTING_DOWN       421 (4, 3, 2) "{} Shutting down; closing connection"
    NOT_ADMITTED        421 (4, 7, 0) "{} Too many connections from that client; closing connection"
    TOO_MANY_ERRORS     421 (4, 7, 0) "{} Too many errors; closing connection"
    NOT_SMTP            421 (4, 7, 0) "{} This is an SMTP server; closing connection"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_well_formed() {
        for (name, row) in ALL {
            assert!((200..600).contains(&row.code), "{name}");
            assert!(row.text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{name}");
            assert!(row.text.matches("{}").count() <= 1, "{name}");
            if let Some((class, ..)) = row.enhanced {
                assert_eq!(u16::from(class), row.code / 100, "{name}");
            }
            if row.code == 421 {
                assert!(row.text.starts_with("{} "), "{name}: a 421 names the server (RFC 5321 4.2.3)");
            }
        }
    }
}
