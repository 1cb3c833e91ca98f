//! The receipt: written last, it makes a version's folder count.

use std::io;
use std::path::Path;

use km_package::digest::Digest;
use km_package::envelope::Head;
use serde::{Deserialize, Serialize};

use crate::paths;

pub(super) const MANIFEST: &str = ".manifest.toml";
pub(super) const SIGNATURES: &str = ".signatures";
const RECEIPT: &str = ".receipt.toml";

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
}

impl Receipt {
    pub(super) fn read(version: &Path) -> Option<Self> {
        toml::from_str(&paths::read_own_text(&version.join(RECEIPT)).ok()?).ok()
    }

    pub(super) fn write(&self, version: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        paths::replace_file(&version.join(RECEIPT), text.as_bytes(), 0o644)
    }

    /// Takes the receipt away first, so that a crash in the middle leaves garbage, not half a version.
    pub(super) fn remove_with_version(version: &Path) -> io::Result<()> {
        match std::fs::remove_file(version.join(RECEIPT)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
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
