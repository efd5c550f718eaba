//! Reads the version of the schema and brings it up to date; see [`schema`](super::super::schema) for the rules.

use super::super::schema::{self, Dialect, Migration, State};
use super::super::{Result, StoreError};
use super::link::{Connector, Fault, Link};
use super::take;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long one statement may take: changing a large table is slow.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(3600);
/// How long a state that is none of Mailcell's is looked at again, in case another host is creating the tables.
const RECHECKS: u32 = 5;
const RECHECK_PAUSE: Duration = Duration::from_millis(200);
/// Table, column and key are there already; a key to drop is gone: another host was quicker.
const DONE_ALREADY: [&str; 4] = ["(error 1050)", "(error 1060)", "(error 1061)", "(error 1091)"];

/// Brings the schema up to the last of `migrations`; no DDL when it is there.
pub(super) async fn upgrade(connector: &Connector, link: &mut Link, migrations: &[Migration]) -> Result<()> {
    let mut checks = 0;
    let plan = loop {
        let until = Instant::now() + connector.deadline;
        match schema::plan(state(link, until).await?, migrations) {
            Ok(plan) => break plan,
            Err(error) if checks == RECHECKS => return Err(error),
            Err(_) => checks += 1,
        }
        sleep(RECHECK_PAUSE).await;
    };
    for migration in plan {
        for statement in migration.mysql {
            ddl(link, statement).await?;
        }
        ddl(link, &schema::mark_statement(Dialect::Mysql, migration.version)).await?;
    }
    Ok(())
}

async fn ddl(link: &mut Link, statement: &str) -> Result<()> {
    match link.run(statement, Instant::now() + STATEMENT_TIME_MAX).await {
        Ok(()) => Ok(()),
        Err(Fault::Failed(text)) if DONE_ALREADY.iter().any(|code| text.ends_with(code)) => Ok(()),
        Err(Fault::Denied(text)) => Err(StoreError::Schema(format!(
            "the account may not create or change tables: run `mailcell schema apply` with one that may ({text})"
        ))),
        Err(fault) => Err(fault.into()),
    }
}

async fn state(link: &mut Link, until: Instant) -> Result<State> {
    let sql = "SELECT TABLE_NAME, TABLE_COMMENT FROM information_schema.TABLES
               WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ('users', 'messages')";
    let mut state = State::default();
    for mut row in link.rows(sql, (), until).await? {
        match take::<String>(&mut row, 0)?.as_str() {
            "users" => state.users = true,
            _ => {
                state.messages = true;
                state.mark = schema::mark_version(&take::<String>(&mut row, 1)?);
            }
        }
    }
    Ok(state)
}
