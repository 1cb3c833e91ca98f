//! Packages of a few kilobytes that verify as any other: for tests of the store, which are many. What
//! is in them is no program; starting it fails once it was verified.

use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer as _, SigningKey};
use km_package::archive::{self, ArchiveFile};
use km_package::digest::Digest;
use km_package::envelope::Head;
use km_package::identity::{self, Identity, SLOT_LEN, SignedIdentity};
use km_package::index::{Index, IndexEntry, UntrustedIndex};
use km_package::key::PublicKey;
use km_package::manifest::{
    Build, Customer, FileEntry, Frame, Manifest, Payload, Permissions, Plugin, Protocol, Slot, Target, Time,
};
use km_package::platform::Platform;
use km_package::signature::{Signature, SignatureBlock};
use km_package::tier::Tier;

use crate::{TestEnvironment, path};

/// Where the slot begins in the executable.
const SLOT_AT: usize = 512;
const CREATED: u64 = 1_795_305_600;

/// One package of the plugin `tiny`, unless it is renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiny {
    /// The plugin.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What rollback is judged by.
    pub sequence: u64,
    /// For whom.
    pub customer: String,
    /// Stamped into it.
    pub tier: Tier,
    /// For which machine; it is built the same.
    pub platform: Platform,
    /// Bytes that do not compress, besides.
    pub ballast: usize,
    /// Whether its executable has room for an identity.
    pub has_slot: bool,
}

impl Tiny {
    /// A version for `customer_123` at Pro, on this platform.
    pub fn new(version: &str, sequence: u64) -> Self {
        Self {
            name: "tiny".to_owned(),
            version: version.to_owned(),
            sequence,
            customer: "customer_123".to_owned(),
            tier: Tier::Pro,
            platform: Platform::current().expect("a platform that packages are made for"),
            ballast: 0,
            has_slot: true,
        }
    }

    /// Makes an environment trust the key that signs all of them.
    pub fn trust(environment: &TestEnvironment) {
        let file = environment.path("tiny.pub.pem");
        std::fs::write(&file, public_key().to_pem()).expect("written");
        environment.km(["trust", "add", path(&file)]).expect(0);
    }

    /// An environment that trusts the key.
    pub fn trusting() -> TestEnvironment {
        let environment = TestEnvironment::empty();
        Self::trust(&environment);
        environment
    }

