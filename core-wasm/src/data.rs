//! Message octets after DATA: where they end, which dots are stuffed, and what is wrong with them.
//!
//! RFC 5321 4.5.2 and 2.3.8: the end is CRLF "." CRLF and nothing else, a line ends at CRLF and nowhere else, however
//! the octets are cut into blocks.

use crate::limits::DATA_LINE_OCTETS_MAX;
use crate::octets::{CHUNK_OCTETS, is_plain};
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
        let mut plain_until = 0;
        while let Some(&octet) = block.get(scan.consumed) {
            if scan.consumed >= plain_until {
                self.read_plain(block, &mut scan);
                // What stopped it lies within the chunk that follows.
                plain_until = scan.consumed + CHUNK_OCTETS;
                continue;
            }
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

    /// Reads chunk by chunk while there is nothing to look at: of most messages, nearly all. Wherever a chunk has something
    /// else, the octets go one by one.
    fn read_plain(&mut self, block: &mut [u8], scan: &mut Scan) {
        let start = scan.consumed;
        let mut before = match self.position {
            Position::LineStart => b'\n',
            Position::Text => b' ',
            Position::Cr => b'\r',
            Position::Dot | Position::DotCr => return,
        };
        if self.line_octets + CHUNK_OCTETS > DATA_LINE_OCTETS_MAX {
            return;
        }
        let (chunks, _) = block[start..].as_chunks();
        let plain = chunks.iter().take_while(|chunk| {
            let is_plain = is_plain(before, chunk);
            before = chunk[CHUNK_OCTETS - 1];
            is_plain
        });
        let end = start + plain.count() * CHUNK_OCTETS;
        let Some(last_line_end) = memchr::memrchr(b'\n', &block[start..end]) else { return };
        self.line_octets = end - (start + last_line_end + 1);
        self.position = match block[end - 1] {
            b'\n' => Position::LineStart,
            b'\r' => Position::Cr,
            _ => Position::Text,
        };
        keep(block, &mut scan.kept, start..end);
        scan.consumed = end;
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

/// Looks at the octets of chunks as [`DataReader`] does, but for dots and an end: they have neither.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ChunkReader {
    /// Whether the last octet was a CR.
    cr: bool,
    line_octets: usize,
    faults: Faults,
}

impl ChunkReader {
    pub(crate) fn faults(&self) -> Faults {
        self.faults
    }

    /// Whether the octets so far end in a CR, which is a bare one if no more come.
    pub(crate) fn ends_in_cr(&self) -> bool {
        self.cr
    }

    pub(crate) fn read(&mut self, octets: &[u8]) {
        let mut start = 0;
        for at in memchr::memchr3_iter(b'\r', b'\n', 0, octets) {
            let ends_line = octets[at] == b'\n' && self.cr && at == start;
            self.faults.unclean |= (self.cr || octets[at] != b'\r') && !ends_line;
            self.count(at + 1 - start);
            if ends_line {
                self.line_octets = 0;
            }
            self.cr = octets[at] == b'\r';
            start = at + 1;
        }
        if start < octets.len() {
            self.faults.unclean |= std::mem::take(&mut self.cr);
            self.count(octets.len() - start);
        }
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

    /// Octets one by one never make a chunk; whatever is read chunk by chunk must come out the same.
    #[test]
    fn chunks_make_no_difference() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let odd = ["\r", "\n", "\0", "\r\n.", "\r\n..\r\n", "\r\n.\r", "\r\n.\r\n", ".", "\r\r\n", "\n\r"];
        for _ in 0..400 {
            let (rarity, line) = (1 + random(60), [20, 70, 400, 993, 998, 1001][random(6) as usize]);
            let mut input = String::new();
            while input.len() < 6000 {
                input.extend(std::iter::repeat_n('x', random(2) as usize + line));
                input += "\r\n";
                if random(rarity) == 0 {
                    input += odd[random(odd.len() as u64) as usize];
                }
            }
            let one_by_one = read(input.as_bytes(), 1);
            for size in [447, 448, 449, 1500, 4096, 9000] {
                assert_eq!(read(input.as_bytes(), size), one_by_one, "blocks of {size}: {input:?}");
            }
        }
    }

    #[test]
    fn chunks_hold_what_lines_hold_but_for_dots() {
        let long = "x".repeat(1000);
        for (octets, is_unclean, is_long) in [
            ("", false, false),
            ("a\r\n.\r\n..b\r\n\r\nc", false, false),
            ("\r\n", false, false),
            ("a\rb", true, false),
            ("\r\r\n", true, false),
            ("a\nb", true, false),
            ("\n", true, false),
            ("a\r\0\n", true, false),
            ("\0", true, false),
            (&long, false, false),
            (&format!("{long}x"), false, true),
            (&format!("{}\r\n{}", &long[2..], &long), false, false),
            (&format!("{}\r\n", &long[1..]), false, true),
        ] {
            for size in 1..=octets.len().max(1) {
                let mut reader = ChunkReader::default();
                octets.as_bytes().chunks(size).for_each(|block| reader.read(block));
                let expected = Faults { unclean: is_unclean, long_line: is_long };
                assert_eq!((reader.faults(), reader.ends_in_cr()), (expected, false), "{octets:?} by {size}");
            }
        }
        let mut reader = ChunkReader::default();
        reader.read(b"a\r");
        assert!(reader.ends_in_cr() && !reader.faults().unclean);
    }
}
