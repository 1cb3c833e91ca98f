//! Installing and removing: the transaction after verification.

use std::fmt;
use std::io;
use std::path::Path;

use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::manifest::Manifest;
use km_package::name::PluginName;
use km_package::verify::{Verified, check_rollback};
use serde::Serialize;

use super::disabled;
use super::highest::HighestSequences;
use super::link::{StagedLink, active_folder, check_place};
use super::lock::FolderLock;
use super::receipt::{Origin, Receipt};
use super::staging::Staging;
use super::sweep::sweep;
use super::versions::{self, Version, folder_name};
use crate::paths::{self, Home};

/// What became of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    Installed,
    Updated,
    Kept,
    Disabled,
    Removed,
    Failed,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Installed => "installed",
            Self::Updated => "updated",
            Self::Kept => "kept",
            Self::Disabled => "disabled",
            Self::Removed => "removed",
            Self::Failed => "failed",
        })
    }
}

/// Where a package comes from and what may be overridden, never the verification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InstallOptions {
    /// Noted in the receipt.
    pub(crate) origin: Origin,
    /// Replace other content under the same version.
    pub(crate) force: bool,
    /// Replace other content under the same version where it was made for another customer.
    pub(crate) replace_other_customer: bool,
    /// Go below the highest sequence.
    pub(crate) allow_downgrade: bool,
}

/// Puts a verified package into the store and makes it the active version.
///
/// `is_sound` says whether the active version of a plugin verifies as a whole: one that does not is
/// replaced, also by itself. Returns what was done and the reason, if it needs one.
pub(crate) fn install(
    home: &Home,
    verified: Verified<Staging>,
    options: InstallOptions,
    is_sound: &dyn Fn(&PluginName) -> bool,
) -> Result<(Action, Option<String>), Failure> {
    let (manifest, head) = (verified.manifest().clone(), verified.head().clone());
    // Dropped after the lock: the folders that were made for it may hold those that the lock made.
    let staged = &mut verified.into_contents();
    let name = &manifest.plugin.name;
    check_place(home, name)?;
    let versions = home.versions(name);
    let _lock = FolderLock::take(&versions)?;
    let mut highest = HighestSequences::seen(home, name)?;
    if !options.allow_downgrade {
        // Again, now that nobody else can install.
        check_rollback(&manifest, highest.of(&manifest.customer.id))?;
    }
    sweep(home, name);

    let active = active_folder(home, name);
    let sound = active.as_deref().filter(|_| is_sound(name));
    let manifest_sha256 = Digest::of(&head.manifest);
    let new = New { manifest: &manifest, manifest_sha256, options };
    let (action, reason) = match new.decide(&Version::all(&versions), active.as_deref())? {
        Action::Kept if sound.is_some() => return keep(home, name),
        Action::Kept => (Action::Updated, Some("what was installed was damaged".to_owned())),
        other => (other, None),
    };
    highest.raise(&manifest);
    let receipt = Receipt {
        installed_at: jiff::Timestamp::now().to_string(),
        manifest_sha256,
        previous: to_go_back_to(&versions, active.as_deref(), sound, &folder_name(&manifest)),
        origin: options.origin,
    };
    staged.complete(&head, &receipt).map_err(|e| super::trouble("install into", &versions, &e))?;
    activate(home, name, &folder_name(&manifest), staged, &highest)?;
    prune(&versions, &[Some(folder_name(&manifest)), receipt.previous]);
    disabled::remove(home, name)?;
    Ok((action, reason))
}

/// Puts a complete version into its place, and the link on it. Until the link is put, dropping any of
/// these leaves everything as it was.
fn activate(
    home: &Home,
    name: &PluginName,
    folder: &str,
    staged: &mut Staging,
    highest: &HighestSequences,
) -> Result<(), Failure> {
    let place = home.versions(name).join(folder);
    let failed = |e: io::Error| super::trouble("install into", &place, &e);
    let link = StagedLink::new(home, name, folder).map_err(failed)?;
    let placed = staged.put(&place).map_err(failed)?;
    highest.save(home, name)?;
    link.put().map_err(failed)?;
    placed.keep();
    paths::sync_folder(&home.plugins()).map_err(failed)
}

/// The version to go back to from a new one: the active one if it runs. What does not run is nothing to
/// go back to; then the one before it stays.
fn to_go_back_to(versions: &Path, active: Option<&str>, sound: Option<&str>, new: &str) -> Option<String> {
    let before = || Version::before(versions, active?).map(|before| before.folder);
    sound.filter(|sound| *sound != new).map(str::to_owned).or_else(before).filter(|folder| folder != new)
}

