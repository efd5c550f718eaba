//! The `mailcell` program, built together with the tests that run it as a process.

fn main() -> std::process::ExitCode {
    mailcell::cli::main()
}
