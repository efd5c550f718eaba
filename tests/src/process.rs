//! Programs that end with what started them, and a directory that goes with it.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a program may take to begin to listen, or to do what it is there for.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a program may take to end in good order.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// A port of the loopback interface that nobody has.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(|error| error.to_string())
}

/// A command that the system tells to stop when the thread that started it is gone, however that ended.
pub fn bound_to_this_program(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=TERM").arg(program);
    command
}

/// A process that ends with this, and all that it has started and left in its process group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    status: Option<ExitStatus>,
}

impl Running {
    /// Starts it, in a process group of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, name: &str) -> Result<Running, String> {
        command.stdin(Stdio::null()).process_group(0);
        let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        Ok(Running { child, name: name.to_owned(), status: None })
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When it does not end in time, or fails.
    pub fn wait(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return Err(format!("{} does not end", self.name));
            }
            sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().map_err(|error| format!("{}: {error}", self.name))?;
        self.status = Some(status);
        if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", self.name)) }
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// When it ends, or does not listen in time.
    pub fn wait_until_listening(&self, address: SocketAddr) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline || self.has_ended() {
                return Err(format!("{} does not listen", self.name));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether it has ended. It is left to be waited for, so its number stays its own.
    fn has_ended(&self) -> bool {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.status.is_some() || !matches!(waitid(WaitId::Pid(Pid::from_child(&self.child)), how), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that was waited for has no number any more.
        if self.status.is_some() {
            return;
        }
        let id = Pid::from_child(&self.child);
        // In good order, so that what it has started ends with it.
        kill_process(id, Signal::TERM).ok();
        let deadline = Instant::now() + END_TIME_MAX;
        while !self.has_ended() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        kill_process_group(id, Signal::KILL).ok();
        self.child.wait().ok();
    }
}

/// A directory that is removed when this is dropped, and also when this process ends without doing so.
#[derive(Debug)]
pub struct Directory {
    directory: TempDir,
    watch: Child,
}

impl Directory {
    /// Makes one whose name begins with `prefix`.
    ///
    /// # Errors
    /// Of the file system, or when there is no shell.
    pub fn make(prefix: &str) -> std::io::Result<Directory> {
        let directory = tempfile::Builder::new().prefix(prefix).tempdir()?;
        // A shell that waits for the end of its input, which comes with the end of this process.
        let script = "trap '' INT TERM HUP; read -r _; sleep 1; rm -rf -- \"$1\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(directory.path());
        let watch = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Directory { directory, watch })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The directory goes with its field. A watch that is gone already has removed it.
        self.watch.kill().ok();
        self.watch.wait().ok();
    }
}
