//! Where a run works: the folder of its products, with a lock, and a temporary one for its scenarios.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use km_package::failure::{Failure, Kind};
use rustix::fs::OFlags;

use super::build::PROGRAMS;

/// What the temporary folders of runs begin with.
pub(super) const PREFIX: &str = "km-automate-";
/// Says that the run of a folder lives, by being locked.
pub(super) const LOCK: &str = "lock";

/// What a lock holds: by it a folder is known as a run's.
const LOCK_TEXT: &str = "km-pack automate\n";

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
        let folder = checkout.join(FOLDER);
        refuse_links(&folder, checkout)?;
        let target = checkout.join("target");
        if !target.exists() {
            std::fs::create_dir_all(&target)
                .and_then(|()| std::fs::write(target.join("CACHEDIR.TAG"), CACHE_TAG))
                .map_err(|e| Failure::file("make", &target, &e))?;
        }
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

/// Nothing there is made or removed through a link: it would be another place's.
///
/// # Errors
/// When there is a link.
pub(super) fn refuse_links(folder: &Path, checkout: &Path) -> Result<(), Failure> {
    let Some(link) = link_to(folder, checkout) else { return Ok(()) };
    let what = format!("{} is a symbolic link, and the suite builds and removes below it", link.display());
    Err(Failure::new(Kind::Local, what)
        .help("make it a folder; CARGO_TARGET_DIR says where cargo builds, if that is elsewhere"))
}

/// The first link within the checkout that a path goes through, or is.
pub(super) fn link_to(path: &Path, checkout: &Path) -> Option<PathBuf> {
    let mut way = PathBuf::new();
    for part in path.components() {
        let above = way.clone();
        way.push(part);
        let is_within = || std::fs::canonicalize(&above).is_ok_and(|above| above.starts_with(checkout));
        if part != Component::ParentDir && way.is_symlink() && is_within() {
            return Some(way);
        }
    }
    None
}

/// Neither a link nor a FIFO in the place of a lock leads anywhere, or stops anything.
fn open_with(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is not a regular file")) }
}

fn open(path: &Path) -> Result<File, Failure> {
    let open = || {
        let mut file = open_with(File::options().create(true).write(true).truncate(false), path)?;
        file.write_all(LOCK_TEXT.as_bytes())?;
        Ok(file)
    };
    open().map_err(|e| Failure::file("open", path, &e))
}

/// The lock in the temporary folder of a run, if it is one.
pub(super) fn find_lock(folder: &Path) -> Option<File> {
    let file = open_with(File::options().read(true), &folder.join(LOCK)).ok()?;
    let mut text = String::new();
    (&file).take(LOCK_TEXT.len() as u64 + 1).read_to_string(&mut text).ok()?;
    (text == LOCK_TEXT).then_some(file)
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
            let places = [Some(bins), otherwise.filter(|_| !name.starts_with("km"))];
            let found =
                places.into_iter().flatten().map(|folder| folder.join(name)).find(|path| path.is_file());
            match found {
                Some(path) => {
                    let link = folder.join(name);
                    std::os::unix::fs::symlink(&path, &link).map_err(|e| Failure::file("make", &link, &e))?;
                }
                None if !name.starts_with("km") => {}
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
