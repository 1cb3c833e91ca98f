//! The marker of a plugin that is installed and must not run.

use std::io;
use std::path::PathBuf;

use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;
use serde::{Deserialize, Serialize};

use super::link::active_folder;
use super::lock::FolderLock;
use crate::paths::{self, Home};

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    reason: String,
}

pub(super) fn path(home: &Home, name: &PluginName) -> PathBuf {
    home.versions(name).join("disabled.toml")
}

/// Why a plugin is disabled, if it is. A marker that cannot be read is one all the same.
pub(super) fn reason(home: &Home, name: &PluginName) -> Option<String> {
    let path = path(home, name);
    let unreadable = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    match paths::read_own_text(&path) {
        Ok(text) => Some(match toml::from_str::<Marker>(&text) {
            Ok(marker) => marker.reason,
            Err(e) => unreadable(&e.message()),
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => Some(unreadable(&e)),
    }
}

/// Refuses a plugin that is disabled.
pub(super) fn check(home: &Home, name: &PluginName) -> Result<(), Failure> {
    let Some(reason) = reason(home, name) else { return Ok(()) };
    Err(Failure::new(Kind::Unauthorized, format_args!("{name} is disabled: {reason}"))
        .help("`km plugins refresh` enables it once the subscription reaches it"))
}

/// Disables an installed plugin. False if it was so already, for that reason.
pub(crate) fn disable(home: &Home, name: &PluginName, reason: &str) -> Result<bool, Failure> {
    let missing = || Failure::new(Kind::NotFound, format_args!("plugin {name} is not installed"));
    active_folder(home, name).ok_or_else(missing)?;
    let _lock = FolderLock::take(&home.versions(name))?;
    // It may have been removed while another process held the lock.
    active_folder(home, name).ok_or_else(missing)?;
    if self::reason(home, name).as_deref() == Some(reason) {
        return Ok(false);
    }
    let path = path(home, name);
    let write = || {
        let text = toml::to_string(&Marker { reason: reason.to_owned() }).map_err(io::Error::other)?;
        paths::replace_file(&path, text.as_bytes(), 0o644)
    };
    write().map_err(|e| super::trouble("write", &path, &e))?;
    Ok(true)
}

/// Enables a plugin again. False if it was not disabled.
pub(crate) fn enable(home: &Home, name: &PluginName) -> Result<bool, Failure> {
    if reason(home, name).is_none() {
        return Ok(false);
    }
    let _lock = FolderLock::take(&home.versions(name))?;
    remove(home, name)
}

/// Takes the marker away, under the plugin's lock.
pub(super) fn remove(home: &Home, name: &PluginName) -> Result<bool, Failure> {
    let path = path(home, name);
    let remove = || {
        let removed = paths::remove_if_present(&path)?;
        if removed {
            paths::sync_folder(&home.versions(name))?;
        }
        Ok(removed)
    };
    remove().map_err(|e| super::trouble("remove", &path, &e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::environment::Environment;

    #[test]
    fn a_plugin_is_disabled_for_a_reason_until_it_is_enabled() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment { km_home: Some(folder.path().into()), ..Environment::default() };
        let home = Home::find(&environment).unwrap();
        let name: PluginName = "tiny".parse().unwrap();
        assert_eq!(disable(&home, &name, "why").unwrap_err().kind, Kind::NotFound);
        assert!(!enable(&home, &name).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        std::fs::create_dir_all(home.versions(&name).join("1.0.0-01234567")).unwrap();
        symlink("store/tiny/1.0.0-01234567/km-plugin-tiny", home.plugin(&name)).unwrap();
        check(&home, &name).unwrap();
        for (why, is_new) in
            [("the tier is Free", true), ("the tier is Free", false), ("\"it\"\nended", true)]
        {
            assert_eq!(disable(&home, &name, why).unwrap(), is_new, "{why}");
            assert_eq!(reason(&home, &name).as_deref(), Some(why));
            assert_eq!(check(&home, &name).unwrap_err().kind, Kind::Unauthorized);
        }
        assert!(enable(&home, &name).unwrap());
        assert!(!enable(&home, &name).unwrap());
        assert_eq!(reason(&home, &name), None);
    }
}
