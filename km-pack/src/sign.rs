//! Signing: the only module that reads private keys.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use km_package::envelope::Head;
use km_package::failure::{Failure, Kind};
use km_package::key::PublicKey;
use km_package::manifest::Manifest;
use km_package::signature::{Signature, SignatureBlock};
use zeroize::Zeroizing;

use crate::environment::Environment;
use crate::manifest::Unsigned;
use crate::release::SharedFrame;

/// Where a signing key is looked for when none is named.
const DEFAULT_KEY: &str = "keys/release.key.pem";

/// An ed25519 release key that can sign. Its bytes are wiped when it is dropped.
#[derive(Clone)]
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id())
    }
}

impl SigningKey {
    /// The key of `--key`, else of `KM_SIGNING_KEY` (a path, or the PEM itself), else
    /// `keys/release.key.pem`.
    ///
    /// # Errors
    /// When there is none (exit 6), or it is not a usable ed25519 key.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, Failure> {
        let pem_itself = environment.signing_key.as_ref().filter(|value| value.contains("-----BEGIN"));
        match (path, pem_itself, &environment.signing_key) {
            (Some(path), ..) => Self::read(&environment.current_dir.join(path)),
            (None, Some(pem), _) => Self::from_pem(pem).map_err(|e| e.context("KM_SIGNING_KEY")),
            (None, None, Some(path)) => {
                Self::read(&environment.current_dir.join(path)).map_err(|e| e.context("KM_SIGNING_KEY"))
            }
            (None, None, None) => Self::read(&environment.current_dir.join(DEFAULT_KEY)),
        }
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs bytes.
    pub fn sign(&self, bytes: &[u8]) -> Signature {
        Signature { key_id: self.public.id(), bytes: self.key.sign(bytes).to_bytes() }
    }

    /// A new key from the system's randomness, as PKCS#8 PEM in `<name>.key.pem` (mode 0600) with
    /// its public half in `<name>.pub.pem`. Nothing is overwritten.
    ///
    /// # Errors
    /// When one of the files exists (exit 7) or cannot be written.
    pub fn generate(folder: &Path, name: &str) -> Result<GeneratedKey, Failure> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut seed[..])
            .map_err(|e| Failure::new(Kind::Local, format_args!("the system gives no randomness: {e}")))?;
        let key = Self::from_seed(&seed)?;
        // Version 1 of PKCS#8, without the public key inside: openssl 3.0 reads no other.
        let pem = KeypairBytes { secret_key: key.key.to_bytes(), public_key: None }
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|e| Failure::new(Kind::Failed, format_args!("cannot encode the key: {e}")))?;

        let private_path = folder.join(format!("{name}.key.pem"));
        let public_path = folder.join(format!("{name}.pub.pem"));
        std::fs::create_dir_all(folder).map_err(|e| Failure::file("create", folder, &e))?;
        if public_path.exists() {
            return Err(exists(&public_path));
        }
        write_new(&private_path, pem.as_bytes(), 0o600)?;
        write_new(&public_path, key.public.to_pem().as_bytes(), 0o644)?;
        Ok(GeneratedKey { public: key.public, private_path, public_path })
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(path).map(Zeroizing::new).map_err(|e| {
            let failure = Failure::file("read the signing key", path, &e);
            match e.kind() {
                io::ErrorKind::NotFound => {
                    failure.help("make one with `km-pack keygen`, or name one with --key")
                }
                _ => failure,
            }
        })?;
        let pem = std::str::from_utf8(&bytes).unwrap_or_default();
        Self::from_pem(pem).map_err(|e| e.context(path.display()))
    }

    fn from_pem(pem: &str) -> Result<Self, Failure> {
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(pem.trim()).map_err(|_| {
            Failure::new(Kind::Failed, "this is not an ed25519 private key in PKCS#8 PEM").help(
                "`km-pack keygen` makes one, and so does `openssl genpkey -algorithm ed25519`; keys with a \
                 passphrase must be decrypted first",
            )
        })?;
        Self::from_seed(&Zeroizing::new(key.to_bytes()))
    }

    fn from_seed(seed: &[u8; 32]) -> Result<Self, Failure> {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = PublicKey::from_bytes(&key.verifying_key().to_bytes())
            .map_err(|e| Failure::new(Kind::Failed, e))?;
        Ok(Self { key, public })
    }
}

/// A key that was just made.
#[derive(Debug)]
pub struct GeneratedKey {
    /// Its public half.
    pub public: PublicKey,
    /// Where the private half lies.
    pub private_path: PathBuf,
    /// Where the public half lies.
    pub public_path: PathBuf,
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        let mut file: File = options.open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => Failure::file("write", path, &e),
    })
}

fn exists(path: &Path) -> Failure {
    Failure::new(Kind::Conflict, format_args!("{} exists; keys are never overwritten", path.display()))
        .help("choose another --name or --out, or move the old key away")
}

/// A package whose manifest is signed; only the envelope is missing.
#[derive(Debug)]
pub struct Signed {
    /// The manifest.
    pub manifest: Manifest,
    /// Its exact bytes and the signatures over them.
    pub head: Head,
    /// The compressed frames.
    pub frames: Vec<SharedFrame>,
}

impl Unsigned {
    /// Signs the manifest.
    pub fn sign(self, key: &SigningKey) -> Signed {
        let text = self.manifest.to_text();
        let signatures = SignatureBlock::new(vec![key.sign(text.as_bytes())]);
        Signed { head: Head::new(&text, &signatures), manifest: self.manifest, frames: self.frames }
    }
}
