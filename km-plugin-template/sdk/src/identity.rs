//! Whose this binary is: the identity that `km-pack` stamped into it.

use std::cell::UnsafeCell;
use std::fmt;

use km_package::identity::{
    Identity, IdentityError, KEYS_LEN, SLOT_LEN, SignedIdentity, empty_keys, empty_slot, keys_of_section,
};
use km_package::key::KeyId;

use crate::About;

/// A reserved section. In a cell, so that it counts as writable data and lies at the end of the
/// file: all that precedes it is shared between customers.
#[repr(C, align(4096))]
struct Slot(UnsafeCell<[u8; SLOT_LEN]>);

#[repr(C, align(64))]
struct Keys(UnsafeCell<[u8; KEYS_LEN]>);

// SAFETY: nothing in this program writes to it; it is filled in the file, before the program runs.
unsafe impl Sync for Slot {}
// SAFETY: as above.
unsafe impl Sync for Keys {}

#[used]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__kmkeys"))]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".kmkeys"))]
static KEYS: Keys = Keys(UnsafeCell::new(empty_keys()));

#[used]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__kmstamp"))]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".kmstamp"))]
static SLOT: Slot = Slot(UnsafeCell::new(empty_slot()));

/// What the slot of this binary holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stamp {
    /// Nothing: it was compiled, but not built by `km-pack`.
    None,
    /// An identity that holds.
    Signed {
        /// Whose it is.
        identity: Identity,
        /// The release key that signed it.
        key_id: KeyId,
    },
    /// Something that does not hold: the binary was tampered with.
    Wrong(IdentityError),
}

impl Stamp {
    pub(crate) fn read(about: &About) -> Self {
        // SAFETY: the static is valid and never written to. Volatile, since the optimizer would
        // take the contents from the source otherwise: it cannot know that the file was changed.
        let slot = unsafe { SLOT.0.get().read_volatile() };
        // SAFETY: as above.
        let keys = unsafe { KEYS.0.get().read_volatile() };
        match Self::verify(about, &slot, &keys) {
            Ok((identity, key_id)) => Self::Signed { identity, key_id },
            Err(IdentityError::Empty) => Self::None,
            Err(error) => Self::Wrong(error),
        }
    }

    fn verify(
        about: &About,
        slot: &[u8; SLOT_LEN],
        keys: &[u8; KEYS_LEN],
    ) -> Result<(Identity, KeyId), IdentityError> {
        let signed = SignedIdentity::from_slot(slot)?;
        let identity = signed.verify(&keys_of_section(keys)?)?;
        let stamped = (identity.plugin.as_str(), identity.version.as_str());
        if stamped != (about.name(), about.version) {
            let (plugin, version) = stamped;
            return Err(IdentityError::Text(format!("it is of another binary, {plugin} {version}")));
        }
        Ok((identity, signed.key_id()))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "customer: none (not stamped; `km-pack build` stamps it)\ntier: Free"),
            Self::Signed { identity, key_id } => write!(
                f,
                "customer: {}\ntier: {}\nsigned by: {key_id}\nbase sha256: {}",
                identity.customer, identity.tier, identity.base_sha256
            ),
            Self::Wrong(error) => write!(f, "customer: unknown\nerror: {error}"),
        }
    }
}
