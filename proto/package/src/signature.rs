//! The signature block: who signed a document, and whether it holds.

use std::fmt;

use crate::key::{KeyId, TrustedKeys};

/// One signature over a document: which key is said to have made it, and the 64 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    /// The key that is said to have made it; it selects the key, no other is tried.
    pub key_id: KeyId,
    /// The ed25519 signature over the document's exact bytes.
    pub bytes: [u8; 64],
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", self.key_id)
    }
}

/// Length of one signature on disk: key id, then signature.
pub const SIGNATURE_LEN: usize = 8 + 64;

/// The signatures of one document: n × (key id 8 | ed25519 64).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureBlock(Vec<Signature>);

/// Why a signature block does not make its document believable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The block is empty or cut.
    #[error("the signature block is {0} bytes; it must be a multiple of 72 and not empty")]
    Length(usize),
    /// A trusted key is named, and its signature is wrong.
    #[error("the signature by the trusted key {0} does not hold: the content is not what was signed")]
    Broken(KeyId),
    /// Only keys that nobody here trusts.
    #[error("signed by {} only, and no such key is trusted here", list(.0))]
    Untrusted(Vec<KeyId>),
}

fn list(ids: &[KeyId]) -> String {
    ids.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}

impl SignatureBlock {
    /// Cuts a block into its signatures.
    ///
    /// # Errors
    /// [`SignatureError::Length`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        let (entries, rest) = bytes.as_chunks::<SIGNATURE_LEN>();
        if entries.is_empty() || !rest.is_empty() {
            return Err(SignatureError::Length(bytes.len()));
        }
        let entry = |entry: &[u8; SIGNATURE_LEN]| {
            let (mut key_id, mut bytes) = ([0; 8], [0; 64]);
            key_id.copy_from_slice(&entry[..8]);
            bytes.copy_from_slice(&entry[8..]);
            Signature { key_id: KeyId(key_id), bytes }
        };
        Ok(Self(entries.iter().map(entry).collect()))
    }

    /// The block of these signatures.
    pub fn new(signatures: Vec<Signature>) -> Self {
        Self(signatures)
    }

    /// The bytes on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|s| s.key_id.0.into_iter().chain(s.bytes)).collect()
    }

    /// The keys that are said to have signed.
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.0.iter().map(|s| s.key_id).collect()
    }

    /// The distinct trusted keys that signed `document`, in the block's order.
    ///
    /// # Errors
    /// When a trusted key's signature does not hold, or no signer is trusted. Unknown key ids
    /// count for nothing.
    pub fn verify(&self, document: &[u8], keys: &TrustedKeys) -> Result<Vec<KeyId>, SignatureError> {
        let mut signers = Vec::new();
        for signature in &self.0 {
            let Some(key) = keys.get(signature.key_id) else { continue };
            if !key.holds(document, &signature.bytes) {
                return Err(SignatureError::Broken(signature.key_id));
            }
            if !signers.contains(&signature.key_id) {
                signers.push(signature.key_id);
            }
        }
        if signers.is_empty() {
            return Err(SignatureError::Untrusted(self.key_ids()));
        }
        Ok(signers)
    }

    /// The distinct trusted keys that have a signature of `document` here, among others.
    ///
    /// For a document that is replaced while its signatures lie beside it: for a moment the block holds
    /// those of the text before and of the text after.
    ///
    /// # Errors
    /// When none of them holds.
    pub fn signers_of(&self, document: &[u8], keys: &TrustedKeys) -> Result<Vec<KeyId>, SignatureError> {
        let (mut signers, mut broken) = (Vec::new(), None);
        for signature in &self.0 {
            let Some(key) = keys.get(signature.key_id) else { continue };
            if !key.holds(document, &signature.bytes) {
                broken = Some(signature.key_id);
            } else if !signers.contains(&signature.key_id) {
                signers.push(signature.key_id);
            }
        }
        match (signers.is_empty(), broken) {
            (false, _) => Ok(signers),
            (true, Some(key_id)) => Err(SignatureError::Broken(key_id)),
            (true, None) => Err(SignatureError::Untrusted(self.key_ids())),
        }
    }

    /// The signatures.
    pub fn signatures(&self) -> &[Signature] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;
    use crate::key::PublicKey;

    fn key(seed: u8) -> (SigningKey, PublicKey) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = PublicKey::from_bytes(&key.verifying_key().to_bytes()).unwrap();
        (key, public)
    }

    fn sign(seed: u8, document: &[u8]) -> Signature {
        let (key, public) = key(seed);
        Signature { key_id: public.id(), bytes: key.sign(document).to_bytes() }
    }

    #[test]
    fn the_same_key_twice_counts_once_and_unknown_keys_not_at_all() {
        let (_, trusted) = key(1);
        let block = SignatureBlock::new(vec![sign(2, b"x"), sign(1, b"x"), sign(1, b"x")]);
        let block = SignatureBlock::parse(&block.to_bytes()).unwrap();
        let keys = TrustedKeys::from_iter([trusted]);
        assert_eq!(block.verify(b"x", &keys), Ok(vec![trusted.id()]));
        assert_eq!(block.verify(b"y", &keys), Err(SignatureError::Broken(trusted.id())));
        assert!(matches!(
            block.verify(b"x", &TrustedKeys::default()),
            Err(SignatureError::Untrusted(ids)) if ids.len() == 3
        ));
    }

    #[test]
    fn a_key_id_selects_the_key_and_no_other_is_tried() {
        let (_, one) = key(1);
        let (_, two) = key(2);
        let swapped = Signature { key_id: two.id(), ..sign(1, b"x") };
        let verdict = SignatureBlock::new(vec![swapped]).verify(b"x", &TrustedKeys::from_iter([one, two]));
        assert_eq!(verdict, Err(SignatureError::Broken(two.id())));
    }

    #[test]
    fn an_empty_or_cut_block_is_no_block() {
        for len in [0, 1, 71, 73] {
            assert_eq!(SignatureBlock::parse(&vec![0; len]), Err(SignatureError::Length(len)));
        }
    }
}
