//! The highest sequence ever installed of a plugin, for each customer: what rollback is judged by.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use km_package::failure::{Failure, Kind};
use km_package::name::{CustomerId, PluginName};
use serde::{Deserialize, Serialize};

use crate::paths::{self, Home};

/// The marks of one plugin. They survive its removal.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct HighestSequences {
    #[serde(default)]
    customers: BTreeMap<String, u64>,
}

fn path(home: &Home, name: &PluginName) -> PathBuf {
    home.versions(name).join("highest.toml")
}

impl HighestSequences {
    pub(crate) fn load(home: &Home, name: &PluginName) -> Result<Self, Failure> {
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

    pub(crate) fn of(&self, customer: &CustomerId) -> Option<u64> {
        self.customers.get(customer.as_str()).copied()
    }

    /// Raises the mark of a customer; it never sinks.
    pub(super) fn raise(
        mut self,
        home: &Home,
        name: &PluginName,
        customer: &CustomerId,
        sequence: u64,
    ) -> Result<(), Failure> {
        if self.of(customer).is_some_and(|highest| highest >= sequence) {
            return Ok(());
        }
        self.customers.insert(customer.to_string(), sequence);
        let path = path(home, name);
        let text = toml::to_string(&self)
            .map_err(|e| Failure::new(Kind::Local, format_args!("cannot write {}: {e}", path.display())))?;
        paths::replace_file(&path, text.as_bytes(), 0o600).map_err(|e| Failure::file("write", &path, &e))
    }
}
