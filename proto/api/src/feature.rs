//! What a tier includes.

use km_package::tier::Tier;

/// Printing what passes on this machine.
pub const CONSOLE_LOGGING: &str = "console_logging";
/// Sending what passes to the API.
pub const API_LOGGING: &str = "api_logging";

/// The features of a tier, besides those that a customer has of their own.
pub fn of(tier: Tier) -> &'static [&'static str] {
    match tier {
        Tier::Free => &[CONSOLE_LOGGING],
        Tier::Pro | Tier::Enterprise => &[CONSOLE_LOGGING, API_LOGGING],
    }
}

/// The lowest tier that includes a feature; none for one that customers have of their own.
pub fn tier_of(feature: &str) -> Option<Tier> {
    Tier::ALL.into_iter().find(|tier| of(*tier).contains(&feature))
}
