//! The plugin side: claim stdout, listen, say where, serve until asked to leave.

mod claim;
mod incoming;
mod leave;
mod stdio;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::UnixListener;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::handshake::{self, Address, Cookie, HandshakeLine};
use crate::services::Empty;
use crate::services::grpc_controller_server::{GrpcController, GrpcControllerServer};
use crate::services::grpc_stdio_server::GrpcStdioServer;
use crate::tls::{self, Identity};
use claim::Stdout;
use incoming::Incoming;
pub use leave::Leave;
use stdio::Stdio;

/// How long calls in flight may take once the plugin was asked to leave.
const DRAIN: Duration = Duration::from_secs(2);
/// Flow-control window in bytes, as on the host side.
const WINDOW: u32 = 1 << 20;

/// Why a plugin cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Started by hand, not by a host.
    #[error("this program is a plugin: it is started by its host, not by hand")]
    NotStartedByHost,
    /// Its stdout or stderr cannot be used.
    #[error("cannot take over stdout: {0}")]
    Stdout(#[source] io::Error),
    /// It cannot listen.
    #[error("cannot listen at {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The handshake could not be written: the host is gone.
    #[error("cannot write the handshake: {0}")]
    Handshake(#[source] io::Error),
    /// TLS could not be set up.
    #[error("{0}")]
    Tls(#[from] crate::TlsError),
    /// The server ended with an error.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// A program that knows it was started as a plugin. From here on whatever the program prints goes
/// to stderr, so that nothing can come between host and handshake.
#[derive(Debug)]
pub struct Startup {
    stdout: Stdout,
    version: u32,
    multiplex: Option<bool>,
    folder: PathBuf,
    /// The host's certificate, from a host that wants mutual TLS.
    host_certificate: Option<String>,
    /// The host reads raw output for as long as the plugin lives.
    raw_output: bool,
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
        Ok(Self {
            stdout,
            version: handshake::negotiate(offered.as_deref(), versions).unwrap_or_default(),
            // Only hosts that ask understand the field; multiplexing is not offered.
            multiplex: variable(handshake::MULTIPLEX_VARIABLE).map(|_| false),
            folder: variable(handshake::SOCKET_DIR_VARIABLE).map_or_else(std::env::temp_dir, PathBuf::from),
            raw_output: variable(handshake::RAW_OUTPUT_VARIABLE).is_some(),
            host_certificate: variable(handshake::CLIENT_CERTIFICATE_VARIABLE),
        })
    }

    /// The negotiated version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Listens, shakes hands and serves: `routes` adds the application's services. Returns when the
    /// host asked the plugin to leave (or sent SIGTERM, or is gone) and calls in flight are done.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(
        self,
        leave: Leave,
        routes: impl FnOnce(&mut RoutesBuilder),
    ) -> Result<(), ServeError> {
        let socket = Socket::bind(&self.folder)?;
        let mut builder = tonic::service::Routes::builder();
        routes(&mut builder);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("plugin", tonic_health::ServingStatus::Serving).await;
        builder.add_service(health_service);
        builder.add_service(GrpcControllerServer::new(Controller(leave.clone())));
        let stdio = match self.raw_output {
            true => Stdio::silent(leave.clone()),
            false => Stdio::capture(leave.clone()).map_err(ServeError::Stdout)?,
        };
        builder.add_service(GrpcStdioServer::new(stdio));

        leave.watch_signals().map_err(ServeError::Stdout)?;
        let mut certificate = None;
        let mut tls = None;
        if let Some(pem) = &self.host_certificate {
            let own = Identity::generate()?;
            tls = Some(own.server_config(tls::certificate_of_pem(pem)?)?);
            certificate = Some(own.handshake_field());
        }
        let line = HandshakeLine {
            version: self.version,
            address: Address::Unix(socket.path.clone()),
            certificate,
            multiplex: self.multiplex,
        };
        self.stdout.shake_hands(&line).map_err(ServeError::Handshake)?;
        self.stdout.watch_host(leave.clone());

        let serving = Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .add_routes(builder.routes())
            .serve_with_incoming_shutdown(socket.incoming(tls)?, leave.asked());
        tokio::select! {
            served = serving => Ok(served?),
            () = async { leave.asked().await; tokio::time::sleep(DRAIN).await } => Ok(()),
        }
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

/// A listening socket whose file is removed with it.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    listener: std::os::unix::net::UnixListener,
}

impl Socket {
    fn bind(folder: &Path) -> Result<Self, ServeError> {
        let path = folder.join(format!("plugin{}", std::process::id()));
        let bind = || {
            let listener = std::os::unix::net::UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        match bind() {
            Ok(listener) => Ok(Self { path, listener }),
            Err(source) => Err(ServeError::Listen { path, source }),
        }
    }

    fn incoming(&self, tls: Option<Arc<ServerConfig>>) -> Result<Incoming, ServeError> {
        let listener = self.listener.try_clone().and_then(UnixListener::from_std);
        let listen = |source| ServeError::Listen { path: self.path.clone(), source };
        Ok(Incoming::new(listener.map_err(listen)?, tls))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
