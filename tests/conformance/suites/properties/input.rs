//! Input at random that gets somewhere.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A line that means something, more often than not.
pub(crate) fn command() -> impl Strategy<Value = Vec<u8>> {
    let known = select(vec![
        "HELO client.test",
        "EHLO client.test",
        "EHLO [IPv6:::1]",
        "MAIL FROM:<ann@client.test>",
        "MAIL FROM:<>",
        "MAIL FROM:<a@b> SIZE=99999",
        "MAIL FROM:<\"a b\"@c> BODY=8BITMIME",
        "RCPT TO:<bob@mx.test>",
        "RCPT TO:<Postmaster>",
        "RCPT TO:<@r:\"x\"@[127.0.0.1]>",
        "RCPT TO:<>",
        "DATA",
        "DATA x",
        "RSET",
        "NOOP",
        "NOOP x",
        "QUIT",
        "VRFY bob",
        "VRFY nobody",
        "VRFY down",
        "VRFY joerg",
        "VRFY j\u{f6}rg SMTPUTF8",
        "MAIL FROM:<j\u{f6}rg@b\u{fc}cher.test> SMTPUTF8 RET=HDRS",
        "RCPT TO:<j\u{f6}rg@b\u{fc}cher.test> NOTIFY=NEVER",
        "AUTH SCRAM-SHA-256 biwsbj11c2VyLHI9MQ==",
        "AUTH PLAIN",
        "YT1i",
        "XCLIENT ADDR=192.0.2.1",
        "XCLIENT ADDR=192.0.2.10 LOGIN=ann",
        "EXPN staff",
        "EXPN",
        "HELP",
        "HELP DATA",
        "TURN",
        ".",
        "",
        "GET / HTTP/1.1",
        "Subject: =?utf-8?Q?a?=",
        " folded",
        "Date: 21 Nov 97 09:55:06 GMT",
        "text",
        "..",
        ".x",
    ]);
    let line = prop_oneof![8 => known.prop_map(|line| line.as_bytes().to_vec()), 1 => vec(any::<u8>(), 0..40), 1 => vec(32..127_u8, 0..1200)];
    let end = select(vec![
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n.\r\n",
        "\n",
        "\r",
        "",
        "\0\r\n",
        " \r\n",
    ]);
    (line, end).prop_map(|(line, end)| [&line, end.as_bytes()].concat())
}

/// Octets that matter to the reader of message data, in any order.
pub(crate) fn data_octets() -> impl Strategy<Value = Vec<u8>> {
    let piece = select(vec![
        &b"\r"[..],
        b"\n",
        b"\r\n",
        b".",
        b"\0",
        b"a",
        b"X: ",
        b" ",
        b"\x8d",
        b"\x8a",
        b"\xae",
        b"\r\n\r\n",
        &[b'x'; 990],
    ]);
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// The start of a session that leads to the middle of things, so that random lines get somewhere.
pub(crate) fn preamble() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "EHLO client.test\r\n",
        "EHLO client.test\r\nMAIL FROM:<ann@client.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\n",
        "HELO client.test\r\nMAIL FROM:<ann@client.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\n",
    ])
}
