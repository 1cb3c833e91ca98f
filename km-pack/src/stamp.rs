//! Stamping: the release keys and one customer's identity go into a copy of the binary.

use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::identity::{Identity, IdentityError, SLOT_LEN, SignedIdentity, keys_section};
use km_package::manifest::{Customer, Slot};

use crate::compile::{Compiled, Compiler};
use crate::sign::SigningKey;
use crate::source::SourceTree;

/// A binary that knows whose it is.
#[derive(Debug)]
pub struct Stamped {
    /// What was compiled.
    pub source: SourceTree,
    /// For what.
    pub compiler: Compiler,
    /// For whom.
    pub customer: Customer,
    /// The executable's bytes.
    pub binary: Vec<u8>,
    /// Its digest with the identity zeroed: the same for every customer.
    pub base_sha256: Digest,
    /// Where the identity is, in a binary that has room for one.
    pub slot: Option<Slot>,
}

impl Compiled {
    /// Fills the reserved sections. In a binary without them the manifest alone says whose it is.
    ///
    /// # Errors
    /// When the identity does not fit.
    pub fn stamp(self, customer: Customer, key: &SigningKey) -> Result<Stamped, Failure> {
        let Self { source, compiler, mut binary, sections } = self;
        let mut slot = None;
        let mut base_sha256 = Digest::of(&binary);
        if let Some(sections) = sections {
            let refuse = |e: IdentityError| Failure::new(Kind::Failed, e);
            binary[sections.keys].copy_from_slice(&keys_section(&[*key.public()]).map_err(refuse)?);
            binary[sections.slot.clone()].fill(0);
            base_sha256 = Digest::of(&binary);
            let identity = Identity::new(
                source.name.clone(),
                source.version.to_string(),
                customer.id.clone(),
                customer.tier,
                customer.api_key_sha256,
                base_sha256,
            );
            let text = identity.to_text();
            let signed = SignedIdentity::new(key.sign(text.as_bytes()), text);
            binary[sections.slot.clone()].copy_from_slice(&signed.to_slot().map_err(refuse)?);
            slot = Some(Slot { offset: sections.slot.start as u64, size: SLOT_LEN as u64 });
        }
        Ok(Stamped { source, compiler, customer, binary, base_sha256, slot })
    }
}
