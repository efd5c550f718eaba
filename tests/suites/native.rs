//! Every transcript against the core as plain Rust, each a test of its own name.

use libtest_mimic::{Arguments, Trial};
use mailcell_tests::check;
use mailcell_tests::driver::Native;

fn main() {
    let trials = check::all().into_iter().map(|path| {
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        Trial::test(name, move || Ok(check::check(&path, &|| Box::new(Native::default()))?))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
