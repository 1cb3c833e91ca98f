//! The cleanup phase: what the suite and cargo have made in this checkout, and nothing else.
//!
//! Everything is decided before anything is touched. Nothing is reached through a symbolic link, nothing
//! that git keeps is removed, and no key but those that the suite makes for itself.

mod home;
mod target;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::place::{self, LOCK, PREFIX};
use super::report::{self, Case, Phase};
pub(super) use home::Home;

/// What the build phase makes, and cargo's folder of what its packages are built from.
const PRODUCTS: [&str; 5] = ["keys", "dist", "go", "cargo", "customers.toml"];

const NOT_OURS: &str = "not ours";
const OUTSIDE: &str = "it lies outside of the checkout";
const BEHIND_LINK: &str = "a symbolic link leads there";

/// A younger folder may belong to a run that is about to lock it.
const YOUNG: Duration = Duration::from_secs(60);

/// What is to be removed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Removal {
    pub(super) path: PathBuf,
    /// What it is, for people.
    pub(super) what: &'static str,
    pub(super) bytes: u64,
    /// Whether signing keys in it are the suite's own.
    #[serde(skip)]
    own_keys: bool,
}

/// What might be removed, and is not.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) why: &'static str,
}

/// Where to look, and what to leave. The checkout and the products have no links in their paths.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    pub(super) checkout: &'a Path,
    /// Of this run.
    pub(super) products: &'a Path,
    pub(super) target: &'a Path,
    pub(super) reports: &'a Path,
    pub(super) temporary: &'a Path,
    /// The running program, and the programs to be tested.
    pub(super) in_use: Vec<PathBuf>,
    pub(super) tracked: &'a [PathBuf],
    /// What cargo and releases have made stays.
    pub(super) quick: bool,
}

/// All that goes, and all that stays although it looks as if it might.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cleanup {
    pub(super) removals: Vec<Removal>,
    pub(super) kept: Vec<Kept>,
}

