//! Every transcript against the core as plain Rust, each a test of its own name: as it is, and saved and restored after
//! each event.

use libtest_mimic::{Arguments, Trial};
use mailcell_conformance::check::{self, SESSIONS};
use mailcell_conformance::host::{moving, native};
use mailcell_core::Session;

fn main() {
    let trials = SESSIONS.iter().flat_map(|(name, text)| {
        let still = Trial::test(*name, move || Ok(check::check(name, text, &native::<Session>)?));
        let moving = Trial::test(format!("moving/{name}"), move || Ok(check::check(name, text, &moving::<Session>)?));
        [still, moving]
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