/// The active version is this package already.
fn keep(home: &Home, name: &PluginName) -> Result<(Action, Option<String>), Failure> {
    Ok(if disabled::remove(home, name)? {
        (Action::Updated, Some("it was disabled".to_owned()))
    } else {
        (Action::Kept, Some("already installed".to_owned()))
    })
}

/// A package that is about to be installed.
struct New<'a> {
    manifest: &'a Manifest,
    manifest_sha256: Digest,
    options: InstallOptions,
}

impl New<'_> {
    /// What it means beside what is there.
    fn decide(&self, before: &[Version], active: Option<&str>) -> Result<Action, Failure> {
        let active = before.iter().find(|version| Some(version.folder.as_str()) == active);
        if active.is_some_and(|active| self.is(active)) {
            return Ok(Action::Kept);
        }
        if !self.options.force && before.iter().any(|version| self.conflicts_with(&version.manifest)) {
            let plugin = &self.manifest.plugin;
            let customer = &self.manifest.customer.id;
            let other = before.iter().map(|version| &version.manifest.customer.id).find(|id| *id != customer);
            let failure = match other {
                Some(other) => Failure::new(
                    Kind::Conflict,
                    format_args!(
                        "{} {} is installed for {other}, and this package is for {customer}",
                        plugin.name, plugin.version
                    ),
                )
                .help("to replace one customer's package by another's, add --force"),
                None => Failure::new(
                    Kind::Conflict,
                    format_args!("{} {} is installed with other content", plugin.name, plugin.version),
                )
                .help("a new build should have a new version; to replace it all the same, add --force"),
            };
            return Err(failure);
        }
        Ok(if active.is_some() { Action::Updated } else { Action::Installed })
    }

    /// Whether it is installed already. What an index names is compared by its manifest, as the next
    /// refresh will do.
    fn is(&self, installed: &Version) -> bool {
        let is_named = installed.receipt.manifest_sha256 == self.manifest_sha256;
        is_named || (self.options.origin == Origin::File && self.has_content_of(&installed.manifest))
    }

    /// The same content for the same customer. Where a binary has no room for an identity, content
    /// alone does not say whose it is.
    fn has_content_of(&self, old: &Manifest) -> bool {
        let new = self.manifest;
        let same_archive = old.payload.tar_sha256 == new.payload.tar_sha256;
        same_archive && old.customer == new.customer && old.plugin == new.plugin
    }

    /// Other content under the same version.
    fn conflicts_with(&self, old: &Manifest) -> bool {
        let new = self.manifest;
        let same_customer = old.customer.id == new.customer.id;
        // Stamped again for the same customer: another tier, another key.
        let same_build = old.build.base_sha256 == new.build.base_sha256 && same_customer;
        let replaced = same_build || (self.options.replace_other_customer && !same_customer);
        old.plugin.version == new.plugin.version && !self.has_content_of(old) && !replaced
    }
}

/// Removes a plugin, whatever it is. What is running keeps its process. The marks stay. False if
/// there was nothing.
pub(crate) fn remove(home: &Home, name: &PluginName) -> Result<bool, Failure> {
    let (folder, link) = (home.versions(name), home.plugin(name));
    let failed = |e: io::Error| Failure::file("remove", &link, &e);
    // A binary that was put there by hand has no versions, and needs no lock.
    let _lock = if folder.exists() { Some(FolderLock::take(&folder)?) } else { None };
    if let Ok(seen) = HighestSequences::seen(home, name) {
        // What is about to go counts later on. A full disk must not keep anything from being removed.
        let _ = seen.save(home, name);
    }
    let was_linked = paths::remove_if_present(&link).map_err(failed)?;
    if was_linked {
        paths::sync_folder(&home.plugins()).map_err(failed)?;
    }
    let had_versions = versions::folders(&folder).next().is_some();
    sweep(home, name);
    disabled::remove(home, name)?;
    Ok(was_linked || had_versions)
}

/// Removes the versions of a plugin but these.
fn prune(folder: &Path, keep: &[Option<String>]) {
    for version in versions::folders(folder) {
        if !keep.iter().flatten().any(|kept| *kept == version) {
            let _ = versions::remove(folder, &version);
        }
    }
}
