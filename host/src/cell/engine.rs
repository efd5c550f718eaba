//! The engine: what all cells share.

use super::limits;
use anyhow::Context;
use std::sync::Arc;
use std::thread;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Config, Enabled, EngineWeak, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

/// A compiler, and places for so many cells.
#[derive(Clone, Debug)]
pub struct Engine {
    /// The first has the places that are taken first, and stay warm; the second, if any, what a burst of connections needs
    /// beyond them, and gives its memory back.
    pub(super) pools: Arc<[Pool]>,
}

/// Places for cells that are alike.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) wasmtime: wasmtime::Engine,
    free: Arc<Semaphore>,
}

/// A place for a cell, free again when it is dropped.
pub(super) struct Place {
    /// The number of its pool.
    pub(super) pool: usize,
    _taken: OwnedSemaphorePermit,
}

impl Engine {
    /// Makes an engine with room for `cells_max` live cells, at least one, and a thread that ticks while the engine lives.
    ///
    /// # Errors
    /// When the machine does not give the address space.
    pub fn new(cells_max: u32) -> anyhow::Result<Engine> {
        let warm = cells_max.clamp(1, limits::WARM_CELLS_MAX);
        let pool = |cells: u32, kept_octets: usize| -> anyhow::Result<Pool> {
            let wasmtime = wasmtime::Engine::new(&config(cells, kept_octets))
                .map_err(anyhow::Error::from)
                .with_context(|| format!("cannot reserve memory for {cells_max} sessions"))?;
            Ok(Pool { wasmtime, free: Arc::new(Semaphore::new(cells as usize)) })
        };
        let mut pools = vec![pool(warm, limits::KEPT_OCTETS_MAX)?];
        if cells_max > warm {
            pools.push(pool(cells_max - warm, 0)?);
        }
        let weak: Vec<_> = pools.iter().map(|pool| pool.wasmtime.weak()).collect();
        let tick = move || {
            while weak.iter().filter_map(EngineWeak::upgrade).map(|engine| engine.increment_epoch()).count() > 0 {
                thread::sleep(limits::EPOCH_TICK);
            }
        };
        thread::Builder::new().name("epoch".to_owned()).spawn(tick).context("cannot start a thread")?;
        Ok(Engine { pools: pools.into() })
    }

    /// Takes a place, if one is free.
    pub(super) fn take_place(&self) -> Option<Place> {
        let take = |(pool, Pool { free, .. }): (usize, &Pool)| {
            free.clone().try_acquire_owned().ok().map(|taken| Place { pool, _taken: taken })
        };
        self.pools.iter().enumerate().find_map(take)
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

fn config(cells_max: u32, kept_octets: usize) -> Config {
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
        // What a short session touches stays warm for the next one in its place.
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(kept_octets)
        .table_keep_resident(kept_octets);
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
