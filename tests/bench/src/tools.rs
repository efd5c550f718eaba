//! What measures and what it is compared with: Postfix's generator and sink, from Debian's package, unpacked and not installed;
//! and the server.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a program may take to start or to end, and one run of the generator.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the asynchronous part of a row may take.
const ROW_TIME_MAX: Duration = Duration::from_secs(600);

/// Runs a measurement to its end, or to the end of its time.
pub(crate) fn run<T>(measure: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let measured = runtime.block_on(async { tokio::time::timeout(ROW_TIME_MAX, measure).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    measured.unwrap_or_else(|_| Err("it takes too long".to_owned()))
}

/// Where everything is.
pub(crate) struct Tools {
    /// The server.
    mailcell: PathBuf,
    /// Where Postfix's package lies unpacked.
    pub(crate) postfix: PathBuf,
}

/// What the generator sends.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Connections at once; each sends one message after the other.
    pub(crate) sessions: usize,
    /// Of a message.
    pub(crate) octets: usize,
    pub(crate) messages: usize,
}

impl Tools {
    pub(crate) fn find() -> Result<Tools, String> {
        let here = std::env::current_exe().map_err(|error| error.to_string())?;
        let mailcell = here.with_file_name("mailcell");
        if !mailcell.exists() {
            return Err(format!("{} is not built: use `just bench`", mailcell.display()));
        }
        let postfix = here.with_file_name("postfix-unpacked");
        if !postfix.join("usr/sbin/smtp-source").exists() {
            unpack(&postfix)?;
        }
        Ok(Tools { mailcell, postfix })
    }

    /// A command of Postfix's package.
    pub(crate) fn postfix_command(&self, program: &str) -> Command {
        let mut command = bound_to_this_program(self.postfix.join(program));
        command.env("LD_LIBRARY_PATH", self.libraries());
        command
    }

    pub(crate) fn libraries(&self) -> PathBuf {
        self.postfix.join("usr/lib/postfix")
    }

    /// Messages a second that the generator gets rid of there.
    pub(crate) fn rate(&self, address: SocketAddr, load: Load) -> Result<f64, String> {
        let mut source = self.postfix_command("usr/sbin/smtp-source");
        let Load { sessions, octets, messages } = load;
        source.args(["-d", "-f", "ann@client.test", "-t", "bob@mx.test"]);
        source.args(["-s", &sessions.to_string(), "-l", &octets.to_string(), "-m", &messages.to_string()]);
        source.arg(format!("inet:{address}")).stdout(Stdio::null());
        let start = Instant::now();
        let mut source = Running::start(source, "smtp-source")?;
        source.wait()?;
        Ok(messages as f64 / start.elapsed().as_secs_f64())
    }

    /// What throws mail away in C.
    pub(crate) fn sink(&self) -> Result<Served, String> {
        let address = free_address()?;
        let mut sink = self.postfix_command("usr/sbin/smtp-sink");
        if rustix::process::geteuid().is_root() {
            sink.args(["-u", "root"]);
        }
        sink.arg(format!("inet:{address}")).arg("1024").stdout(Stdio::null()).stderr(Stdio::null());
        Served::start(sink, "smtp-sink", address)
    }

    /// The server as a user runs it, its log in a file.
    pub(crate) fn mailcell(&self, arguments: &[&str]) -> Result<Served, String> {
        let mut serve = bound_to_this_program(&self.mailcell);
        serve.arg("serve").args(["--name", "mx.test"]).args(arguments);
        self.served(serve)
    }

    /// The server within this program, whose core is a component or native.
    pub(crate) fn within(&self, side: &str) -> Result<Served, String> {
        let mut serve = bound_to_this_program(std::env::current_exe().map_err(|error| error.to_string())?);
        serve.args(["serve", side]);
        self.served(serve)
    }

    fn served(&self, mut serve: Command) -> Result<Served, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MAILCELL_")) {
            serve.env_remove(name);
        }
        let address = free_address()?;
        let log = fs::File::create(directory.path().join("log")).map_err(|error| error.to_string())?;
        serve.arg("--listen").arg(address.to_string()).arg("--control").arg(directory.path().join("control"));
        serve.current_dir(directory.path()).stdout(Stdio::null()).stderr(log);
        let mut served = Served::start(serve, "mailcell", address)?;
        served.directory = Some(directory);
        Ok(served)
    }
}

/// Has Debian's tools fetch and unpack the package, and installs nothing.
fn unpack(to: &Path) -> Result<(), String> {
    let because = |error: std::io::Error| format!("cannot unpack Debian's package postfix: {error}");
    let place = tempfile::tempdir_in(to.parent().unwrap_or(to)).map_err(because)?;
    let mut fetch = Command::new("apt-get");
    fetch.args(["download", "-qq", "postfix"]).current_dir(place.path()).stdout(Stdio::null()).stderr(Stdio::null());
    Running::start(fetch, "apt-get download postfix")?.wait()?;
    let package = fs::read_dir(place.path()).map_err(because)?.flatten().map(|entry| entry.path()).next();
    let package = package.ok_or("apt-get has fetched no package postfix")?;
    let mut extract = Command::new("dpkg-deb");
    extract.arg("--extract").arg(package).arg(place.path().join("unpacked"));
    Running::start(extract, "dpkg-deb")?.wait()?;
    fs::rename(place.path().join("unpacked"), to).map_err(because)
}

/// A port of the loopback interface that nobody has.
pub(crate) fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(|error| error.to_string())
}

/// A command that the system tells to stop when this program is gone, however that ended.
pub(crate) fn bound_to_this_program(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=TERM").arg(program);
    command
}

/// A process that ends with this.
pub(crate) struct Running {
    child: Child,
    name: String,
}

impl Running {
    pub(crate) fn start(mut command: Command, name: &str) -> Result<Running, String> {
        let child = command.stdin(Stdio::null()).spawn().map_err(|error| format!("{name}: {error}"))?;
        Ok(Running { child, name: name.to_owned() })
    }

    fn wait(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("{} ended with {status}", self.name)),
                Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(2)),
                Ok(None) => return Err(format!("{} does not end", self.name)),
                Err(error) => return Err(format!("{}: {error}", self.name)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // In good order, so that what it has started ends with it.
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A server that listens.
pub(crate) struct Served {
    running: Running,
    pub(crate) address: SocketAddr,
    directory: Option<TempDir>,
}

impl Served {
    pub(crate) fn start(command: Command, name: &str, address: SocketAddr) -> Result<Served, String> {
        let mut served = Served { running: Running::start(command, name)?, address, directory: None };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline || !matches!(served.running.child.try_wait(), Ok(None)) {
                return Err(format!("{name} does not listen"));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(served)
    }

    /// The control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.directory.as_ref().map_or_else(PathBuf::new, |directory| directory.path().join("control"))
    }

    /// Resident memory in octets, pages that are shared counted once: all that it takes.
    pub(crate) fn resident_octets(&self) -> Result<f64, String> {
        resident_octets(self.running.child.id())
    }
}

/// Resident memory of a process in octets; pages that several mappings share count once.
pub(crate) fn resident_octets(process: u32) -> Result<f64, String> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("the kernel does not tell")?;
    line.trim().trim_end_matches(" kB").parse::<f64>().map(|kib| kib * 1024.0).map_err(|error| error.to_string())
}
