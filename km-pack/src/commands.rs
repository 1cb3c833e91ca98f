//! The command line: one file for each command.

mod automate;
mod build;
mod customers;
mod fetch;
mod inspect;
mod keygen;
mod new;
mod publish;
mod restamp;
mod serve;
mod test;
mod verify;
mod withdraw;

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use km_cli::{CommonArgs, Man, Output, Shell};
use km_package::failure::{Failure, Kind};
use km_package::manifest::Customer;
use serde::Serialize;

use crate::conformance;
use crate::customers::{Address, Database, address};
use crate::environment::{self, Environment};
use crate::plan::read_customers;

/// Builds, stamps, signs and inspects Kilometers plugin packages, and serves the plugin API.
#[derive(Debug, Parser)]
#[command(name = "km-pack", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Example:\n  km-pack keygen\n  km-pack build --plugin console-logger --customer customer_123 --tier Pro"
)]
struct KmPack {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(new::New),
    Keygen(keygen::Keygen),
    Build(Box<build::Build>),
    Publish(publish::Publish),
    Restamp(restamp::Restamp),
    Withdraw(withdraw::Withdraw),
    Fetch(fetch::Fetch),
    Verify(verify::Verify),
    Inspect(inspect::Inspect),
    Test(test::Test),
    Customers(customers::Customers),
    Serve(serve::Serve),
    Automate(automate::Automate),
    /// Print the completion script for a shell
    #[command(after_help = "Example:\n  km-pack completions bash > /etc/bash_completion.d/km-pack")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    #[command(after_help = "Example:\n  km-pack man | man -l -\n  km-pack man --out ~/.local/share/man/man1")]
    Man(Man),
}

impl km_cli::Command for KmPack {
    fn common(&self) -> &CommonArgs {
        &self.common
    }
}

/// The body of `main`.
pub fn main() -> ExitCode {
    if let Some(plugin) = environment::conformance_host() {
        return match conformance::hold(plugin) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some((mark, script)) = environment::keeper() {
        return crate::automate::keep(&mark, &script);
    }
    km_cli::main(environment::arguments(), &environment::log_settings(), run)
}

fn run(args: &KmPack, output: &Output) -> Result<ExitCode, Failure> {
    let environment = Environment::read();
    match &args.command {
        Command::New(command) => command.run(&environment, output),
        Command::Keygen(command) => command.run(&environment, output),
        Command::Build(command) => return command.run(&environment, output),
        Command::Publish(command) => return command.run(&environment, output),
        Command::Restamp(command) => return command.run(&environment, output),
        Command::Withdraw(command) => return command.run(&environment, output),
        Command::Fetch(command) => command.run(&environment, output),
        Command::Verify(command) => command.run(&environment, output),
        Command::Inspect(command) => command.run(&environment, output),
        Command::Test(command) => return command.run(&environment, output),
        Command::Customers(command) => command.run(&environment, output),
        Command::Serve(command) => command.run(&environment, output),
        Command::Man(command) => command.run::<KmPack>(output),
        Command::Automate(command) => return command.run(&environment, output),
        Command::Completions { shell } => {
            let script = km_cli::completions::<KmPack>(*shell);
            output.result(&Completions { script: &script }, &script);
            Ok(())
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Completions<'a> {
    script: &'a str,
}

/// Where the customers are.
#[derive(Debug, Args)]
struct DatabaseArgs {
    /// sqlite://PATH or postgres://…; else KM_DATABASE, else sqlite://dist/km.db
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

impl DatabaseArgs {
    async fn open(&self, environment: &Environment) -> Result<Database, Failure> {
        let url = self.database.as_deref().or(environment.database.as_deref()).unwrap_or(address::DEFAULT);
        Database::open(&Address::parse(url, &environment.current_dir)?).await
    }
}

/// The customers of a file or of a database.
fn customers_of(list: &str, environment: &Environment) -> Result<Vec<Customer>, Failure> {
    if !list.contains("://") {
        return read_customers(&environment.current_dir.join(list));
    }
    let address = Address::parse(list, &environment.current_dir)?;
    let listed = publish::runtime()?.block_on(async {
        let database = Database::open(&address).await?;
        let listed = database.list().await;
        database.close().await;
        listed
    })?;
    if listed.is_empty() {
        return Err(Failure::new(Kind::NotFound, format_args!("{address} has no customers")));
    }
    let stamped = |customer: crate::customers::Customer| Customer {
        id: customer.id,
        tier: customer.tier,
        api_key_sha256: None,
    };
    Ok(listed.into_iter().map(|(customer, _)| stamped(customer)).collect())
}

/// Opens a package for reading, with its length.
fn open_package(path: &Path) -> Result<(std::fs::File, u64), Failure> {
    let open = || {
        let file = std::fs::File::open(path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    let (file, metadata) = open().map_err(|e| Failure::file("open", path, &e))?;
    if metadata.is_dir() {
        return Err(Failure::new(
            Kind::NotFound,
            format_args!("{} is a folder, not a package", path.display()),
        ));
    }
    Ok((file, metadata.len()))
}

/// An API key as it was given: `-` reads it from stdin, so that it stands in no process list.
fn read_api_key(given: Option<&str>) -> Result<Option<String>, Failure> {
    let key = match given {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().take(64 * 1024).read_to_string(&mut text).map_err(|e| {
                Failure::new(Kind::Local, format_args!("cannot read the API key from stdin: {e}"))
            })?;
            Some(text.trim().to_owned())
        }
        other => other.map(str::to_owned),
    };
    match key {
        Some(key) if key.is_empty() => Err(Failure::new(Kind::Usage, "the API key is empty")),
        key => Ok(key),
    }
}
