//! `km-pack restamp`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use km_cli::Output;
use km_package::failure::Failure;
use km_package::name::PluginName;

use super::customers_of;
use super::publish::{self, PublishArgs};
use crate::environment::Environment;
use crate::restamp;
use crate::sign::SigningKey;

/// Stamp customers anew whose tier has changed, out of the store; nothing is compiled
///
/// What a customer's index names at another tier than theirs is stamped, signed and published again.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  km-pack customers set-tier customer_123 Pro\n  km-pack restamp --customers sqlite://dist/km.db"
)]
pub(super) struct Restamp {
    /// Customers and their tiers: a file (TOML or CSV) or a database (sqlite://…, postgres://…)
    #[arg(long, value_name = "FILE|URL")]
    customers: String,
    /// Give this plugin, in its newest release, to those who do not have it, too
    #[arg(long, value_name = "NAME")]
    plugin: Vec<PluginName>,
    /// The signing key [default: KM_SIGNING_KEY, else keys/release.key.pem]
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
    #[command(flatten)]
    publishing: PublishArgs,
}

impl Restamp {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<ExitCode, Failure> {
        let key = SigningKey::load(self.key.as_deref(), environment)?;
        let customers = customers_of(&self.customers, environment)?;
        let runtime = publish::runtime()?;
        let publisher = self.publishing.publisher_of_existing(key, environment)?;
        let progress = output.progress();
        progress.step("reading indexes");
        let finished = runtime.block_on(async {
            let restamps = restamp::plan(&publisher, &customers, &self.plugin).await?;
            progress.counting(restamps.len() as u64, "stamping and signing");
            let restamped = restamp::run(&publisher, &restamps, &|| progress.advance(1)).await?;
            publish::finish(&publisher, restamped.new, restamped.replaced).await
        });
        drop(progress);
        Ok(finished?.report(output))
    }
}
