//! `just bench`: measures the release build beside this program, and prints one table.

mod swap;

use std::path::PathBuf;

/// A row's name, and what measures it.
type Row = (&'static str, fn(&Programs) -> Result<Vec<String>, String>);

const ROWS: &[Row] = &[("swap", swap::run)];

/// What is measured.
struct Programs {
    mailcell: PathBuf,
}

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).collect();
    let here = std::env::current_exe().expect("a program has a path");
    let programs = Programs { mailcell: here.with_file_name("mailcell") };
    assert!(programs.mailcell.exists(), "{} is not built: use `just bench`", programs.mailcell.display());
    for (name, run) in ROWS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|row| row == name)) {
        match run(&programs) {
            Ok(lines) => lines.iter().for_each(|line| println!("{name:8}  {line}")),
            Err(error) => println!("{name:8}  failed: {error}"),
        }
    }
}
