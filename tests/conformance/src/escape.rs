//! How octets are written in a transcript.
//!
//! | written | means |
//! |---|---|
//! | `\r` `\n` `\t` `\0` `\\` `\{` `\}` `\xNN` | that octet |
//! | `{text*997}` | the text so many times; escapes may stand in it, braces not |
//! | `{1..100}` | the whole line once for each number, at most one such range a line |
//! | `\` at the end of the line | no CRLF here |
//!
//! Everything else stands for its UTF-8 octets. A line must not end with white space, which nobody sees: `\x20` is seen.

/// A run of one octet this long is written with `*`.
const RUN_OCTETS_MIN: usize = 16;
/// So many lines alike are written as one.
const ALIKE_LINES_MIN: usize = 4;
/// More than any transcript needs; a slip of the pen must not fill the memory.
const REPEAT_MAX: usize = 10_000_000;

/// Reads one written line, which stands for several if there is a range in it; each ends with CRLF unless marked.
///
/// # Errors
/// What is wrong with the line.
pub fn decode_lines(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let (text, line_end) = match ends_without_line_end(text) {
        true => (&text[..text.len() - 1], &b""[..]),
        false => (text, &b"\r\n"[..]),
    };
    let lines = expand_range(text)?;
    lines.iter().map(|line| Ok([&decode(line)?, line_end].concat())).collect()
}

/// An odd number of backslashes at the end: the last one escapes nothing.
fn ends_without_line_end(text: &str) -> bool {
    text.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Gives the line once for each number of its range, or once if it has none.
///
/// # Errors
/// A range that is too large.
pub fn expand_range(text: &str) -> Result<Vec<String>, String> {
    for (at, _) in text.match_indices('{') {
        let Some((range, after)) = text[at + 1..].split_once('}') else { break };
        let Some((Ok(first), Ok(last))) = range.split_once("..").map(|(a, b)| (a.parse(), b.parse::<usize>())) else {
            continue;
        };
        let numbers = first..=last;
        if numbers.is_empty() || last - first >= REPEAT_MAX {
            return Err(format!("a range without numbers or with too many: {{{range}}}"));
        }
        return Ok(numbers.map(|n: usize| format!("{}{n}{after}", &text[..at])).collect());
    }
    Ok(vec![text.to_owned()])
}

/// Reads the octets of a text without ranges.
///
/// # Errors
/// What is wrong with the text.
pub fn decode(text: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => octets.push(decode_escape(&mut rest)?),
            '{' => {
                let end = closing_brace(rest).ok_or("a brace that is not closed; a literal one is \\{")?;
                let (text, times) = rest[..end].rsplit_once('*').ok_or("braces without `*` and a number")?;
                let times: usize = times.parse().map_err(|_| format!("no number of times: {times:?}"))?;
                let unit = decode(text)?;
                if unit.len().saturating_mul(times) > REPEAT_MAX {
                    return Err(format!("too much: {{{}}}", &rest[..end]));
                }
                octets.extend(unit.repeat(times));
                rest = &rest[end + 1..];
            }
            '}' => return Err("a closing brace too many; a literal one is \\}".into()),
            _ => octets.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    Ok(octets)
}

fn closing_brace(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|b| {
        let found = b == b'}' && !escaped;
        escaped = b == b'\\' && !escaped;
        found
    })
}

fn decode_escape(rest: &mut &str) -> Result<u8, String> {
    let (octet, length) = match rest.as_bytes() {
        [b'r', ..] => (b'\r', 1),
        [b'n', ..] => (b'\n', 1),
        [b't', ..] => (b'\t', 1),
        [b'0', ..] => (0, 1),
        [literal @ (b'\\' | b'{' | b'}'), ..] => (*literal, 1),
        [b'x', ..] => {
            let digits = rest.get(1..3).ok_or("\\x needs two digits")?;
            (u8::from_str_radix(digits, 16).map_err(|_| format!("no hexadecimal digits: {digits:?}"))?, 3)
        }
        _ => return Err(format!("no such escape: \\{}", rest.chars().next().unwrap_or(' '))),
    };
    *rest = &rest[length..];
    Ok(octet)
}

/// Writes octets, without a line end.
pub fn encode(octets: &[u8]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while at < octets.len() {
        let run = octets[at..].iter().take_while(|b| **b == octets[at]).count();
        if run >= RUN_OCTETS_MIN {
            text.push_str(&format!("{{{}*{run}}}", encode_octet(octets[at])));
            at += run;
        } else if let Some(letter) = non_ascii_letter(&octets[at..]) {
            text.push(letter);
            at += letter.len_utf8();
        } else {
            text.push_str(&encode_octet(octets[at]));
            at += 1;
        }
    }
    if let Some(line) = text.strip_suffix(' ') {
        return format!("{line}\\x20");
    }
    text
}

/// Only letters are shown as they are: what is invisible, or turns the direction of a line, would deceive a reader.
fn non_ascii_letter(octets: &[u8]) -> Option<char> {
    let first = octets[..octets.len().min(4)].utf8_chunks().next()?.valid().chars().next()?;
    (!first.is_ascii() && first.is_alphanumeric()).then_some(first)
}

