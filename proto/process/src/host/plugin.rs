//! One plugin, from start to end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::error::{PluginError, Trouble, one_line};
use super::output::{LineSink, Output};
use super::runner::{Instance, Runner, Running};
use super::{Grace, Host, StoppedBy, Tls, sockets};
use crate::Broker;
use crate::channel::{self, Channel};
use crate::handshake::{self, Address, HandshakeLine};
use crate::peer::Peer;
use crate::services::{Empty, grpc_controller_client::GrpcControllerClient};
use crate::tls::{self, Identity, Security};

/// Name under which every plugin reports its health.
const HEALTH_SERVICE: &str = "plugin";
/// How long a killed process may take to be gone.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// A running plugin that has shaken hands. Dropping it kills it.
#[derive(Debug)]
pub struct PluginProcess {
    instance: Box<dyn Instance>,
    output: Output,
    connection: Connection,
    broker: Option<Broker>,
    /// The plugin's folder for temporary files, too.
    _sockets: TempDir,
}

/// What the handshake led to.
#[derive(Debug)]
struct Connection {
    channel: Channel,
    version: u32,
    security: Option<Security>,
    /// The file that it goes by; empty for a TCP port.
    socket: PathBuf,
}

impl PluginProcess {
    /// Starts a plugin and waits until it listens and the connection stands.
    ///
    /// `lines` gets every line that the plugin writes, but the handshake.
    ///
    /// # Errors
    /// [`PluginError`], with the last lines the plugin wrote. The process is gone then.
    pub async fn start(host: &Host, runner: impl Runner, lines: LineSink) -> Result<Self, PluginError> {
        let sockets = sockets::private_folder(&host.socket_root)
            .map_err(|e| PluginError::without_output(Trouble::SocketFolder(host.socket_root.clone(), e)))?;
        let identity = match host.tls {
            Tls::Off => None,
            Tls::Preferred | Tls::Required => {
                Some(Identity::generate().map_err(|e| PluginError::without_output(Trouble::Tls(e)))?)
            }
        };
        let environment = plugin_environment(host, sockets.path(), identity.as_ref());
        let Running { stdout, stderr, instance } =
            runner.start(environment).await.map_err(|e| PluginError::without_output(Trouble::Spawn(e)))?;
        let mut output = Output::attach(stdout, stderr, lines);
        match connect(host, identity.as_ref(), &*instance, &mut output).await {
            Ok(connection) => {
                output.stream(connection.channel.clone());
                let broker = host.broker.then(|| start_broker(&sockets, &*instance, &connection));
                // Nobody is to connect any more. Only in our own folder: the path is the plugin's word.
                if broker.is_none() && connection.socket.parent() == Some(sockets.path()) {
                    let _ = std::fs::remove_file(&connection.socket);
                }
                Ok(Self { instance, output, connection, broker, _sockets: sockets })
            }
            Err(trouble) => {
                instance.kill();
                ended_within(&*instance, AFTER_KILL).await;
                Err(output.explain(trouble).await)
            }
        }
    }

    /// The connection, for the application's own clients. It does not reconnect: when the process
    /// ends, calls fail.
    pub fn channel(&self) -> Channel {
        self.connection.channel.clone()
    }

    /// Further connections, if [`Host::broker`] is set.
    pub fn broker(&self) -> Option<&Broker> {
        self.broker.as_ref()
    }

    /// The negotiated application protocol version.
    pub fn version(&self) -> u32 {
        self.connection.version
    }

    /// Whether the connection is mutual TLS.
    pub fn is_encrypted(&self) -> bool {
        self.connection.security.is_some()
    }

