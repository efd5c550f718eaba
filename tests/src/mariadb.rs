//! A MariaDB server of one test's own: a private directory, a free port of the loopback interface, real durability.
//!
//! It ends with its [`MariaDb`], and also with the test process, however that ends: `setpriv --pdeathsig` ends the
//! server, and its [`Directory`] goes as well.

use crate::process::Directory;
use rustix::process::{PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long a start or an orderly stop may take.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);
/// Whom the server runs as when the tests run as root, which it refuses to run as.
const SERVER_USER: &str = "mysql";

/// Why there is no server, or not the state that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MariaDbError(String);

type Result<T> = std::result::Result<T, MariaDbError>;

fn fail<T>(text: impl Into<String>) -> Result<T> {
    Err(MariaDbError(text.into()))
}

fn because<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> MariaDbError {
    move |error| MariaDbError(format!("{what}: {error}"))
}

/// A running or stopped server. Dropping it ends the server and removes its directory.
#[derive(Debug)]
pub struct MariaDb {
    process: Option<Process>,
    directory: Directory,
    options: Vec<String>,
    password: String,
    port: u16,
}

/// The server process, seen through a descriptor: a signal never reaches another process that has its number now.
#[derive(Debug)]
struct Process {
    id: u32,
    descriptor: OwnedFd,
    /// The thread that started the server and waits for its end. `PDEATHSIG` is sent when the *thread* that is the
    /// parent ends, so a test's own thread will not do.
    keeper: JoinHandle<std::io::Result<ExitStatus>>,
}

impl MariaDb {
    /// Makes a server and starts it.
    ///
    /// # Errors
    /// When MariaDB is not installed or does not come up.
    pub fn launch() -> Result<MariaDb> {
        MariaDb::launch_with(&[])
    }

    /// As [`MariaDb::launch`], with more options of `mariadbd`, as `--max-allowed-packet=1M`.
    ///
    /// # Errors
    /// As [`MariaDb::launch`].
    pub fn launch_with(options: &[&str]) -> Result<MariaDb> {
        for program in ["mariadbd", "mariadb-install-db", "mariadb", "setpriv"] {
            find(program)?;
        }
        let directory = Directory::make("mailcell-mariadb-").map_err(because("no directory"))?;
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .map_err(because("no port"))?
            .port();
        let random = || RandomState::new().build_hasher().finish();
        let mut server = MariaDb {
            process: None,
            directory,
            options: options.iter().map(|option| option.to_string()).collect(),
            password: format!("{:016x}{:016x}", random(), random()),
            port,
        };
        server.install()?;
        server.start()?;
        Ok(server)
    }

