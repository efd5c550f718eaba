//! Many sessions at once, each of which checks every response, and what became of their messages.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a response may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session of a client.
pub struct Session(BufReader<TcpStream>);

impl Session {
    /// Connects, and expects to be greeted.
    ///
    /// # Errors
    /// What came in the place of a greeting.
    pub async fn open(address: SocketAddr) -> Result<Session, String> {
        let connected = timeout(PATIENCE, TcpStream::connect(address)).await.map_err(|_| "no connection".to_owned())?;
        let stream = connected.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut session = Session(BufReader::with_capacity(1 << 10, stream));
        session.expect("220", "a greeting").await?;
        Ok(session)
    }

    /// Sends octets.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(octets).await
    }

    /// Reads a whole response.
    ///
    /// # Errors
    /// When the connection ends, or nothing comes.
    pub async fn read(&mut self) -> Result<String, String> {
        let mut response = String::new();
        loop {
            let start = response.len();
            match timeout(PATIENCE, self.0.read_line(&mut response)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err(format!("closed after {response:?}")),
                Ok(Err(error)) => return Err(format!("{error} after {response:?}")),
                Err(_) => return Err("no response".to_owned()),
            }
            if response.as_bytes().get(start + 3) != Some(&b'-') {
                return Ok(response);
            }
        }
    }

    /// Reads a response of that code.
    ///
    /// # Errors
    /// What came instead, and to what.
    pub async fn expect(&mut self, code: &str, what: &str) -> Result<String, String> {
        match self.read().await {
            Ok(response) if response.starts_with(code) => Ok(response),
            Ok(response) => Err(format!("{what}: expected {code}, got {response:?}")),
            Err(error) => Err(format!("{what}: {error}")),
        }
    }

    /// Sends a line and expects that code.
    ///
    /// # Errors
    /// What came instead.
    pub async fn say(&mut self, line: &str, code: &str) -> Result<String, String> {
        self.send(format!("{line}\r\n").as_bytes()).await.map_err(|error| format!("{line}: {error}"))?;
        self.expect(code, line).await
    }

    /// Whether nothing more is to be read than has been asked for.
    pub fn has_nothing_left(&self) -> bool {
        self.0.buffer().is_empty()
            && matches!(self.0.get_ref().try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A message of one session, so that no two are alike: with dots, long lines and all octets that text has.
pub fn message(session: usize, number: usize) -> Vec<u8> {
    let mut message = format!("Subject: {session}/{number}\r\nX-Dots: ..\r\n\r\n.{session}\r\n..\r\n").into_bytes();
    for line in 0..(session + number) % 40 {
        let octets = (0..(line * 37 + number) % 900).map(|at| b' ' + ((at * 7 + session + line) % 95) as u8);
        message.extend(octets);
        message.extend(b"\r\n");
    }
    message
}

/// A message as it goes over the wire, with its end.
pub fn on_the_wire(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        wire.extend(line.starts_with(b".").then_some(b'.'));
        wire.extend(line);
    }
    wire.extend(b".\r\n");
    wire
}

/// What became of the messages of a load: the accepted ones by their id.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The id that a 250 gave, and the message.
    pub accepted: BTreeMap<String, Vec<u8>>,
    /// What was not as it must be.
    pub errors: Vec<String>,
    /// The longest time that a session waited for a response.
    pub longest: Duration,
}

/// Sessions that send messages until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    unavailable: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Outcome>>,
}

impl Load {
    /// Starts so many sessions. With `patient`, a 421 because of the database is no error, and the session comes again.
    pub fn start(address: SocketAddr, sessions: usize, patient: bool) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (accepted, unavailable) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let task = |number| {
            let sender = Sender {
                address,
                number,
                patient,
                stop: stop.clone(),
                accepted: accepted.clone(),
                unavailable: unavailable.clone(),
                outcome: Outcome::default(),
            };
            tokio::spawn(sender.run())
        };
        let tasks = (0..sessions).map(task).collect();
        Load { stop, accepted, unavailable, tasks }
    }

    /// Messages that were accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Waits until a session has ended with the 421 of a database that does not answer.
    ///
    /// # Panics
    /// When none does.
    pub async fn meet_an_outage(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.unavailable.load(Relaxed) == 0 {
            assert!(Instant::now() < deadline, "the outage is not seen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many more messages were accepted.
    ///
    /// # Panics
    /// When they are not.
    pub async fn flow(&self, messages: u64) {
        let until = self.accepted() + messages;
        let deadline = Instant::now() + PATIENCE;
        while self.accepted() < until {
            assert!(Instant::now() < deadline, "mail does not flow");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Has every session end its message, and gives what became of all of them.
    ///
    /// # Panics
    /// When a session panics.
    pub async fn stop(self) -> Outcome {
        self.stop.store(true, Relaxed);
        let mut all = Outcome::default();
        for task in self.tasks {
            let outcome = task.await.expect("a session does not panic");
            for (id, message) in outcome.accepted {
                if all.accepted.insert(id.clone(), message).is_some() {
                    all.errors.push(format!("{id} was given twice"));
                }
            }
            all.errors.extend(outcome.errors);
            all.longest = all.longest.max(outcome.longest);
        }
        all
    }
}

struct Sender {
    address: SocketAddr,
    number: usize,
    patient: bool,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    unavailable: Arc<AtomicU64>,
    outcome: Outcome,
}

impl Sender {
    async fn run(mut self) -> Outcome {
        let mut sent = 0;
        while !self.stop.load(Relaxed) {
            match self.session(&mut sent).await {
                Ok(()) => {}
                Err(error) if self.patient && error.contains("421 4.3.0") => {
                    self.unavailable.fetch_add(1, Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => {
                    self.outcome.errors.push(format!("session {}: {error}", self.number));
                    break;
                }
            }
        }
        self.outcome
    }

    async fn session(&mut self, sent: &mut usize) -> Result<(), String> {
        let mut session = Session::open(self.address).await?;
        session.say("EHLO client.test", "250").await?;
        while !self.stop.load(Relaxed) {
            *sent += 1;
            let message = message(self.number, *sent);
            // Pipelined, then in two parts: a core may be replaced behind each of them.
            let commands = b"MAIL FROM:<ann@client.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\n";
            session.send(commands).await.map_err(|error| error.to_string())?;
            for (code, what) in [("250", "MAIL"), ("250", "RCPT"), ("354", "DATA")] {
                session.expect(code, what).await?;
            }
            let wire = on_the_wire(&message);
            let (start, rest) = wire.split_at(wire.len() * (*sent % 7) / 7);
            session.send(start).await.map_err(|error| error.to_string())?;
            tokio::time::sleep(Duration::from_millis((self.number % 5) as u64)).await;
            session.send(rest).await.map_err(|error| error.to_string())?;
            let asked = Instant::now();
            let response = session.expect("250 2.0.0 Stored as ", "the end of data").await?;
            self.outcome.longest = self.outcome.longest.max(asked.elapsed());
            let id = response.trim_end().rsplit(' ').next().unwrap_or_default().to_owned();
            self.outcome.accepted.insert(id, message);
            self.accepted.fetch_add(1, Relaxed);
            if !session.has_nothing_left() {
                return Err("a response that nobody asked for".to_owned());
            }
        }
        session.say("QUIT", "221").await?;
        match session.read().await {
            Err(error) if error.starts_with("closed") => Ok(()),
            other => Err(format!("after QUIT: {other:?}")),
        }
    }
}
