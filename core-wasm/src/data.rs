//! Message octets after DATA: where they end, which dots are stuffed, and what is wrong with them.
//!
//! RFC 5321 4.5.2 and 2.3.8: the end is CRLF "." CRLF and nothing else, a line ends at CRLF and nowhere else, however
//! the octets are cut into blocks.

use crate::limits::DATA_LINE_OCTETS_MAX;
use serde::{Deserialize, Serialize};

/// What is wrong with a message so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Faults {
    /// A line longer than [`DATA_LINE_OCTETS_MAX`].
    pub(crate) long_line: bool,
    /// A bare CR, a bare LF or a NUL.
    pub(crate) unclean: bool,
}

/// What became of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Octets that were read.
    pub(crate) consumed: usize,
    /// How many octets at the start of the block are message octets now.
    pub(crate) kept: usize,
    /// Whether a CR held back from the block before goes in front of them.
    pub(crate) carried_cr: bool,
    /// Whether this was the end of data.
    pub(crate) ended: bool,
}

/// What was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Position {
    /// CRLF, or the command line of DATA itself.
    LineStart,
    /// A dot at the start of a line, held back.
    Dot,
    /// A dot at the start of a line and a CR, both held back.
    DotCr,
    /// Anything else inside a line.
    Text,
    /// A CR inside a line.
    Cr,
}

/// Reads message octets block by block, in place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DataReader {
    position: Position,
    /// Octets of the line so far, the stuffed dot not counted.
    line_octets: usize,
    faults: Faults,
}

impl DataReader {
    pub(crate) fn new() -> DataReader {
        DataReader { position: Position::LineStart, line_octets: 0, faults: Faults::default() }
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults
    }

    /// Reads a block up to its end or to the end of data, and moves the message octets to its start.
    pub(crate) fn read(&mut self, block: &mut [u8]) -> Scan {
        let mut scan = Scan::default();
        while let Some(&octet) = block.get(scan.consumed) {
            match (self.position, octet) {
                (Position::LineStart, b'.') => {
                    self.position = Position::Dot;
                    scan.consumed += 1;
                }
                (Position::Dot, b'\r') => {
                    self.position = Position::DotCr;
                    scan.consumed += 1;
                }
                (Position::DotCr, b'\n') => {
                    scan.consumed += 1;
                    scan.ended = true;
                    return scan;
                }
                (Position::DotCr, _) => {
                    // ". CR" was no end: the dot is a stuffed one, the CR a bare one.
                    self.faults.unclean = true;
                    match scan.consumed {
                        0 => scan.carried_cr = true,
                        _ => keep(block, &mut scan.kept, scan.consumed - 1..scan.consumed),
                    }
                    self.count(1);
                    self.position = Position::Text;
                }
                (Position::Cr, b'\n') => {
                    keep(block, &mut scan.kept, scan.consumed..scan.consumed + 1);
                    scan.consumed += 1;
                    self.count(1);
                    self.line_octets = 0;
                    self.position = Position::LineStart;
                }
                (Position::Cr, _) => {
                    self.faults.unclean = true;
                    self.position = Position::Text;
                }
                (Position::LineStart | Position::Dot | Position::Text, _) => self.read_text(block, &mut scan),
            }
        }
        scan
    }

    /// Reads inside a line, up to and with the next CR.
    fn read_text(&mut self, block: &mut [u8], scan: &mut Scan) {
        let start = scan.consumed;
        let mut end = start;
        self.position = Position::Text;
        while let Some(found) = memchr::memchr3(b'\r', b'\n', 0, &block[end..]) {
            end += found + 1;
            if block[end - 1] == b'\r' {
                self.position = Position::Cr;
                break;
            }
            self.faults.unclean = true;
        }
        if self.position == Position::Text {
            end = block.len();
        }
        keep(block, &mut scan.kept, start..end);
        self.count(end - start);
        scan.consumed = end;
    }

    fn count(&mut self, octets: usize) {
        self.line_octets += octets;
        self.faults.long_line |= self.line_octets > DATA_LINE_OCTETS_MAX;
    }
}

