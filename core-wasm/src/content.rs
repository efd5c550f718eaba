//! The header section of a message, read while it passes: the first `Subject`, the first `Date`, and where the body
//! starts. RFC 5322 2.1 and 2.2; a line that is no header field ends the section, so that a body is never searched.

use crate::limits::{DATA_LINE_OCTETS_MAX, DATE_SECONDS_MAX, FIELD_NAME_OCTETS_MAX, FIELD_OCTETS_MAX};
use crate::step::Date;
use mail_parser::parsers::MessageStream;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// Where in the header section the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Position {
    LineStart,
    /// A CR at the start of a line: half of the empty line that ends the section.
    EmptyLineCr,
    Name,
    /// White space between name and colon, which RFC 5322 4.5 still allows.
    NameSpace,
    /// Inside a field's body, continuation lines included; whether the last octet was a CR.
    Value {
        cr: bool,
    },
    /// Behind the section.
    Body,
}

/// A field that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Field {
    Subject,
    Date,
    Other,
}

/// Reads a header section.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContentReader {
    position: Position,
    field: Field,
    name: Vec<u8>,
    subject: Option<Vec<u8>>,
    date: Option<Vec<u8>>,
    octets: u64,
    line_start: u64,
    body_start: u64,
}

impl ContentReader {
    pub(crate) fn new() -> ContentReader {
        ContentReader {
            position: Position::LineStart,
            field: Field::Other,
            name: Vec::new(),
            subject: None,
            date: None,
            octets: 0,
            line_start: 0,
            body_start: 0,
        }
    }

    /// Whether nothing is held beyond its bound, as is so in every reader that only [`ContentReader::read`] has changed.
    pub(crate) fn is_bounded(&self) -> bool {
        let fields = [&self.subject, &self.date].into_iter().flatten();
        self.name.len() <= FIELD_NAME_OCTETS_MAX
            && fields.into_iter().all(|field| field.len() <= FIELD_OCTETS_MAX)
            && self.line_start.max(self.body_start) <= self.octets
    }

    /// Octets read so far.
    pub(crate) fn octets(&self) -> u64 {
        self.octets
    }

    /// Octets of the header section as far as they are known to be its: a line belongs to it from its colon on.
    pub(crate) fn header_octets(&self) -> u64 {
        match self.position {
            Position::LineStart | Position::Value { .. } => self.octets,
            Position::EmptyLineCr | Position::Name | Position::NameSpace => self.line_start,
            Position::Body => self.body_start,
        }
    }

    /// Reads message octets that have passed [`crate::data`].
    pub(crate) fn read(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while let [octet, ..] = *rest {
            let read = match self.position {
                Position::Body => rest.len(),
                Position::Value { cr } => self.read_value(rest, cr),
                Position::LineStart => self.read_line_start(octet),
                Position::EmptyLineCr if octet == b'\n' => self.start_body(self.octets + 1, 1),
                Position::Name => self.read_name(octet),
                Position::NameSpace => match octet {
                    b' ' | b'\t' => 1,
                    b':' => self.start_value(),
                    _ => self.start_body(self.line_start, 0),
                },
                Position::EmptyLineCr => self.start_body(self.line_start, 0),
            };
            self.octets += read as u64;
            rest = &rest[read..];
        }
    }

    fn read_line_start(&mut self, octet: u8) -> usize {
        let is_first = self.octets == 0;
        self.line_start = self.octets;
        match octet {
            b'\r' => self.position = Position::EmptyLineCr,
            b' ' | b'\t' if !is_first => self.position = Position::Value { cr: false },
            _ => {
                self.name.clear();
                self.position = Position::Name;
            }
        }
        // A name is read from its first octet, a continuation line with the space that makes it one.
        usize::from(self.position == Position::EmptyLineCr)
    }

    fn read_name(&mut self, octet: u8) -> usize {
        match octet {
            b':' if !self.name.is_empty() => self.start_value(),
            b' ' | b'\t' if !self.name.is_empty() => {
                self.position = Position::NameSpace;
                1
            }
            33..=126 if octet != b':' && self.name.len() < FIELD_NAME_OCTETS_MAX => {
                self.name.push(octet);
                1
            }
            _ => self.start_body(self.line_start, 0),
        }
    }

