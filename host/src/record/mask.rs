//! What a recording does not tell: credentials, and the content of messages. Octets are replaced one by one, so that
//! lengths, line ends, dots and everything else that a protocol sees stay as they are.

use mailcell_conformance::transcript::Input;

/// Fields of a header section whose names stay: they are what a core looks for.
const NAMES: [&[u8]; 2] = [b"subject", b"date"];

/// Masks an octet of a text: letters and digits become `x`, octets beyond ASCII become one octet beyond ASCII.
fn mask(octet: u8) -> u8 {
    match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => b'x',
        0x80.. => 0xe9,
        other => other,
    }
}

/// Masks what follows the mechanism's name in a line with AUTH.
fn mask_credentials(line: &mut [u8]) {
    if line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH ")) {
        let behind = line[5..].iter().position(|b| *b == b' ').map_or(line.len(), |at| at + 5);
        line[behind..].iter_mut().for_each(|octet| *octet = mask(*octet));
    }
}

/// Masks a whole secret line.
fn mask_secret(line: &mut [u8]) {
    line.iter_mut().for_each(|octet| *octet = mask(*octet));
}

/// Masks message data as it came over the wire, but for the names of the fields that matter.
fn mask_message(data: &mut [u8]) {
    for line in data.split_mut(|octet| *octet == b'\n') {
        let name = line.iter().position(|octet| *octet == b':').unwrap_or(0);
        let kept = if NAMES.iter().any(|known| line[..name].eq_ignore_ascii_case(known)) { name } else { 0 };
        line[kept..].iter_mut().for_each(|octet| *octet = mask(*octet));
    }
}

/// Masks what a session was told.
pub fn mask_inputs(told: Vec<(Input, Kind)>, with_content: bool) -> Vec<Input> {
    let mask = |(mut input, kind)| {
        if let Input::Client(octets) = &mut input {
            match kind {
                Kind::Line => mask_credentials(octets),
                Kind::Secret => mask_secret(octets),
                Kind::Data if with_content => {}
                Kind::Data => mask_message(octets),
            }
        }
        input
    };
    told.into_iter().map(mask).collect()
}

/// What octets from a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command line.
    Line,
    /// A line that the core called a secret.
    Secret,
    /// Message data.
    Data,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(mut octets: Vec<u8>, mask: fn(&mut [u8])) -> String {
        mask(&mut octets);
        octets.escape_ascii().to_string()
    }

    #[test]
    fn credentials_are_masked_and_their_shape_stays() {
        assert_eq!(
            masked(b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n".to_vec(), mask_credentials),
            "AUTH PLAIN xxxxxxxxxxxxxxx=\\r\\n"
        );
        assert_eq!(masked(b"auth LOGIN\r\n".to_vec(), mask_credentials), "auth LOGIN\\r\\n");
        assert_eq!(masked(b"VRFY ann\r\n".to_vec(), mask_credentials), "VRFY ann\\r\\n");
        assert_eq!(masked(b"c2VjcmV0\r\n".to_vec(), mask_secret), "xxxxxxxx\\r\\n");
    }

    #[test]
    fn content_is_masked_and_its_shape_stays() {
        let message = b"Subject: caf\xc3\xa9 9\r\nX-Private: a\r\n\r\n..dot\r\nhi\0\r.\r\n.\r\n".to_vec();
        assert_eq!(
            masked(message, mask_message),
            "Subject: xxx\\xe9\\xe9 x\\r\\nx-xxxxxxx: x\\r\\n\\r\\n..xxx\\r\\nxx\\x00\\r.\\r\\n.\\r\\n"
        );
    }
}
