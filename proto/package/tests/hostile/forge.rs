//! Makes packages: complete and good ones, and ones that are wrong in exactly one place.
//!
//! There are two stages, since a package can be attacked before or after it is signed. A [`Forge`]
//! is one before: whatever is changed in it, all that follows from it (sizes, digests, signature)
//! is made right again, so the attack reaches the rule it aims at. A [`Sealed`] is one after: its
//! parts lie open, and nothing is made right again.

use ed25519_dalek::{Signer as _, SigningKey};
use km_package::archive::{self, ArchiveFile};
use km_package::digest::Digest;
use km_package::identity::{self, Identity, SLOT_LEN, SignedIdentity};
use km_package::key::{PublicKey, TrustedKeys};
use km_package::manifest::{
    Build, Customer, FileEntry, Frame, Manifest, Payload, Permissions, Plugin, Protocol, Slot, Target, Time,
};
use km_package::name::{CustomerId, FileName, PluginName};
use km_package::signature::{Signature, SignatureBlock};
use km_package::tier::Tier;
use km_package::verify::{Context, Purpose};

pub(crate) const MANIFEST_MAGIC: u32 = 0x184d_2a5b;
pub(crate) const SIGNATURES_MAGIC: u32 = 0x184d_2a5c;

pub(crate) const PLUGIN: &str = "probe";
pub(crate) const EXECUTABLE: &str = "km-plugin-probe";
pub(crate) const VERSION: &str = "1.2.3";
pub(crate) const CUSTOMER: &str = "customer_123";
pub(crate) const SEQUENCE: u64 = 100;
pub(crate) const CREATED: u64 = 1_795_305_600;
pub(crate) const NOW: u64 = CREATED + 86_400;

/// Where the slot begins in the fake executable.
pub(crate) const SLOT_AT: usize = 512;
/// Where it ends.
pub(crate) const SLOT_END: usize = SLOT_AT + SLOT_LEN;

/// The key that signs releases; trusted.
pub(crate) fn release_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

/// Another trusted key.
pub(crate) fn second_key() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

/// A key that nobody trusts: the attacker's.
pub(crate) fn stranger_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

pub(crate) fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(&key.verifying_key().to_bytes()).unwrap()
}

pub(crate) fn sign(key: &SigningKey, document: &[u8]) -> Signature {
    Signature { key_id: public(key).id(), bytes: key.sign(document).to_bytes() }
}

/// The keys that every case is judged by.
pub(crate) fn trusted_keys() -> TrustedKeys {
    TrustedKeys::from_iter([public(&release_key()), public(&second_key())])
}

/// The context that every case is judged in: an installation at this customer. The good package
/// lies at the limit of each rule.
pub(crate) fn context() -> Context<'static> {
    Context {
        purpose: Purpose::Install { now: time(NOW), highest_sequence: &highest_sequence },
        customer: Some(CUSTOMER.parse().unwrap()),
        platform: "linux-amd64".parse().unwrap(),
        protocols: vec![1, 2],
    }
}

/// What was installed here before: the good package, and nothing of anybody else.
fn highest_sequence(plugin: &PluginName, customer: &CustomerId) -> Option<u64> {
    (plugin.as_str() == PLUGIN && customer.as_str() == CUSTOMER).then_some(SEQUENCE)
}

pub(crate) fn time(seconds: u64) -> Time {
    Time::from_unix(seconds).unwrap()
}

