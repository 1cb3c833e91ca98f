//! Where files live: the only module that knows.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};
use km_package::name::{CustomerId, PluginName};

use crate::environment::Environment;

/// The home of `km`: `KM_HOME`, else `~/.km`.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    root: PathBuf,
    /// The user's home.
    user: Option<PathBuf>,
    temporary: PathBuf,
}

/// Longest folder name in which a plugin can still make its socket (108 bytes for the whole path).
const LONGEST_SOCKET_ROOT: usize = 70;

impl Home {
    pub(crate) fn find(environment: &Environment) -> Result<Self, Failure> {
        let root = match (&environment.km_home, &environment.home) {
            (Some(km_home), _) => km_home.clone(),
            (None, Some(home)) => home.join(".km"),
            (None, None) => {
                return Err(Failure::new(Kind::Failed, "neither KM_HOME nor HOME is set")
                    .help("set KM_HOME to the folder where km keeps its files"));
            }
        };
        let root = std::path::absolute(&root).map_err(|e| Failure::file("find", &root, &e))?;
        Ok(Self { root, user: environment.home.clone(), temporary: environment.temporary.clone() })
    }

    /// Links to the executables, and plain binaries put there by hand.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// The entry of one plugin in [`Home::plugins`].
    pub(crate) fn plugin(&self, name: &PluginName) -> PathBuf {
        self.plugins().join(name.executable().as_str())
    }

    /// All versions of all installed plugins.
    pub(crate) fn store(&self) -> PathBuf {
        self.plugins().join("store")
    }

    /// All versions of one plugin.
    pub(crate) fn versions(&self, name: &PluginName) -> PathBuf {
        self.store().join(name.as_str())
    }

    /// Where packages are unpacked before they are believed; on the same filesystem as the store.
    pub(crate) fn staging(&self) -> PathBuf {
        self.plugins().join(".staging")
    }

    /// The last indexes that were believed, one for each customer.
    pub(crate) fn indexes(&self) -> PathBuf {
        self.plugins().join("index")
    }

    /// The last index of one customer that was believed.
    pub(crate) fn last_index(&self, customer: &CustomerId) -> PathBuf {
        self.indexes().join(customer.as_str())
    }

    /// Pieces of packages that are being downloaded.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.cache().join("downloads")
    }

    /// `KM_HOME`, or `~/.km`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.root.join("config").join("config.toml")
    }

    /// Encrypted tokens.
    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The configuration of the older product, which is read and never written.
    pub(crate) fn older_config_file(&self) -> Option<PathBuf> {
        Some(self.user.as_ref()?.join(".config").join("kilometers").join("config.json"))
    }

    /// Release keys that were added.
    pub(crate) fn trust(&self) -> PathBuf {
        self.root.join("trust")
    }

    /// Digests of single binaries that were allowed.
    pub(crate) fn allowed_file(&self) -> PathBuf {
        self.trust().join("allowed.toml")
    }

    /// Messages that wait on disk.
    pub(crate) fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Control sockets of live sessions.
    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Where plugins get the folders for their sockets: `run`, unless its path is too long for one.
    pub(crate) fn socket_root(&self) -> io::Result<PathBuf> {
        let run = self.run();
        if run.as_os_str().len() <= LONGEST_SOCKET_ROOT {
            create_private(&run)?;
            return Ok(run);
        }
        Ok(self.temporary.clone())
    }
}

/// A file that may not grow any more (`ulimit -f`) is an error of the write, not the end of this process.
pub(crate) fn survive_size_limits() {
    // SAFETY: sets the disposition of one signal to "ignore", which runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Makes a folder that only its owner can enter, with all above it.
pub(crate) fn create_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Replaces a file: it appears whole, or the old one stays. The folder must exist, and be locked
/// where others may do the same: what a crash leaves is overwritten by the next attempt.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary(path);
    remove_if_present(&temporary)?;
    let replaced = write_new(&temporary, bytes, mode).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(e) = replaced {
        let _ = std::fs::remove_file(&temporary);
        return Err(e);
    }
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Where the successor of a file lies until it is complete: `.<name>.new`, beside it.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{}.new", name.trim_start_matches('.')))
}

/// Writes a file that must not be there yet, down to the disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a file that must not be there yet, to be written and read piece by piece.
pub(crate) fn create_new_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a file that is there to be locked.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    regular(options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?)
}

/// Opens one of `km`'s own files of any length to be read.
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?)
}

/// A FIFO in the place of a file must not stop anything.
fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Removes a file. False if there was none.
pub(crate) fn remove_if_present(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Most bytes of a file that `km` keeps for itself.
const MAX_OWN_FILE: u64 = 1 << 20;

/// Reads one of `km`'s own files, which are small and regular: a FIFO in the place of one must not
/// stop anything.
pub(crate) fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    read_own_up_to(path, MAX_OWN_FILE)
}

/// [`read_own`], of at most so many bytes.
pub(crate) fn read_own_up_to(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    read_bounded(file, most)
}

/// [`read_own`], as text.
pub(crate) fn read_own_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_own(path)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Reads at most so many bytes; more is an error.
pub(crate) fn read_bounded(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// Makes renames in a folder survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
