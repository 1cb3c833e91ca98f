//! Publishing: packages go into a store, and then into the signed index of their customer.
//!
//! Nothing leads to a package before the index does, and an index is replaced only if it is the one
//! that was read: of two publishers at once, the slower one reads again and adds to what the other did.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use km_package::failure::{Failure, Kind};
use km_package::index::{Index, IndexEntry, MAX_SKEW, UntrustedIndex, VerifiedIndex};
use km_package::key::TrustedKeys;
use km_package::manifest::Time;
use km_package::name::{CustomerId, PluginName};
use km_package::signature::SignatureBlock;

use crate::sign::{Signed, SigningKey};
use crate::store::{Replaced, Store};

/// How often an index is tried when others keep being faster.
const TRIES: usize = 100;
/// How many customers are worked on at once.
const AT_ONCE: usize = 64;

/// A package that lies in a store. No index names it yet.
#[derive(Debug, Clone)]
pub struct Published {
    /// Whose it is.
    pub customer: CustomerId,
    /// What their index is to say.
    pub entry: IndexEntry,
}

/// What is to become of the index of a customer.
#[derive(Debug, Clone)]
pub enum Change {
    /// These packages are named from now on, in the place of those before them.
    Add(Vec<IndexEntry>),
    /// Of these packages those whose release is still named take the place of what is: a plugin that was
    /// withdrawn meanwhile does not come back.
    Replace(Vec<IndexEntry>),
    /// This plugin is not named any more.
    Withdraw(PluginName),
    /// The same again, with a new end.
    Renew,
}

/// How indexes are signed.
#[derive(Debug, Clone, Copy)]
pub struct PublishOptions {
    /// The time.
    pub now: Time,
    /// How long an index is believed, in seconds.
    pub lifetime: u64,
    /// Replace other content under the same version.
    pub force: bool,
    /// Go below the sequence that was published.
    pub allow_downgrade: bool,
}

/// What an index says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexUpdate {
    /// Whose it is.
    pub customer: CustomerId,
    /// Its counter.
    pub counter: u64,
    /// Its end.
    pub expires: Time,
    /// False where it said so already, and still does for long enough.
    pub changed: bool,
    /// What it names.
    pub packages: Vec<IndexEntry>,
}

/// Puts packages into a store, and signs indexes.
#[derive(Debug)]
pub struct Publisher {
    store: Store,
    key: SigningKey,
    /// Whose indexes are taken over: a text that anybody put there must not be signed again.
    trusted: TrustedKeys,
    options: PublishOptions,
}

impl Publisher {
    /// A publisher that takes over indexes signed by one of these keys, or by its own.
    pub fn new(
        store: Store,
        key: SigningKey,
        mut trusted: TrustedKeys,
        options: PublishOptions,
    ) -> Arc<Self> {
        trusted.extend([*key.public()]);
        Arc::new(Self { store, key, trusted, options })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The key that signs.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The keys whose work is taken over.
    pub fn trusted(&self) -> &TrustedKeys {
        &self.trusted
    }

    /// The time that indexes are signed at.
    pub fn now(&self) -> Time {
        self.options.now
    }

    /// The index of a customer, if they have one that a trusted key signed.
    ///
    /// # Errors
    /// When nobody who is trusted signed it (exit 3), or the store fails.
    pub async fn index(&self, customer: &CustomerId) -> Result<Option<Index>, Failure> {
        let document = self.store.index(customer).await?.document();
        let believed = document.map(|document| self.believe(customer, document)).transpose()?;
        Ok(believed.map(|verified| verified.index().clone()))
    }

    /// Puts a package into the store.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put(&self, package: &Signed) -> Result<Published, Failure> {
        let entry = self.store.put_package(package).await?;
        Ok(Published { customer: package.manifest.customer.id.clone(), entry })
    }

    /// Changes the indexes of many customers. One that fails does not stop the others.
    pub async fn change_all(
        self: &Arc<Self>,
        changes: impl IntoIterator<Item = (CustomerId, Change)>,
    ) -> Vec<(CustomerId, Result<IndexUpdate, Failure>)> {
        let one = |(customer, change): (CustomerId, Change)| {
            let (publisher, id) = (Arc::clone(self), customer.clone());
            let work = tokio::spawn(async move { publisher.change(&customer, &change).await });
            async move { (id, work.await.unwrap_or_else(|e| Err(Failure::new(Kind::Failed, e)))) }
        };
        stream::iter(changes).map(one).buffered(AT_ONCE).collect().await
    }

    /// Changes the index of one customer, beside whoever else does.
    ///
    /// # Errors
    /// When the index that is there is signed by nobody who is trusted (exit 3), the change is refused
    /// (exit 7), or the store fails.
    pub async fn change(&self, customer: &CustomerId, change: &Change) -> Result<IndexUpdate, Failure> {
        for _ in 0..TRIES {
            let before = self.store.index(customer).await?;
            let last = match before.document() {
                Some(document) => Some(self.believe(customer, document)?),
                None => None,
            };
            let said = last.as_ref().map(VerifiedIndex::index);
            let packages = self.packages(said.map_or(&[], |index| &index.packages), change)?;
            if let Some(index) = said
                && !self.is_due(index, &packages, change)
            {
                return Ok(IndexUpdate::of(index.clone(), false));
            }
            let Some(new) = self.next(customer, said, packages)? else {
                return Err(Failure::new(Kind::NotFound, format_args!("{customer} has no index")));
            };
            let text = new.to_text().into_bytes();
            let signature = self.key.sign(&text);
            let signatures = SignatureBlock::new(vec![signature.clone()]).to_bytes();
            let document = UntrustedIndex { text, signatures };
            if self.store.replace_index(&before, &document, signature).await? == Replaced::Done {
                return Ok(IndexUpdate::of(new, true));
            }
        }
        Err(Failure::new(Kind::Conflict, format_args!("others keep changing the index of {customer}"))
            .help("try again when they are done"))
    }

