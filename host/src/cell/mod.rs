//! Cells: a protocol core from bytes to an answer. Only these files know wasmtime, and they trust nothing that a core
//! returns.

mod bindings;
mod component;
mod engine;
mod generation;
mod instance;
pub mod limits;
mod state;
mod stats;
mod step;

pub use engine::{Engine, compile};
pub use generation::{CoreError, Generation, check_kind, digest, read_component};
pub use instance::{Cell, Facts, Fault, Saved};
pub use stats::{Counts, Stats};
pub use step::{Answer, Effects};

/// The component that `core-wasm` was built into with this server.
pub const DEFAULT_CORE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mailcell-core.wasm"));

/// What went wrong, for a log or an error of one line. Names in it are the core's own, so they may be anything, and as long as they
/// like; at the end of it stands why a core trapped.
fn one_line(error: &wasmtime::Error) -> String {
    let words = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    let text: Vec<char> = words.chars().collect();
    let shown = match text.len() > 2 * limits::ERROR_END_CHARACTERS {
        true => {
            let (start, rest) = text.split_at(limits::ERROR_END_CHARACTERS);
            [start, &['…'], &rest[rest.len() - limits::ERROR_END_CHARACTERS..]].concat()
        }
        false => text,
    };
    let escape = |c| if matches!(c, '"' | '\'') { String::from(c) } else { c.escape_debug().to_string() };
    shown.into_iter().map(escape).collect()
}