/// Bytes that do not compress, the same in every run.
pub(crate) fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut block = Digest::of(&[seed]);
    let mut bytes = Vec::with_capacity(length + 32);
    while bytes.len() < length {
        bytes.extend(block.as_bytes());
        block = Digest::of(block.as_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The executable as compiled: code, an empty slot, data. Its length leaves some padding in a tar.
pub(crate) fn compiled() -> Vec<u8> {
    [&noise(1, SLOT_AT)[..], &identity::empty_slot(), &noise(2, 300)].concat()
}

/// The digest of an executable with its slot zeroed.
pub(crate) fn base_digest(binary: &[u8]) -> Digest {
    let mut base = binary.to_vec();
    base[SLOT_AT..SLOT_END].fill(0);
    Digest::of(&base)
}

/// The identity that the good package carries.
pub(crate) fn good_identity() -> Identity {
    Identity::new(
        PLUGIN.parse().unwrap(),
        VERSION.to_owned(),
        CUSTOMER.parse().unwrap(),
        Tier::Pro,
        None,
        base_digest(&compiled()),
    )
}

/// A slot with this text, signed by this key.
pub(crate) fn slot_of(key: &SigningKey, text: &str) -> [u8; SLOT_LEN] {
    SignedIdentity::new(sign(key, text.as_bytes()), text.to_owned()).to_slot().unwrap()
}

/// The compiled executable with this slot in it.
pub(crate) fn stamped(slot: &[u8; SLOT_LEN]) -> Vec<u8> {
    let mut binary = compiled();
    binary[SLOT_AT..SLOT_END].copy_from_slice(slot);
    binary
}

/// The executable of the good package.
pub(crate) fn good_binary() -> Vec<u8> {
    stamped(&slot_of(&release_key(), &good_identity().to_text()))
}

/// A file that goes into a package.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) path: FileName,
    pub(crate) bytes: Vec<u8>,
    pub(crate) executable: bool,
}

impl Content {
    pub(crate) fn new(path: &str, bytes: &[u8]) -> Self {
        Self {
            path: path.parse().unwrap(),
            bytes: bytes.to_vec(),
            executable: path.starts_with("km-plugin-"),
        }
    }

    /// What `[[files]]` says about it.
    pub(crate) fn entry(&self) -> FileEntry {
        FileEntry {
            path: self.path.clone(),
            size: self.bytes.len() as u64,
            sha256: Digest::of(&self.bytes),
            executable: self.executable,
        }
    }
}

/// The files of a package with this executable.
pub(crate) fn files_with(binary: &[u8]) -> Vec<Content> {
    vec![Content::new(EXECUTABLE, binary), Content::new("notes.txt", b"what is new\n")]
}

/// The tar of these files, as the real writer makes it.
pub(crate) fn tar_of(files: &[Content]) -> Vec<u8> {
    let files: Vec<ArchiveFile<'_>> = files
        .iter()
        .map(|f| ArchiveFile { path: &f.path, bytes: &f.bytes, executable: f.executable })
        .collect();
    archive::write(&files, time(CREATED)).unwrap()
}

/// The tar of the good package.
pub(crate) fn good_tar() -> Vec<u8> {
    tar_of(&files_with(&good_binary()))
}

/// One zstd frame.
pub(crate) fn compress(bytes: &[u8]) -> Vec<u8> {
    archive::compress(bytes, 3).unwrap()
}

/// Bytes within the frames of a package as the manifest declares them.
fn declare_frames(frames: &[Vec<u8>]) -> Vec<Frame> {
    frames.iter().map(|frame| Frame { size: frame.len() as u64, sha256: Digest::of(frame) }).collect()
}

/// A package before it is signed.
#[derive(Clone)]
pub(crate) struct Forge {
    pub(crate) manifest: Manifest,
    pub(crate) frames: Vec<Vec<u8>>,
}

impl Forge {
    /// The good package, with its payload cut at the slot as `km-pack` cuts it.
    pub(crate) fn good() -> Self {
        let (before, rest) = tar_parts();
        let (slot, after) = rest.split_at(SLOT_LEN);
        Self::of_binary(&good_binary()).with_frames(vec![compress(&before), compress(slot), compress(after)])
    }

    /// A package with this executable. What the build attests stays as it was.
    pub(crate) fn of_binary(binary: &[u8]) -> Self {
        Self::of_files(&files_with(binary))
    }

    /// A package with these files.
    pub(crate) fn of_files(files: &[Content]) -> Self {
        Self::of_tar(&tar_of(files), files.iter().map(Content::entry).collect())
    }

    /// A package with this tar, of which the manifest says it were these files.
    pub(crate) fn of_tar(tar: &[u8], files: Vec<FileEntry>) -> Self {
        let mut manifest = manifest_of(files);
        manifest.payload.tar_sha256 = Digest::of(tar);
        Self { manifest, frames: Vec::new() }.with_frames(vec![compress(tar)])
    }

    /// With these frames, rightly declared.
    pub(crate) fn with_frames(mut self, frames: Vec<Vec<u8>>) -> Self {
        self.manifest.payload.size = frames.iter().map(|frame| frame.len() as u64).sum();
        self.manifest.payload.frames = declare_frames(&frames);
        self.frames = frames;
        self
    }

    /// With a manifest that says something else.
    pub(crate) fn saying(mut self, change: impl FnOnce(&mut Manifest)) -> Self {
        change(&mut self.manifest);
        self
    }

    /// Signed by the release key.
    pub(crate) fn seal(&self) -> Sealed {
        self.seal_text(self.manifest.to_text().as_bytes())
    }

    /// With this text as the manifest, signed by the release key.
    pub(crate) fn seal_text(&self, text: &[u8]) -> Sealed {
        Sealed {
            manifest: text.to_vec(),
            signatures: SignatureBlock::new(vec![sign(&release_key(), text)]).to_bytes(),
            payload: self.frames.concat(),
        }
    }

    /// The signed package.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.seal().bytes()
    }
}

