//! What measures and what it is compared with: Postfix's generator and sink, and the server.

use mailcell_tests::postfix::Package;
use mailcell_tests::process::{Running, bound_to_this_program, free_address};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Builder;

/// How long the asynchronous part of a row may take.
const ROW_TIME_MAX: Duration = Duration::from_secs(600);

/// Runs a measurement to its end, or to the end of its time. Its clients are on the thread that calls: what they take to wake each
/// other would be measured too.
pub(crate) fn run<T>(measure: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    run_on(Builder::new_current_thread(), measure)
}

/// The same on threads, for what blocks.
pub(crate) fn run_on_threads<T>(measure: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    run_on(Builder::new_multi_thread(), measure)
}

fn run_on<T>(mut builder: Builder, measure: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = builder.enable_all().build().map_err(|error| error.to_string())?;
    let measured = runtime.block_on(async { tokio::time::timeout(ROW_TIME_MAX, measure).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    measured.unwrap_or_else(|_| Err("it takes too long".to_owned()))
}

/// Where everything is.
pub(crate) struct Tools {
    /// The server.
    mailcell: PathBuf,
    /// Postfix's package.
    pub(crate) postfix: Package,
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
        Ok(Tools { mailcell, postfix: Package::find()? })
    }

    /// Messages a second that the generator gets rid of there.
    pub(crate) fn rate(&self, address: SocketAddr, load: Load) -> Result<f64, String> {
        let mut source = self.postfix.command("usr/sbin/smtp-source");
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
        let mut sink = self.postfix.command("usr/sbin/smtp-sink");
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
    pub(crate) fn within(&self, side: &str, database: &str) -> Result<Served, String> {
        let mut serve = bound_to_this_program(std::env::current_exe().map_err(|error| error.to_string())?);
        serve.args(["serve", side, "--database", database]);
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

/// A server that listens.
pub(crate) struct Served {
    running: Running,
    pub(crate) address: SocketAddr,
    directory: Option<TempDir>,
}

impl Served {
    fn start(command: Command, name: &str, address: SocketAddr) -> Result<Served, String> {
        let running = Running::start(command, name)?;
        running.wait_until_listening(address)?;
        Ok(Served { running, address, directory: None })
    }

    /// The control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.directory.as_ref().map_or_else(PathBuf::new, |directory| directory.path().join("control"))
    }

    /// Resident memory in octets, pages that are shared counted once: all that it takes.
    pub(crate) fn resident_octets(&self) -> Result<f64, String> {
        resident_octets(self.running.id())
    }
}

/// Resident memory of a process in octets; pages that several mappings share count once.
pub(crate) fn resident_octets(process: u32) -> Result<f64, String> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("the kernel does not tell")?;
    line.trim().trim_end_matches(" kB").parse::<f64>().map(|kib| kib * 1024.0).map_err(|error| error.to_string())
}
