//! The identity of a plugin binary: whose it is, signed, in a slot inside the executable.
//!
//! A plugin is compiled once with two reserved sections. `.kmkeys` takes the release keys once per
//! build; `.kmstamp` takes one customer's signed identity. Both are plain bytes at a fixed place of
//! the file, so filling them needs no compiler. The layouts (integers little-endian):
//!
//! ```text
//! .kmstamp, 4096 bytes, aligned to 4096          .kmkeys, 1024 bytes
//!  0  16  magic                                    0  16  magic
//! 16   4  layout version, 1                       16   4  layout version, 1
//! 20   4  capacity: 4064                          20   4  capacity: 31 keys
//! 24   4  length of the signed identity           24   4  number of keys
//! 28   4  zero                                    28   4  zero
//! 32      key id 8 | ed25519 64 | text            32      ed25519 public keys, 32 bytes each
//! ```
//!
//! What follows the used part is zero. The signature is over the text, which is TOML and begins
//! with its own tag `format = "kmid/1"`.

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::key::{KeyId, PublicKey, TrustedKeys};
use crate::name::{CustomerId, PluginName};
use crate::signature::{SIGNATURE_LEN, Signature, SignatureBlock, SignatureError};
use crate::tier::Tier;

/// Name of the section that holds the identity.
pub const SLOT_SECTION: &str = ".kmstamp";
/// Length of the identity slot in bytes.
pub const SLOT_LEN: usize = 4096;
/// Name of the section that holds the release keys.
pub const KEYS_SECTION: &str = ".kmkeys";
/// Length of the section for release keys in bytes.
pub const KEYS_LEN: usize = 1024;
/// First line of an identity's text.
pub const TAG: &str = "format = \"kmid/1\"\n";

const HEADER_LEN: usize = 32;
const LAYOUT: u32 = 1;
const CAPACITY: usize = SLOT_LEN - HEADER_LEN;
const MAX_KEYS: usize = (KEYS_LEN - HEADER_LEN) / 32;

/// The magics, kept masked, so that a program which looks for a slot does not hold one itself.
const MASK: u8 = 0xa5;
const SLOT_MAGIC_MASKED: [u8; 16] = mask(*b"kmstamp\0\xd1\x1c\x9e\x53\x07\xb8\x64\xfa");
const KEYS_MAGIC_MASKED: [u8; 16] = mask(*b"kmkeys\0\0\x8f\x2b\x70\xc5\x19\xae\x43\xd6");

const fn mask(mut bytes: [u8; 16]) -> [u8; 16] {
    let mut i = 0;
    while i < 16 {
        bytes[i] ^= MASK;
        i += 1;
    }
    bytes
}

/// An empty identity slot, for the `static` that reserves it.
pub const fn empty_slot() -> [u8; SLOT_LEN] {
    header(mask(SLOT_MAGIC_MASKED), CAPACITY)
}

/// An empty section for release keys, for the `static` that reserves it.
pub const fn empty_keys() -> [u8; KEYS_LEN] {
    header(mask(KEYS_MAGIC_MASKED), MAX_KEYS)
}

const fn header<const N: usize>(magic: [u8; 16], capacity: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < 16 {
        bytes[i] = magic[i];
        i += 1;
    }
    bytes[16] = LAYOUT as u8;
    bytes[20] = capacity as u8;
    bytes[21] = (capacity >> 8) as u8;
    bytes
}

/// The 16 bytes that an identity slot begins with.
pub fn slot_magic() -> [u8; 16] {
    mask(std::hint::black_box(SLOT_MAGIC_MASKED))
}

/// The 16 bytes that the section for release keys begins with.
pub fn keys_magic() -> [u8; 16] {
    mask(std::hint::black_box(KEYS_MAGIC_MASKED))
}

