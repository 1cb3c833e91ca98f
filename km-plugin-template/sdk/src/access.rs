//! What a plugin may do: told at the beginning of a session, and again whenever it changes.

use std::fmt;

pub use km_api::token::Token;
/// What the API says no with, what it takes as events, and what a tier includes.
pub use km_api::{error, event, feature};
use km_package::tier::Tier;

/// What a plugin may do until it hears otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// The tier that it works at: the lowest of the subscription's and the one stamped into it. Free
    /// where no subscription is known.
    pub tier: Tier,
    /// The features of the subscription, by name ([`feature`]); none where none is known.
    pub features: Vec<String>,
    /// Until when, in Unix seconds; none where that does not end. `km` renews it before.
    pub expires_at: Option<i64>,
    /// The API that the subscription is with; none without a token.
    pub api: Option<Api>,
}

impl Access {
    /// Whether the subscription includes a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|own| own == feature)
    }
}

/// An API, and what it takes to talk to it for this plugin and its customer.
#[derive(Clone, PartialEq, Eq)]
pub struct Api {
    /// Its base URL.
    pub endpoint: String,
    /// A short-lived token, for the header `Authorization: Bearer …`.
    pub token: Token,
    /// Certificates (PEM) that are trusted there besides the system's; empty if none.
    pub certificates: String,
    /// The proxy on the way there, as in `HTTPS_PROXY`; empty if none. May hold a password.
    pub proxy: String,
    /// The hosts that are reached without it, as in `NO_PROXY`.
    pub no_proxy: String,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
