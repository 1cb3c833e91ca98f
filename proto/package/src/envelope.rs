//! The envelope: manifest and signatures as zstd skippable frames, then the payload.
//!
//! ```text
//! frame 1   skippable 0x184D2A5B | u32 length | manifest, at most 64 KiB
//! frame 2   skippable 0x184D2A5C | u32 length | signatures, at most 4 KiB
//! frame 3…  zstd frames: the tar
//! ```
//!
//! The format's optional frame 2b, a trust root chain, can only be checked from an installed trust
//! root. There is none yet, so a package that carries one is refused with the payload (rule V12).

use std::io::{self, Read};

use crate::signature::SignatureBlock;

const MANIFEST_MAGIC: u32 = 0x184D_2A5B;
const SIGNATURES_MAGIC: u32 = 0x184D_2A5C;
/// Most bytes of manifest.
pub const MAX_MANIFEST: u32 = 64 * 1024;
/// Most bytes of signatures.
pub const MAX_SIGNATURES: u32 = 4 * 1024;

/// What lies in front of a payload, or beside an installed plugin: bytes, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The manifest's exact bytes.
    pub manifest: Vec<u8>,
    /// The signature block's exact bytes.
    pub signatures: Vec<u8>,
}

/// Why a file does not begin like a package.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The file could not be read.
    #[error("{0}")]
    Read(io::Error),
    /// It ends within the frames in front.
    #[error("the file ends within the {0} frame")]
    Cut(&'static str),
    /// Another frame stands where this one belongs.
    #[error("no {0} frame where it belongs: this is not a .kmpkg, or not of format 1")]
    Missing(&'static str),
    /// Its length is zero or over the limit.
    #[error("the {frame} frame is {length} bytes; 1 to {max} may be")]
    Length {
        /// Which frame.
        frame: &'static str,
        /// What it says.
        length: u32,
        /// The limit.
        max: u32,
    },
    /// Bytes follow where there should be none.
    #[error("{0} bytes follow the signature frame")]
    Behind(usize),
}

impl Head {
    /// Reads the frames in front of the payload, and leaves `reader` at the payload's first byte.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn read(reader: &mut impl Read) -> Result<Self, EnvelopeError> {
        let manifest = read_frame(reader, MANIFEST_MAGIC, "manifest", MAX_MANIFEST)?;
        let signatures = read_frame(reader, SIGNATURES_MAGIC, "signature", MAX_SIGNATURES)?;
        Ok(Self { manifest, signatures })
    }

    /// Reads the head of a package that is there as a whole, with nothing behind it.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (manifest, signatures) = Self::read_frames(bytes, MAX_MANIFEST)?;
        Ok(Self { manifest, signatures })
    }

    /// The two frames, with a document of another kind in the first.
    pub(crate) fn read_frames(mut bytes: &[u8], max: u32) -> Result<(Vec<u8>, Vec<u8>), EnvelopeError> {
        let document = read_frame(&mut bytes, MANIFEST_MAGIC, "manifest", max)?;
        let signatures = read_frame(&mut bytes, SIGNATURES_MAGIC, "signature", MAX_SIGNATURES)?;
        if bytes.is_empty() { Ok((document, signatures)) } else { Err(EnvelopeError::Behind(bytes.len())) }
    }

    /// The head of a package with this manifest and these signatures.
    pub fn new(manifest: &str, signatures: &SignatureBlock) -> Self {
        Self { manifest: manifest.as_bytes().to_vec(), signatures: signatures.to_bytes() }
    }

    /// The frames in front of the payload.
    pub fn to_bytes(&self) -> Vec<u8> {
        Self::frames(&self.manifest, &self.signatures)
    }

    /// A document and its signatures in their frames.
    pub(crate) fn frames(document: &[u8], signatures: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + document.len() + signatures.len());
        for (magic, content) in [(MANIFEST_MAGIC, document), (SIGNATURES_MAGIC, signatures)] {
            bytes.extend(magic.to_le_bytes());
            bytes.extend((content.len() as u32).to_le_bytes());
            bytes.extend(content);
        }
        bytes
    }
}

fn read_frame(
    reader: &mut impl Read,
    expected: u32,
    frame: &'static str,
    max: u32,
) -> Result<Vec<u8>, EnvelopeError> {
    let magic = read_word(reader, frame)?;
    if magic != expected {
        return Err(EnvelopeError::Missing(frame));
    }
    let length = read_word(reader, frame)?;
    if length == 0 || length > max {
        return Err(EnvelopeError::Length { frame, length, max });
    }
    let mut content = vec![0; length as usize];
    read_exact(reader, &mut content, frame)?;
    Ok(content)
}

fn read_word(reader: &mut impl Read, frame: &'static str) -> Result<u32, EnvelopeError> {
    let mut bytes = [0; 4];
    read_exact(reader, &mut bytes, frame)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_exact(reader: &mut impl Read, bytes: &mut [u8], frame: &'static str) -> Result<(), EnvelopeError> {
    reader.read_exact(bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => EnvelopeError::Cut(frame),
        _ => EnvelopeError::Read(e),
    })
}
