//! A project comes into its place as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use km_package::failure::{Failure, Kind};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::Files;
use super::place::Place;

/// Makes the folder of a project.
///
/// # Errors
/// When something is in its place, or it cannot be written; then all is as it was.
pub fn create(place: &Place, files: &Files) -> Result<(), Failure> {
    let folder = place.folder();
    if fs::symlink_metadata(folder).is_ok() {
        return Err(taken(folder));
    }
    let failed = |e: io::Error| Failure::file("write", folder, &e);
    let aside = tempfile::Builder::new().prefix(".km-pack-new-").tempdir_in(place.aside()).map_err(failed)?;
    let staged = aside.path().join("project");
    stage(&staged, files).map_err(failed)?;
    match renameat_with(CWD, &staged, CWD, folder, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Err(taken(folder)),
        // Not every file system can. Then nothing but an empty folder can be in the way.
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(&staged, folder).map_err(failed),
        other => other.map_err(|e| failed(e.into())),
    }
}

/// Puts other files into the place of a folder.
///
/// # Errors
/// When they cannot be written; then all is as it was.
pub(super) fn replace(folder: &Path, files: &Files) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::file("write", folder, &e);
    let parent = folder.parent().unwrap_or(Path::new("."));
    let aside = tempfile::Builder::new().prefix(".km-pack-new-").tempdir_in(parent).map_err(failed)?;
    let staged = aside.path().join("sdk");
    stage(&staged, files).map_err(failed)?;
    match renameat_with(CWD, &staged, CWD, folder, RenameFlags::EXCHANGE) {
        // Not every file system can.
        Err(Errno::INVAL | Errno::NOSYS) => {
            let before = aside.path().join("before");
            fs::rename(folder, &before).map_err(failed)?;
            fs::rename(&staged, folder).or_else(|e| fs::rename(&before, folder).and(Err(e))).map_err(failed)
        }
        other => other.map_err(|e| failed(e.into())),
    }
}

fn taken(folder: &Path) -> Failure {
    Failure::new(Kind::Conflict, format_args!("{} is there already", folder.display()))
        .help("take another name, or another place with --path")
}

/// Writes files into a new folder, for good.
fn stage(folder: &Path, files: &Files) -> io::Result<()> {
    fs::create_dir(folder)?;
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}
