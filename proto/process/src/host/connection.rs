//! One connection to a plugin, to the process that was started and to no other.

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

use super::error::Trouble;
use crate::handshake::Address;
use crate::tls::SERVER_NAME;

/// Flow-control window in bytes, for streams and connection: the default of 64 KiB costs a round
/// trip for every larger message.
const WINDOW: u32 = 1 << 20;

pub(super) async fn connect(
    address: &Address,
    process: u32,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Channel, Trouble> {
    let failed =
        |e: &dyn std::fmt::Display| Trouble::Connect { address: address.to_string(), why: e.to_string() };
    // The authority is the one Go hosts use; nothing is resolved.
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|e| failed(&e))?;
            check_peer(&stream, process)?;
            secure(&endpoint, stream, tls).await.map_err(|e| failed(&e))
        }
        // Any user of this machine could listen there.
        Address::Tcp(_) if tls.is_none() => Err(failed(&"a TCP connection must be encrypted")),
        Address::Tcp(address) if address.ip().is_loopback() => {
            let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
            stream.set_nodelay(true).map_err(|e| failed(&e))?;
            secure(&endpoint, stream, tls).await.map_err(|e| failed(&e))
        }
        Address::Tcp(_) => Err(failed(&"only this machine's own addresses are connected to")),
    }
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
        async move {
            stream.map(TokioIo::new).ok_or_else(|| io::Error::other("the connection to the plugin ended"))
        }
    });
    endpoint.connect_with_connector(connector).await
}

/// Who listens there must be the process that was started, or one of its process group (a wrapper
/// script's child).
fn check_peer(stream: &UnixStream, process: u32) -> Result<(), Trouble> {
    let found = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
    // Not every system tells.
    let Some(found) = found else { return Ok(()) };
    let group = rustix::process::Pid::from_raw(found)
        .and_then(|pid| rustix::process::getpgid(Some(pid)).ok())
        .map(rustix::process::Pid::as_raw_pid);
    let expected = i32::try_from(process).ok();
    if Some(found) == expected || group == expected {
        Ok(())
    } else {
        Err(Trouble::Stranger { found, expected: process })
    }
}
