//! What all sessions of a server share.

use crate::config::{Listener, Protocol, Settings, TlsUse};
use crate::credentials::Passwords;
use crate::permits::{Cells, Memory, Permits};
use crate::record::Recordings;
use crate::spool::Spool;
use crate::store::MailStore;
use crate::swap::Slot;
use crate::tls::Certificates;
use mailcell_core::Config;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// One for each server.
pub struct Shared {
    /// The configuration.
    pub settings: Settings,
    /// Where sessions are recorded, if they are.
    pub recordings: Option<Recordings>,
    /// The database.
    pub store: Arc<dyn MailStore>,
    /// Where messages are while they arrive.
    pub spool: Arc<Spool>,
    /// Memory for messages that are being stored.
    pub store_memory: Memory,
    /// What has happened since the start.
    pub counters: Counters,
    /// Whether the server is stopping.
    pub drain: Drain,
    /// Cells for sessions that are awake.
    pub cells: Cells,
    /// Cells beside them for those that look on, in each slot.
    pub trial_places: u64,
    /// Who checks passwords.
    pub passwords: Passwords,
    /// For TLS, if there is any.
    pub certificates: Option<Arc<Certificates>>,
}

/// What cores are told, and the database's limit that it was made for.
type CoreConfig = (u64, Arc<Config>);

/// What the sessions of one listener share.
pub struct Entrance {
    /// What is spoken.
    pub protocol: Protocol,
    /// What there is of TLS.
    pub tls: TlsUse,
    /// Whether a proxy says first where the client is.
    pub is_proxied: bool,
    /// Which core serves whom.
    pub slot: Arc<Slot>,
    /// The configuration as it is here.
    pub settings: Settings,
    /// For connections that come here, if they have limits of their own beside those of all.
    pub permits: Option<Permits>,
    /// What cores are told of peers that are not trusted, and of those that are.
    core_configs: Mutex<[Option<CoreConfig>; 2]>,
}

impl Entrance {
    /// The entrance of a listener, whose connections that slot serves.
    ///
    /// # Errors
    /// What the listener needs and the configuration lacks.
    pub fn new(listener: &Listener, settings: &Settings, slot: Arc<Slot>) -> anyhow::Result<Entrance> {
        let own = settings.of(listener);
        own.check_on(listener)?;
        let is_limited = listener.has("connections") || listener.has("network-connections");
        Ok(Entrance {
            protocol: listener.protocol,
            tls: own.tls_of(listener)?,
            is_proxied: listener.is_proxied,
            slot,
            permits: is_limited.then(|| Permits::new(own.connections, own.network_connections)),
            settings: own,
            core_configs: Mutex::default(),
        })
    }

    /// The domain of users who do not name one.
    pub fn home(&self) -> &str {
        self.settings.domains.first().unwrap_or(&self.settings.name)
    }

    /// What a core is told when a session opens: one copy for all sessions, while the database's limit stays.
    pub fn core_config(&self, shared: &Shared, is_trusted: bool) -> Arc<Config> {
        let octets_max = shared.store.message_octets_max();
        let mut configs = self.core_configs.lock().unwrap_or_else(PoisonError::into_inner);
        let config = &mut configs[usize::from(is_trusted)];
        match config {
            Some((for_octets, config)) if *for_octets == octets_max => config.clone(),
            _ => {
                let made = self.settings.core_config(self.protocol, self.tls, octets_max, is_trusted);
                let made: Arc<Config> = made.into();
                *config = Some((octets_max, made.clone()));
                made
            }
        }
    }
}

/// What has happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that got a session.
    pub sessions: AtomicU64,
    /// Connections refused for want of a permit.
    pub refused: AtomicU64,
    /// Sessions lost to a trap.
    pub traps: AtomicU64,
    /// Sessions lost because the core returned what the host does not carry out.
    pub refusals: AtomicU64,
}

/// The end of the server, as sessions see it: it begins, and some time later it is there.
#[derive(Clone, Debug)]
pub struct Drain(pub watch::Receiver<Option<Instant>>);

impl Drain {
    /// Whether it has begun.
    pub fn is_on(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Whether its deadline is over.
    pub fn is_over(&self) -> bool {
        self.0.borrow().is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Waits until it begins.
    pub async fn begins(&mut self) {
        self.deadline().await;
    }

    /// Waits until its deadline is over.
    pub async fn ends(&mut self) {
        sleep_until(self.deadline().await).await;
    }

    async fn deadline(&mut self) -> Instant {
        let deadline = self.0.wait_for(Option::is_some).await.ok().and_then(|deadline| *deadline);
        match deadline {
            Some(deadline) => deadline,
            // Nobody is left who could begin it.
            None => std::future::pending().await,
        }
    }
}
