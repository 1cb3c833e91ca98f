//! What this machine trusts: release keys, compiled in or added, and single binaries by digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::key::{KeyId, PublicKey, TrustedKeys};
use km_package::name::PluginName;
use serde::{Deserialize, Serialize};

use crate::paths::{self, Home};
use crate::store::FolderLock;

/// `keys/trusted/*.pub.pem` at the time `km` was built.
const BUILT_IN: &[&str] = &include!(concat!(env!("OUT_DIR"), "/trusted_keys.rs"));

/// A trusted release key.
#[derive(Debug, Clone)]
pub(crate) struct TrustedKey {
    pub(crate) key: PublicKey,
    /// The file it was added by; none for a compiled-in key.
    pub(crate) path: Option<PathBuf>,
}

/// All trusted release keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust(Vec<TrustedKey>);

impl Trust {
    /// The compiled-in keys and those that were added. A file that holds no key is skipped with a
    /// warning: it can only make less trusted.
    pub(crate) fn load(home: &Home) -> Result<Self, Failure> {
        let mut keys = Vec::new();
        for pem in BUILT_IN {
            let key = PublicKey::from_pem(pem)
                .map_err(|e| Failure::new(Kind::Failed, format_args!("a key compiled into this km: {e}")))?;
            keys.push(TrustedKey { key, path: None });
        }
        for path in key_files(&home.trust())? {
            match read_added(&path) {
                Ok(key) => keys.push(TrustedKey { key, path: Some(path) }),
                Err(failure) => tracing::warn!("skipped: {}", failure.message),
            }
        }
        Ok(Self(keys))
    }

    /// For verifying.
    pub(crate) fn keys(&self) -> TrustedKeys {
        self.0.iter().map(|trusted| trusted.key).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &TrustedKey> {
        self.0.iter()
    }

    pub(crate) fn get(&self, id: KeyId) -> Option<&TrustedKey> {
        self.0.iter().find(|trusted| trusted.key.id() == id)
    }

    /// Adds a key. Returns where it lies, or none if it was trusted already.
    pub(crate) fn add(&self, home: &Home, key: &PublicKey) -> Result<Option<PathBuf>, Failure> {
        if self.get(key.id()).is_some() {
            return Ok(None);
        }
        let _lock = lock(home)?;
        let path = home.trust().join(format!("{}.pub.pem", key.id()));
        paths::replace_file(&path, key.to_pem().as_bytes(), 0o644)
            .map_err(|e| Failure::file("write", &path, &e))?;
        Ok(Some(path))
    }
}

fn key_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::file("read", folder, &e)),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(".pub.pem")).collect();
    paths.sort();
    Ok(paths)
}

/// Most bytes of a file with a public key.
const MAX_PEM: u64 = 64 * 1024;

/// Reads a key that was added.
fn read_added(path: &Path) -> Result<PublicKey, Failure> {
    let pem = paths::read_own_text(path).map_err(|e| Failure::file("read", path, &e))?;
    PublicKey::from_pem(&pem)
        .map_err(|e| Failure::new(Kind::Untrusted, format_args!("{}: {e}", path.display())))
}

/// Reads a public key from a file or a pipe.
pub(crate) fn read_key(path: &Path) -> Result<PublicKey, Failure> {
    let pem = File::open(path)
        .and_then(|file| paths::read_bounded(file, MAX_PEM))
        .map_err(|e| Failure::file("read the public key", path, &e))?;
    PublicKey::from_pem(&String::from_utf8_lossy(&pem))
        .map_err(|e| Failure::new(Kind::Untrusted, format_args!("{}: {e}", path.display())))
}

/// Single binaries that may run without a package: what plugin authors build.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Allowed {
    #[serde(default)]
    allowed: Vec<AllowedBinary>,
}

/// One of them. Its length lets a listing rule out most files without reading them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AllowedBinary {
    name: PluginName,
    sha256: Digest,
    size: u64,
    /// Unknown keys of later versions survive a rewrite.
    #[serde(flatten)]
    more: BTreeMap<String, toml::Value>,
}

impl Allowed {
    /// Reads the list; a missing one is empty.
    pub(crate) fn load(home: &Home) -> Result<Self, Failure> {
        let path = home.allowed_file();
        let text = match paths::read_own_text(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Failure::file("read", &path, &e)),
        };
        toml::from_str(&text).map_err(|e: toml::de::Error| {
            Failure::new(Kind::Failed, format_args!("{}: {}", path.display(), e.message()))
        })
    }

    /// Whether a binary of this name and digest may run.
    pub(crate) fn contains(&self, name: &PluginName, sha256: Digest) -> bool {
        self.allowed.iter().any(|entry| entry.name == *name && entry.sha256 == sha256)
    }

    /// Whether a binary of this name and length may be one that may run.
    pub(crate) fn may_contain(&self, name: &PluginName, size: u64) -> bool {
        self.allowed.iter().any(|entry| entry.name == *name && entry.size == size)
    }

    /// Adds a binary. False if it was there already.
    pub(crate) fn add(home: &Home, name: &PluginName, sha256: Digest, size: u64) -> Result<bool, Failure> {
        let _lock = lock(home)?;
        let mut list = Self::load(home)?;
        if list.contains(name, sha256) {
            return Ok(false);
        }
        list.allowed.push(AllowedBinary { name: name.clone(), sha256, size, more: BTreeMap::new() });
        list.save(home)?;
        Ok(true)
    }

    /// Takes all binaries of a name off the list.
    pub(crate) fn forget(home: &Home, name: &PluginName) -> Result<(), Failure> {
        if !Self::load(home)?.allowed.iter().any(|entry| entry.name == *name) {
            return Ok(());
        }
        let _lock = lock(home)?;
        let mut list = Self::load(home)?;
        list.allowed.retain(|entry| entry.name != *name);
        list.save(home)
    }

    fn save(&self, home: &Home) -> Result<(), Failure> {
        let path = home.allowed_file();
        let text = toml::to_string(self)
            .map_err(|e| Failure::new(Kind::Failed, format_args!("cannot write {}: {e}", path.display())))?;
        paths::replace_file(&path, text.as_bytes(), 0o600).map_err(|e| Failure::file("write", &path, &e))
    }
}

/// One process at a time changes what is trusted.
fn lock(home: &Home) -> Result<FolderLock, Failure> {
    let folder = home.trust();
    paths::create_private(&folder).map_err(|e| Failure::file("create", &folder, &e))?;
    FolderLock::take(&folder)
}