/// Why a slot, or the text in it, is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// These bytes are no slot of ours.
    #[error("this is no {0} section of a known layout")]
    NoSlot(&'static str),
    /// The slot was never filled.
    #[error("the identity slot is empty: this binary was not stamped")]
    Empty,
    /// The lengths in it cannot be.
    #[error("the length {0} in the {1} section cannot be")]
    Length(u32, &'static str),
    /// Bytes after the used part are not zero.
    #[error("the {0} section is not zero after its used part")]
    NotZero(&'static str),
    /// The identity, or the keys, are longer than the section.
    #[error("{0} bytes do not fit into the {1} section")]
    TooLong(usize, &'static str),
    /// The signature over the text.
    #[error("embedded identity: {0}")]
    Signature(#[from] SignatureError),
    /// The signed text is not an identity.
    #[error("embedded identity: {0}")]
    Text(String),
    /// A key in the section is not a key.
    #[error("embedded release keys: {0}")]
    Key(#[from] crate::key::KeyError),
}

/// Whose a plugin binary is: the signed text in its slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    format: String,
    /// The plugin.
    pub plugin: PluginName,
    /// Its version (semver).
    pub version: String,
    /// The customer it was stamped for.
    pub customer: CustomerId,
    /// The tier stamped for that customer.
    pub tier: Tier,
    /// See [`api_key_digest`]; only where the build was given a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_sha256: Option<Digest>,
    /// The binary with all bytes of its slot zeroed: ties the identity to this binary.
    pub base_sha256: Digest,
}

/// How a document refers to an API key without holding it: SHA-256 over `kmid/1 api-key\0` and the key.
pub fn api_key_digest(api_key: &str) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(b"kmid/1 api-key\0");
    hasher.update(api_key.as_bytes());
    hasher.finish()
}

impl Identity {
    /// An identity; it becomes one that counts when its [text](Self::to_text) is signed.
    pub fn new(
        plugin: PluginName,
        version: String,
        customer: CustomerId,
        tier: Tier,
        api_key_sha256: Option<Digest>,
        base_sha256: Digest,
    ) -> Self {
        Self { format: "kmid/1".to_owned(), plugin, version, customer, tier, api_key_sha256, base_sha256 }
    }

    /// The text that is signed.
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("a flat table of strings always serializes")
    }

    fn parse(text: &[u8]) -> Result<Self, IdentityError> {
        let error = |why: &str| IdentityError::Text(why.to_owned());
        let text = std::str::from_utf8(text).map_err(|_| error("not UTF-8"))?;
        if !text.starts_with(TAG) {
            return Err(error("the first line is not the tag kmid/1"));
        }
        toml::from_str(text).map_err(|e| error(e.message()))
    }
}

/// An identity with its signature, as it lies in the slot; not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIdentity {
    signature: Signature,
    text: Vec<u8>,
}

impl SignedIdentity {
    /// Joins an identity's text with the signature over it.
    pub fn new(signature: Signature, text: String) -> Self {
        Self { signature, text: text.into_bytes() }
    }

    /// The key that is said to have signed it.
    pub fn key_id(&self) -> KeyId {
        self.signature.key_id
    }

    /// Takes the signed identity out of a slot.
    ///
    /// # Errors
    /// When these bytes are no slot, an empty one, or one with something after its used part.
    pub fn from_slot(slot: &[u8; SLOT_LEN]) -> Result<Self, IdentityError> {
        let used = used(slot, slot_magic(), CAPACITY, SLOT_SECTION)?;
        let length = used as usize;
        if length == 0 {
            return Err(IdentityError::Empty);
        }
        if length <= SIGNATURE_LEN || length > CAPACITY {
            return Err(IdentityError::Length(used, SLOT_SECTION));
        }
        let (content, rest) = slot[HEADER_LEN..].split_at(length);
        if rest.iter().any(|&b| b != 0) {
            return Err(IdentityError::NotZero(SLOT_SECTION));
        }
        let (mut key_id, mut bytes) = ([0; 8], [0; 64]);
        key_id.copy_from_slice(&content[..8]);
        bytes.copy_from_slice(&content[8..SIGNATURE_LEN]);
        let signature = Signature { key_id: KeyId(key_id), bytes };
        Ok(Self { signature, text: content[SIGNATURE_LEN..].to_vec() })
    }

    /// The bytes of a slot that holds this identity.
    ///
    /// # Errors
    /// [`IdentityError::TooLong`].
    pub fn to_slot(&self) -> Result<[u8; SLOT_LEN], IdentityError> {
        let length = SIGNATURE_LEN + self.text.len();
        if length > CAPACITY {
            return Err(IdentityError::TooLong(length, SLOT_SECTION));
        }
        let mut slot = empty_slot();
        slot[24..28].copy_from_slice(&(length as u32).to_le_bytes());
        let content = &mut slot[HEADER_LEN..HEADER_LEN + length];
        content[..8].copy_from_slice(&self.signature.key_id.0);
        content[8..SIGNATURE_LEN].copy_from_slice(&self.signature.bytes);
        content[SIGNATURE_LEN..].copy_from_slice(&self.text);
        Ok(slot)
    }

    /// The identity, if a trusted key signed it.
    ///
    /// # Errors
    /// [`IdentityError::Signature`] or [`IdentityError::Text`].
    pub fn verify(&self, keys: &TrustedKeys) -> Result<Identity, IdentityError> {
        SignatureBlock::new(vec![self.signature.clone()]).verify(&self.text, keys)?;
        Identity::parse(&self.text)
    }
}

/// The bytes of a `.kmkeys` section that holds these keys.
///
/// # Errors
/// [`IdentityError::TooLong`] past 31 keys.
pub fn keys_section(keys: &[PublicKey]) -> Result<[u8; KEYS_LEN], IdentityError> {
    if keys.len() > MAX_KEYS {
        return Err(IdentityError::TooLong(keys.len() * 32, KEYS_SECTION));
    }
    let mut section = empty_keys();
    section[24..28].copy_from_slice(&(keys.len() as u32).to_le_bytes());
    for (place, key) in section[HEADER_LEN..].chunks_exact_mut(32).zip(keys) {
        place.copy_from_slice(&key.to_bytes());
    }
    Ok(section)
}

/// The release keys in a `.kmkeys` section; none in an empty one.
///
/// # Errors
/// When these bytes are no such section, or a key in it is not a key.
pub fn keys_of_section(section: &[u8; KEYS_LEN]) -> Result<TrustedKeys, IdentityError> {
    let count = used(section, keys_magic(), MAX_KEYS, KEYS_SECTION)?;
    if count as usize > MAX_KEYS {
        return Err(IdentityError::Length(count, KEYS_SECTION));
    }
    let (keys, _) = section[HEADER_LEN..].as_chunks::<32>();
    let (keys, rest) = keys.split_at(count as usize);
    if rest.iter().flatten().any(|&b| b != 0) {
        return Err(IdentityError::NotZero(KEYS_SECTION));
    }
    Ok(keys.iter().map(PublicKey::from_bytes).collect::<Result<_, _>>()?)
}

/// Reads the header both sections share, and gives the length or count in it.
fn used(bytes: &[u8], magic: [u8; 16], capacity: usize, name: &'static str) -> Result<u32, IdentityError> {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let known = bytes[..16] == magic && word(16) == LAYOUT && word(20) as usize == capacity && word(28) == 0;
    if known { Ok(word(24)) } else { Err(IdentityError::NoSlot(name)) }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn signed() -> (SignedIdentity, Identity, TrustedKeys) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = PublicKey::from_bytes(&key.verifying_key().to_bytes()).unwrap();
        let identity = Identity::new(
            "console-logger".parse().unwrap(),
            "1.0.0".to_owned(),
            "customer_123".parse().unwrap(),
            Tier::Pro,
            Some(api_key_digest("secret")),
            Digest::of(b"binary"),
        );
        let text = identity.to_text();
        let signature = Signature { key_id: public.id(), bytes: key.sign(text.as_bytes()).to_bytes() };
        (SignedIdentity::new(signature, text), identity, TrustedKeys::from_iter([public]))
    }

    #[test]
    fn an_identity_comes_out_of_the_slot_as_it_went_in() {
        let (signed, identity, keys) = signed();
        let slot = signed.to_slot().unwrap();
        assert_eq!(SignedIdentity::from_slot(&slot).unwrap().verify(&keys), Ok(identity));
    }

    #[test]
    fn every_changed_byte_of_a_slot_is_noticed() {
        let (signed, identity, keys) = signed();
        let slot = signed.to_slot().unwrap();
        for at in 0..SLOT_LEN {
            let mut changed = slot;
            changed[at] ^= 1;
            let verdict = SignedIdentity::from_slot(&changed).and_then(|s| s.verify(&keys));
            assert_ne!(verdict, Ok(identity.clone()), "byte {at}");
        }
    }

    #[test]
    fn an_empty_slot_is_empty_and_no_slot_is_none() {
        assert_eq!(SignedIdentity::from_slot(&empty_slot()), Err(IdentityError::Empty));
        assert_eq!(SignedIdentity::from_slot(&[0; SLOT_LEN]), Err(IdentityError::NoSlot(SLOT_SECTION)));
        let mut long = empty_slot();
        long[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(SignedIdentity::from_slot(&long), Err(IdentityError::Length(u32::MAX, SLOT_SECTION)));
    }

    #[test]
    fn keys_come_out_of_the_section_as_they_went_in() {
        let (_, _, keys) = signed();
        let key = *keys.get(keys.ids().next().unwrap()).unwrap();
        let section = keys_section(&[key]).unwrap();
        assert_eq!(keys_of_section(&section).unwrap().ids().collect::<Vec<_>>(), [key.id()]);
        assert!(keys_of_section(&empty_keys()).unwrap().is_empty());
        assert!(keys_section(&[key; 32]).is_err());
    }
}
