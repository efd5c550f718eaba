//! A generation: what the server makes of one component file.

use super::DEFAULT_CORE;
use super::bindings::{Core, CorePre};
use super::engine::{Engine, Place, Pool};
use super::instance::{Cell, Fault};
use super::limits;
use super::one_line;
use super::state::CellState;
use super::stats::Stats;
use anyhow::Context;
use mailcell_core::Schemas;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};

/// The one interface that a core may import.
const IMPORT: &str = "mailcell:smtp/mail-store@0.3.0";
/// The interfaces that a core must export.
const EXPORTS: [&str; 2] = ["mailcell:smtp/session@0.3.0", "mailcell:smtp/migration@0.3.0"];

/// What sizes of memories are counted in.
const WASM_PAGE_OCTETS: u64 = 64 << 10;

/// Why a file is no core.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// Larger than [`limits::COMPONENT_OCTETS_MAX`].
    #[error("it is too large: a core has at most {max} octets", max = limits::COMPONENT_OCTETS_MAX)]
    TooLarge,
    /// Not WebAssembly at all.
    #[error("not a WebAssembly component, nor any other WebAssembly")]
    NotWasm,
    /// A module, as compilers make them.
    #[error("not a WebAssembly component but a module: see how `cargo build` makes target/mailcell-core.wasm")]
    Module,
    /// One that does not validate, or wants what no cell has.
    #[error("not a WebAssembly component that can be used: {0}")]
    NotAComponent(String),
    /// It wants what the world does not grant.
    #[error("it imports `{0}`; a core may import `{IMPORT}` and nothing else")]
    Import(String),
    /// It lacks what the world asks for.
    #[error("it does not export `{0}`")]
    Export(&'static str),
    /// Its imports or exports have other types.
    #[error("it does not fit the contract mailcell:smtp@0.3.0: {0}")]
    Contract(String),
    /// It is larger than a cell.
    #[error("it needs {0}, more than a cell has")]
    Resources(String),
    /// It fails before its first session.
    #[error("it cannot be started: {0}")]
    Start(Fault),
}

/// A component that was checked and compiled, ready to be instantiated.
#[derive(Clone)]
pub struct Generation(Arc<Inner>);

struct Inner {
    engine: Engine,
    /// One for each pool of the engine.
    pres: Vec<CorePre<CellState>>,
    digest: String,
    octets: u64,
    imports: Vec<String>,
    exports: Vec<String>,
    memory_octets: u64,
    version: Option<String>,
    is_native: bool,
    writes: Vec<u32>,
    reads: Vec<u32>,
    stats: Stats,
}

impl Generation {
    /// Checks and compiles a component in this process.
    ///
    /// # Errors
    /// One for each thing that can be wrong with a file.
    pub fn from_bytes(engine: &Engine, bytes: &[u8]) -> Result<Generation, CoreError> {
        check_kind(bytes)?;
        let artifact = engine.pools[0].wasmtime.precompile_component(bytes);
        Generation::of(engine, bytes, &artifact.map_err(|error| CoreError::NotAComponent(one_line(&error)))?)
    }

    /// Checks a component that [`super::compile`] has made `artifact` of.
    ///
    /// # Errors
    /// One for each thing that can be wrong with a component.
    pub fn from_artifact(engine: &Engine, bytes: &[u8], artifact: &[u8]) -> Result<Generation, CoreError> {
        check_kind(bytes)?;
        Generation::of(engine, bytes, artifact)
    }

    fn of(engine: &Engine, bytes: &[u8], artifact: &[u8]) -> Result<Generation, CoreError> {
        let load = |pool: &Pool| {
            #[allow(unsafe_code, reason = "the artifact comes from this program, or by a pipe from a child of it")]
            let component = unsafe { Component::deserialize(&pool.wasmtime, artifact) };
            component.map_err(|error| CoreError::NotAComponent(one_line(&error)))
        };
        let components = engine.pools.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let (imports, exports) = check_contract(&engine.pools[0].wasmtime, &components[0])?;
        let memory_octets = check_resources(&components[0])?;
        let prepare = |component: &Component| {
            let mut linker = Linker::<CellState>::new(component.engine());
            Core::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
            linker.instantiate_pre(component).and_then(CorePre::new)
        };
        let pres = components.iter().map(prepare).collect::<wasmtime::Result<Vec<_>>>();
        let inner = Inner {
            engine: engine.clone(),
            pres: pres.map_err(|error| CoreError::Contract(one_line(&error)))?,
            digest: digest(bytes),
            octets: bytes.len() as u64,
            imports,
            exports,
            memory_octets,
            version: version(bytes),
            is_native: false,
            writes: Vec::new(),
            reads: Vec::new(),
            stats: Stats::default(),
        };
        let mut generation = Generation(Arc::new(inner));
        let Schemas { writes, reads } = Cell::schemas(&generation).map_err(CoreError::Start)?;
        if let Some(inner) = Arc::get_mut(&mut generation.0) {
            (inner.writes, inner.reads) = (writes, reads);
        }
        Ok(generation)
    }

