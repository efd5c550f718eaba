//! What a client sends: lines and blocks, and what happens while none comes.

use super::{Connection, NAP};
use crate::buffers;
use crate::cell::{Effects, limits};
use crate::end::End;
use crate::framing::Frame;
use crate::refusals::last_response;
use crate::shared::Drain;
use bytes::Buf;
use mailcell_core::{Event, Input, Next};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tracing::info;

/// How often an idle session that keeps its cell looks whether others need one.
const LOOK_UP: Duration = Duration::from_secs(2);

fn is_read(read: std::io::Result<usize>) -> Result<Option<Event>, End> {
    if matches!(read, Ok(1..)) { Ok(None) } else { Err(End::Gone) }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    pub(super) async fn read_line(&mut self) -> Result<Effects, End> {
        // A session that has more commands waiting is told as well as one that is idle.
        if self.drain.is_on() {
            return self.tell(Input::Event(Event::Drain)).await;
        }
        if self.clock.is_session_over(Instant::now()) {
            return self.tell(Input::Event(Event::SessionExpired)).await;
        }
        loop {
            if self.session.ends() {
                return self.tell(Input::Event(Event::Drain)).await;
            }
            match self.framer.next(&self.input, self.session.line_octets_max()) {
                frame @ (Frame::Line(octets) | Frame::Foreign(octets)) => {
                    self.session.wake().await?;
                    let is_secret = self.session.is_line_secret();
                    let effects = self.session.deliver(&Input::Line(self.input[..octets].into()))?.effects;
                    let shown = if is_secret { b"" } else { &self.input[..octets] };
                    self.refusals.command(shown, &effects);
                    self.input.advance(octets);
                    if let Frame::Line(_) = frame {
                        self.input.advance(2);
                        self.clock.restart(Instant::now());
                    }
                    return Ok(effects);
                }
                frame @ (Frame::TooLong(octets) | Frame::LongChunk(octets)) => {
                    self.input.advance(octets);
                    self.clock.restart(Instant::now());
                    // Behind a line of BDAT is a chunk, so the core is told of it, and finds no size.
                    let of_chunk = matches!(frame, Frame::LongChunk(_)) && !self.session.is_line_secret();
                    let input = if of_chunk { Input::Line(b"BDAT".into()) } else { Input::Event(Event::LineTooLong) };
                    return self.tell(input).await;
                }
                Frame::Drop(octets) => {
                    self.input.advance(octets);
                    // Where there is always more to read, nobody waits until time is up.
                    let (deadline, event) = self.clock.next();
                    let event = if self.drain.is_on() { Event::Drain } else { event };
                    if event == Event::Drain || Instant::now() >= deadline {
                        return self.tell(Input::Event(event)).await;
                    }
                }
                Frame::Incomplete => {
                    if let Some(event) = self.fill(Drain::begins).await? {
                        return self.tell(Input::Event(event)).await;
                    }
                }
            }
        }
    }

    pub(super) async fn read_data(&mut self) -> Result<Effects, End> {
        // Nor here does anybody wait where there is always more to read.
        if self.drain.is_over() {
            return self.tell(Input::Event(Event::Drain)).await;
        }
        if self.clock.is_session_over(Instant::now()) {
            return self.tell(Input::Event(Event::SessionExpired)).await;
        }
        while self.input.is_empty() {
            // Whoever is in the middle of a message may end it, until time is up.
            if let Some(event) = self.fill(Drain::ends).await? {
                return self.tell(Input::Event(event)).await;
            }
        }
        self.session.wake().await?;
        let block = self.input.len().min(limits::BLOCK_OCTETS_MAX);
        let answer = self.session.deliver(&Input::Data(self.input[..block].into()))?;
        let (consumed, effects) = (answer.consumed, answer.effects);
        self.input.advance(consumed);
        self.clock.count(consumed, Instant::now());
        if let (Some(code @ 400..), Next::ReadLine { .. } | Next::Close) = (effects.code, &effects.next) {
            info!(code, response = last_response(&effects), "message refused");
        }
        Ok(effects)
    }

    /// Writes what there is to say and waits for input, for something to happen instead, or for the session to move.
    async fn fill(&mut self, drains: impl AsyncFn(&mut Drain)) -> Result<Option<Event>, End> {
        self.flush().await?;
        // Who is about to say something is not worth a timer and two queues.
        tokio::select! {
            biased;
            read = buffers::read(self.stream, &mut self.input) => return is_read(read),
            () = self.nap.as_mut() => {}
        }
        let bedtime = Instant::now() + self.shared.cells.patience(self.shared.settings.hibernate_after);
        loop {
            let (deadline, event) = self.clock.next();
            let look_up = if self.session.can_hibernate() { bedtime.min(Instant::now() + LOOK_UP) } else { deadline };
            let turn = tokio::select! {
                read = buffers::read(self.stream, &mut self.input) => {
                    self.nap.as_mut().reset(Instant::now() + NAP);
                    return is_read(read);
                }
                () = drains(&mut self.drain) => return Ok(Some(Event::Drain)),
                () = sleep_until(deadline.min(look_up)) => None,
                turn = self.session.turn_to_follow() => Some(turn),
            };
            match turn {
                Some(_turn) => {
                    self.session.follow_in_turn().await?;
                    self.output = Vec::new();
                    return Ok(None);
                }
                None if Instant::now() >= deadline => return Ok(Some(event)),
                None if Instant::now() >= bedtime || self.shared.cells.are_scarce() => {
                    self.session.hibernate()?;
                    self.output = Vec::new();
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cell::{DEFAULT_CORE, Generation};
    use crate::config::{DEFAULT_SLOT, Settings};
    use crate::server::{self, Server};
    use crate::shared::Entrance;
    use crate::store::discard::Discard;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    /// Whether a session ends whose client sends this and then the same octet without end, on a server that is stopped or not. There
    /// is always more to read, so nobody ever waits for input.
    async fn ends(start: &'static [u8], settings: Settings, is_stopped: bool) -> bool {
        let settings = Settings { listen: Vec::new(), control: None, ..settings };
        let core = Generation::from_bytes(&server::engine(&settings).unwrap(), DEFAULT_CORE).unwrap();
        let store = Arc::new(Discard);
        let server = Server::bind(settings.clone(), store, server::default_core(core)).await.unwrap();
        let slot = server.slots().get(DEFAULT_SLOT).unwrap().slot().clone();
        let listener = "127.0.0.1:0".parse().unwrap();
        let entrance = Arc::new(Entrance::new(&listener, &settings, slot).unwrap());
        let endless = tokio::io::join(start.chain(tokio::io::repeat(b'x')), tokio::io::sink());
        let (counted, ended) = oneshot::channel::<()>();
        server.reception().receive(endless, ([127, 0, 0, 1], 0).into(), &entrance, counted);
        tokio::spawn(server.run(async move {
            match is_stopped {
                true => tokio::time::sleep(TIME).await,
                false => std::future::pending().await,
            }
        }));
        // It ends without a word when the connection does.
        timeout(Duration::from_secs(10), ended).await.is_ok()
    }

    const TIME: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_line_without_end_is_no_way_around_the_idle_timeout() {
        assert!(ends(b"", Settings { idle_timeout: TIME, ..Settings::default() }, false).await);
    }

    #[tokio::test]
    async fn data_without_end_are_no_way_around_the_end_of_the_server() {
        let start = b"EHLO client.test\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
        assert!(ends(start, Settings { drain_timeout: TIME, ..Settings::default() }, true).await);
    }
}
