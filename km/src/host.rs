//! Processes: a plugin from the verified file to its end, and the monitored server.
//!
//! A plugin goes through these types, and each step takes the one before by value:
//!
//! ```text
//! store::Runnable → SpawnedPlugin → AuthenticatedPlugin → (messages) → stopped
//! ```
//!
//! [`supervise`] restarts what dies, [`renew`] stops what may not run any more. [`guard`] starts the server, and sees to it that nothing is
//! left of it. No other module of `km` starts processes.

pub(crate) mod authenticate;
mod deliver;
pub(crate) mod guard;
pub(crate) mod renew;
pub(crate) mod report;
pub(crate) mod resources;
pub(crate) mod spawn;
pub(crate) mod supervise;

pub(crate) use authenticate::AuthenticatedPlugin;
pub(crate) use spawn::{PluginHost, SpawnedPlugin};

use std::fmt;

use km_package::failure::Kind;

/// Why a plugin does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PluginFailure {
    /// Starting it again will not help: refused, unsigned, made for somebody else.
    Refused(String),
    /// It may not run now, and may again: the subscription, the API key or the network decide.
    Unauthorized { kind: Kind, why: String },
    /// It did not start, or died, or does not answer: it may do better next time.
    Crashed(String),
    /// Somebody ended it (SIGKILL): of no message that it had can be said that it was to blame.
    Killed(String),
}

impl fmt::Display for PluginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::Crashed(why) | Self::Killed(why) | Self::Unauthorized { why, .. } => {
                f.write_str(why)
            }
        }
    }
}

impl PluginFailure {
    /// What kind of failure it is, for scripts.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Refused(_) | Self::Crashed(_) | Self::Killed(_) => Kind::Plugin,
            Self::Unauthorized { kind, .. } => *kind,
        }
    }
}
