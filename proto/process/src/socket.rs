//! Listening sockets and the connections to them, in plaintext or by TLS: a plugin's own, and those
//! that the broker makes on either side.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::peer::Peer;

/// Connections that wait to be served. A host makes one.
const BACKLOG: usize = 8;
/// TLS handshakes at a time, and how long each may take.
const HANDSHAKES: usize = 16;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(50);

/// A listening socket whose file is removed with it.
#[derive(Debug)]
pub(crate) struct Socket(NamedTempFile<StdUnixListener>);

impl Socket {
    /// Under a new name: another plugin may have left a file.
    pub(crate) fn bind(folder: &Path, prefix: &str) -> Result<Self, ListenError> {
        let bind = |path: &Path| {
            let listener = StdUnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let bound = tempfile::Builder::new().prefix(prefix).make_in(folder, bind);
        bound.map(Self).map_err(|source| ListenError { folder: folder.to_owned(), source })
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The connections that `peer` makes to it.
    pub(crate) fn incoming(
        &self,
        peer: Peer,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Incoming, ListenError> {
        let listener = self.0.as_file().try_clone().and_then(UnixListener::from_std);
        let listen = |source| ListenError { folder: self.path().to_owned(), source };
        Ok(Incoming::new(listener.map_err(listen)?, peer, tls))
    }
}

/// A socket that cannot be listened at.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen in {}: {source}", folder.display())]
pub struct ListenError {
    folder: PathBuf,
    source: io::Error,
}

/// The connections to one socket, as they are ready.
#[derive(Debug)]
pub(crate) struct Incoming(mpsc::Receiver<io::Result<Connection>>);

/// One connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Plain(UnixStream),
    Tls(Box<TlsStream<UnixStream>>),
}

impl Incoming {
    /// Accepts connections until nobody takes them any more. A TLS handshake has a task of its own:
    /// one that never ends holds up no other.
    fn new(listener: UnixListener, peer: Peer, tls: Option<Arc<ServerConfig>>) -> Self {
        let (connections, incoming) = mpsc::channel(BACKLOG);
        let acceptor = tls.map(TlsAcceptor::from);
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = connections.closed() => return,
                };
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors, most likely: it passes.
                    tokio::time::sleep(RETRY).await;
                    continue;
                };
                // Who only connects and says nothing holds up no more than so many others.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let (connections, acceptor) = (connections.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let admitted = tokio::time::timeout(HANDSHAKE, admit(stream, peer, acceptor)).await;
                    drop(place);
                    match admitted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                        // Nobody may serve any more.
                        Ok(connection) => drop(connections.send(Ok(connection)).await),
                        Err(e) => tracing::warn!("a connection was refused: {e}"),
                    }
                });
            }
        });
        Self(incoming)
    }
}

async fn admit(stream: UnixStream, peer: Peer, acceptor: Option<TlsAcceptor>) -> io::Result<Connection> {
    peer.check(&stream).map_err(io::Error::other)?;
    Ok(match acceptor {
        None => Connection::Plain(stream),
        Some(acceptor) => Connection::Tls(Box::new(acceptor.accept(stream).await?)),
    })
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