impl Ground<'_> {
    /// Decides what goes.
    pub(super) fn gather(&self) -> Cleanup {
        let mut cleanup = Cleanup::default();
        for path in entries(self.products).filter(|path| !path.ends_with(LOCK)) {
            match PRODUCTS.iter().any(|name| path.ends_with(name)) {
                true => self.add(&mut cleanup, path, "products of an earlier run", true),
                false => cleanup.kept.push(Kept { path, why: NOT_OURS }),
            }
        }
        self.add_reports(&mut cleanup);
        if !self.quick {
            let packages = entries(&self.checkout.join("dist")).filter(|path| is_file(path));
            for path in packages.filter(|path| path.extension().is_some_and(|end| end == "kmpkg")) {
                self.add(&mut cleanup, path, "a built package", false);
            }
            self.add_target(&mut cleanup);
        }
        for path in self.abandoned() {
            cleanup.removals.push(Removal {
                bytes: size(&path),
                path,
                what: "left by a run that was killed",
                own_keys: true,
            });
        }
        cleanup
    }

    fn add(&self, cleanup: &mut Cleanup, path: PathBuf, what: &'static str, own_keys: bool) {
        if path.symlink_metadata().is_err() {
            return;
        }
        match self.reason_to_keep(&path) {
            Some(why) => cleanup.kept.push(Kept { path, why }),
            None => cleanup.removals.push(Removal { bytes: size(&path), path, what, own_keys }),
        }
    }

    /// What the folder holds besides our reports is none of our business, and so is a folder elsewhere.
    fn add_reports(&self, cleanup: &mut Cleanup) {
        let folder = std::fs::canonicalize(self.reports).unwrap_or_else(|_| self.reports.to_path_buf());
        for path in report::FILES.map(|name| folder.join(name)) {
            match path.symlink_metadata() {
                Ok(_) if report::is_ours(&path) => self.add(cleanup, path, "an earlier report", false),
                Ok(_) => cleanup.kept.push(Kept { path, why: NOT_OURS }),
                Err(_) => {}
            }
        }
    }

    fn add_target(&self, cleanup: &mut Cleanup) {
        if self.target.join("CACHEDIR.TAG").symlink_metadata().is_err() {
            return;
        }
        let target = match target::judge(self.target, self.checkout, self.tracked) {
            Ok(target) => target,
            Err(why) => return cleanup.kept.push(Kept { path: self.target.to_path_buf(), why }),
        };
        // The folder itself and its tag stay: cargo marks only what it makes.
        let others = entries(&target).filter(|path| !path.ends_with("CACHEDIR.TAG") && path != self.products);
        for path in others {
            match target::is_ours(&path) {
                true => self.add(cleanup, path, "built by cargo and the suite", false),
                false => cleanup.kept.push(Kept { path, why: NOT_OURS }),
            }
        }
    }

    fn reason_to_keep(&self, path: &Path) -> Option<&'static str> {
        let Ok(relative) = path.strip_prefix(self.checkout) else {
            return Some(OUTSIDE);
        };
        if relative
            .parent()
            .is_some_and(|above| place::link_to(&self.checkout.join(above), self.checkout).is_some())
        {
            return Some(BEHIND_LINK);
        }
        // A submodule is one entry, whatever lies in it.
        if self.tracked.iter().any(|tracked| tracked.starts_with(relative) || relative.starts_with(tracked)) {
            return Some("git keeps it");
        }
        None
    }

    /// Temporary folders of runs that do not live any more.
    fn abandoned(&self) -> Vec<PathBuf> {
        let ours = rustix::process::getuid().as_raw();
        let is_abandoned = |path: &PathBuf| {
            let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
            let Ok(metadata) = path.symlink_metadata() else { return false };
            let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            let old = age.is_some_and(|age| age > YOUNG);
            // Only with what a run writes there is it a run's: others may begin their names as we do.
            let unlocked = || place::find_lock(path).is_some_and(|lock| lock.try_lock().is_ok());
            named && metadata.is_dir() && metadata.uid() == ours && old && unlocked()
        };
        entries(self.temporary).filter(is_abandoned).collect()
    }

    /// Removes one thing.
    pub(super) fn remove(&self, removal: &Removal) -> Case {
        let begun = Instant::now();
        let mut case = self.case(&removal.path, removal.what);
        let stays = |path: &Path| {
            let key = path.to_string_lossy().ends_with(".key.pem");
            key && !removal.own_keys || self.in_use.iter().any(|used| used == path)
        };
        match remove(&removal.path, &stays) {
            Ok(true) => case.title = format!("{}, {}", removal.what, bytes(removal.bytes)),
            Ok(false) => case.title = format!("{}, but for what is in use and keys", removal.what),
            Err((path, e)) => case.fail(format!("cannot remove {}: {e}", path.display())),
        }
        case.took = begun.elapsed();
        case
    }

    /// Says that something stays.
    pub(super) fn keep(&self, kept: &Kept) -> Case {
        let mut case = self.case(&kept.path, "");
        case.skip(format!("stays: {}", kept.why));
        case
    }

    fn case(&self, path: &Path, title: &str) -> Case {
        let name = path.strip_prefix(self.checkout).unwrap_or(path).display().to_string();
        Case::new(Phase::Cleanup, name, title)
    }
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_file())
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        found.insert(entry.path());
    }
    found.into_iter()
}

fn size(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => entries(path).map(|path| size(&path)).sum(),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

/// A size, for people.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Removes a file, a link (not what it leads to), or a folder with all in it. False when something stays.
fn remove(path: &Path, stays: &dyn Fn(&Path) -> bool) -> Result<bool, (PathBuf, std::io::Error)> {
    let fails = |e| (path.to_path_buf(), e);
    if stays(path) {
        return Ok(false);
    }
    if !path.symlink_metadata().map_err(fails)?.is_dir() {
        std::fs::remove_file(path).map_err(fails)?;
        return Ok(true);
    }
    let mut all = true;
    for entry in entries(path) {
        all &= remove(&entry, stays)?;
    }
    if all {
        std::fs::remove_dir(path).map_err(fails)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
