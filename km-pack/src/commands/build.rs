//! `km-pack build`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgGroup, Args};
use km_cli::{Output, Progress};
use km_package::failure::{Failure, Kind};
use km_package::manifest::{Customer, Manifest};
use km_package::name::{CustomerId, PluginName};
use km_package::tier::Tier;
use serde::Serialize;

use super::publish::{self, PublishArgs};
use super::{customers_of, read_api_key};
use crate::archive::{self, PackageFile};
use crate::environment::Environment;
use crate::plan::{Plan, Request, Wanted};
use crate::release::Release;
use crate::sign::{Signed, SigningKey};

/// Compile a plugin, stamp customers into it, sign and archive it
///
/// Prints the path of each package. Many customers cost one compilation.
#[derive(Debug, Args)]
#[command(
    disable_version_flag = true,
    group = ArgGroup::new("what").required(true).args(["plugin", "binary"]),
    group = ArgGroup::new("whom").required(true).args(["customer", "customers"]),
    after_help = "Example:\n  km-pack build --plugin console-logger --customer customer_123 --tier Pro\n  \
                  km-pack build --plugin console-logger --customers customers.toml --publish\n  \
                  km-pack build --binary ./logger --name logger --version 1.0.0 --customer customer_123"
)]
pub(super) struct Build {
    /// The plugin: its name in this workspace, or the path of its folder (Rust or Go)
    #[arg(long, value_name = "NAME|PATH")]
    plugin: Option<String>,
    /// An executable that was built elsewhere, in any language
    #[arg(long, value_name = "FILE", requires_all = ["name", "version"], conflicts_with = "debug")]
    binary: Option<PathBuf>,
    /// The name of the plugin that --binary is
    #[arg(long, value_name = "NAME", requires = "binary")]
    name: Option<PluginName>,
    /// Its version (semver)
    #[arg(long, value_name = "VERSION", requires = "binary")]
    version: Option<semver::Version>,
    /// The tier that --binary needs
    #[arg(long, value_name = "TIER", requires = "binary", default_value = "Free")]
    required_tier: Tier,
    /// One line about --binary
    #[arg(long, value_name = "TEXT", requires = "binary", default_value = "")]
    description: String,
    /// Protocol versions that --binary speaks [default: all that km does]
    #[arg(long, value_name = "NUMBER", requires = "binary")]
    protocol: Vec<u32>,
    /// For whom it is built
    #[arg(long, value_name = "ID")]
    customer: Option<CustomerId>,
    /// At which tier: Free, Pro or Enterprise
    #[arg(long, default_value = "Free", conflicts_with = "customers")]
    tier: Tier,
    /// The customer's API key, of which a digest is stamped; `-` reads it from stdin
    #[arg(long, value_name = "KEY", conflicts_with = "customers")]
    api_key: Option<String>,
    /// Everybody in this file (TOML or CSV: id, tier, api_key) or database (sqlite://…, postgres://…)
    #[arg(long, value_name = "FILE|URL")]
    customers: Option<String>,
    /// The target triple; several times for several platforms [default: this machine's]
    #[arg(long, value_name = "TRIPLE")]
    target: Vec<String>,
    /// What rollback is judged by [default: the source's, else the time of its last commit]
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<u64>,
    /// The signing key [default: KM_SIGNING_KEY, else keys/release.key.pem]
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
    /// Folder for the packages [default: dist]
    #[arg(long, value_name = "FOLDER", conflicts_with = "publish")]
    out: Option<PathBuf>,
    /// Compile fast instead of small
    #[arg(long)]
    debug: bool,
    /// Show what would be built, and build nothing
    #[arg(long)]
    dry_run: bool,
    /// Put the packages straight into a store, without files of their own
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    publishing: PublishArgs,
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

/// What `--dry-run` says.
#[derive(Debug, Serialize)]
struct PlanDocument {
    name: String,
    version: String,
    required_tier: Tier,
    sequence: u64,
    created: String,
    key_id: String,
    platforms: Vec<String>,
    customers: Vec<PlannedCustomer>,
    out: Option<PathBuf>,
    store: Option<String>,
}

#[derive(Debug, Serialize)]
struct PlannedCustomer {
    id: CustomerId,
    tier: Tier,
}

impl Build {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<ExitCode, Failure> {
        let plan = Plan::gather(self.request(environment)?, environment)?;
        warn_of_low_tiers(&plan, output);
        if self.dry_run {
            let document = self.planned(&plan);
            output.result(&document, document.text());
            return Ok(ExitCode::SUCCESS);
        }
        if self.publish {
            return self.publish(plan, environment, output);
        }
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from("dist"));
        let progress = output.progress();
        // Nobody sees it elsewhere.
        let with_digest = output.is_json();
        let packages = build(&plan, &progress, output, &|package| {
            let sha256 = with_digest.then(|| package.sha256().to_string());
            Ok((package.write(&out)?, sha256.unwrap_or_default()))
        })?;
        let (written, digests): (Vec<_>, Vec<_>) = packages.into_iter().unzip();
        let files = archive::finish(written, &out)?.into_iter();
        let packages: Vec<Package> =
            files.zip(digests).map(|(file, sha256)| Package::of(file, sha256)).collect();
        let text = packages.iter().map(|package| package.path.display().to_string()).collect::<Vec<_>>();
        drop(progress);
        output.result(&Document { packages }, text.join("\n"));
        Ok(ExitCode::SUCCESS)
    }

