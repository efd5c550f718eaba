//! What a proof costs, whatever the core does.

use crate::{PROGRAM, Setup};
use mailcell_tests::cores;
use mailcell_tests::program::{command, run};
use std::path::Path;

#[test]
fn a_core_that_talks_without_end_is_refused_in_few_words() {
    let setup = Setup::start(&[]);
    let file = setup.file("talkative.wasm", &cores::talkative());
    let refusal = setup.refusal(&file, &[]);
    assert!(refusal.contains("it is not safe: ") && refusal.contains(": it says more than 10"), "{refusal}");
    let peak = setup.server.peak_octets();
    assert!(peak < 512 << 20, "{peak} octets of memory");

    let checked = run(command(Path::new(PROGRAM), &["core", "check", file.to_str().unwrap()]), b"");
    assert_eq!(checked.status.code(), Some(1));
    let text = checked.text();
    let shown: Vec<_> = text.lines().filter(|line| line.starts_with("# ")).collect();
    let is_cut = |line: &&str| line.ends_with(": says it differently, which never refuses, more than is shown");
    assert!(shown.iter().any(is_cut), "{shown:#?}");
    assert!(checked.stdout.len() < 8 << 20, "{} octets", checked.stdout.len());
}
