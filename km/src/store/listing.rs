//! What is in `plugins/`: documents and receipts are checked, whole files are not read.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use km_package::digest::{Digest, Hasher};
use km_package::failure::Failure;
use km_package::manifest::Manifest;
use km_package::name::{CustomerId, PluginName};
use km_package::tier::Tier;
use km_package::verify::{Documents, Purpose, Untrusted, Verified, verify};
use serde::Serialize;

use super::disabled;
use super::link::active_folder;
use super::receipt::{Receipt, read_head};
use crate::config::Config;
use crate::paths::Home;
use crate::trust::{Allowed, Trust};

/// What may be done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// From a package; it runs.
    Installed,
    /// A plain binary that was allowed; it runs.
    Allowed,
    /// A plain binary that nobody allowed; it does not run.
    Unsigned,
    /// What is there is not what was installed, or nobody trusts its signer any more.
    Untrusted,
    /// Made for another customer than the configured one, or not reached by the subscription; it does
    /// not run.
    Disabled,
}

/// One line of `km plugins list`. What is not known is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    pub(crate) name: PluginName,
    pub(crate) version: Option<String>,
    pub(crate) required_tier: Option<Tier>,
    pub(crate) tier: Option<Tier>,
    pub(crate) customer: Option<CustomerId>,
    pub(crate) state: State,
    pub(crate) path: PathBuf,
    pub(crate) sha256: Option<Digest>,
    pub(crate) key_id: Option<String>,
    /// Why it does not run.
    pub(crate) reason: Option<String>,
}

impl Entry {
    fn bare(name: PluginName, path: PathBuf, state: State, reason: impl Into<Option<String>>) -> Self {
        Self {
            name,
            version: None,
            required_tier: None,
            tier: None,
            customer: None,
            state,
            path,
            sha256: None,
            key_id: None,
            reason: reason.into(),
        }
    }
}

/// Lists the entries of `plugins/` by name. Starts no process.
pub(crate) fn list(home: &Home, trust: &Trust, config: &Config) -> Result<Vec<Entry>, Failure> {
    let folder = home.plugins();
    let names = match std::fs::read_dir(&folder) {
        Ok(entries) => {
            entries.flatten().filter_map(|entry| PluginName::of_executable(entry.file_name().to_str()?))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::file("read", &folder, &e)),
    };
    let mut names: Vec<PluginName> = names.collect();
    names.sort();
    let allowed = Allowed::load(home)?;
    let entries = names.into_iter().filter_map(|name| match active_folder(home, &name) {
        Some(version) => Some(installed(home, trust, config, name, &version)),
        None => plain(home, &allowed, name),
    });
    Ok(entries.collect())
}

fn installed(home: &Home, trust: &Trust, config: &Config, name: PluginName, version: &str) -> Entry {
    let folder = home.versions(&name).join(version);
    let path = folder.join(name.executable().as_str());
    match check_documents(trust, &name, &folder) {
        Err(reason) => Entry::bare(name, path, State::Untrusted, reason),
        Ok(verified) => {
            let Manifest { plugin, customer, .. } = verified.manifest();
            let stranger = config.customer.as_ref().filter(|configured| **configured != customer.id);
            let disabled = stranger
                .map(|configured| format!("made for {}, configured is {configured}", customer.id))
                .or_else(|| disabled::reason(home, &name));
            let state = if disabled.is_some() { State::Disabled } else { State::Installed };
            Entry {
                version: Some(plugin.version.to_string()),
                required_tier: Some(plugin.required_tier),
                tier: Some(customer.tier),
                customer: Some(customer.id.clone()),
                sha256: Some(verified.manifest().executable().sha256),
                key_id: verified.signers().first().map(ToString::to_string),
                ..Entry::bare(name, path, state, disabled)
            }
        }
    }
}

/// Signatures, manifest and receipt of an installed version, and the sizes of its files.
pub(super) fn check_documents(
    trust: &Trust,
    name: &PluginName,
    folder: &std::path::Path,
) -> Result<Verified<()>, String> {
    let receipt = Receipt::read(folder).ok_or("it has no receipt")?;
    let head = read_head(folder).map_err(|e| format!("its documents cannot be read: {e}"))?;
    if Digest::of(&head.manifest) != receipt.manifest_sha256 {
        return Err("its manifest is not the one of its receipt".to_owned());
    }
    // The customer is left out: what is made for another one is disabled, not untrusted.
    let context = super::context(Purpose::Run, None).map_err(|e| e.message)?;
    let verified =
        verify(Untrusted::installed(head, Documents), &trust.keys(), &context).map_err(|e| e.to_string())?;
    if verified.manifest().plugin.name != *name {
        return Err(format!("its manifest is that of {}", verified.manifest().plugin.name));
    }
    for file in &verified.manifest().files {
        let found = std::fs::symlink_metadata(folder.join(file.path.as_str()));
        if !found.is_ok_and(|found| found.is_file() && found.len() == file.size) {
            return Err(format!("{} is missing or has another size", file.path));
        }
    }
    Ok(verified)
}

/// A binary that was put there by hand, if it is one that could run.
fn plain(home: &Home, allowed: &Allowed, name: PluginName) -> Option<Entry> {
    let path = home.plugin(&name);
    let metadata = std::fs::metadata(&path).ok()?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return None;
    }
    // Only a file that may be an allowed one is read.
    let digest = allowed.may_contain(&name, metadata.len()).then(|| digest_of(&path).ok()).flatten();
    let entry = match digest {
        Some(digest) if allowed.contains(&name, digest) => {
            Entry { sha256: Some(digest), ..Entry::bare(name, path, State::Allowed, None) }
        }
        digest => {
            let reason = "not from a package; `km plugins allow` trusts it".to_owned();
            Entry { sha256: digest, ..Entry::bare(name, path, State::Unsigned, reason) }
        }
    };
    Some(entry)
}

/// The digest of a file.
pub(crate) fn digest_of(path: &std::path::Path) -> io::Result<Digest> {
    digest_file(&mut std::fs::File::open(path)?)
}

/// The digest of an open file, from where it stands.
pub(super) fn digest_file(file: &mut std::fs::File) -> io::Result<Digest> {
    use std::io::Read as _;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