    fn believe(&self, customer: &CustomerId, document: UntrustedIndex) -> Result<VerifiedIndex, Failure> {
        document.verify_as_last(&self.trusted, customer).map_err(|e| {
            Failure::new(Kind::Untrusted, format_args!("index/{customer} in {}: {e}", self.store.name())).help(
                "it is not taken over into a new one; if another release key signed it, name its public half \
                 with --trust",
            )
        })
    }

    /// Whether a new index is worth it: something changed, or half of its time is over.
    fn is_due(&self, index: &Index, packages: &[IndexEntry], change: &Change) -> bool {
        let left = index.expires.unix().saturating_sub(self.options.now.unix());
        // One that was signed with a clock that was ahead is believed by nobody.
        let is_early = index.created.unix() > self.options.now.unix().saturating_add(MAX_SKEW);
        let is_other = index.packages != packages;
        matches!(change, Change::Renew) || is_other || is_early || left < self.options.lifetime / 2
    }

    /// What an index names after a change; what is new comes last.
    fn packages(&self, before: &[IndexEntry], change: &Change) -> Result<Vec<IndexEntry>, Failure> {
        let mut packages = before.to_vec();
        match change {
            Change::Renew => {}
            Change::Withdraw(name) => packages.retain(|entry| entry.name != *name),
            Change::Add(new) | Change::Replace(new) => {
                let adds = matches!(change, Change::Add(_));
                for entry in new {
                    let place =
                        |old: &IndexEntry| (&old.name, &old.platform) == (&entry.name, &entry.platform);
                    match packages.iter().position(place) {
                        Some(at) if adds || is_restamp(&packages[at], entry) => {
                            self.judge(&packages[at], entry)?;
                            packages[at] = entry.clone();
                        }
                        None if adds => packages.push(entry.clone()),
                        _ => {}
                    }
                }
            }
        }
        Ok(packages)
    }

    /// Whether one package may take the place of another.
    fn judge(&self, old: &IndexEntry, new: &IndexEntry) -> Result<(), Failure> {
        let IndexEntry { name, version, sequence, .. } = new;
        if *sequence < old.sequence && !self.options.allow_downgrade {
            let message =
                format!("{name} {version} has the sequence {sequence}, and {} was published", old.sequence);
            return Err(Failure::new(Kind::Conflict, message).help(
                "customers refuse it: build it again with a higher --sequence; --allow-downgrade publishes it \
                 all the same",
            ));
        }
        let other_build = old.version == *version && old.base_sha256 != new.base_sha256;
        if other_build && !self.options.force {
            let message = format!("{name} {version} was published with other content");
            return Err(Failure::new(Kind::Conflict, message)
                .help("a new build should have a new version; to replace it all the same, add --force"));
        }
        Ok(())
    }

    /// The next index of a customer. None where there is none and nothing to say.
    fn next(
        &self,
        customer: &CustomerId,
        before: Option<&Index>,
        packages: Vec<IndexEntry>,
    ) -> Result<Option<Index>, Failure> {
        if before.is_none() && packages.is_empty() {
            return Ok(None);
        }
        let PublishOptions { now, lifetime, .. } = self.options;
        // Above what customers have seen also where the store was restored from a backup.
        let counter = before.map_or(0, |index| index.counter.saturating_add(1)).max(now.unix());
        let expires = now
            .unix()
            .checked_add(lifetime)
            .and_then(Time::from_unix)
            .ok_or_else(|| Failure::new(Kind::Usage, "the index would expire after the year 2242"))?;
        let index = Index::new(customer.clone(), counter, now, expires, packages);
        // As those will who read it: too many packages, or too large a counter.
        Index::parse(index.to_text().as_bytes()).map_err(|e| {
            Failure::new(Kind::Conflict, format_args!("the index of {customer} would not be one: {e}"))
                .help("nothing of it was changed; `km-pack withdraw` takes plugins out of it")
        })?;
        Ok(Some(index))
    }
}

impl IndexUpdate {
    fn of(index: Index, changed: bool) -> Self {
        let Index { customer, counter, expires, packages, .. } = index;
        Self { customer, counter, expires, changed, packages }
    }
}

/// Whether two packages are of one release.
fn is_restamp(old: &IndexEntry, new: &IndexEntry) -> bool {
    (&old.version, old.sequence, old.base_sha256) == (&new.version, new.sequence, new.base_sha256)
}

/// What these packages change, one change for each customer.
pub fn changes(
    published: Vec<Published>,
    change: impl Fn(Vec<IndexEntry>) -> Change,
) -> Vec<(CustomerId, Change)> {
    let mut of_customer = std::collections::BTreeMap::<CustomerId, Vec<IndexEntry>>::new();
    for Published { customer, entry } in published {
        of_customer.entry(customer).or_default().push(entry);
    }
    of_customer.into_iter().map(|(customer, entries)| (customer, change(entries))).collect()
}
