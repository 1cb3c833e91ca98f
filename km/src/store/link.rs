//! The link that makes one version of a plugin the active one.

use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;

use crate::paths::{self, Home};

/// The folder that the link of a plugin points to, if it points into the store.
pub(super) fn active_folder(home: &Home, name: &PluginName) -> Option<String> {
    let target = std::fs::read_link(home.plugin(name)).ok()?;
    let mut parts = target.iter().map(|part| part.to_str());
    let expected = ["store", name.as_str()];
    if !expected.iter().all(|part| parts.next() == Some(Some(part))) {
        return None;
    }
    let folder = parts.next()??.to_owned();
    let executable = name.executable();
    (parts.next() == Some(Some(executable.as_str())) && parts.next().is_none()).then_some(folder)
}

/// Nothing but a link or a plain file may lie where the plugin's link belongs.
pub(super) fn check_place(home: &Home, name: &PluginName) -> Result<(), Failure> {
    let link = home.plugin(name);
    match std::fs::symlink_metadata(&link) {
        Ok(found) if found.is_dir() => {
            Err(Failure::new(Kind::Local, format_args!("{} is a folder", link.display()))
                .help("move it away"))
        }
        _ => Ok(()),
    }
}

/// A link that lies beside its place, so that nothing but a rename is left to do. Gone when dropped.
#[derive(Debug)]
pub(super) struct StagedLink {
    temporary: PathBuf,
    place: PathBuf,
}

impl StagedLink {
    pub(super) fn new(home: &Home, name: &PluginName, folder: &str) -> io::Result<Self> {
        let place = home.plugin(name);
        // One name for each plugin, under its lock: the next attempt replaces what a crash left.
        let temporary = paths::temporary(&place);
        paths::remove_if_present(&temporary)?;
        let executable = name.executable();
        let target: PathBuf = ["store", name.as_str(), folder, executable.as_str()].iter().collect();
        symlink(target, &temporary)?;
        Ok(Self { temporary, place })
    }

    /// Makes its version the active one, in one step.
    pub(super) fn put(self) -> io::Result<()> {
        std::fs::rename(&self.temporary, &self.place)
    }
}

impl Drop for StagedLink {
    fn drop(&mut self) {
        // Not there any more once it was put.
        let _ = std::fs::remove_file(&self.temporary);
    }
}