    /// As [`run`](Self::run), into a store.
    fn publish(&self, plan: Plan, environment: &Environment, output: &Output) -> Result<ExitCode, Failure> {
        let runtime = publish::runtime()?;
        let publisher = self.publishing.publisher(plan.key.clone(), environment)?;
        let progress = output.progress();
        let published =
            build(&plan, &progress, output, &|package| runtime.block_on(publisher.put(&package)))?;
        progress.step("signing indexes");
        let finished = runtime.block_on(publish::finish(&publisher, published, Vec::new()));
        drop(progress);
        Ok(finished?.report(output))
    }

    fn request(&self, environment: &Environment) -> Result<Request, Failure> {
        let customers = match (&self.customers, &self.customer) {
            (Some(list), _) => customers_of(list, environment)?,
            (None, Some(id)) => {
                let api_key = read_api_key(self.api_key.as_deref())?;
                vec![Customer {
                    id: id.clone(),
                    tier: self.tier,
                    api_key_sha256: api_key.as_deref().map(km_package::identity::api_key_digest),
                }]
            }
            (None, None) => return Err(Failure::new(Kind::Usage, "for whom? --customer or --customers")),
        };
        let plugin = match (&self.plugin, &self.binary, &self.name, &self.version) {
            (Some(plugin), ..) => Wanted::Source(plugin.clone()),
            (None, Some(path), Some(name), Some(version)) => Wanted::Binary {
                path: path.clone(),
                name: name.clone(),
                version: version.clone(),
                required_tier: self.required_tier,
                description: self.description.clone(),
                protocols: match &self.protocol[..] {
                    [] => km_proto::PROTOCOL_VERSIONS.to_vec(),
                    versions => versions.to_vec(),
                },
            },
            _ => {
                return Err(Failure::new(
                    Kind::Usage,
                    "what? --plugin, or --binary with --name and --version",
                ));
            }
        };
        Ok(Request {
            plugin,
            customers,
            targets: self.target.clone(),
            sequence: self.sequence,
            key: self.key.clone(),
            debug: self.debug,
        })
    }

    fn planned(&self, plan: &Plan) -> PlanDocument {
        let about = plan.source.about();
        PlanDocument {
            name: about.name.to_string(),
            version: about.version.to_string(),
            required_tier: about.required_tier,
            sequence: plan.options.sequence,
            created: plan.options.created.to_string(),
            key_id: plan.key.public().id().to_string(),
            platforms: plan.compilers.iter().map(|compiler| compiler.target().platform.to_string()).collect(),
            customers: (plan.customers.iter())
                .map(|customer| PlannedCustomer { id: customer.id.clone(), tier: customer.tier })
                .collect(),
            out: (!self.publish).then(|| self.out.clone().unwrap_or_else(|| PathBuf::from("dist"))),
            store: self.publish.then(|| self.publishing.store().to_owned()),
        }
    }
}

