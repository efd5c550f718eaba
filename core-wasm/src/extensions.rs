//! What EHLO offers, and the parameters of MAIL and RCPT that come with it.

use crate::address;
use crate::limits;
use crate::responses::{self, Template};

/// What a session offers as things are.
pub(crate) struct Offers {
    /// Whether there are extensions at all: whether it was greeted by EHLO.
    pub(crate) is_extended: bool,
    pub(crate) octets_max: u64,
    pub(crate) recipients_max: usize,
    pub(crate) has_starttls: bool,
    pub(crate) has_require_tls: bool,
    pub(crate) has_dsn: bool,
    pub(crate) has_auth: bool,
    pub(crate) has_lookup: bool,
    pub(crate) has_xclient: bool,
}

/// What the parameters of MAIL say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MailParameters {
    /// BODY=BINARYMIME. RFC 3030 3.
    pub(crate) is_binary: bool,
    /// SMTPUTF8. RFC 6531 3.4.
    pub(crate) is_utf8: bool,
    /// What concerns whoever hands the message on, as it was sent.
    pub(crate) kept: String,
}

impl Offers {
    /// The keywords of EHLO, each with its parameter. RFC 5321 4.1.1.1.
    pub(crate) fn keywords(&self) -> Vec<String> {
        let size = format!("SIZE {}", self.octets_max);
        let limits = format!("LIMITS RCPTMAX={}", self.recipients_max);
        let keywords = [
            (true, "PIPELINING"),
            (true, &size),
            (true, "8BITMIME"),
            (true, "CHUNKING"),
            (true, "BINARYMIME"),
            (true, "SMTPUTF8"),
            (true, "ENHANCEDSTATUSCODES"),
            (true, &limits),
            (self.has_dsn, "DSN"),
            (self.has_starttls, "STARTTLS"),
            (self.has_require_tls, "REQUIRETLS"),
            (self.has_auth, "AUTH PLAIN LOGIN SCRAM-SHA-256"),
            (self.has_xclient, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"),
            (self.has_lookup, "VRFY"),
            (self.has_lookup, "EXPN"),
            (true, "HELP"),
        ];
        keywords.into_iter().filter(|(is_offered, _)| *is_offered).map(|(_, keyword)| keyword.to_owned()).collect()
    }

    /// The parameters of MAIL.
    pub(crate) fn read_mail_parameters(&self, text: &str) -> Result<MailParameters, Template> {
        let mut read = MailParameters::default();
        self.parse_parameters(text, |keyword, value| {
            match (keyword, value.map(str::to_ascii_uppercase).as_deref()) {
                ("SIZE", _) => check_size(value, self.octets_max)?,
                ("BODY", Some("7BIT" | "8BITMIME")) => {}
                ("BODY", Some("BINARYMIME")) => read.is_binary = true,
                ("SMTPUTF8", None) => read.is_utf8 = true,
                // RFC 4954 5: whoever is not trusted to say so still says it in the right form.
                ("AUTH", Some(_)) if value.is_some_and(|value| value == "<>" || undo_xtext(value).is_some()) => {}
                ("RET", Some("FULL" | "HDRS")) if self.has_dsn => keep(&mut read.kept, keyword, value),
                ("ENVID", Some(_)) if self.has_dsn && value.is_some_and(is_envelope_id) => {
                    keep(&mut read.kept, keyword, value);
                }
                ("REQUIRETLS", None) if self.has_require_tls => keep(&mut read.kept, keyword, value),
                ("BODY" | "SMTPUTF8" | "AUTH", _) => return Err(responses::BAD_PARAMETER),
                ("RET" | "ENVID", _) if self.has_dsn => return Err(responses::BAD_PARAMETER),
                ("REQUIRETLS", _) if self.has_require_tls => return Err(responses::BAD_PARAMETER),
                _ => return Err(responses::UNKNOWN_PARAMETER),
            }
            Ok(())
        })?;
        Ok(read)
    }

    /// The parameters of RCPT, as they were sent: those of DSN. RFC 3461 4.
    pub(crate) fn read_rcpt_parameters(&self, text: &str) -> Result<String, Template> {
        let mut kept = String::new();
        self.parse_parameters(text, |keyword, value| {
            match (keyword, value) {
                ("NOTIFY", Some(list)) if self.has_dsn && is_notify(list) => {}
                ("ORCPT", Some(recipient)) if self.has_dsn && is_original_recipient(recipient) => {}
                ("NOTIFY" | "ORCPT", _) if self.has_dsn => return Err(responses::BAD_PARAMETER),
                _ => return Err(responses::UNKNOWN_PARAMETER),
            }
            keep(&mut kept, keyword, value);
            Ok(())
        })?;
        // A command line may be longer where its path is short.
        if kept.len() > limits::RCPT_EXTRA_OCTETS_MAX { Err(responses::BAD_PARAMETER) } else { Ok(kept) }
    }

    /// Reads `*( SP esmtp-param )`, which stands behind a path, and has each checked.
    ///
    /// ```text
    /// esmtp-param   = esmtp-keyword ["=" esmtp-value]
    /// esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
    /// esmtp-value   = 1*(%d33-60 / %d62-126 / UTF8-non-ascii)              ; RFC 6531 3.3
    /// ```
    fn parse_parameters(
        &self,
        text: &str,
        mut check: impl FnMut(&str, Option<&str>) -> Result<(), Template>,
    ) -> Result<(), Template> {
        if text.is_empty() {
            return Ok(());
        }
        let Some(text) = text.strip_prefix(' ') else { return Err(responses::BAD_PARAMETER) };
        let mut seen: Vec<(String, Option<&str>)> = Vec::new();
        for parameter in text.split(' ') {
            let (keyword, value) = match parameter.split_once('=') {
                Some((keyword, value)) => (keyword, Some(value)),
                None => (parameter, None),
            };
            if !self.is_extended {
                return Err(responses::UNKNOWN_PARAMETER);
            }
            if !is_keyword(keyword) || value.is_some_and(|value| !is_value(value)) {
                return Err(responses::BAD_PARAMETER);
            }
            let keyword = keyword.to_ascii_uppercase();
            match seen.iter().find(|(other, _)| *other == keyword) {
                Some((_, other)) if *other == value => continue,
                Some(_) => return Err(responses::BAD_PARAMETER),
                None => {}
            }
            check(&keyword, value)?;
            seen.push((keyword, value));
        }
        Ok(())
    }
}

fn is_keyword(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !text.is_empty() && !text.starts_with('-')
}

fn is_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 33..=60 | 62..=126 | 128..))
}

