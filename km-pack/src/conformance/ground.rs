//! What the checks stand on: the plugin, and a host for it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use go_plugin::handshake::Cookie;
use go_plugin::host::{Executable, Host, PluginError, PluginProcess, Runner, Running, Source, Tls, Trouble};
use km_package::manifest::Manifest;
use km_package::name::PluginName;
use km_proto::{PLUGIN_ENVIRONMENT, PROTOCOL_VERSIONS};

/// A plugin to be checked.
pub struct Subject {
    /// The executable.
    pub executable: PathBuf,
    /// What it should call itself, if that is known.
    pub name: Option<PluginName>,
    /// Its manifest, if it comes from a package.
    pub manifest: Option<Manifest>,
    /// The API key it was built for; empty if there is none.
    pub api_key: String,
}

/// The key is a secret.
impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("executable", &self.executable).finish_non_exhaustive()
    }
}

pub(super) struct Ground {
    pub(super) subject: Subject,
    pub(super) sockets: tempfile::TempDir,
}

/// Where plugins make their sockets, whose paths have 107 bytes at most; a host in a host adds some 60. So
/// not in a temporary folder with a long name.
fn socket_folder() -> io::Result<tempfile::TempDir> {
    const ROOM: usize = 40;
    let named = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("km-test-");
        builder
    };
    let folder = named().tempdir()?;
    if folder.path().as_os_str().len() <= ROOM { Ok(folder) } else { named().tempdir_in("/tmp") }
}

/// A running plugin, and what it wrote to its raw stdout.
pub(super) struct Session {
    pub(super) plugin: PluginProcess,
    stdout: Arc<Mutex<Vec<u8>>>,
}

impl Session {
    pub(super) fn raw_stdout(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.stdout)
    }
}

impl Ground {
    pub(super) fn new(subject: Subject) -> io::Result<Self> {
        Ok(Self { subject, sockets: socket_folder()? })
    }

    pub(super) fn host(&self) -> Host {
        let cookie = Cookie { key: km_proto::COOKIE_KEY, value: km_proto::COOKIE_VALUE };
        let environment =
            PLUGIN_ENVIRONMENT.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Host {
            environment: environment.to_vec(),
            ..Host::new(cookie, PROTOCOL_VERSIONS, self.sockets.path())
        }
    }

    pub(super) fn with_tls(&self, tls: Tls) -> Host {
        Host { tls, ..self.host() }
    }

    pub(super) fn executable(&self) -> io::Result<Executable> {
        Executable::open(&self.subject.executable)
    }

    pub(super) async fn start(&self, host: &Host) -> Result<Session, PluginError> {
        self.start_by(host, |executable| executable).await
    }

    /// Starts it by another runner.
    pub(super) async fn start_by<R: Runner>(
        &self,
        host: &Host,
        runner: impl FnOnce(Executable) -> R,
    ) -> Result<Session, PluginError> {
        let stdout = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&stdout);
        let lines = Arc::new(move |source, line: &[u8]| {
            if source == Source::Stdout {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
            }
            tracing::info!("{source:?}: {}", String::from_utf8_lossy(line));
        });
        let executable = self
            .executable()
            .map_err(|e| PluginError { trouble: Trouble::Spawn(e), last_lines: Vec::new() })?;
        let plugin = PluginProcess::start(host, runner(executable), lines).await?;
        Ok(Session { plugin, stdout })
    }

    /// The environment that a host starts a plugin with.
    pub(super) async fn environment(&self, host: &Host) -> Vec<(OsString, OsString)> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let runner = Listen(Arc::clone(&seen));
        // It starts nothing, and says so.
        let _ = PluginProcess::start(host, runner, Arc::new(|_, _: &[u8]| {})).await;
        std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes down the environment and starts nothing.
struct Listen(Arc<Mutex<Vec<(OsString, OsString)>>>);

impl Runner for Listen {
    async fn start(self, environment: Vec<(OsString, OsString)>) -> io::Result<Running> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = environment;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Starts a plugin with some variables changed.
pub(super) struct Changed {
    pub(super) executable: Executable,
    pub(super) changes: Vec<(OsString, OsString)>,
}

impl Runner for Changed {
    async fn start(self, mut environment: Vec<(OsString, OsString)>) -> io::Result<Running> {
        environment.retain(|(name, _)| !self.changes.iter().any(|(changed, _)| changed == name));
        environment.extend(self.changes);
        self.executable.start(environment).await
    }
}