    fn start_value(&mut self) -> usize {
        // "The first such header wins": once a field is held, a further one of its name is another field.
        self.field = match () {
            () if self.subject.is_none() && self.name.eq_ignore_ascii_case(b"subject") => Field::Subject,
            () if self.date.is_none() && self.name.eq_ignore_ascii_case(b"date") => Field::Date,
            () => Field::Other,
        };
        match self.field {
            Field::Subject => self.subject = Some(Vec::new()),
            Field::Date => self.date = Some(Vec::new()),
            Field::Other => {}
        }
        self.position = Position::Value { cr: false };
        1
    }

    /// Reads a field's body up to the end of its line, and keeps it if it is wanted.
    fn read_value(&mut self, rest: &[u8], cr: bool) -> usize {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let line = &rest[..end];
        let cr_before_last = if end > 1 { line[end - 2] == b'\r' } else { cr };
        self.position = match line[end - 1] {
            b'\n' if cr_before_last => Position::LineStart,
            last => Position::Value { cr: last == b'\r' },
        };
        let kept = match self.field {
            Field::Subject => self.subject.as_mut(),
            Field::Date => self.date.as_mut(),
            Field::Other => None,
        };
        if let Some(kept) = kept {
            let room = FIELD_OCTETS_MAX - kept.len();
            kept.extend_from_slice(&line[..line.len().min(room)]);
        }
        end
    }

    fn start_body(&mut self, at: u64, read: usize) -> usize {
        self.position = Position::Body;
        self.body_start = at;
        read
    }

    /// The subject, unfolded and decoded by RFC 2047.
    pub(crate) fn subject(&self) -> Option<String> {
        // RFC 5322 2.2.3: unfolding removes a CRLF and nothing else.
        let mut raw = self.subject.clone()?;
        raw.retain(|octet| !matches!(octet, b'\r' | b'\n'));
        Some(decode(raw.trim_ascii()))
    }

    /// The date with its zone; a broken one is none.
    pub(crate) fn date(&self) -> Option<Date> {
        let text = in_todays_form(str::from_utf8(&without_comments(self.date.as_ref()?)).ok()?);
        let parse = |text: &str| OffsetDateTime::parse(text, &Rfc2822).ok();
        // A zone by a name that nobody knows counts as -0000. RFC 5322 4.3.
        let without_zone = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
        let date = parse(&text).or_else(|| parse(&format!("{without_zone}-0000")))?;
        let (mut seconds, mut zone_minutes) = (date.unix_timestamp(), date.offset().whole_minutes());
        // The parser takes a zone like -0030, whose hours have no sign, for +0030.
        if zone_minutes > 0
            && text.as_bytes().rchunks(b"-0030".len()).next().is_some_and(|zone| zone.starts_with(b"-00"))
        {
            seconds += 2 * 60 * i64::from(zone_minutes);
            zone_minutes = -zone_minutes;
        }
        // The parser takes zones of a day and more, which no clock has.
        (seconds <= DATE_SECONDS_MAX && zone_minutes.abs() < 24 * 60).then_some(Date { seconds, zone_minutes })
    }
}

/// A text with its encoded words decoded, and everything else as it stands: white space counts, but for that between two
/// encoded words. RFC 2047 6.2. What is no encoded word stays as it was sent.
fn decode(text: &[u8]) -> String {
    let mut decoded = String::new();
    let mut is_behind_word = false;
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|octets| octets == b"=?") {
        let (plain, word) = rest.split_at(at);
        let found = encoded_word(word);
        let is_between = is_behind_word && found.is_some() && plain.iter().all(u8::is_ascii_whitespace);
        if !is_between {
            decoded.push_str(&String::from_utf8_lossy(plain));
        }
        is_behind_word = found.is_some();
        let (text, octets) = found.unwrap_or_else(|| ("=?".to_owned(), 2));
        decoded.push_str(&text);
        rest = &word[octets..];
    }
    decoded + &String::from_utf8_lossy(rest)
}

