//! What is to be done about each plugin: decided before anything is touched.

use std::collections::{BTreeMap, BTreeSet};

use km_package::envelope::{MAX_MANIFEST, MAX_SIGNATURES};
use km_package::failure::{Failure, Kind};
use km_package::index::{Index, IndexEntry};
use km_package::manifest::MAX_PAYLOAD;
use km_package::name::PluginName;
use km_package::platform::Platform;
use km_package::tier::Tier;
use km_package::verify::{PackageError, Rule};

use crate::store::{InstalledPackage, LockFile, Origin};

/// Most bytes in front of a payload: two frames with eight bytes each around them.
const MAX_HEAD: u64 = MAX_MANIFEST as u64 + MAX_SIGNATURES as u64 + 16;

/// Everything that the decision depends on.
#[derive(Debug)]
pub(super) struct Situation<'a> {
    pub(super) index: &'a Index,
    pub(super) platform: &'a Platform,
    pub(super) allowed: Allowed,
    /// What is here of each plugin that is installed or in the index.
    pub(super) here: &'a BTreeMap<PluginName, Here>,
    pub(super) allow_downgrade: bool,
    /// What alone is installed, if that was said.
    pub(super) locked: Option<&'a LockFile>,
}

/// What of the index the subscription reaches.
#[derive(Debug, Clone)]
pub(super) enum Allowed {
    /// The API says it.
    These { tier: Tier, names: BTreeSet<PluginName> },
    /// There is no API in use: the index alone decides.
    All,
    /// The API could not be asked: what it has disabled stays so.
    Unknown,
}

/// What is here of one plugin.
#[derive(Debug, Clone, Default)]
pub(super) struct Here {
    pub(super) installed: Option<InstalledPackage>,
    /// Whether all of that verifies.
    pub(super) is_sound: bool,
    /// Whether a binary that somebody allowed lies in its place.
    pub(super) is_local: bool,
    /// The highest sequence that was installed for this customer.
    pub(super) highest: Option<u64>,
    /// What keeps that from being known.
    pub(super) trouble: Option<Failure>,
}

/// What is to be done about one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Download and install this.
    Install(IndexEntry),
    /// It stays as it is, for this reason, if it needs one.
    Keep(Option<String>),
    /// It is the right one, and may run again.
    Enable,
    /// It is not entitled any more, for this reason.
    Disable(String),
    /// It is not entitled, for this reason, and nothing of it runs.
    Leave(String),
    /// It is not published any more.
    Remove,
    /// It is refused.
    Refuse(IndexEntry, Failure),
}

impl Step {
    /// Why the customer's tier does not reach it, if so.
    pub(super) fn denial(&self) -> Option<&str> {
        match self {
            Self::Disable(reason) | Self::Leave(reason) => Some(reason),
            _ => None,
        }
    }
}

/// Decides about every plugin that is in the index for this platform, or installed from a package.
pub(super) fn plan(situation: &Situation<'_>) -> BTreeMap<PluginName, Step> {
    let steps = situation.here.iter().filter_map(|(name, here)| {
        let step = match situation.entry(name) {
            Some(entry) => situation.published(entry, here),
            None => situation.unpublished(name, here.installed.as_ref()?),
        };
        Some((name.clone(), step))
    });
    steps.collect()
}

