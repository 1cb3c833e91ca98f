//! The receipt: written last, it makes a version's folder count; taken away first, it makes it garbage.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use km_package::digest::Digest;
use km_package::envelope::Head;
use serde::{Deserialize, Serialize};

use crate::paths;

pub(super) const MANIFEST: &str = ".manifest.toml";
pub(super) const SIGNATURES: &str = ".signatures";
const RECEIPT: &str = ".receipt.toml";

/// Where a package came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// Somebody installed a file; receipts that say nothing are of that time.
    #[default]
    File,
    /// The signed index named it.
    Index,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a file",
            Self::Index => "the index",
        })
    }
}

/// What an installation notes about a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receipt {
    /// RFC 3339.
    pub(super) installed_at: String,
    /// Digest of the manifest it belongs to.
    pub(super) manifest_sha256: Digest,
    /// The folder of the version before, which is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<String>,
    #[serde(default)]
    pub(super) origin: Origin,
}

impl Receipt {
    pub(super) fn path(version: &Path) -> PathBuf {
        version.join(RECEIPT)
    }

    pub(super) fn read(version: &Path) -> Option<Self> {
        toml::from_str(&paths::read_own_text(&Self::path(version)).ok()?).ok()
    }

    /// Writes the first one of a version.
    pub(super) fn write(&self, version: &Path) -> io::Result<()> {
        paths::write_new(&Self::path(version), self.to_text()?.as_bytes(), 0o644)
    }

    /// Writes another one in its place.
    pub(super) fn replace(&self, version: &Path) -> io::Result<()> {
        paths::replace_file(&Self::path(version), self.to_text()?.as_bytes(), 0o644)
    }

    fn to_text(&self) -> io::Result<String> {
        toml::to_string(self).map_err(io::Error::other)
    }

    /// Takes the receipt away first, so that a crash in the middle leaves garbage, not half a version.
    pub(super) fn remove_with_version(version: &Path) -> io::Result<()> {
        paths::remove_if_present(&Self::path(version))?;
        std::fs::remove_dir_all(version)
    }
}

/// The documents of an installed version.
pub(super) fn read_head(version: &Path) -> io::Result<Head> {
    Ok(Head {
        manifest: paths::read_own(&version.join(MANIFEST))?,
        signatures: paths::read_own(&version.join(SIGNATURES))?,
    })
}