/// The good tar, up to its slot and from there.
fn tar_parts() -> (Vec<u8>, Vec<u8>) {
    let mut tar = good_tar();
    let rest = tar.split_off(archive::BLOCK + SLOT_AT);
    (tar, rest)
}

fn manifest_of(files: Vec<FileEntry>) -> Manifest {
    Manifest::new(
        Plugin {
            name: PLUGIN.parse().unwrap(),
            version: VERSION.parse().unwrap(),
            sequence: SEQUENCE,
            description: "probes".to_owned(),
            required_tier: Tier::Pro,
            expires: Some(time(NOW + 1)),
        },
        Customer { id: CUSTOMER.parse().unwrap(), tier: Tier::Pro, api_key_sha256: None },
        Target { platform: "linux-amd64".parse().unwrap(), triple: "x86_64-unknown-linux-gnu".to_owned() },
        Protocol { versions: vec![2, 3] },
        Build {
            created: time(CREATED),
            source_sha256: None,
            base_sha256: base_digest(&compiled()),
            toolchain: None,
        },
        Some(Slot { offset: SLOT_AT as u64, size: SLOT_LEN as u64 }),
        Permissions::default(),
        Payload {
            size: 0,
            tar_size: archive::tar_size(&files).unwrap(),
            tar_sha256: Digest::of(b""),
            frames: Vec::new(),
        },
        files,
    )
}

/// A package after it was signed: three pieces of bytes.
#[derive(Clone)]
pub(crate) struct Sealed {
    pub(crate) manifest: Vec<u8>,
    pub(crate) signatures: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Sealed {
    /// With these signatures instead.
    pub(crate) fn signed(mut self, signatures: Vec<Signature>) -> Self {
        self.signatures = SignatureBlock::new(signatures).to_bytes();
        self
    }

    /// The frames in front.
    pub(crate) fn head(&self) -> Vec<u8> {
        [skippable(MANIFEST_MAGIC, &self.manifest), skippable(SIGNATURES_MAGIC, &self.signatures)].concat()
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.head(), self.payload.clone()].concat()
    }
}

/// A zstd skippable frame.
pub(crate) fn skippable(magic: u32, content: &[u8]) -> Vec<u8> {
    frame_saying(magic, u32::try_from(content.len()).unwrap(), content)
}

/// A skippable frame that claims to be `length` bytes.
pub(crate) fn frame_saying(magic: u32, length: u32, content: &[u8]) -> Vec<u8> {
    [&magic.to_le_bytes()[..], &length.to_le_bytes(), content].concat()
}
