//! What is counted so that it cannot run out: connections, in all and for each client network, and memory.

use crate::cell::limits;
use crate::clock::within;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Descriptors for everything that is no connection: the database, listeners, refusals, and some spool files.
const DESCRIPTORS_KEPT: u64 = 512;

/// How many spool files there may be among those.
const SPOOL_FILES_KEPT: u64 = 128;

/// Memory mappings for everything that is no cell.
const MAPPINGS_KEPT: u64 = 4_096;

/// Memory mappings of one live cell.
const CELL_MAPPINGS: u64 = 4;

/// How many connections this process can have: fewer than wanted where there are too few file descriptors.
pub fn connections_max(wanted: u32) -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current < limit.maximum {
        // What the administrator allows, the process may use; if not, the number below stays lower.
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    }
    at_most(wanted, descriptors().map(|count| count.saturating_sub(DESCRIPTORS_KEPT)))
}

/// How many spool files this process can have beside so many connections: no more than that, and fewer where there are too few
/// file descriptors.
pub fn spool_files_max(connections_max: u32) -> u32 {
    let taken = u64::from(connections_max) + DESCRIPTORS_KEPT - SPOOL_FILES_KEPT;
    at_most(connections_max, descriptors().map(|count| count.saturating_sub(taken)))
}

fn descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// How many cells this process can have: fewer than wanted where there are too few memory mappings.
pub fn cells_max(wanted: u32) -> u32 {
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let mappings = mappings.and_then(|text| text.trim().parse::<u64>().ok());
    at_most(wanted, mappings.map(|count| count.saturating_sub(MAPPINGS_KEPT) / CELL_MAPPINGS))
}

fn at_most(wanted: u32, max: Option<u64>) -> u32 {
    u64::from(wanted).min(max.unwrap_or(u64::MAX)).max(1) as u32
}

/// Connections of each client network.
struct Networks {
    connections_max: u32,
    counts: Mutex<HashMap<IpAddr, u32>>,
}

impl Networks {
    /// Counts a connection, or says why not. The loopback addresses are not counted.
    fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Option<Entered>, &'static str> {
        if client.is_loopback() {
            return Ok(None);
        }
        let network = network(client);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= self.connections_max {
            return Err("Too many connections from your network");
        }
        *count += 1;
        Ok(Some(Entered { network, networks: self.clone() }))
    }
}

/// A connection that counts, until this is dropped.
struct Entered {
    network: IpAddr,
    networks: Arc<Networks>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut counts = self.networks.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

/// Permits to have a connection.
pub struct Permits {
    all: Arc<Semaphore>,
    connections_max: u32,
    networks: Arc<Networks>,
}

/// A permit, given back when it is dropped.
pub struct Permit {
    _one: OwnedSemaphorePermit,
    networks: Arc<Networks>,
    entered: Option<Entered>,
}

/// What a connection holds while it lasts: a permit of the server's, and one of its listener's if that limits connections.
pub struct Admission {
    server: Permit,
    listener: Option<Permit>,
}

impl Admission {
    /// Takes both, or says why there is none.
    pub fn of(client: IpAddr, server: &Permits, listener: Option<&Permits>) -> Result<Admission, &'static str> {
        let server = server.take(client)?;
        Ok(Admission { server, listener: listener.map(|permits| permits.take(client)).transpose()? })
    }

    /// Has the connection be another client's, or says why not.
    pub fn go_to(&mut self, client: IpAddr) -> Result<(), &'static str> {
        self.server.go_to(client)?;
        self.listener.as_mut().map_or(Ok(()), |permit| permit.go_to(client))
    }
}

impl Permit {
    fn go_to(&mut self, client: IpAddr) -> Result<(), &'static str> {
        if self.entered.as_ref().is_none_or(|entered| entered.network != network(client)) {
            self.entered = self.networks.enter(client)?;
        }
        Ok(())
    }
}

impl Permits {
    /// So many in all, and so many for each client network.
    pub fn new(connections_max: u32, network_connections_max: u32) -> Permits {
        Permits {
            all: Arc::new(Semaphore::new(connections_max as usize)),
            connections_max,
            networks: Arc::new(Networks { connections_max: network_connections_max, counts: Mutex::default() }),
        }
    }

    /// Takes a permit, or says why there is none. The loopback addresses count in all only.
    pub fn take(&self, client: IpAddr) -> Result<Permit, &'static str> {
        let one = self.all.clone().try_acquire_owned().map_err(|_| "Too many connections")?;
        let entered = self.networks.enter(client)?;
        Ok(Permit { _one: one, networks: self.networks.clone(), entered })
    }

    /// Permits that are out.
    pub fn used(&self) -> usize {
        (self.connections_max as usize).saturating_sub(self.all.available_permits())
    }

    /// Waits until all permits are back.
    pub async fn all_returned(&self) {
        // The semaphore is never closed.
        let _ = self.all.acquire_many(self.connections_max).await;
    }
}

/// What one client is likely to have for itself: an IPv4 address, an IPv6 network of 64 bits.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// Cells for sessions that are awake.
#[derive(Clone)]
pub struct Cells {
    free: Arc<Semaphore>,
    cells_max: u32,
}

/// A permit to have a cell, given back when it is dropped.
pub struct CellPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// How long a session waits for a cell. Meanwhile those that are idle give theirs back.
const CELL_WAIT: Duration = Duration::from_secs(5);

impl Cells {
    /// So many.
    pub fn new(cells_max: u32) -> Cells {
        Cells { free: Arc::new(Semaphore::new(cells_max as usize)), cells_max }
    }

