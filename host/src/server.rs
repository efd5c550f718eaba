//! The server: listeners, permits, and the end.

use crate::admin;
use crate::cell::{self, DEFAULT_CORE, Engine, Generation};
use crate::config::{self, DEFAULT_SLOT, Settings};
use crate::credentials::Passwords;
use crate::permits::{self, Cells, Memory, Permits};
use crate::reception::{Acceptor, Reception, listen};
use crate::record::Recordings;
use crate::shared::{Counters, Drain, Entrance, Shared};
use crate::spool::Spool;
use crate::store::MailStore;
use crate::swap::{self, Slots};
use crate::threads::{Threads, Turns};
use crate::tls::Certificates;
use anyhow::Context;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// After the drain deadline and the time of a commit that is under way: for the last response to be read.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// A server that listens and does not accept yet.
pub struct Server {
    reception: Arc<Reception>,
    threads: Threads,
    listeners: Vec<(TcpListener, Arc<Entrance>)>,
    slots: Arc<Slots>,
    control: Option<admin::Listener>,
    drain: watch::Sender<Option<Instant>>,
}

impl Server {
    /// Makes everything ready and binds the listeners. Each slot of theirs has a core in `cores`, all of one engine.
    ///
    /// # Errors
    /// One line that says which address cannot be had, or what is missing.
    pub async fn bind(settings: Settings, store: Arc<dyn MailStore>, cores: Cores) -> anyhow::Result<Server> {
        let connections_max = permits::connections_max(settings.connections);
        if connections_max < settings.connections {
            let wanted = settings.connections;
            warn!("{connections_max} connections at the most, not {wanted}: too few file descriptors (ulimit -n)");
        }
        Server::with_connections(settings, store, cores, connections_max).await
    }

    /// As [`Server::bind`], for so many connections whatever stands behind them.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn with_connections(
        settings: Settings,
        store: Arc<dyn MailStore>,
        cores: Cores,
        connections_max: u32,
    ) -> anyhow::Result<Server> {
        let cells_max = cells_max(&settings);
        if cells_max < settings.cells.min(connections_max) {
            let wanted = settings.cells;
            warn!("{cells_max} cells at the most, not {wanted}: too few memory mappings (vm.max_map_count)");
        }
        warn_of_strangers(&settings);
        let slots = Slots::new(cores, &settings);
        let listeners = settings.listen.iter().map(|listener| enter(listener, &settings, &slots));
        let listeners = listeners.collect::<Result<_, _>>()?;
        let certificates = Certificates::of(&settings)?.map(Arc::new);
        let threads = Threads::start(settings.threads.into(), settings.busy_poll).context("cannot start a thread")?;
        let control = match settings.control.as_deref() {
            Some(path) => Some(admin::Listener::bind(path).await?),
            None => None,
        };
        let (drain, draining) = watch::channel(None);
        let shared = Shared {
            recordings: Recordings::start(&settings)?,
            spool: spool(&settings, connections_max)?,
            store_memory: Memory::new(settings.store_memory, settings.database_deadline),
            counters: Counters::default(),
            drain: Drain(draining),
            cells: Cells::new(cells_max),
            trial_places: trial_places(cells_max).into(),
            passwords: Passwords::new(settings.database_deadline, settings.lasting_secret()?.as_deref())?,
            certificates,
            store,
            settings,
        };
        let permits = Arc::new(Permits::new(connections_max, shared.settings.network_connections));
        let reception = Reception::new(Arc::new(shared), permits);
        Ok(Server { reception: Arc::new(reception), threads, listeners, slots: Arc::new(slots), control, drain })
    }

    /// The addresses that are listened on, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect()
    }

    /// The slots, and what replaces their cores.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// What the sessions share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.reception.shared
    }

    /// Where connections are received, those of the listeners and any other.
    pub fn reception(&self) -> &Arc<Reception> {
        &self.reception
    }

    /// Serves until `stop` is ready; then sessions may finish their command, and are told 421.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (shared, permits) = (&self.reception.shared, &self.reception.permits);
        for (listener, entrance) in &self.listeners {
            let (slot, core) = (entrance.slot.name(), entrance.slot.plan().current);
            if let Ok(address) = listener.local_addr() {
                let (name, protocol, tls) = (&entrance.settings.name, entrance.protocol.word(), entrance.tls.word());
                info!(%address, %protocol, %tls, name, slot, core = core.short_digest(), "listening");
            }
        }
        let mut acceptors = JoinSet::new();
        for swapper in self.slots.all() {
            acceptors.spawn(swapper.clone().run(shared.settings.core_watch_file));
        }
        if let Some(control) = self.control {
            acceptors.spawn(control.run(self.slots));
        }
        if let Some(certificates) = &shared.certificates {
            acceptors.spawn(certificates.clone().watch());
        }
        let turns = Turns::new(self.threads.runtimes().count());
        for (listener, entrance) in self.listeners {
            let listener = Arc::new(listener);
            for (thread, runtime) in self.threads.runtimes().enumerate() {
                let acceptor = Acceptor {
                    listener: listener.clone(),
                    thread,
                    turns: turns.clone(),
                    entrance: entrance.clone(),
                    reception: self.reception.clone(),
                };
                acceptors.spawn_on(acceptor.run(), runtime);
            }
        }
        stop.await;
        acceptors.shutdown().await;
        let deadline = Instant::now() + shared.settings.drain_timeout;
        info!(sessions = permits.used(), "stopping");
        self.drain.send_replace(Some(deadline));
        if timeout(
            shared.settings.drain_timeout + 2 * shared.settings.database_deadline + DRAIN_GRACE,
            permits.all_returned(),
        )
        .await
        .is_err()
        {
            warn!(sessions = permits.used(), "sessions are cut off");
        }
        shared.store.close().await;
        if let Some(recordings) = &shared.recordings {
            recordings.finish().await;
        }
        let counters = &shared.counters;
        info!(
            sessions = counters.sessions.load(Ordering::Relaxed),
            refused = counters.refused.load(Ordering::Relaxed),
            traps = counters.traps.load(Ordering::Relaxed),
            refusals = counters.refusals.load(Ordering::Relaxed),
            "stopped"
        );
    }
}

