//! What this machine may run: the API key, tokens from the cache or the API, and their renewal.
//!
//! ```text
//! Settings (key, endpoint) → Authority ── cache, API ──► Authorization ──► plugin (host::authenticate)
//! ```

mod authority;
mod cache;
mod settings;

pub(crate) use authority::{Authority, Authorization, Grant, NoToken, minutes};
pub(crate) use cache::TokenCache;
pub(crate) use settings::{Found, Settings, Source, detect, parse_endpoint, parse_key, read_certificates};
