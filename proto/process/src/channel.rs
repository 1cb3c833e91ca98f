//! One connection to an address and to nobody else: the one that a plugin listens at, and those
//! that the broker makes.

use std::io;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::handshake::Address;
use crate::peer::{Peer, Stranger};
use crate::tls::SERVER_NAME;

/// Flow-control window in bytes, for streams and connection: the default of 64 KiB costs a round
/// trip for every larger message.
pub(crate) const WINDOW: u32 = 1 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or gRPC or TLS failed.
    #[error("cannot connect to {address}: {source}")]
    Failed {
        /// Where.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// Who listens presented another certificate than the one that was announced.
    #[error("who listens at {0} presents another certificate than the one announced")]
    WrongCertificate(Address),
    /// Somebody else listens there.
    #[error("{0}")]
    Stranger(#[from] Stranger),
    /// A TCP port of another machine.
    #[error("{0} is not an address of this machine")]
    NotLocal(Address),
    /// A TCP port, where any user of this machine could listen.
    #[error("a connection to {0} must be encrypted")]
    NotEncrypted(Address),
}

pub(crate) async fn connect(
    address: &Address,
    peer: Peer,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Channel, ConnectError> {
    let failed = |source| ConnectError::Failed { address: address.clone(), source };
    // The authority is the one Go hosts use; nothing is resolved.
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let secured = match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            peer.check(&stream)?;
            secure(&endpoint, stream, tls).await
        }
        Address::Tcp(_) if tls.is_none() => return Err(ConnectError::NotEncrypted(address.clone())),
        Address::Tcp(socket) if socket.ip().is_loopback() => {
            let stream = TcpStream::connect(socket).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            secure(&endpoint, stream, tls).await
        }
        Address::Tcp(_) => return Err(ConnectError::NotLocal(address.clone())),
    };
    secured.map_err(|source| match tls_error(&source) {
        Some(rustls::Error::InvalidCertificate(_)) => ConnectError::WrongCertificate(address.clone()),
        _ => failed(source),
    })
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Does TLS here, before gRPC: a certificate that is refused is an error of the connection, not of
/// the first call.
async fn secure<S>(endpoint: &Endpoint, stream: S, tls: Option<Arc<ClientConfig>>) -> io::Result<Channel>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let channel = match tls {
        None => connect_over(endpoint, stream).await,
        Some(config) => {
            let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            connect_over(endpoint, stream).await
        }
    };
    channel.map_err(io::Error::other)
}

/// A channel over this stream alone: tonic would reconnect, to whoever listens there by then.
async fn connect_over<S>(endpoint: &Endpoint, stream: S) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let only = Mutex::new(Some(stream));
    let connector = service_fn(move |_: Uri| {
        let stream = only.lock().ok().and_then(|mut only| only.take());
        async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::other("the connection has ended")) }
    });
    endpoint.connect_with_connector(connector).await
}
