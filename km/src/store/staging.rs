//! Where a package is unpacked before it is believed.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use km_package::envelope::Head;
use km_package::manifest::FileEntry;
use km_package::verify::Sink;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::lock::NewFolders;
use super::receipt::{MANIFEST, Receipt, SIGNATURES};
use crate::paths::{self, Home};

/// What folders in staging are called; nothing else is ever swept.
const PREFIX: &str = "unpacking-";

/// A folder that fills while a package is verified, and is gone unless it is renamed into place.
/// Nothing is made before the first file comes: a package whose head is refused leaves no trace.
#[derive(Debug)]
pub(crate) struct Staging {
    root: PathBuf,
    folder: Option<Folder>,
    /// The file that is being written, and its path.
    file: Option<(File, PathBuf)>,
}

#[derive(Debug)]
struct Folder {
    temporary: tempfile::TempDir,
    /// Those above it that were made for it.
    new: NewFolders,
    /// Locked for as long as this process lives: what can be locked is garbage.
    _lock: File,
}

impl Folder {
    /// Makes one. Other processes may be sweeping: what they take away is made again.
    fn make(root: &Path) -> io::Result<Self> {
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            match Self::try_make(root) {
                Ok(Some(folder)) => return Ok(folder),
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::other("other processes keep removing the staging folder"))
    }

    /// None if it was swept before it was locked.
    fn try_make(root: &Path) -> io::Result<Option<Self>> {
        let mut new = NewFolders::default();
        new.create(root)?;
        refuse_link(root)?;
        let temporary = tempfile::Builder::new().prefix(PREFIX).tempdir_in(root)?;
        let lock = File::open(temporary.path())?;
        lock.lock()?;
        Ok(temporary.path().is_dir().then_some(Self { temporary, new, _lock: lock }))
    }
}

impl Staging {
    pub(crate) fn new(home: &Home) -> Self {
        Self { root: home.staging(), folder: None, file: None }
    }

    fn folder(&mut self) -> io::Result<&Folder> {
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => Folder::make(&self.root).map_err(|e| naming(&self.root, &e))?,
        };
        Ok(self.folder.insert(folder))
    }

    /// Adds the package's documents and, last, its receipt: a whole version, down to the disk.
    pub(super) fn complete(&mut self, head: &Head, receipt: &Receipt) -> io::Result<()> {
        let staged = self.folder()?.temporary.path();
        paths::write_new(&staged.join(MANIFEST), &head.manifest, 0o644)?;
        paths::write_new(&staged.join(SIGNATURES), &head.signatures, 0o644)?;
        receipt.write(staged)?;
        std::fs::set_permissions(staged, Permissions::from_mode(0o755))?;
        paths::sync_folder(staged)
    }

    /// Renames it to its place, whose parent exists. What lies there already is exchanged for it, so
    /// that there is one or the other at any time.
    pub(super) fn put(&mut self, place: &Path) -> io::Result<Placed<'_>> {
        let staged = self.folder()?.temporary.path();
        let undo = match std::fs::symlink_metadata(place) {
            Ok(_) => exchange(staged, place)?,
            Err(_) => std::fs::rename(staged, place).map(|()| Undo::Rename)?,
        };
        // From here on it goes back unless it is kept.
        let placed = Placed { place: place.to_path_buf(), staged, undo };
        paths::sync_folder(place.parent().unwrap_or(place))?;
        Ok(placed)
    }

    /// Removes what crashed installations left.
    pub(super) fn sweep(home: &Home) {
        let root = home.staging();
        if refuse_link(&root).is_err() {
            return;
        }
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            let path = entry.path();
            let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
                && entry.file_type().is_ok_and(|kind| kind.is_dir());
            // Held until it is gone: whoever is just making it waits, and makes another.
            if ours
                && let Ok(folder) = File::open(&path)
                && folder.try_lock().is_ok()
            {
                let _ = std::fs::remove_dir_all(&path);
            }
        }
        // Fails while somebody uses it.
        let _ = std::fs::remove_dir(root);
    }
}

/// A version in its place. Dropped, it goes back to staging, and what lay there before is there again.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    place: PathBuf,
    staged: &'a Path,
    undo: Undo,
}

/// How a version is taken out of its place.
#[derive(Debug, Clone, Copy)]
enum Undo {
    Rename,
    Exchange,
    /// It stays: what was there before is lost.
    Nothing,
}

impl Placed<'_> {
    /// It stays.
    pub(super) fn keep(mut self) {
        self.undo = Undo::Nothing;
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        let _ = match self.undo {
            Undo::Rename => std::fs::rename(&self.place, self.staged),
            Undo::Exchange => exchange(self.staged, &self.place).map(drop),
            Undo::Nothing => Ok(()),
        };
    }
}

/// Exchanges what is in staging for what lies in a place.
fn exchange(staged: &Path, place: &Path) -> io::Result<Undo> {
    match renameat_with(CWD, staged, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Undo::Exchange),
        // NFS cannot, nor can an overlay with what is in a lower layer. There a crash in between leaves
        // neither; the next installation puts the version there.
        Err(Errno::INVAL | Errno::NOSYS | Errno::XDEV) => {
            Receipt::remove_with_version(place)?;
            std::fs::rename(staged, place).map(|()| Undo::Nothing)
        }
        Err(e) => Err(e.into()),
    }
}

/// A link in the place of one of our folders leads to files that are not ours.
pub(super) fn refuse_link(folder: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(folder)?.is_dir() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotADirectory, "it is a link or a file, not a folder"))
}

impl Drop for Staging {
    fn drop(&mut self) {
        let Some(Folder { temporary, new, _lock }) = self.folder.take() else { return };
        let _ = temporary.close();
        // Fails while somebody else uses it.
        let _ = std::fs::remove_dir(&self.root);
        drop(new);
    }
}

impl Sink for Staging {
    fn begin(&mut self, file: &FileEntry) -> io::Result<()> {
        let path = self.folder()?.temporary.path().join(file.path.as_str());
        let mode = if file.executable { 0o755 } else { 0o644 };
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        self.file = Some((opened.map_err(|e| naming(&path, &e))?, path));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some((file, path)) => file.write_all(bytes).map_err(|e| naming(path, &e)),
            None => Err(io::Error::other("no file was begun")),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self.file.take() {
            Some((file, path)) => file.sync_all().map_err(|e| naming(&path, &e)),
            None => Ok(()),
        }
    }
}

/// The same error, saying where.
fn naming(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}