    /// Waits for a cell; `None` when there is none in time.
    pub async fn take(&self) -> Option<CellPermit> {
        within(CELL_WAIT, self.free.clone().acquire_owned()).await?.ok().map(CellPermit)
    }

    /// How long an idle session keeps its cell, given how long when there is no hurry: a tenth of it while more sessions are
    /// awake than have a warm place. So a burst of connections leaves little behind.
    pub fn patience(&self, unhurried: Duration) -> Duration {
        let awake = self.cells_max as usize - self.free.available_permits();
        if awake > limits::WARM_CELLS_MAX as usize { unhurried / 10 } else { unhurried }
    }

    /// Whether hardly any is left.
    pub fn are_scarce(&self) -> bool {
        self.free.available_permits() <= self.cells_max as usize / 8
    }
}

/// A budget of memory.
pub struct Memory {
    blocks: Arc<Semaphore>,
    blocks_max: u32,
    deadline: Duration,
}

/// Memory that may be used until this is dropped.
pub struct MemoryPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Memory is counted in blocks of so many octets.
const BLOCK_OCTETS: u64 = 4 << 10;

impl Memory {
    /// So many octets, for which nobody waits longer than `deadline`.
    pub fn new(octets: u64, deadline: Duration) -> Memory {
        let blocks_max = u32::try_from(octets.div_ceil(BLOCK_OCTETS)).unwrap_or(u32::MAX);
        Memory { blocks: Arc::new(Semaphore::new(blocks_max as usize)), blocks_max, deadline }
    }

    /// Waits for so many octets, or for all there are if they are fewer; `None` when the time is up.
    pub async fn reserve(&self, octets: u64) -> Option<MemoryPermit> {
        let blocks = u32::try_from(octets.div_ceil(BLOCK_OCTETS)).unwrap_or(u32::MAX).min(self.blocks_max);
        within(self.deadline, self.blocks.clone().acquire_many_owned(blocks)).await?.ok().map(MemoryPermit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_capped_in_all_and_for_each_network() {
        let permits = Permits::new(4, 2);
        let take = |address: &str| permits.take(address.parse().unwrap());
        let one = take("192.0.2.1").unwrap();
        let _two = take("192.0.2.1").unwrap();
        assert_eq!(take("192.0.2.1").err(), Some("Too many connections from your network"));
        let _three = take("192.0.2.2").unwrap();
        drop(one);
        let _four = take("192.0.2.1").unwrap();
        let _five = take("127.0.0.1").unwrap();
        assert_eq!(permits.used(), 4);
        assert_eq!(take("127.0.0.1").err(), Some("Too many connections"));
    }

    #[test]
    fn a_permit_goes_to_another_client() {
        let permits = Permits::new(3, 1);
        let take = |address: &str| permits.take(address.parse().unwrap());
        let mut one = take("127.0.0.1").unwrap();
        assert_eq!(one.go_to("192.0.2.1".parse().unwrap()), Ok(()));
        assert!(take("192.0.2.1").is_err(), "it counts where it went");
        assert_eq!(one.go_to("192.0.2.2".parse().unwrap()), Ok(()));
        assert_eq!(one.go_to("192.0.2.2".parse().unwrap()), Ok(()), "it is there already");
        let _two = take("192.0.2.1").unwrap();
        assert!(one.go_to("192.0.2.1".parse().unwrap()).is_err());
        assert!(take("192.0.2.2").is_err(), "it stays where it is");
        drop(one);
        let _three = take("192.0.2.2").unwrap();
    }

    #[tokio::test]
    async fn idle_sessions_hurry_while_more_are_awake_than_have_a_warm_place() {
        let cells = Cells::new(limits::WARM_CELLS_MAX + 1);
        let unhurried = Duration::from_millis(500);
        let mut awake = Vec::new();
        for _ in 0..limits::WARM_CELLS_MAX {
            awake.push(cells.take().await.unwrap());
        }
        assert_eq!(cells.patience(unhurried), unhurried);
        awake.push(cells.take().await.unwrap());
        assert_eq!(cells.patience(unhurried), unhurried / 10);
        awake.pop();
        assert_eq!(cells.patience(unhurried), unhurried);
    }

    #[test]
    fn an_ipv6_network_has_64_bits_and_loopback_is_excepted() {
        let permits = Permits::new(10, 1);
        let take = |address: &str| permits.take(address.parse().unwrap());
        let _one = take("2001:db8::1").unwrap();
        assert!(take("2001:db8::2").is_err());
        let _other = take("2001:db8:0:1::1").unwrap();
        let _loopback = [take("::1").unwrap(), take("::1").unwrap()];
    }

    #[tokio::test]
    async fn cells_are_waited_for_and_given_back() {
        let cells = Cells::new(8);
        let mut taken = Vec::new();
        for left in (0..8).rev() {
            taken.push(cells.take().await.unwrap());
            assert_eq!(cells.are_scarce(), left <= 1);
        }
        let (waiting, _) = tokio::join!(cells.take(), async {
            tokio::task::yield_now().await;
            drop(taken.pop());
        });
        assert!(waiting.is_some());
    }

    #[tokio::test]
    async fn memory_is_waited_for_and_given_back() {
        let memory = Memory::new(10 * BLOCK_OCTETS, Duration::from_millis(20));
        let most = memory.reserve(9 * BLOCK_OCTETS).await.unwrap();
        assert!(memory.reserve(2 * BLOCK_OCTETS).await.is_none());
        drop(most);
        assert!(memory.reserve(1000 * BLOCK_OCTETS).await.is_some());
    }
}
