//! A generation: what the server makes of one component file.

use super::bindings::{Core, CorePre};
use super::engine::Engine;
use super::limits;
use super::one_line;
use super::state::CellState;
use anyhow::Context;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};

/// The one interface that a core may import.
const IMPORT: &str = "mailcell:smtp/mail-store@0.1.0";
/// The interface that a core must export.
const EXPORT: &str = "mailcell:smtp/session@0.1.0";

/// What sizes of memories are counted in.
const WASM_PAGE_OCTETS: u64 = 64 << 10;

/// Why a file is no core.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// Larger than [`limits::COMPONENT_OCTETS_MAX`].
    #[error("the file has {0} octets; a core has at most {max}", max = limits::COMPONENT_OCTETS_MAX)]
    TooLarge(u64),
    /// Not WebAssembly, or a core module, or one that does not validate.
    #[error("not a WebAssembly component: {0}")]
    NotAComponent(String),
    /// It wants what the world does not grant.
    #[error("it imports `{0}`; a core may import `{IMPORT}` and nothing else")]
    Import(String),
    /// It lacks what the world asks for.
    #[error("it does not export `{EXPORT}`")]
    Export,
    /// Its imports or exports have other types.
    #[error("it does not fit the contract mailcell:smtp@0.1.0: {0}")]
    Contract(String),
    /// It is larger than a cell.
    #[error("it needs {0}, more than a cell has")]
    Resources(String),
}

/// A component that was checked and compiled, ready to be instantiated.
#[derive(Clone)]
pub struct Generation(Arc<Inner>);

struct Inner {
    pre: CorePre<CellState>,
    digest: String,
    octets: u64,
    imports: Vec<String>,
    exports: Vec<String>,
    memory_octets: u64,
}

impl Generation {
    /// Checks and compiles a component. The bytes that were checked are the bytes that run.
    ///
    /// # Errors
    /// One for each thing that can be wrong with a file.
    pub fn from_bytes(engine: &Engine, bytes: &[u8]) -> Result<Generation, CoreError> {
        let octets = bytes.len() as u64;
        if octets > limits::COMPONENT_OCTETS_MAX {
            return Err(CoreError::TooLarge(octets));
        }
        let engine = &engine.wasmtime;
        let component =
            Component::from_binary(engine, bytes).map_err(|error| CoreError::NotAComponent(one_line(&error)))?;
        let component_type = component.component_type();
        let imports: Vec<_> = component_type.imports(engine).map(|(name, _)| name.to_owned()).collect();
        if let Some(foreign) = imports.iter().find(|name| *name != IMPORT) {
            return Err(CoreError::Import(foreign.clone()));
        }
        let exports: Vec<_> = component_type.exports(engine).map(|(name, _)| name.to_owned()).collect();
        if !exports.iter().any(|name| name == EXPORT) {
            return Err(CoreError::Export);
        }
        if let Some(ComponentItem::ComponentInstance(granted)) = component_type.get_import(engine, IMPORT).map(|i| i.ty)
        {
            let resource = granted.exports(engine).find(|(_, item)| matches!(item.ty, ComponentItem::Resource(_)));
            if let Some((name, _)) = resource {
                return Err(CoreError::Contract(format!("it has the resource `{name}`")));
            }
        }
        let memory_octets = check_resources(&component)?;
        let mut linker = Linker::<CellState>::new(engine);
        let contract = |error: wasmtime::Error| CoreError::Contract(one_line(&error));
        Core::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(contract)?;
        let pre = linker.instantiate_pre(&component).and_then(CorePre::new).map_err(contract)?;
        let digest = Sha256::digest(bytes).iter().map(|octet| format!("{octet:02x}")).collect();
        Ok(Generation(Arc::new(Inner { pre, digest, octets, imports, exports, memory_octets })))
    }

    pub(super) fn pre(&self) -> &CorePre<CellState> {
        &self.0.pre
    }

    /// SHA-256 of the file, in lower-case hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// The file's size.
    pub fn octets(&self) -> u64 {
        self.0.octets
    }

    /// What it imports.
    pub fn imports(&self) -> &[String] {
        &self.0.imports
    }

    /// What it exports.
    pub fn exports(&self) -> &[String] {
        &self.0.exports
    }

    /// Linear memory of a cell at its start.
    pub fn memory_octets(&self) -> u64 {
        self.0.memory_octets
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("digest", &self.0.digest).finish_non_exhaustive()
    }
}

/// Refuses at once what could never be instantiated, and gives the memory it starts with.
fn check_resources(component: &Component) -> Result<u64, CoreError> {
    let Some(needs) = component.resources_required() else {
        return Err(CoreError::Resources("modules given from outside".to_owned()));
    };
    let memory = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(WASM_PAGE_OCTETS);
    let table = needs.max_initial_table_size.unwrap_or(0);
    let too_much = [
        (memory > limits::MEMORY_OCTETS_MAX as u64, format!("{memory} octets of memory")),
        (table > limits::TABLE_ELEMENTS_MAX as u64, format!("a table of {table} elements")),
        (needs.num_memories > limits::MEMORIES_MAX, format!("{} memories", needs.num_memories)),
        (needs.num_tables > limits::TABLES_MAX, format!("{} tables", needs.num_tables)),
    ];
    match too_much.into_iter().find(|(found, _)| *found) {
        Some((_, what)) => Err(CoreError::Resources(what)),
        None => Ok(memory),
    }
}

/// Reads a component file, or no more of it than tells that it is too large.
///
/// # Errors
/// With the path, in one line.
pub fn read_component(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(limits::COMPONENT_OCTETS_MAX + 1).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}
