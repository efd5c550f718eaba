//! `mailcell user`

use super::args::DatabaseArgs;
use super::output;
use crate::credentials::{self, PASSWORD_OCTETS_MAX};
use crate::store::{Credentials, MailStore, User, UserChange};
use anyhow::Context;
use mailcell_core::address::{self, Mailbox};
use serde_json::json;
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
        address: String,
        /// The mailing group that the user is a member of
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
        /// Read a password from standard input: its first line
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Change a user's group or password.
    Set {
        /// local-part@domain
        address: String,
        /// The mailing group that the user becomes a member of
        #[arg(long, value_name = "NAME", conflicts_with = "no_group")]
        group: Option<String>,
        /// Take the user out of its mailing group
        #[arg(long)]
        no_group: bool,
        /// Read a password from standard input: its first line
        #[arg(long)]
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
        address: String,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add { address, group, password_stdin, database } => {
            let (username, domain) = parse_address(&address)?;
            let group = group.as_deref().map(group_name).transpose()?;
            let user = User { username, domain, group, credentials: read_password(password_stdin)? };
            Ok(database.open_store().await?.add_user(&user).await?)
        }
        Command::Set { address, group, no_group, password_stdin, database } => {
            let (username, domain) = parse_address(&address)?;
            let group = group.as_deref().map(group_name).transpose()?;
            let change = UserChange {
                group: if no_group { Some(None) } else { group.map(Some) },
                credentials: read_password(password_stdin)?,
            };
            anyhow::ensure!(
                change != UserChange::default(),
                "nothing to set: give --group, --no-group or --password-stdin"
            );
            let is_there = database.open_existing_store().await?.set_user(&username, &domain, &change).await?;
            found(is_there, &address)
        }
        Command::List { json, database } => list(database.open_existing_store().await?.as_ref(), json).await,
        Command::Remove { address, database } => {
            let (username, domain) = parse_address(&address)?;
            let is_there = database.open_existing_store().await?.remove_user(&username, &domain).await?;
            found(is_there, &address)
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

fn found(is_there: bool, address: &str) -> anyhow::Result<()> {
    anyhow::ensure!(is_there, "there is no user {address}");
    Ok(())
}

fn parse_address(address: &str) -> anyhow::Result<(String, String)> {
    let mailbox =
        Mailbox::parse(address).with_context(|| format!("{address:?} is no address: expected local-part@domain"))?;
    Ok((address::lookup_name(mailbox.local_part), mailbox.domain.to_ascii_lowercase()))
}

/// A group is called by EXPN, so its name is what EXPN can say.
pub(super) fn group_name(name: &str) -> anyhow::Result<String> {
    anyhow::ensure!(address::is_local_part(name), "{name:?} is no name of a group: expected a word such as staff");
    Ok(address::lookup_name(name))
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
