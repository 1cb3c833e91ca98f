//! HashiCorp's go-plugin protocol, gRPC flavour, in Rust: the host that starts plugins, and the
//! plugin that is started. It knows nothing of Kilometers.
//!
//! A plugin is a process. The host starts it with a magic cookie in its environment; the plugin
//! listens on a Unix socket in a folder that the host made for it, and prints one line that says
//! where. Host and plugin then speak gRPC over that socket, beside the application's services
//! those of go-plugin itself: health and a controller that asks the plugin to leave.
//!
//! - [`host`]: [`host::PluginProcess::start`], [`host::PluginProcess::stop`]
//! - [`plugin`]: [`plugin::Startup::begin`], [`plugin::Startup::serve`]
//! - [`handshake`]: the cookie and the line, which both sides share
//!
//! Linux is the platform it is made for; other Unix systems compile, without the guarantees that
//! need Linux (death with the host, execution of the opened file).

#![warn(missing_docs)]

mod broker;
mod channel;
pub mod handshake;
pub mod host;
mod peer;
pub mod plugin;
mod socket;
mod tls;

pub use broker::{Broker, BrokerError, Offer};
pub use channel::ConnectError;
pub use peer::Stranger;
pub use socket::ListenError;
pub use tls::TlsError;

/// Generated from `proto/plugin.proto` by a test (`KM_REGENERATE=1 cargo test -p go-plugin`).
#[allow(missing_docs, unreachable_pub, missing_debug_implementations, dead_code, clippy::all)]
mod services {
    include!("generated/plugin.rs");
}
