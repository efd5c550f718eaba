//! What commands print.

use std::io::{self, BufWriter, Write};

/// Standard output, for a command that writes a lot.
pub(super) fn stdout() -> impl Write {
    BufWriter::new(io::stdout().lock())
}

/// Whether somebody stopped reading what was printed, as `head` does.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints columns that are as wide as their widest cell, the last one excepted. Nothing in a cell can steer a terminal.
pub(super) fn print_table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> anyhow::Result<()> {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let mut widths = heading.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = stdout();
    for row in std::iter::once(heading.map(str::to_owned)).chain(rows) {
        let line: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(out.flush()?)
}

/// Prints an array of objects. Nothing in it can steer a terminal.
pub(super) fn print_json(rows: &[serde_json::Value]) -> anyhow::Result<()> {
    let mut out = stdout();
    writeln!(out, "{}", json(rows)?)?;
    Ok(out.flush()?)
}

/// JSON escapes the controls of ASCII by itself, but for DEL, and not those behind; all of them are in texts.
fn json(rows: &[serde_json::Value]) -> anyhow::Result<String> {
    let mut text = String::new();
    for c in serde_json::to_string_pretty(rows)?.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => text += &format!("\\u{:04x}", u32::from(c)),
            c => text.push(c),
        }
    }
    Ok(text)
}

/// Prints a line.
pub(super) fn print_line(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// A text without control characters, and without those that turn the direction of what is behind them.
pub(super) fn printable(text: &str) -> String {
    let turns =
        |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let escape = |c: char| if c.is_control() || turns(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// A database's URL as errors and logs may show it. Of a mistyped one, in which the password may be anywhere, that is the scheme.
pub(super) fn without_password(url: &str) -> String {
    if url.starts_with("sqlite:") || url.starts_with("discard:") {
        return url.to_owned();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.split_once(':').map_or_else(|| "a database".to_owned(), |(scheme, _)| format!("{scheme}:"));
    };
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    let is_port = |text: &str| text.split('/').next().unwrap_or_default().bytes().all(|octet| octet.is_ascii_digit());
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split([':', '/']).next().unwrap_or_default();
            format!("{scheme}://{user}@{host}")
        }
        None if rest.rsplit_once(':').is_none_or(|(_, behind)| is_port(behind)) => format!("{scheme}://{rest}"),
        None => format!("{scheme}://"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("mysql://u:p@ss@h/d"), "mysql://u@h/d");
        assert_eq!(without_password("mysql://u@h/d"), "mysql://u@h/d");
        assert_eq!(without_password("sqlite:a@b"), "sqlite:a@b");
        assert_eq!(without_password("mysql://h:3306/d"), "mysql://h:3306/d");
        // Mistyped.
        assert_eq!(without_password("mysql:/u:secret@h/d"), "mysql:");
        assert_eq!(without_password("u;secret@h/d"), "a database");
        assert_eq!(without_password("mysql://u:secret#h/d"), "mysql://");
        assert_eq!(without_password("mysql://u/secret@h/d?password=secret"), "mysql://u@h/d");
    }

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(printable("a\x1b[31mé\u{202e}b"), "a\\u{1b}[31mé\\u{202e}b");
        let rows = [serde_json::json!("\x1b\u{7f}\u{9b}31mé\u{a0}")];
        let text = json(&rows).unwrap();
        assert_eq!(text, "[\n  \"\\u001b\\u007f\\u009b31mé\u{a0}\"\n]");
        assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap(), rows);
    }
}
