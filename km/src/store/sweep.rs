//! What commands that were cut off have left of a plugin.

use std::path::Path;

use km_package::name::PluginName;

use super::link::active_folder;
use super::receipt::Receipt;
use super::staging::Staging;
use super::{disabled, highest, versions};
use crate::paths::{self, Home};

/// Removes it, under the plugin's lock. The active version stays, however damaged it may be, and with
/// it the one to go back to.
pub(super) fn sweep(home: &Home, name: &PluginName) {
    Staging::sweep(home);
    let folder = home.versions(name);
    let receipts = versions::folders(&folder).map(|version| Receipt::path(&folder.join(version)));
    for file in receipts.chain([home.plugin(name), highest::path(home, name), disabled::path(home, name)]) {
        let _ = std::fs::remove_file(paths::temporary(&file));
    }
    let active = active_folder(home, name);
    for version in
        versions::folders(&folder).filter(|version| !is_needed(&folder, active.as_deref(), version))
    {
        let _ = versions::remove(&folder, &version);
    }
}

fn is_needed(versions: &Path, active: Option<&str>, version: &str) -> bool {
    let Some(active) = active else { return false };
    if active == version {
        return true;
    }
    match Receipt::read(&versions.join(active)) {
        Some(receipt) => receipt.previous.as_deref() == Some(version),
        // Which one it was is lost with the receipt: any that is whole may be the one.
        None => Receipt::read(&versions.join(version)).is_some(),
    }
}