/// The text of the encoded word that begins here, and how many octets it has.
///
/// ```text
/// encoded-word = "=?" charset "?" encoding "?" encoded-text "?="
/// ```
fn encoded_word(word: &[u8]) -> Option<(String, usize)> {
    // It is in one line. Many that have no end would be looked through to the end of the text each.
    let word = &word[..word.len().min(DATA_LINE_OCTETS_MAX)];
    let mut parts = word.splitn(5, |octet| *octet == b'?');
    let (charset, encoding, text) = (parts.nth(1)?, parts.next()?, parts.next()?);
    let missing = (4 - text.len() % 4) % 4;
    if encoding.eq_ignore_ascii_case(b"b") && matches!(missing, 1 | 2) {
        // Without its padding the end would be lost.
        let padded = [b"?", charset, b"?b?", text, &b"=="[..missing], b"?="].concat();
        let end = b"=??b??=".len() + charset.len() + text.len();
        let is_whole = word[..end.min(word.len())].ends_with(b"?=");
        return MessageStream::new(&padded).decode_rfc2047().filter(|_| is_whole).map(|decoded| (decoded, end));
    }
    let mut stream = MessageStream::new(&word[1..]);
    let decoded = stream.decode_rfc2047()?;
    Some((decoded, 1 + stream.offset()))
}

/// A field's body with a space in the place of each comment.
///
/// ```text
/// comment     = "(" *([FWS] ccontent) [FWS] ")"             ; RFC 5322 3.2.2
/// ccontent    = ctext / quoted-pair / comment
/// ```
fn without_comments(body: &[u8]) -> Vec<u8> {
    let mut depth = 0_usize;
    let mut octets = body.iter();
    let mut plain = Vec::with_capacity(body.len());
    while let Some(&octet) = octets.next() {
        match octet {
            b'(' => depth += 1,
            b')' if depth > 0 => {
                depth -= 1;
                plain.push(b' ');
            }
            b'\\' if depth > 0 => drop(octets.next()),
            _ if depth == 0 => plain.push(octet),
            _ => {}
        }
    }
    plain
}

