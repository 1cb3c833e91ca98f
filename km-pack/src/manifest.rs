//! Describing: the frames of one customer's package, and the manifest that says so.

use km_package::archive;
use km_package::failure::{Failure, Kind};
use km_package::manifest::{Build, FileEntry, Manifest, Payload, Plugin, Protocol};

use crate::release::{Contents, SharedFrame, unable};
use crate::stamp::Stamped;

/// zstd's level for the slot: 4 KiB, mostly zeros.
const SLOT_LEVEL: i32 = 3;

/// A package that nobody has signed.
#[derive(Debug)]
pub struct Unsigned {
    /// The manifest.
    pub manifest: Manifest,
    /// The compressed frames it describes.
    pub frames: Vec<SharedFrame>,
}

impl Stamped {
    /// Compresses the slot and writes the manifest.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn describe(self) -> Result<Unsigned, Failure> {
        let Self { release, customer, slot } = self;
        let (frames, identity, tar_sha256, file_sha256) = match (&release.contents, slot) {
            (Contents::Whole { frame, tar_sha256 }, None) => {
                (vec![frame.clone()], None, *tar_sha256, release.base_sha256)
            }
            (Contents::Slotted(archive), Some(slot)) => {
                let own = archive::compress(&slot[..], SLOT_LEVEL).map_err(unable)?;
                let (tar, file) = archive.digests(&slot);
                let frames = vec![archive.before.clone(), SharedFrame::of(own.into()), archive.after.clone()];
                (frames, Some(archive.slot), tar, file)
            }
            _ => return Err(Failure::new(Kind::Failed, "the slot and its archive do not belong together")),
        };
        let about = &release.about;
        let payload = Payload {
            size: frames.iter().map(|shared| shared.frame.size).sum(),
            tar_size: release.tar_size,
            tar_sha256,
            frames: frames.iter().map(|shared| shared.frame).collect(),
        };
        let manifest = Manifest::new(
            Plugin {
                name: about.name.clone(),
                version: about.version.clone(),
                sequence: release.sequence,
                description: about.description.clone(),
                required_tier: about.required_tier,
                expires: None,
            },
            customer,
            release.target.clone(),
            Protocol { versions: about.protocols.clone() },
            Build {
                created: release.created,
                source_sha256: release.source_sha256,
                base_sha256: release.base_sha256,
                toolchain: release.toolchain.clone(),
            },
            identity,
            about.permissions.clone(),
            payload,
            vec![FileEntry {
                path: about.name.executable(),
                size: release.file_size,
                sha256: file_sha256,
                executable: true,
            }],
        );
        Ok(Unsigned { manifest, frames })
    }
}
