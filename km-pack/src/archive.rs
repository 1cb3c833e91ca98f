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
    /// Digest of the file.
    pub sha256: Digest,
    /// What it says.
    pub manifest: Manifest,
}

impl Signed {
    /// The package's file name: `km-plugin-<name>-<hash>.kmpkg`, with the first 12 hex digits of
    /// the manifest's digest.
    pub fn file_name(&self) -> String {
        index::file_name(&self.manifest.plugin.name, &Digest::of(&self.head.manifest))
    }

    /// Writes the package into a folder, which is made when missing. The file appears whole or not
    /// at all; one that is there already has the same manifest, and is replaced.
    ///
    /// # Errors
    /// Trouble with the folder.
    pub fn write(self, folder: &Path) -> Result<PackageFile, Failure> {
        let path = folder.join(self.file_name());
        let head = self.head.to_bytes();
        let frames = self.frames.iter().map(|shared| &shared.bytes[..]);
        let pieces: Vec<&[u8]> = std::iter::once(&head[..]).chain(frames).collect();
        let sha256 = write_file(&path, &pieces)?;
        Ok(PackageFile { path, sha256, manifest: self.manifest })
    }
}

/// Writes a file in pieces, with its folders; it appears whole or not at all. Gives its digest.
pub(crate) fn write_file(path: &Path, pieces: &[&[u8]]) -> Result<Digest, Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut hasher = Hasher::default();
    let mut write = || {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".km-pack-").tempfile_in(folder)?;
        for piece in pieces {
            hasher.update(piece);
            file.write_all(piece)?;
        }
        readable_by_all(file.as_file())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(|e| Failure::file("write", path, &e))?;
    Ok(hasher.finish())
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
