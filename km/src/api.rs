//! The plugin API: where it is, and what it answers.

mod client;
mod endpoint;
mod http;

pub(crate) use client::{Answer, ApiClient, ApiFailure};
pub(crate) use endpoint::{DEFAULT_ENDPOINT, Endpoint, parse_download_url};
pub(crate) use http::{download_client, innermost};
