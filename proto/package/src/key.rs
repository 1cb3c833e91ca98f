//! Release keys: their public half, their ids, and the set that someone trusts.
//!
//! Keys are ed25519 (RFC 8032) in SPKI PEM (RFC 8410), as `openssl pkey -pubout` writes them. The
//! private half is read by `km-pack` alone.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};
use ed25519_dalek::{Signature, VerifyingKey};

use crate::digest::Digest;

/// The id of a release key: the first 8 bytes of SHA-256 over its SPKI DER; 16 hex digits as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut id = [0; 8];
        hex::decode_to_slice(text, &mut id).map_err(|_| KeyError::Id(text.to_owned()))?;
        Ok(Self(id))
    }
}

/// Why something is not a usable release key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 16 hex digits.
    #[error("{0:?} is not a key id of 16 hex digits")]
    Id(String),
    /// A private key where a public one belongs.
    #[error("this is a private key; only its public half belongs here")]
    Private,
    /// Not an ed25519 public key in SPKI PEM.
    #[error("this is not an ed25519 public key in PEM (`-----BEGIN PUBLIC KEY-----`)")]
    NotEd25519,
    /// One of the few keys under which anybody can make signatures.
    #[error("this key is weak: anybody can sign with it")]
    Weak,
}

/// The public half of a release key. It is never a weak one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads SPKI PEM.
    ///
    /// # Errors
    /// For anything but one ed25519 public key, and for a weak one.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        if pem.contains("PRIVATE KEY") {
            return Err(KeyError::Private);
        }
        let key = VerifyingKey::from_public_key_pem(pem.trim()).map_err(|_| KeyError::NotEd25519)?;
        Self::from_key(key)
    }

    /// The 32 bytes of RFC 8032.
    ///
    /// # Errors
    /// When they are no point of the curve, or a weak one.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        Self::from_key(VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotEd25519)?)
    }

    /// The 32 bytes of RFC 8032.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// As SPKI PEM, which `openssl pkey -pubin` reads.
    pub fn to_pem(&self) -> String {
        self.0
            .to_public_key_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF)
            .expect("32 bytes always encode")
    }

    /// The id of this key.
    pub fn id(&self) -> KeyId {
        let der = self.0.to_public_key_der().expect("32 bytes always encode");
        let mut id = [0; 8];
        id.copy_from_slice(&Digest::of(der.as_bytes()).as_bytes()[..8]);
        KeyId(id)
    }

    /// Whether `signature` is this key's over `message`, by the strict rules: canonical encodings
    /// and no small-order points, so that nobody can make one signature out of another.
    pub fn holds(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }

    fn from_key(key: VerifyingKey) -> Result<Self, KeyError> {
        // RFC 8032, 5.1.3: a y of p or more is no encoding.
        let mut y = key.to_bytes();
        y[31] &= 0x7f;
        if y[31] == 0x7f && y[1..31].iter().all(|&b| b == 0xff) && y[0] >= 0xed {
            return Err(KeyError::NotEd25519);
        }
        if key.is_weak() { Err(KeyError::Weak) } else { Ok(Self(key)) }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

/// The release keys that somebody trusts.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(Vec<PublicKey>);

impl TrustedKeys {
    /// The key with this id, if it is trusted.
    pub fn get(&self, id: KeyId) -> Option<&PublicKey> {
        self.0.iter().find(|key| key.id() == id)
    }

    /// The ids of all trusted keys.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.iter().map(PublicKey::id)
    }

    /// Whether nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extend<PublicKey> for TrustedKeys {
    fn extend<I: IntoIterator<Item = PublicKey>>(&mut self, keys: I) {
        self.0.extend(keys);
    }
}

impl FromIterator<PublicKey> for TrustedKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_point_is_refused_as_a_key() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), Err(KeyError::Weak));
    }

    #[test]
    fn the_id_is_what_openssl_and_sha256sum_give() {
        // openssl pkey -pubin -in key.pem -outform DER | sha256sum
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
        let key = PublicKey::from_pem(pem).unwrap();
        assert_eq!(key.to_pem(), pem);
        assert_eq!(key.id().to_string(), "06e3fd8fda29bb60");
        assert_eq!(key.id().to_string().parse(), Ok(key.id()));
    }

    #[test]
    fn other_keys_and_private_keys_are_named_as_such() {
        let x25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
        assert_eq!(PublicKey::from_pem(x25519), Err(KeyError::NotEd25519));
        assert_eq!(PublicKey::from_pem("-----BEGIN PRIVATE KEY-----"), Err(KeyError::Private));
        assert_eq!(PublicKey::from_pem(""), Err(KeyError::NotEd25519));
    }
}