/// Cores by the names of their slots.
pub type Cores = Vec<(String, Generation)>;

/// Compiles the cores of a configuration, one for each slot that a listener names, for as many sessions as it allows.
///
/// # Errors
/// One line that says what is wrong with a core, or with how cores and listeners fit together, or that the machine has too
/// little address space.
pub async fn load_cores(settings: &Settings) -> anyhow::Result<Cores> {
    settings.check_slots()?;
    let engine = engine(settings)?;
    let mut cores = Vec::new();
    for slot in settings.slots() {
        let core = match settings.core_file(slot) {
            Some(file) => load(&engine, file, settings).await.with_context(|| file.display().to_string())?,
            None => Generation::from_bytes(&engine, DEFAULT_CORE).context("the core that the server carries")?,
        };
        cores.push((slot.to_owned(), core));
    }
    Ok(cores)
}

/// Compiles the core of a file, if it is of somebody whom the configuration trusts.
///
/// # Errors
/// One line that says what is wrong with it.
pub(crate) async fn load(engine: &Engine, file: &Path, settings: &Settings) -> anyhow::Result<Generation> {
    let bytes = cell::read_component(file)?;
    settings.core_keys.check(&bytes, swap::read_beside(file, "sig")?.as_deref())?;
    swap::stage(engine, bytes).await
}

/// The carried core or another one, for the slot that listeners have who name none.
pub fn default_core(core: Generation) -> Cores {
    vec![(DEFAULT_SLOT.to_owned(), core)]
}

fn spool(settings: &Settings, connections_max: u32) -> anyhow::Result<Arc<Spool>> {
    let (directory, files_max) = (&settings.spool_directory, permits::spool_files_max(connections_max));
    Spool::open(directory.clone(), settings.message_memory, settings.spool_size, files_max)
        .with_context(|| format!("cannot make files in the spool directory {}", directory.display()))
}

/// Cells for sessions that are awake, no more than there can be connections.
fn cells_max(settings: &Settings) -> u32 {
    permits::cells_max(settings.cells.min(permits::connections_max(settings.connections)))
}

/// An engine with as many cells as a configuration allows.
///
/// # Errors
/// When the machine has too little address space.
pub fn engine(settings: &Settings) -> anyhow::Result<Engine> {
    let (cells_max, slots) = (cells_max(settings), settings.slots().len().max(1) as u32);
    // Those that look on, in each slot, are beside those that serve, for a moment those of two trials. Sessions that move, and
    // those of a proof, have two cells.
    Engine::new(cells_max + slots.saturating_mul(2 * trial_places(cells_max) + 6))
}

/// Cells for those that look on in one slot.
fn trial_places(cells_max: u32) -> u32 {
    cells_max / 32 + 1
}

fn warn_of_strangers(settings: &Settings) {
    if settings.is_open_to_the_world() {
        warn!(
            "whoever reaches this server may leave mail for any recipient of any domain, and it is stored here; \
             accept=domains and accept=users take less"
        );
    }
}

fn enter(
    listener: &config::Listener,
    settings: &Settings,
    slots: &Slots,
) -> anyhow::Result<(TcpListener, Arc<Entrance>)> {
    let address = listener.address;
    let slot = slots.get(&listener.slot).with_context(|| address.to_string())?.slot().clone();
    let entrance = Entrance::new(listener, settings, slot)?;
    let listening = listen(address).with_context(|| format!("cannot listen on {address}"))?;
    Ok((listening, Arc::new(entrance)))
}
