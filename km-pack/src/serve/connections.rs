//! Connections: accepted, served, closed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::process::{Resource, getrlimit};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::activity::{Activity, Running};
use super::caller::Peer;
use super::linger::Lingering;
use super::unread::watch;
use super::{App, endpoints};

/// Most connections at one time; the next ones wait in the kernel's queue.
const MOST: usize = 10_000;
/// Descriptors that are kept for everything else: the database, logs.
const OTHER_FILES: u64 = 64;
/// How long a TLS handshake, the head of a request, and the first request of a connection may take.
const BEGIN: Duration = Duration::from_secs(10);
/// How long requests have to finish once the server is to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// After an error that goes away only when others close something.
const BACK_OFF: Duration = Duration::from_millis(200);
/// Most requests at one time over one connection of HTTP/2.
const STREAMS: u32 = 100;
/// What the kernel takes of an answer before the client does: beyond that it would hold memory for slow
/// clients, and hide for minutes whether they take anything.
const UNSENT: u32 = 128 * 1024;
/// How often a quiet connection of HTTP/2 is asked whether it is there.
const PING: Duration = Duration::from_secs(20);

/// Accepts and serves until `stop` is done; then what has begun is finished within a deadline.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: &Arc<App>,
    stop: impl Future<Output = ()>,
) {
    let (stopping, stopped) = watch::channel(false);
    let most = most_connections();
    let places = Arc::new(Semaphore::new(most));
    let acceptor =
        Acceptor { tls, router: endpoints::router(Arc::clone(app)), app: Arc::clone(app), stopped };
    tokio::select! {
        () = acceptor.accept_all(&listener, &places) => {}
        () = stop => {}
    }
    drop(listener);
    stopping.send_replace(true);
    let all = places.acquire_many(u32::try_from(most).unwrap_or(u32::MAX));
    if timeout(DRAIN, all).await.is_err() {
        tracing::warn!("stopped with requests unanswered");
    }
}

/// As many as the process may open files for.
fn most_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let rest = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
    rest.clamp(1, MOST)
}

#[derive(Clone)]
struct Acceptor {
    tls: Option<TlsAcceptor>,
    router: Router,
    app: Arc<App>,
    stopped: watch::Receiver<bool>,
}

impl Acceptor {
    async fn accept_all(&self, listener: &TcpListener, places: &Arc<Semaphore>) {
        while let Ok(place) = Arc::clone(places).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    tokio::spawn(self.clone().serve(stream, peer, place));
                }
                Err(e) => back_off(&e).await,
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let _open = Open::count(&self.app);
        // Answers are small and leave at once, or long and leave bit by bit.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        let stream = Lingering::new(stream, place);
        let Some(tls) = &self.tls else { return self.serve_http(stream, peer).await };
        let handshake = tokio::select! {
            handshake = timeout(BEGIN, tls.accept(stream)) => handshake,
            () = self.stopping() => return,
        };
        match handshake {
            Ok(Ok(stream)) => self.serve_http(stream, peer).await,
            Ok(Err(e)) => tracing::debug!(%peer, "no TLS handshake: {e}"),
            Err(_) => tracing::debug!(%peer, "no TLS handshake in time"),
        }
    }

    async fn serve_http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: SocketAddr,
    ) {
        let activity = Activity::begin(BEGIN);
        let service = service_fn(|mut request: Request<Incoming>| {
            let running = Running::begin(&activity);
            request.extensions_mut().insert(Peer(peer));
            let (head, body) = request.into_parts();
            let (body, rest) = watch(body, head.version);
            let answer = self.router.clone().oneshot(Request::from_parts(head, Body::new(body)));
            async move {
                answer.await.map(|mut answer| {
                    rest.announce_close(answer.headers_mut());
                    answer.map(|body| running.send(body))
                })
            }
        });
        let builder = http();
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = activity.idle() => return,
            () = self.stopping() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = activity.quiet() => return,
                }
            }
        };
        if let Err(e) = ended {
            tracing::debug!(%peer, "the connection ended: {e}");
        }
    }

    /// Done once the server is to stop.
    async fn stopping(&self) {
        // An error would mean that it is gone.
        let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
    }
}

/// HTTP/1.1 and HTTP/2, whichever the client speaks.
fn http() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(BEGIN).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(BEGIN);
    builder
}

/// One client's trouble is no reason to wait; too many open files are, or the loop would spin.
async fn back_off(error: &io::Error) {
    let gone = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::Interrupted];
    if !gone.contains(&error.kind()) {
        tracing::warn!("cannot accept a connection: {error}");
        sleep(BACK_OFF).await;
    }
}

/// Counts a connection while it is open.
struct Open(Arc<App>);

impl Open {
    fn count(app: &Arc<App>) -> Self {
        app.metrics.connections.inc();
        Self(Arc::clone(app))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}
