//! Where a package is unpacked before it is believed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use km_package::envelope::Head;
use km_package::manifest::FileEntry;
use km_package::verify::Sink;

use super::lock::NewFolders;
use super::receipt::{MANIFEST, SIGNATURES};
use crate::paths::{self, Home};

/// What folders in staging are called; nothing else is ever swept.
const PREFIX: &str = "unpacking-";

/// A folder that fills while a package is verified, and is gone unless it is renamed into place.
/// Nothing is made before the first file comes: a package whose head is refused leaves no trace.
#[derive(Debug)]
pub(crate) struct Staging {
    root: PathBuf,
    folder: Option<Folder>,
    file: Option<File>,
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
            None => Folder::make(&self.root)?,
        };
        Ok(self.folder.insert(folder))
    }

    /// Adds the package's documents and renames the folder to its place, whose parent exists.
    pub(super) fn move_to(mut self, head: &Head, place: &Path) -> io::Result<()> {
        let staged = self.folder()?.temporary.path().to_path_buf();
        write_new(&staged.join(MANIFEST), &head.manifest)?;
        write_new(&staged.join(SIGNATURES), &head.signatures)?;
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o755))?;
        paths::sync_folder(&staged)?;
        std::fs::rename(&staged, place)?;
        if let Some(Folder { temporary, .. }) = self.folder.take() {
            // It is not there any more.
            let _ = temporary.keep();
        }
        // Fails while somebody else uses it.
        let _ = std::fs::remove_dir(&self.root);
        if let Some(parent) = place.parent() {
            paths::sync_folder(parent)?;
        }
        Ok(())
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
        self.file = Some(OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Err(io::Error::other("no file was begun")),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.file.take().map_or(Ok(()), |file| file.sync_all())
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
