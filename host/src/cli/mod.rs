//! The command line: one file a subcommand.

mod args;
mod config;
mod core;
mod group;
mod message;
mod output;
mod replay;
mod schema;
mod serve;
mod tls;
mod user;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;

/// Receives mail over SMTP into a database. The protocol is a WebAssembly component that can be replaced.
#[derive(Debug, Parser)]
#[command(name = "mailcell", version, propagate_version = true, max_term_width = 120, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mailcell serve
  mailcell serve --listen 0.0.0.0:25 --name mx.example.org --database mysql://mail@db.example.org/mail
  mailcell user add bob@example.org --group staff
  mailcell message list --to bob@example.org --limit 10
  mailcell core swap new.wasm
  mailcell message show --raw 019a0f5e-7d3c-7b1e-9c55-2f6f3c1d4a7b

Every setting is a flag, an environment variable (MAILCELL_ and the flag in capitals) and a key of the configuration file: \
see `mailcell config show`.

Exit codes: 0 done, 1 not done, 2 an argument is unknown, missing or of the wrong form.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive mail until told to stop (SIGTERM or SIGINT).
    Serve(serve::Args),
    /// Who is here: what VRFY finds, and whom EXPN lists.
    #[command(subcommand)]
    User(user::Command),
    /// Mailing groups. A group exists while it has members: see `user add --group`.
    #[command(subcommand)]
    Group(group::Command),
    /// Read, export and remove stored messages.
    #[command(subcommand)]
    Message(message::Command),
    /// Protocol cores: check them, swap them in a running server.
    #[command(subcommand)]
    Core(core::Command),
    Replay(replay::Args),
    /// Configuration files.
    #[command(subcommand)]
    Config(config::Command),
    /// The database's tables.
    #[command(subcommand)]
    Schema(schema::Command),
    /// Certificates.
    #[command(subcommand)]
    Tls(tls::Command),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        command => run(async {
            match command {
                Command::Serve(_) => unreachable!("it has a runtime of its own"),
                Command::User(command) => user::run(command).await,
                Command::Group(command) => group::run(command).await,
                Command::Message(command) => message::run(command).await,
                Command::Core(command) => core::run(command).await,
                Command::Replay(args) => replay::run(args).await,
                Command::Config(command) => config::run(command).await,
                Command::Schema(command) => schema::run(command).await,
                Command::Tls(command) => tls::run(command),
            }
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Runs a command to its end.
fn run(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let done = runtime.block_on(command);
    // A thread that waits for a frozen database must not keep the program.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    done
}

/// An argument is of the wrong form, which only the table of settings knows.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongArgument(String);

/// One clear line, and no backtrace.
fn fail(error: &anyhow::Error) -> ExitCode {
    if output::is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let line = format!("{error:#}").trim_end().replace('\n', " ");
    // If nobody reads it, the exit code still tells.
    let _ = writeln!(io::stderr(), "mailcell: {}", output::printable(&line));
    if error.is::<WrongArgument>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
