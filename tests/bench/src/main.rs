//! `just bench`: measures the release build beside this program, and prints one table. Each goal is a ratio of two figures
//! taken in turn in one run, as absolute figures move with the machine.

mod connections;
mod held;
mod large;
mod memory;
mod served;
mod single;
mod swap;
mod table;
mod throughput;
mod tools;

use std::process::ExitCode;
use table::{Row, print};
use tools::Tools;

/// What measures rows of the table.
type Measure = fn(&Tools) -> Result<Vec<Row>, String>;

const MEASURES: &[(&str, Measure)] = &[
    ("discard", throughput::discard),
    ("sqlite", throughput::sqlite),
    ("mariadb", throughput::mariadb),
    ("native", throughput::native),
    ("thousand", throughput::thousand),
    ("single", single::measure),
    ("large", large::measure),
    ("connect", connections::measure),
    ("live", memory::live),
    ("idle", memory::idle),
    ("in-memory", memory::in_memory),
    ("swap", swap::measure),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        // What this program starts of itself.
        Some("serve") => return served::main(&arguments[1..]),
        Some("hold") => return held::main(&arguments[1..]),
        _ => {}
    }
    match measure(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures the rows that are named, or all; tells whether every goal holds.
fn measure(arguments: &[String]) -> Result<bool, String> {
    if let Some(unknown) = arguments.iter().find(|wanted| MEASURES.iter().all(|(name, _)| name != wanted)) {
        let names: Vec<_> = MEASURES.iter().map(|(name, _)| *name).collect();
        return Err(format!("there is no row {unknown}; the rows are {}", names.join(", ")));
    }
    let tools = Tools::find()?;
    let mut rows = Vec::new();
    for (name, measure) in
        MEASURES.iter().filter(|(name, _)| arguments.is_empty() || arguments.iter().any(|a| a == name))
    {
        eprintln!("measuring {name}");
        match measure(&tools) {
            Ok(measured) => rows.extend(measured),
            Err(error) => rows.push(Row::failed(name, &error)),
        }
    }
    Ok(print(&rows))
}
