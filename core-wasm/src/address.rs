//! Paths, mailboxes and domains of RFC 5321 4.1.2 and 4.1.3, as RFC 6531 3.3 extends them. The grammar stands above each
//! function. Whether what is not ASCII is allowed where a text stands is for the caller to say; control characters, also those
//! of Unicode, never are.
//!
//! The functions that end in `_octets` tell how many octets at the start of a text are of that form; `None` is none.

use crate::limits::{DOMAIN_OCTETS_MAX, LOCAL_PART_OCTETS_MAX, PATH_OCTETS_MAX};
use std::net::Ipv6Addr;

/// What stands in the brackets of MAIL or RCPT, without a source route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// `<>`: the sender of a bounce.
    Null,
    /// `<Postmaster>`, in any letter case: the one name that needs no domain.
    Postmaster(&'a str),
    /// `<local-part@domain>`.
    Mailbox(Mailbox<'a>),
}

/// `local-part@domain`, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailbox<'a> {
    /// A dot-string or a quoted string.
    pub local_part: &'a str,
    /// A domain or an address literal.
    pub domain: &'a str,
}

impl<'a> Path<'a> {
    /// Reads a path, and gives what stands behind it.
    ///
    /// ```text
    /// Reverse-path = Path / "<>"
    /// Forward-path = Path             ; and "<Postmaster>" (4.5.1)
    /// Path         = "<" [ A-d-l ":" ] Mailbox ">"
    /// A-d-l        = At-domain *( "," At-domain )
    /// At-domain    = "@" Domain
    /// ```
    pub fn parse_prefix(text: &'a str) -> Option<(Path<'a>, &'a str)> {
        if !is_printable(text) {
            return None;
        }
        if let Some(rest) = text.strip_prefix("<>") {
            return Some((Path::Null, rest));
        }
        let inner = text.strip_prefix('<')?;
        let postmaster = "postmaster".len();
        if inner.as_bytes().get(postmaster) == Some(&b'>') && inner[..postmaster].eq_ignore_ascii_case("postmaster") {
            return Some((Path::Postmaster(&inner[..postmaster]), &inner[postmaster + 1..]));
        }
        // "SHOULD NOT be sent, MUST be accepted, SHOULD be ignored": RFC 5321 3.3 and appendix C on source routes.
        let mailbox = match inner.starts_with('@') {
            true => skip_route(inner)?,
            false => inner,
        };
        let octets = mailbox_octets(mailbox)?;
        let rest = mailbox[octets..].strip_prefix('>')?;
        let path = text.len() - rest.len();
        (path <= PATH_OCTETS_MAX).then_some((Path::Mailbox(split(&mailbox[..octets])), rest))
    }

    /// Reads `FROM:` or `TO:` and a path, and gives what stands behind it. One space behind the colon is tolerated: real clients send
    /// it.
    pub fn behind(keyword: &str, argument: &'a str) -> Option<(Path<'a>, &'a str)> {
        let (start, rest) = argument.split_at_checked(keyword.len())?;
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        start.eq_ignore_ascii_case(keyword).then(|| Path::parse_prefix(rest)).flatten()
    }

    /// The mailbox as an envelope keeps it: without brackets, empty for the null path.
    pub fn to_envelope(self) -> String {
        match self {
            Path::Null => String::new(),
            Path::Postmaster(name) => name.to_owned(),
            Path::Mailbox(mailbox) => [mailbox.local_part, "@", mailbox.domain].concat(),
        }
    }
}

impl<'a> Mailbox<'a> {
    /// Reads a text that is a mailbox from end to end.
    ///
    /// ```text
    /// Mailbox = Local-part "@" ( Domain / address-literal )
    /// ```
    pub fn parse(text: &'a str) -> Option<Mailbox<'a>> {
        (is_printable(text) && mailbox_octets(text)? == text.len()).then(|| split(text))
    }
}

fn split(mailbox: &str) -> Mailbox<'_> {
    // A domain holds no "@"; a quoted local part may.
    let (local_part, domain) = mailbox.rsplit_once('@').expect("a mailbox has an @");
    Mailbox { local_part, domain }
}

fn mailbox_octets(text: &str) -> Option<usize> {
    let local_part = local_part_octets(text)?;
    let domain = text[local_part..].strip_prefix('@')?;
    let octets = domain_or_literal_octets(domain)?;
    (local_part <= LOCAL_PART_OCTETS_MAX && octets <= DOMAIN_OCTETS_MAX).then_some(local_part + 1 + octets)
}

fn skip_route(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        rest = rest.strip_prefix('@')?;
        rest = &rest[domain_octets(rest)?..];
        match rest.strip_prefix(',') {
            Some(further) => rest = further,
            None => return rest.strip_prefix(':'),
        }
    }
}

/// Whether a text is without control characters.
pub fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| (0x20..0x7f).contains(&b)) || !text.chars().any(char::is_control)
}

