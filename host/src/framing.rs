//! Lines out of octets. A line ends at CRLF and nowhere else (RFC 5321 2.3.8); one that is too long is dropped in constant
//! memory.

use mailcell_core::command::{Verb, begins_with};

/// What the input holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A line of so many octets, and its CRLF behind it.
    Line(usize),
    /// So many octets are a connection's first ones and start no line of text. They are handed over as they are: the
    /// client speaks another protocol, and may never send a CRLF.
    Foreign(usize),
    /// So many octets end a line that was too long.
    TooLong(usize),
    /// So many octets end a line that was too long and began as one of BDAT.
    LongChunk(usize),
    /// So many octets belong to a line that is too long and has not ended.
    Drop(usize),
    /// Not a whole line.
    Incomplete,
}

/// Finds lines in a connection's input.
#[derive(Debug, Default)]
pub struct Framer {
    /// Whether the first octet has been looked at.
    started: bool,
    /// Whether the first line has ended.
    greeted: bool,
    /// Whether the line is too long and being dropped.
    dropping: bool,
    /// Whether it began as one of BDAT.
    of_chunk: bool,
    /// Octets of the input that are known to hold no LF.
    searched: usize,
}

impl Framer {
    /// Looks at the input. The caller removes what the frame names, a line together with its CRLF, before it asks again.
    pub fn next(&mut self, input: &[u8], octets_max: usize) -> Frame {
        if let (false, Some(first)) = (self.started, input.first()) {
            self.started = true;
            if !first.is_ascii_alphabetic() {
                return Frame::Foreign(1);
            }
        }
        let end = memchr::memchr_iter(b'\n', &input[self.searched..])
            .map(|at| self.searched + at)
            .find(|at| *at > 0 && input[at - 1] == b'\r');
        let Some(end) = end else { return self.unfinished(input, octets_max) };
        self.searched = 0;
        if let Some(method) = self.foreign_method(input).filter(|_| end + 1 > octets_max) {
            return Frame::Foreign(method);
        }
        self.greeted = true;
        if end + 1 > octets_max {
            self.begin_to_drop(input);
        }
        match (std::mem::take(&mut self.dropping), self.of_chunk) {
            (false, _) => Frame::Line(end - 1),
            (true, false) => Frame::TooLong(end + 1),
            (true, true) => Frame::LongChunk(end + 1),
        }
    }

    /// A first line that is too long to be handed over may be a browser's, made to carry commands behind it: its
    /// method tells.
    fn foreign_method(&self, input: &[u8]) -> Option<usize> {
        let methods = [&b"GET "[..], b"POST ", b"CONNECT "];
        methods.iter().find(|method| !self.greeted && input.starts_with(method)).map(|method| method.len())
    }

    fn begin_to_drop(&mut self, input: &[u8]) {
        if !self.dropping {
            (self.dropping, self.of_chunk) = (true, begins_with(input, Verb::Bdat));
        }
    }

    fn unfinished(&mut self, input: &[u8], octets_max: usize) -> Frame {
        if input.len() >= octets_max {
            self.begin_to_drop(input);
        }
        if !self.dropping {
            // The last octet may be the CR of a CRLF to come.
            self.searched = input.len();
            return Frame::Incomplete;
        }
        self.searched = 0;
        if let Some(method) = self.foreign_method(input) {
            return Frame::Foreign(method);
        }
        self.greeted = true;
        match input.len() - usize::from(input.ends_with(b"\r")) {
            0 => Frame::Incomplete,
            octets => Frame::Drop(octets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in blocks of `size` and gives what comes out.
    fn frames(input: &str, octets_max: usize, size: usize) -> Vec<String> {
        let (mut framer, mut buffer, mut frames) = (Framer::default(), Vec::new(), Vec::new());
        for block in input.as_bytes().chunks(size) {
            buffer.extend_from_slice(block);
            loop {
                let (frame, octets) = match framer.next(&buffer, octets_max) {
                    Frame::Line(octets) => (Some(str::from_utf8(&buffer[..octets]).unwrap().to_owned()), octets + 2),
                    Frame::Foreign(octets) => (Some("foreign".to_owned()), octets),
                    Frame::TooLong(octets) => (Some("too long".to_owned()), octets),
                    Frame::LongChunk(octets) => (Some("long chunk".to_owned()), octets),
                    Frame::Drop(octets) => (None, octets),
                    Frame::Incomplete => break,
                };
                frames.extend(frame);
                buffer.drain(..octets);
            }
            assert!(buffer.len() < octets_max, "what is kept is bounded");
        }
        frames
    }

    #[track_caller]
    fn check(input: &str, expected: &[&str]) {
        for size in 1..=input.len() {
            assert_eq!(frames(input, 8, size), expected, "blocks of {size}");
        }
    }

    #[test]
    fn lines_end_at_crlf() {
        check("NOOP\r\nQUIT\r\n", &["NOOP", "QUIT"]);
        check("A\nB\r\n", &["A\nB"]);
        check("A\r\r\n", &["A\r"]);
        check("A\n\r\n\r\n", &["A\n", ""]);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_to_its_end() {
        check("123456\r\n", &["foreign", "23456"]);
        check("A23456\r\nB\r\n", &["A23456", "B"]);
        check("A234567\r\nB\r\n", &["too long", "B"]);
        check("A23456789abcdef\nghi\r\nB\r\n", &["too long", "B"]);
    }

    #[test]
    fn of_a_line_that_is_too_long_it_is_known_whether_it_was_one_of_bdat() {
        check("BDAT 01\r\nBDAT 1\r\n", &["long chunk", "BDAT 1"]);
        check("NOOP\r\nbdat\t000000000\nBDAT 1\r\nA234567\r\n", &["NOOP", "long chunk", "too long"]);
        check("BDATA 01\r\nA23456789 BDAT 1\r\n", &["too long", "too long"]);
    }

    #[test]
    fn another_protocol_is_seen_at_its_first_octet() {
        check("\x16\x03\x01", &["foreign"]);
        assert_eq!(frames("POST /aaaaaaaaaaa\r\n", 8, 1)[0], "foreign");
        assert_eq!(frames("POST /aaaaaaaaaaa\r\n", 8, 99)[0], "foreign");
        check("A\r\nGET /aaaaaaaa\r\n", &["A", "too long"]);
        check("\r\nNOOP\r\n", &["foreign", "\nNOOP"]);
    }
}
