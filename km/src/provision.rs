//! Provisioning: from what a customer may install to what is installed.
//!
//! ```text
//! API, mirrors → UntrustedIndex → VerifiedIndex → plan → Fetched → Verified<Staging> → store
//! ```
//!
//! | room | what it owns |
//! |---|---|
//! | `offer` | asking what may be installed |
//! | `index` | the last index that was believed, and what a new one must hold against |
//! | `plan` | what is to be done about each plugin: decided before anything is touched |
//! | `place`, `download`, `body`, `rate`, `part` | pieces of packages, and getting them from wherever they are |
//! | `package` | from an entry of the index to the verified package |
//! | `report` | what became of it |

mod body;
mod download;
mod index;
mod offer;
mod package;
mod part;
mod place;
mod plan;
mod rate;
mod report;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

pub(crate) use index::last_index;
pub(crate) use report::Report;

use std::collections::{BTreeMap, BTreeSet};

use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::index::{Index, IndexEntry};
use km_package::name::PluginName;
use km_package::platform::Platform;
use km_package::verify::Verified;

use crate::api;
use crate::auth::Settings;
use crate::config::Config;
use crate::paths::{self, Home};
use crate::store::{
    self, Action, FolderLock, InstallOptions, InstalledPackage, LockFile, Origin, Staging, State,
};
use crate::trust::Trust;
use download::Downloader;
use index::{Court, Judge};
use offer::Offer;
use package::{Examiner, Fetched, Wanted};
use plan::{Here, Situation, Step};
use report::IndexReport;

/// What it takes.
#[derive(Debug)]
pub(crate) struct Provision<'a> {
    pub(crate) home: &'a Home,
    pub(crate) trust: &'a Trust,
    pub(crate) config: &'a Config,
    pub(crate) settings: &'a Settings,
    pub(crate) output: &'a Output,
}

/// What may be different from one time to the next.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// Open no connection.
    pub(crate) offline: bool,
    /// Install what is older than what was installed before.
    pub(crate) allow_downgrade: bool,
    /// Replace other content under the same version.
    pub(crate) force: bool,
    /// Install nothing but this.
    pub(crate) locked: Option<LockFile>,
}

