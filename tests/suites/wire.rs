//! Every transcript over TCP, against the whole server, with SQLite and with a MariaDB of this test's own.

use libtest_mimic::{Arguments, Trial};
use mailcell_tests::database::Database;
use mailcell_tests::{check, wire};
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
    for path in check::all() {
        for (kind, database) in &databases {
            let name = format!("{kind}/{}", path.file_stem().expect("a file has a name").to_string_lossy());
            let (path, database) = (path.clone(), database.clone());
            let is_impossible = wire::why_not(&path).is_some();
            trials.push(Trial::test(name, move || Ok(wire::check(&path, &database)?)).with_ignored_flag(is_impossible));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The server ends with its last owner, which `exit` would pass over.
    drop(databases);
    conclusion.exit();
}
