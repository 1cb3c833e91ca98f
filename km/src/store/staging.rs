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
    // Dropped in this order: the folder itself, then those above it that were made for it.
    temporary: tempfile::TempDir,
    _new: NewFolders,
    /// Locked for as long as this process lives: what can be locked is garbage.
    _lock: File,
}

impl Staging {
    pub(crate) fn new(home: &Home) -> Self {
        Self { root: home.staging(), folder: None, file: None }
    }

    fn folder(&mut self) -> io::Result<&Folder> {
        if self.folder.is_none() {
            let mut new = NewFolders::default();
            new.create(&self.root)?;
            let temporary = tempfile::Builder::new().prefix("").tempdir_in(&self.root)?;
            let lock = File::open(temporary.path())?;
            lock.lock()?;
            self.folder = Some(Folder { temporary, _new: new, _lock: lock });
        }
        self.folder.as_ref().ok_or_else(|| io::Error::other("no staging folder"))
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
        if let Some(folder) = self.folder.take() {
            // It is not there any more.
            let _ = folder.temporary.keep();
        }
        if let Some(parent) = place.parent() {
            paths::sync_folder(parent)?;
        }
        Ok(())
    }

    /// Removes what crashed installations left.
    pub(super) fn sweep(home: &Home) {
        for entry in std::fs::read_dir(home.staging()).into_iter().flatten().flatten() {
            let path = entry.path();
            if File::open(&path).is_ok_and(|folder| folder.try_lock().is_ok()) {
                let _ = std::fs::remove_dir_all(path);
            }
        }
        // Fails while somebody uses it.
        let _ = std::fs::remove_dir(home.staging());
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
