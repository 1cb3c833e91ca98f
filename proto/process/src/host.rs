//! The host side: start a plugin, speak with it, and be sure that it is gone afterwards.
//!
//! Every wait has a deadline. A plugin gets nothing of the host's environment but what it is
//! handed, no stdin, a process group and a private socket folder of its own; it dies with the host;
//! and what is executed is the open file that the host hands in, not a path.

mod connection;
mod error;
mod log;
mod output;
mod process;

pub use error::{PluginError, Trouble};
pub use log::{Level, LogEntry};
pub use output::LineSink;
pub use process::Executable;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::handshake::{self, Cookie};
use crate::services::{Empty, grpc_controller_client::GrpcControllerClient};
use crate::tls::{self, Identity};
use output::Output;
use process::Process;

/// Name under which every plugin reports its health.
const HEALTH_SERVICE: &str = "plugin";

/// What the private folders for sockets are called: this, the host's process id, and more.
pub const SOCKET_FOLDER_PREFIX: &str = "plugin-";

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

/// A running plugin that has shaken hands. Dropping it kills it.
#[derive(Debug)]
pub struct PluginProcess {
    process: Process,
    output: Output,
    channel: Channel,
    version: u32,
    encrypted: bool,
}

/// What the handshake led to.
struct Connection {
    channel: Channel,
    version: u32,
    encrypted: bool,
}

impl PluginProcess {
    /// Starts a plugin and waits until it listens and the connection stands.
    ///
    /// `lines` gets every line that the plugin writes to its stderr, and to its stdout besides the
    /// handshake.
    ///
    /// # Errors
    /// [`PluginError`], with the last lines the plugin wrote. The process is gone then.
    pub async fn start(host: &Host, executable: Executable, lines: LineSink) -> Result<Self, PluginError> {
        let sockets = private_folder(&host.socket_root)
            .map_err(|e| PluginError::without_output(Trouble::SocketFolder(host.socket_root.clone(), e)))?;
        let identity = match host.tls {
            Tls::Off => None,
            Tls::Preferred | Tls::Required => {
                Some(Identity::generate().map_err(|e| PluginError::without_output(Trouble::Tls(e)))?)
            }
        };
        let environment = plugin_environment(host, sockets.path(), identity.as_ref());
        let (process, pipes) = process::spawn(executable, environment)
            .await
            .map_err(|e| PluginError::without_output(Trouble::Spawn(e)))?;
        let mut output = Output::attach(pipes, lines);
        match Self::shake_hands(host, identity.as_ref(), &process, &mut output).await {
            // The folder goes with this scope: the connection stands, nobody needs the path again.
            Ok(Connection { channel, version, encrypted }) => {
                output.stream(channel.clone());
                Ok(Self { process, output, channel, version, encrypted })
            }
            Err(trouble) => {
                process.kill();
                process.exited(Duration::from_secs(2)).await;
                Err(output.explain(trouble).await)
            }
        }
    }

    async fn shake_hands(
        host: &Host,
        identity: Option<&Identity>,
        process: &Process,
        output: &mut Output,
    ) -> Result<Connection, Trouble> {
        let line = tokio::select! {
            line = output.handshake() => match (line, process) {
                // Its stdout ends a moment before the process does, whose status says more.
                (Err(Trouble::NoHandshake), process) => {
                    return Err(match process.exited(Duration::from_millis(500)).await {
                        Some(status) => Trouble::ExitedEarly(status),
                        None => Trouble::NoHandshake,
                    });
                }
                (line, _) => line?,
            },
            status = process.wait() => return Err(Trouble::ExitedEarly(status)),
            () = tokio::time::sleep(host.start_timeout) => return Err(Trouble::StartTimeout(host.start_timeout)),
        };
        if !host.versions.contains(&line.version) {
            return Err(Trouble::Version { plugin: line.version, host: host.versions.clone() });
        }
        let tls = match (identity, &line.certificate) {
            (Some(identity), Some(field)) => {
                Some(tls::certificate_of_field(field).and_then(|peer| identity.client_config(peer))?)
            }
            (None, Some(_)) => return Err(Trouble::UnexpectedCertificate),
            (_, None) if host.tls == Tls::Required => return Err(Trouble::NoCertificate),
            (_, None) => None,
        };
        let encrypted = tls.is_some();
        let connecting = connection::connect(&line.address, process.id(), tls);
        let channel = tokio::time::timeout(host.start_timeout, connecting)
            .await
            .map_err(|_| Trouble::StartTimeout(host.start_timeout))??;
        Ok(Connection { channel, version: line.version, encrypted })
    }

