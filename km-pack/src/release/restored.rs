//! A release out of a package of it, so that others can be stamped without compiling anything.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use km_package::archive::{self, ArchiveFile};
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::identity::{KEYS_LEN, keys_magic, keys_of_section};
use km_package::manifest::{FileEntry, Manifest};
use km_package::verify::{Sink, Verified};

use super::{Contents, Release, SharedFrame, Slotted, unable};
use crate::sign::SigningKey;
use crate::source::About;

/// Takes the files of a package into memory.
#[derive(Debug, Default)]
pub struct InMemory(Vec<Vec<u8>>);

impl Sink for InMemory {
    fn begin(&mut self, _: &FileEntry) -> io::Result<()> {
        self.0.push(Vec::new());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.last_mut().ok_or_else(|| io::Error::other("no file was begun"))?.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Release {
    /// The release that a package is of; `frames` are its own, which others will share. Whether they are
    /// cut at the identity shows when the first package that is stamped from it is verified.
    ///
    /// # Errors
    /// For a package that `km-pack` did not make, or whose binary would not believe this key.
    pub fn of_package(
        package: Verified<InMemory>,
        frames: &[Bytes],
        key: &SigningKey,
    ) -> Result<Arc<Self>, Failure> {
        let manifest = package.manifest().clone();
        let name = &manifest.plugin.name;
        let refuse = |why: &str| {
            Failure::new(Kind::Failed, format_args!("{name} {} {why}", manifest.plugin.version))
                .help("build it again with `km-pack build --customers … --publish`")
        };
        let Ok([mut binary]) = <[Vec<u8>; 1]>::try_from(package.into_contents().0) else {
            return Err(refuse("has more than one file, which km-pack does not stamp"));
        };
        if manifest.identity.is_some() && !believes(&binary, key) {
            return Err(refuse("was built for another release key than this one"));
        }
        if let Some(slot) = manifest.identity {
            binary[slot.offset as usize..(slot.offset + slot.size) as usize].fill(0);
        }
        let executable = name.executable();
        let file = ArchiveFile { path: &executable, bytes: &binary, executable: true };
        let tar = archive::write(&[file], manifest.build.created).map_err(unable)?;
        let contents = match (manifest.identity, frames) {
            (None, [frame]) => Contents::Whole {
                frame: SharedFrame::of(frame.clone()),
                tar_sha256: manifest.payload.tar_sha256,
            },
            (Some(slot), [before, _, after]) => {
                let (before, after) = (SharedFrame::of(before.clone()), SharedFrame::of(after.clone()));
                Contents::Slotted(Box::new(Slotted::new(slot, &tar, binary.len(), before, after)))
            }
            _ => return Err(refuse("is not cut at its identity, as km-pack does")),
        };
        let Manifest { plugin, target, protocol, build, permissions, .. } = manifest;
        Ok(Arc::new(Self {
            about: About {
                name: plugin.name,
                version: plugin.version,
                description: plugin.description,
                required_tier: plugin.required_tier,
                sequence: Some(plugin.sequence),
                permissions,
                protocols: protocol.versions,
            },
            target,
            toolchain: build.toolchain,
            source_sha256: build.source_sha256,
            created: build.created,
            sequence: plugin.sequence,
            base_sha256: Digest::of(&binary),
            file_size: binary.len() as u64,
            tar_size: tar.len() as u64,
            contents,
        }))
    }
}

/// Whether a binary would believe an identity that this key signs.
fn believes(binary: &[u8], key: &SigningKey) -> bool {
    let magic = keys_magic();
    let place = binary.windows(magic.len()).position(|window| window == magic);
    let section = place.and_then(|at| <&[u8; KEYS_LEN]>::try_from(binary.get(at..at + KEYS_LEN)?).ok());
    let keys = section.and_then(|section| keys_of_section(section).ok());
    keys.is_some_and(|keys| keys.get(key.public().id()).is_some())
}
