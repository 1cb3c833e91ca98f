//! Everything the author of a Kilometers plugin needs.
//!
//! A plugin is a program that sees every message between an MCP client and an MCP server. It
//! implements [`Plugin`] and calls [`serve`]:
//!
//! ```no_run
//! use km_plugin::{Message, Plugin, Result};
//!
//! struct Counter(u64);
//!
//! impl Plugin for Counter {
//!     fn message(&mut self, message: &Message) -> Result {
//!         self.0 += message.size();
//!         Ok(())
//!     }
//!
//!     fn stop(&mut self) -> Result {
//!         println!("{} bytes in this session", self.0);
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     km_plugin::serve(km_plugin::about!(), Counter(0))
//! }
//! ```
//!
//! # Many at once
//!
//! A plugin that does better with many messages overrides [`Plugin::batch`] in the place of
//! [`Plugin::message`]: it gets all that came while it was busy. An idle plugin gets a message at once.
//!
//! ```no_run
//! # use km_plugin::{Batch, Plugin, Result};
//! # struct Sizes(std::fs::File);
//! impl Plugin for Sizes {
//!     fn batch(&mut self, batch: &Batch) -> Result {
//!         use std::io::Write as _;
//!         let sizes: String = batch.into_iter().map(|m| format!("{}\n", m.size())).collect();
//!         self.0.write_all(sizes.as_bytes())?;
//!         Ok(())
//!     }
//! }
//! ```
//!
//! # Each message once
//!
//! A message that was handled is not delivered again, unless the plugin crashes within milliseconds
//! after. Where that counts, keep the number of the last message together with what is made of it, and
//! say it in [`Plugin::position`]:
//!
//! ```no_run
//! # use km_plugin::{Message, Plugin, Result, SessionId};
//! # struct Database;
//! # impl Database {
//! #     fn in_one_transaction(&mut self, _: &str, _: u64, _: &[u8]) -> Result { Ok(()) }
//! #     fn last_number(&mut self, _: &str) -> Option<u64> { None }
//! # }
//! # struct Audit { database: Database }
//! impl Plugin for Audit {
//!     fn message(&mut self, message: &Message) -> Result {
//!         // Protocol 1 has no sessions: hosts that are older than this crate.
//!         let session = message.session.as_ref().ok_or("needs protocol 2")?;
//!         self.database.in_one_transaction(session.as_str(), message.sequence, message.data())
//!     }
//!
//!     fn position(&mut self, session: &SessionId) -> Option<u64> {
//!         self.database.last_number(session.as_str())
//!     }
//! }
//! ```
//!
//! # What is here
//!
//! What it prints, to stdout or stderr, `km` shows on its own stderr with the plugin's name in
//! front. `km-pack build` compiles it, stamps a customer's identity into it and signs the package.
//!
//! Besides the trait there is nothing to configure: the handshake, health, authentication by the
//! stamped [identity] and by token, delivery with its acknowledgements, orderly shutdown and the end of
//! the plugin when its host is gone are here. What the customer's subscription allows arrives as [`Access`].

#![warn(missing_docs)]

mod access;
mod batch;
mod commandline;
mod deliver;
mod gate;
pub mod identity;
mod message;
mod protocol1;
mod protocol2;
mod worker;

pub use access::{Access, Api, Token, error, event, feature};
pub use batch::Batch;
pub use bytes::Bytes;
pub use km_package::tier::Tier;
pub use km_proto::Direction;
pub use km_proto::jsonrpc::{Kind, Summary};
pub use message::{Body, Message, SessionId};

use std::process::ExitCode;
use std::sync::Arc;

use go_plugin::handshake::Cookie;
use go_plugin::plugin::{Leave, ServeError, Startup};

use gate::Gate;
use identity::Stamp;
use protocol1::Protocol1;
use protocol2::Protocol2;
use tonic::service::RoutesBuilder;
use worker::Worker;

/// What a handler may fail with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// What a handler returns.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// What a plugin does. All of it is called from one thread, one call at a time; while a call lasts
/// the next message waits, and the monitored traffic does not.
pub trait Plugin: Send + 'static {
    /// A session begins; the plugin was authenticated.
    ///
    /// # Errors
    /// When it cannot work: `km` gives it up for this session and says why.
    fn start(&mut self, session: &Session) -> Result {
        let _ = session;
        Ok(())
    }

    /// What it may do has changed or was renewed, in a session that has begun. Where nothing is
    /// allowed any more, `km` stops the plugin instead.
    ///
    /// # Errors
    /// Logged by `km`.
    fn access(&mut self, access: &Access) -> Result {
        let _ = access;
        Ok(())
    }

    /// The next message, in order. This, or [`Plugin::batch`], is what a plugin consists of.
    ///
    /// # Errors
    /// Counted and logged by `km`; the next message comes all the same.
    fn message(&mut self, message: &Message) -> Result {
        let _ = message;
        Ok(())
    }

    /// The next messages, for a plugin that does better with many at once; else [`Plugin::message`] gets
    /// each of them.
    ///
    /// # Errors
    /// Each message of the batch that [`Batch::handled`] has not named counts as failed.
    fn batch(&mut self, batch: &Batch) -> Result {
        batch.each(|message| self.message(message));
        Ok(())
    }

    /// The highest sequence number of this session that the plugin has kept where a crash does not reach
    /// it: what `km` sends starts after that. Asked before the first message of a session, and again when
    /// the plugin or the connection had to be started anew. A plugin that keeps it together with what it
    /// makes of the messages sees each of them exactly once; without it, after a crash some come twice.
    fn position(&mut self, session: &SessionId) -> Option<u64> {
        let _ = session;
        None
    }

    /// An error in the session that is no message, such as the server's crash.
    ///
    /// # Errors
    /// As for [`Plugin::message`].
    fn error(&mut self, text: &str, kind: &str) -> Result {
        let _ = (text, kind);
        Ok(())
    }

    /// The session ends: finish what is open. Called once.
    ///
    /// # Errors
    /// Logged by `km`.
    fn stop(&mut self) -> Result {
        Ok(())
    }
}