/// A date without what the parser does not know of RFC 5322 4.3: white space before the comma, and a year of three digits, which
/// counts from 1900.
fn in_todays_form(text: &str) -> String {
    let mut form = String::with_capacity(text.len());
    for word in text.split_ascii_whitespace() {
        if !form.is_empty() && !word.starts_with(',') {
            form.push(' ');
        }
        match word.parse::<u16>() {
            Ok(year) if word.len() == 3 && !word.starts_with('+') => form += &(1900 + year).to_string(),
            _ => form += word,
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8], size: usize) -> ContentReader {
        let mut reader = ContentReader::new();
        message.chunks(size).for_each(|block| reader.read(block));
        reader
    }

    #[track_caller]
    fn check(message: &str, subject: Option<&str>, header_octets: usize) {
        for size in 1..=message.len().max(1) {
            let reader = read(message.as_bytes(), size);
            assert_eq!(reader.subject().as_deref(), subject, "blocks of {size}");
            assert_eq!(reader.header_octets(), header_octets as u64, "blocks of {size}");
            assert_eq!(reader.octets(), message.len() as u64);
        }
    }

    #[test]
    fn subjects() {
        check("Subject: hi\r\n\r\nbody\r\n", Some("hi"), 15);
        check("X: 1\r\nSUBJECT : a\r\n  b\r\n\tc\r\nSubject: no\r\n\r\n", Some("a  b\tc"), 43);
        check("Subject:\r\n\r\n", Some(""), 12);
        check("Subject: =?utf-8?Q?caf=C3=A9?= =?iso-8859-1?B?6Q==?=\r\n\r\n", Some("caféé"), 56);
        check("Subject: =?iso-2022-jp?B?GyRCRnxLXBsoQg==?=\r\n\r\n", Some("日本"), 47);
        check("Subject: caf\u{e9}\r\n\r\n", Some("caf\u{e9}"), 18);
        check("X-Subject: no\r\n\r\nSubject: no\r\n", None, 17);
        let endless = format!("=?utf-8?Q?{}?=", "x".repeat(DATA_LINE_OCTETS_MAX));
        let decoded = |text: &str| read(format!("Subject: {text}\r\n\r\n").as_bytes(), 99).subject().unwrap();
        for (text, expected) in [
            ("=?utf-8?Q?Re?=: x", "Re: x"),
            ("a=?utf-8?Q?b?=c", "abc"),
            ("(\"=?utf-8?Q?a?=\")", "(\"a\")"),
            ("one   =?utf-8?Q?two?=   three", "one   two   three"),
            ("=?utf-8?Q?a?=  =?utf-8?Q?b?= =?utf-8?Q?c?==?utf-8?Q?d?=", "abcd"),
            ("=?utf-8?Q?=E9=A4?= =?utf-8?q?a b?=", "\u{fffd}a b"),
            ("=?utf-8?B?SGVsbG8?=: =?utf-8?b?SGVsbG8gdw?= =?utf-8?b?YQ?=", "Hello: Hello wa"),
            ("=?utf-8?B?SGVsbG8=?=", "Hello"),
            (
                "=?utf-8?q?=zz?= =?utf-8?x?a?= =? =?= =?utf-8?B?SGVsbG8",
                "=?utf-8?q?=zz?= =?utf-8?x?a?= =? =?= =?utf-8?B?SGVsbG8",
            ),
            ("=?utf-8?B?SGVsbG8?", "=?utf-8?B?SGVsbG8?"),
            (&endless, &endless),
        ] {
            assert_eq!(decoded(text), expected, "{text}");
        }
        check("", None, 0);
    }

    #[test]
    fn a_body_is_never_searched() {
        check("\r\nSubject: no\r\n", None, 2);
        check("Hello there\r\nSubject: no\r\n", None, 0);
        check(" folded into nothing\r\nSubject: no\r\n", None, 0);
        check("A: 1\r\nno field\r\nSubject: no\r\n", None, 6);
        check("A: 1\r\n: x\r\nSubject: no\r\n", None, 6);
        check("A: 1\r\n\rSubject: no\r\n", None, 6);
        check("A: 1\r\nSubject: only headers\r\n", Some("only headers"), 29);
    }

    #[test]
    fn only_the_start_of_a_long_subject_is_decoded() {
        let message = format!("Subject: {}\r\n\r\n", "word\r\n ".repeat(5000));
        let subject = read(message.as_bytes(), 4096).subject().unwrap();
        assert!(subject.starts_with("word word"));
        assert!(subject.len() < FIELD_OCTETS_MAX);
    }

    #[test]
    fn dates() {
        let date = |value: &str| {
            read(format!("Date: {value}\r\n\r\n").as_bytes(), 7).date().map(|d| (d.seconds, d.zone_minutes))
        };
        assert_eq!(date("Fri, 21 Nov 1997 09:55:06 -0600"), Some((880_127_706, -360)));
        assert_eq!(date("21 Nov 97 09:55:06 GMT"), Some((880_106_106, 0)));
        assert_eq!(date("Fri, 21 Nov 1997 09(comment):   55  :  06 -0600 (CST)"), Some((880_127_706, -360)));
        assert_eq!(date("Fri, 21 Nov 1997\r\n 09:55:06 EST"), Some((880_124_106, -300)));
        assert_eq!(date("Fri (comment) , 21 Nov 1997 09:55:06 GMT"), Some((880_106_106, 0)));
        assert_eq!(date("Fri, 21 Nov 097 09:55:06 GMT"), Some((880_106_106, 0)));
        assert_eq!(date("21 Nov 125\r\n 09:55:06 GMT"), Some((1_763_718_906, 0)));
        assert_eq!(date("Mon, 21 Nov 1997 09:55:06 +0000"), Some((880_106_106, 0)));
        assert_eq!(date("Fri, 21 Nov 1997 09:55:06 CET"), Some((880_106_106, 0)));
        assert_eq!(date("Fri, 21 Nov 1997 09:55:06 -2359"), Some((880_192_446, -1439)));
        assert_eq!(date("Fri, 21 Nov 1997 09:55:06 +0030"), Some((880_104_306, 30)));
        assert_eq!(date("Fri, 21 Nov 1997 09:55:06 -0030 (west)"), Some((880_107_906, -30)));
        assert_eq!(date("Thu, 30 Dec 9999 22:00:00 +0000"), Some((DATE_SECONDS_MAX, 0)));
        assert_eq!(date("(a (nested \\) one)) 21 Nov 97 09:55:06 GMT"), Some((880_106_106, 0)));
        for broken in [
            "",
            "yesterday",
            "Fri, 31 Feb 1997 09:55:06 +0000",
            "Fri, 21 Nov 1997 25:55:06 +0000",
            "Fri, 21 Nov 1997 09:55:06",
            "1997-11-21",
            "Fri, 21 Nov 1997 09:55:06 +2400",
            "Fri, 21 Nov 1997 09:55:06 -2559",
            "Fri, 31 Dec 9999 23:59:59 -2359",
        ] {
            assert_eq!(date(broken), None, "{broken}");
        }
        assert_eq!(read(b"Date: broken\r\nDate: 21 Nov 97 09:55:06 GMT\r\n\r\n", 5).date(), None);
    }
}