    /// The core that the server carries, whose sessions run as the plain Rust that they are, without a sandbox: to measure
    /// what that costs, and for nothing else. A panic in it is one of the server's.
    ///
    /// # Errors
    /// As [`Generation::from_bytes`].
    pub fn native(engine: &Engine) -> Result<Generation, CoreError> {
        let mut generation = Generation::from_bytes(engine, DEFAULT_CORE)?;
        if let Some(inner) = Arc::get_mut(&mut generation.0) {
            inner.is_native = true;
        }
        Ok(generation)
    }

    pub(super) fn is_native(&self) -> bool {
        self.0.is_native
    }

    /// Whether both are one.
    pub fn is(&self, other: &Generation) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The layout in which a session can go from this generation to another one.
    pub fn schema_to(&self, other: &Generation) -> Option<u32> {
        self.0.writes.iter().copied().find(|schema| other.0.reads.contains(schema))
    }

    /// The engine that it was compiled for.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// What makes cells at such a place.
    pub(super) fn pre(&self, place: &Place) -> &CorePre<CellState> {
        &self.0.pres[place.pool]
    }

    /// SHA-256 of the file, in lower-case hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// The start of the digest, as people and logs use it.
    pub fn short_digest(&self) -> &str {
        &self.0.digest[..12]
    }

    /// What the component calls its version.
    pub fn version(&self) -> &str {
        self.0.version.as_deref().unwrap_or("unknown")
    }

    /// The layouts of saved sessions that it writes.
    pub fn writes(&self) -> &[u32] {
        &self.0.writes
    }

    /// The layouts of saved sessions that it reads.
    pub fn reads(&self) -> &[u32] {
        &self.0.reads
    }

    /// What has happened in its cells.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
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

/// Refuses what need not be compiled to be refused.
///
/// # Errors
/// When it is too large, or says itself that it is no component.
pub fn check_kind(bytes: &[u8]) -> Result<(), CoreError> {
    check_size(bytes)?;
    match bytes.get(..8) {
        Some(b"\0asm\x01\0\0\0") => Err(CoreError::Module),
        Some([b'\0', b'a', b's', b'm', ..]) => Ok(()),
        _ => Err(CoreError::NotWasm),
    }
}

fn check_size(bytes: &[u8]) -> Result<(), CoreError> {
    let octets = bytes.len() as u64;
    if octets > limits::COMPONENT_OCTETS_MAX { Err(CoreError::TooLarge) } else { Ok(()) }
}

/// SHA-256 in lower-case hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The text of the outermost custom section `version`, as the tools of the component model write and read it.
fn version(bytes: &[u8]) -> Option<String> {
    let mut depth = 0_u32;
    for payload in wasmparser::Parser::new(0).parse_all(bytes) {
        match payload.ok()? {
            wasmparser::Payload::ModuleSection { .. } | wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth = depth.saturating_sub(1),
            wasmparser::Payload::CustomSection(section) if depth == 0 && section.name() == "version" => {
                let text = str::from_utf8(section.data()).ok()?;
                let is_plain = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
                return is_plain.then(|| text.to_owned());
            }
            _ => {}
        }
    }
    None
}

/// What a component imports and exports, if that is what a core may and must.
fn check_contract(engine: &wasmtime::Engine, component: &Component) -> Result<(Vec<String>, Vec<String>), CoreError> {
    let component_type = component.component_type();
    let imports: Vec<_> = component_type.imports(engine).map(|(name, _)| name.to_owned()).collect();
    if let Some(foreign) = imports.iter().find(|name| *name != IMPORT) {
        return Err(CoreError::Import(foreign.clone()));
    }
    let exports: Vec<_> = component_type.exports(engine).map(|(name, _)| name.to_owned()).collect();
    if let Some(missing) = EXPORTS.into_iter().find(|name| !exports.iter().any(|export| export == name)) {
        return Err(CoreError::Export(missing));
    }
    if let Some(ComponentItem::ComponentInstance(granted)) = component_type.get_import(engine, IMPORT).map(|i| i.ty) {
        let resource = granted.exports(engine).find(|(_, item)| matches!(item.ty, ComponentItem::Resource(_)));
        if let Some((name, _)) = resource {
            return Err(CoreError::Contract(format!("it has the resource `{name}`")));
        }
    }
    Ok((imports, exports))
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

/// Reads a component file, or no more of it than tells that it is too large, which is an error too.
///
/// # Errors
/// With the path, in one line.
pub fn read_component(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(limits::COMPONENT_OCTETS_MAX + 1).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read {}", path.display()))?;
    check_size(&bytes).with_context(|| path.display().to_string())?;
    Ok(bytes)
}