/// Whether a text is the argument that HELO and EHLO take, which is ASCII (RFC 6531 3.7.1): `Domain / address-literal`.
pub fn is_domain_or_literal(text: &str) -> bool {
    text.is_ascii() && is_mailbox_domain(text)
}

/// Whether a text is what stands behind the `@` of a mailbox.
pub fn is_mailbox_domain(text: &str) -> bool {
    is_printable(text) && text.len() <= DOMAIN_OCTETS_MAX && domain_or_literal_octets(text) == Some(text.len())
}

/// Whether a text is a local part: `Local-part = Dot-string / Quoted-string`.
pub fn is_local_part(text: &str) -> bool {
    is_printable(text) && text.len() <= LOCAL_PART_OCTETS_MAX && local_part_octets(text) == Some(text.len())
}

fn local_part_octets(text: &str) -> Option<usize> {
    if text.starts_with('"') { quoted_string_octets(text) } else { dot_string_octets(text) }
}

/// ```text
/// Dot-string = Atom *("." Atom)
/// Atom       = 1*atext
/// atext      = ALPHA / DIGIT / any of !#$%&'*+-/=?^_`{|}~ / UTF8-non-ascii       ; RFC 5322 3.2.3, RFC 6531 3.3
/// ```
fn dot_string_octets(text: &str) -> Option<usize> {
    let is_atext = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(b) || !b.is_ascii();
    dotted_octets(text, |label| label.bytes().take_while(is_atext).count())
}

/// ```text
/// Domain     = sub-domain *("." sub-domain)
/// sub-domain = Let-dig [Ldh-str] / U-label                        ; a U-label is not ASCII: RFC 6531 3.3
/// Ldh-str    = *( ALPHA / DIGIT / "-" ) Let-dig
/// ```
fn domain_octets(text: &str) -> Option<usize> {
    dotted_octets(text, |label| {
        let is_of_label = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || !b.is_ascii();
        let octets = label.bytes().take_while(is_of_label).count();
        if label[..octets].starts_with('-') || label[..octets].ends_with('-') { 0 } else { octets }
    })
}

/// One or more labels with single dots between them, each at least one octet long.
fn dotted_octets(text: &str, label_octets: impl Fn(&str) -> usize) -> Option<usize> {
    let mut octets = 0;
    loop {
        match label_octets(&text[octets..]) {
            0 => return None,
            label => octets += label,
        }
        match text.as_bytes().get(octets) {
            Some(b'.') => octets += 1,
            _ => return Some(octets),
        }
    }
}

/// ```text
/// Quoted-string  = DQUOTE *QcontentSMTP DQUOTE
/// QcontentSMTP   = qtextSMTP / quoted-pairSMTP
/// qtextSMTP      = %d32-33 / %d35-91 / %d93-126 / UTF8-non-ascii
/// quoted-pairSMTP = %d92 %d32-126                  ; a backslash never quotes a control character
/// ```
fn quoted_string_octets(text: &str) -> Option<usize> {
    let mut octets = text.bytes().enumerate().skip(1);
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'"' => return Some(at + 1),
            b'\\' if !matches!(octets.next(), Some((_, 32..=126))) => return None,
            32..=126 | 128.. => {}
            _ => return None,
        }
    }
    None
}

/// ```text
/// address-literal      = "[" ( IPv4-address-literal / "IPv6:" IPv6-addr ) "]"      ; without a zone
/// IPv4-address-literal = Snum 3("."  Snum)
/// Snum                 = 1*3DIGIT                                                  ; up to 255, and zeros may lead
/// IPv6-comp            = [IPv6-hex *5(":" IPv6-hex)] "::" [IPv6-hex *5(":" IPv6-hex)]      ; at most 6 groups
/// ```
fn domain_or_literal_octets(text: &str) -> Option<usize> {
    let Some(inner) = text.strip_prefix('[') else { return domain_octets(text) };
    let inner = &inner[..inner.find(']')?];
    let is_address = match inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")) {
        Some(tag) => is_ipv6_address(&inner[tag.len()..]),
        None => is_ipv4_address(inner),
    };
    is_address.then_some(inner.len() + 2)
}

fn is_ipv4_address(text: &str) -> bool {
    let is_number = |part: &str| part.len() <= 3 && part.parse::<u8>().is_ok() && !part.starts_with('+');
    text.split('.').count() == 4 && text.split('.').all(is_number)
}

fn is_ipv6_address(text: &str) -> bool {
    // What ends like an IPv4 address has its last two groups there.
    let groups = text.split(':').filter(|group| !group.is_empty()).count() + usize::from(text.contains('.'));
    text.parse::<Ipv6Addr>().is_ok() && (groups <= 6 || !text.contains("::"))
}

