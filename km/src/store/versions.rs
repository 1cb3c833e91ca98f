//! The versions of a plugin that lie in its folder.

use std::fs::DirEntry;
use std::io;
use std::path::Path;

use km_package::digest::Digest;
use km_package::manifest::Manifest;
use km_package::name::{CustomerId, PluginName};

use super::disabled;
use super::link::active_folder;
use super::receipt::{Origin, Receipt, read_head};
use crate::paths::Home;

/// A version with a receipt and the manifest that it belongs to. Whether it verifies is another question.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) folder: String,
    pub(super) manifest: Manifest,
    pub(super) receipt: Receipt,
}

impl Version {
    fn read(versions: &Path, folder: String) -> Option<Self> {
        let path = versions.join(&folder);
        let receipt = Receipt::read(&path)?;
        let head = read_head(&path).ok()?;
        // It was verified when it came; it is judged again before it runs.
        let known = Digest::of(&head.manifest) == receipt.manifest_sha256;
        let manifest = Manifest::parse(&head.manifest).ok().filter(|_| known)?;
        Some(Self { folder, manifest, receipt })
    }

    pub(super) fn all(versions: &Path) -> Vec<Self> {
        folders(versions).filter_map(|folder| Self::read(versions, folder)).collect()
    }

    pub(super) fn active(home: &Home, name: &PluginName) -> Option<Self> {
        Self::read(&home.versions(name), active_folder(home, name)?)
    }

    /// The version to go back to from the active one: what its receipt says. Where that is lost, the
    /// newest of the others.
    pub(super) fn before(versions: &Path, active: &str) -> Option<Self> {
        let mut others = Self::all(versions);
        others.retain(|version| version.folder != active);
        match Receipt::read(&versions.join(active)) {
            Some(receipt) => {
                others.into_iter().find(|version| receipt.previous.as_ref() == Some(&version.folder))
            }
            None => others.into_iter().max_by_key(|version| version.manifest.plugin.sequence),
        }
    }
}

/// `<version>-<digest8>`
pub(super) fn folder_name(manifest: &Manifest) -> String {
    format!("{}-{}", manifest.plugin.version, manifest.payload.tar_sha256.prefix(8))
}

/// The version that a folder is named for.
pub(super) fn version_of(folder: &str) -> &str {
    folder.rsplit_once('-').map_or(folder, |(version, _)| version)
}

/// The folders of versions, whole or not: nothing else is ever removed.
pub(super) fn folders(versions: &Path) -> impl Iterator<Item = String> {
    let is_version = |name: &str| {
        name.rsplit_once('-').is_some_and(|(version, digest)| {
            digest.len() == 8
                && digest.bytes().all(|b| b.is_ascii_hexdigit())
                && version.parse::<semver::Version>().is_ok()
        })
    };
    let name_of =
        |entry: DirEntry| entry.file_type().ok()?.is_dir().then(|| entry.file_name().into_string().ok())?;
    std::fs::read_dir(versions)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(name_of)
        .filter(move |name| is_version(name))
}

/// Removes the folder of a version.
pub(super) fn remove(versions: &Path, folder: &str) -> io::Result<()> {
    Receipt::remove_with_version(&versions.join(folder))
}

/// What the documents of a plugin's active version say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstalledPackage {
    pub(crate) version: semver::Version,
    pub(crate) sequence: u64,
    pub(crate) customer: CustomerId,
    /// Digest of the manifest's text.
    pub(crate) manifest_sha256: Digest,
    pub(crate) origin: Origin,
    /// Why it does not run, if it was disabled.
    pub(crate) disabled: Option<String>,
}

/// The package that a plugin was installed from. Whether it still verifies is another question.
pub(crate) fn installed(home: &Home, name: &PluginName) -> Option<InstalledPackage> {
    let Version { manifest, receipt, .. } = Version::active(home, name)?;
    Some(InstalledPackage {
        version: manifest.plugin.version,
        sequence: manifest.plugin.sequence,
        customer: manifest.customer.id,
        manifest_sha256: receipt.manifest_sha256,
        origin: receipt.origin,
        disabled: disabled::reason(home, name),
    })
}
