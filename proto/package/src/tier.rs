//! Subscription tiers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A subscription tier, in ascending order.
///
/// Written `Free`, `Pro`, `Enterprise`; [`FromStr`] reads any case, for people; serde reads only
/// the written form, for documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Tier {
    /// Needs no subscription.
    #[default]
    Free,
    /// The paid tier.
    Pro,
    /// The highest tier.
    Enterprise,
}

impl Tier {
    /// All tiers, ascending.
    pub const ALL: [Self; 3] = [Self::Free, Self::Pro, Self::Enterprise];

    /// The written form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "Free",
            Self::Pro => "Pro",
            Self::Enterprise => "Enterprise",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tier: use Free, Pro or Enterprise")]
pub struct TierError(String);

impl FromStr for Tier {
    type Err = TierError;

    fn from_str(text: &str) -> Result<Self, TierError> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| TierError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_case_is_read_and_the_order_is_the_price() {
        assert_eq!("pRO".parse(), Ok(Tier::Pro));
        assert!("gold".parse::<Tier>().is_err());
        assert!(Tier::Free < Tier::Pro && Tier::Pro < Tier::Enterprise);
    }
}
