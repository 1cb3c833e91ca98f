//! Stamping: one customer's identity, for the slot of a release.

use std::sync::Arc;

use km_package::failure::{Failure, Kind};
use km_package::identity::{Identity, IdentityError, SLOT_LEN, SignedIdentity};
use km_package::manifest::Customer;

use crate::release::{Contents, Release};
use crate::sign::SigningKey;

/// A release that knows whose it is.
#[derive(Debug)]
pub struct Stamped {
    pub(crate) release: Arc<Release>,
    pub(crate) customer: Customer,
    /// The identity; none in a release without a slot.
    pub(crate) slot: Option<Box<[u8; SLOT_LEN]>>,
}

impl Release {
    /// Makes the identity of a customer. Without a slot the manifest alone will say whose it is.
    ///
    /// # Errors
    /// When the identity does not fit.
    pub fn stamp(self: &Arc<Self>, customer: Customer, key: &SigningKey) -> Result<Stamped, Failure> {
        let slot = match &self.contents {
            Contents::Whole { .. } => None,
            Contents::Slotted(_) => {
                let identity = Identity::new(
                    self.about.name.clone(),
                    self.about.version.to_string(),
                    customer.id.clone(),
                    customer.tier,
                    customer.api_key_sha256,
                    self.base_sha256,
                );
                let text = identity.to_text();
                let signed = SignedIdentity::new(key.sign(text.as_bytes()), text);
                let slot = signed.to_slot().map_err(|e: IdentityError| Failure::new(Kind::Failed, e))?;
                Some(Box::new(slot))
            }
        };
        Ok(Stamped { release: Arc::clone(self), customer, slot })
    }
}
