//! Back to the version before.

use std::io;

use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;

use super::installed::open_version;
use super::link::{StagedLink, active_folder};
use super::lock::FolderLock;
use super::receipt::Receipt;
use super::sweep::sweep;
use super::versions::{Version, version_of};
use crate::config::Config;
use crate::paths::{self, Home};
use crate::trust::Trust;

/// From which version to which.
#[derive(Debug)]
pub(crate) struct RolledBack {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// Makes the version before the active one, after it was verified in full. The mark stays, and so does
/// the version that was left: the next time goes forth again. What is running keeps its process.
pub(crate) fn rollback(
    home: &Home,
    trust: &Trust,
    config: &Config,
    name: &PluginName,
) -> Result<RolledBack, Failure> {
    let missing = || {
        Failure::new(Kind::NotFound, format_args!("plugin {name} is not installed from a package"))
            .help("`km plugins list` shows what is")
    };
    active_folder(home, name).ok_or_else(missing)?;
    let versions = home.versions(name);
    let _lock = FolderLock::take(&versions)?;
    sweep(home, name);
    // It may be another one, or none, now that nobody else can change it.
    let active = active_folder(home, name).ok_or_else(missing)?;
    let Some(before) = Version::before(&versions, &active) else {
        let message = format!("no version before {} of {name} is kept", version_of(&active));
        return Err(Failure::new(Kind::NotFound, message)
            .help("an older package can be installed: `km plugins install <package> --allow-downgrade`"));
    };
    let to = version_of(&before.folder).to_owned();
    open_version(home, trust, config, name, &before.folder)
        .map_err(|e| e.context(format_args!("{name} does not go back to {to}")))?;

    let place = versions.join(&before.folder);
    let from = version_of(&active).to_owned();
    let swap = || -> io::Result<()> {
        let link = StagedLink::new(home, name, &before.folder)?;
        // Before the swap: after it, this is what the way forth is found by.
        Receipt { previous: Some(active), ..before.receipt }.replace(&place)?;
        link.put()?;
        paths::sync_folder(&home.plugins())
    };
    swap().map_err(|e| super::trouble("go back to", &place, &e))?;
    Ok(RolledBack { from, to })
}
