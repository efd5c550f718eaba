//! Every transcript against the component, in a cell of the server's own; and what the shipped bytes are.

use libtest_mimic::{Arguments, Failed, Trial};
use mailcell::cell::{self, CoreError, Engine, Generation};
use mailcell_conformance::check::{self, SESSIONS};
use mailcell_conformance::host::ScriptedHost;
use mailcell_tests::component::{self, GENERATION};
use mailcell_tests::cores;
use std::ops::Add;

fn main() {
    let trials =
        SESSIONS.iter().map(|(name, text)| Trial::test(*name, move || Ok(check::check(name, text, &component::open)?)));
    let others = [
        Trial::test("the shipped component imports mail-store and nothing else", imports),
        Trial::test("a core that imports more is refused", foreign_import),
        Trial::test("what is no component is refused", no_component),
        Trial::test("what cannot be started is refused", no_start),
        Trial::test("who calls the host without end is trapped", calls_without_end),
        Trial::test("a session at every limit fits into a cell", every_limit),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.chain(others).collect()).exit();
}

/// Looks at the bytes with a parser of its own, not with the code that refuses.
fn imports() -> Result<(), Failed> {
    let mut names = Vec::new();
    let mut depth = 0;
    for payload in wasmparser::Parser::new(0).parse_all(cell::DEFAULT_CORE) {
        match payload? {
            wasmparser::Payload::ModuleSection { .. } | wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth -= 1,
            wasmparser::Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    assert_eq!(names, ["mailcell:smtp/mail-store@0.3.0"]);
    assert_eq!(GENERATION.imports(), names);
    Ok(())
}

fn refusal(text: &str) -> Result<CoreError, Failed> {
    Generation::from_bytes(&Engine::new(1)?, &wat::parse_str(text)?).err().ok_or_else(|| "it was not refused".into())
}

fn foreign_import() -> Result<(), Failed> {
    let clock = r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance)))"#;
    assert!(matches!(refusal(clock)?, CoreError::Import(name) if name == "wasi:clocks/wall-clock@0.2.0"));
    let more = Generation::from_bytes(&Engine::new(1)?, &cores::importing_more()).err();
    assert!(matches!(&more, Some(CoreError::Contract(why)) if why.contains("run-sql")), "{more:?}");
    Ok(())
}

fn no_component() -> Result<(), Failed> {
    assert!(matches!(refusal("(module)")?, CoreError::Module));
    assert!(matches!(refusal("(component)")?, CoreError::Export(_)));
    let engine = Engine::new(1)?;
    assert!(matches!(Generation::from_bytes(&engine, b"not wasm"), Err(CoreError::NotWasm)));
    let cut = &cell::DEFAULT_CORE[..cell::DEFAULT_CORE.len() / 2];
    assert!(matches!(Generation::from_bytes(&engine, cut), Err(CoreError::NotAComponent(_))));
    let large = vec![0; cell::limits::COMPONENT_OCTETS_MAX as usize + 1];
    assert!(matches!(Generation::from_bytes(&engine, &large), Err(CoreError::TooLarge)));
    Ok(())
}

fn no_start() -> Result<(), Failed> {
    let engine = Engine::new(1)?;
    let refusal = |bytes: &[u8]| Generation::from_bytes(&engine, bytes).err().map(|error| error.to_string());
    let start = "it cannot be started: the core trapped: ";
    for (core, why) in [
        (cores::spinning_at_start(), start),
        (cores::spinning(), start),
        (cores::trapping(), start),
        (cores::trapping_loudly(), start),
        (cores::hungry(), "not a WebAssembly component that can be used: "),
    ] {
        let refusal = refusal(&core).unwrap_or_default();
        assert!(refusal.starts_with(why), "{why}: {refusal}");
        assert!(refusal.len() < 3_000 && !refusal.contains('\x1b'), "{} octets", refusal.len());
    }
    assert!(matches!(Generation::from_bytes(&engine, &cores::huge()), Err(CoreError::TooLarge)));
    Ok(())
}

/// Time is looked at where there are loops and functions of the core's own, and such a core needs neither.
fn calls_without_end() -> Result<(), Failed> {
    let refusal = Generation::from_bytes(&Engine::new(1)?, &cores::calling(20_000)).err();
    let refusal = refusal.map(|error| error.to_string()).unwrap_or_default();
    assert!(refusal.starts_with("it cannot be started: the core trapped: "), "{refusal}");
    assert!(refusal.ends_with("orders without end"), "{refusal}");
    Ok(())
}

/// The longest paths, the most recipients, the largest header section, all of it subject: within a cell's memory, which
/// the cell enforces.
fn every_limit() -> Result<(), Failed> {
    let config = [("name".to_owned(), "mx.test".to_owned())];
    let mut host = ScriptedHost::open(&component::open, &config);
    let path = format!("{}@{}", "l".repeat(64), "d".repeat(189));
    host.input(format!("EHLO {}\r\nMAIL FROM:<{path}>\r\n", "c".repeat(255)).as_bytes());
    host.input(format!("RCPT TO:<{path}>\r\n").repeat(100).as_bytes());
    host.input(b"DATA\r\n");
    assert!(host.is_reading_data());
    let word = " =?gb18030?B?1tC5+g==?=\r\n";
    let header = format!("Subject:{}\r\n", word.repeat((256 << 10) / word.len() - 1));
    host.input(header.as_bytes());
    host.input("x".repeat(998).add("\r\n").repeat(24_000).as_bytes());
    host.input(b".\r\n");
    assert!(host.awaiting().is_some(), "the message is to be stored");
    Ok(())
}
