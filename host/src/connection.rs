//! One connection: octets in, events to the cell, effects out.

mod input;

use crate::busy_poll;
use crate::cell::{Effects, Facts, Fault};
use crate::clock::{Clock, within};
use crate::config::TlsUse;
use crate::end::End;
use crate::farewell::{LINGER, say_goodbye};
use crate::framing::Framer;
use crate::permits::Admission;
use crate::refusals::Refusals;
use crate::requests::Requests;
use crate::session::Session;
use crate::shared::{Drain, Entrance, Shared};
use crate::stream::Stream;
use crate::threads::others_first;
use bytes::BytesMut;
use mailcell_core::{Event, Input, Next, Reply, Request};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep};
use tracing::field::display;
use tracing::{Span, debug, info};

/// How many octets of responses may gather before they are written; reading stops meanwhile.
const OUTPUT_OCTETS_MAX: usize = 32 << 10;

/// How long a session waits for input before it is idle, about: only then does it look out for anything else.
const NAP: Duration = Duration::from_millis(50);

/// Serves a connection to its end.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    client: SocketAddr,
    mut admission: Admission,
    entrance: Arc<Entrance>,
    shared: Arc<Shared>,
) {
    shared.counters.sessions.fetch_add(1, Ordering::Relaxed);
    let mut stream = Stream::Clear(stream);
    if entrance.tls == TlsUse::Implicit && !secure(&mut stream, &shared).await {
        return;
    }
    // What the session has is given back before the client is waited for: only the last words are left.
    let (ended, mut output) = converse(&mut stream, client, &mut admission, &entrance, &shared).await;
    // Behind QUIT a client has nothing more to say, but that TLS ends. RFC 8446 6.1.
    let linger = if ended.is_ok() && !stream.is_secure() { Duration::ZERO } else { LINGER };
    match ended.as_ref().err().map(|end| end.last_words(&entrance.settings.name, &shared)) {
        None => debug!("closed"),
        Some(None) => return,
        Some(Some(words)) => output.extend_from_slice(words.as_bytes()),
    }
    // Whoever does not read is waited for while there is time for it.
    let patience = if shared.drain.is_on() { LINGER } else { entrance.settings.write_timeout };
    say_goodbye(&mut stream, &output, patience, linger).await;
}

/// Begins TLS; without success the connection is lost.
async fn secure<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut Stream<S>, shared: &Shared) -> bool {
    let Some(certificates) = &shared.certificates else { return false };
    let mut drain = shared.drain.clone();
    let secured = tokio::select! {
        secured = stream.secure(certificates.acceptor()) => secured,
        () = drain.ends() => return false,
    };
    if let Err(error) = &secured {
        info!(%error, "TLS does not begin");
    }
    secured.is_ok()
}

/// The session from its greeting to its end; gives what is still to be written, too.
async fn converse<S>(
    stream: &mut Stream<S>,
    client: SocketAddr,
    admission: &mut Admission,
    entrance: &Arc<Entrance>,
    shared: &Arc<Shared>,
) -> (Result<(), End>, Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let address = client.ip().to_canonical();
    let is_trusted = entrance.settings.xclient_from.iter().any(|network| network.contains(&address));
    let facts = Facts { config: entrance.core_config(shared, is_trusted), address: address.to_string() };
    let (session, effects) = match Session::open(shared, entrance, facts).await {
        Ok(opened) => opened,
        Err(fault) => return (Err(End::Fault(fault)), Vec::new()),
    };
    let mut connection = Connection {
        stream,
        clock: Clock::new(&entrance.settings, Instant::now()),
        nap: Box::pin(sleep(NAP)),
        drain: shared.drain.clone(),
        shared,
        entrance,
        session,
        admission,
        peer: address,
        is_trusted,
        requests: Requests::new(shared.clone(), entrance.clone(), address),
        refusals: Refusals::default(),
        framer: Framer::default(),
        input: BytesMut::new(),
        output: Vec::new(),
    };
    (connection.run(effects).await, connection.output)
}

