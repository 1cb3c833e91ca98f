//! `km-plugins.lock`: which packages a project runs, by digest and for each platform. For people to commit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::index::Index;
use km_package::name::{CustomerId, PluginName};
use km_package::platform::Platform;
use serde::{Deserialize, Serialize};

use super::lock::FolderLock;
use crate::paths;

/// What the file is called where nothing else is said.
pub(crate) const LOCK_FILE: &str = "km-plugins.lock";
const FORMAT: &str = "kmlock/1";

/// The packages of a project, by the names of their plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockFile {
    format: String,
    #[serde(default)]
    pub(crate) plugins: Vec<LockedPlugin>,
}

/// One version of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockedPlugin {
    pub(crate) name: PluginName,
    pub(crate) version: semver::Version,
    pub(crate) sequence: u64,
    pub(crate) customer: CustomerId,
    /// The digest of its manifest's text on each platform that is known.
    pub(crate) platforms: BTreeMap<String, Digest>,
}

impl LockedPlugin {
    /// Adds the platforms that an index has this version for.
    pub(crate) fn add_published(&mut self, index: &Index) {
        let key = (&self.name, &self.version, self.sequence);
        for entry in
            index.packages.iter().filter(|entry| (&entry.name, &entry.version, entry.sequence) == key)
        {
            self.platforms.entry(entry.platform.to_string()).or_insert(entry.manifest_sha256);
        }
    }

    fn is_same_version(&self, other: &Self) -> bool {
        Self { platforms: BTreeMap::new(), ..self.clone() }
            == Self { platforms: BTreeMap::new(), ..other.clone() }
    }
}

impl LockFile {
    pub(crate) fn new(mut plugins: Vec<LockedPlugin>) -> Self {
        plugins.sort_by(|a, b| a.name.cmp(&b.name));
        Self { format: FORMAT.to_owned(), plugins }
    }

    /// Reads one; a missing file is exit 6, one that is damaged exit 1.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = paths::read_own(path).map_err(|e| {
            Failure::file("read", path, &e).help("`km plugins lock` writes one from what is installed")
        })?;
        Self::parse(&bytes).map_err(|reason| {
            Failure::new(Kind::Failed, format_args!("{}, {reason}", path.display()))
                .help("take the file from version control again, or remove it and run `km plugins lock`")
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let at = |end: usize, what: &str| {
            format!("line {}: {what}", bytes[..end].iter().filter(|byte| **byte == b'\n').count() + 1)
        };
        let text = std::str::from_utf8(bytes).map_err(|e| at(e.valid_up_to(), "it is not UTF-8"))?;
        let file: Self = toml::from_str(text)
            .map_err(|e: toml::de::Error| at(e.span().map_or(0, |span| span.start), e.message()))?;
        if file.format != FORMAT {
            return Err(format!("line 1: {:?} needs another km; this one reads {FORMAT:?}", file.format));
        }
        let mut names = BTreeSet::new();
        match file.plugins.iter().find(|plugin| !names.insert(&plugin.name)) {
            Some(twice) => Err(format!("{} is named twice", twice.name)),
            None => Ok(file),
        }
    }

    /// Takes over what an older file knows of the same versions on other platforms.
    pub(crate) fn keep_platforms_of(&mut self, older: &Self) {
        for plugin in &mut self.plugins {
            let known = older.plugins.iter().find(|known| known.is_same_version(plugin));
            for (platform, digest) in known.into_iter().flat_map(|known| &known.platforms) {
                plugin.platforms.entry(platform.clone()).or_insert(*digest);
            }
        }
    }

    /// Replaces the file, whose folder exists.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let folder = path.parent().unwrap_or(path);
        let folder = std::fs::canonicalize(folder).map_err(|e| Failure::file("write to", folder, &e))?;
        let place = folder.join(path.file_name().unwrap_or_default());
        let text = toml::to_string(self)
            .map_err(|e| Failure::new(Kind::Failed, format_args!("cannot write {}: {e}", path.display())))?;
        let _lock = FolderLock::take(&folder)?;
        paths::replace_file(&place, text.as_bytes(), 0o644).map_err(|e| super::trouble("write", path, &e))
    }

    /// Refuses a package that the file does not name with this digest for this platform.
    pub(crate) fn check(
        &self,
        name: &PluginName,
        version: &semver::Version,
        platform: &Platform,
        manifest_sha256: &Digest,
    ) -> Result<(), Failure> {
        let locked = self.plugins.iter().find(|plugin| plugin.name == *name);
        let expected = match locked.map(|plugin| (plugin, plugin.platforms.get(platform.as_str()))) {
            Some((_, Some(digest))) if digest == manifest_sha256 => return Ok(()),
            Some((plugin, Some(digest))) => format!("{name} {} with manifest {digest}", plugin.version),
            Some((plugin, None)) => format!("{name} {} not for {platform}", plugin.version),
            None => format!("no {name}"),
        };
        let found = format!("{name} {version} with manifest {manifest_sha256}");
        Err(Failure::new(Kind::Conflict, format_args!("the lock file has {expected}; this is {found}")).help(
            "install the package that was locked; if the change is wanted, install without --locked, \
                 then `km plugins lock`",
        ))
    }
}
