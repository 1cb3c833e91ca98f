//! `POST /api/plugins/authenticate`: an API key and a binary's identity for a token.

use jiff::Timestamp;
use km_package::digest::Digest;
use km_package::name::{CustomerId, PluginName};
use km_package::tier::Tier;
use serde::{Deserialize, Serialize};

/// Which binary asks, and for whom it was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthenticateRequest {
    /// The plugin.
    pub plugin_name: PluginName,
    /// Its version (semver).
    pub plugin_version: String,
    /// The customer stamped into it.
    pub customer_id: CustomerId,
    /// The digest of its executable.
    pub binary_sha256: Digest,
    /// When it asks, by its own clock.
    pub timestamp: Timestamp,
}

/// What it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthenticateAnswer {
    /// Whether the question could be answered.
    pub success: bool,
    /// Whether the plugin may run.
    pub authorized: bool,
    /// The tier of the subscription.
    pub user_tier: Tier,
    /// What comes with it.
    pub features: Vec<String>,
    /// When the token ends.
    pub expires_at: Timestamp,
    /// Whose subscription it is.
    pub customer_id: CustomerId,
    /// `<name>@<version>`, as asked.
    pub plugin_id: String,
    /// The token: [`Claims`](crate::token::Claims), signed.
    pub token: String,
    /// Why not, where it may not.
    pub error: Option<String>,
}
