//! The plugin API's server.
//!
//! | module | what it owns |
//! |---|---|
//! | `connections`, `activity`, `linger`, `unread`, `tls` | sockets: accepting, TLS, deadlines, the end |
//! | `observe`, `access_log`, `metrics` | what is known of a request once it is answered |
//! | `caller`, `limits` | who asks, checked before a body is read; how often they may |
//! | `body`, `refusal` | JSON in, and the one form of every refusal |
//! | `key_ring`, `download_url` | the keys that tokens and URLs are signed with |
//! | `packages`, `cache` | what was published, and what is kept of it in memory |
//! | `binaries` | whether a binary is one that was published |
//! | `endpoints` | one function for each endpoint |
//! | `provision`, `download`, `ranges` | those that hand out packages |

mod access_log;
mod activity;
mod binaries;
mod body;
mod cache;
mod caller;
mod connections;
mod download;
mod download_url;
mod endpoints;
mod key_ring;
mod limits;
mod linger;
mod metrics;
mod observe;
mod packages;
mod provision;
mod ranges;
mod refusal;
mod room;
mod tls;
mod unread;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use km_package::failure::{Failure, Kind};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::customers::Database;
use crate::store::Store;
use access_log::AccessLog;
use binaries::Binaries;
use key_ring::KeyRing;
use limits::Limits;
use metrics::Metrics;
use packages::Packages;
use room::Room;

pub use download_url::public_url;

/// How long the database has to close its connections at the end.
const CLOSE: Duration = Duration::from_secs(2);
/// How often those who have not asked for a while are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// How a server is to work.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The certificates and the key in PEM; none: plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The base of download URLs; none: as each request came.
    pub public_url: Option<String>,
    /// How long a token is valid.
    pub token_lifetime: SignedDuration,
    /// How long a download URL is good.
    pub url_lifetime: SignedDuration,
    /// Requests in a second for each API key.
    pub rate_limit: NonZeroU32,
    /// Whether each request is written to stderr.
    pub access_log: bool,
}

/// What all requests share.
#[derive(Debug)]
struct App {
    database: Database,
    keys: KeyRing,
    limits: Limits,
    room: Room,
    metrics: Metrics,
    log: AccessLog,
    packages: Packages,
    binaries: Binaries,
    /// `http` or `https`.
    scheme: &'static str,
    address: SocketAddr,
    public_url: Option<String>,
    token_lifetime: SignedDuration,
    url_lifetime: SignedDuration,
}

/// A server that listens but does not answer yet.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.url())
    }
}

impl Server {
    /// Reads certificates and token keys, and listens.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub async fn bind(settings: &Settings, database: Database, store: Store) -> Result<Self, Failure> {
        let tls = match &settings.tls {
            Some((certificates, key)) => Some(tls::acceptor(certificates, key)?),
            None => None,
        };
        let keys = KeyRing::load(database.clone()).await?;
        let unable = |e| Failure::new(Kind::Local, format_args!("cannot listen on {}: {e}", settings.listen));
        let listener = TcpListener::bind(settings.listen).await.map_err(unable)?;
        let address = listener.local_addr().map_err(unable)?;
        let metrics = Metrics::default();
        let packages = Packages::new(store);
        let app = Arc::new(App {
            database,
            keys,
            limits: Limits::new(settings.rate_limit),
            room: Room::default(),
            log: AccessLog::start(settings.access_log, metrics.log_lines_lost.clone()),
            metrics,
            binaries: Binaries::new(packages.clone()),
            packages,
            scheme: if tls.is_some() { "https" } else { "http" },
            address,
            public_url: settings.public_url.clone(),
            token_lifetime: settings.token_lifetime,
            url_lifetime: settings.url_lifetime,
        });
        Ok(Self { app, listener, tls })
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("{}://{}", self.app.scheme, self.app.address)
    }

    /// Answers until `stop` is done, and then finishes what it has begun.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { app, listener, tls } = self;
        let keeper = tokio::spawn(Arc::clone(&app).keep_limits_small());
        connections::serve(listener, tls, &app, stop).await;
        keeper.abort();
        app.log.finish();
        // What did not finish in time may still hold a connection.
        let _ = tokio::time::timeout(CLOSE, app.database.close()).await;
    }
}

impl App {
    async fn keep_limits_small(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(FORGET);
        loop {
            ticks.tick().await;
            self.limits.forget_idle();
        }
    }
}