/// A local part or a group's name in the form in which it is stored and looked up: ASCII lower case, and quoted only if
/// it must be. RFC 5321 4.1.2: "the quoted form is equivalent to the unquoted one when both are valid".
pub fn lookup_name(local_part: &str) -> String {
    let lower = local_part.to_ascii_lowercase();
    let Some(quoted) = lower.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return lower };
    let mut plain = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(c) = characters.next() {
        plain.push(if c == '\\' { characters.next().unwrap_or(c) } else { c });
    }
    if dot_string_octets(&plain) == Some(plain.len()) {
        return plain;
    }
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<String> {
        Path::parse_prefix(text).filter(|(_, rest)| rest.is_empty()).map(|(path, _)| path.to_envelope())
    }

    #[test]
    fn paths() {
        let long_local = "l".repeat(64);
        let long_domain = format!("{}.{}", "d".repeat(63), "e".repeat(63));
        let good = [
            ("<>", ""),
            ("<a@b>", "a@b"),
            ("<Ann.Lee+x@Mx.Test>", "Ann.Lee+x@Mx.Test"),
            ("<\"a b>\\\"@\"@c>", "\"a b>\\\"@\"@c"),
            ("<\"\"@c>", "\"\"@c"),
            ("<@r1,@r2.test:a@b>", "a@b"),
            ("<postMASTER>", "postMASTER"),
            ("<a@[127.0.0.1]>", "a@[127.0.0.1]"),
            ("<a@[ipv6:::1]>", "a@[ipv6:::1]"),
            ("<a@[127.0.0.001]>", "a@[127.0.0.001]"),
            ("<a@[IPv6:1:2:3:4:5:6::]>", "a@[IPv6:1:2:3:4:5:6::]"),
            ("<a@[IPv6:1::2:3:4:192.0.2.1]>", "a@[IPv6:1::2:3:4:192.0.2.1]"),
            ("<j\u{f6}rg.m@b\u{fc}cher.test>", "j\u{f6}rg.m@b\u{fc}cher.test"),
            ("<\"\u{e9} \u{e8}\"@\u{4f8b}.\u{4f8b}>", "\"\u{e9} \u{e8}\"@\u{4f8b}.\u{4f8b}"),
            (&format!("<{long_local}@{long_domain}>"), &format!("{long_local}@{long_domain}")),
        ];
        for (text, mailbox) in good {
            assert_eq!(path(text).as_deref(), Some(mailbox), "{text}");
        }
        let bad = [
            "a@b",
            "<a@b",
            "<a>",
            "<@b>",
            "<a@>",
            "<a@b>>",
            "<a b@c>",
            "<a@b c>",
            "<.a@b>",
            "<a.@b>",
            "<a..b@c>",
            "<a@.b>",
            "<a@b.>",
            "<a@b..c>",
            "<a@-b>",
            "<a@b->",
            "<a@b_c>",
            "<\"a@b>",
            "<\"a\"b@c>",
            "<\"\\\u{7f}\"@b>",
            "<\"\\\u{e9}\"@b>",
            "<a\u{85}@b>",
            "<a@b\u{9f}c>",
            "<@r1@r2:a@b>",
            "<@r1,:a@b>",
            "<@r1:>",
            "<a@[1.2.3]>",
            "<a@[127.0.0.1>",
            "<a@[::1]>",
            "<a@[127.0.0.0001]>",
            "<a@[127.0.0.+1]>",
            "<a@[127.0.0.256]>",
            "<a@[IPv6:1:2:3:4:5:6:7::]>",
            "<a@[IPv6:1::2:3:4:5:192.0.2.1]>",
            "<a@[IPv6:fe80::1%eth0]>",
            "<a@[]>",
            "<a@b@c>",
            "<postmaster@>",
            "<a@b>x@y>",
            &format!("<{}@b>", "l".repeat(65)),
            &format!("<{}@{}>", "l".repeat(64), "d".repeat(190)),
        ];
        for text in bad {
            assert_eq!(path(text), None, "{text}");
        }
    }

    #[test]
    fn helo_arguments() {
        for good in ["a", "mx.test", "1-2.3", "[10.0.0.1]", "[IPv6:2001:db8::1]", &"d".repeat(255)] {
            assert!(is_domain_or_literal(good), "{good}");
        }
        for bad in
            ["", " a", "a b", "a_b", "[10.0.0.1", "[10.0.0.256]", "[x]", "a.", &"d".repeat(256), "b\u{fc}cher.test"]
        {
            assert!(!is_domain_or_literal(bad), "{bad}");
        }
    }

    #[test]
    fn names_for_looking_up() {
        assert_eq!(lookup_name("Bob"), "bob");
        assert_eq!(lookup_name("\"Bob\""), "bob");
        assert_eq!(lookup_name("\"B\\ob\""), "bob");
        assert_eq!(lookup_name("\"a b\""), "\"a b\"");
        assert_eq!(lookup_name("\"a\\\\\\\"\""), "\"a\\\\\\\"\"");
    }
}
