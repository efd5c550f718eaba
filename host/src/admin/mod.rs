//! The control socket: HTTP/1.1 with JSON over a Unix socket that its owner alone can use.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /v1/core` | a list with a [`crate::swap::Status`] for each slot |
//! | `POST /v1/core/check` | the body is a component; stages and proves it: a [`crate::swap::Report`]. Its signature, if it has one, is the header `mailcell-signature` |
//! | `POST /v1/core/swap` | a [`Swap`]: a component that was checked comes into service |
//! | `POST /v1/core/rollback` | ends a trial, or goes back to the core that served before |
//!
//! Behind each may stand `?slot=NAME`: the list is then of that slot alone, and a command without it is for the slot `default`.
//! A slot that is not there is a 404.
//!
//! What was done is a [`Done`] with the status 200; what is refused is one with 409, and what cannot be read one with 400.
//! A proof may take minutes, and a few wait for their turn; who comes while they do is told 503 at once. They keep nothing else
//! out, which is answered at once.
//! All requests may be sent again: a component is known by its digest.

pub mod client;

use crate::cell::limits;
use crate::config::DEFAULT_SLOT;
use crate::swap::{Options, Slots};
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info};

/// The header that carries a component's signature.
pub const SIGNATURE: &str = "mailcell-signature";

/// Connections at once.
const CONNECTIONS_MAX: usize = 16;

/// Connections that ask for a proof: the others are for those who cannot wait for one.
const PROOFS_MAX: usize = 4;

/// How long one connection may last: compiling and proving a core takes seconds, and there are others before it.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(600);

/// How long a server that has the socket may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// How long a client may take to send a request's header section, and how long its body.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);

/// The body of a request to swap.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    /// SHA-256 of a component that was checked.
    pub digest: String,
    /// How it comes into service.
    #[serde(default)]
    pub options: Options,
}

/// What came of a request, in one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// For people.
    pub message: String,
}

/// The socket, bound. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Which file is ours.
    file: (u64, u64),
}

impl Listener {
    /// Binds the socket. A file that a server left behind is replaced; one that a server answers at is not.
    ///
    /// # Errors
    /// With the path, in one line.
    pub async fn bind(path: &Path) -> anyhow::Result<Listener> {
        let shown = || format!("cannot make the control socket {}", path.display());
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                bail!("{}: there is a file of that name, which is no socket", shown());
            }
            match timeout(ANSWER_TIME_MAX, UnixStream::connect(path)).await {
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).with_context(shown)?
                }
                Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {}
                Ok(Err(error)) => return Err(error).with_context(shown),
                // One that answers, and one that is too busy to.
                Ok(Ok(_)) | Err(_) => bail!("{}: another server uses it (see the setting `control`)", shown()),
            }
        }
        // Nobody can connect before the socket is its owner's alone: it gets its name when it is.
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", std::process::id()));
        let hidden = PathBuf::from(hidden);
        let bind = || {
            let socket = UnixListener::bind(&hidden)?;
            fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
            let metadata = fs::symlink_metadata(&hidden)?;
            fs::rename(&hidden, path)?;
            Ok(Listener { socket, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
        };
        let bound: std::io::Result<Listener> = bind();
        if bound.is_err() {
            let _ = fs::remove_file(&hidden);
        }
        bound.with_context(shown)
    }

    /// Answers requests. Never returns.
    pub async fn run(self, slots: Arc<Slots>) {
        info!(socket = %self.path.display(), "taking commands");
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let proofs = Arc::new(Semaphore::new(PROOFS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    let commands = Commands { slots: slots.clone(), proofs: proofs.clone(), proof: OnceLock::new() };
                    tokio::spawn(async move {
                        serve(stream, commands).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    error!(%error, "cannot accept a command");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another server may have taken the name.
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What one connection has.
struct Commands {
    slots: Arc<Slots>,
    proofs: Arc<Semaphore>,
    /// Held to the end of the connection: also a client that does not read what was found is one of a few.
    proof: OnceLock<OwnedSemaphorePermit>,
}

async fn serve(stream: UnixStream, commands: Commands) {
    let commands = Arc::new(commands);
    let service = service_fn(move |request| {
        let commands = commands.clone();
        async move { Ok::<_, Infallible>(commands.answer(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SEND_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a command was cut off"),
        Err(_) => debug!("a command took too long"),
    }
}

impl Commands {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        // Whatever is refused, it is read: a client that cannot send does not read why.
        let body = Limited::new(body, limits::COMPONENT_OCTETS_MAX as usize).collect();
        let answered = match timeout(SEND_TIME_MAX, body).await {
            Ok(Ok(body)) => self.carry_out(&head, &body.to_bytes()).await,
            Ok(Err(error)) => Err(unreadable(error)),
            Err(_) => Err(unreadable("it does not come in time")),
        };
        answered.unwrap_or_else(|(status, message)| json(status, &Done { message }))
    }

    async fn carry_out(&self, head: &Parts, body: &[u8]) -> Result<Response<Full<Bytes>>, Refusal> {
        let slot = head.uri.query().map(|query| query.strip_prefix("slot=").ok_or(query)).transpose();
        let slot = slot.map_err(|query| unreadable(format!("expected slot=NAME, found {query:?}")))?;
        let name = slot.unwrap_or(DEFAULT_SLOT);
        let found = || self.slots.get(name).map_err(|error| (StatusCode::NOT_FOUND, error.to_string()));
        let conflict = |error: anyhow::Error| (StatusCode::CONFLICT, format!("{error:#}"));
        let done = match (&head.method, head.uri.path()) {
            (&Method::GET, "/v1/core") => {
                let status = if slot.is_none() { self.slots.status() } else { vec![found()?.status()] };
                return Ok(json(StatusCode::OK, &status));
            }
            (&Method::POST, "/v1/core/check") => {
                let swapper = found()?;
                self.take_proof()?;
                let signature = head.headers.get(SIGNATURE).and_then(|value| value.to_str().ok());
                let report = swapper.check(body.to_vec(), signature).await.map_err(conflict)?;
                return Ok(json(StatusCode::OK, &report));
            }
            (&Method::POST, "/v1/core/swap") => {
                let swap: Swap = serde_json::from_slice(body).map_err(unreadable)?;
                found()?.swap(&swap.digest, &swap.options)
            }
            (&Method::POST, "/v1/core/rollback") => found()?.roll_back(),
            (_, path) => return Err((StatusCode::NOT_FOUND, format!("there is no {} {path}", head.method))),
        };
        done.map(|message| json(StatusCode::OK, &Done { message })).map_err(conflict)
    }

    /// Counts the connection among those that ask for a proof.
    fn take_proof(&self) -> Result<(), Refusal> {
        if self.proof.get().is_none() {
            let busy = |_| {
                let message = format!("{PROOFS_MAX} cores are being proved or wait for it already; try again later");
                (StatusCode::SERVICE_UNAVAILABLE, message)
            };
            let permit = self.proofs.clone().try_acquire_owned().map_err(busy)?;
            // Requests of a connection come one after the other.
            let _ = self.proof.set(permit);
        }
        Ok(())
    }
}

/// What is refused, and why.
type Refusal = (StatusCode, String);

fn unreadable(error: impl Display) -> Refusal {
    (StatusCode::BAD_REQUEST, format!("cannot read the request: {error}"))
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let text = serde_json::to_vec_pretty(body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}
