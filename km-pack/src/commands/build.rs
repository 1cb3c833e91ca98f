//! `km-pack build`

use std::path::PathBuf;

use clap::Args;
use km_cli::Output;
use km_package::failure::Failure;
use km_package::name::CustomerId;
use km_package::tier::Tier;
use serde::Serialize;

use crate::archive::PackageFile;
use crate::environment::Environment;
use crate::plan::{Plan, Request};

/// zstd level for packages that customers get; and for trying things.
const RELEASE_LEVEL: i32 = 19;
const DEBUG_LEVEL: i32 = 3;

/// Compile a plugin, stamp a customer into it, sign and archive it
///
/// Prints the path of the package.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  km-pack build --plugin console-logger --customer customer_123 --tier Pro"
)]
pub(super) struct Build {
    /// The plugin: its name in this workspace, or the path of its folder
    #[arg(long, value_name = "NAME|PATH")]
    plugin: String,
    /// For whom it is built
    #[arg(long, value_name = "ID")]
    customer: CustomerId,
    /// At which tier: Free, Pro or Enterprise
    #[arg(long, default_value = "Free")]
    tier: Tier,
    /// The customer's API key, of which a digest is stamped; `-` reads it from stdin
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// The target triple [default: this machine's]
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// What rollback is judged by [default: the source's, else the time of its last commit]
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<u64>,
    /// The signing key [default: KM_SIGNING_KEY, else keys/release.key.pem]
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
    /// Folder for the package
    #[arg(long, value_name = "FOLDER", default_value = "dist")]
    out: PathBuf,
    /// Compile fast instead of small
    #[arg(long)]
    debug: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    packages: Vec<Package>,
}

#[derive(Debug, Serialize)]
struct Package {
    path: PathBuf,
    name: String,
    version: String,
    customer: String,
    tier: Tier,
    platform: String,
    sha256: String,
    tar_sha256: String,
}

impl Build {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let plan = Plan::gather(self.request()?, environment)?;
        let required = plan.source.required_tier;
        if self.tier < required {
            output.warn(format_args!(
                "{} needs tier {required}: stamped with {}, customers cannot install it",
                plan.source.name, self.tier
            ));
        }
        let package = self.build(plan, output)?;
        let path = package.path.display().to_string();
        output.result(&Document { packages: vec![package.into()] }, path);
        Ok(())
    }

    /// source → compile → stamp → manifest → sign → archive
    fn build(&self, plan: Plan, output: &Output) -> Result<PackageFile, Failure> {
        let Plan { source, compiler, customer, key, created, sequence, out } = plan;
        let level = if self.debug { DEBUG_LEVEL } else { RELEASE_LEVEL };
        let compiled = compiler.compile(source)?;
        if compiled.sections.is_none() {
            output.note("the binary has no identity slot: the manifest alone says whose it is");
        }
        let progress = output.progress();
        progress.step("stamping, compressing and signing");
        compiled.stamp(customer, &key)?.describe(created, sequence, level)?.sign(&key).write(&out)
    }

    fn request(&self) -> Result<Request, Failure> {
        Ok(Request {
            plugin: self.plugin.clone(),
            customer: self.customer.clone(),
            tier: self.tier,
            api_key: super::read_api_key(self.api_key.as_deref())?,
            target: self.target.clone(),
            sequence: self.sequence,
            key: self.key.clone(),
            out: self.out.clone(),
            debug: self.debug,
        })
    }
}

impl From<PackageFile> for Package {
    fn from(package: PackageFile) -> Self {
        let PackageFile { path, sha256, manifest } = package;
        Self {
            path,
            name: manifest.plugin.name.to_string(),
            version: manifest.plugin.version.to_string(),
            customer: manifest.customer.id.to_string(),
            tier: manifest.customer.tier,
            platform: manifest.target.platform.to_string(),
            sha256: sha256.to_string(),
            tar_sha256: manifest.payload.tar_sha256.to_string(),
        }
    }
}