    /// Writes the package into a folder.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let file = folder.join(format!("{}-{}-{:?}.kmpkg", self.name, self.version, self.tier));
        std::fs::write(&file, self.bytes()).expect("written");
        file
    }

    /// Installs it.
    pub fn install(&self, environment: &TestEnvironment) {
        environment.km(["plugins", "install", path(&self.write(&environment.path("")))]).expect(0);
    }

    /// Its executable, with the signed identity in its slot.
    pub fn executable(&self) -> Vec<u8> {
        if !self.has_slot {
            return self.compiled();
        }
        let identity = Identity::new(
            self.name.parse().expect("a name"),
            self.version.clone(),
            self.customer.parse().expect("a customer"),
            self.tier,
            None,
            self.base_digest(),
        );
        let text = identity.to_text();
        let slot = SignedIdentity::new(sign(text.as_bytes()), text).to_slot().expect("it fits");
        let mut binary = self.compiled();
        binary[SLOT_AT..SLOT_AT + SLOT_LEN].copy_from_slice(&slot);
        binary
    }

    /// Its manifest.
    pub fn manifest(&self) -> Manifest {
        self.parts().0
    }

    /// The package.
    pub fn bytes(&self) -> Vec<u8> {
        let (manifest, payload) = self.parts();
        signed(&manifest.to_text(), &payload)
    }

    fn parts(&self) -> (Manifest, Vec<u8>) {
        let executable = self.executable();
        let name = format!("km-plugin-{}", self.name).parse().expect("a file name");
        let files = [
            ArchiveFile { path: &name, bytes: &executable, executable: true },
            ArchiveFile {
                path: &"notes.txt".parse().expect("one"),
                bytes: b"what is new\n",
                executable: false,
            },
        ];
        let created = Time::from_unix(CREATED).expect("a time");
        let tar = archive::write(&files, created).expect("written");
        let payload = archive::compress(&tar, 1).expect("compressed");
        let entries: Vec<FileEntry> = files.iter().map(entry).collect();
        let manifest = Manifest::new(
            self.plugin(),
            Customer { id: self.customer.parse().expect("one"), tier: self.tier, api_key_sha256: None },
            Target { platform: self.platform.clone(), triple: "x86_64-unknown-linux-gnu".to_owned() },
            Protocol { versions: vec![1, 2] },
            Build { created, source_sha256: None, base_sha256: self.base_digest(), toolchain: None },
            self.has_slot.then_some(Slot { offset: SLOT_AT as u64, size: SLOT_LEN as u64 }),
            Permissions::default(),
            Payload {
                size: payload.len() as u64,
                tar_size: archive::tar_size(&entries).expect("small"),
                tar_sha256: Digest::of(&tar),
                frames: vec![Frame { size: payload.len() as u64, sha256: Digest::of(&payload) }],
            },
            entries,
        );
        (manifest, payload)
    }

    fn plugin(&self) -> Plugin {
        Plugin {
            name: self.name.parse().expect("a name"),
            version: self.version.parse().expect("a version"),
            sequence: self.sequence,
            description: "does nothing".to_owned(),
            required_tier: Tier::Free,
            expires: None,
        }
    }

    /// The executable with an empty slot: one for all customers and tiers.
    fn compiled(&self) -> Vec<u8> {
        let code = noise(&self.version, SLOT_AT);
        [&code[..], &identity::empty_slot(), &noise(&self.name, 300 + self.ballast)].concat()
    }

    fn base_digest(&self) -> Digest {
        let mut base = self.compiled();
        if self.has_slot {
            base[SLOT_AT..SLOT_AT + SLOT_LEN].fill(0);
        }
        Digest::of(&base)
    }
}

/// An index of these packages, properly signed, as `km` keeps it.
pub fn index_of(packages: &[Tiny]) -> Vec<u8> {
    let entry = |tiny: &Tiny| {
        let manifest = tiny.manifest();
        let text = manifest.to_text();
        let head = Head::new(&text, &SignatureBlock::new(vec![sign(text.as_bytes())]));
        IndexEntry::of(&manifest, &head)
    };
    let customer = packages[0].customer.parse().expect("one");
    let [created, expires] = [CREATED, CREATED + 86_400].map(|time| Time::from_unix(time).expect("a time"));
    let text = Index::new(customer, 1, created, expires, packages.iter().map(entry).collect()).to_text();
    let signatures = SignatureBlock::new(vec![sign(text.as_bytes())]).to_bytes();
    UntrustedIndex { text: text.into_bytes(), signatures }.to_bytes()
}

/// A package with this text as its manifest, properly signed.
pub fn signed(manifest: &str, payload: &[u8]) -> Vec<u8> {
    let head = Head::new(manifest, &SignatureBlock::new(vec![sign(manifest.as_bytes())]));
    [&head.to_bytes()[..], payload].concat()
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public_key() -> PublicKey {
    PublicKey::from_bytes(&key().verifying_key().to_bytes()).expect("a key")
}

fn sign(document: &[u8]) -> Signature {
    Signature { key_id: public_key().id(), bytes: key().sign(document).to_bytes() }
}

fn entry(file: &ArchiveFile<'_>) -> FileEntry {
    FileEntry {
        path: file.path.clone(),
        size: file.bytes.len() as u64,
        sha256: Digest::of(file.bytes),
        executable: file.executable,
    }
}

/// Bytes that do not compress, the same in every run.
fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut block = Digest::of(seed.as_bytes());
    let mut bytes = Vec::with_capacity(length + 32);
    while bytes.len() < length {
        bytes.extend(block.as_bytes());
        block = Digest::of(block.as_bytes());
    }
    bytes.truncate(length);
    bytes
}