    /// The process id, if it is a process of this machine.
    pub fn id(&self) -> Option<u32> {
        self.instance.id()
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
            Ok(Err(status)) => Err(Trouble::Unhealthy(one_line(status.message()))),
            Ok(Ok(answer)) => match answer.into_inner().status() {
                ServingStatus::Serving => Ok(()),
                other => Err(Trouble::Unhealthy(other.as_str_name().to_owned())),
            },
        }
    }

    /// Waits until the process has ended and was reaped.
    pub async fn wait(&self) -> ExitStatus {
        ended(&*self.instance).await
    }

    /// Turns a failed call into an error that says what became of the plugin, with its last lines.
    pub async fn explain(&mut self, trouble: Trouble) -> PluginError {
        // A call fails a moment before its process is reaped.
        match ended_within(&*self.instance, Duration::from_millis(200)).await {
            Some(status) => self.output.explain(Trouble::Died(status)).await,
            None => self.output.so_far(trouble),
        }
    }

    /// Asks the plugin to end (SIGTERM) and nothing else; [`stop`](Self::stop) is the orderly way.
    pub fn terminate(&self) {
        self.instance.terminate();
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
            self.wait().await
        };
        if let Ok(status) = tokio::time::timeout(grace.shutdown, asked).await {
            return (StoppedBy::Request, Some(status));
        }
        self.instance.terminate();
        if let Some(status) = ended_within(&*self.instance, grace.terminate).await {
            return (StoppedBy::Terminate, Some(status));
        }
        self.instance.kill();
        (StoppedBy::Kill, ended_within(&*self.instance, AFTER_KILL).await)
    }
}

/// The exit status, once there is one.
async fn ended(instance: &dyn Instance) -> ExitStatus {
    let mut exit = instance.exit();
    // Without a status only when waiting itself failed: there is no such child any more.
    exit.wait_for(Option::is_some).await.ok().and_then(|status| *status).unwrap_or_default()
}

async fn ended_within(instance: &dyn Instance, time: Duration) -> Option<ExitStatus> {
    tokio::time::timeout(time, ended(instance)).await.ok()
}

fn plugin_environment(host: &Host, sockets: &Path, identity: Option<&Identity>) -> Vec<(OsString, OsString)> {
    let versions: Vec<String> = host.versions.iter().map(u32::to_string).collect();
    let mut environment = host.environment.clone();
    // Programs take the first of two: nothing of a host's own environment may pass for the protocol's.
    environment.retain(|(name, _)| {
        let name = name.to_string_lossy();
        !name.starts_with("PLUGIN_") && name != "TMPDIR" && name != host.cookie.key
    });
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

async fn connect(
    host: &Host,
    identity: Option<&Identity>,
    instance: &dyn Instance,
    output: &mut Output,
) -> Result<Connection, Trouble> {
    let line = shake_hands(host, instance, output).await?;
    if !host.versions.contains(&line.version) {
        return Err(Trouble::Version { plugin: line.version, host: host.versions.clone() });
    }
    let security = match (identity, &line.certificate) {
        (Some(identity), Some(field)) => {
            Some(tls::certificate_of_field(field).and_then(|peer| identity.security(peer))?)
        }
        (None, Some(_)) => return Err(Trouble::UnexpectedCertificate),
        (_, None) if host.tls == Tls::Required => return Err(Trouble::NoCertificate),
        (_, None) => None,
    };
    let address = instance.reach(line.address);
    let tls = security.as_ref().map(|security| security.client.clone());
    let socket = match &address {
        Address::Unix(path) => path.clone(),
        Address::Tcp(_) => PathBuf::new(),
    };
    let connecting = channel::connect(&address, peer(instance), tls);
    let channel = tokio::time::timeout(host.start_timeout, connecting)
        .await
        .map_err(|_| Trouble::StartTimeout(host.start_timeout))??;
    Ok(Connection { channel, version: line.version, security, socket })
}

/// The handshake line, or what came instead of it.
async fn shake_hands(
    host: &Host,
    instance: &dyn Instance,
    output: &mut Output,
) -> Result<HandshakeLine, Trouble> {
    tokio::select! {
        line = output.handshake() => match line {
            // Its stdout ends a moment before the process does, whose status says more.
            Err(Trouble::NoHandshake) => Err(match ended_within(instance, Duration::from_millis(500)).await {
                Some(status) => Trouble::ExitedEarly(status),
                None => Trouble::NoHandshake,
            }),
            line => line,
        },
        status = ended(instance) => Err(Trouble::ExitedEarly(status)),
        () = tokio::time::sleep(host.start_timeout) => Err(Trouble::StartTimeout(host.start_timeout)),
    }
}

fn peer(instance: &dyn Instance) -> Peer {
    instance.id().map_or(Peer::Anyone, Peer::Process)
}

fn start_broker(sockets: &TempDir, instance: &dyn Instance, connection: &Connection) -> Broker {
    let folder = sockets.path().to_owned();
    let (broker, announcements) = Broker::new(folder, "host", peer(instance), connection.security.clone());
    tokio::spawn(broker.clone().open(connection.channel.clone(), announcements));
    broker
}
