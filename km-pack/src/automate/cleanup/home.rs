//! A `KM_HOME` that somebody named: whether it is one, and what of it `km plugins refresh` brings back.

use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};

use super::{Removal, entries, is_file, is_folder, size};
use crate::automate::config;

/// One that has the marks of what `km` makes.
#[derive(Debug)]
pub(in crate::automate) struct Home(PathBuf);

impl Home {
    /// Looks whether it is one: any folder may have `plugins` and `cache`, a checkout of this first of all.
    ///
    /// # Errors
    /// When it is none.
    pub(in crate::automate) fn find(folder: &Path) -> Result<Self, Failure> {
        let refuse = |why: &str| {
            Err(Failure::new(Kind::Usage, format_args!("{} is no KM_HOME: {why}", folder.display())).help(
                "--home takes a folder that km has made, with plugins/store, and config/config.toml or trust",
            ))
        };
        let fails = |e| Failure::file("find", folder, &e);
        // Without a slash at its end, which would lead through a link.
        let plain: PathBuf = folder.components().collect();
        let metadata = plain.symlink_metadata().map_err(fails)?;
        if metadata.is_symlink() {
            return refuse("it is a symbolic link");
        }
        if !metadata.is_dir() {
            return refuse("it is no folder");
        }
        let home = std::fs::canonicalize(&plain).map_err(fails)?;
        let is_there = |path: PathBuf| path.symlink_metadata().is_ok();
        let mut above = home.ancestors();
        if above.any(|above| is_there(above.join(".git")) || is_there(above.join(config::FILE))) {
            return refuse("it is a checkout, or lies in one");
        }
        let configured = || is_folder(&home.join("config")) && is_file(&home.join("config/config.toml"));
        let trusts =
            || is_folder(&home.join("trust")) && entries(&home.join("trust")).all(|key| is_trust(&key));
        let installs = is_folder(&home.join("plugins")) && is_folder(&home.join("plugins/store"));
        if !installs || !configured() && !trusts() {
            return refuse("what km keeps there is missing");
        }
        Ok(Self(home))
    }

    pub(in crate::automate) fn path(&self) -> &Path {
        &self.0
    }

    /// Plugins and caches: no configuration, no keys, nothing that waits to be sent, and nothing that
    /// somebody else put beside them.
    pub(in crate::automate) fn removals(&self) -> Vec<Removal> {
        let mut removals = Vec::new();
        let mut add = |path: PathBuf, what| {
            removals.push(Removal { bytes: size(&path), path, what, own_keys: false });
        };
        for (folder, is_made, what) in [
            ("plugins", is_plugin as fn(&Path) -> bool, "installed plugins"),
            ("cache", is_cache, "cached tokens and downloads"),
        ] {
            let folder = self.0.join(folder);
            if is_folder(&folder) {
                entries(&folder).filter(|path| is_made(path)).for_each(|path| add(path, what));
            }
        }
        removals
    }
}

/// As `km/src/paths.rs` has it.
fn is_plugin(path: &Path) -> bool {
    let is_folder_of_km = ["store", "index", ".staging"].iter().any(|name| path.ends_with(name));
    let is_linked = name(path).starts_with(km_package::name::EXECUTABLE_PREFIX);
    is_folder_of_km && is_folder(path) || is_linked && (is_file(path) || path.is_symlink())
}

/// Tokens, and halves of them (`km/src/auth/cache.rs`).
fn is_cache(path: &Path) -> bool {
    let name = name(path);
    let is_token = name.ends_with(".token") || name.starts_with('.') && name.ends_with(".new");
    path.ends_with("downloads") && is_folder(path) || is_token && is_file(path)
}

fn is_trust(path: &Path) -> bool {
    let name = name(path);
    name == "allowed.toml" || name.ends_with(".pub.pem") || name.starts_with('.')
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}
