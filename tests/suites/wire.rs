//! Every transcript over TCP, against the whole server, with SQLite and with a MariaDB of this test's own.

use libtest_mimic::{Arguments, Trial};
use mailcell_conformance::check::SESSIONS;
use mailcell_tests::database::Database;
use mailcell_tests::wire;
use std::sync::Arc;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    // A list of the tests needs no database.
    let databases = if arguments.list {
        Vec::new()
    } else {
        vec![("sqlite", Database::sqlite()), ("mariadb", Database::mariadb())]
    };
    let databases: Vec<_> = databases
        .into_iter()
        .map(|(kind, database)| (kind, Arc::new(database.unwrap_or_else(|error| panic!("{kind}: {error}")))))
        .collect();
    for (session, text) in SESSIONS {
        for (kind, database) in &databases {
            let database = database.clone();
            let is_impossible = wire::why_not(text).is_some();
            let trial = Trial::test(format!("{kind}/{session}"), move || Ok(wire::check(session, text, &database)?));
            trials.push(trial.with_ignored_flag(is_impossible));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The server ends with its last owner, which `exit` would pass over.
    drop(databases);
    conclusion.exit();
}
