//! One connection: octets in, events to the cell, effects out.

use crate::cell::{Cell, Effects, Event, Fault, Next, limits};
use crate::framing::{Frame, Framer};
use crate::requests::Requests;
use crate::shared::{Drain, Shared};
use bytes::{Buf, BytesMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

/// How much is read at once.
const READ_OCTETS: usize = 16 << 10;

/// How many octets of responses may gather before they are written; reading stops meanwhile.
const OUTPUT_OCTETS_MAX: usize = 32 << 10;

/// How long, and for how many octets, a client's input is read and dropped after the last response: a socket that is
/// closed with unread input is reset, and the client may never see that response.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 1 << 20);

/// The rate of message data is looked at over so long.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// Serves a connection to its end.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, client: SocketAddr, shared: Arc<Shared>) {
    let address = client.ip().to_canonical();
    shared.counters.sessions.fetch_add(1, Ordering::Relaxed);
    let ended = match Cell::open(&shared.generation, &shared.core_config(), &address.to_string()) {
        Ok((cell, effects)) => {
            let requests = Requests::new(shared.clone(), address);
            let mut connection = Connection {
                stream: &mut stream,
                clock: Clock::new(&shared),
                drain: shared.drain.clone(),
                shared: &shared,
                cell,
                requests,
                framer: Framer::default(),
                input: BytesMut::new(),
                output: Vec::new(),
            };
            let ended = connection.run(effects).await;
            let output = std::mem::take(&mut connection.output);
            ended.map_err(|end| (end, output))
        }
        Err(fault) => Err((End::Fault(fault), Vec::new())),
    };
    match ended {
        Ok(()) => debug!("closed"),
        Err((End::Gone, _)) => debug!("the client is gone"),
        Err((End::Stuck, _)) => info!("the client does not read what it is sent"),
        Err((End::Fault(fault), mut output)) => {
            let counter = match &fault {
                Fault::Trap(_) => &shared.counters.traps,
                Fault::Refused(_) => &shared.counters.refusals,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            warn!(%fault, "the session is lost");
            output.extend_from_slice(farewell("4.3.0", &shared.settings.name, "Internal error").as_bytes());
            say_goodbye(&mut stream, &output, shared.settings.write_timeout).await;
        }
    }
}

/// A 421 that the host says by itself, when there is no core that could.
pub fn farewell(status: &str, name: &str, why: &str) -> String {
    format!("421 {status} {name} {why}; closing connection\r\n")
}

/// Writes a last response, and closes so that the client can read it.
pub async fn say_goodbye<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, output: &[u8], wait: Duration) {
    let written = timeout(wait, async {
        stream.write_all(output).await?;
        stream.shutdown().await
    });
    if !matches!(written.await, Ok(Ok(()))) {
        return;
    }
    let (wait, octets_max) = LINGER;
    let mut dropped = vec![0; 4 << 10];
    let drain = async {
        let mut octets = 0;
        while let Ok(read @ 1..) = stream.read(&mut dropped).await {
            octets += read;
            if octets > octets_max {
                break;
            }
        }
    };
    // That the client takes longer is its own loss.
    let _ = timeout(wait, drain).await;
}

/// Why a connection ends other than by its core.
enum End {
    /// The client closed, or the connection broke.
    Gone,
    /// What is written is not read.
    Stuck,
    /// The cell is lost.
    Fault(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Fault(fault)
    }
}