fn encode_octet(octet: u8) -> String {
    match octet {
        b'\r' => "\\r".into(),
        b'\n' => "\\n".into(),
        b'\t' => "\\t".into(),
        0 => "\\0".into(),
        b'\\' | b'{' | b'}' => format!("\\{}", char::from(octet)),
        b' '..=b'~' => char::from(octet).to_string(),
        _ => format!("\\x{octet:02x}"),
    }
}

/// Writes octets line by line; a last line without CRLF is marked.
pub fn encode_lines(octets: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = octets;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(encode(&rest[..at]));
        rest = &rest[at + 2..];
    }
    if !rest.is_empty() {
        lines.push(format!("{}\\", encode(rest)));
    }
    lines
}

/// Joins lines that are alike, or that differ by a number that counts up. Gives how many lines each stands for; a
/// line with a range in it stands for one, as the range says the rest.
pub fn join_alike(lines: &[String]) -> Vec<(usize, String)> {
    let mut joined = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let same = lines[at..].iter().take_while(|line| **line == lines[at]).count();
        if same >= ALIKE_LINES_MIN {
            joined.push((same, lines[at].clone()));
            at += same;
        } else if let Some((count, line)) = counted_up(&lines[at..]) {
            joined.push((1, line));
            at += count;
        } else {
            joined.push((1, lines[at].clone()));
            at += 1;
        }
    }
    joined
}

fn counted_up(lines: &[String]) -> Option<(usize, String)> {
    let first = &lines[0];
    if first.contains(['\\', '{']) {
        return None;
    }
    let starts = first
        .char_indices()
        .filter(|(at, c)| c.is_ascii_digit() && !first[..*at].ends_with(|c: char| c.is_ascii_digit()));
    starts.map(|(at, _)| at).find_map(|start| {
        let digits = first[start..].bytes().take_while(u8::is_ascii_digit).count();
        let number: usize =
            first[start..start + digits].parse().ok().filter(|n: &usize| n.to_string().len() == digits)?;
        let (before, after) = (&first[..start], &first[start + digits..]);
        let count = (0..)
            .zip(lines)
            .take_while(|(i, line)| {
                number.checked_add(*i).is_some_and(|number| **line == format!("{before}{number}{after}"))
            })
            .count();
        (count >= ALIKE_LINES_MIN).then(|| (count, format!("{before}{{{number}..{}}}{after}", number + count - 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        decode_lines(text).expect(text).into_iter().map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
    }

    #[test]
    fn a_line_has_its_line_end_unless_marked() {
        assert_eq!(lines("QUIT"), ["QUIT\r\n"]);
        assert_eq!(lines("QUIT\\"), ["QUIT"]);
        assert_eq!(lines("QUIT\\\\"), ["QUIT\\\r\n"]);
        assert_eq!(lines(""), ["\r\n"]);
        assert_eq!(lines("\\"), [""]);
    }

    #[test]
    fn escapes_and_repetition() {
        assert_eq!(decode("a\\r\\n\\t\\0\\\\\\{\\}\\xFf"), Ok(b"a\r\n\t\0\\{}\xff".to_vec()));
        assert_eq!(decode("<{ab*3}{\\xe9*2}{**2}{\\}*1}>"), Ok(b"<ababab\xe9\xe9**}>".to_vec()));
        assert_eq!(lines("u{9..11}{x*2}"), ["u9xx\r\n", "u10xx\r\n", "u11xx\r\n"]);
        for wrong in ["{x*3", "{x}", "{x*}", "{x*y}", "}", "\\q", "\\x1", "\\xgg", "{x*99999999}", "{9..1}"] {
            assert!(decode_lines(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for octets in
            [&b""[..], b"a b ", b"\x00\x01{x}\\\xe9\xc3\xa9\xe2\x80\xae", &[b'x'; 997], &[0xff; 20], b"a\r\nb\r"]
        {
            assert_eq!(decode(&encode(octets)).as_deref(), Ok(octets));
            let lines: Vec<_> = encode_lines(octets).iter().flat_map(|line| decode_lines(line).expect(line)).collect();
            assert_eq!(lines.concat(), octets);
        }
        assert_eq!(encode("caf\u{e9} {x}".as_bytes()), "caf\u{e9} \\{x\\}");
        assert_eq!(encode(&[b'x'; 16]), "{x*16}");
    }

    #[test]
    fn lines_alike_are_joined() {
        let counted: Vec<_> = (1..=5).map(|n| format!("250 <u{n}@mx.test>")).collect();
        assert_eq!(join_alike(&counted), [(1, "250 <u{1..5}@mx.test>".to_owned())]);
        let same = vec!["x".to_owned(); 4];
        assert_eq!(join_alike(&same), [(4, "x".to_owned())]);
        assert_eq!(join_alike(&same[1..]).len(), 3);
    }
}
