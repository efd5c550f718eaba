//! Cores for tests: those of `tests/cores`, built when a test needs them, and some made from the contract itself that fit
//! it and do nothing good.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

/// One build at a time in this process; cargo sees to the others.
static BUILDING: Mutex<()> = Mutex::new(());

/// The usual protocol with another greeting and another help.
pub fn variant() -> Vec<u8> {
    build("variant", "")
}

/// The same, and NOOP is answered with another code.
pub fn different() -> Vec<u8> {
    build("variant", "different")
}

/// The same as [`variant`], and no other core reads its sessions.
pub fn foreign() -> Vec<u8> {
    build("variant", "foreign")
}

/// The same, and each response has as many long lines in front as there may be.
pub fn talkative() -> Vec<u8> {
    build("variant", "talkative")
}

/// SMTP as RFC 821 has it: EHLO is no command.
pub fn rfc821() -> Vec<u8> {
    build("rfc821", "")
}

/// The usual protocol, until a client asks for harm.
pub fn hostile() -> Vec<u8> {
    build("hostile", "")
}

/// Builds a package of `tests/cores` into a component.
fn build(name: &str, features: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = target.join("component");
    let one = BUILDING.lock().expect("a build does not panic");
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["rustc", "--quiet", "--package", &format!("mailcell-core-{name}"), "--lib", "--features", features])
        .args(["--profile", "core", "--target", "wasm32-unknown-unknown", "--crate-type", "cdylib", "--target-dir"])
        .arg(&target)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["--", "-C", "link-arg=-zstack-size=65536", "-C", "target-feature=+simd128"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{name} does not build: {}", String::from_utf8_lossy(&output.stderr));
    let module = target.join(format!("wasm32-unknown-unknown/core/mailcell_core_{name}.wasm"));
    let module = std::fs::read(&module).expect("cargo has built it");
    drop(one);
    component_of(&module)
}

/// A core whose every export traps.
pub fn trapping() -> Vec<u8> {
    encode(CONTRACT, |module| module)
}

/// The same, and its functions have a name that fills and steers terminals.
pub fn trapping_loudly() -> Vec<u8> {
    let name = format!("(@name \"\\1b[31m{}\")", "x".repeat(50_000));
    change_text(|text| text.replace("(func (;", &format!("(func {name} (;")))
}

/// A core that asks for one function more than `mail-store` has.
pub fn importing_more() -> Vec<u8> {
    let wit = CONTRACT.replace("    append: func", "    run-sql: func(sql: string);\n    append: func");
    assert_ne!(wit, CONTRACT);
    encode(&wit, |module| module)
}

/// A core whose every export loops for ever.
pub fn spinning() -> Vec<u8> {
    change_text(|text| text.replace("unreachable", "(loop (br 0)) unreachable"))
}

/// A core that loops for ever before anything is called.
pub fn spinning_at_start() -> Vec<u8> {
    change_text(|text| {
        let end = text.rfind(')').expect("a module ends");
        format!("{}(func $spin (loop (br 0))) (start $spin))", &text[..end])
    })
}

/// A core that hands over a cell's whole memory that often, with no loop and no function of its own between, before it is asked
/// anything.
pub fn calling(times: usize) -> Vec<u8> {
    let text = wasmprinter::print_bytes(encode(CONTRACT, |module| module)).expect("a component can be printed");
    let calls = "(call 7 (i32.const 0) (i32.const 1048576))\n".repeat(times);
    // What fills in the imports of the others has them itself, and runs when there is memory.
    let changed = text.replace("(memory (;0;) 0)", "(memory (;0;) 16)");
    let changed = changed.replace("(start 8)", &format!("(func {calls}) (start 9)"));
    wat::parse_str(changed).expect("it is a component still")
}

/// A core that is twice as large as a component may be, and valid.
pub fn huge() -> Vec<u8> {
    let filler = "x".repeat(16 << 20);
    change_text(|text| {
        let end = text.rfind(')').expect("a module ends");
        format!("{}(@custom \"filler\" \"{filler}\"))", &text[..end])
    })
}

/// A core that wants more memory than a cell has.
pub fn hungry() -> Vec<u8> {
    change_text(|text| {
        assert!(text.contains("(memory (;0;) 0)"), "{text}");
        text.replace("(memory (;0;) 0)", "(memory (;0;) 1000)")
    })
}

const CONTRACT: &str = include_str!("../../wit/mailcell.wit");

fn change_text(change: impl FnOnce(String) -> String) -> Vec<u8> {
    encode(CONTRACT, |module| {
        let text = wasmprinter::print_bytes(module).expect("a module can be printed");
        wat::parse_str(change(text)).expect("it is a module still")
    })
}

fn encode(wit: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("mailcell.wit", wit).expect("the contract can be read");
    let world = resolve.select_world(&[package], Some("core")).expect("it has the world `core`");
    let mut module = change(dummy_module(&resolve, world, ManglingAndAbi::Standard32));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("it can be embedded");
    component_of(&module)
}

fn component_of(module: &[u8]) -> Vec<u8> {
    ComponentEncoder::default().module(module).and_then(|encoder| encoder.encode()).expect("it is a component")
}