fn keep(kept: &mut String, keyword: &str, value: Option<&str>) {
    let space = if kept.is_empty() { "" } else { " " };
    match value {
        Some(value) => *kept += &format!("{space}{keyword}={value}"),
        None => *kept += &format!("{space}{keyword}"),
    }
}

/// RFC 3461 4.1: `NEVER`, or a list of `SUCCESS`, `FAILURE` and `DELAY`.
fn is_notify(value: &str) -> bool {
    let is_listed = |word: &str| ["SUCCESS", "FAILURE", "DELAY"].iter().any(|known| word.eq_ignore_ascii_case(known));
    value.eq_ignore_ascii_case("NEVER") || value.split(',').all(is_listed)
}

/// RFC 3461 4.4: an xtext of printable ASCII, at most 100 octets of it.
fn is_envelope_id(value: &str) -> bool {
    undo_xtext(value).is_some_and(|id| id.len() <= limits::ENVID_OCTETS_MAX && is_printable_ascii(&id))
}

/// RFC 3461 4.2: `addr-type ";" xtext`, of printable ASCII; what is not ASCII stands for itself in an address of the type utf-8
/// (RFC 6533 3).
fn is_original_recipient(value: &str) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    let Some(octets) = undo_xtext(address).filter(|octets| !octets.is_empty()) else { return false };
    let is_text = || str::from_utf8(&octets).is_ok_and(address::is_printable);
    is_keyword(kind) && (is_printable_ascii(&octets) || (kind.eq_ignore_ascii_case("utf-8") && is_text()))
}

fn is_printable_ascii(octets: &[u8]) -> bool {
    octets.iter().all(|octet| (0x20..0x7f).contains(octet))
}

/// RFC 1870 4: `size-value = 1*20DIGIT`. What has that form but does not fit 64 bits is too large, like any other size.
fn check_size(value: Option<&str>, octets_max: u64) -> Result<(), Template> {
    let digits =
        value.filter(|v| v.len() <= 20 && v.bytes().all(|b| b.is_ascii_digit())).ok_or(responses::BAD_PARAMETER)?;
    match digits.parse::<u64>() {
        Ok(octets) if octets <= octets_max => Ok(()),
        _ => Err(responses::MESSAGE_TOO_LARGE),
    }
}