/// What a plugin is told at the beginning of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What it may do, to begin with.
    pub access: Access,
    /// The API endpoint that `km` is configured with; empty if none.
    pub api_endpoint: String,
    /// Whether `km` runs with debugging on.
    pub debug: bool,
}

/// What a plugin is; made by [`about!`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// The name of its package, `km-plugin-<name>`.
    pub package: &'static str,
    /// Its version (semver).
    pub version: &'static str,
    /// One line.
    pub description: &'static str,
    /// The tier that a customer needs to run it.
    pub required_tier: Tier,
    /// Features of a subscription that it makes use of ([`feature`]).
    pub features: &'static [&'static str],
    /// What its process wants to reach.
    pub permissions: Permissions,
    /// Whether `km` keeps for the next session what it could not deliver in one.
    pub durable: bool,
}

/// What a plugin's process wants to reach; as `permissions` in `[package.metadata.km]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions {
    /// Hosts.
    pub network: &'static [&'static str],
    /// Files that are read.
    pub read: &'static [&'static str],
    /// Files that are written.
    pub write: &'static [&'static str],
}

impl About {
    /// Adds the features of a subscription that it makes use of.
    #[must_use]
    pub const fn features(self, features: &'static [&'static str]) -> Self {
        Self { features, ..self }
    }

    /// Adds what its process wants to reach.
    #[must_use]
    pub const fn permissions(self, permissions: Permissions) -> Self {
        Self { permissions, ..self }
    }

    /// Has `km` keep for the next session what it could not deliver in one.
    #[must_use]
    pub const fn durable(self) -> Self {
        Self { durable: true, ..self }
    }

    /// The plugin's name.
    pub fn name(&self) -> &'static str {
        self.package.strip_prefix(km_package::name::EXECUTABLE_PREFIX).unwrap_or(self.package)
    }
}

/// What this plugin is, from its `Cargo.toml`; `about!(Tier::Pro)` for one that needs a tier, which
/// must be the `required_tier` of `[package.metadata.km]`.
#[macro_export]
macro_rules! about {
    () => {
        $crate::about!($crate::Tier::Free)
    };
    ($tier:expr) => {
        $crate::About {
            package: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            required_tier: $tier,
            features: &[],
            permissions: $crate::Permissions { network: &[], read: &[], write: &[] },
            durable: false,
        }
    };
}

/// Runs a plugin: the body of its `main`. Answers `--version` and `--help` when started by hand.
pub fn serve(about: About, plugin: impl Plugin) -> ExitCode {
    let stamp = Stamp::read(&about);
    if let Some(exit) = commandline::answer(&about, &stamp) {
        return exit;
    }
    report_panics();
    let cookie = Cookie { key: km_proto::COOKIE_KEY, value: km_proto::COOKIE_VALUE };
    let outcome = Startup::begin(cookie, &km_proto::PROTOCOL_VERSIONS)
        .and_then(|startup| run(startup, about, stamp, plugin));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServeError::NotStartedByHost) => commandline::refuse(&about),
        Err(error) => {
            eprintln!("{}: {error}", about.package);
            ExitCode::FAILURE
        }
    }
}

fn run(
    startup: Startup,
    about: About,
    stamp: Stamp,
    plugin: impl Plugin,
) -> std::result::Result<(), ServeError> {
    // One thread for the connection, one for the author's code: what that does cannot hold up a
    // health check or the order to leave.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Start)?;
    let worker = Worker::start(plugin).map_err(ServeError::Start)?;
    runtime.block_on(async {
        let mut routes = RoutesBuilder::default();
        let (gate, leave) = (Arc::new(Gate::new(about, stamp)), Leave::default());
        routes.add_service(Protocol1::new(Arc::clone(&gate), worker.clone()).into_server());
        if startup.version() >= 2 {
            routes.add_service(Protocol2::new(gate, worker.clone(), leave.clone()).into_server());
        }
        let served = startup.serve(leave, routes).await;
        worker.stop().await;
        served
    })
}

/// A panic ends the plugin, in words that every go-plugin host recognizes.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("panic: {panic}");
        std::process::abort();
    }));
}
