//! One connection to an address and to nobody else: the one that a plugin listens at, and those
//! that the broker makes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower::Service;

use crate::handshake::Address;
use crate::peer::{Peer, Stranger};
use crate::tls::SERVER_NAME;

/// Flow-control window of a stream, in bytes: the default of 64 KiB costs a round trip for every larger
/// message.
pub(crate) const STREAM_WINDOW: u32 = 8 << 20;
/// That of the connection: a stream that nobody reads leaves room for calls.
pub(crate) const CONNECTION_WINDOW: u32 = 2 * STREAM_WINDOW;
/// Largest frame that is taken, in bytes: the default of 16 KiB makes many of every larger message.
pub(crate) const MAX_FRAME: u32 = 1 << 20;

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
    let secured = match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            peer.check(&stream)?;
            secure(stream, tls).await
        }
        Address::Tcp(_) if tls.is_none() => return Err(ConnectError::NotEncrypted(address.clone())),
        Address::Tcp(socket) if socket.ip().is_loopback() => {
            let stream = TcpStream::connect(socket).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            secure(stream, tls).await
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
async fn secure<S>(stream: S, tls: Option<Arc<ClientConfig>>) -> io::Result<Channel>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match tls {
        None => Channel::over(stream).await,
        Some(config) => {
            let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
            Channel::over(TlsConnector::from(config).connect(name, stream).await?).await
        }
    }
}

/// gRPC calls over one connection. It does not reconnect: when the connection has ended, calls fail.
/// Clones share it. Generated clients take it as they take tonic's own channel.
#[derive(Debug, Clone)]
pub struct Channel(SendRequest<Body>);

impl Channel {
    async fn over<S>(stream: S) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            // Whoever calls is told.
            let _ = connection.await;
        });
        Ok(Self(requests))
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        // The one Go hosts use; nothing is resolved.
        uri.authority = Some(Authority::from_static(SERVER_NAME));
        // A path is all that was missing.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        Box::pin(self.0.send_request(request))
    }
}
