//! A release: a compiled plugin with its keys filled in, archived and compressed once for all customers.
//!
//! The tar is cut at the identity slot. What lies before and after it is compressed once and shared; of
//! the digests over the whole, the state at the slot is kept, so that a customer costs the bytes from
//! the slot on.

mod restored;

use std::sync::Arc;

use bytes::Bytes;
use km_package::archive::{self, ArchiveFile, BLOCK};
use km_package::digest::{Digest, Hasher};
use km_package::failure::{Failure, Kind};
use km_package::identity::{IdentityError, SLOT_LEN, keys_section};
use km_package::manifest::{Frame, Slot, Target, Time};

use crate::compile::Compiled;
use crate::sign::SigningKey;
use crate::source::About;
pub use restored::InMemory;

/// Everything that the packages of all customers have in common.
#[derive(Debug)]
pub struct Release {
    /// What the plugin says about itself.
    pub about: About,
    /// For what it was compiled.
    pub target: Target,
    /// By what, where that is known.
    pub toolchain: Option<String>,
    /// Digest of its source, where that is known.
    pub source_sha256: Option<Digest>,
    /// The time in manifest and archive.
    pub created: Time,
    /// What rollback is judged by.
    pub sequence: u64,
    /// Digest of the executable with the identity zeroed.
    pub base_sha256: Digest,
    /// Bytes of the executable.
    pub file_size: u64,
    /// Bytes of the tar.
    pub tar_size: u64,
    pub(crate) contents: Contents,
}

/// The archive of a release.
#[derive(Debug)]
pub(crate) enum Contents {
    /// Without a slot: the same for every customer.
    Whole { frame: SharedFrame, tar_sha256: Digest },
    /// With one.
    Slotted(Box<Slotted>),
}

/// An archive with a place for the identity.
#[derive(Debug)]
pub(crate) struct Slotted {
    pub(crate) slot: Slot,
    pub(crate) before: SharedFrame,
    pub(crate) after: SharedFrame,
    /// Of the tar and of the executable in it, up to the slot.
    tar_before: Hasher,
    file_before: Hasher,
    /// The tar behind the slot, of which the first bytes are the executable's.
    rest: Vec<u8>,
    file_rest: usize,
}

/// A compressed frame that many packages have.
#[derive(Debug, Clone)]
pub struct SharedFrame {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its size and digest, for manifests.
    pub frame: Frame,
}

impl SharedFrame {
    /// A frame of these compressed bytes.
    pub fn of(bytes: Bytes) -> Self {
        let frame = Frame { size: bytes.len() as u64, sha256: Digest::of(&bytes) };
        Self { bytes, frame }
    }

    fn compress(bytes: &[u8], level: i32) -> Result<Self, Failure> {
        archive::compress(bytes, level).map(|bytes| Self::of(bytes.into())).map_err(unable)
    }
}

/// What is decided when a release is made.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseOptions {
    /// The time in manifest and archive.
    pub created: Time,
    /// What rollback is judged by.
    pub sequence: u64,
    /// zstd's level for the shared frames.
    pub level: i32,
}

impl Compiled {
    /// Fills in the release key that identities are checked with, archives and compresses.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn release(self, key: &SigningKey, options: ReleaseOptions) -> Result<Arc<Release>, Failure> {
        let Self { about, target, toolchain, source_sha256, mut binary, sections } = self;
        let ReleaseOptions { created, sequence, level } = options;
        let mut slot = None;
        if let Some(sections) = sections {
            let refuse = |e: IdentityError| Failure::new(Kind::Failed, e);
            binary[sections.keys].copy_from_slice(&keys_section(&[*key.public()]).map_err(refuse)?);
            binary[sections.slot.clone()].fill(0);
            slot = Some(Slot { offset: sections.slot.start as u64, size: SLOT_LEN as u64 });
        }
        let executable = about.name.executable();
        let file = ArchiveFile { path: &executable, bytes: &binary, executable: true };
        let tar = archive::write(&[file], created).map_err(unable)?;
        let contents = match slot {
            None => {
                Contents::Whole { frame: SharedFrame::compress(&tar, level)?, tar_sha256: Digest::of(&tar) }
            }
            Some(slot) => {
                let (before, after) = around(&tar, slot);
                let before = SharedFrame::compress(before, level)?;
                let after = SharedFrame::compress(after, level)?;
                Contents::Slotted(Box::new(Slotted::new(slot, &tar, binary.len(), before, after)))
            }
        };
        Ok(Arc::new(Release {
            base_sha256: Digest::of(&binary),
            file_size: binary.len() as u64,
            tar_size: tar.len() as u64,
            about,
            target,
            toolchain,
            source_sha256,
            created,
            sequence,
            contents,
        }))
    }
}

/// The tar before and behind the slot. The executable is its first file, and its content its second block.
fn around(tar: &[u8], slot: Slot) -> (&[u8], &[u8]) {
    let start = BLOCK + slot.offset as usize;
    (&tar[..start], &tar[start + slot.size as usize..])
}

impl Slotted {
    fn new(slot: Slot, tar: &[u8], file: usize, before: SharedFrame, after: SharedFrame) -> Self {
        let (head, rest) = around(tar, slot);
        let (mut tar_before, mut file_before) = (Hasher::default(), Hasher::default());
        tar_before.update(head);
        file_before.update(&head[BLOCK..]);
        let file_rest = file - (slot.offset + slot.size) as usize;
        Self { slot, before, after, tar_before, file_before, rest: rest.to_vec(), file_rest }
    }

    /// The digests of tar and executable with these bytes in the slot.
    pub(crate) fn digests(&self, slot: &[u8; SLOT_LEN]) -> (Digest, Digest) {
        let with = |before: &Hasher, rest: &[u8]| {
            let mut hasher = before.clone();
            hasher.update(slot);
            hasher.update(rest);
            hasher.finish()
        };
        (with(&self.tar_before, &self.rest), with(&self.file_before, &self.rest[..self.file_rest]))
    }
}

pub(crate) fn unable(error: std::io::Error) -> Failure {
    Failure::new(Kind::Local, format_args!("cannot archive: {error}"))
}
