//! From a verified file to a process that has shaken hands.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use go_plugin::handshake::Cookie;
use go_plugin::host::{Executable, Grace, Host, Level, LineSink, LogEntry, PluginProcess, sweep_sockets};
use km_package::failure::Failure;
use km_package::name::PluginName;
use km_package::tier::Tier;

use super::PluginFailure;
use super::guard::{Guard, WatchedPlugin};
use super::resources::end_first;
use crate::monitor::Remarks;
use crate::paths::Home;
use crate::store::{PackageIdentity, Runnable};

/// What plugins are started with.
#[derive(Debug, Clone)]
pub(crate) struct PluginHost {
    host: Host,
    /// Sees to it that a plugin's children go with `km`, in a session.
    guard: Option<Arc<Guard>>,
    /// Whether plugins are told to debug.
    pub(crate) debug: bool,
}

/// A plugin process that nobody has authenticated.
#[derive(Debug)]
pub(crate) struct SpawnedPlugin {
    pub(super) process: PluginProcess,
    _watched: Option<WatchedPlugin>,
    pub(super) name: PluginName,
    /// The tier it needs, by its manifest.
    pub(super) required_tier: Tier,
    /// What else its manifest says; none for an allowed binary.
    pub(super) identity: Option<PackageIdentity>,
    /// From the order to start until the connection stood.
    pub(crate) start_time: Duration,
}

impl PluginHost {
    pub(crate) fn new(home: &Home, debug: bool, guard: Option<Arc<Guard>>) -> Result<Self, Failure> {
        let socket_root = home.socket_root().map_err(|e| Failure::file("create", &home.run(), &e))?;
        // What hosts left that were killed.
        sweep_sockets(&socket_root);
        let cookie = Cookie { key: km_proto::COOKIE_KEY, value: km_proto::COOKIE_VALUE };
        let environment =
            km_proto::PLUGIN_ENVIRONMENT.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let host = Host {
            environment: environment.to_vec(),
            ..Host::new(cookie, km_proto::PROTOCOL_VERSIONS, socket_root)
        };
        Ok(Self { host, guard, debug })
    }

    /// Starts the open file of a plugin. Its lines go to stderr, with its name.
    pub(crate) async fn spawn(&self, plugin: Runnable) -> Result<SpawnedPlugin, PluginFailure> {
        let Runnable { name, file, path, required_tier, identity } = plugin;
        let begun = Instant::now();
        let process = PluginProcess::start(&self.host, Executable { file, path }, lines_of(&name))
            .await
            .map_err(|e| PluginFailure::Crashed(e.to_string()))?;
        let start_time = begun.elapsed();
        process.id().into_iter().for_each(end_first);
        let watch = |guard: &Arc<Guard>| Some(guard.watch_plugin(process.id()?));
        let watched = self.guard.as_ref().and_then(watch);
        Ok(SpawnedPlugin { process, _watched: watched, name, required_tier, identity, start_time })
    }
}

impl SpawnedPlugin {
    /// The process id.
    pub(crate) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Whether the connection is mutual TLS; plaintext otherwise, over a private socket.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.process.is_encrypted()
    }

    /// Asks it to leave, then makes it.
    pub(crate) async fn stop(self, grace: Grace) {
        self.process.stop(grace).await;
    }
}

/// Writes each line with the plugin's name to stderr, in one piece. What a Go plugin logs for those
/// who look for a fault is shown to those.
fn lines_of(name: &PluginName) -> LineSink {
    let prefix = format!("[{name}] ");
    Arc::new(move |_, line| {
        let entry = LogEntry::parse(line);
        if let Some(entry) = &entry
            && entry.level < Level::Info
        {
            tracing::debug!("{prefix}{}", km_cli::printable_line(&entry.to_string()));
            return;
        }
        let line = entry.map_or_else(|| String::from_utf8_lossy(line).into_owned(), |e| e.to_string());
        Remarks.write(format!("{prefix}{}\n", km_cli::printable_line(&line)).into_bytes());
    })
}
