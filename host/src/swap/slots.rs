//! All slots of a server, each with what may replace its core.

use super::{Slot, Status, Swapper};
use crate::cell::Generation;
use crate::config::Settings;
use anyhow::Context;
use std::sync::Arc;
use tracing::{error, info};

/// The slots by their names.
pub struct Slots(Vec<Arc<Swapper>>);

impl Slots {
    /// One for each core. They prove one after the other.
    pub fn new(cores: Vec<(String, Generation)>, settings: &Settings) -> Slots {
        let proving = Arc::default();
        let swapper = |(name, core): (String, Generation)| {
            let slot = Slot::new(&name, core, settings.core_drain);
            Swapper::new(Arc::new(slot), Arc::clone(&proving), settings)
        };
        Slots(cores.into_iter().map(swapper).collect())
    }

    /// The slot of that name.
    ///
    /// # Errors
    /// Which ones there are.
    pub fn get(&self, name: &str) -> anyhow::Result<&Arc<Swapper>> {
        let found = self.0.iter().find(|swapper| swapper.slot().name() == name);
        found.with_context(|| {
            let names: Vec<_> = self.0.iter().map(|swapper| swapper.slot().name()).collect();
            format!("there is no slot `{name}`; there is {}", names.join(", "))
        })
    }

    /// All of them, in their order.
    pub fn all(&self) -> &[Arc<Swapper>] {
        &self.0
    }

    /// What each is doing.
    pub fn status(&self) -> Vec<Status> {
        self.0.iter().map(|swapper| swapper.status()).collect()
    }

    /// Reads the files of all cores again that have one, and has them serve; says in the log what came of it.
    pub async fn reload(&self) {
        let with_file: Vec<_> = self.0.iter().filter(|swapper| swapper.has_file()).collect();
        if with_file.is_empty() {
            error!("told to read the core's file again, and there is no setting `core` with a file");
        }
        for swapper in with_file {
            let slot = swapper.slot().name();
            match swapper.reload().await {
                Ok(done) => info!(slot, "read the core's file again: {done}"),
                Err(error) => error!(slot, "told to read the core's file again, which is refused: {error:#}"),
            }
        }
    }
}
