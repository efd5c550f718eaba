//! The program as a process, and a plain client to talk to it line by line.

use crate::process::bound_to_this_program;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, octet for octet.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A running server. Dropping it ends the process.
pub struct Server {
    process: Child,
    directory: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
    log: Receiver<String>,
    /// What it logged until it listened.
    pub log_of_start: String,
}

fn address_in(line: &str) -> SocketAddr {
    let port = line.split("127.0.0.1:").nth(1).expect("it says where");
    let port = port.split(|c: char| !c.is_ascii_digit()).next().expect("a text has a first part");
    ([127, 0, 0, 1], port.parse().expect("a port")).into()
}

/// A command of the program, with nothing of this process's own settings.
pub fn command(program: &Path, arguments: &[&str]) -> Command {
    without_settings(Command::new(program), arguments)
}

fn without_settings(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MAILCELL_")) {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end, with `input` on its standard input.
///
/// # Panics
/// When it cannot be started, or does not end in time.
pub fn run(mut command: Command, input: &[u8]) -> Finished {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that has seen enough closes early.
        let _ = stdin.write_all(&input);
    });
    let (sender, receiver) = channel();
    let id = rustix::process::Pid::from_child(&child);
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(PATIENCE) else {
        rustix::process::kill_process(id, rustix::process::Signal::KILL).ok();
        panic!("{shown} does not end");
    };
    writer.join().expect("writing does not panic");
    let Output { status, stdout, stderr } = output.expect("a child can be waited for");
    Finished { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
}

impl Server {
    /// Starts a server on a free port of the loopback interface, and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Server {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let mut serve = without_settings(bound_to_this_program(program), &["serve", "--listen", "127.0.0.1:0"]);
        if !arguments.contains(&"--name") {
            serve.args(["--name", "mx.test"]);
        }
        serve.arg("--control").arg(directory.path().join("control"));
        serve.args(arguments).envs(environment.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = serve.spawn().expect("the program starts");
        let stderr = process.stderr.take().expect("it is piped");
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { process, directory, address, log, log_of_start: String::new() };
        let (before, line) = server.read_log_until("listening");
        (server.log_of_start, server.address) = (before, address_in(&line));
        server
    }

    /// Waits until a further listener is there, in the order of the arguments, and says where.
    ///
    /// # Panics
    /// When there is none.
    pub fn wait_for_listener(&self) -> SocketAddr {
        address_in(&self.wait_for_log("listening"))
    }
    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, signal).expect("it is a child of ours");
    }

    /// Waits for a line of the log that holds `text`.
    ///
    /// # Panics
    /// When none comes.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.read_log_until(text).1
    }

    /// The lines in front of the one that holds `text`, and that one.
    ///
    /// # Panics
    /// When none comes.
    pub fn read_log_until(&self, text: &str) -> (String, String) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = String::new();
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return (seen, line),
                Ok(line) => seen += &(line + "\n"),
                Err(_) => panic!("no {text:?} in the log:\n{seen}"),
            }
        }
    }

    /// Opens a session and reads the greeting.
    pub fn connect(&self) -> Client {
        let (client, greeting) = self.connect_raw();
        assert!(greeting.starts_with("220 mx.test "), "{greeting}");
        client
    }

    /// Connects, and gives the first response whatever it is.
    pub fn connect_raw(&self) -> (Client, String) {
        let mut client = Client::connect(self.address);
        let greeting = client.read();
        (client, greeting)
    }

    /// Connects until a connection is greeted: one that was given back has a place at last.
    pub fn wait_until_greeted(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.connect_raw().1.starts_with("220 ") {
            assert!(Instant::now() < deadline, "no connection is greeted");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Tells the server to stop.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Waits until the process ends.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.process.try_wait().expect("a child can be waited for") {
                Some(status) => return status,
                None => assert!(Instant::now() < deadline, "the server does not end"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory of the process, in octets.
    pub fn resident_octets(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it ever was.
    pub fn peak_octets(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, kind: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(kind)).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A session with a server.
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects, and reads nothing.
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("an option can be set");
        Client(BufReader::new(stream))
    }

    /// Sends a line and reads the response to it.
    pub fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.read()
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) {
        self.try_send(octets).expect("the server reads");
    }

    /// Sends octets, or says that the server has closed.
    ///
    /// # Errors
    /// Of the connection.
    pub fn try_send(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(octets)
    }

    /// Reads a whole response; empty at the end of the connection.
    pub fn read(&mut self) -> String {
        let mut response = String::new();
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(1..) => response += &line,
                Ok(0) | Err(_) => return response,
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return response;
            }
        }
    }

    /// Whether the server has closed; waits for it.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }

    /// Greets, and names a sender and a recipient.
    pub fn begin_message(&mut self) {
        for (line, code) in [
            ("EHLO client.test", "250"),
            ("MAIL FROM:<ann@client.test>", "250"),
            ("RCPT TO:<bob@mx.test>", "250"),
            ("DATA", "354"),
        ] {
            let response = self.say(line);
            assert!(response.starts_with(code), "{line}: {response}");
        }
    }

    /// Sends a whole message, and gives the response to its end.
    pub fn send_message(&mut self, octets: &str) -> String {
        self.begin_message();
        self.say(&format!("{octets}\r\n."))
    }
}
