//! `km-pack publish`

use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use jiff::{Span, SpanRelativeTo, Timestamp};
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::index::IndexEntry;
use km_package::key::TrustedKeys;
use km_package::manifest::Time;
use km_package::name::{CustomerId, PluginName};
use km_package::tier::Tier;
use km_package::verify::{Context, Discard, UntrustedPackage, verify};
use serde::Serialize;

use super::verify::trusted_keys;
use crate::environment::Environment;
use crate::publish::{Change, IndexUpdate, PublishOptions, Published, Publisher, changes};
use crate::sign::{Signed, SigningKey};
use crate::store::{self, Store};

/// How many indexes are told of to people.
const SHOWN: usize = 20;
/// Longest an index is believed.
const LONGEST: u64 = 10 * 365 * 24 * 3600;

/// Put packages into a store, and name them in the signed index of their customer
///
/// A store is a folder, or a bucket: s3://, gs://, az://. Customers get what their index names from
/// `km-pack serve`, or from any file server that has the store.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  km-pack publish dist/*.kmpkg\n  km-pack publish dist/*.kmpkg --store s3://plugins/store\n  km-pack publish --renew --expires 30d"
)]
pub(super) struct Publish {
    /// The packages
    #[arg(value_name = "PACKAGE", required_unless_present = "renew")]
    packages: Vec<PathBuf>,
    /// The signing key of the index [default: KM_SIGNING_KEY, else keys/release.key.pem]
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
    /// Sign the index of every customer anew, so that it is believed for longer
    #[arg(long, conflicts_with_all = ["packages", "whole"])]
    renew: bool,
    /// Put each package into the store as one file, too
    #[arg(long)]
    whole: bool,
    #[command(flatten)]
    publishing: PublishArgs,
}

/// How and where things are published.
#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// A folder, or file://, s3://, gs://, az:// [default: dist/store]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// How long customers believe the index
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = lifetime)]
    expires: u64,
    /// Take over indexes that this key signed, too (a public key; several times for several)
    #[arg(long, value_name = "PEM")]
    trust: Vec<PathBuf>,
    /// Replace other content under the same version
    #[arg(long)]
    force: bool,
    /// Publish a package that is older than the one that is published
    #[arg(long)]
    allow_downgrade: bool,
}

impl PublishArgs {
    pub(super) fn store(&self) -> &str {
        self.store.as_deref().unwrap_or(store::DEFAULT)
    }

    /// A publisher into the store, which is made when missing.
    pub(super) fn publisher(
        &self,
        key: SigningKey,
        environment: &Environment,
    ) -> Result<Arc<Publisher>, Failure> {
        self.publisher_into(Store::open(self.store(), environment)?, key, environment)
    }

    /// A publisher into a store that is there.
    pub(super) fn publisher_of_existing(
        &self,
        key: SigningKey,
        environment: &Environment,
    ) -> Result<Arc<Publisher>, Failure> {
        self.publisher_into(Store::open_existing(self.store(), environment)?, key, environment)
    }

    /// It takes over what its own key has signed, and the keys of `--trust`,
    /// or else those that lie where keys lie.
    fn publisher_into(
        &self,
        store: Store,
        key: SigningKey,
        environment: &Environment,
    ) -> Result<Arc<Publisher>, Failure> {
        let trusted = match trusted_keys(&self.trust, environment) {
            Err(failure) if failure.kind == Kind::NotFound && self.trust.is_empty() => TrustedKeys::default(),
            other => other?,
        };
        let options = PublishOptions {
            now: now()?,
            lifetime: self.expires,
            force: self.force,
            allow_downgrade: self.allow_downgrade,
        };
        Ok(Publisher::new(store, key, trusted, options))
    }
}

/// What was published, for scripts.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    store: String,
    packages: Vec<Package>,
    indexes: Vec<Index>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Debug, Serialize)]
struct Package {
    customer: CustomerId,
    name: PluginName,
    version: String,
    tier: Tier,
    platform: String,
    size: u64,
    manifest_sha256: String,
    head_sha256: String,
}

#[derive(Debug, Serialize)]
struct Index {
    customer: CustomerId,
    counter: Option<u64>,
    expires: Option<String>,
    packages: Option<usize>,
    /// `published`, `kept` where it said so already, or `failed`.
    action: &'static str,
    reason: Option<String>,
}

