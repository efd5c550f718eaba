//! The engine: what all cells share.

use super::limits;
use anyhow::Context;
use std::thread;
use wasmtime::{Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

/// A compiler, and a pool of memory for so many cells.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) wasmtime: wasmtime::Engine,
}

impl Engine {
    /// Makes an engine with room for `cells_max` live cells, and a thread that ticks while the engine lives.
    ///
    /// # Errors
    /// When the machine does not give the address space.
    pub fn new(cells_max: u32) -> anyhow::Result<Engine> {
        let wasmtime = wasmtime::Engine::new(&config(cells_max))
            .map_err(anyhow::Error::from)
            .with_context(|| format!("cannot reserve memory for {cells_max} sessions"))?;
        let weak = wasmtime.weak();
        let tick = move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(limits::EPOCH_TICK);
            }
        };
        thread::Builder::new().name("epoch".to_owned()).spawn(tick).context("cannot start a thread")?;
        Ok(Engine { wasmtime })
    }
}

/// Compiles a component to code that an engine of this program takes: the work of a process of its own, which may be
/// ended, as a compiler cannot be.
///
/// # Errors
/// When the bytes are no component.
pub fn compile(component: &[u8]) -> anyhow::Result<Vec<u8>> {
    let engine = wasmtime::Engine::new(&compiler_config())?;
    Ok(engine.precompile_component(component)?)
}

fn config(cells_max: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(cells_max)
        .total_core_instances(cells_max.saturating_mul(limits::CORE_INSTANCES_MAX))
        .total_memories(cells_max.saturating_mul(limits::MEMORIES_MAX))
        .total_tables(cells_max.saturating_mul(limits::TABLES_MAX))
        .max_core_instances_per_component(limits::CORE_INSTANCES_MAX)
        .max_memories_per_component(limits::MEMORIES_MAX)
        .max_tables_per_component(limits::TABLES_MAX)
        .max_memories_per_module(limits::MEMORIES_MAX)
        .max_tables_per_module(limits::TABLES_MAX)
        .max_memory_size(limits::MEMORY_OCTETS_MAX)
        .table_elements(limits::TABLE_ELEMENTS_MAX)
        // A cell that is done leaves nothing behind: most of those that a burst of connections needs are not needed again soon.
        .linear_memory_keep_resident(0)
        .table_keep_resident(0);
    let mut config = compiler_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// What compiled code depends on.
fn compiler_config() -> Config {
    let mut config = Config::new();
    config
        .memory_reservation(limits::MEMORY_RESERVATION_OCTETS)
        .memory_guard_size(limits::MEMORY_GUARD_OCTETS)
        .guard_before_linear_memory(false)
        .memory_init_cow(true)
        .max_wasm_stack(limits::STACK_OCTETS_MAX)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_component_model(true)
        // Proposals that a core of ours does not need stay out: less that can be wrong.
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_extended_const(false);
    config
}
