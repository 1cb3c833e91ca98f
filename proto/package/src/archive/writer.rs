//! The deterministic writer.

use std::io;

use crate::manifest::Time;
use crate::name::FileName;

/// A file to be archived.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveFile<'a> {
    /// Its flat name.
    pub path: &'a FileName,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Mode 0755 instead of 0644.
    pub executable: bool,
}

/// The tar of these files, which must be in ascending order of their names. The same files and
/// time give the same bytes everywhere.
///
/// # Errors
/// None that a name of type [`FileName`] can cause; the signature is that of crate `tar`.
pub fn write(files: &[ArchiveFile<'_>], created: Time) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_ustar();
        header.set_path(file.path.as_str())?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(if file.executable { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(file.bytes.len() as u64);
        header.set_mtime(created.unix());
        header.set_device_major(0)?;
        header.set_device_minor(0)?;
        header.set_cksum();
        builder.append(&header, file.bytes)?;
    }
    builder.into_inner()
}
