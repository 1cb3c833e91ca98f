//! The archive in a package: a small, strict part of ustar, in zstd frames.
//!
//! Flat names, regular files, one way to write each number. Common readers accept far more than
//! is safe, so the reader here is our own; the writer is crate `tar`.

mod frames;
mod reader;
mod writer;

pub use frames::{FrameError, FrameReader, WINDOW_LOG_MAX, compress};
pub use reader::{ArchiveError, Entry, Event, StrictReader};
pub use writer::{ArchiveFile, write};

use crate::manifest::FileEntry;

/// Everything in a tar comes in blocks of this many bytes.
pub const BLOCK: usize = 512;

/// The bytes that a tar of these files takes: header and padded content of each, and two blocks
/// at the end. `None` where that overflows.
pub fn tar_size(files: &[FileEntry]) -> Option<u64> {
    files.iter().try_fold(2 * BLOCK as u64, |sum, file| {
        let content = file.size.checked_next_multiple_of(BLOCK as u64)?;
        sum.checked_add(BLOCK as u64)?.checked_add(content)
    })
}