struct Connection<'a, S> {
    stream: &'a mut S,
    shared: &'a Shared,
    cell: Cell,
    requests: Requests,
    clock: Clock,
    drain: Drain,
    framer: Framer,
    input: BytesMut,
    output: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// The whole session: carry out a step, do what comes next, and again.
    async fn run(&mut self, opening: Effects) -> Result<(), End> {
        let mut effects = opening;
        loop {
            self.output.append(&mut effects.output);
            effects.orders.iter().for_each(|order| self.requests.order(order));
            if self.output.len() > OUTPUT_OCTETS_MAX {
                self.flush().await?;
            }
            // A client that pipelines without end must not keep its thread from others.
            tokio::task::consume_budget().await;
            effects = match effects.next {
                Next::ReadLine { octets_max, .. } => self.read_line(octets_max).await?,
                Next::ReadData => self.read_data().await?,
                Next::AwaitReply(request) => {
                    if self.clock.is_session_over() {
                        return Err(End::Fault(Fault::Refused("requests beyond the session's age")));
                    }
                    let reply = self.requests.perform(request).await;
                    self.clock.restart();
                    self.cell.on_reply(&reply)?
                }
                Next::Close => {
                    let output = std::mem::take(&mut self.output);
                    say_goodbye(self.stream, &output, self.shared.settings.write_timeout).await;
                    return Ok(());
                }
            };
        }
    }

    async fn read_line(&mut self, octets_max: usize) -> Result<Effects, End> {
        // A session that has more commands waiting is told as well as one that is idle.
        if self.drain.is_on() {
            return self.end(Event::Drain);
        }
        loop {
            match self.framer.next(&self.input, octets_max) {
                Frame::Line(octets) => {
                    let effects = self.cell.on_line(&self.input[..octets])?;
                    self.input.advance(octets + 2);
                    self.clock.restart();
                    return Ok(effects);
                }
                Frame::Foreign(octets) => {
                    let effects = self.cell.on_line(&self.input[..octets])?;
                    self.input.advance(octets);
                    return Ok(effects);
                }
                Frame::TooLong(octets) => {
                    self.input.advance(octets);
                    self.clock.restart();
                    return Ok(self.cell.on_event(&Event::LineTooLong)?);
                }
                Frame::Drop(octets) => self.input.advance(octets),
                Frame::Incomplete => {
                    if let Some(event) = self.fill(Drain::begins).await? {
                        return self.end(event);
                    }
                }
            }
        }
    }

    async fn read_data(&mut self) -> Result<Effects, End> {
        if self.input.is_empty() {
            // Whoever is in the middle of a message may end it, until time is up.
            if let Some(event) = self.fill(Drain::ends).await? {
                return self.end(event);
            }
        }
        let block = self.input.len().min(limits::BLOCK_OCTETS_MAX);
        let (consumed, effects) = self.cell.on_data(&self.input[..block])?;
        self.input.advance(consumed);
        self.clock.count(consumed);
        if let (Some(code), Next::ReadLine { .. } | Next::Close) = (effects.code, &effects.next) {
            info!(code, response = %String::from_utf8_lossy(&effects.output).trim_end(), "message refused");
        }
        Ok(effects)
    }

    /// Tells the core that the session is over.
    fn end(&mut self, event: Event) -> Result<Effects, End> {
        let effects = self.cell.on_event(&event)?;
        match effects.next {
            Next::Close => Ok(effects),
            _ => Err(End::Fault(Fault::Refused("no end of a session whose time was up"))),
        }
    }

    /// Writes what there is to say and waits for input, or for something to happen instead.
    async fn fill(&mut self, drains: impl AsyncFnOnce(&mut Drain)) -> Result<Option<Event>, End> {
        self.flush().await?;
        self.input.reserve(READ_OCTETS);
        let (deadline, event) = self.clock.next();
        tokio::select! {
            read = self.stream.read_buf(&mut self.input) => match read {
                Ok(1..) => Ok(None),
                Ok(0) | Err(_) => Err(End::Gone),
            },
            () = drains(&mut self.drain) => Ok(Some(Event::Drain)),
            () = sleep_until(deadline) => Ok(Some(event)),
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        match timeout(self.shared.settings.write_timeout, self.stream.write_all(&self.output)).await {
            Ok(Ok(())) => {
                self.output.clear();
                Ok(())
            }
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Stuck),
        }
    }
}

/// When a session has lasted too long, or too long without anything complete.
struct Clock {
    idle_timeout: Duration,
    idle_deadline: Instant,
    session_deadline: Instant,
    /// Octets of message data in a window that are worth a complete command.
    window_octets_min: u64,
    window_start: Instant,
    window_octets: u64,
}

impl Clock {
    fn new(shared: &Shared) -> Clock {
        let now = Instant::now();
        let settings = &shared.settings;
        Clock {
            idle_timeout: settings.idle_timeout,
            idle_deadline: now + settings.idle_timeout,
            session_deadline: now + settings.session_age,
            window_octets_min: settings.data_rate * RATE_WINDOW.as_secs(),
            window_start: now,
            window_octets: 0,
        }
    }

    /// Something complete came or went.
    fn restart(&mut self) {
        self.idle_deadline = Instant::now() + self.idle_timeout;
    }

    /// Message data came. Only a minute's worth at the least rate counts: single octets keep no session open.
    fn count(&mut self, octets: usize) {
        self.window_octets += octets as u64;
        let now = Instant::now();
        if now.duration_since(self.window_start) > RATE_WINDOW {
            self.window_start = now;
            self.window_octets = octets as u64;
        }
        if self.window_octets >= self.window_octets_min {
            self.window_start = now;
            self.window_octets = 0;
            self.restart();
        }
    }

    fn is_session_over(&self) -> bool {
        Instant::now() > self.session_deadline
    }

    fn next(&self) -> (Instant, Event) {
        match self.session_deadline < self.idle_deadline {
            true => (self.session_deadline, Event::SessionExpired),
            false => (self.idle_deadline, Event::IdleTimeout),
        }
    }
}