fn warn_of_low_tiers(plan: &Plan, output: &Output) {
    let about = plan.source.about();
    let mut below = plan.below_required_tier();
    let Some(first) = below.next() else { return };
    let others = below.count();
    let whom = if others == 0 { first.id.to_string() } else { format!("{} and {others} more", first.id) };
    output.warn(format_args!(
        "{} needs tier {}: stamped with {} for {whom}, who cannot install it",
        about.name, about.required_tier, first.tier
    ));
}

/// compile → release, for each target; then stamp → describe → sign for each customer, in parallel.
fn build<T: Send>(
    plan: &Plan,
    progress: &Progress,
    output: &Output,
    deliver: &(dyn Fn(Signed) -> Result<T, Failure> + Sync),
) -> Result<Vec<T>, Failure> {
    let mut done = Vec::new();
    for compiler in &plan.compilers {
        let compiled = compiler.compile(&plan.source)?;
        if compiled.sections.is_none() {
            output.note("the binary has no identity slot: the manifest alone says whose it is");
        }
        progress.step("compressing");
        let release = compiled.release(&plan.key, plan.options)?;
        progress.counting(plan.customers.len() as u64, "stamping and signing");
        done.extend(for_each_customer(&release, &plan.customers, &plan.key, &|package| {
            let delivered = deliver(package);
            progress.advance(1);
            delivered
        })?);
    }
    Ok(done)
}

/// Makes the package of each customer on all processors; the first that fails stops the rest.
pub(super) fn for_each_customer<T: Send>(
    release: &Arc<Release>,
    customers: &[Customer],
    key: &SigningKey,
    deliver: &(dyn Fn(Signed) -> Result<T, Failure> + Sync),
) -> Result<Vec<T>, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(customers.len().max(1));
    let share = customers.len().div_ceil(threads).max(1);
    let make = |customer: &Customer| {
        let package = release.stamp(customer.clone(), key)?.describe()?.sign(key);
        deliver(package)
    };
    std::thread::scope(|scope| {
        let shares = customers.chunks(share);
        let workers: Vec<_> = shares
            .map(|share| scope.spawn(|| share.iter().map(make).collect::<Result<Vec<T>, _>>()))
            .collect();
        let mut all = Vec::with_capacity(customers.len());
        for worker in workers {
            let died = |_| Err(Failure::new(Kind::Failed, "a worker has died"));
            all.extend(worker.join().unwrap_or_else(died)?);
        }
        Ok(all)
    })
}

impl PlanDocument {
    fn text(&self) -> String {
        let Self { name, version, required_tier, sequence, created, key_id, platforms, customers, .. } = self;
        let of_tier = |tier| customers.iter().filter(|customer| customer.tier == tier).count();
        let counts =
            [Tier::Free, Tier::Pro, Tier::Enterprise].map(|tier| format!("{} {tier}", of_tier(tier)));
        let place = match (&self.out, &self.store) {
            (Some(out), _) => out.display().to_string(),
            (None, store) => format!("the store {}", store.as_deref().unwrap_or_default()),
        };
        [
            format!("{name} {version} (needs {required_tier}), sequence {sequence}, created {created}"),
            format!("for {}", platforms.join(", ")),
            format!("{} customers: {}", customers.len(), counts.join(", ")),
            format!("signed by {key_id}, into {place}: {} packages", customers.len() * platforms.len()),
        ]
        .join("\n")
    }
}

impl Package {
    fn of(package: PackageFile, sha256: String) -> Self {
        let PackageFile { path, manifest } = package;
        let Manifest { plugin, customer, target, payload, .. } = manifest;
        Self {
            path,
            name: plugin.name.to_string(),
            version: plugin.version.to_string(),
            customer: customer.id.to_string(),
            tier: customer.tier,
            platform: target.platform.to_string(),
            sha256,
            tar_sha256: payload.tar_sha256.to_string(),
        }
    }
}
