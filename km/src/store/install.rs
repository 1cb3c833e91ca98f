//! Installing and removing: the transaction after verification.

use std::fs::DirEntry;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::manifest::Manifest;
use km_package::name::PluginName;
use km_package::verify::{Verified, check_rollback};
use serde::Serialize;

use super::highest::HighestSequences;
use super::lock::FolderLock;
use super::receipt::{Receipt, read_head};
use super::staging::Staging;
use crate::paths::{self, Home};

/// What became of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    Installed,
    Updated,
    Kept,
    Removed,
}

/// What may be overridden, and never the verification.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InstallOptions {
    /// Replace other content under the same version.
    pub(crate) force: bool,
    /// Go below the highest sequence.
    pub(crate) allow_downgrade: bool,
}

/// A version in the store.
struct Version {
    folder: String,
    manifest: Manifest,
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
    let manifest = verified.manifest().clone();
    let name = &manifest.plugin.name;
    check_place(home, name)?;
    let versions = home.versions(name);
    let _lock = FolderLock::take(&versions)?;
    Staging::sweep(home);
    sweep_versions(&versions);

    let highest = HighestSequences::load(home, name)?;
    if !options.allow_downgrade {
        // Again, now that nobody else can install.
        check_rollback(&manifest, highest.of(&manifest.customer.id))?;
    }
    let active = active_folder(home, name);
    let before = installed_versions(&versions);
    let folder = folder_name(&manifest);
    let mut action = decide(&before, active.as_deref(), &manifest, options.force)?;
    let mut reason = None;
    if action == Action::Kept {
        if is_sound(name) {
            return Ok((action, Some("already installed".to_owned())));
        }
        (action, reason) = (Action::Updated, Some("what was installed was damaged".to_owned()));
    }
    let place = versions.join(&folder);
    let failed = |e: io::Error| Failure::file("install into", &place, &e);
    let previous = active.clone().filter(|active| *active != folder);
    let receipt = Receipt {
        installed_at: jiff::Timestamp::now().to_string(),
        manifest_sha256: Digest::of(&verified.head().manifest),
        previous: previous.clone(),
    };
    if place.exists() {
        // Kept from before, or damaged: these bytes are known to be good.
        Receipt::remove_with_version(&place).map_err(failed)?;
    }
    let head = verified.head().clone();
    verified.into_contents().move_to(&head, &place).map_err(failed)?;
    receipt.write(&place).map_err(failed)?;
    highest.raise(home, name, &manifest.customer.id, manifest.plugin.sequence)?;
    activate(home, name, &folder)?;
    prune(&versions, &[Some(folder), previous]);
    Ok((action, reason))
}

/// Nothing but a link or a plain file may lie where the plugin's link belongs.
fn check_place(home: &Home, name: &PluginName) -> Result<(), Failure> {
    let link = home.plugin(name);
    match std::fs::symlink_metadata(&link) {
        Ok(found) if found.is_dir() => {
            Err(Failure::new(Kind::Local, format_args!("{} is a folder", link.display()))
                .help("move it away"))
        }
        _ => Ok(()),
    }
}

/// What a package means beside what is there.
fn decide(before: &[Version], active: Option<&str>, new: &Manifest, force: bool) -> Result<Action, Failure> {
    let active = before.iter().find(|version| Some(version.folder.as_str()) == active);
    if active.is_some_and(|active| active.manifest.payload.tar_sha256 == new.payload.tar_sha256) {
        return Ok(Action::Kept);
    }
    let conflict = before.iter().find(|version| {
        let old = &version.manifest;
        let same_content = old.payload.tar_sha256 == new.payload.tar_sha256;
        // Stamped again for the same customer: another tier, another key.
        let same_build = old.build.base_sha256 == new.build.base_sha256 && old.customer.id == new.customer.id;
        old.plugin.version == new.plugin.version && !same_content && !same_build
    });
    match conflict {
        Some(_) if !force => {
            let plugin = &new.plugin;
            let message = format!("{} {} is installed with other content", plugin.name, plugin.version);
            Err(Failure::new(Kind::Conflict, message)
                .help("a new build should have a new version; to replace it all the same, add --force"))
        }
        _ if active.is_some() => Ok(Action::Updated),
        _ => Ok(Action::Installed),
    }
}

