//! Loops over every octet of a message, many octets at a time.
//!
//! In a component each turn of a loop asks whether the time is up, and keeps no vector over that. So a turn does more than one
//! vector's work, by what looks like several streams of octets or like words.

use crate::limits::DATA_LINE_OCTETS_MAX;

/// Octets that are looked at together: so many that two chunks, each with a line end, have no line that is too long, and one more
/// than its parts have, as each octet is looked at beside the one before it.
pub(crate) const CHUNK_OCTETS: usize = PARTS * PART_OCTETS + 1;
const PARTS: usize = 4;
/// Some vectors.
const PART_OCTETS: usize = 7 * 16;
const _: () = assert!(2 * CHUNK_OCTETS <= DATA_LINE_OCTETS_MAX);

/// Whether a chunk has no octet that means anything but itself: each CR and LF is of a CRLF, no line starts with a dot, no
/// NUL, and a line ends in it, so that none can be too long. One pass without a branch, so that it is done many octets at
/// a time, and of all parts at once. By itself, as the loop is twice as fast where nothing else wants registers.
#[inline(never)]
pub(crate) fn is_plain(before: u8, chunk: &[u8; CHUNK_OCTETS]) -> bool {
    let is_odd = |before: u8, octet: u8| {
        (octet == 0) | ((octet == b'\n') != (before == b'\r')) | ((before == b'\n') & (octet == b'.'))
    };
    let (mut odd, mut line_ends) = (is_odd(before, chunk[0]), chunk[0] == b'\n');
    let (parts, _) = chunk.as_chunks::<PART_OCTETS>();
    let (next, _) = chunk[1..].as_chunks::<PART_OCTETS>();
    for at in 0..PART_OCTETS {
        for part in 0..PARTS {
            odd |= is_odd(parts[part][at], next[part][at]);
            line_ends |= next[part][at] == b'\n';
        }
    }
    line_ends && !odd
}

/// Octets that a turn of a loop looks at.
const TURN_OCTETS: usize = 64;

/// Clears the high-order bit of every octet, and tells whether that made a CR, an LF or a NUL.
///
/// "Each character is transmitted as an 8-bit byte with the high-order bit cleared to zero": the specification, and RFC
/// 821 appendix, for sessions greeted by HELO.
#[inline(never)]
pub(crate) fn clear_high_bits(octets: &mut [u8]) -> bool {
    let (turns, rest) = octets.as_chunks::<TURN_OCTETS>();
    let words = |turn: &[u8; TURN_OCTETS], all| {
        turn.as_chunks().0.iter().fold(all, |all, word| all | u64::from_ne_bytes(*word))
    };
    if turns.iter().fold(0, |all, turn| words(turn, all)).to_ne_bytes().is_ascii() && rest.is_ascii() {
        return false;
    }
    let mut makes_control = false;
    for octet in octets {
        makes_control |= matches!(*octet, 0x80 | 0x8a | 0x8d);
        *octet &= 0x7f;
    }
    makes_control
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_bits() {
        let mut octets = *b"a\xe9\x7f";
        assert!(!clear_high_bits(&mut octets));
        assert_eq!(&octets, b"a\x69\x7f");
        // Wherever it is among those that are looked at together.
        for at in 0..200 {
            let mut octets = [b'a'; 200];
            octets[at] = 0xe9;
            assert!(!clear_high_bits(&mut octets));
            assert_eq!((octets[at], octets.is_ascii()), (0x69, true));
        }
        for control in [0x80, 0x8a, 0x8d] {
            assert!(clear_high_bits(&mut [control]));
        }
    }
}
