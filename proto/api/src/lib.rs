//! The plugin API: what `km` asks over HTTP, what `km-pack serve` answers, and the token with which
//! a plugin is told what its customer may do.
//!
//! | module | what it owns |
//! |---|---|
//! | [`api_key`] | the secret that a customer holds |
//! | [`authenticate`], [`provision`], [`subscription`], [`event`], [`error`] | requests and answers |
//! | [`token`], [`key_set`] | tokens, and the keys that they are checked with |
//! | [`feature`] | what a tier includes |
//!
//! JSON throughout, times in RFC 3339 but in tokens (RFC 7519: Unix seconds). Nothing here opens a
//! socket, reads a clock or holds a private key.

#![warn(missing_docs)]

pub mod api_key;
pub mod authenticate;
pub mod error;
pub mod event;
pub mod feature;
pub mod key_set;
#[cfg(feature = "provision")]
pub mod provision;
pub mod subscription;
pub mod token;

/// Where each endpoint is, under the API's base URL.
pub mod path {
    /// Whether the server works.
    pub const HEALTH: &str = "/health";
    /// The keys that tokens are checked with: [`KeySet`](crate::key_set::KeySet).
    pub const KEYS: &str = "/.well-known/jwks.json";
    /// A token for one plugin.
    pub const AUTHENTICATE: &str = "/api/plugins/authenticate";
    /// What a customer may install.
    pub const PROVISION: &str = "/api/plugins/provision";
    /// Before the file name of a package.
    pub const DOWNLOAD: &str = "/api/plugins/download";
    /// The tier that a customer has.
    pub const SUBSCRIPTION: &str = "/api/subscription/status";
    /// The features that come with it.
    pub const FEATURES: &str = "/api/user/features";
    /// Takes events of plugins, with a token.
    pub const EVENTS: &str = "/api/events/batch";
}