    /// The connection, for the application's own clients. It does not reconnect: when the process
    /// ends, calls fail.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The negotiated application protocol version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether the connection is mutual TLS.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks for the plugin's health.
    ///
    /// # Errors
    /// [`Trouble::Unhealthy`] unless it says `SERVING` within the deadline.
    pub async fn check_health(&self, deadline: Duration) -> Result<(), Trouble> {
        let mut client = HealthClient::new(self.channel());
        let request = HealthCheckRequest { service: HEALTH_SERVICE.to_owned() };
        match tokio::time::timeout(deadline, client.check(request)).await {
            Err(_) => Err(Trouble::Unhealthy(format!("no answer within {deadline:?}"))),
            Ok(Err(status)) => Err(Trouble::Unhealthy(status.message().to_owned())),
            Ok(Ok(answer)) => match answer.into_inner().status() {
                ServingStatus::Serving => Ok(()),
                other => Err(Trouble::Unhealthy(other.as_str_name().to_owned())),
            },
        }
    }

    /// Waits until the process has ended and was reaped.
    pub async fn wait(&self) -> ExitStatus {
        self.process.wait().await
    }

    /// Turns a failed call into an error that says what became of the plugin, with its last lines.
    pub async fn explain(&mut self, trouble: Trouble) -> PluginError {
        // A call fails a moment before its process is reaped.
        let trouble = match self.process.exited(Duration::from_millis(200)).await {
            Some(status) => Trouble::Died(status),
            None => trouble,
        };
        self.output.explain(trouble).await
    }

    /// Asks the plugin to leave, then makes it. Takes at most the two graces and a moment.
    pub async fn stop(mut self, grace: Grace) -> (StoppedBy, Option<ExitStatus>) {
        let stopped = self.end(grace).await;
        self.output.drain().await;
        stopped
    }

    async fn end(&self, grace: Grace) -> (StoppedBy, Option<ExitStatus>) {
        let asked = async {
            let mut controller = GrpcControllerClient::new(self.channel());
            // Go plugins cut the connection instead of answering: the answer says nothing.
            let _ = controller.shutdown(Empty {}).await;
            self.process.wait().await
        };
        if let Ok(status) = tokio::time::timeout(grace.shutdown, asked).await {
            return (StoppedBy::Request, Some(status));
        }
        self.process.terminate();
        if let Some(status) = self.process.exited(grace.terminate).await {
            return (StoppedBy::Terminate, Some(status));
        }
        self.process.kill();
        (StoppedBy::Kill, self.process.exited(Duration::from_secs(2)).await)
    }
}

fn private_folder(root: &std::path::Path) -> std::io::Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    // Whoever owns the root can tell by the process id what a crash left.
    let prefix = format!("{SOCKET_FOLDER_PREFIX}{}-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(root)
}

fn plugin_environment(
    host: &Host,
    sockets: &std::path::Path,
    identity: Option<&Identity>,
) -> Vec<(OsString, OsString)> {
    let versions: Vec<String> = host.versions.iter().map(u32::to_string).collect();
    let mut environment = host.environment.clone();
    environment.extend([
        (host.cookie.key.into(), host.cookie.value.into()),
        (handshake::VERSIONS_VARIABLE.into(), versions.join(",").into()),
        (handshake::SOCKET_DIR_VARIABLE.into(), sockets.into()),
        // go-plugin before 1.5 knows only this one.
        ("TMPDIR".into(), sockets.into()),
        (handshake::RAW_OUTPUT_VARIABLE.into(), "true".into()),
        ("PLUGIN_MIN_PORT".into(), "10000".into()),
        ("PLUGIN_MAX_PORT".into(), "25000".into()),
    ]);
    // Public, like every certificate: the key stays in this process.
    environment.extend(identity.map(|own| (handshake::CLIENT_CERTIFICATE_VARIABLE.into(), own.pem().into())));
    environment
}
