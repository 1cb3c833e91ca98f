//! The plugin API: where it is, and what it answers.

mod client;
mod endpoint;

pub(crate) use client::{Answer, ApiClient, ApiFailure};
pub(crate) use endpoint::{DEFAULT_ENDPOINT, Endpoint};
