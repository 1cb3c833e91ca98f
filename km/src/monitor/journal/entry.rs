//! A message as a reader gets it: in memory, or where it is on disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use km_package::digest::{Digest, Hasher};

use super::super::message::Message;

/// Most bytes of a message that are moved at once.
pub(crate) const PIECE: usize = 1 << 20;

/// A message; a large one may still be on disk.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// With its data, unless that is stored.
    pub(crate) message: Arc<Message>,
    pub(super) stored: Option<Stored>,
}

/// Data that is on disk.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Entry {
    pub(super) fn in_memory(message: Arc<Message>) -> Self {
        Self { message, stored: None }
    }

    /// How much data there is to hand over, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.stored.as_ref().map_or(self.message.data.len() as u64, |stored| stored.length)
    }

    /// Its true length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.message.cut.map_or(self.length(), |cut| cut.size)
    }

    /// The data from an offset on: all that is left, or a piece.
    ///
    /// # Errors
    /// When it cannot be read back.
    pub(crate) fn piece(&self, offset: u64) -> io::Result<Bytes> {
        let most = (self.length() - offset).min(PIECE as u64) as usize;
        let Some(stored) = &self.stored else {
            let offset = offset as usize;
            return Ok(self.message.data.slice(offset..offset + most));
        };
        let mut bytes = vec![0; most];
        stored.file.read_exact_at(&mut bytes, stored.offset + offset)?;
        Ok(bytes.into())
    }

    /// The digest of the whole message.
    ///
    /// # Errors
    /// When it cannot be read back.
    pub(crate) fn sha256(&self) -> io::Result<Digest> {
        if let Some(cut) = self.message.cut {
            return Ok(cut.sha256);
        }
        let mut hasher = Hasher::default();
        let mut offset = 0;
        while offset < self.length() {
            let piece = self.piece(offset)?;
            hasher.update(&piece);
            offset += piece.len() as u64;
        }
        Ok(hasher.finish())
    }
}
