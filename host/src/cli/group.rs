//! `mailcell group`

use super::args::DatabaseArgs;
use super::{output, user};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all groups.
    List {
        /// Print an array of objects
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// List the members of a group, as EXPN does.
    Show {
        /// The group's name
        #[arg(value_parser = user::group_name)]
        name: String,
        /// Print an array of objects
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { json, database } => {
            let groups = database.open_existing_store().await?.list_groups().await?;
            if json {
                return output::print_json(
                    &groups.iter().map(|g| json!({ "name": g.name, "members": g.members })).collect::<Vec<_>>(),
                );
            }
            let rows: Vec<_> = groups.into_iter().map(|group| [group.name, group.members.to_string()]).collect();
            output::print_table(["GROUP", "MEMBERS"], &rows)
        }
        Command::Show { name, json, database } => {
            let members = database.open_existing_store().await?.expand_group(&name).await?;
            anyhow::ensure!(!members.is_empty(), "there is no group {name}");
            if json {
                return output::print_json(
                    &members.iter().map(|address| json!({ "address": address })).collect::<Vec<_>>(),
                );
            }
            let rows: Vec<_> = members.into_iter().map(|address| [address]).collect();
            output::print_table(["ADDRESS"], &rows)
        }
    }
}
