//! The file that a piece is downloaded into: `cache/downloads/<sha256>`, with `.part` behind its name
//! until it is complete and its digest is right.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use km_package::digest::{Digest, Hasher};

/// What there is of a piece. Nothing of it is believed before [`PartFile::complete`].
#[derive(Debug)]
pub(super) struct PartFile {
    sha256: Digest,
    size: u64,
    part: PathBuf,
    whole: PathBuf,
    file: File,
    hasher: Hasher,
    /// Bytes in the file.
    length: u64,
    /// How many of them were there before the present place was asked.
    inherited: u64,
}

/// What the bytes in the file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The piece.
    Complete,
    /// Something else, sent by this place alone.
    Wrong,
    /// Something else, but some of it was there before.
    WrongTogether,
}

/// Where a piece lies that is complete.
pub(super) fn path(folder: &Path, sha256: Digest) -> PathBuf {
    folder.join(sha256.to_string())
}

impl PartFile {
    /// Opens what an earlier run left, or nothing yet. A piece that lies there as a whole is looked at again.
    pub(super) fn open(folder: &Path, sha256: Digest, size: u64) -> io::Result<Self> {
        let whole = path(folder, sha256);
        let part = whole.with_extension("part");
        if let Err(e) = std::fs::rename(&whole, &part)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e);
        }
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = open.open(&part)?;
        let mut this =
            Self { sha256, size, part, whole, file, hasher: Hasher::default(), length: 0, inherited: 0 };
        this.take_stock()?;
        Ok(this)
    }

    /// Digests what is there already.
    fn take_stock(&mut self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if metadata.len() > self.size {
            return self.reset().map(drop);
        }
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.file.read(&mut buffer)? {
                0 => break,
                n => {
                    self.hasher.update(&buffer[..n]);
                    self.length += n as u64;
                }
            }
        }
        self.inherited = self.length;
        Ok(())
    }

    /// Bytes that are there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that are missing.
    pub(super) fn missing(&self) -> u64 {
        self.size - self.length
    }

    /// From now on another place is asked.
    pub(super) fn change_place(&mut self) {
        self.inherited = self.length;
    }

    /// Adds bytes, and never more than are missing. Returns how many were taken.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(usize::try_from(self.missing()).unwrap_or(usize::MAX));
        self.file.write_all(&bytes[..taken])?;
        self.hasher.update(&bytes[..taken]);
        self.length += taken as u64;
        Ok(taken)
    }

    /// Judges the bytes once none is missing. Those that are wrong stay until [`PartFile::reset`].
    pub(super) fn complete(&mut self) -> io::Result<Verdict> {
        if self.hasher.clone().finish() == self.sha256 {
            std::fs::rename(&self.part, &self.whole)?;
            return Ok(Verdict::Complete);
        }
        Ok(if self.inherited > 0 { Verdict::WrongTogether } else { Verdict::Wrong })
    }

    /// Leaves no file where nothing has come.
    pub(super) fn close(self) -> io::Result<()> {
        if self.length == 0 { std::fs::remove_file(&self.part) } else { Ok(()) }
    }

    /// Begins again with nothing. Returns how many bytes are gone.
    pub(super) fn reset(&mut self) -> io::Result<u64> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hasher = Hasher::default();
        self.inherited = 0;
        Ok(std::mem::take(&mut self.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_continued_and_a_whole_piece_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"0123456789");
        let open = || PartFile::open(folder.path(), digest, 10).unwrap();
        let mut part = open();
        assert_eq!(part.write(b"0123").unwrap(), 4);
        drop(part);
        let mut part = open();
        assert_eq!((part.length(), part.missing()), (4, 6));
        assert_eq!(part.write(b"456789 and more").unwrap(), 6);
        assert_eq!(part.complete().unwrap(), Verdict::Complete);
        assert_eq!(std::fs::read(path(folder.path(), digest)).unwrap(), b"0123456789");
        let mut again = open();
        assert_eq!((again.missing(), again.complete().unwrap()), (0, Verdict::Complete));
        std::fs::write(path(folder.path(), digest), "0123456780").unwrap();
        assert_eq!(open().complete().unwrap(), Verdict::WrongTogether);
        std::fs::write(path(folder.path(), digest), "0123456789 and more").unwrap();
        assert_eq!(open().missing(), 10);
    }

    #[test]
    fn who_sent_wrong_bytes_is_known_only_where_nobody_else_did() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = PartFile::open(folder.path(), Digest::of(b"abcd"), 4).unwrap();
        part.write(b"ax").unwrap();
        part.change_place();
        part.write(b"cd").unwrap();
        assert_eq!(part.complete().unwrap(), Verdict::WrongTogether);
        assert_eq!(part.reset().unwrap(), 4);
        part.write(b"abcx").unwrap();
        assert_eq!(part.complete().unwrap(), Verdict::Wrong);
        part.reset().unwrap();
        part.write(b"abcd").unwrap();
        assert_eq!(part.complete().unwrap(), Verdict::Complete);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"x");
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "untouched").unwrap();
        std::os::unix::fs::symlink(&elsewhere, path(folder.path(), digest).with_extension("part")).unwrap();
        assert!(PartFile::open(folder.path(), digest, 1).is_err());
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"untouched");
    }
}
