//! The host side: start a plugin, speak with it, and be sure that it is gone afterwards.
//!
//! Every wait has a deadline. A plugin gets nothing of the host's environment but what it is
//! handed, no stdin, a process group and a private socket folder of its own; it dies with the host;
//! and what is executed is the open file that the host hands in, not a path.

mod error;
mod log;
mod output;
mod plugin;
mod process;
mod restart;
mod runner;
mod sockets;

pub use error::{PluginError, Trouble};
pub use log::{Level, LogEntry};
#[cfg(fuzzing)]
pub use output::cut_lines;
pub use output::{LineSink, Source};
pub use plugin::PluginProcess;
pub use process::Executable;
pub use restart::{CrashBudget, RestartPolicy, Verdict};
pub use runner::{Instance, Pipe, Runner, Running};
pub use sockets::sweep_sockets;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::handshake::Cookie;

/// How plugins are started.
#[derive(Debug, Clone)]
pub struct Host {
    /// What tells the plugin that it is one.
    pub cookie: Cookie,
    /// Application protocol versions that this host speaks.
    pub versions: Vec<u32>,
    /// Folder in which a private folder is made for the plugin's socket. Socket paths are limited
    /// to some 100 bytes.
    pub socket_root: PathBuf,
    /// All of the plugin's environment, besides what the protocol itself sets.
    pub environment: Vec<(OsString, OsString)>,
    /// How long a plugin may take until it has said where it listens.
    pub start_timeout: Duration,
    /// Whether the connection is encrypted.
    pub tls: Tls,
    /// Whether plugins can open further connections ([`PluginProcess::broker`]). Without it the
    /// plugin's socket is removed as soon as the connection stands.
    pub broker: bool,
}

impl Host {
    /// With an empty environment, ten seconds to start in, mutual TLS where the plugin has it, and
    /// no broker.
    pub fn new(cookie: Cookie, versions: impl Into<Vec<u32>>, socket_root: impl Into<PathBuf>) -> Self {
        Self {
            cookie,
            versions: versions.into(),
            socket_root: socket_root.into(),
            environment: Vec::new(),
            start_timeout: Duration::from_secs(10),
            tls: Tls::Preferred,
            broker: false,
        }
    }
}

/// Whether host and plugin authenticate each other by TLS. Over a Unix socket in a private folder
/// the kernel says who listens, so that plaintext is no gap there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Plaintext.
    Off,
    /// Asked for; a plugin that has none is spoken to in plaintext, over a Unix socket only.
    Preferred,
    /// A plugin that has none is refused.
    Required,
}

/// How long each step of stopping may take before the next, harder one.
#[derive(Debug, Clone, Copy)]
pub struct Grace {
    /// From the `Shutdown` call to the process's end, before SIGTERM.
    pub shutdown: Duration,
    /// From SIGTERM to SIGKILL.
    pub terminate: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        Self { shutdown: Duration::from_secs(2), terminate: Duration::from_secs(2) }
    }
}

/// How a plugin left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// It did as it was asked, or was gone already.
    Request,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}
