//! `GET /api/subscription/status`, `GET /api/user/features`, `GET /health`.

use jiff::Timestamp;
use km_package::name::CustomerId;
use km_package::tier::Tier;
use serde::{Deserialize, Serialize};

/// The subscription of an API key's customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionStatus {
    /// Its tier.
    pub subscription_tier: Tier,
    /// Whether it is paid for and not suspended.
    pub active: bool,
    /// Whose it is.
    pub customer_id: CustomerId,
}

/// What the subscription includes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFeatures {
    /// Its tier.
    pub tier: Tier,
    /// By name.
    pub features: Vec<String>,
    /// When the subscription ends; none for one without an end.
    pub expires_at: Option<Timestamp>,
}

/// Whether the server works, and what time it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `healthy`
    pub status: String,
    /// The server's clock.
    pub time: Timestamp,
}
