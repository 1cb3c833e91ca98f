//! What the documents of an installed plugin say.

use std::path::PathBuf;

use km_package::failure::{Failure, Kind};
use km_package::manifest::Manifest;
use km_package::name::PluginName;
use serde::Serialize;

use super::link::active_folder;
use super::listing::check_documents;
use super::receipt::{Origin, Receipt};
use super::versions::{Version, version_of};
use crate::paths::Home;
use crate::trust::Trust;

/// An installed plugin whose documents were verified.
#[derive(Debug, Serialize)]
pub(crate) struct Inspection {
    pub(crate) name: PluginName,
    /// Its executable.
    pub(crate) path: PathBuf,
    /// The trusted keys that signed it.
    pub(crate) key_ids: Vec<String>,
    pub(crate) origin: Origin,
    pub(crate) installed_at: String,
    /// The version that a rollback goes to.
    pub(crate) previous: Option<String>,
    pub(crate) manifest: Manifest,
}

/// Reads and verifies the documents of the active version of a plugin.
pub(crate) fn inspect(home: &Home, trust: &Trust, name: &PluginName) -> Result<Inspection, Failure> {
    let Some(active) = active_folder(home, name) else { return Err(no_package(home, name)) };
    let versions = home.versions(name);
    let folder = versions.join(&active);
    let untrusted = |reason: &str| {
        Failure::new(Kind::Untrusted, format_args!("{name} at {}: {reason}", folder.display()))
            .help("install the package again")
    };
    let verified = check_documents(trust, name, &folder).map_err(|reason| untrusted(&reason))?;
    let receipt = Receipt::read(&folder).ok_or_else(|| untrusted("it has no receipt"))?;
    Ok(Inspection {
        name: name.clone(),
        path: folder.join(name.executable().as_str()),
        key_ids: verified.signers().iter().map(ToString::to_string).collect(),
        origin: receipt.origin,
        installed_at: receipt.installed_at,
        previous: Version::before(&versions, &active).map(|before| version_of(&before.folder).to_owned()),
        manifest: verified.manifest().clone(),
    })
}

/// A plugin that has no manifest, or is not there at all.
fn no_package(home: &Home, name: &PluginName) -> Failure {
    let path = home.plugin(name);
    if path.is_file() {
        let message = format!("{} is not from a package: nobody signed it", path.display());
        return Failure::new(Kind::Untrusted, message)
            .help("`km plugins install <package>` installs one that is signed");
    }
    Failure::new(Kind::NotFound, format_args!("plugin {name} is not installed"))
        .help("`km plugins list` shows what is")
}
