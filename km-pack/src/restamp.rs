//! Stamping anew out of a store: customers whose tier is another one now, or who get a plugin that
//! others have. Nothing is compiled or compressed.

use std::collections::HashMap;
use std::sync::Arc;

use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::index::{Index, IndexEntry};
use km_package::manifest::Customer;
use km_package::name::PluginName;
use km_package::platform::Platform;
use km_package::verify::{Context, Discard, UntrustedPackage, verify};

use crate::publish::{Published, Publisher};
use crate::release::{InMemory, Release};
use crate::sign::Signed;

/// A package to be made: for whom, from which package of the same release.
#[derive(Debug, Clone)]
pub struct Restamp {
    /// For whom, at which tier.
    pub customer: Customer,
    /// A package of the release.
    pub template: IndexEntry,
    /// Whether their index does not name it yet.
    pub is_new: bool,
}

/// What the packages of a release have in common. Two plugins may be the same binary.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ReleaseKey {
    name: PluginName,
    version: semver::Version,
    sequence: u64,
    platform: Platform,
    base_sha256: Digest,
}

impl ReleaseKey {
    fn of(entry: &IndexEntry) -> Self {
        let IndexEntry { name, version, sequence, platform, base_sha256, .. } = entry.clone();
        Self { name, version, sequence, platform, base_sha256 }
    }
}

/// What is to be stamped anew: what a customer's index names at another tier than theirs; and the newest
/// release of these plugins where their index does not name it.
///
/// # Errors
/// When an index is signed by nobody who is trusted, or nobody has one of the plugins.
pub async fn plan(
    publisher: &Publisher,
    customers: &[Customer],
    plugins: &[PluginName],
) -> Result<Vec<Restamp>, Failure> {
    let newest = newest(publisher, plugins).await?;
    let mut all = Vec::new();
    for customer in customers {
        let index = publisher.index(&customer.id).await?;
        let entries = index.as_ref().map_or(&[][..], |index| &index.packages);
        let other_tier = entries.iter().filter(|entry| entry.tier != customer.tier);
        let missing = newest.iter().filter(|new| {
            !entries.iter().any(|entry| {
                (&entry.name, &entry.platform) == (&new.name, &new.platform) && entry.sequence >= new.sequence
            })
        });
        let named: Vec<&IndexEntry> = missing.collect();
        let kept = other_tier.filter(|entry| {
            !named.iter().any(|new| (&new.name, &new.platform) == (&entry.name, &entry.platform))
        });
        let restamp = |template: &IndexEntry, is_new| Restamp {
            customer: customer.clone(),
            template: template.clone(),
            is_new,
        };
        all.extend(kept.map(|template| restamp(template, false)));
        all.extend(named.iter().map(|template| restamp(template, true)));
    }
    Ok(all)
}

/// The newest package of each of these plugins and each platform, whoever has it.
async fn newest(publisher: &Publisher, plugins: &[PluginName]) -> Result<Vec<IndexEntry>, Failure> {
    let mut found = HashMap::<(PluginName, Platform), IndexEntry>::new();
    if plugins.is_empty() {
        return Ok(Vec::new());
    }
    for customer in publisher.store().customers().await? {
        let Some(Index { packages, .. }) = publisher.index(&customer).await? else { continue };
        for entry in packages.into_iter().filter(|entry| plugins.contains(&entry.name)) {
            let key = (entry.name.clone(), entry.platform.clone());
            if found.get(&key).is_none_or(|best| best.sequence < entry.sequence) {
                found.insert(key, entry);
            }
        }
    }
    match plugins.iter().find(|name| !found.keys().any(|(found, _)| found == *name)) {
        None => Ok(found.into_values().collect()),
        Some(missing) => Err(Failure::new(
            Kind::NotFound,
            format_args!("no index in {} names {missing}", publisher.store().name()),
        )
        .help("publish it for somebody first: `km-pack build --customers … --publish`")),
    }
}

/// Packages that were stamped anew.
#[derive(Debug, Default)]
pub struct Restamped {
    /// They take the place of what an index names, if it still does.
    pub replaced: Vec<Published>,
    /// They are named from now on.
    pub new: Vec<Published>,
}

/// Stamps, signs and puts into the store. No index names it yet.
///
/// # Errors
/// When a package that is stamped anew does not hold, or the store fails.
pub async fn run(publisher: &Publisher, restamps: &[Restamp], done: &dyn Fn()) -> Result<Restamped, Failure> {
    let mut releases = HashMap::<ReleaseKey, Arc<Release>>::new();
    let mut done_so_far = Restamped::default();
    for Restamp { customer, template, is_new } in restamps {
        let key = ReleaseKey::of(template);
        let known = releases.get(&key).cloned();
        let release = match &known {
            Some(release) => Arc::clone(release),
            None => restore(publisher, template).await?,
        };
        let signer = publisher.key();
        let package = release.stamp(customer.clone(), signer)?.describe()?.sign(signer);
        if known.is_none() {
            check(publisher, &package)?;
            releases.insert(key, release);
        }
        let published = publisher.put(&package).await?;
        if *is_new { &mut done_so_far.new } else { &mut done_so_far.replaced }.push(published);
        done();
    }
    Ok(done_so_far)
}

/// Reads a package by every rule, and makes a release of it again.
async fn restore(publisher: &Publisher, template: &IndexEntry) -> Result<Arc<Release>, Failure> {
    let stored = publisher.store().package(template).await?;
    let pieces = publisher.store().pieces(&stored).await?;
    let whole = pieces.concat();
    let context = Context::passing_on(template.platform.clone(), publisher.now());
    let package = UntrustedPackage::open(&whole[..], InMemory::default())?;
    let verified = verify(package, publisher.trusted(), &context)?;
    Release::of_package(verified, &pieces[1..], publisher.key())
}

/// Holds the first package of a release against every rule, before it goes anywhere.
fn check(publisher: &Publisher, package: &Signed) -> Result<(), Failure> {
    let whole = package.to_bytes();
    let context = Context::passing_on(package.manifest.target.platform.clone(), publisher.now());
    verify(UntrustedPackage::open(&whole[..], Discard)?, publisher.trusted(), &context)?;
    Ok(())
}
