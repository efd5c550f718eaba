//! `mailcell schema`

use super::args::DatabaseArgs;
use super::output;
use crate::store::schema::{self, Dialect};
use std::io::Write;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print the SQL that makes the tables, for the kind of database that is configured.
    Print {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Make the tables, or bring them up to this version. The server does so by itself if its account may.
    Apply {
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Print { database } => {
            let mut out = output::stdout();
            write!(out, "{}", schema::print(dialect(&database.load()?.database)?))?;
            Ok(out.flush()?)
        }
        Command::Apply { database } => {
            database.open_store().await?.close().await;
            Ok(())
        }
    }
}

fn dialect(url: &str) -> anyhow::Result<Dialect> {
    match url.split_once(':') {
        Some(("sqlite", _)) => Ok(Dialect::Sqlite),
        Some(("mysql", _)) => Ok(Dialect::Mysql),
        _ => anyhow::bail!(
            "{:?} is no database: expected sqlite:PATH or mysql://USER@HOST[:PORT]/NAME",
            output::without_password(url)
        ),
    }
}
