//! `km-pack publish`

use std::path::{Path, PathBuf};
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
use crate::publish::{Change, IndexUpdate, PublishOptions, Published, Publisher, additions};
use crate::release::SharedFrame;
use crate::sign::{Signed, SigningKey};
use crate::store::{self, Store};

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

    /// A publisher into the store. It takes over what its own key has signed, and the keys of `--trust`,
    /// or else those that lie where keys lie.
    pub(super) fn publisher(
        &self,
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
        let store = Store::open(self.store(), environment)?;
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
    counter: u64,
    expires: String,
    packages: usize,
    /// `published`, or `kept` where it said so already.
    action: &'static str,
}

impl Publish {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let key = SigningKey::load(self.key.as_deref(), environment)?;
        let runtime = runtime()?;
        let publisher = self.publishing.publisher(key, environment)?;
        let progress = output.progress();
        let finished = if self.renew {
            progress.step("signing indexes");
            runtime.block_on(renew(&publisher))
        } else {
            // All of them are checked before the first is published.
            let packages: Vec<Signed> = (self.packages.iter())
                .map(|path| read(path, &publisher, output).map_err(|e| e.context(path.display())))
                .collect::<Result<_, _>>()?;
            progress.step("publishing");
            runtime.block_on(async {
                let mut published = Vec::new();
                for package in &packages {
                    published.push(publisher.put(package).await?);
                    if self.whole {
                        let whole = [vec![package.head.to_bytes()], package.frame_bytes()].concat().concat();
                        publisher.store().put_whole(&package.file_name(), whole.into()).await?;
                    }
                }
                finish(&publisher, published).await
            })
        };
        drop(progress);
        finished?.report(output)
    }
}

async fn renew(publisher: &Arc<Publisher>) -> Result<Document, Failure> {
    let customers = publisher.store().customers().await?;
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

/// Names what was put into the store in the indexes.
pub(super) async fn finish(
    publisher: &Arc<Publisher>,
    published: Vec<Published>,
) -> Result<Document, Failure> {
    // What an index names is there, also after a power cut.
    publisher.store().sync().await?;
    let packages = published.iter().map(Package::of).collect();
    let updates = publisher.change_all(additions(published)).await;
    publisher.store().sync().await?;
    Ok(Document::of(publisher, packages, updates))
}

/// A package as a file has it, by every rule but those that are the recipient's.
fn read(path: &Path, publisher: &Publisher, output: &Output) -> Result<Signed, Failure> {
    let (mut file, length) = super::open_package(path)?;
    let (manifest, _) = UntrustedPackage::open(&mut file, Discard)?.peek()?;
    let (file, _) = super::open_package(path)?;
    let progress = output.progress();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut progress.reading(file, length, "reading"), &mut bytes)
        .map_err(|e| Failure::file("read", path, &e))?;
    let bytes = Bytes::from(bytes);
    let package = UntrustedPackage::open(&bytes[..], Discard)?;
    let context = Context::passing_on(manifest.target.platform, publisher.now());
    let verified = verify(package, publisher.trusted(), &context)?;
    let mut at = verified.head().to_bytes().len();
    let mut frames = Vec::new();
    for frame in &verified.manifest().payload.frames {
        let end = at + frame.size as usize;
        frames.push(SharedFrame { bytes: bytes.slice(at..end), frame: *frame });
        at = end;
    }
    Ok(Signed { manifest: verified.manifest().clone(), head: verified.head().clone(), frames })
}

impl Document {
    fn of(publisher: &Publisher, packages: Vec<Package>, updates: Vec<Result<IndexUpdate, Failure>>) -> Self {
        let (mut indexes, mut error) = (Vec::new(), None);
        for update in updates {
            match update {
                Ok(update) => indexes.push(Index::of(&update)),
                Err(failure) => error = error.or(Some(failure)),
            }
        }
        Self { store: publisher.store().name().to_owned(), packages, indexes, error }
    }

    /// Says what was done; the first index that was not written decides how the command ends.
    pub(super) fn report(self, output: &Output) -> Result<(), Failure> {
        let error = self.error.clone();
        let text = self.text();
        match error {
            None => {
                output.result(&self, text);
                Ok(())
            }
            Some(failure) => {
                output.note(text);
                Err(failure)
            }
        }
    }

    fn text(&self) -> String {
        let changed = self.indexes.iter().filter(|index| index.action == "published").count();
        let kept = self.indexes.len() - changed;
        let kept = if kept > 0 { format!(", {kept} kept") } else { String::new() };
        let lines = (self.indexes.iter().take(20))
            .map(|index| format!("  {}: index {} until {}", index.customer, index.counter, index.expires));
        let more = self.indexes.len().saturating_sub(20);
        let more = (more > 0).then(|| format!("  … and {more} more"));
        std::iter::once(format!(
            "{}: {} packages; {changed} indexes published{kept}",
            self.store,
            self.packages.len()
        ))
        .chain(lines)
        .chain(more)
        .collect::<Vec<_>>()
        .join("\n")
    }
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
            counter: update.counter,
            expires: update.expires.to_string(),
            packages: update.packages.len(),
            action: if update.changed { "published" } else { "kept" },
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
