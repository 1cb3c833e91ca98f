//! The cleanup phase: what the suite and cargo have made in this checkout, and nothing else.
//!
//! Everything is decided before anything is touched. Nothing is reached through a symbolic link, nothing
//! that git keeps is removed, and no key but those that the suite makes for itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::place::{LOCK, PREFIX};
use super::report::{Case, Phase};

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

/// Where to look, and what to leave.
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
            self.add(&mut cleanup, path, "products of an earlier run", true);
        }
        for name in super::report::FILES {
            self.add(&mut cleanup, self.reports.join(name), "an earlier report", false);
        }
        if !self.quick {
            let packages = entries(&self.checkout.join("dist"));
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

    fn add_target(&self, cleanup: &mut Cleanup) {
        if !self.target.join("CACHEDIR.TAG").is_file() {
            return;
        }
        if let Some(why) = self.reason_to_keep(&self.target.join("CACHEDIR.TAG")) {
            cleanup.kept.push(Kept { path: self.target.to_path_buf(), why });
            return;
        }
        // The folder itself and its tag stay: cargo marks only what it makes.
        for path in entries(self.target).filter(|path| !path.ends_with("CACHEDIR.TAG")) {
            if path != self.products {
                self.add(cleanup, path, "built by cargo and the suite", false);
            }
        }
    }

    fn reason_to_keep(&self, path: &Path) -> Option<&'static str> {
        let Ok(relative) = path.strip_prefix(self.checkout) else {
            return Some("it lies outside of the checkout");
        };
        let mut way = self.checkout.to_path_buf();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            way.push(part);
            if way.is_symlink() {
                return Some("a symbolic link leads there");
            }
        }
        if self.tracked.iter().any(|tracked| tracked.starts_with(relative)) {
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
            let unlocked = || File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
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

/// Plugins and caches of a `KM_HOME`: no configuration, no keys, nothing that waits to be sent.
pub(super) fn of_home(home: &Path) -> Vec<Removal> {
    let parts = [("plugins", "installed plugins"), ("cache", "cached tokens")];
    let there = parts.map(|(part, what)| (home.join(part), what));
    let real =
        there.into_iter().filter(|(path, _)| path.symlink_metadata().is_ok_and(|found| found.is_dir()));
    real.map(|(path, what)| Removal { bytes: size(&path), path, what, own_keys: false }).collect()
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
mod tests {
    use super::*;

    /// A checkout with what belongs to the suite and what does not.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new(files: &[&str]) -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            for file in files {
                let path = place.path(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "x").unwrap();
            }
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn clean(&self, quick: bool, in_use: &[&str], tracked: &[&str]) -> (Vec<Case>, Vec<String>) {
            let (checkout, tracked) = (self.path("c"), tracked.iter().map(PathBuf::from).collect::<Vec<_>>());
            let ground = Ground {
                checkout: &checkout,
                products: &checkout.join("target/automate"),
                target: &checkout.join("target"),
                reports: &checkout.join("logs"),
                temporary: &self.path("tmp"),
                in_use: in_use.iter().map(|file| checkout.join(file)).collect(),
                tracked: &tracked,
                quick,
            };
            let Cleanup { removals, kept } = ground.gather();
            let mut cases: Vec<Case> = removals.iter().map(|removal| ground.remove(removal)).collect();
            cases.extend(kept.iter().map(|kept| ground.keep(kept)));
            (cases, self.files())
        }

        fn files(&self) -> Vec<String> {
            fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
                for path in entries(folder) {
                    if path.is_dir() && !path.is_symlink() {
                        walk(&path, root, found);
                    } else {
                        found.push(path.strip_prefix(root).unwrap().display().to_string());
                    }
                }
            }
            let mut found = Vec::new();
            walk(self.0.path(), self.0.path(), &mut found);
            found
        }
    }

    const FILES: [&str; 17] = [
        "c/Cargo.toml",
        "c/dist/README.md",
        "c/dist/km-plugin-a-1.kmpkg",
        "c/dist/km.db",
        "c/dist/store/index/a.toml",
        "c/dist/store/packages/a.kmpkg",
        "c/keys/release.key.pem",
        "c/logs/mine.txt",
        "c/logs/report.md",
        "c/target/CACHEDIR.TAG",
        "c/target/automate/keys/release.key.pem",
        "c/target/automate/lock",
        "c/target/debug/deps/km_pack",
        "c/target/debug/km-pack",
        "c/target/notes/my.key.pem",
        "home/.km/plugins/km-plugin-a",
        "tmp/other/file",
    ];

    #[test]
    fn what_is_not_the_suites_own_stays() {
        let place = Place::new(&FILES);
        let (cases, left) = place.clean(false, &["target/debug/km-pack"], &["Cargo.toml", "dist/README.md"]);
        assert!(cases.iter().all(|case| case.outcome == super::super::report::Outcome::Passed), "{cases:?}");
        let gone = ["km-plugin-a-1", "report.md", "automate/keys", "deps"];
        let stays: Vec<_> =
            FILES.into_iter().filter(|file| !gone.iter().any(|gone| file.contains(gone))).collect();
        assert_eq!(left, stays);
    }

    #[test]
    fn quick_leaves_cargos_folder_and_packages() {
        let place = Place::new(&FILES);
        let (_, left) = place.clean(true, &[], &[]);
        let gone = ["report.md", "automate/keys"];
        let stays: Vec<_> =
            FILES.into_iter().filter(|file| !gone.iter().any(|gone| file.contains(gone))).collect();
        assert_eq!(left, stays);
    }

    #[test]
    fn what_git_keeps_stays() {
        let place = Place::new(&FILES);
        let (cases, left) =
            place.clean(false, &[], &["dist/km-plugin-a-1.kmpkg", "target/debug/deps/km_pack"]);
        for kept in ["c/dist/km-plugin-a-1.kmpkg", "c/target/debug/deps/km_pack"] {
            assert!(left.iter().any(|file| file == kept), "{left:?}");
        }
        assert_eq!(cases.iter().filter(|case| case.why.as_deref() == Some("stays: git keeps it")).count(), 2);
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let place = Place::new(&["c/target/CACHEDIR.TAG", "away/file", "far/a.kmpkg"]);
        std::os::unix::fs::symlink(place.path("away"), place.path("c/target/link")).unwrap();
        std::os::unix::fs::symlink(place.path("far"), place.path("c/dist")).unwrap();
        let (_, left) = place.clean(false, &[], &[]);
        assert_eq!(left, ["away/file", "c/dist", "c/target/CACHEDIR.TAG", "far/a.kmpkg"]);
    }

    #[test]
    fn a_target_folder_that_is_a_link_stays() {
        let place = Place::new(&["c/Cargo.toml", "away/CACHEDIR.TAG", "away/debug/km", "away/automate/x"]);
        std::os::unix::fs::symlink(place.path("away"), place.path("c/target")).unwrap();
        let (cases, left) = place.clean(false, &[], &[]);
        assert_eq!(
            left,
            ["away/CACHEDIR.TAG", "away/automate/x", "away/debug/km", "c/Cargo.toml", "c/target"]
        );
        assert!(cases.iter().any(|case| case.why.as_deref() == Some("stays: a symbolic link leads there")));
    }

    #[test]
    fn only_abandoned_temporary_folders_go() {
        let place = Place::new(&[
            "tmp/km-automate-old/lock",
            "tmp/km-automate-live/lock",
            "tmp/km-automate-new/lock",
        ]);
        let past = SystemTime::now() - Duration::from_secs(3600);
        for old in ["tmp/km-automate-old", "tmp/km-automate-live"] {
            File::open(place.path(old)).unwrap().set_modified(past).unwrap();
        }
        let live = File::open(place.path("tmp/km-automate-live/lock")).unwrap();
        live.try_lock().unwrap();
        let (_, left) = place.clean(true, &[], &[]);
        assert_eq!(left, ["tmp/km-automate-live/lock", "tmp/km-automate-new/lock"]);
    }

    #[test]
    fn of_a_home_only_plugins_and_caches_go() {
        let place = Place::new(&[
            "km/plugins/a",
            "km/cache/b",
            "km/config/config.toml",
            "km/trust/k.pub.pem",
            "km/spool/s/1",
        ]);
        let found: Vec<_> = of_home(&place.path("km")).into_iter().map(|removal| removal.path).collect();
        assert_eq!(found, [place.path("km/plugins"), place.path("km/cache")]);
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([12, 1_200, 1_200_000, 5_400_000_000].map(bytes), ["12 B", "1 kB", "1.2 MB", "5.4 GB"]);
    }
}