struct Connection<'a, S> {
    stream: &'a mut Stream<S>,
    shared: &'a Shared,
    entrance: &'a Entrance,
    session: Session,
    admission: &'a mut Admission,
    /// The address that the connection came from.
    peer: IpAddr,
    /// Whether it is believed who its client is.
    is_trusted: bool,
    requests: Requests,
    refusals: Refusals,
    clock: Clock,
    /// Ends from time to time; whoever waits for input then is idle.
    nap: Pin<Box<Sleep>>,
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
            self.requests.settle().await;
            if self.output.len() > OUTPUT_OCTETS_MAX {
                self.flush().await?;
            }
            // A client that pipelines without end must not keep its thread from others.
            tokio::task::consume_budget().await;
            effects = match effects.next {
                Next::ReadLine { .. } => self.read_line().await?,
                Next::ReadData => self.read_data().await?,
                Next::AwaitReply(request) => {
                    if self.clock.is_overdue(Instant::now()) {
                        return Err(self.refuse("requests beyond the session's age"));
                    }
                    let reply = match request {
                        Request::AdmitClient { address } => self.admit(address.as_deref())?,
                        request => self.perform(request).await?,
                    };
                    self.clock.restart(Instant::now());
                    self.answer(reply).await?
                }
                Next::StartTls => self.start_tls().await?,
                // That is QUIT.
                Next::Close if effects.code.is_some_and(|code| code < 300) => return Ok(()),
                Next::Close => return Err(End::Unasked),
            };
        }
    }

    async fn tell(&mut self, input: Input<'_>) -> Result<Effects, End> {
        self.session.wake().await?;
        Ok(self.session.deliver(&input)?.effects)
    }

    /// The core is to blame for what the host does not do.
    fn refuse(&mut self, what: &'static str) -> End {
        let fault = Fault::Refused(what);
        self.session.blame(&fault);
        End::Fault(fault)
    }

    /// Tells what came of a request.
    async fn answer(&mut self, reply: Reply) -> Result<Effects, End> {
        let is_refused = reply == Reply::NotAdmitted;
        let effects = self.tell(Input::Reply(Cow::Owned(reply))).await?;
        self.refusals.reply(&effects);
        if is_refused && effects.next != Next::Close {
            return Err(self.refuse("a session of a client that was not admitted"));
        }
        if !matches!(effects.next, Next::AwaitReply(Request::NextPage)) {
            self.requests.forget_list();
        }
        Ok(effects)
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

    /// Limits, trace lines and the log have the address of the client that a trusted peer speaks for from here on.
    fn admit(&mut self, address: Option<&str>) -> Result<Reply, End> {
        if !self.is_trusted {
            return Err(self.refuse("another client, of a peer that is not trusted"));
        }
        let given = address.and_then(|address| address.parse::<IpAddr>().ok());
        let client = given.map_or(self.peer, |address| address.to_canonical());
        if let Err(why) = self.admission.go_to(client) {
            info!(%client, why, "client refused");
            return Ok(Reply::NotAdmitted);
        }
        Span::current().record("for_client", display(client));
        self.requests.name_client(client);
        self.session.name_client(client);
        Ok(Reply::Admitted)
    }

    async fn start_tls(&mut self) -> Result<Effects, End> {
        if !self.input.is_empty() {
            return Err(End::Injected);
        }
        self.flush().await?;
        if !secure(self.stream, self.shared).await {
            return Err(End::Gone);
        }
        // RFC 3207 4.2: what was said in the clear is forgotten, also whom a trusted peer speaks for.
        if self.is_trusted && self.admit(None)? == Reply::NotAdmitted {
            return Err(End::Fault(Fault::NoRoom));
        }
        self.clock.restart(Instant::now());
        self.tell(Input::Event(Event::TlsEstablished)).await
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        busy_poll::worked();
        others_first().await;
        let write = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        tokio::select! {
            biased;
            written = within(self.entrance.settings.write_timeout, write) => match written {
                Some(Ok(())) => {
                    self.output.clear();
                    Ok(())
                }
                Some(Err(_)) => Err(End::Gone),
                None => Err(End::Stuck),
            },
            () = self.drain.ends() => Err(End::Stuck),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every connection has one of these for as long as it lasts, and most of them do nothing.
    #[test]
    fn the_task_of_a_connection_is_small() {
        fn size<S, F: Future>(_: fn(S, SocketAddr, Admission, Arc<Entrance>, Arc<Shared>) -> F) -> usize {
            size_of::<F>()
        }
        let (task, session, requests) =
            (size(serve::<tokio::net::TcpStream>), size_of::<Session>(), size_of::<Requests>());
        assert!(task <= 4 << 10, "a task of {task} octets, {session} of them the session, {requests} its requests");
    }
}
