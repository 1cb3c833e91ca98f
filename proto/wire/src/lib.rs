//! What `km` and a plugin say to each other: the generated messages of protocols 1 and 2, the
//! constants of the handshake, and the one reading of a JSON-RPC message that both sides share.
//!
//! The code under `generated/` is made from `proto/*.proto` by a test (`KM_REGENERATE=1 cargo test
//! -p km-proto`), so that neither a build nor a plugin author needs a protobuf compiler.

#![warn(missing_docs)]

pub mod event;
pub mod jsonrpc;
pub mod mcp;

/// Protocol 1: package `kilometersplugin`, the protocol of every existing plugin.
#[allow(missing_docs, unreachable_pub, missing_debug_implementations, clippy::all)]
pub mod v1 {
    include!("generated/kilometersplugin.rs");
}

/// Protocol 2: package `kilometers.plugin.v2`, beside protocol 1 in the same plugin.
#[allow(missing_docs, unreachable_pub, missing_debug_implementations, clippy::all)]
pub mod v2 {
    include!("generated/kilometers.plugin.v2.rs");
}

/// Name of the environment variable that a plugin host sets.
pub const COOKIE_KEY: &str = "KILOMETERS_PLUGIN";
/// Its value.
pub const COOKIE_VALUE: &str = "kilometers_monitoring_plugin";

/// The protocol versions that there are.
pub const PROTOCOL_VERSIONS: [u32; 2] = [1, 2];

/// All that a plugin sees of an environment, besides what the process protocol sets.
pub const PLUGIN_ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")];

/// Largest message that protocol 1 carries as such: stock Go plugins accept 4 MiB for the whole
/// request, and the rest of the request needs room too. A longer message is delivered as an
/// [`event::MessageTooLarge`].
pub const MAX_V1_MESSAGE: usize = 4 * 1024 * 1024 - 1024;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    Inbound,
    /// From the server to the client.
    Outbound,
}

impl Direction {
    /// As protocol 1 writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// Reads what protocol 1 writes.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Inbound, Self::Outbound].into_iter().find(|direction| direction.as_str() == text)
    }
}
