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

/// What went wrong, for a log or an error of one line.
fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