impl Provision<'_> {
    /// asked → believed → planned → downloaded → verified → installed
    pub(crate) async fn refresh(&self, request: &Request) -> Result<Report, Failure> {
        let platform = Platform::current().map_err(|e| Failure::new(Kind::Failed, e))?;
        let (offer, judge) = self.ask(request, &platform).await?;
        let mut report = Report::default();
        let Some(index) = &offer.index else {
            self.report_unchanged(&mut report)?;
            return Ok(report);
        };
        report.index = Some(IndexReport::new(index, offer.source.clone()));
        let steps = self.plan(request, index.index(), &platform, offer.subscription.allowed())?;
        let entries = self.carry_out(steps, &mut report);
        if request.offline {
            self.report_needs(&entries, &mut report);
            return Ok(report);
        }
        let mirrors = &self.config.mirrors;
        let wanted =
            |entry: IndexEntry| Wanted { offer: offer.subscription.plugin(&entry.name), mirrors, entry };
        self.install_all(request, entries.into_iter().map(wanted).collect(), &judge, &mut report).await;
        Ok(report)
    }

    async fn ask(&self, request: &Request, platform: &Platform) -> Result<(Offer, Judge<'_>), Failure> {
        let court = Court { home: self.home, keys: self.trust.keys(), now: store::now()? };
        if request.offline {
            return offer::remember(self.settings, self.config, court, self.output);
        }
        let progress = self.output.progress();
        progress.step("asking what may be installed");
        offer::ask(self.settings, self.config, platform, court, self.output).await
    }

    fn plan(
        &self,
        request: &Request,
        index: &Index,
        platform: &Platform,
        allowed: plan::Allowed,
    ) -> Result<BTreeMap<PluginName, Step>, Failure> {
        let here = &self.look_around(index)?;
        let (allow_downgrade, locked) = (request.allow_downgrade, request.locked.as_ref());
        Ok(plan::plan(&Situation { index, platform, allowed, here, allow_downgrade, locked }))
    }

    /// What is here of each plugin that is installed or in the index.
    fn look_around(&self, index: &Index) -> Result<BTreeMap<PluginName, Here>, Failure> {
        let entries = store::list(self.home, self.trust, self.config)?;
        let local: BTreeSet<&PluginName> =
            entries.iter().filter(|entry| entry.state == State::Allowed).map(|entry| &entry.name).collect();
        let names = entries.iter().map(|entry| &entry.name);
        let names: BTreeSet<&PluginName> =
            names.chain(index.packages.iter().map(|entry| &entry.name)).collect();
        let look = |name: &PluginName| (name.clone(), self.look_at(name, index, local.contains(name)));
        Ok(names.into_iter().map(look).collect())
    }

    fn look_at(&self, name: &PluginName, index: &Index, is_local: bool) -> Here {
        let installed = store::installed(self.home, name);
        // Reading all its files is left for what would be kept.
        let is_published = |installed: &InstalledPackage| {
            index.packages.iter().any(|entry| entry.manifest_sha256 == installed.manifest_sha256)
        };
        let is_sound = installed.as_ref().is_some_and(is_published) && self.is_sound(name);
        let (highest, trouble) = match store::highest_seen(self.home, name, &index.customer) {
            Ok(highest) => (highest, None),
            Err(failure) => (None, Some(failure)),
        };
        Here { installed, is_sound, is_local, highest, trouble }
    }

    fn is_sound(&self, name: &PluginName) -> bool {
        store::is_sound(self.home, self.trust, self.config, name)
    }

    /// Does what needs no download, and returns the rest.
    fn carry_out(&self, steps: BTreeMap<PluginName, Step>, report: &mut Report) -> Vec<IndexEntry> {
        let mut wanted = Vec::new();
        for (name, step) in steps {
            if let Some(reason) = step.denial() {
                report.deny(&name, reason);
            }
            let version = store::installed(self.home, &name).map(|installed| installed.version);
            let done = |action, reason: &str| (action, Some(reason.to_owned()));
            let outcome = match step {
                Step::Install(entry) => {
                    wanted.push(entry);
                    continue;
                }
                Step::Leave(_) => continue,
                Step::Keep(reason) => Ok((Action::Kept, reason)),
                Step::Enable => {
                    store::enable(self.home, &name).map(|_| done(Action::Updated, "enabled again"))
                }
                Step::Disable(reason) => {
                    store::disable(self.home, &name, &reason).map(|_| (Action::Disabled, Some(reason)))
                }
                Step::Remove => {
                    store::remove(self.home, &name).map(|_| done(Action::Removed, "not published any more"))
                }
                Step::Refuse(entry, failure) => {
                    report.add(&name, Some(&entry.version), Err(failure));
                    continue;
                }
            };
            report.add(&name, version.as_ref(), outcome);
        }
        wanted
    }

    /// Nothing is known of what may be installed, and so nothing changes.
    fn report_unchanged(&self, report: &mut Report) -> Result<(), Failure> {
        for entry in store::list(self.home, self.trust, self.config)? {
            match store::installed(self.home, &entry.name) {
                Some(InstalledPackage { disabled: Some(reason), .. }) => report.deny(&entry.name, &reason),
                Some(installed) => {
                    report.add(&entry.name, Some(&installed.version), Ok((Action::Kept, None)));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn report_needs(&self, entries: &[IndexEntry], report: &mut Report) {
        if !entries.is_empty() {
            self.output.note("nothing is downloaded with --offline: `km plugins refresh` does");
        }
        for entry in entries {
            if let Some(installed) = store::installed(self.home, &entry.name) {
                let reason = Some(format!("{} is to be downloaded", entry.version));
                report.add(&entry.name, Some(&installed.version), Ok((Action::Kept, reason)));
            }
        }
        report.needs = Some(entries.iter().map(Into::into).collect());
    }

    /// Downloads, verifies and installs. One that fails does not stop the others.
    async fn install_all(
        &self,
        request: &Request,
        wanted: Vec<Wanted<'_>>,
        judge: &Judge<'_>,
        report: &mut Report,
    ) {
        if wanted.is_empty() {
            return;
        }
        let examiner = Examiner {
            home: self.home,
            keys: self.trust.keys(),
            customer: judge.customer.clone(),
            now: judge.now,
            allow_downgrade: request.allow_downgrade,
        };
        let (lock, fetched) = match self.fetch(&wanted, &examiner).await {
            Ok((lock, fetched)) => (Some(lock), fetched),
            Err(failure) => (None, wanted.iter().map(|_| Err(failure.clone())).collect()),
        };
        let mut all = true;
        for (wanted, fetched) in wanted.iter().zip(fetched) {
            let outcome = fetched.and_then(|fetched| self.install(request, &examiner, &fetched));
            all &= outcome.is_ok();
            report.add(&wanted.entry.name, Some(&wanted.entry.version), outcome);
        }
        if all {
            package::clear(&self.home.downloads());
        }
        drop(lock);
    }

    /// Downloads packages, under the lock on where they go.
    async fn fetch(
        &self,
        wanted: &[Wanted<'_>],
        examiner: &Examiner<'_>,
    ) -> Result<(FolderLock, Vec<Result<Fetched, Failure>>), Failure> {
        let (cache, folder) = (self.home.cache(), self.home.downloads());
        paths::create_private(&cache).map_err(|e| Failure::file("create", &cache, &e))?;
        let lock = FolderLock::take(&folder)?;
        let progress = self.output.progress();
        progress.bytes(wanted.iter().map(|wanted| wanted.entry.size()).sum(), "downloading");
        let downloader = Downloader {
            client: api::download_client(&self.settings.certificates, &self.settings.proxy)?,
            folder,
            patience: self.config.stall_timeout(),
            progress: &progress,
        };
        Ok((lock, package::fetch(wanted, examiner, &downloader).await))
    }

    /// downloaded package → verified package → installed plugin
    fn install(
        &self,
        request: &Request,
        examiner: &Examiner<'_>,
        fetched: &Fetched,
    ) -> Result<(Action, Option<String>), Failure> {
        let verified: Verified<Staging> = examiner.unpack(fetched, &self.home.downloads())?;
        let options = InstallOptions {
            origin: Origin::Index,
            force: request.force,
            replace_other_customer: true,
            allow_downgrade: request.allow_downgrade,
        };
        store::install(self.home, verified, options, &|name| self.is_sound(name))
    }
}