impl Situation<'_> {
    /// What the index has for this platform.
    fn entry(&self, name: &PluginName) -> Option<&IndexEntry> {
        self.index.packages.iter().find(|entry| entry.name == *name && entry.platform == *self.platform)
    }

    fn published(&self, entry: &IndexEntry, here: &Here) -> Step {
        let installed = here.installed.as_ref().filter(|installed| installed.customer == self.index.customer);
        let disabled = installed.and_then(|installed| installed.disabled.as_deref());
        let is_disabled = disabled.is_some();
        if let Some(reason) = self.denial(entry) {
            return if installed.is_some() && !is_disabled {
                Step::Disable(reason)
            } else {
                Step::Leave(reason)
            };
        }
        if here.is_local {
            return Step::Keep(Some(
                "a binary of this machine, which was allowed, is in its place".to_owned(),
            ));
        }
        if let Some(trouble) = &here.trouble {
            return Step::Refuse(entry.clone(), trouble.clone());
        }
        let is_the_one = |installed: &InstalledPackage| {
            installed.manifest_sha256 == entry.manifest_sha256 && here.is_sound
        };
        let was_rolled_back = |installed: &InstalledPackage| {
            !self.allow_downgrade
                && here.highest.is_some_and(|mark| installed.sequence < mark && entry.sequence <= mark)
        };
        // It may be the API that has disabled it.
        if let (Some(reason), Allowed::Unknown) = (disabled, &self.allowed) {
            return Step::Leave(reason.to_owned());
        }
        match installed {
            Some(installed) if self.is_locked(installed, entry) => {
                Step::Keep(Some(format!("locked; {} is published", entry.version)))
            }
            Some(installed) if is_the_one(installed) && self.check_lock(entry).is_err() => {
                self.install(entry, here.highest)
            }
            Some(installed) if is_the_one(installed) && is_disabled => Step::Enable,
            Some(installed) if is_the_one(installed) => Step::Keep(None),
            Some(installed) if was_rolled_back(installed) && is_disabled => Step::Enable,
            Some(installed) if was_rolled_back(installed) => Step::Keep(Some("rolled back".to_owned())),
            _ => self.install(entry, here.highest),
        }
    }

    fn install(&self, entry: &IndexEntry, highest: Option<u64>) -> Step {
        let highest = highest.filter(|_| !self.allow_downgrade);
        let checked = check_size(entry)
            .and_then(|()| check_rollback(entry, highest).map_err(Failure::from))
            .and_then(|()| self.check_lock(entry));
        match checked {
            Ok(()) => Step::Install(entry.clone()),
            Err(failure) => Step::Refuse(entry.clone(), failure),
        }
    }

    /// Whether the lock file names what is installed, and not what is published.
    fn is_locked(&self, installed: &InstalledPackage, entry: &IndexEntry) -> bool {
        let Some(locked) = self.locked else { return false };
        let InstalledPackage { version, manifest_sha256, .. } = installed;
        installed.disabled.is_none()
            && locked.check(&entry.name, version, &entry.platform, manifest_sha256).is_ok()
            && self.check_lock(entry).is_err()
    }

    fn check_lock(&self, entry: &IndexEntry) -> Result<(), Failure> {
        let IndexEntry { name, version, platform, manifest_sha256, .. } = entry;
        self.locked.map_or(Ok(()), |locked| locked.check(name, version, platform, manifest_sha256))
    }

    /// Why the customer may not run a package, if so: the tier stamped into it, or that of the
    /// subscription where the API leaves it out. One that the API leaves out without such a reason is only
    /// not to be had from there just now.
    fn denial(&self, entry: &IndexEntry) -> Option<String> {
        let has = match &self.allowed {
            Allowed::These { tier, names } if !names.contains(&entry.name) => entry.tier.min(*tier),
            Allowed::These { .. } | Allowed::All | Allowed::Unknown => entry.tier,
        };
        let (customer, required) = (&self.index.customer, entry.required_tier);
        (has < required).then(|| format!("needs {required}, {customer} has {has}"))
    }

    fn unpublished(&self, name: &PluginName, installed: &InstalledPackage) -> Step {
        let keep = |reason: String| Step::Keep(Some(reason));
        if installed.customer != self.index.customer {
            return keep(format!("made for {}", installed.customer));
        }
        if self.index.packages.iter().any(|entry| entry.name == *name) {
            return keep(format!("not published for {}", self.platform));
        }
        match installed.origin {
            Origin::Index => Step::Remove,
            Origin::File => keep("installed from a file".to_owned()),
        }
    }
}

/// What is downloaded is never more than a package can be.
fn check_size(entry: &IndexEntry) -> Result<(), Failure> {
    if entry.head_size <= MAX_HEAD && entry.payload_size <= MAX_PAYLOAD {
        return Ok(());
    }
    let message = format!("the index says that it is {} bytes, and no package is", entry.size());
    Err(Failure::new(Kind::Untrusted, message).help("tell whoever published it"))
}

