//! Where connections are received: accepted, introduced by a proxy, counted, and served or refused.

use crate::config::TlsUse;
use crate::connection;
use crate::farewell::{LINGER, farewell, say_goodbye};
use crate::permits::{Admission, Permits};
use crate::proxy;
use crate::shared::{Entrance, Shared};
use crate::threads::{Counted, Turns};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::field::Empty;
use tracing::{Instrument, debug, error, info, info_span};

/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Refusals under way at once; beyond them a connection is closed without a word.
const REFUSALS_MAX: usize = 256;

/// Connections whose proxies have not said yet where the client is.
const INTRODUCTIONS_MAX: usize = 1_024;

/// Connections that wait to be accepted; the system has a bound of its own.
const QUEUE_MAX: u32 = 65_535;

/// How long the server waits after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens with the longest queue that the system allows. A connection that finds it full looks open to its client, who
/// waits for a greeting that never comes.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Connections have it from here: responses leave in as few writes as the protocol allows, and none waits until another one
    // is acknowledged.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE_MAX)?.into_std()
}

/// Accepts at one listener, on one thread.
pub(crate) struct Acceptor {
    pub(crate) listener: Arc<TcpListener>,
    pub(crate) thread: usize,
    pub(crate) turns: Arc<Turns>,
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) reception: Arc<Reception>,
}

impl Acceptor {
    pub(crate) async fn run(self) {
        loop {
            self.turns.comes_to(self.thread).await;
            if let Err(error) = self.accept().await {
                error!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Accepts until it is no longer the thread's turn, and listens no longer, as whoever listens is woken by each connection.
    async fn accept(&self) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener.try_clone()?)?;
        while self.turns.is_with(self.thread) {
            let (stream, client) = listener.accept().await?;
            let counted = self.turns.count(self.thread);
            match self.entrance.is_proxied {
                true => self.reception.introduce(stream, client, &self.entrance, counted),
                false => self.reception.receive(stream, client, &self.entrance, counted),
            }
        }
        Ok(())
    }
}

/// Where connections are received: each gets a permit and a task, or is told why not.
pub struct Reception {
    pub(crate) shared: Arc<Shared>,
    pub(crate) permits: Arc<Permits>,
    refusals: Arc<Semaphore>,
    introductions: Arc<Semaphore>,
    connections: AtomicU64,
}

impl Reception {
    /// With nobody in it.
    pub(crate) fn new(shared: Arc<Shared>, permits: Arc<Permits>) -> Reception {
        Reception {
            shared,
            permits,
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            introductions: Arc::new(Semaphore::new(INTRODUCTIONS_MAX)),
            connections: AtomicU64::new(0),
        }
    }

    /// Has a proxy that is believed say where the client is, and serves the connection as that client's.
    fn introduce(
        self: &Arc<Self>,
        mut stream: TcpStream,
        proxy: SocketAddr,
        entrance: &Arc<Entrance>,
        counted: Counted,
    ) {
        let from = proxy.ip().to_canonical();
        if !self.shared.settings.proxy_from.iter().any(|network| network.contains(&from)) {
            return self.refuse(stream, proxy, entrance, "Not a proxy that is believed here");
        }
        let Ok(permit) = self.introductions.clone().try_acquire_owned() else {
            return self.refuse(stream, proxy, entrance, "Too many connections");
        };
        let (reception, entrance) = (self.clone(), entrance.clone());
        tokio::spawn(async move {
            match proxy::read(&mut stream).await {
                Ok(client) => reception.receive(stream, client.unwrap_or(proxy), &entrance, counted),
                Err(error) => info!(%proxy, %error, "no header of the PROXY protocol"),
            }
            drop(permit);
        });
    }

    /// Serves a connection, however it came, in a task of its own on the thread that calls. What counts it is dropped at its end.
    pub fn receive<S, C>(&self, stream: S, client: SocketAddr, entrance: &Arc<Entrance>, counted: C)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        C: Send + 'static,
    {
        // A listener for both families has IPv4 addresses in the form of the other one.
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        match Admission::of(client.ip(), &self.permits, entrance.permits.as_ref()) {
            Ok(admission) => {
                let id = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
                let (entrance, shared) = (entrance.clone(), self.shared.clone());
                let serve = async move {
                    debug!("open");
                    connection::serve(stream, client, admission, entrance, shared).await;
                    drop(counted);
                };
                tokio::spawn(serve.instrument(info_span!("session", id, %client, for_client = Empty)));
            }
            Err(why) => self.refuse(stream, client, entrance, why),
        }
    }

    fn refuse<S>(&self, stream: S, client: SocketAddr, entrance: &Arc<Entrance>, why: &'static str)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        info!(%client, why, "connection refused");
        // Text in the clear is nothing to a client that waits for TLS, and TLS is not worth beginning for it.
        if entrance.tls == TlsUse::Implicit {
            return;
        }
        if let Ok(permit) = self.refusals.clone().try_acquire_owned() {
            tokio::spawn(refuse(stream, entrance.clone(), why, permit));
        }
    }
}

async fn refuse<S, P>(mut stream: S, entrance: Arc<Entrance>, why: &'static str, _permit: P)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let output = farewell("4.3.2", &entrance.settings.name, why);
    say_goodbye(&mut stream, output.as_bytes(), REFUSAL_TIMEOUT, LINGER).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_do_not_wait_until_a_response_is_acknowledged() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (_client, accepted) = tokio::join!(client, listener.accept());
        assert!(accepted.unwrap().0.nodelay().unwrap());
    }
}