/// Removes a plugin, whatever it is. What is running keeps its process. The marks stay.
pub(crate) fn remove(home: &Home, name: &PluginName) -> Result<(), Failure> {
    let (versions, link) = (home.versions(name), home.plugin(name));
    let failed = |e: io::Error| Failure::file("remove", &link, &e);
    // A binary that was put there by hand has no versions, and needs no lock.
    let _lock = if versions.exists() { Some(FolderLock::take(&versions)?) } else { None };
    match std::fs::remove_file(&link) {
        Ok(()) => paths::sync_folder(&home.plugins()).map_err(failed)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    prune(&versions, &[]);
    Staging::sweep(home);
    Ok(())
}

/// `<version>-<digest8>`
fn folder_name(manifest: &Manifest) -> String {
    format!("{}-{}", manifest.plugin.version, manifest.payload.tar_sha256.prefix(8))
}

/// The folder that the link of a plugin points to, if it points into the store.
pub(super) fn active_folder(home: &Home, name: &PluginName) -> Option<String> {
    let target = std::fs::read_link(home.plugin(name)).ok()?;
    let mut parts = target.iter().map(|part| part.to_str());
    let expected = ["store", name.as_str()];
    if !expected.iter().all(|part| parts.next() == Some(Some(part))) {
        return None;
    }
    let folder = parts.next()??.to_owned();
    let executable = name.executable();
    (parts.next() == Some(Some(executable.as_str())) && parts.next().is_none()).then_some(folder)
}

fn installed_versions(versions: &Path) -> Vec<Version> {
    version_folders(versions)
        .filter_map(|entry| {
            let path = entry.path();
            let receipt = Receipt::read(&path)?;
            let head = read_head(&path).ok()?;
            // It was verified when it came; it is judged again before it runs.
            let known = Digest::of(&head.manifest) == receipt.manifest_sha256;
            let manifest = Manifest::parse(&head.manifest).ok().filter(|_| known)?;
            Some(Version { folder: entry.file_name().into_string().ok()?, manifest })
        })
        .collect()
}

/// Points the plugin's link at a version, in one step.
fn activate(home: &Home, name: &PluginName, folder: &str) -> Result<(), Failure> {
    let plugins = home.plugins();
    let link = home.plugin(name);
    let executable = name.executable();
    let target: PathBuf = ["store", name.as_str(), folder, executable.as_str()].iter().collect();
    // One name for each plugin, under its lock: the next attempt replaces what a crash left.
    let temporary = plugins.join(format!(".{executable}.new"));
    let swap = || {
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(&target, &temporary)?;
        std::fs::rename(&temporary, &link)?;
        paths::sync_folder(&plugins)
    };
    swap().map_err(|e: io::Error| Failure::file("link", &link, &e))
}

/// The folders of versions, whole or not: nothing else is ever removed.
fn version_folders(versions: &Path) -> impl Iterator<Item = DirEntry> {
    let is_version = |entry: &DirEntry| {
        let name = entry.file_name();
        let parts = name.to_str().and_then(|name| name.rsplit_once('-'));
        parts.is_some_and(|(version, digest)| {
            digest.len() == 8
                && digest.bytes().all(|b| b.is_ascii_hexdigit())
                && version.parse::<semver::Version>().is_ok()
        }) && entry.file_type().is_ok_and(|kind| kind.is_dir())
    };
    std::fs::read_dir(versions).into_iter().flatten().flatten().filter(is_version)
}

/// Removes the versions of a plugin but these.
fn prune(versions: &Path, keep: &[Option<String>]) {
    for entry in version_folders(versions) {
        if !keep.iter().flatten().any(|name| entry.file_name() == name.as_str()) {
            let _ = Receipt::remove_with_version(&entry.path());
        }
    }
}

/// Removes what crashed installations of this plugin left.
fn sweep_versions(versions: &Path) {
    for entry in version_folders(versions) {
        if Receipt::read(&entry.path()).is_none() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