/// Rule V10, before anything is downloaded.
fn check_rollback(entry: &IndexEntry, highest: Option<u64>) -> Result<(), PackageError> {
    match highest {
        Some(highest) if entry.sequence < highest => Err(PackageError::Refused {
            rule: Rule::Rollback,
            detail: format!("its sequence is {}, and {highest} was installed before", entry.sequence),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use km_package::digest::Digest;
    use km_package::manifest::Time;

    use super::*;
    use crate::store::LockedPlugin;

    fn name() -> PluginName {
        "a".parse().unwrap()
    }

    fn entry(sequence: u64) -> IndexEntry {
        IndexEntry {
            name: name(),
            version: "1.0.0".parse().unwrap(),
            sequence,
            platform: "linux-amd64".parse().unwrap(),
            required_tier: Tier::Pro,
            tier: Tier::Pro,
            base_sha256: Digest::of(b"base"),
            manifest_sha256: Digest::of(&sequence.to_le_bytes()),
            head_sha256: Digest::of(b"head"),
            head_size: 1500,
            payload_size: 30,
        }
    }

    fn index(packages: Vec<IndexEntry>) -> Index {
        let time = |seconds| Time::from_unix(seconds).unwrap();
        Index::new("customer_123".parse().unwrap(), 1, time(1), time(2), packages)
    }

    fn installed(sequence: u64) -> InstalledPackage {
        InstalledPackage {
            version: "1.0.0".parse().unwrap(),
            sequence,
            customer: "customer_123".parse().unwrap(),
            manifest_sha256: Digest::of(&sequence.to_le_bytes()),
            origin: Origin::Index,
            disabled: None,
        }
    }

    fn here(installed: InstalledPackage, highest: u64) -> Here {
        Here { installed: Some(installed), is_sound: true, highest: Some(highest), ..Here::default() }
    }

    fn disabled(here: Here) -> Here {
        let installed = here.installed.map(|it| InstalledPackage { disabled: Some("no".to_owned()), ..it });
        Here { installed, ..here }
    }

    fn allowed(tier: Tier, names: &[&str]) -> Allowed {
        Allowed::These { tier, names: names.iter().map(|name| name.parse().unwrap()).collect() }
    }

    fn left(reason: &str) -> Option<Step> {
        Some(Step::Leave(reason.to_owned()))
    }

    /// What is decided about `a` where the API allows it.
    fn step(packages: Vec<IndexEntry>, here: Here) -> Option<Step> {
        step_as(allowed(Tier::Pro, &["a"]), packages, here, false)
    }

    fn step_as(
        allowed: Allowed,
        packages: Vec<IndexEntry>,
        here: Here,
        allow_downgrade: bool,
    ) -> Option<Step> {
        let (index, platform) = (index(packages), "linux-amd64".parse().unwrap());
        let here = BTreeMap::from([(name(), here)]);
        let (here, locked) = (&here, None);
        let situation =
            Situation { index: &index, platform: &platform, allowed, here, allow_downgrade, locked };
        plan(&situation).remove(&name())
    }

    fn keep(reason: &str) -> Option<Step> {
        Some(Step::Keep(Some(reason.to_owned())))
    }

    #[test]
    fn what_is_new_or_newer_is_installed_and_what_is_there_is_kept() {
        assert_eq!(step(vec![entry(5)], Here::default()), Some(Step::Install(entry(5))));
        assert_eq!(step(vec![entry(6)], here(installed(5), 5)), Some(Step::Install(entry(6))));
        assert_eq!(step(vec![entry(5)], here(installed(5), 5)), Some(Step::Keep(None)));
        let damaged = Here { is_sound: false, ..here(installed(5), 5) };
        assert_eq!(step(vec![entry(5)], damaged), Some(Step::Install(entry(5))));
        // Stamped again: the same sequence, another manifest.
        let stamped = IndexEntry { manifest_sha256: Digest::of(b"other"), ..entry(5) };
        assert_eq!(step(vec![stamped.clone()], here(installed(5), 5)), Some(Step::Install(stamped)));
    }

    #[test]
    fn what_is_older_is_refused_and_what_was_rolled_back_stays() {
        let Some(Step::Refuse(_, failure)) = step(vec![entry(4)], here(installed(5), 5)) else { panic!() };
        assert_eq!((failure.kind, failure.rule), (Kind::Conflict, Some(10)));
        let removed = Here { highest: Some(5), ..Here::default() };
        assert!(matches!(step(vec![entry(4)], removed), Some(Step::Refuse(..))));
        let any = || allowed(Tier::Pro, &["a"]);
        assert_eq!(
            step_as(any(), vec![entry(4)], here(installed(5), 5), true),
            Some(Step::Install(entry(4)))
        );
        let rolled_back = here(installed(3), 5);
        for sequence in [4, 5] {
            assert_eq!(step(vec![entry(sequence)], rolled_back.clone()), keep("rolled back"));
        }
        assert_eq!(step(vec![entry(6)], rolled_back.clone()), Some(Step::Install(entry(6))));
        assert_eq!(step_as(any(), vec![entry(5)], rolled_back, true), Some(Step::Install(entry(5))));
    }

    #[test]
    fn what_the_tier_does_not_reach_is_disabled_once_and_never_installed() {
        let high = || vec![IndexEntry { required_tier: Tier::Enterprise, ..entry(5) }];
        assert_eq!(step(high(), Here::default()), left("needs Enterprise, customer_123 has Pro"));
        let reason = "needs Enterprise, customer_123 has Pro".to_owned();
        assert_eq!(step(high(), here(installed(5), 5)), Some(Step::Disable(reason)));
        assert_eq!(
            step(high(), disabled(here(installed(5), 5))),
            left("needs Enterprise, customer_123 has Pro")
        );
        // By the subscription, which is lower than what was stamped; by file or index alike.
        let free = || allowed(Tier::Free, &[]);
        let reason = Some(Step::Disable("needs Pro, customer_123 has Free".to_owned()));
        assert_eq!(step_as(free(), vec![entry(5)], here(installed(5), 5), false), reason);
        let file = InstalledPackage { origin: Origin::File, ..installed(5) };
        assert_eq!(step_as(free(), vec![entry(5)], here(file, 5), false), reason);
    }

    #[test]
    fn what_the_api_leaves_out_without_a_reason_stays() {
        let other = || allowed(Tier::Enterprise, &["b"]);
        assert_eq!(step_as(other(), vec![entry(5)], here(installed(5), 5), false), Some(Step::Keep(None)));
        let update = step_as(other(), vec![entry(6)], here(installed(5), 5), false);
        assert_eq!(update, Some(Step::Install(entry(6))));
    }

    #[test]
    fn the_api_cannot_widen_what_the_index_says() {
        let high = vec![IndexEntry { required_tier: Tier::Enterprise, ..entry(5) }];
        assert_eq!(
            step_as(allowed(Tier::Enterprise, &["a"]), high, Here::default(), false),
            left("needs Enterprise, customer_123 has Pro")
        );
        let absent = step_as(allowed(Tier::Enterprise, &["a"]), Vec::new(), Here::default(), false);
        assert_eq!(absent, None);
    }

    #[test]
    fn what_is_disabled_is_enabled_again_by_whoever_may_have_disabled_it() {
        let again = || disabled(here(installed(5), 5));
        for all in [allowed(Tier::Pro, &["a"]), Allowed::All] {
            let step = |entry, here| step_as(all.clone(), vec![entry], here, false);
            assert_eq!(step(entry(5), again()), Some(Step::Enable));
            assert_eq!(step(entry(6), again()), Some(Step::Install(entry(6))));
            assert_eq!(step(entry(5), disabled(here(installed(3), 5))), Some(Step::Enable));
        }
        let step = |entry, here| step_as(Allowed::Unknown, vec![entry], here, false);
        assert_eq!(step(entry(5), again()), left("no"));
        assert_eq!(step(entry(6), again()), left("no"));
        assert_eq!(step(entry(5), here(installed(5), 5)), Some(Step::Keep(None)));
        assert_eq!(step(entry(6), here(installed(5), 5)), Some(Step::Install(entry(6))));
    }

    #[test]
    fn what_is_not_published_any_more_goes_if_it_came_from_an_index() {
        assert_eq!(step(Vec::new(), here(installed(5), 5)), Some(Step::Remove));
        let file = InstalledPackage { origin: Origin::File, ..installed(5) };
        assert_eq!(step(Vec::new(), here(file, 5)), keep("installed from a file"));
        let elsewhere = IndexEntry { platform: "linux-arm64".parse().unwrap(), ..entry(6) };
        assert_eq!(step(vec![elsewhere], here(installed(5), 5)), keep("not published for linux-amd64"));
    }

    #[test]
    fn what_belongs_to_another_customer_is_replaced_or_left_alone() {
        let strange = InstalledPackage { customer: "other".parse().unwrap(), ..installed(9) };
        let theirs = || Here { highest: None, ..here(strange.clone(), 0) };
        assert_eq!(step(vec![entry(5)], theirs()), Some(Step::Install(entry(5))));
        assert_eq!(step(Vec::new(), theirs()), keep("made for other"));
        let free = allowed(Tier::Free, &[]);
        assert_eq!(step_as(free, vec![entry(5)], theirs(), false), left("needs Pro, customer_123 has Free"));
    }

    #[test]
    fn what_cannot_be_judged_or_cannot_be_a_package_is_refused_alone() {
        let trouble = Some(Failure::new(Kind::Local, "no marks"));
        let unknown = Here { trouble, ..Here::default() };
        assert!(
            matches!(step(vec![entry(5)], unknown), Some(Step::Refuse(_, failure)) if failure.message == "no marks")
        );
        for large in [
            IndexEntry { head_size: MAX_HEAD + 1, ..entry(5) },
            IndexEntry { payload_size: MAX_PAYLOAD + 1, ..entry(5) },
        ] {
            let Some(Step::Refuse(_, failure)) = step(vec![large], Here::default()) else { panic!() };
            assert_eq!(failure.kind, Kind::Untrusted);
        }
    }

    #[test]
    fn nothing_but_what_is_locked_is_installed() {
        let locked = |sequence: u64| {
            let digest = Digest::of(&sequence.to_le_bytes());
            LockFile::new(vec![LockedPlugin {
                name: name(),
                version: "1.0.0".parse().unwrap(),
                sequence,
                customer: "customer_123".parse().unwrap(),
                platforms: BTreeMap::from([("linux-amd64".to_owned(), digest)]),
            }])
        };
        let (index, platform) = (index(vec![entry(5)]), "linux-amd64".parse().unwrap());
        let step_with = |here: Here, locked: &LockFile| {
            let (here, platform, locked) = (&BTreeMap::from([(name(), here)]), &platform, Some(locked));
            let situation = Situation {
                index: &index,
                platform,
                allowed: Allowed::All,
                here,
                allow_downgrade: false,
                locked,
            };
            plan(&situation).remove(&name()).unwrap()
        };
        let step = |locked: &LockFile| step_with(Here::default(), locked);
        assert_eq!(step(&locked(5)), Step::Install(entry(5)));
        // What is locked and installed stays, whatever is published.
        let kept = step_with(here(installed(4), 4), &locked(4));
        assert_eq!(Some(kept), keep("locked; 1.0.0 is published"));
        assert_eq!(step_with(here(installed(4), 4), &locked(5)), Step::Install(entry(5)));
        let Step::Refuse(_, failure) = step(&locked(4)) else { panic!() };
        assert_eq!(failure.kind, Kind::Conflict);
    }

    #[test]
    fn an_allowed_binary_stays_where_it_is() {
        let local = Here { is_local: true, ..Here::default() };
        assert!(matches!(step(vec![entry(5)], local), Some(Step::Keep(Some(_)))));
    }
}
