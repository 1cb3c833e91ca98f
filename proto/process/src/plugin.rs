//! The plugin side: claim stdout, listen, say where, serve until asked to leave.

mod broker;
mod claim;
mod leave;
mod stdio;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::broker::{Announcements, Broker};
use crate::channel::{CONNECTION_WINDOW, MAX_FRAME, STREAM_WINDOW};
use crate::handshake::{self, Address, Cookie, HandshakeLine};
use crate::peer::Peer;
use crate::services::Empty;
use crate::services::grpc_broker_server::GrpcBrokerServer;
use crate::services::grpc_controller_server::{GrpcController, GrpcControllerServer};
use crate::services::grpc_stdio_server::GrpcStdioServer;
use crate::socket::{ListenError, Socket};
use crate::tls::{self, Identity, Security};
use broker::BrokerService;
use claim::Stdout;
pub use leave::Leave;
use stdio::Stdio;

/// How long calls in flight may take once the plugin was asked to leave: less than hosts wait.
const DRAIN: Duration = Duration::from_millis(1500);
/// How the names of its sockets begin.
const SOCKET: &str = "plugin";

/// Why a plugin cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Started by hand, not by a host.
    #[error("this program is a plugin: it is started by its host, not by hand")]
    NotStartedByHost,
    /// Its stdout or stderr cannot be used.
    #[error("cannot take over stdout: {0}")]
    Stdout(#[source] io::Error),
    /// It has no runtime, threads or signals.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The handshake could not be written: the host is gone.
    #[error("cannot write the handshake: {0}")]
    Handshake(#[source] io::Error),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] crate::TlsError),
    /// The server ended with an error.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs a plugin until it is asked to leave: the body of its `main`. `routes` adds the application's
/// services.
///
/// Everything runs on this one thread: what takes long belongs on a thread of the application's
/// (`tokio::task::spawn_blocking`).
///
/// # Errors
/// [`ServeError`]; whoever started it wants to read it on stderr, and an exit status that is not 0.
pub fn serve(
    cookie: Cookie,
    versions: &[u32],
    routes: impl FnOnce(&Startup, &mut RoutesBuilder),
) -> Result<(), ServeError> {
    let startup = Startup::begin(cookie, versions)?;
    let mut builder = RoutesBuilder::default();
    routes(&startup, &mut builder);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Start)?;
    let served = runtime.block_on(startup.serve(Leave::default(), builder));
    // What still runs on other threads had its time.
    runtime.shutdown_background();
    served
}

/// A program that knows it was started as a plugin. From here on whatever the program prints goes
/// to stderr, so that nothing can come between host and handshake.
#[derive(Debug)]
pub struct Startup {
    stdout: Stdout,
    version: u32,
    multiplex: Option<bool>,
    folder: PathBuf,
    tls: Option<Tls>,
    broker: Broker,
    announcements: Announcements,
    /// The host reads raw output for as long as the plugin lives.
    raw_output: bool,
}

/// For a host that wants mutual TLS.
#[derive(Debug)]
struct Tls {
    security: Security,
    /// The own certificate, as it stands in the handshake.
    certificate: String,
}

impl Startup {
    /// Checks the cookie, takes stdout, and negotiates the protocol version among `versions`.
    ///
    /// # Errors
    /// [`ServeError::NotStartedByHost`] without the cookie.
    pub fn begin(cookie: Cookie, versions: &[u32]) -> Result<Self, ServeError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if variable(cookie.key).as_deref() != Some(cookie.value) {
            return Err(ServeError::NotStartedByHost);
        }
        let stdout = Stdout::claim().map_err(ServeError::Stdout)?;
        let offered = variable(handshake::VERSIONS_VARIABLE);
        let folder = variable(handshake::SOCKET_DIR_VARIABLE).map_or_else(std::env::temp_dir, PathBuf::from);
        let tls = variable(handshake::CLIENT_CERTIFICATE_VARIABLE).map(|pem| Tls::with(&pem)).transpose()?;
        let (broker, announcements) =
            Broker::new(folder.clone(), SOCKET, Peer::Anyone, tls.as_ref().map(|tls| tls.security.clone()));
        Ok(Self {
            stdout,
            version: handshake::negotiate(offered.as_deref(), versions).unwrap_or_default(),
            // Only hosts that ask understand the field; multiplexing is not offered.
            multiplex: variable(handshake::MULTIPLEX_VARIABLE).map(|_| false),
            folder,
            tls,
            broker,
            announcements,
            raw_output: variable(handshake::RAW_OUTPUT_VARIABLE).is_some(),
        })
    }

    /// The negotiated version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Further connections, from a host that has them.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Listens, shakes hands and serves the application's services. Returns when the host asked the
    /// plugin to leave (or sent SIGTERM, or is gone) and calls in flight are done.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(self, leave: Leave, mut routes: RoutesBuilder) -> Result<(), ServeError> {
        let socket = Socket::bind(&self.folder, SOCKET)?;
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("plugin", tonic_health::ServingStatus::Serving).await;
        let stdio = match self.raw_output {
            true => Stdio::silent(leave.clone()),
            false => Stdio::capture(leave.clone()).map_err(ServeError::Stdout)?,
        };
        let broker = BrokerService::new(self.broker, self.announcements, leave.clone());
        routes
            .add_service(health_service)
            .add_service(GrpcControllerServer::new(Controller(leave.clone())))
            .add_service(GrpcStdioServer::new(stdio))
            .add_service(GrpcBrokerServer::new(broker));

        leave.watch_signals().map_err(ServeError::Start)?;
        let (server, certificate) = self.tls.map(|tls| (tls.security.server, tls.certificate)).unzip();
        let line = HandshakeLine {
            version: self.version,
            address: Address::Unix(socket.path().to_owned()),
            certificate,
            multiplex: self.multiplex,
        };
        let incoming = socket.incoming(Peer::Anyone, server)?;
        self.stdout.shake_hands(&line).map_err(ServeError::Handshake)?;
        self.stdout.watch_host(leave.clone());

        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(incoming, leave.asked());
        tokio::select! {
            served = serving => Ok(served?),
            () = async { leave.asked().await; tokio::time::sleep(DRAIN).await } => Ok(()),
        }
    }
}

impl Tls {
    fn with(host_certificate: &str) -> Result<Self, ServeError> {
        let own = Identity::generate()?;
        let security = own.security(tls::certificate_of_pem(host_certificate)?)?;
        Ok(Self { security, certificate: own.handshake_field() })
    }
}

/// go-plugin's controller: `Shutdown` answers, then the plugin leaves.
#[derive(Debug)]
struct Controller(Leave);

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.0.ask();
        Ok(Response::new(Empty {}))
    }
}
