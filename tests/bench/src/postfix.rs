//! Postfix with its durable queue, in a private directory: each message is on disk before it is answered, and is thrown away
//! behind the queue.

use crate::tools::{Served, Tools, bound_to_this_program, free_address};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Accounts that every Debian has and that own nothing which runs: Postfix asks for some of its own, and none is made for this.
const OWNER: &str = "mail";
const GROUP: &str = "games";

/// A running Postfix.
pub(crate) struct Postfix {
    pub(crate) served: Served,
    _directory: TempDir,
}

impl Postfix {
    pub(crate) fn start(tools: &Tools) -> Result<Postfix, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("Postfix starts as root only".to_owned());
        }
        let because = |error: std::io::Error| format!("Postfix: {error}");
        let directory = tempfile::Builder::new().prefix("mailcell-postfix-").tempdir().map_err(because)?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).map_err(because)?;
        let address = free_address()?;
        let (owner, group) = (id("-u", OWNER)?, group_id()?);
        let place = |name: &str, mode: u32, owner: Option<u32>, group: Option<u32>| {
            let path = directory.path().join(name);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            chown(&path, owner, group)
        };
        for (name, mode, owner, group) in
            [("etc", 0o755, None, None), ("queue", 0o755, None, None), ("queue/pid", 0o755, None, None)]
                .into_iter()
                .chain([
                    ("queue/maildrop", 0o730, Some(owner), Some(group)),
                    ("queue/public", 0o710, Some(owner), Some(group)),
                ])
        {
            place(name, mode, owner, group).map_err(because)?;
        }
        let own = "active bounce corrupt defer deferred flush hold incoming private saved trace";
        for name in own.split(' ').map(|name| format!("queue/{name}")).chain(["data".to_owned()]) {
            place(&name, 0o700, Some(owner), None).map_err(because)?;
        }
        let etc = directory.path().join("etc");
        fs::write(etc.join("main.cf"), main_cf(tools, directory.path())).map_err(because)?;
        fs::write(etc.join("master.cf"), master_cf(address.port())).map_err(because)?;
        fs::write(etc.join("dynamicmaps.cf"), "").map_err(because)?;
        // A process group of its own: at its end, master ends all of it.
        let mut master = bound_to_this_program("setsid");
        master.arg(tools.postfix.join("usr/lib/postfix/sbin/master")).arg("-c").arg(&etc).arg("-d");
        master.env("MAIL_CONFIG", &etc).env("LD_LIBRARY_PATH", tools.libraries());
        master.stdout(Stdio::null()).stderr(Stdio::null());
        let served = Served::start(master, "Postfix", address)?;
        Ok(Postfix { served, _directory: directory })
    }
}

fn main_cf(tools: &Tools, directory: &Path) -> String {
    let (root, directory, libraries) = (tools.postfix.display(), directory.display(), tools.libraries());
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
         default_transport = discard:\n\
         alias_maps =\n\
         smtpd_peername_lookup = no\n\
         smtp_dns_support_level = disabled\n\
         maillog_file = {directory}/log\n\
         maillog_file_prefixes = {directory}\n\
         smtpd_client_connection_count_limit = 0\n"
    )
}

fn master_cf(port: u16) -> String {
    let unprivileged = |name: &str, limit: &str| format!("{name} unix - - n - {limit} {name}\n");
    let services: String = ["proxymap", "error", "discard"].iter().map(|name| unprivileged(name, "-")).collect();
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
         {services}"
    )
}

fn id(which: &str, name: &str) -> Result<u32, String> {
    let output = Command::new("id").args([which, name]).output().map_err(|error| error.to_string())?;
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| format!("there is no account {name}"))
}

fn group_id() -> Result<u32, String> {
    let groups = fs::read_to_string("/etc/group").map_err(|error| error.to_string())?;
    let group = groups.lines().find_map(|line| line.strip_prefix(&format!("{GROUP}:x:")));
    group.and_then(|rest| rest.split(':').next()?.parse().ok()).ok_or_else(|| format!("there is no group {GROUP}"))
}
