//! `mailcell user`

use super::args::DatabaseArgs;
use super::output;
use crate::credentials::{self, PASSWORD_OCTETS_MAX};
use crate::store::{Credentials, MailStore, User, UserChange};
use anyhow::Context;
use clap::ArgGroup;
use mailcell_core::address::{self, Mailbox};
use serde_json::json;
use std::fmt::{self, Display};
use std::io::Read;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a user.
    #[command(after_help = "\
Examples:
  mailcell user add bob@example.org
  mailcell user add ann@example.org --group staff --password-stdin < password")]
    Add {
        /// local-part@domain; letter case does not matter
        #[arg(value_parser = parse_address)]
        address: Address,
        /// The mailing group that the user is a member of
        #[arg(long, value_name = "NAME", value_parser = group_name)]
        group: Option<String>,
        /// Read a password from standard input: its first line
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Change a user's group or password.
    #[command(group = ArgGroup::new("change").required(true).multiple(true))]
    Set {
        /// local-part@domain
        #[arg(value_parser = parse_address)]
        address: Address,
        /// The mailing group that the user becomes a member of
        #[arg(long, value_name = "NAME", value_parser = group_name, group = "change", conflicts_with = "no_group")]
        group: Option<String>,
        /// Take the user out of its mailing group
        #[arg(long, group = "change")]
        no_group: bool,
        /// Read a password from standard input: its first line
        #[arg(long, group = "change")]
        password_stdin: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List all users.
    List {
        /// Print an array of objects
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Remove a user; the messages stay.
    Remove {
        /// local-part@domain
        #[arg(value_parser = parse_address)]
        address: Address,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// As look-ups have it.
#[derive(Clone, Debug)]
pub(super) struct Address {
    username: String,
    domain: String,
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.username, self.domain)
    }
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add { address: Address { username, domain }, group, password_stdin, database } => {
            let user = User { username, domain, group, credentials: read_password(password_stdin)? };
            Ok(database.open_store().await?.add_user(&user).await?)
        }
        Command::Set { address, group, no_group, password_stdin, database } => {
            let change = UserChange {
                group: if no_group { Some(None) } else { group.map(Some) },
                credentials: read_password(password_stdin)?,
            };
            let store = database.open_existing_store().await?;
            found(store.set_user(&address.username, &address.domain, &change).await?, &address)
        }
        Command::List { json, database } => list(database.open_existing_store().await?.as_ref(), json).await,
        Command::Remove { address, database } => {
            let store = database.open_existing_store().await?;
            found(store.remove_user(&address.username, &address.domain).await?, &address)
        }
    }
}

async fn list(store: &dyn MailStore, json: bool) -> anyhow::Result<()> {
    let users = store.list_users().await?;
    if json {
        let row = |user: User| {
            let has_password = user.credentials.is_some();
            json!({ "username": user.username, "domain": user.domain, "mailgroup": user.group, "password": has_password })
        };
        return output::print_json(&users.into_iter().map(row).collect::<Vec<_>>());
    }
    let rows: Vec<_> = users
        .into_iter()
        .map(|user| {
            let password = if user.credentials.is_some() { "set" } else { "-" };
            let address = format!("{}@{}", user.username, user.domain);
            [address, user.group.unwrap_or_else(|| "-".to_owned()), password.to_owned()]
        })
        .collect();
    output::print_table(["ADDRESS", "GROUP", "PASSWORD"], &rows)
}

fn found(is_there: bool, address: &Address) -> anyhow::Result<()> {
    anyhow::ensure!(is_there, "there is no user {address}");
    Ok(())
}

fn parse_address(address: &str) -> Result<Address, &'static str> {
    let mailbox = Mailbox::parse(address).ok_or("expected local-part@domain")?;
    Ok(Address { username: address::lookup_name(mailbox.local_part), domain: mailbox.domain.to_ascii_lowercase() })
}

/// A group is called by EXPN, so its name is what EXPN can say.
pub(super) fn group_name(name: &str) -> Result<String, &'static str> {
    if address::is_local_part(name) { Ok(address::lookup_name(name)) } else { Err("expected a word such as staff") }
}

fn read_password(wanted: bool) -> anyhow::Result<Option<Credentials>> {
    if !wanted {
        return Ok(None);
    }
    let mut input = String::new();
    let octets_max = PASSWORD_OCTETS_MAX as u64 + 3;
    std::io::stdin().take(octets_max).read_to_string(&mut input).context("cannot read the password")?;
    let password = input.lines().next().unwrap_or_default();
    credentials::from_password(password).map(Some)
}