/// The octets that an xtext stands for. RFC 3461 4: `xtext = *( xchar / hexchar )`, where `hexchar` is "+" and two upper-case
/// hexadecimal digits.
pub(crate) fn undo_xtext(value: &str) -> Option<Vec<u8>> {
    let digit = |octet: u8| match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    };
    let mut undone = Vec::with_capacity(value.len());
    let mut octets = value.bytes();
    while let Some(octet) = octets.next() {
        undone.push(match octet {
            b'+' => digit(octets.next()?)? << 4 | digit(octets.next()?)?,
            b'=' => return None,
            octet => octet,
        });
    }
    Some(undone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERS: Offers = Offers {
        is_extended: true,
        octets_max: 1000,
        recipients_max: 100,
        has_starttls: false,
        has_require_tls: true,
        has_dsn: true,
        has_auth: false,
        has_lookup: false,
        has_xclient: false,
    };

    fn kept(read: Result<MailParameters, Template>) -> Result<String, Template> {
        read.map(|read| read.kept)
    }

    #[test]
    fn parameters_of_mail() {
        let read = |text| OFFERS.read_mail_parameters(text);
        for good in ["", " SIZE=0", " size=1000 Body=8bitmime", " BODY=7BIT BODY=7BIT", " AUTH=<>", " AUTH=a+2Bb@c"] {
            assert_eq!(read(good), Ok(MailParameters::default()), "{good}");
        }
        let read_as = |is_binary, is_utf8| Ok(MailParameters { is_binary, is_utf8, kept: String::new() });
        assert_eq!(read(" BODY=binarymime"), read_as(true, false));
        assert_eq!(read(" smtputf8"), read_as(false, true));
        let envid = format!(" ENVID={}", "+2B".repeat(100));
        for good in [" RET=FULL", " RET=hdrs ENVID=QQ314159", " REQUIRETLS ENVID=a+20b", &envid] {
            assert_eq!(kept(read(good)).as_deref(), Ok(&good[1..]), "{good}");
        }
        let long = envid.clone() + "a";
        for too_large in [" SIZE=1001", " SIZE=18446744073709551616", " SIZE=99999999999999999999"] {
            assert_eq!(read(too_large), Err(responses::MESSAGE_TOO_LARGE), "{too_large}");
        }
        for bad in [
            "SIZE=1",
            " SIZE",
            " SIZE=",
            " SIZE=-1",
            " SIZE=x",
            " SIZE=100000000000000000000",
            " SIZE=1 SIZE=2",
            " BODY=9BIT",
            " BODY",
            "  SIZE=1",
            " SIZE=1  BODY=7BIT",
            " AUTH=a+2",
            " AUTH=a+2b",
            " AUTH",
            " -X=1",
            " =1",
            " BODY=7BIT=8",
            " SMTPUTF8=1",
            " REQUIRETLS=1",
            " RET",
            " RET=BODY",
            " ENVID=a+2b",
            " ENVID=a+0D+0Ab",
            " ENVID=\u{f6}",
            &long,
        ] {
            assert_eq!(read(bad), Err(responses::BAD_PARAMETER), "{bad}");
        }
        assert_eq!(read(" FOO=1"), Err(responses::UNKNOWN_PARAMETER));
    }

    #[test]
    fn parameters_of_rcpt() {
        let read = |text| OFFERS.read_rcpt_parameters(text);
        let [long, too_long] = [487, 488].map(|octets| format!(" ORCPT=rfc822;{}", "x".repeat(octets)));
        for good in [
            "",
            &long,
            " NOTIFY=NEVER",
            " NOTIFY=success,DELAY ORCPT=rfc822;Bob+2B1@mx.test",
            " ORCPT=utf-8;j\u{f6}rg@mx.test",
        ] {
            assert_eq!(read(good).as_deref(), Ok(good.trim_start()), "{good}");
        }
        for bad in [
            " NOTIFY",
            " NOTIFY=",
            " NOTIFY=NEVER,DELAY",
            " NOTIFY=DELAY,",
            " NOTIFY=ALWAYS",
            " ORCPT=bob@mx.test",
            " ORCPT=rfc822;",
            " ORCPT=;bob@mx.test",
            " ORCPT=rfc822;a+2",
            " ORCPT=rfc822;j\u{f6}rg@mx.test",
            " ORCPT=rfc822;a+0Ab",
            " ORCPT=utf-8;a+C2+85b",
            &too_long,
            " NOTIFY=NEVER NOTIFY=DELAY",
        ] {
            assert_eq!(read(bad), Err(responses::BAD_PARAMETER), "{bad}");
        }
        assert_eq!(read(" SIZE=1"), Err(responses::UNKNOWN_PARAMETER));
    }

    #[test]
    fn what_is_not_offered_is_not_known() {
        let without = Offers { has_dsn: false, has_require_tls: false, ..OFFERS };
        for text in [" RET=FULL", " ENVID=a", " REQUIRETLS"] {
            assert_eq!(kept(without.read_mail_parameters(text)), Err(responses::UNKNOWN_PARAMETER), "{text}");
        }
        assert_eq!(without.read_rcpt_parameters(" NOTIFY=NEVER"), Err(responses::UNKNOWN_PARAMETER));
        let by_helo = Offers { is_extended: false, ..OFFERS };
        assert_eq!(kept(by_helo.read_mail_parameters(" SIZE=1")), Err(responses::UNKNOWN_PARAMETER));
    }

    #[test]
    fn xtext_is_undone() {
        for (xtext, octets) in
            [("a+2Bb", Some("a+b")), ("+C3+B6", Some("\u{f6}")), ("", Some("")), ("a+2", None), ("a=", None)]
        {
            assert_eq!(undo_xtext(xtext).as_deref(), octets.map(str::as_bytes), "{xtext}");
        }
    }
}