impl Publish {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<ExitCode, Failure> {
        let key = SigningKey::load(self.key.as_deref(), environment)?;
        let runtime = runtime()?;
        let publisher = match self.renew {
            true => self.publishing.publisher_of_existing(key, environment)?,
            false => self.publishing.publisher(key, environment)?,
        };
        let progress = output.progress();
        let finished = if self.renew {
            progress.step("signing indexes");
            runtime.block_on(renew(&publisher))
        } else {
            let read = |path: &PathBuf| read(path, &publisher, output).map_err(|e| e.context(path.display()));
            // All of them are checked before the first is published; they may not fit into memory together.
            for path in &self.packages {
                read(path)?;
            }
            progress.step("publishing");
            runtime.block_on(async {
                let mut published = Vec::new();
                for path in &self.packages {
                    let package = read(path)?;
                    published.push(publisher.put(&package).await?);
                    if self.whole {
                        publisher.store().put_whole(&package.file_name(), package.to_bytes().into()).await?;
                    }
                }
                finish(&publisher, published, Vec::new()).await
            })
        };
        drop(progress);
        Ok(finished?.report(output))
    }
}

async fn renew(publisher: &Arc<Publisher>) -> Result<Document, Failure> {
    let customers = publisher.store().customers().await?;
    if customers.is_empty() {
        let message = format!("there is no index in {}", publisher.store().name());
        return Err(Failure::new(Kind::NotFound, message).help("name the store with --store"));
    }
    change(publisher, customers.into_iter().map(|customer| (customer, Change::Renew))).await
}

/// Changes indexes alone.
pub(super) async fn change(
    publisher: &Arc<Publisher>,
    changes: impl Iterator<Item = (CustomerId, Change)>,
) -> Result<Document, Failure> {
    let updates = publisher.change_all(changes).await;
    publisher.store().sync().await?;
    Ok(Document::of(publisher, Vec::new(), updates))
}

/// Names what was put into the store in the indexes: what is new, and what takes the place of others.
pub(super) async fn finish(
    publisher: &Arc<Publisher>,
    new: Vec<Published>,
    replaced: Vec<Published>,
) -> Result<Document, Failure> {
    // What an index names is there, also after a power cut.
    publisher.store().sync().await?;
    let packages = new.iter().chain(&replaced).map(Package::of).collect();
    let all = [changes(new, Change::Add), changes(replaced, Change::Replace)].concat();
    let updates = publisher.change_all(all).await;
    publisher.store().sync().await?;
    Ok(Document::of(publisher, packages, updates))
}

/// A package as a file has it, by every rule but those that are the recipient's.
fn read(path: &Path, publisher: &Publisher, output: &Output) -> Result<Signed, Failure> {
    let failed = |e| Failure::file("read", path, &e);
    let (mut file, length) = super::open_package(path)?;
    // What is no package is not read as a whole.
    let (manifest, _) = UntrustedPackage::open(&mut file, Discard)?.peek()?;
    file.rewind().map_err(failed)?;
    let progress = output.progress();
    let mut bytes = Vec::new();
    progress.reading(file, length, "reading").read_to_end(&mut bytes).map_err(failed)?;
    let bytes = Bytes::from(bytes);
    let package = UntrustedPackage::open(&bytes[..], Discard)?;
    let context = Context::passing_on(manifest.target.platform, publisher.now());
    let verified = verify(package, publisher.trusted(), &context)?;
    Ok(Signed::of(&verified, &bytes))
}

impl Document {
    fn of(
        publisher: &Publisher,
        packages: Vec<Package>,
        updates: Vec<(CustomerId, Result<IndexUpdate, Failure>)>,
    ) -> Self {
        let (mut indexes, mut error) = (Vec::new(), None);
        for (customer, update) in updates {
            match update {
                Ok(update) => indexes.push(Index::of(&update)),
                Err(failure) => {
                    indexes.push(Index::failed(customer, &failure));
                    error = error.or(Some(failure));
                }
            }
        }
        Self { store: publisher.store().name().to_owned(), packages, indexes, error }
    }

    /// Whether an index says something else now, or could not be made to.
    pub(super) fn has_changed(&self) -> bool {
        self.error.is_some() || self.indexes.iter().any(|index| index.action == "published")
    }

