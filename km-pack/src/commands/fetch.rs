//! `km-pack fetch`

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use km_cli::Output;
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::index::{IndexContext, IndexEntry};
use km_package::manifest::Manifest;
use km_package::name::{CustomerId, PluginName};
use km_package::platform::Platform;
use km_package::tier::Tier;
use km_package::verify::{Context, Discard, UntrustedPackage, verify};
use serde::Serialize;

use super::publish;
use super::verify::trusted_keys;
use crate::archive::{self, PackageFile};
use crate::environment::Environment;
use crate::sign::Signed;
use crate::store::{self, Store};

/// Get a customer's packages out of a store as files, for those who have no network
///
/// Each is put together from its pieces and checked by every rule before the file appears.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  km-pack fetch --customer customer_123 --platform linux-amd64 --out delivery"
)]
pub(super) struct Fetch {
    /// Whose
    #[arg(long, value_name = "ID")]
    customer: CustomerId,
    /// Only this plugin; several times for several [default: all that the index names]
    #[arg(long, value_name = "NAME")]
    plugin: Vec<PluginName>,
    /// Only for this platform [default: every one]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// A folder, or file://, s3://, gs://, az:// [default: dist/store]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Trust this public key [default: keys/*.pub.pem, keys/trusted/*.pub.pem, and that of KM_SIGNING_KEY]
    #[arg(long, value_name = "PEM")]
    key: Vec<PathBuf>,
    /// Folder for the packages
    #[arg(long, value_name = "FOLDER", default_value = "dist")]
    out: PathBuf,
}

#[derive(Debug, Serialize)]
struct Document {
    packages: Vec<Package>,
}

#[derive(Debug, Serialize)]
struct Package {
    path: PathBuf,
    name: PluginName,
    version: String,
    customer: CustomerId,
    tier: Tier,
    platform: Platform,
    sha256: String,
}

impl Package {
    fn of(file: PackageFile, sha256: Digest) -> Self {
        let PackageFile { path, manifest } = file;
        let Manifest { plugin, customer, target, .. } = manifest;
        Self {
            path,
            name: plugin.name,
            version: plugin.version.to_string(),
            customer: customer.id,
            tier: customer.tier,
            platform: target.platform,
            sha256: sha256.to_string(),
        }
    }
}

impl Fetch {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let keys = trusted_keys(&self.key, environment)?;
        let store = Store::open_existing(self.store.as_deref().unwrap_or(store::DEFAULT), environment)?;
        let now = publish::now()?;
        let progress = output.progress();
        progress.step("fetching");
        let packages = publish::runtime()?.block_on(async {
            let nothing = || {
                Failure::new(
                    Kind::NotFound,
                    format_args!("{} has no index in {}", self.customer, store.name()),
                )
                .help("`km-pack publish` puts packages into a store")
            };
            let index = store.index(&self.customer).await?.document().ok_or_else(nothing)?;
            let index = index.verify(&keys, IndexContext { customer: &self.customer, now, last: None })?;
            let mut packages = Vec::new();
            for entry in index.index().packages.iter().filter(|entry| self.wants(entry)) {
                let stored = store.package(entry).await?;
                let whole = Bytes::from(store.pieces(&stored).await?.concat());
                let context = Context::passing_on(entry.platform.clone(), now);
                let verified = verify(UntrustedPackage::open(&whole[..], Discard)?, &keys, &context)?;
                packages.push(Signed::of(&verified, &whole));
            }
            Ok::<_, Failure>(packages)
        })?;
        if packages.is_empty() {
            return Err(Failure::new(
                Kind::NotFound,
                format_args!("the index of {} names nothing of what was asked for", self.customer),
            ));
        }
        let (folder, digests) = (&self.out, packages.iter().map(Signed::sha256).collect::<Vec<_>>());
        let written = packages.into_iter().map(|package| package.write(folder)).collect::<Result<_, _>>()?;
        let files = archive::finish(written, folder)?.into_iter();
        let packages: Vec<Package> =
            files.zip(digests).map(|(file, sha256)| Package::of(file, sha256)).collect();
        drop(progress);
        let text = packages.iter().map(|package| package.path.display().to_string()).collect::<Vec<_>>();
        output.result(&Document { packages }, text.join("\n"));
        Ok(())
    }

    fn wants(&self, entry: &IndexEntry) -> bool {
        (self.plugin.is_empty() || self.plugin.contains(&entry.name))
            && self.platform.as_ref().is_none_or(|platform| *platform == entry.platform)
    }
}
