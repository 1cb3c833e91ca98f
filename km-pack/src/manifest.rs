//! Describing: the archive of the stamped binary, compressed, and the manifest that says so.

use km_package::archive::{self, ArchiveFile, BLOCK};
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::manifest::{Build, FileEntry, Frame, Manifest, Payload, Plugin, Protocol, Target, Time};

use crate::stamp::Stamped;

/// A package that nobody has signed.
#[derive(Debug)]
pub struct Unsigned {
    /// The manifest.
    pub manifest: Manifest,
    /// The compressed frames it describes.
    pub frames: Vec<Vec<u8>>,
}

impl Stamped {
    /// Archives and compresses the binary, and writes the manifest.
    ///
    /// # Errors
    /// When the source cannot be read for its digest, or memory runs out.
    pub fn describe(self, created: Time, sequence: u64, level: i32) -> Result<Unsigned, Failure> {
        let failed = |e: std::io::Error| Failure::new(Kind::Local, format_args!("cannot archive: {e}"));
        let Self { source, compiler, customer, binary, base_sha256, slot } = self;
        let executable = source.name.executable();
        let file = ArchiveFile { path: &executable, bytes: &binary, executable: true };
        let tar = archive::write(&[file], created).map_err(failed)?;

        // The slot gets a frame of its own: what lies before and after it is one for all customers.
        let cuts = match slot {
            Some(slot) => vec![BLOCK + slot.offset as usize, BLOCK + (slot.offset + slot.size) as usize],
            None => Vec::new(),
        };
        let frames: Vec<Vec<u8>> = pieces(&tar, &cuts)
            .into_iter()
            .map(|piece| archive::compress(piece, level))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let entry = |frame: &Vec<u8>| Frame { size: frame.len() as u64, sha256: Digest::of(frame) };
        let payload = Payload {
            size: frames.iter().map(|frame| frame.len() as u64).sum(),
            tar_size: tar.len() as u64,
            tar_sha256: Digest::of(&tar),
            frames: frames.iter().map(entry).collect(),
        };
        let source_sha256 = Some(source.digest()?);
        let manifest = Manifest::new(
            Plugin {
                name: source.name,
                version: source.version,
                sequence,
                description: source.description,
                required_tier: source.required_tier,
                expires: None,
            },
            customer,
            Target { platform: compiler.platform, triple: compiler.triple },
            Protocol { versions: km_proto::PROTOCOL_VERSIONS.to_vec() },
            Build { created, source_sha256, base_sha256, toolchain: Some(compiler.toolchain) },
            slot,
            source.permissions,
            payload,
            vec![FileEntry {
                path: executable,
                size: binary.len() as u64,
                sha256: Digest::of(&binary),
                executable: true,
            }],
        );
        Ok(Unsigned { manifest, frames })
    }
}

/// Cuts bytes at ascending places, leaving out empty pieces.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([bytes.len()]);
    starts.zip(ends).map(|(start, end)| &bytes[start..end]).filter(|piece| !piece.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_whole() {
        assert_eq!(pieces(b"abcdef", &[2, 4]), [b"ab", b"cd", b"ef"]);
        assert_eq!(pieces(b"abcdef", &[0, 6]), [b"abcdef"]);
        assert_eq!(pieces(b"abcdef", &[]), [b"abcdef"]);
    }
}
