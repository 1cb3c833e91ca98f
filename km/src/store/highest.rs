//! The highest sequence ever installed of a plugin, for each customer: what rollback is judged by.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use km_package::failure::{Failure, Kind};
use km_package::manifest::Manifest;
use km_package::name::{CustomerId, PluginName};
use serde::{Deserialize, Serialize};

use super::versions::Version;
use crate::paths::{self, Home};

/// The marks of one plugin. They survive its removal.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HighestSequences {
    #[serde(default)]
    customers: BTreeMap<String, u64>,
}

/// The highest sequence of a plugin that is known to have been installed for a customer.
pub(crate) fn highest_seen(
    home: &Home,
    name: &PluginName,
    customer: &CustomerId,
) -> Result<Option<u64>, Failure> {
    Ok(HighestSequences::seen(home, name)?.of(customer))
}

pub(super) fn path(home: &Home, name: &PluginName) -> PathBuf {
    home.versions(name).join("highest.toml")
}

impl HighestSequences {
    fn load(home: &Home, name: &PluginName) -> Result<Self, Failure> {
        let path = path(home, name);
        match paths::read_own_text(&path) {
            Ok(text) => toml::from_str(&text).map_err(|e: toml::de::Error| {
                Failure::new(Kind::Local, format_args!("{}: {}", path.display(), e.message()))
                    .help("without it a rollback would go unnoticed; restore the file from a backup")
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Failure::file("read", &path, &e)),
        }
    }

    /// The marks, and what lies in the store: a mark that was lost or lowered lets nothing older in
    /// while the version that set it is there.
    pub(super) fn seen(home: &Home, name: &PluginName) -> Result<Self, Failure> {
        let mut seen = Self::load(home, name)?;
        for version in Version::all(&home.versions(name)) {
            seen.raise(&version.manifest);
        }
        Ok(seen)
    }

    pub(super) fn of(&self, customer: &CustomerId) -> Option<u64> {
        self.customers.get(customer.as_str()).copied()
    }

    /// Raises the mark of a package's customer; it never sinks.
    pub(super) fn raise(&mut self, manifest: &Manifest) {
        let mark = self.customers.entry(manifest.customer.id.to_string()).or_default();
        *mark = manifest.plugin.sequence.max(*mark);
    }

    /// Writes the marks, if they are others than those that were written last.
    pub(super) fn save(&self, home: &Home, name: &PluginName) -> Result<(), Failure> {
        if Self::load(home, name)? == *self {
            return Ok(());
        }
        let path = path(home, name);
        let write = || {
            let text = toml::to_string(self).map_err(io::Error::other)?;
            paths::replace_file(&path, text.as_bytes(), 0o600)
        };
        write().map_err(|e| super::trouble("write", &path, &e))
    }
}
