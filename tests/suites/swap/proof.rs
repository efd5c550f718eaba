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

#[test]
fn what_a_replay_shows_of_a_core_that_talks_without_end_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, octets: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, octets).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let session = |lines: &str| format!("# A session.\n\nS: 220 mx.test Mailcell ESMTP ready\n{lines}").into_bytes();
    let noops = |count| "C: NOOP\nS: 250 2.0.0 Ok\n".repeat(count);
    let long = write("long.txt", &session(&noops(100)));
    let talkative = write("talkative.wasm", &cores::talkative());
    let replay = |arguments: &[&str]| run(command(Path::new(PROGRAM), &[&["replay", &long], arguments].concat()), b"");
    assert_eq!(replay(&[]).text(), "0 of 1 sessions differ\n");
    let shown = replay(&["--core", &talkative]);
    assert_eq!(shown.status.code(), Some(1));
    let text = shown.text();
    assert!(text.len() < 80 << 10, "{} octets", text.len());
    assert!(text.contains("\n+S: 250-1 abab"), "{text:.1000}");
    let left_out = "\nThe rest of it is left out: 64 KiB are shown, and 10000 lines of a session compared.\n";
    assert!(text.contains(left_out) && text.ends_with("\n1 of 1 sessions differ\n"), "{text:.1000}");
    // Where the first lines are the same, something is said all the same.
    let longer = write("longer.txt", &session(&(noops(6_000) + "C: QUIT\nS: 250 2.0.0 Other\n")));
    let shown = run(command(Path::new(PROGRAM), &["replay", &longer]), b"");
    assert_eq!(shown.text(), format!("{longer}:\n{left_out}\n1 of 1 sessions differ\n"));
}
