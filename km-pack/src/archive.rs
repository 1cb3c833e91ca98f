//! Writing the package file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use km_package::digest::{Digest, Hasher};
use km_package::failure::Failure;
use km_package::index;
use km_package::manifest::Manifest;

use crate::sign::Signed;

/// A package on disk.
#[derive(Debug)]
pub struct PackageFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub manifest: Manifest,
}

impl Signed {
    /// The package's file name: `km-plugin-<name>-<hash>.kmpkg`, with the first 12 hex digits of
    /// the manifest's digest.
    pub fn file_name(&self) -> String {
        index::file_name(&self.manifest.plugin.name, &Digest::of(&self.head.manifest))
    }

    /// Digest of the whole package. It takes longer than all the rest of making one.
    pub fn sha256(&self) -> Digest {
        let mut hasher = Hasher::default();
        self.pieces(|piece| hasher.update(piece));
        hasher.finish()
    }

    /// Writes the package into a folder, which is made when missing. The file appears whole or not
    /// at all; one that is there already has the same manifest, and is replaced. Once all are written,
    /// [`sync_folder`] makes their names survive a power cut.
    ///
    /// # Errors
    /// Trouble with the folder.
    pub fn write(self, folder: &Path) -> Result<PackageFile, Failure> {
        let path = folder.join(self.file_name());
        let mut pieces = Vec::new();
        let head = self.head.to_bytes();
        pieces.push(&head[..]);
        pieces.extend(self.frames.iter().map(|shared| &shared.bytes[..]));
        write_file(&path, &pieces)?;
        Ok(PackageFile { path, manifest: self.manifest })
    }

    fn pieces(&self, mut take: impl FnMut(&[u8])) {
        take(&self.head.to_bytes());
        self.frames.iter().for_each(|shared| take(&shared.bytes));
    }
}

/// Writes a file in pieces, with its folders; it appears whole or not at all.
pub(crate) fn write_file(path: &Path, pieces: &[&[u8]]) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".km-pack-").tempfile_in(folder)?;
        for piece in pieces {
            file.write_all(piece)?;
        }
        readable_by_all(file.as_file())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|e: std::io::Error| Failure::file("write", path, &e))
}

/// Makes the names of files that were written into a folder survive a power cut.
///
/// # Errors
/// Trouble with the folder.
pub fn sync_folder(folder: &Path) -> Result<(), Failure> {
    let sync = || std::fs::File::open(folder)?.sync_all();
    sync().map_err(|e| Failure::file("write", folder, &e))
}

/// Temporary files are made for their owner alone; packages are for everybody.
pub(crate) fn readable_by_all(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}