    /// The port on 127.0.0.1, which stays over [`MariaDb::stop`] and [`MariaDb::start`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates a database, empty also if there was one of that name, and gives its URL.
    ///
    /// # Errors
    /// When the server does not do it.
    pub fn database(&self, name: &str) -> Result<String> {
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "no plain name: {name}");
        self.sql(&format!("CREATE OR REPLACE DATABASE {name} CHARACTER SET utf8mb4"))?;
        Ok(format!("mysql://root:{}@127.0.0.1:{}/{name}", self.password, self.port))
    }

    /// Carries out statements as root, and gives rows as lines and columns between tabs.
    ///
    /// # Errors
    /// What the client says; a server that does not answer is one within seconds.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let mut client = Command::new(find("mariadb")?);
        client.args([
            "--no-defaults",
            "--protocol=tcp",
            "--host=127.0.0.1",
            "--user=root",
            "--batch",
            "--skip-column-names",
        ]);
        client.args(["--connect-timeout=3", &format!("--port={}", self.port), "--execute", statements]);
        let output = client.env("MYSQL_PWD", &self.password).output().map_err(because("mariadb"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => fail(String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    /// Starts the stopped server again, on the same data and port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self) -> Result<()> {
        assert!(self.process.is_none(), "it runs already");
        self.process = Some(Process::start(self.server_command()?)?);
        let start = Instant::now();
        loop {
            let Err(error) = self.sql("SELECT 1") else { return Ok(()) };
            let ended = self.process.as_ref().is_none_or(|process| process.keeper.is_finished());
            if ended || start.elapsed() > DEADLINE {
                let log = fs::read_to_string(self.path("error.log")).unwrap_or_default();
                self.kill();
                return fail(format!("MariaDB does not come up: {error}\n{log}"));
            }
            sleep(POLL);
        }
    }

    /// Stops the server in good order, a frozen one too.
    ///
    /// # Errors
    /// When it does not stop; it is killed then.
    pub fn stop(&mut self) -> Result<()> {
        let process = self.process.take().expect("it runs");
        process.signal(Signal::CONT)?;
        process.signal(Signal::TERM)?;
        if process.ends_within(DEADLINE) {
            return Ok(());
        }
        process.kill();
        fail("MariaDB does not stop")
    }

    /// Ends the server at once, as a crash does; nothing happens if it is stopped.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Stops the server in the middle of whatever it does: it stays connected and does not answer.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn freeze(&self) -> Result<()> {
        self.running().signal(Signal::STOP)?;
        self.wait_until(|state| state == 'T')
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn thaw(&self) -> Result<()> {
        self.running().signal(Signal::CONT)?;
        self.wait_until(|state| state != 'T')
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    fn wait_until(&self, reached: impl Fn(char) -> bool) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.running().id)).map_err(because("/proc"))?;
            // "pid (name) state": the name may hold anything but ends at the last parenthesis.
            if stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).is_some_and(&reached) {
                return Ok(());
            }
            sleep(POLL);
        }
        fail("the server does not follow its signal")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn install(&self) -> Result<()> {
        let write = because("the server's directory");
        fs::create_dir(self.path("tmp")).map_err(&write)?;
        let password = &self.password;
        let statements = format!(
            "ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n\
             CREATE USER IF NOT EXISTS 'root'@'127.0.0.1';\n\
             ALTER USER 'root'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
             GRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n"
        );
        fs::write(self.path("init.sql"), statements).map_err(&write)?;
        fs::set_permissions(self.path("init.sql"), fs::Permissions::from_mode(0o600)).map_err(&write)?;

        let mut install = Command::new(find("mariadb-install-db")?);
        install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
        install.arg(option("datadir", &self.path("data"))).arg(option("tmpdir", &self.path("tmp")));
        if geteuid().is_root() {
            install.arg(format!("--user={SERVER_USER}"));
            let (user, group) = (id("-u")?, id("-g")?);
            for path in [self.directory.path(), &self.path("tmp"), &self.path("init.sql")] {
                chown(path, Some(user), Some(group)).map_err(&write)?;
            }
        }
        let output = install.output().map_err(because("mariadb-install-db"))?;
        match output.status.success() {
            true => Ok(()),
            false => fail(format!("mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn server_command(&self) -> Result<Command> {
        let mut command = Command::new(find("setpriv")?);
        command.arg("--pdeathsig=KILL");
        if geteuid().is_root() {
            command.args([&format!("--reuid={SERVER_USER}"), &format!("--regid={SERVER_USER}"), "--init-groups"]);
        }
        command.arg(find("mariadbd")?).args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        // Less memory for many servers at once. What makes a commit durable stays at its default.
        command.args(["--innodb-buffer-pool-size=64M", "--key-buffer-size=1M"]).arg(format!("--port={}", self.port));
        let files =
            [("datadir", "data"), ("tmpdir", "tmp"), ("socket", "s"), ("pid-file", "pid"), ("log-error", "error.log")];
        command
            .args(files.map(|(name, file)| option(name, &self.path(file))))
            .arg(option("init-file", &self.path("init.sql")));
        command.args(&self.options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    fn start(mut command: Command) -> Result<Process> {
        let (sender, receiver) = mpsc::channel();
        let keeper = std::thread::spawn(move || {
            let mut child = command.spawn()?;
            let pid = rustix::process::Pid::from_child(&child);
            // Not waited for yet, so the number is the child's still.
            let descriptor = pidfd_open(pid, PidfdFlags::empty());
            if descriptor.is_err() {
                child.kill()?;
            }
            sender.send((child.id(), descriptor)).ok();
            child.wait()
        });
        match receiver.recv() {
            Ok((id, descriptor)) => Ok(Process { id, descriptor: descriptor.map_err(because("pidfd_open"))?, keeper }),
            Err(_) => match keeper.join() {
                Ok(Err(error)) => fail(format!("mariadbd: {error}")),
                _ => fail("mariadbd was not started"),
            },
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.descriptor, signal).map_err(because("the server has ended by itself"))
    }

    fn ends_within(&self, time: Duration) -> bool {
        let start = Instant::now();
        while !self.keeper.is_finished() && start.elapsed() < time {
            sleep(POLL);
        }
        self.keeper.is_finished()
    }

    fn kill(self) {
        // An error says that it has ended, which is what is wanted.
        self.signal(Signal::KILL).ok();
        self.keeper.join().ok();
    }
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn id(which: &str) -> Result<u32> {
    let output = Command::new("id").args([which, SERVER_USER]).output().map_err(because("id"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim().parse().or_else(|_| fail(format!("there is no user {SERVER_USER}: run `just setup`")))
}

/// Finds a program, also where only root's `PATH` looks.
fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(system).map(|place| place.join(program));
    places
        .find(|path| path.is_file())
        .ok_or_else(|| MariaDbError(format!("{program} is not installed: run `just setup`")))
}