    /// Says what was done; the first index that was not written decides how the command ends.
    pub(super) fn report(self, output: &Output) -> ExitCode {
        output.result(&self, self.text());
        match &self.error {
            None => ExitCode::SUCCESS,
            // It is in the document.
            Some(failure) if output.is_json() => ExitCode::from(failure.kind.code()),
            Some(failure) => output.fail(failure),
        }
    }

    fn text(&self) -> String {
        let changed = self.indexes.iter().filter(|index| index.action == "published").count();
        let kept = self.indexes.iter().filter(|index| index.action == "kept").count();
        let kept = if kept > 0 { format!(", {kept} as before") } else { String::new() };
        // Those that failed are all named.
        let (failed, fine): (Vec<&Index>, Vec<&Index>) =
            self.indexes.iter().partition(|index| index.action == "failed");
        let more = fine.len().saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!("  … and {more} more"));
        let lines = failed.into_iter().chain(fine.into_iter().take(SHOWN)).map(Index::line);
        let indexes = count(changed, "new index", "new indexes");
        self.releases()
            .into_iter()
            .chain(std::iter::once(format!("{}: {indexes}{kept}", self.store)))
            .chain(lines)
            .chain(more)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// What was put into the store, by plugin and version.
    fn releases(&self) -> Vec<String> {
        let mut of_release = std::collections::BTreeMap::<_, usize>::new();
        for Package { name, version, platform, tier, .. } in &self.packages {
            *of_release.entry((name, version, platform, tier)).or_default() += 1;
        }
        let line =
            |((name, version, platform, tier), number): ((&PluginName, &String, &String, &Tier), usize)| {
                let customers = count(number, "customer", "customers");
                format!("{name} {version} for {platform}, stamped {tier}: {customers}")
            };
        of_release.into_iter().map(line).collect()
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

impl Package {
    fn of(Published { customer, entry }: &Published) -> Self {
        let IndexEntry { name, version, tier, platform, manifest_sha256, head_sha256, .. } = entry;
        Self {
            customer: customer.clone(),
            name: name.clone(),
            version: version.to_string(),
            tier: *tier,
            platform: platform.to_string(),
            size: entry.size(),
            manifest_sha256: manifest_sha256.to_string(),
            head_sha256: head_sha256.to_string(),
        }
    }
}

impl Index {
    fn of(update: &IndexUpdate) -> Self {
        Self {
            customer: update.customer.clone(),
            counter: Some(update.counter),
            expires: Some(update.expires.to_string()),
            packages: Some(update.packages.len()),
            action: if update.changed { "published" } else { "kept" },
            reason: None,
        }
    }

    fn failed(customer: CustomerId, failure: &Failure) -> Self {
        let reason = Some(km_cli::printable_line(&failure.message));
        Self { customer, counter: None, expires: None, packages: None, action: "failed", reason }
    }

    fn line(&self) -> String {
        match (self.counter, &self.expires, &self.reason) {
            (Some(counter), Some(expires), _) => {
                format!("  {}: index {counter} until {expires}", self.customer)
            }
            (_, _, reason) => {
                format!("  {}: failed, {}", self.customer, reason.as_deref().unwrap_or_default())
            }
        }
    }
}

/// What many requests at once run on.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| Failure::new(Kind::Local, e))
}

pub(super) fn now() -> Result<Time, Failure> {
    u64::try_from(Timestamp::now().as_second())
        .ok()
        .and_then(Time::from_unix)
        .ok_or_else(|| Failure::new(Kind::Failed, "this machine's clock is before 1970 or after 2242"))
}

fn lifetime(text: &str) -> Result<u64, String> {
    let wrong = |_| "not a time such as 30d, 12h or 2w".to_owned();
    let span: Span = text.parse().map_err(wrong)?;
    let time = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(wrong)?;
    match u64::try_from(time.as_secs()) {
        Ok(seconds) if (1..=LONGEST).contains(&seconds) => Ok(seconds),
        _ => Err("an index is believed for 1 s to 10 years".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_a_second_to_ten_years() {
        assert_eq!(lifetime("30d"), Ok(30 * 24 * 3600));
        assert_eq!(lifetime("1w"), Ok(7 * 24 * 3600));
        assert_eq!(lifetime("2s"), Ok(2));
        for bad in ["", "30", "0s", "-1d", "11y", "1 fortnight"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
