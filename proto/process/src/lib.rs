//! HashiCorp's go-plugin protocol, gRPC flavour, in Rust: the host that starts plugins, and the
//! plugin that is started.
//!
//! A plugin is a process. The host starts it with a magic cookie in its environment; the plugin
//! listens on a Unix socket in a folder that the host made for it, and prints one line that says
//! where. Host and plugin then speak gRPC over that socket, in mutual TLS with certificates that
//! each made for this one process: the application's services, and go-plugin's own (health, a
//! controller that asks the plugin to leave, a stream of what it prints, a broker of further
//! connections). Either side may be written in Go with `github.com/hashicorp/go-plugin`.
//!
//! - [`host`]: [`host::Host`], [`host::PluginProcess`], [`host::CrashBudget`], and [`host::Runner`] for
//!   plugins that are not plain processes
//! - [`plugin`]: [`plugin::serve`], and [`plugin::Startup`] for those who bring their own runtime
//! - [`Broker`]: further connections, in either direction
//! - [`handshake`]: the cookie and the line, which both sides share
//!
//! Beyond the original: a plugin gets nothing of the host's environment or stdin; it dies with its
//! host, however that ends; every wait has a deadline; what a plugin writes can neither stop nor
//! block the host; sockets lie in private folders that are removed; errors carry the plugin's last
//! lines; what is executed is the open file that was checked. Not spoken: multiplexing (a host that
//! wants it is told so), reattachment, net/rpc, TCP and `PLUGIN_UNIX_SOCKET_GROUP` on the plugin side.
//!
//! Linux is the platform it is made for; other Unix systems lack the guarantees that need Linux
//! (death with the host, execution of the opened file).
//!
//! A Rust program that uses TLS of this crate should be built with `AWS_LC_SYS_NO_JITTER_ENTROPY=1`
//! in its `.cargo/config.toml`: without it the first random byte of each process costs 100 ms.
//!
#![cfg_attr(not(doctest), doc = "# A complete plugin\n\n```")]
#![cfg_attr(not(doctest), doc = include_str!("../examples/plugin.rs"))]
#![cfg_attr(not(doctest), doc = "```\n\n# A complete host\n\n```")]
#![cfg_attr(not(doctest), doc = include_str!("../examples/host.rs"))]
#![cfg_attr(not(doctest), doc = "```\n\n`cargo run -p go-plugin --example host` runs both.")]
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
pub use channel::{Channel, ConnectError};
pub use peer::Stranger;
pub use socket::ListenError;
pub use tls::TlsError;

/// Generated from `proto/plugin.proto` by a test (`KM_REGENERATE=1 cargo test -p go-plugin`).
#[allow(missing_docs, unreachable_pub, missing_debug_implementations, dead_code, clippy::all)]
mod services {
    include!("generated/plugin.rs");
}

#[cfg(fuzzing)]
pub use host::cut_lines;
