//! Finding a plugin's source, and what it says about itself.

mod binary;
mod cargo;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use km_package::digest::{Digest, Hasher};
use km_package::failure::{Failure, Kind};
use km_package::manifest::{Permissions, Time};
use km_package::name::PluginName;
use km_package::tier::Tier;

use crate::compile;
pub use binary::PrebuiltBinary;
pub use cargo::CargoPackage;

/// What a plugin says about itself.
#[derive(Debug, Clone)]
pub struct About {
    /// Its name.
    pub name: PluginName,
    /// Its version.
    pub version: semver::Version,
    /// One line.
    pub description: String,
    /// The tier that a customer needs.
    pub required_tier: Tier,
    /// What rollback is judged by, where the source says it.
    pub sequence: Option<u64>,
    /// What its process may reach.
    pub permissions: Permissions,
    /// Protocol versions that it speaks.
    pub protocols: Vec<u32>,
}

/// Where a plugin comes from.
#[derive(Debug, Clone)]
pub enum SourceTree {
    /// A plugin in Rust.
    Cargo(CargoPackage),
    /// A binary that was built elsewhere.
    Binary(PrebuiltBinary),
}

impl SourceTree {
    /// What the plugin says about itself.
    pub fn about(&self) -> &About {
        match self {
            Self::Cargo(package) => &package.about,
            Self::Binary(binary) => &binary.about,
        }
    }

    /// The time of the source's last commit; outside a repository, of its latest change.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn last_changed(&self) -> Result<Time, Failure> {
        if let Self::Cargo(package) = self
            && let Some(time) = compile::commit_time(&package.workspace_root).and_then(Time::from_unix)
        {
            return Ok(time);
        }
        let mut latest = 0;
        for file in self.files()? {
            let modified = fs::metadata(&file)
                .and_then(|metadata| metadata.modified())
                .map_err(|e| Failure::file("read", &file, &e))?;
            let seconds = modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
            latest = latest.max(seconds);
        }
        Time::from_unix(latest)
            .ok_or_else(|| Failure::new(Kind::Failed, "the source is from after the year 2242"))
    }

    /// Digest over the source's files: for each, in order of their paths, path, length and bytes. None
    /// for a binary, whose source is not here.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn digest(&self) -> Result<Option<Digest>, Failure> {
        let root = match self {
            Self::Cargo(package) => &package.workspace_root,
            Self::Binary(_) => return Ok(None),
        };
        let mut hasher = Hasher::default();
        for file in self.files()? {
            let bytes = fs::read(&file).map_err(|e| Failure::file("read", &file, &e))?;
            let path = file.strip_prefix(root).unwrap_or(&file);
            hasher.update(path.to_string_lossy().as_bytes());
            hasher.update(b"\0");
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes);
        }
        Ok(Some(hasher.finish()))
    }

    fn files(&self) -> Result<BTreeSet<PathBuf>, Failure> {
        match self {
            Self::Cargo(package) => package.files(),
            Self::Binary(binary) => Ok(BTreeSet::from([binary.path.clone()])),
        }
    }
}

/// All files of a folder but what is built or hidden.
fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.insert(entry.path());
        }
    }
    Ok(())
}
