//! Finding a plugin's source, and what it says about itself.

mod binary;
mod cargo;
mod go;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use km_package::digest::{Digest, Hasher};
use km_package::failure::{Failure, Kind};
use km_package::manifest::{Permissions, Time};
use km_package::name::{EXECUTABLE_PREFIX, PluginName};
use km_package::tier::Tier;
use serde::Deserialize;

use crate::compile;
use crate::environment::Environment;
pub use binary::PrebuiltBinary;
pub use cargo::CargoPackage;
pub use go::GoModule;

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

/// Permissions as authors write them: one that is misspelt is refused, not left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Permissions")]
struct NamedPermissions {
    #[serde(default)]
    network: Vec<String>,
    #[serde(default)]
    read: Vec<String>,
    #[serde(default)]
    write: Vec<String>,
}

/// Where a plugin comes from.
#[derive(Debug, Clone)]
pub enum SourceTree {
    /// A plugin in Rust.
    Cargo(CargoPackage),
    /// A plugin in Go.
    Go(GoModule),
    /// A binary that was built elsewhere.
    Binary(PrebuiltBinary),
}

impl SourceTree {
    /// Finds the source of a plugin: by the path of its folder, or by its name in the cargo workspace
    /// around the current one.
    ///
    /// # Errors
    /// When there is none, or it says of itself what it may not.
    pub fn find(plugin: &str, environment: &Environment) -> Result<Self, Failure> {
        let folder = environment.current_dir.join(plugin);
        if GoModule::is_in(&folder) && !CargoPackage::is_in(&folder) {
            return GoModule::find(&folder).map(Self::Go);
        }
        CargoPackage::find(plugin, environment).map(Self::Cargo)
    }

    /// What the plugin says about itself.
    pub fn about(&self) -> &About {
        match self {
            Self::Cargo(package) => &package.about,
            Self::Go(module) => &module.about,
            Self::Binary(binary) => &binary.about,
        }
    }

    /// The time of the source's last commit; outside a repository, of its latest change.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn last_changed(&self) -> Result<Time, Failure> {
        let committed = match self {
            Self::Cargo(package) => compile::commit_time(&package.workspace_root),
            Self::Go(module) => compile::commit_time(&module.folder),
            Self::Binary(_) => None,
        };
        if let Some(time) = committed.and_then(Time::from_unix) {
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
            Self::Go(module) => module.root(),
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
            Self::Go(module) => module.files(),
            Self::Binary(binary) => Ok(BTreeSet::from([binary.path.clone()])),
        }
    }
}

/// All files of a folder but what is hidden or was made from them.
fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_made(&entry.path(), &entry.file_name().to_string_lossy()) {
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

/// Hidden, or what cargo (which tags its target folders) and this program write (packages, keys, a store,
/// a database), or the built plugin itself: otherwise a build would change the source.
fn is_made(path: &Path, name: &str) -> bool {
    let written = [".kmpkg", ".key.pem"].iter().any(|end| name.ends_with(end)) || name.starts_with("km.db");
    let is_store = ["frames", "manifests"].iter().all(|part| path.join(part).is_dir());
    let is_program = name.starts_with(EXECUTABLE_PREFIX) && !name.contains('.') && path.is_file();
    written || is_store || is_program || name.starts_with('.') || path.join("CACHEDIR.TAG").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_from_a_source_does_not_belong_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            path
        };
        let source =
            BTreeSet::from(["src/main.rs", "src/target/linux.rs", "keys/keys.go", "km-plugin.toml"].map(put));
        for made in [".git/HEAD", "target/CACHEDIR.TAG", "target/debug/x", "dist/a.kmpkg", "keys/r.key.pem"] {
            put(made);
        }
        for made in ["frames/00", "manifests/00", "index/c.toml"].map(|file| format!("dist/store/{file}")) {
            put(&made);
        }
        for made in ["dist/km.db", "dist/km.db-wal", "km-plugin-mine"] {
            put(made);
        }
        let mut found = BTreeSet::new();
        collect(folder.path(), &mut found).unwrap();
        assert_eq!(found, source);
    }
}
