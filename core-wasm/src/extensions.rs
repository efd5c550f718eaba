//! What EHLO offers, and the parameters of MAIL and RCPT that come with it.

use crate::responses::{self, Template};
use crate::settings::{Settings, Tls};

/// The keywords of EHLO, each with its parameter. RFC 5321 4.1.1.1.
///
/// What depends on the session is given: whether it is under TLS, and whether AUTH and look-ups can be used.
pub(crate) fn keywords(settings: &Settings, is_under_tls: bool, has_auth: bool, has_lookup: bool) -> Vec<String> {
    let mut keywords = vec![
        "PIPELINING".to_owned(),
        format!("SIZE {}", settings.message_octets_max),
        "8BITMIME".to_owned(),
        "CHUNKING".to_owned(),
        "BINARYMIME".to_owned(),
        "ENHANCEDSTATUSCODES".to_owned(),
        format!("LIMITS RCPTMAX={}", settings.recipients_max),
    ];
    // RFC 3207 4.2: not listed within TLS.
    if settings.tls == Tls::Offered && !is_under_tls {
        keywords.push("STARTTLS".to_owned());
    }
    if has_auth {
        keywords.push("AUTH PLAIN LOGIN".to_owned());
    }
    if has_lookup {
        keywords.extend(["VRFY".to_owned(), "EXPN".to_owned()]);
    }
    keywords.push("HELP".to_owned());
    keywords
}

/// The parameters of MAIL; tells whether the message is a binary one. `extended` tells whether the session was greeted by EHLO.
pub(crate) fn check_mail_parameters(text: &str, extended: bool, octets_max: u64) -> Result<bool, Template> {
    let mut is_binary = false;
    parse_parameters(text, extended, |keyword, value| match keyword {
        "SIZE" => check_size(value, octets_max),
        "BODY" => match value.map(str::to_ascii_uppercase).as_deref() {
            Some("7BIT" | "8BITMIME") => Ok(()),
            Some("BINARYMIME") => {
                is_binary = true;
                Ok(())
            }
            _ => Err(responses::BAD_PARAMETER),
        },
        // RFC 4954 5: whoever is not trusted to say so still says it in the right form.
        "AUTH" => value.filter(|value| *value == "<>" || is_xtext(value)).map(drop).ok_or(responses::BAD_PARAMETER),
        _ => Err(responses::UNKNOWN_PARAMETER),
    })?;
    Ok(is_binary)
}

/// The parameters of RCPT: none is offered.
pub(crate) fn check_rcpt_parameters(text: &str, extended: bool) -> Result<(), Template> {
    parse_parameters(text, extended, |_, _| Err(responses::UNKNOWN_PARAMETER))
}

/// Reads `*( SP esmtp-param )`, which stands behind a path, and has each checked.
///
/// ```text
/// esmtp-param   = esmtp-keyword ["=" esmtp-value]
/// esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
/// esmtp-value   = 1*(%d33-60 / %d62-126)
/// ```
fn parse_parameters(
    text: &str,
    extended: bool,
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
        if !extended {
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

fn is_keyword(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !text.is_empty() && !text.starts_with('-')
}

fn is_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 33..=60 | 62..=126))
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

/// RFC 3461 4: `xtext = *( xchar / hexchar )`, where `hexchar` is "+" and two upper-case hexadecimal digits.
fn is_xtext(value: &str) -> bool {
    let mut octets = value.bytes();
    let is_hex = |b: Option<u8>| b.is_some_and(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    while let Some(octet) = octets.next() {
        match octet {
            b'+' if !(is_hex(octets.next()) && is_hex(octets.next())) => return false,
            b'=' => return false,
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_mail() {
        let check = |text| check_mail_parameters(text, true, 1000);
        for good in ["", " SIZE=0", " size=1000 Body=8bitmime", " BODY=7BIT BODY=7BIT", " AUTH=<>", " AUTH=a+2Bb@c"] {
            assert_eq!(check(good), Ok(false), "{good}");
        }
        assert_eq!(check(" BODY=binarymime"), Ok(true));
        for too_large in [" SIZE=1001", " SIZE=18446744073709551616", " SIZE=99999999999999999999"] {
            assert_eq!(check(too_large), Err(responses::MESSAGE_TOO_LARGE), "{too_large}");
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
        ] {
            assert_eq!(check(bad), Err(responses::BAD_PARAMETER), "{bad}");
        }
        assert_eq!(check(" FOO=1"), Err(responses::UNKNOWN_PARAMETER));
        assert_eq!(check_mail_parameters(" SIZE=1", false, 1000), Err(responses::UNKNOWN_PARAMETER));
        assert_eq!(check_rcpt_parameters(" NOTIFY=NEVER", true), Err(responses::UNKNOWN_PARAMETER));
    }
}
