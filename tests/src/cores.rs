//! Cores that fit the contract and do nothing good, made from the contract itself.

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

/// A core whose every export traps.
pub fn trapping() -> Vec<u8> {
    encode(CONTRACT, |module| module)
}

/// A core that asks for one function more than `mail-store` has.
pub fn importing_more() -> Vec<u8> {
    let wit = CONTRACT.replace("    append: func", "    run-sql: func(sql: string);\n    append: func");
    assert_ne!(wit, CONTRACT);
    encode(&wit, |module| module)
}

/// A core whose every export loops for ever.
pub fn spinning() -> Vec<u8> {
    encode(CONTRACT, |module| {
        let text = wasmprinter::print_bytes(module).expect("a module can be printed");
        wat::parse_str(text.replace("unreachable", "(loop (br 0)) unreachable")).expect("it is a module still")
    })
}

const CONTRACT: &str = include_str!("../../wit/mailcell.wit");

fn encode(wit: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("mailcell.wit", wit).expect("the contract can be read");
    let world = resolve.select_world(&[package], Some("core")).expect("it has the world `core`");
    let mut module = change(dummy_module(&resolve, world, ManglingAndAbi::Standard32));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("it can be embedded");
    let component = ComponentEncoder::default().module(&module).and_then(|encoder| encoder.encode());
    component.expect("it is a component")
}
