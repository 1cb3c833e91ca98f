//! From a verified file to a process that has shaken hands.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use go_plugin::handshake::Cookie;
use go_plugin::host::{
    Executable, Grace, Host, Level, LineSink, LogEntry, PluginProcess, SOCKET_FOLDER_PREFIX, Tls,
};
use km_package::failure::Failure;
use km_package::name::PluginName;
use km_package::tier::Tier;

use super::PluginFailure;
use crate::paths::Home;
use crate::store::Runnable;

/// How long a plugin may take until it has said where it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Locale and time zone are all that a plugin sees of the user's environment.
const ENVIRONMENT: [(&str, &str); 2] = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")];

/// What plugins are started with.
#[derive(Debug, Clone)]
pub(crate) struct PluginHost {
    host: Host,
    /// Whether plugins are told to debug.
    pub(crate) debug: bool,
}

/// A plugin process that nobody has authenticated.
#[derive(Debug)]
pub(crate) struct SpawnedPlugin {
    pub(super) process: PluginProcess,
    pub(super) name: PluginName,
    /// The tier it needs, by its manifest.
    pub(super) required_tier: Tier,
    /// From the order to start until the connection stood.
    pub(crate) start_time: Duration,
}

impl PluginHost {
    pub(crate) fn new(home: &Home, debug: bool) -> Result<Self, Failure> {
        let socket_root = home.socket_root().map_err(|e| Failure::file("create", &home.run(), &e))?;
        sweep(&socket_root);
        let host = Host {
            cookie: Cookie { key: km_proto::COOKIE_KEY, value: km_proto::COOKIE_VALUE },
            versions: crate::store::PROTOCOLS.to_vec(),
            socket_root,
            environment: ENVIRONMENT
                .map(|(name, value)| (OsString::from(name), OsString::from(value)))
                .to_vec(),
            start_timeout: START_TIMEOUT,
            tls: Tls::Preferred,
        };
        Ok(Self { host, debug })
    }

    /// Starts the open file of a plugin. Its lines go to stderr, with its name.
    pub(crate) async fn spawn(&self, plugin: Runnable) -> Result<SpawnedPlugin, PluginFailure> {
        let Runnable { name, file, path, required_tier } = plugin;
        let begun = Instant::now();
        let process = PluginProcess::start(&self.host, Executable { file, path }, lines_of(&name))
            .await
            .map_err(|e| PluginFailure::Crashed(e.to_string()))?;
        Ok(SpawnedPlugin { process, name, required_tier, start_time: begun.elapsed() })
    }
}

/// Removes the socket folders of hosts that were killed while a plugin started.
fn sweep(socket_root: &Path) {
    for entry in std::fs::read_dir(socket_root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let host = name.to_str().and_then(|name| name.strip_prefix(SOCKET_FOLDER_PREFIX)?.split('-').next());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && host.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl SpawnedPlugin {
    /// The process id.
    pub(crate) fn id(&self) -> u32 {
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
    Arc::new(move |line| {
        let entry = LogEntry::parse(line);
        if let Some(entry) = &entry
            && entry.level < Level::Info
        {
            tracing::debug!("{prefix}{}", words(entry));
            return;
        }
        let line = entry.map_or_else(|| line.to_vec(), |entry| words(&entry).into_bytes());
        let whole = [prefix.as_bytes(), &line, b"\n"].concat();
        // A stderr that nobody reads any more is no reason to stop.
        let _ = std::io::stderr().write_all(&whole);
    })
}

/// An entry as a line: level, message, fields.
fn words(entry: &LogEntry) -> String {
    let fields = entry.fields.iter().map(|(name, value)| format!(" {name}={value}"));
    let level = format!("{:?}", entry.level).to_lowercase();
    format!("{level}: {}{}", entry.message, fields.collect::<String>())
}
