//! One connection: octets in, events to the cell, effects out.

use crate::cell::{Effects, Facts, Fault, limits};
use crate::framing::{Frame, Framer};
use crate::requests::Requests;
use crate::session::Session;
use crate::shared::{Drain, Shared};
use bytes::{Buf, BytesMut};
use mailcell_core::{Event, Input, Next, Reply, Request};
use std::borrow::Cow;
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
    let facts = Facts { config: shared.core_config().into(), address: address.to_string() };
    let ended = match Session::open(&shared, facts) {
        Ok((session, effects)) => {
            let requests = Requests::new(shared.clone(), address);
            let mut connection = Connection {
                stream: &mut stream,
                clock: Clock::new(&shared),
                drain: shared.drain.clone(),
                shared: &shared,
                session,
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
                Fault::Refused(_) | Fault::Unread(_) => &shared.counters.refusals,
                Fault::NoRoom => &shared.counters.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            match &shared.recordings {
                Some(_) => warn!(%fault, "the session is lost"),
                None => warn!(%fault, "the session is lost (with record-directory it would be kept)"),
            }
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
    session: Session,
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
                Next::ReadLine { .. } => self.read_line().await?,
                Next::ReadData => self.read_data().await?,
                Next::AwaitReply(request) => {
                    if self.clock.is_session_over() {
                        return Err(End::Fault(Fault::Refused("requests beyond the session's age")));
                    }
                    let reply = self.perform(request).await?;
                    self.clock.restart();
                    self.tell(Input::Reply(Cow::Owned(reply)))?
                }
                Next::Close => {
                    let output = std::mem::take(&mut self.output);
                    say_goodbye(self.stream, &output, self.shared.settings.write_timeout).await;
                    return Ok(());
                }
            };
        }
    }

    fn tell(&mut self, input: Input<'_>) -> Result<Effects, End> {
        Ok(self.session.deliver(&input)?.effects)
    }

    /// Carries out a request. A session that waits for its reply may move meanwhile.
    async fn perform(&mut self, request: Request) -> Result<Reply, End> {
        let performing = self.requests.perform(request);
        tokio::pin!(performing);
        loop {
            let turn = tokio::select! {
                biased;
                reply = &mut performing => return Ok(reply),
                turn = self.session.turn_to_follow() => turn,
            };
            self.session.follow()?;
            drop(turn);
        }
    }

    async fn read_line(&mut self) -> Result<Effects, End> {
        // A session that has more commands waiting is told as well as one that is idle.
        if self.drain.is_on() {
            return self.tell(Input::Event(Event::Drain));
        }
        loop {
            if self.session.ends() {
                return self.tell(Input::Event(Event::Drain));
            }
            match self.framer.next(&self.input, self.session.line_octets_max()) {
                Frame::Line(octets) => {
                    let effects = self.session.deliver(&Input::Line(self.input[..octets].into()))?.effects;
                    self.input.advance(octets + 2);
                    self.clock.restart();
                    return Ok(effects);
                }
                Frame::Foreign(octets) => {
                    let effects = self.session.deliver(&Input::Line(self.input[..octets].into()))?.effects;
                    self.input.advance(octets);
                    return Ok(effects);
                }
                Frame::TooLong(octets) => {
                    self.input.advance(octets);
                    self.clock.restart();
                    return self.tell(Input::Event(Event::LineTooLong));
                }
                Frame::Drop(octets) => self.input.advance(octets),
                Frame::Incomplete => {
                    if let Some(event) = self.fill(Drain::begins).await? {
                        return self.tell(Input::Event(event));
                    }
                }
            }
        }
    }

    async fn read_data(&mut self) -> Result<Effects, End> {
        while self.input.is_empty() {
            // Whoever is in the middle of a message may end it, until time is up.
            if let Some(event) = self.fill(Drain::ends).await? {
                return self.tell(Input::Event(event));
            }
        }
        let block = self.input.len().min(limits::BLOCK_OCTETS_MAX);
        let answer = self.session.deliver(&Input::Data(self.input[..block].into()))?;
        let (consumed, effects) = (answer.consumed, answer.effects);
        self.input.advance(consumed);
        self.clock.count(consumed);
        if let (Some(code), Next::ReadLine { .. } | Next::Close) = (effects.code, &effects.next) {
            info!(code, response = %String::from_utf8_lossy(&effects.output).trim_end(), "message refused");
        }
        Ok(effects)
    }

    /// Writes what there is to say and waits for input, for something to happen instead, or for the session to move.
    async fn fill(&mut self, drains: impl AsyncFnOnce(&mut Drain)) -> Result<Option<Event>, End> {
        self.flush().await?;
        self.input.reserve(READ_OCTETS);
        let (deadline, event) = self.clock.next();
        let turn = tokio::select! {
            read = self.stream.read_buf(&mut self.input) => return match read {
                Ok(1..) => Ok(None),
                Ok(0) | Err(_) => Err(End::Gone),
            },
            () = drains(&mut self.drain) => return Ok(Some(Event::Drain)),
            () = sleep_until(deadline) => return Ok(Some(event)),
            turn = self.session.turn_to_follow() => turn,
        };
        self.session.follow()?;
        drop(turn);
        Ok(None)
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
