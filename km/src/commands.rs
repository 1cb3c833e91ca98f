//! The command line: one file for each command.

mod allow;
mod auth;
mod doctor;
mod init;
mod inspect;
mod install;
mod list;
mod lock;
mod monitor;
mod refresh;
mod remove;
mod replay;
mod rollback;
mod status;
mod trust;
mod version;

use std::future::Future;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use km_cli::{CommonArgs, Man, Output, Shell};
use km_package::failure::{Failure, Kind};
use serde::Serialize;

use crate::config::Config;
use crate::environment::{self, Environment};
use crate::paths::{self, Home};
use crate::trust::Trust;

/// Monitors MCP servers through signed plugins.
#[derive(Debug, Parser)]
#[command(name = "km", version = version::LINE, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Example:\n  km init --api-key -\n  km plugins install km-plugin-console-logger-0123456789ab.kmpkg\n  km monitor -- npx -y @modelcontextprotocol/server-everything"
)]
struct Km {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    /// The API key: set, show, remove
    #[command(subcommand, arg_required_else_help = true)]
    Auth(auth::Auth),
    Monitor(monitor::Monitor),
    Replay(replay::Replay),
    /// Install, refresh, list, inspect, roll back and remove plugins
    #[command(subcommand, arg_required_else_help = true)]
    Plugins(Plugins),
    /// The release keys that this machine trusts
    #[command(subcommand, arg_required_else_help = true)]
    Trust(trust::TrustCommand),
    Doctor(doctor::Doctor),
    Version(version::Version),
    /// Print the completion script for a shell
    #[command(after_help = "Example:\n  km completions bash > /etc/bash_completion.d/km")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    #[command(after_help = "Example:\n  km man | man -l -\n  km man --out ~/.local/share/man/man1")]
    Man(Man),
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  km plugins list")]
enum Plugins {
    Install(install::Install),
    Refresh(refresh::Refresh),
    List(list::List),
    Status(status::Status),
    Remove(remove::Remove),
    Rollback(rollback::Rollback),
    Inspect(inspect::Inspect),
    Lock(lock::Lock),
    Allow(allow::Allow),
}

impl km_cli::Command for Km {
    fn common(&self) -> &CommonArgs {
        &self.common
    }
}

/// The body of `main`.
pub(crate) fn main() -> ExitCode {
    km_cli::main(environment::arguments(), &environment::log_settings(), run)
}

fn run(args: &Km, output: &Output) -> Result<ExitCode, Failure> {
    let environment = Environment::read();
    let done = |()| ExitCode::SUCCESS;
    match &args.command {
        Command::Init(command) => command.run(&Local::open(environment)?, output),
        Command::Auth(command) => command.run(&Local::open(environment)?, output).map(done),
        Command::Doctor(command) => command.run(environment, output),
        Command::Monitor(command) => command.run(environment, output),
        Command::Replay(command) => command.run(environment, output),
        Command::Plugins(plugins) => {
            let local = Local::open(environment)?;
            match plugins {
                Plugins::Install(command) => return command.run(&local, output),
                Plugins::Refresh(command) => return command.run(&local, output),
                Plugins::List(command) => command.run(&local, output),
                Plugins::Status(command) => command.run(&local, output),
                Plugins::Remove(command) => command.run(&local, output),
                Plugins::Rollback(command) => command.run(&local, output),
                Plugins::Inspect(command) => command.run(&local, output),
                Plugins::Lock(command) => command.run(&local, output),
                Plugins::Allow(command) => command.run(&local, output),
            }
            .map(done)
        }
        Command::Trust(command) => command.run(&Local::open(environment)?, output).map(done),
        Command::Version(command) => {
            command.run(output);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man(command) => command.run::<Km>(output).map(done),
        Command::Completions { shell } => {
            let script = km_cli::completions::<Km>(*shell);
            output.result(&Completions { script: &script }, &script);
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[derive(Debug, Serialize)]
struct Completions<'a> {
    script: &'a str,
}

/// What most commands need: where things are, what is configured, what is trusted.
struct Local {
    environment: Environment,
    home: Home,
    config: Config,
    trust: Trust,
}

impl Local {
    fn open(environment: Environment) -> Result<Self, Failure> {
        paths::survive_size_limits();
        let home = Home::find(&environment)?;
        let config = Config::load(&home)?;
        let trust = Trust::load(&home)?;
        Ok(Self { environment, home, config, trust })
    }
}

/// Runs what waits for the network or for processes.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Kind::Local, e))?;
    let result = runtime.block_on(work);
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    Ok(result)
}

/// Asks a question on a terminal. Elsewhere the answer is yes.
fn confirm(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return true;
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
