//! Pieces that are too many for memory: as they came, in a file without a name.
//!
//! Taking pieces away is much less work than making messages of them. So a flood is taken away first,
//! and looked at later.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::super::allowance::Allowance;
use super::{Moment, Piece, PieceContent};
use crate::paths;

/// Most pieces; what is known of each stays in memory.
const MOST: usize = 1 << 18;
/// How much is read before it is given back.
const GIVE_BACK: u64 = 16 << 20;

/// A queue of pieces on disk.
#[derive(Debug)]
pub(in super::super) struct Overflow {
    folder: PathBuf,
    allowance: Arc<Allowance>,
    file: Option<File>,
    pieces: VecDeque<Kept>,
    read: u64,
    written: u64,
    given_back: u64,
}

/// A piece: its bytes are on disk, one piece's after the other's.
#[derive(Debug)]
struct Kept {
    piece: Piece,
    on_disk: usize,
}

impl Overflow {
    /// In this folder, which is made when it is needed.
    pub(in super::super) fn new(folder: PathBuf, allowance: Arc<Allowance>) -> Self {
        let pieces = VecDeque::new();
        Self { folder, allowance, file: None, pieces, read: 0, written: 0, given_back: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds a piece at the end. Bytes that the disk does not take are left out, and counted.
    pub(super) fn push(&mut self, mut piece: Piece) {
        let mut on_disk = 0;
        if let PieceContent::Bytes(bytes) = &piece.content {
            let length = bytes.len();
            if self.pieces.len() < MOST && self.allowance.take(length as u64) {
                match self.write(bytes) {
                    Ok(()) => {
                        on_disk = length;
                        piece.content = PieceContent::Bytes(bytes::Bytes::new());
                    }
                    Err(e) => {
                        tracing::debug!("a flood cannot wait in {}: {e}", self.folder.display());
                        self.allowance.give_back(length as u64);
                        piece.content = piece.framing.gap(bytes);
                    }
                }
            } else {
                piece.content = piece.framing.gap(bytes);
            }
        }
        // Of what is left out it is enough to know how much.
        if let (PieceContent::Gap { lines, ends_line }, Some(last)) = (&piece.content, self.pieces.back_mut())
            && last.piece.stream == piece.stream
            && let PieceContent::Gap { lines: before, ends_line: ended } = &mut last.piece.content
        {
            *before = before.saturating_add(*lines);
            *ended = *ends_line;
            return;
        }
        self.pieces.push_back(Kept { piece, on_disk });
    }

    /// Takes the piece at the front.
    pub(super) fn pop(&mut self) -> Option<Piece> {
        let Kept { mut piece, on_disk } = self.pieces.pop_front()?;
        if on_disk > 0 {
            piece.content = match self.read(on_disk) {
                Ok(bytes) => PieceContent::Bytes(bytes.into()),
                Err(e) => {
                    tracing::warn!("what passed in a flood cannot be read back: {e}");
                    PieceContent::Gap { lines: 1, ends_line: false }
                }
            };
            self.read += on_disk as u64;
            self.allowance.give_back(on_disk as u64);
            self.give_back();
        }
        Some(piece)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                paths::create_private(&self.folder)?;
                self.file.insert(tempfile::tempfile_in(&self.folder)?)
            }
        };
        file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn read(&self, length: usize) -> io::Result<Vec<u8>> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, self.read)?;
        Ok(bytes)
    }

    /// Gives space back to the filesystem.
    fn give_back(&mut self) {
        let Some(file) = &self.file else { return };
        if self.read == self.written {
            // Fails only where the next write will say so.
            let _ = file.set_len(0);
            (self.read, self.written, self.given_back) = (0, 0, 0);
        } else if self.read - self.given_back >= GIVE_BACK {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Not every filesystem can: then the space comes back when all was read.
            let _ = rustix::fs::fallocate(file, flags, self.given_back, self.read - self.given_back);
            self.given_back = self.read;
        }
    }
}

impl Piece {
    /// One that says nothing but that the session has ended.
    pub(super) fn finish() -> Self {
        Self {
            stream: 0,
            framing: super::Framing::Lines,
            received: Moment::now(),
            content: PieceContent::Finish,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Framing;
    use super::*;

    fn piece(stream: u64, content: PieceContent) -> Piece {
        Piece { stream, framing: Framing::Lines, received: Moment::now(), content }
    }

    fn bytes(stream: u64, length: usize) -> Piece {
        piece(stream, PieceContent::Bytes(vec![stream as u8; length].into()))
    }

    #[test]
    fn pieces_come_back_in_order_and_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let allowance = Arc::new(Allowance::new(100 << 20));
        let mut overflow = Overflow::new(folder.path().join("spool"), Arc::clone(&allowance));
        for round in 0..3 {
            (0..40).for_each(|n| overflow.push(bytes(n, n as usize * 30_000 + round)));
            overflow.push(piece(7, PieceContent::End));
            for n in 0..40 {
                let expected = vec![n as u8; n as usize * 30_000 + round];
                let found = overflow.pop().unwrap();
                assert!(
                    found.stream == n && matches!(found.content, PieceContent::Bytes(b) if b == expected)
                );
            }
            assert!(matches!(overflow.pop().unwrap().content, PieceContent::End));
            assert!(overflow.pop().is_none());
        }
        assert!(allowance.take(100 << 20));
        assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0);
    }

    #[test]
    fn what_the_disk_does_not_take_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut overflow = Overflow::new(folder.path().to_owned(), Arc::new(Allowance::new(10)));
        overflow.push(bytes(1, 8));
        for text in ["a\nb\n", "c\nd"] {
            overflow.push(piece(1, PieceContent::Bytes(text.into())));
        }
        assert!(matches!(overflow.pop().unwrap().content, PieceContent::Bytes(bytes) if bytes.len() == 8));
        let gap = overflow.pop().unwrap().content;
        assert!(matches!(gap, PieceContent::Gap { lines: 3, ends_line: false }), "{gap:?}");
        assert!(overflow.is_empty());
    }
}
