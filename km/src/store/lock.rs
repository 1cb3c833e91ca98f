//! Locks on open folders, so that no lock file is left behind.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use km_package::failure::{Failure, Kind};

use super::staging::refuse_link;
use crate::paths;

/// How long another process may hold a lock before this one gives up.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Folders that this process made. Those that are still empty are removed again.
#[derive(Debug, Default)]
pub(super) struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Makes a folder with all above it, remembering which were missing.
    pub(super) fn create(&mut self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.create(parent)?;
        }
        match std::fs::create_dir(folder) {
            Ok(()) => {
                self.0.push(folder.to_path_buf());
                // What will lie in it must be found after a power cut, too.
                paths::sync_folder(folder.parent().unwrap_or(folder))?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // One that is in use by now is not empty, and stays.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// A locked folder. When dropped it is removed if it was made for this lock and is empty, and then
/// unlocked: whoever waits for it sees that it is gone.
#[derive(Debug)]
pub(crate) struct FolderLock {
    // Dropped in this order.
    _new: NewFolders,
    _file: File,
}

impl FolderLock {
    /// Makes the folder if need be and locks it.
    pub(crate) fn take(folder: &Path) -> Result<Self, Failure> {
        let mut new = NewFolders::default();
        let deadline = Instant::now() + PATIENCE;
        let failure = loop {
            match try_take(folder, &mut new) {
                Ok(Some(file)) => return Ok(Self { _new: new, _file: file }),
                Ok(None) => {}
                Err(e) => break super::trouble("lock", folder, &e),
            }
            if Instant::now() >= deadline {
                let message =
                    format!("another process has held the lock on {} for {PATIENCE:?}", folder.display());
                break Failure::new(Kind::Conflict, message).help("wait for it to end, then try again");
            }
            std::thread::sleep(PAUSE);
        };
        // Without the lock it may be somebody else's by now, and with it those above.
        new.0.retain(|made| made != folder);
        Err(failure)
    }
}

/// None while somebody else holds it, or when the folder was removed in between.
fn try_take(folder: &Path, new: &mut NewFolders) -> io::Result<Option<File>> {
    let gone = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(e),
    };
    if let Err(e) = new.create(folder) {
        return gone(e);
    }
    let opened = refuse_link(folder).and_then(|()| File::open(folder));
    let file = match opened {
        Ok(file) => file,
        Err(e) => return gone(e),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    // The folder at this path may be another one by now.
    let same = std::fs::metadata(folder).and_then(|now| {
        let locked = file.metadata()?;
        Ok((now.dev(), now.ino()) == (locked.dev(), locked.ino()))
    });
    Ok(same.unwrap_or(false).then_some(file))
}
