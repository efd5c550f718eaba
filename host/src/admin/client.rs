//! The other end of the control socket.

use super::{Done, SIGNATURE, Swap};
use crate::config::DEFAULT_SLOT;
use crate::swap::{Report, Status};
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The longest answer that is read.
const ANSWER_OCTETS_MAX: usize = 64 << 20;

/// Commands for one slot of a running server.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    slot: String,
}

impl Client {
    /// For the server at that socket, and its slot `default`.
    pub fn new(socket: &Path) -> Client {
        Client::of_slot(socket, DEFAULT_SLOT)
    }

    /// For the server at that socket, and the slot of that name.
    pub fn of_slot(socket: &Path, slot: &str) -> Client {
        Client { socket: socket.to_owned(), slot: slot.to_owned() }
    }

    /// What the slot is doing.
    ///
    /// # Errors
    /// When the server cannot be asked, or there is no such slot.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let status: Vec<Status> = self.ask(Method::GET, &self.path(""), None, Vec::new()).await?;
        status.into_iter().next().context("the server says nothing of the slot")
    }

    /// What all slots are doing.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn all(&self) -> anyhow::Result<Vec<Status>> {
        self.ask(Method::GET, "/v1/core", None, Vec::new()).await
    }

    /// Has the server stage and prove a core.
    ///
    /// # Errors
    /// Why it is none.
    pub async fn check(&self, component: Vec<u8>, signature: Option<&str>) -> anyhow::Result<Report> {
        self.ask(Method::POST, &self.path("/check"), signature, component).await
    }

    /// Has a core that was checked come into service.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn swap(&self, swap: &Swap) -> anyhow::Result<Done> {
        self.ask(Method::POST, &self.path("/swap"), None, serde_json::to_vec(swap)?).await
    }

    /// Has the core serve that served before.
    ///
    /// # Errors
    /// When there is none.
    pub async fn rollback(&self) -> anyhow::Result<Done> {
        self.ask(Method::POST, &self.path("/rollback"), None, Vec::new()).await
    }

    fn path(&self, command: &str) -> String {
        format!("/v1/core{command}?slot={}", self.slot)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        signature: Option<&str>,
        body: Vec<u8>,
    ) -> anyhow::Result<T> {
        let shown = || format!("no server answers at {}", self.socket.display());
        let stream = UnixStream::connect(&self.socket).await.with_context(shown)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(shown)?;
        // It ends with the connection; what went wrong shows in the answer.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(signature) = signature {
            request = request.header(SIGNATURE, signature.trim());
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let asked = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_OCTETS_MAX).collect().await;
            anyhow::Ok((status, body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes()))
        };
        let asked = timeout(super::CONNECTION_TIME_MAX, asked).await.map_err(anyhow::Error::from).flatten();
        let (status, body) = asked.with_context(shown)?;
        if !status.is_success() {
            let done = serde_json::from_slice::<Done>(&body);
            bail!("{}", done.map_or_else(|_| format!("the server answers {status}"), |done| done.message));
        }
        serde_json::from_slice(&body).context("the server's answer cannot be read")
    }
}
