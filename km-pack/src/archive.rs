//! Writing the package file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use km_package::digest::{Digest, Hasher};
use km_package::failure::Failure;
use km_package::index;
use km_package::manifest::Manifest;
use km_package::verify::Verified;

use tempfile::TempPath;

use crate::release::SharedFrame;
use crate::sign::Signed;

/// A package on disk.
#[derive(Debug)]
pub struct PackageFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub manifest: Manifest,
}

/// A package that was written under another name; removed again unless [`finish`] gives it its own.
#[derive(Debug)]
pub struct Written {
    temporary: TempPath,
    file: PackageFile,
}

/// Above so many files one flush of the whole filesystem is cheaper than one for each.
const FEW: usize = 8;

impl Signed {
    /// The package's file name: `km-plugin-<name>-<hash>.kmpkg`, with the first 12 hex digits of
    /// the manifest's digest.
    pub fn file_name(&self) -> String {
        index::file_name(&self.manifest.plugin.name, &Digest::of(&self.head.manifest))
    }

    /// A package again that was verified, from its bytes.
    pub fn of<C>(package: &Verified<C>, bytes: &Bytes) -> Self {
        let (manifest, head) = (package.manifest().clone(), package.head().clone());
        let mut at = head.to_bytes().len();
        let frames = manifest.payload.frames.iter().map(|frame| {
            let end = at + frame.size as usize;
            let shared = SharedFrame { bytes: bytes.slice(at..end), frame: *frame };
            at = end;
            shared
        });
        let frames = frames.collect();
        Self { manifest, head, frames }
    }

    /// The whole package.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.pieces(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// Digest of the whole package. It takes longer than all the rest of making one.
    pub fn sha256(&self) -> Digest {
        let mut hasher = Hasher::default();
        self.pieces(|piece| hasher.update(piece));
        hasher.finish()
    }

    /// Writes the package into a folder, which is made when missing, under a temporary name.
    ///
    /// # Errors
    /// Trouble with the folder.
    pub fn write(self, folder: &Path) -> Result<Written, Failure> {
        let path = folder.join(self.file_name());
        let write = || {
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::Builder::new().prefix(".km-pack-").tempfile_in(folder)?;
            file.write_all(&self.head.to_bytes())?;
            self.frames.iter().try_for_each(|shared| file.write_all(&shared.bytes))?;
            readable_by_all(file.as_file())?;
            Ok(file.into_temp_path())
        };
        let temporary = write().map_err(|e: std::io::Error| Failure::file("write", &path, &e))?;
        Ok(Written { temporary, file: PackageFile { path, manifest: self.manifest } })
    }

    fn pieces(&self, mut take: impl FnMut(&[u8])) {
        take(&self.head.to_bytes());
        self.frames.iter().for_each(|shared| take(&shared.bytes));
    }
}

/// Gives packages that were written into a folder their names, once their bytes are on the disk: each
/// appears whole or not at all. One that is there already has the same manifest, and is replaced.
///
/// # Errors
/// Trouble with the folder.
pub fn finish(written: Vec<Written>, folder: &Path) -> Result<Vec<PackageFile>, Failure> {
    let failed = |e: std::io::Error| Failure::file("write into", folder, &e);
    let open = std::fs::File::open(folder).map_err(failed)?;
    if written.len() > FEW {
        rustix::fs::syncfs(&open).map_err(|e| failed(e.into()))?;
    } else {
        let sync = |written: &Written| std::fs::File::open(&written.temporary)?.sync_all();
        written.iter().try_for_each(sync).map_err(failed)?;
    }
    let name = |Written { temporary, file }: Written| {
        temporary.persist(&file.path).map_err(|e| Failure::file("write", &file.path, &e.error))?;
        Ok(file)
    };
    let files = written.into_iter().map(name).collect::<Result<_, Failure>>()?;
    open.sync_all().map_err(failed)?;
    Ok(files)
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
