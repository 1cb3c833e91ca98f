//! Where the reserved sections of a compiled plugin lie.

use std::ops::Range;

use km_package::failure::{Failure, Kind};
use km_package::identity::{
    IdentityError, KEYS_LEN, KEYS_SECTION, SLOT_LEN, SLOT_SECTION, SignedIdentity, empty_keys, empty_slot,
    keys_magic, keys_of_section, slot_magic,
};
use object::{Object as _, ObjectSection as _};

/// The places of the two reserved sections in the file, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sections {
    /// `.kmstamp`
    pub slot: Range<usize>,
    /// `.kmkeys`
    pub keys: Range<usize>,
}

impl Sections {
    /// Finds them by their names, or where the compiler has no named sections (Go's) by what they begin
    /// with; none in a binary that has neither.
    ///
    /// # Errors
    /// When only one is there, it is not empty, or something that looks like one is elsewhere.
    pub fn find(binary: &[u8]) -> Result<Option<Self>, Failure> {
        let slot = section::<SLOT_LEN>(binary, SLOT_SECTION, slot_magic())?;
        let keys = section::<KEYS_LEN>(binary, KEYS_SECTION, keys_magic())?;
        let (Some((slot, slot_bytes)), Some((keys, keys_bytes))) = (&slot, &keys) else {
            return match (slot, keys) {
                (None, None) => Ok(None),
                _ => Err(refuse("it has only one of the two reserved sections".to_owned())),
            };
        };
        if *slot_bytes != empty_slot() {
            return Err(refuse(match SignedIdentity::from_slot(slot_bytes) {
                Ok(_) => "its identity slot is already filled".to_owned(),
                // The header is an empty slot's; what follows is not.
                Err(IdentityError::Empty) => IdentityError::NotZero(SLOT_SECTION).to_string(),
                Err(e) => e.to_string(),
            }));
        }
        if *keys_bytes != empty_keys() {
            return Err(refuse(match keys_of_section(keys_bytes) {
                Ok(_) => "its release keys are already filled in".to_owned(),
                Err(e) => e.to_string(),
            }));
        }
        Ok(Some(Self { slot: slot.clone(), keys: keys.clone() }))
    }
}

type Found<const N: usize> = Option<(Range<usize>, [u8; N])>;

/// One section of `N` bytes that begins with `magic`, which must be nowhere else in the file.
fn section<const N: usize>(binary: &[u8], name: &str, magic: [u8; 16]) -> Result<Found<N>, Failure> {
    let file = object::File::parse(binary).map_err(|e| refuse(format!("not an executable: {e}")))?;
    let copies = places(binary, magic);
    let place = match (file.section_by_name(name), &copies[..]) {
        (Some(section), _) => section.file_range(),
        (None, []) => return Ok(None),
        (None, [at, ..]) => Some((*at as u64, N as u64)),
    };
    let place = place
        .and_then(|(at, len)| Some(usize::try_from(at).ok()?..usize::try_from(at.checked_add(len)?).ok()?));
    let Some((place, bytes)) =
        place.and_then(|place| Some((place.clone(), <[u8; N]>::try_from(binary.get(place)?).ok()?)))
    else {
        return Err(refuse(format!("its section {name} is not {N} bytes in the file")));
    };
    if copies.len() != 1 || !bytes.starts_with(&magic) {
        let copies = copies.len();
        return Err(refuse(format!(
            "the mark of {name} is {copies} times in the file, or not where the section begins"
        )));
    }
    Ok(Some((place, bytes)))
}

/// Where the magic is.
fn places(binary: &[u8], magic: [u8; 16]) -> Vec<usize> {
    let windows = binary.windows(magic.len()).enumerate();
    windows.filter(|(_, window)| *window == magic).map(|(at, _)| at).collect()
}

fn refuse(what: String) -> Failure {
    Failure::new(Kind::Failed, format_args!("this binary cannot be stamped: {what}"))
        .help("build it anew, with this version of crate km-plugin or of kmstamp.go")
}