fn keep(block: &mut [u8], kept: &mut usize, range: std::ops::Range<usize>) {
    let octets = range.len();
    if range.start != *kept {
        block.copy_within(range, *kept);
    }
    *kept += octets;
}

/// Clears the high-order bit of every octet, and tells whether that made a CR, an LF or a NUL.
///
/// "Each character is transmitted as an 8-bit byte with the high-order bit cleared to zero": the specification, and RFC
/// 821 appendix, for sessions greeted by HELO.
pub(crate) fn clear_high_bits(octets: &mut [u8]) -> bool {
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

    /// Reads `input` cut into blocks of `size`, and gives message, faults and what was left.
    fn read(input: &[u8], size: usize) -> (Vec<u8>, Faults, Option<usize>) {
        let mut reader = DataReader::new();
        let mut message = Vec::new();
        let mut at = 0;
        while at < input.len() {
            let mut block = input[at..(at + size).min(input.len())].to_vec();
            let scan = reader.read(&mut block);
            message.extend(scan.carried_cr.then_some(b'\r'));
            message.extend(&block[..scan.kept]);
            at += scan.consumed;
            if scan.ended {
                return (message, reader.faults(), Some(input.len() - at));
            }
            assert_eq!(scan.consumed, block.len());
        }
        (message, reader.faults(), None)
    }

    #[track_caller]
    fn check(input: &str, message: &str, faults: &str, left: Option<usize>) {
        for size in 1..=input.len() {
            let (got, got_faults, got_left) = read(input.as_bytes(), size);
            assert_eq!(String::from_utf8(got).unwrap(), message, "blocks of {size}");
            assert_eq!(
                (got_faults.long_line, got_faults.unclean),
                (faults.contains('l'), faults.contains('u')),
                "{size}"
            );
            assert_eq!(got_left, left, "blocks of {size}");
        }
    }

    #[test]
    fn the_end_is_crlf_dot_crlf_and_nothing_else() {
        check(".\r\n", "", "", Some(0));
        check("a\r\n.\r\nQUIT\r\n", "a\r\n", "", Some(6));
        check("a\r\n..\r\n.\r\n", "a\r\n.\r\n", "", Some(0));
        check("a\r\n.b\r\n...\r\n.\r\n", "a\r\nb\r\n..\r\n", "", Some(0));
        check("a\r\n.", "a\r\n", "", None);
        check("a\n.\n\r\n.\r\n", "a\n.\n\r\n", "u", Some(0));
        check("a\r\n.\n\r\n.\r\n", "a\r\n\n\r\n", "u", Some(0));
        check("a\r.\r\nb\r\n.\r\n", "a\r.\r\nb\r\n", "u", Some(0));
        check("a\r\n.\r\r\n.\r\n", "a\r\n\r\r\n", "u", Some(0));
        check("a\r\n.\rb\r\n.\r\n", "a\r\n\rb\r\n", "u", Some(0));
        check("a\0\r\n.\r\n", "a\0\r\n", "u", Some(0));
        check("a\r\r\n.\r\n", "a\r\r\n", "u", Some(0));
    }

    #[test]
    fn a_line_holds_a_thousand_octets_beside_its_stuffed_dot() {
        let line = "x".repeat(997);
        check(&format!("..{line}\r\n.\r\n"), &format!(".{line}\r\n"), "", Some(0));
        check(&format!("{line}x\r\n.\r\n"), &format!("{line}x\r\n"), "", Some(0));
        check(&format!("{line}xx\r\n.\r\n"), &format!("{line}xx\r\n"), "l", Some(0));
    }

    #[test]
    fn high_bits() {
        let mut octets = *b"a\xe9\x7f";
        assert!(!clear_high_bits(&mut octets));
        assert_eq!(&octets, b"a\x69\x7f");
        for control in [0x80, 0x8a, 0x8d] {
            assert!(clear_high_bits(&mut [control]));
        }
    }
}
