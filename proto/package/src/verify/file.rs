//! One file held against its manifest entry, piece by piece: size, digest, and for the executable
//! the identity in its slot.

use super::{PackageError, Rule};
use crate::digest::Hasher;
use crate::identity::{SLOT_LEN, SignedIdentity};
use crate::key::TrustedKeys;
use crate::manifest::{FileEntry, Manifest, Slot};

/// Digests one file as its bytes come, whether from an archive or from disk.
pub(super) struct FileCheck<'m> {
    manifest: &'m Manifest,
    entry: &'m FileEntry,
    seen: u64,
    whole: Hasher,
    slot: Option<SlotCheck>,
}

/// The slot's bytes, and the digest of the file with zeros in their place. Everything before the
/// slot is hashed once: the state there is cloned.
struct SlotCheck {
    place: Slot,
    bytes: Vec<u8>,
    base: Option<Hasher>,
}

impl<'m> FileCheck<'m> {
    pub(super) fn new(manifest: &'m Manifest, entry: &'m FileEntry) -> Self {
        let slot = manifest
            .identity
            .filter(|_| entry.path == manifest.plugin.name.executable())
            .map(|place| SlotCheck { place, bytes: Vec::with_capacity(SLOT_LEN), base: None });
        Self { manifest, entry, seen: 0, whole: Hasher::default(), slot }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.slot {
            None => self.whole.update(bytes),
            Some(slot) => slot.update(&mut self.whole, self.seen, bytes),
        }
        self.seen += bytes.len() as u64;
    }

    pub(super) fn finish(self, keys: &TrustedKeys) -> Result<(), PackageError> {
        let FileEntry { path, size, sha256, .. } = self.entry;
        // V15: size and digest.
        if self.seen != *size {
            return Err(
                Rule::Files.refuses(format_args!("{path} is {} bytes, the manifest says {size}", self.seen))
            );
        }
        let found = self.whole.finish();
        if found != *sha256 {
            return Err(Rule::Files
                .refuses(format_args!("{path} has the digest {found}, the manifest says {sha256}")));
        }
        // V16: the executable is the one that was built, and the identity in it is the manifest's.
        if self.entry.path != self.manifest.plugin.name.executable() {
            return Ok(());
        }
        match self.slot {
            Some(slot) => slot.finish(self.manifest, keys),
            None if found == self.manifest.build.base_sha256 => Ok(()),
            None => Err(Rule::Identity.refuses(format_args!(
                "{path} is not the binary of build.base_sha256 {}",
                self.manifest.build.base_sha256
            ))),
        }
    }
}

impl SlotCheck {
    /// Hashes `bytes`, which begin at byte `at` of the file, into `whole` and into the base digest.
    fn update(&mut self, whole: &mut Hasher, at: u64, bytes: &[u8]) {
        let cut = |end: u64| usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
        let (before, rest) = bytes.split_at(cut(self.place.offset));
        let (slot, after) = rest.split_at(cut(self.place.offset + self.place.size) - before.len());
        whole.update(before);
        if !slot.is_empty() {
            let base = self.base.get_or_insert_with(|| whole.clone());
            whole.update(slot);
            base.update(&[0; SLOT_LEN][..slot.len()]);
            self.bytes.extend_from_slice(slot);
        }
        if !after.is_empty() {
            whole.update(after);
            if let Some(base) = &mut self.base {
                base.update(after);
            }
        }
    }

    fn finish(self, manifest: &Manifest, keys: &TrustedKeys) -> Result<(), PackageError> {
        let refuse = |what: String| Err(Rule::Identity.refuses(what));
        let (Some(base), Ok(slot)) = (self.base, <&[u8; SLOT_LEN]>::try_from(&self.bytes[..])) else {
            return refuse("the identity slot is not in the file".to_owned());
        };
        let identity = SignedIdentity::from_slot(slot)
            .and_then(|signed| signed.verify(keys))
            .map_err(|e| Rule::Identity.refuses(e))?;
        let (base, built) = (base.finish(), manifest.build.base_sha256);
        if base != built {
            return refuse(format!(
                "the binary without its identity has the digest {base}, built was {built}"
            ));
        }
        let (plugin, customer) = (&manifest.plugin, &manifest.customer);
        let pairs = [
            ("plugin", identity.plugin.to_string(), plugin.name.to_string()),
            ("version", identity.version, plugin.version.to_string()),
            ("customer", identity.customer.to_string(), customer.id.to_string()),
            ("tier", identity.tier.to_string(), customer.tier.to_string()),
            (
                "api_key_sha256",
                identity.api_key_sha256.map(|d| d.to_string()).unwrap_or_default(),
                customer.api_key_sha256.map(|d| d.to_string()).unwrap_or_default(),
            ),
            ("base_sha256", identity.base_sha256.to_string(), built.to_string()),
        ];
        match pairs.into_iter().find(|(_, embedded, declared)| embedded != declared) {
            None => Ok(()),
            Some((what, embedded, declared)) => {
                refuse(format!("{what} in the binary is {embedded:?}, in the manifest {declared:?}"))
            }
        }
    }
}
