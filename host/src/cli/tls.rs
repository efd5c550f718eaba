//! `mailcell tls`

use super::output;
use crate::config::Settings;
use crate::tls;
use anyhow::Context;
use mailcell_core::address;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a certificate that nobody vouches for, to try things out.
    #[command(after_help = "\
Examples:
  mailcell tls self-signed --name mx.test
  mailcell serve --tls-certificate mailcell.crt --tls-key mailcell.key")]
    SelfSigned {
        /// The name that it is for; several may be given. Without one, the machine's.
        #[arg(long, value_name = "DOMAIN", value_parser = parse_name)]
        name: Vec<String>,
        /// Where it goes.
        #[arg(long, value_name = "FILE", default_value = "mailcell.crt")]
        certificate: PathBuf,
        /// Where its private key goes.
        #[arg(long, value_name = "FILE", default_value = "mailcell.key")]
        key: PathBuf,
    },
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    let Command::SelfSigned { name, certificate, key } = command;
    let names = if name.is_empty() { vec![Settings::default().name] } else { name };
    let (certificate_pem, key_pem) = tls::self_signed(names.clone())?;
    create(&key, &key_pem, 0o600)?;
    // A key alone would be in the way of the next try.
    create(&certificate, &certificate_pem, 0o644).inspect_err(|_| drop(fs::remove_file(&key)))?;
    output::print_line(&format!("{} and {}, for {}", certificate.display(), key.display(), names.join(", ")))
}

/// What a certificate can be for: a domain in ASCII, all those below one, or an address.
fn parse_name(text: &str) -> Result<String, &'static str> {
    let is_domain = text.is_ascii() && address::is_domain_or_literal(text.strip_prefix("*.").unwrap_or(text));
    let is_name = is_domain || text.parse::<IpAddr>().is_ok();
    if is_name { Ok(text.to_owned()) } else { Err("expected a domain such as mx.example.org, in ASCII") }
}

/// What is there already is somebody's certificate, and stays.
fn create(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("cannot make {}", path.display()))
}
