//! A real Postfix in a private directory, from Debian's package, unpacked by `just setup` and not installed: an installed one
//! would be the machine's mail system. Its queue is durable: each message is on disk before it is answered.

use crate::process::{Directory, Running, bound_to_this_program, free_address};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Accounts that every Debian has and that own nothing which runs: Postfix asks for some of its own, and none is made for this.
const OWNER: &str = "mail";
const GROUP: &str = "games";

/// How long Postfix may take until it has logged something.
const LOG_TIME_MAX: Duration = Duration::from_secs(60);

/// Debian's package, unpacked.
#[derive(Debug)]
pub struct Package(PathBuf);

impl Package {
    /// Finds it in the target directory, which this program is somewhere in.
    ///
    /// # Errors
    /// When it is not there.
    pub fn find() -> Result<Package, String> {
        let here = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut places = here.ancestors().map(|place| place.join("postfix-unpacked"));
        let place = places.find(|place| place.join("usr/lib/postfix/sbin/master").exists());
        place.map(Package).ok_or_else(|| "Postfix is not unpacked: run `just setup`".to_owned())
    }

    /// A program of the package, by its path there.
    pub fn command(&self, program: &str) -> Command {
        let mut command = bound_to_this_program(self.0.join(program));
        command.env("LD_LIBRARY_PATH", self.libraries());
        command
    }

    fn libraries(&self) -> PathBuf {
        self.0.join("usr/lib/postfix")
    }
}

/// A running Postfix. Dropping it ends all of it.
#[derive(Debug)]
pub struct Postfix {
    master: Running,
    /// Where it takes mail by SMTP.
    pub address: SocketAddr,
    directory: Directory,
}

impl Postfix {
    /// Whether it can be started here: it has its daemons run as somebody else.
    pub fn is_possible() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Starts one, with more lines of its two files of configuration: `settings` of main.cf, which say at least where mail goes,
    /// and `services` of master.cf, which take it there.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(package: &Package, settings: &str, services: &str) -> Result<Postfix, String> {
        if !Postfix::is_possible() {
            return Err("Postfix starts as root only".to_owned());
        }
        let because = |error: std::io::Error| format!("Postfix: {error}");
        let directory = Directory::make("mailcell-postfix-").map_err(because)?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).map_err(because)?;
        let address = free_address()?;
        let (owner, group) = (owner()?, group()?);
        make_places(directory.path(), owner, group).map_err(because)?;
        let etc = directory.path().join("etc");
        fs::write(etc.join("main.cf"), main_cf(package, directory.path()) + settings).map_err(because)?;
        fs::write(etc.join("master.cf"), master_cf(address.port()) + services).map_err(because)?;
        fs::write(etc.join("dynamicmaps.cf"), "").map_err(because)?;
        // It leads a process group: at its end, master ends all of it.
        let mut master = package.command("usr/lib/postfix/sbin/master");
        master.arg("-c").arg(&etc).arg("-d").env("MAIL_CONFIG", &etc);
        master.stdout(Stdio::null()).stderr(Stdio::null());
        let master = Running::start(master, "Postfix")?;
        let postfix = Postfix { master, address, directory };
        postfix.master.wait_until_listening(address).map_err(|error| format!("{error}\n{}", postfix.log()))?;
        Ok(postfix)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read(self.directory.path().join("log"))
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// Waits for a line of the log that holds all of `texts`.
    ///
    /// # Errors
    /// When none comes: the whole log.
    pub fn wait_for_log(&self, texts: &[&str]) -> Result<String, String> {
        let deadline = Instant::now() + LOG_TIME_MAX;
        loop {
            let log = self.log();
            // A line that is still being written has no end.
            let mut lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = lines.find(|line| texts.iter().all(|text| line.contains(text))) {
                return Ok(line.to_owned());
            }
            if Instant::now() > deadline {
                return Err(format!("no {texts:?} in the log of Postfix:\n{log}"));
            }
            sleep(Duration::from_millis(20));
        }
    }
}

fn make_places(directory: &Path, owner: u32, group: u32) -> std::io::Result<()> {
    let shared = [
        ("etc", 0o755, None, None),
        ("queue", 0o755, None, None),
        ("queue/pid", 0o755, None, None),
        ("queue/maildrop", 0o730, Some(owner), Some(group)),
        ("queue/public", 0o710, Some(owner), Some(group)),
        ("data", 0o700, Some(owner), None),
    ];
    let own = "active bounce corrupt defer deferred flush hold incoming private saved trace";
    let own: Vec<_> = own.split(' ').map(|name| format!("queue/{name}")).collect();
    for (name, mode, owner, group) in
        shared.into_iter().chain(own.iter().map(|name| (name.as_str(), 0o700, Some(owner), None)))
    {
        let path = directory.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        chown(&path, owner, group)?;
    }
    Ok(())
}

fn main_cf(package: &Package, directory: &Path) -> String {
    let (root, directory, libraries) = (package.0.display(), directory.display(), package.libraries());
    let libraries = libraries.display();
    format!(
        "compatibility_level = 3.6\n\
         import_environment = MAIL_CONFIG TZ LD_LIBRARY_PATH={libraries}\n\
         queue_directory = {directory}/queue\n\
         command_directory = {root}/usr/sbin\n\
         daemon_directory = {libraries}/sbin\n\
         data_directory = {directory}/data\n\
         shlib_directory = {libraries}\n\
         meta_directory = {directory}/etc\n\
         mail_owner = {OWNER}\n\
         setgid_group = {GROUP}\n\
         myhostname = mx.test\n\
         mydestination =\n\
         mynetworks = 127.0.0.0/8\n\
         inet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\n\
         alias_maps =\n\
         smtpd_peername_lookup = no\n\
         smtp_dns_support_level = disabled\n\
         maillog_file = {directory}/log\n\
         maillog_file_prefixes = {directory}\n\
         smtpd_client_connection_count_limit = 0\n"
    )
}

fn master_cf(port: u16) -> String {
    format!(
        "{port} inet n - n - - smtpd\n\
         pickup unix n - n 60 1 pickup\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         retry unix - - n - - error\n\
         anvil unix - - n - 1 anvil\n\
         postlog unix-dgram n - n - 1 postlogd\n\
         proxymap unix - - n - - proxymap\n\
         error unix - - n - - error\n"
    )
}

fn owner() -> Result<u32, String> {
    let output = Command::new("id").args(["-u", OWNER]).output().map_err(|error| error.to_string())?;
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| format!("there is no account {OWNER}"))
}

fn group() -> Result<u32, String> {
    let groups = fs::read_to_string("/etc/group").map_err(|error| error.to_string())?;
    let group = groups.lines().find_map(|line| line.strip_prefix(&format!("{GROUP}:x:")));
    group.and_then(|rest| rest.split(':').next()?.parse().ok()).ok_or_else(|| format!("there is no group {GROUP}"))
}
