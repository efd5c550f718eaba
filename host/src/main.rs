//! The `mailcell` program.

fn main() -> std::process::ExitCode {
    mailcell::cli::main()
}
