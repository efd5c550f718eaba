//! Every bound of the protocol. Units come last in a name.

/// A command line, CRLF counted, in a session without extensions. RFC 5321 4.5.3.1.4 asks for at least 512.
pub const COMMAND_OCTETS_MAX: usize = 512;

/// What the parameters of MAIL add to that: 26 for SIZE (RFC 1870 3), 17 for BODY (RFC 6152 2), 500 for AUTH (RFC 4954 3), 10 for
/// SMTPUTF8 (RFC 6531 3.1), 107 for RET and ENVID (RFC 3461 4), 11 for REQUIRETLS (RFC 8689 2).
pub const MAIL_EXTRA_OCTETS_MAX: usize = 26 + 17 + 500 + 10 + 107 + 11;

/// What those of RCPT add: NOTIFY and ORCPT (RFC 3461 4).
pub const RCPT_EXTRA_OCTETS_MAX: usize = 500;

/// What SMTPUTF8 adds to VRFY and EXPN (RFC 6531 3.1).
pub const LOOKUP_EXTRA_OCTETS_MAX: usize = 10;

/// ENVID, undone. RFC 3461 4.4.
pub const ENVID_OCTETS_MAX: usize = 100;

/// A local part. RFC 5321 4.5.3.1.1.
pub const LOCAL_PART_OCTETS_MAX: usize = 64;

/// A domain or address literal. RFC 5321 4.5.3.1.2.
pub const DOMAIN_OCTETS_MAX: usize = 255;

/// A path, with brackets and route. RFC 5321 4.5.3.1.3.
pub const PATH_OCTETS_MAX: usize = 256;

/// Recipients of one message. The specification says 100, which is also the least that RFC 5321 4.5.3.1.8 allows.
pub const RECIPIENTS_MAX: usize = 100;

/// A line of message data, CRLF counted, a stuffed dot not. RFC 5321 4.5.3.1.6.
pub const DATA_LINE_OCTETS_MAX: usize = 1000;

/// What `seconds` of a date may be.
pub const DATE_SECONDS_MAX: i64 = 253_402_207_200;

/// Chunks of one message.
pub const CHUNKS_MAX: u32 = 10_000;

/// A line of an AUTH exchange, CRLF counted. RFC 4954 4: "12288 octets" of base64.
pub const AUTH_LINE_OCTETS_MAX: usize = 12_288 + 2;

/// A message of SCRAM: in base64 it fits into a response line.
pub const SCRAM_OCTETS_MAX: usize = 378;

/// A password.
pub const PASSWORD_OCTETS_MAX: usize = 1_024;

/// Wrong credentials that end a session.
pub const AUTH_FAILURES_MAX: u32 = 3;

/// A message, unless the configuration says otherwise: 25 MiB. RFC 5321 4.5.3.1.7 asks for at least 64 KiB.
pub const MESSAGE_OCTETS_MAX: u64 = 25 << 20;

/// A header section, unless the configuration says otherwise: 256 KiB.
pub const HEADER_OCTETS_MAX: u64 = 256 << 10;

/// How much of a raw `Subject` or `Date` field is looked at; the stored header section is complete all the same.
pub const FIELD_OCTETS_MAX: usize = 16 << 10;

/// The name of a header field: one line (RFC 5322 2.1.1).
pub const FIELD_NAME_OCTETS_MAX: usize = 998;

/// The error that ends the session, unless the configuration says otherwise.
pub const ERRORS_MAX: u32 = 20;
