//! The component that the server carries, compiled once for all tests of a process.

use mailcell::cell::{self, Engine, Generation};
use mailcell::swap::prove::in_a_cell;
use mailcell_conformance::host::Opened;
use mailcell_core::Config;
use std::sync::LazyLock;

/// The component as a generation.
pub static GENERATION: LazyLock<Generation> = LazyLock::new(|| {
    let engine = Engine::new(256).expect("there is address space");
    Generation::from_bytes(&engine, cell::DEFAULT_CORE).expect("the server carries a core")
});

/// Opens a session in a cell of its own.
///
/// # Errors
/// When the core fails.
pub fn open(config: &Config) -> Opened {
    in_a_cell(&GENERATION, config)
}
