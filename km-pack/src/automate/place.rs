//! Where a run works: the folder of its products, with a lock, and a temporary one for its scenarios.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};

use super::build::PROGRAMS;

/// What the temporary folders of runs begin with.
pub(super) const PREFIX: &str = "km-automate-";
/// Says that the run of a folder lives, by being locked.
pub(super) const LOCK: &str = "lock";

/// What cargo writes into a target folder that it makes, and not into one that is there: the mark of what
/// is no source.
const CACHE_TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds what cargo makes.\n";

const FOLDER: &str = "target/automate";

/// `target/automate`, held by this run alone.
#[derive(Debug)]
pub(super) struct Products {
    pub(super) folder: PathBuf,
    _lock: Option<File>,
}

impl Products {
    /// Its place only, to look at.
    pub(super) fn unlocked(checkout: &Path) -> Result<Self, Failure> {
        Ok(Self { folder: checkout.join(FOLDER), _lock: None })
    }

    /// Takes it, unless another run has it.
    pub(super) fn lock(checkout: &Path) -> Result<Self, Failure> {
        let target = checkout.join("target");
        if !target.exists() {
            std::fs::create_dir_all(&target)
                .and_then(|()| std::fs::write(target.join("CACHEDIR.TAG"), CACHE_TAG))
                .map_err(|e| Failure::file("make", &target, &e))?;
        }
        let folder = checkout.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(|e| Failure::file("make", &folder, &e))?;
        let path = folder.join(LOCK);
        let file = open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { folder, _lock: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                let what = format!("another run of the suite works in {}", folder.display());
                Err(Failure::new(Kind::Conflict, what).help("wait until it has ended"))
            }
            Err(TryLockError::Error(e)) => Err(Failure::file("lock", &path, &e)),
        }
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    let file = File::options().create(true).write(true).truncate(false).open(path);
    file.map_err(|e| Failure::file("open", path, &e))
}

/// The temporary folder of a run. Removed when dropped.
#[derive(Debug)]
pub(super) struct Workplace {
    folder: tempfile::TempDir,
    _lock: File,
}

impl Workplace {
    pub(super) fn new(temporary: &Path) -> Result<Self, Failure> {
        let fails = |e: std::io::Error| Failure::file("make a folder in", temporary, &e);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(temporary).map_err(fails)?;
        let lock = open(&folder.path().join(LOCK))?;
        lock.try_lock().map_err(|e| fails(e.into()))?;
        Ok(Self { folder, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A folder with links to the programs under test.
    ///
    /// # Errors
    /// When `km` or `km-pack` is missing.
    pub(super) fn link_programs(&self, bins: &Path, otherwise: Option<&Path>) -> Result<PathBuf, Failure> {
        let folder = self.path().join("programs");
        std::fs::create_dir(&folder).map_err(|e| Failure::file("make", &folder, &e))?;
        for name in PROGRAMS {
            let places = [Some(bins), otherwise.filter(|_| name.starts_with("mcp-"))];
            let found =
                places.into_iter().flatten().map(|folder| folder.join(name)).find(|path| path.is_file());
            match found {
                Some(path) => {
                    let link = folder.join(name);
                    std::os::unix::fs::symlink(&path, &link).map_err(|e| Failure::file("make", &link, &e))?;
                }
                None if name.starts_with("mcp-") => {}
                None => {
                    let what = format!("{} is not there", bins.join(name).display());
                    return Err(Failure::new(Kind::NotFound, what).help(
                        "km-pack automate --phase build makes it; --bins takes a folder with km and km-pack",
                    ));
                }
            }
        }
        Ok(folder)
    }
}

/// Whether a program is found.
pub(super) fn is_on_path(program: &str, path: &std::ffi::OsStr) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let runs = |folder: &str| {
        let metadata = std::fs::metadata(Path::new(folder).join(program));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    path.to_string_lossy().split(':').filter(|folder| !folder.is_empty()).any(runs)
}
