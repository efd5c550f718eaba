//! A proxy before the server that fails at COMMIT, where it matters.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens at the next COMMIT; afterwards everything passes again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// The connection ends after the server got it, before the answer.
    CutAfterCommit,
    /// The connection ends, and the server never gets it.
    CutBeforeCommit,
    /// The server gets it, and the client is told that it failed, as by a node that its cluster left behind meanwhile (Galera).
    FailAfterCommit,
    /// Nothing passes any more until [`Proxy::thaw`]; then the server gets it, as out of a socket's buffer.
    FreezeAtCommit,
}

/// Error 1180, as the first packet of an answer.
const FAILED: &[u8] = b"\x14\0\0\x01\xff\x9c\x04#HY000left behind";

struct State {
    mode: Mutex<Mode>,
    /// Whether the next thing that a server says becomes [`FAILED`].
    fails: AtomicBool,
    frozen: watch::Sender<bool>,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            mode: Mutex::new(Mode::Pass),
            fails: AtomicBool::new(false),
            frozen: watch::Sender::new(false),
        });
        tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = upstream.into_split();
                    let back = tokio::spawn(pump(Arc::clone(&state), from_server, to_client, false));
                    let state = Arc::clone(&state);
                    tokio::spawn(async move {
                        pump(state, from_client, to_server, true).await;
                        back.abort();
                    });
                }
            }
        });
        Proxy { port, state }
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
    }

    /// Waits for the COMMIT that [`Proxy::set`] lies in wait for.
    pub(crate) async fn sees_commit(&self) {
        while *self.state.mode.lock().unwrap() != Mode::Pass {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn thaw(&self) {
        self.state.frozen.send_replace(false);
    }
}

async fn pump(state: Arc<State>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, to_server: bool) {
    let mut block = vec![0; 64 << 10];
    let mut frozen = state.frozen.subscribe();
    while let Ok(count @ 1..) = from.read(&mut block).await {
        let mut cut = false;
        if to_server && block[..count].windows(6).any(|window| window == b"COMMIT") {
            let mode = std::mem::replace(&mut *state.mode.lock().unwrap(), Mode::Pass);
            match mode {
                Mode::Pass => {}
                Mode::CutBeforeCommit => return,
                Mode::FailAfterCommit => state.fails.store(true, Ordering::SeqCst),
                // Frozen for a moment, so that the answer does not pass.
                Mode::CutAfterCommit | Mode::FreezeAtCommit => drop(state.frozen.send_replace(true)),
            }
            cut = mode == Mode::CutAfterCommit;
        }
        if !cut {
            let _ = frozen.wait_for(|frozen| !frozen).await;
        }
        let fails = !to_server && state.fails.swap(false, Ordering::SeqCst);
        if to.write_all(if fails { FAILED } else { &block[..count] }).await.is_err() {
            return;
        }
        if cut {
            tokio::time::sleep(Duration::from_millis(200)).await;
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                state.frozen.send_replace(false);
            });
            return;
        }
    }
}
