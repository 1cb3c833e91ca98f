//! `km-pack withdraw`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::name::{CustomerId, PluginName};

use super::publish::{self, PublishArgs};
use crate::environment::Environment;
use crate::publish::Change;
use crate::sign::SigningKey;

/// Take a plugin out of the index of customers; their next refresh removes it
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("whom").required(true).args(["customer", "all"]),
    after_help = "Example:\n  km-pack withdraw console-logger --customer customer_123"
)]
pub(super) struct Withdraw {
    /// The plugin
    name: PluginName,
    /// Whose index; several times for several
    #[arg(long, value_name = "ID")]
    customer: Vec<CustomerId>,
    /// Everybody's
    #[arg(long)]
    all: bool,
    /// It is no error if no index names it
    #[arg(long)]
    if_present: bool,
    /// The signing key of the index [default: KM_SIGNING_KEY, else keys/release.key.pem]
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
    #[command(flatten)]
    publishing: PublishArgs,
}

impl Withdraw {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<ExitCode, Failure> {
        let key = SigningKey::load(self.key.as_deref(), environment)?;
        let runtime = publish::runtime()?;
        let publisher = self.publishing.publisher_of_existing(key, environment)?;
        let finished = runtime.block_on(async {
            let customers =
                if self.all { publisher.store().customers().await? } else { self.customer.clone() };
            let changes = customers.into_iter().map(|id| (id, Change::Withdraw(self.name.clone())));
            publish::change(&publisher, changes).await
        });
        let finished = finished?;
        if !finished.has_changed() && !self.if_present {
            let message = format!("no index in {} names {}", publisher.store().name(), self.name);
            return Err(Failure::new(Kind::NotFound, message).help("with --if-present that is no error"));
        }
        Ok(finished.report(output))
    }
}
