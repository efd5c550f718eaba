//! Puts the transcripts of `tests/sessions` into the program, so that a server can prove a core with them.

use std::path::Path;
use std::{env, fs};

fn main() {
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let sessions = Path::new(&manifest).parent().expect("it lies in tests/").join("sessions");
    println!("cargo::rerun-if-changed={}", sessions.display());
    let entries = fs::read_dir(&sessions).expect("tests/sessions is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a directory can be read").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let rows = paths.iter().map(|path| {
        let name = path.file_stem().expect("a file has a name").to_string_lossy();
        format!("    ({name:?}, include_str!({:?})),\n", path.display().to_string())
    });
    let list = format!("&[\n{}]\n", rows.collect::<String>());
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("sessions.rs");
    fs::write(out, list).expect("the build directory can be written");
}
