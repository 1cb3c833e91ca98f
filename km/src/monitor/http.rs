//! `km monitor --http`: a reverse proxy for an MCP server that speaks HTTP.
//!
//! ```text
//! client ──connection──► km ──connection──► upstream
//!                        │tap: the bodies that are messages
//! ```
//!
//! Each connection of a client has one to the upstream of its own, and what passes between the two stays
//! as it is: only heads are read and written anew, for `Host`, the path, and what is of one hop. So a body
//! keeps its framing and its timing, a connection that ends or breaks does so on both sides, and no
//! request is ever sent twice.

mod body;
mod connection;
mod exchange;
mod head;
mod incoming;
mod listen;
mod refusal;
mod unreachable;
mod upstream;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use km_package::failure::{Failure, Kind};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub(crate) use self::listen::Listen;
pub(crate) use self::upstream::UpstreamUrl;

use self::connection::Proxy;
use self::exchange::Observation;
use self::unreachable::Unreachable;
use self::upstream::{KEEP_ALIVE, Upstream};
use super::remarks::Remarks;
use super::tap::tap;
use super::watchers::{Audience, Watchers};
use crate::auth;
use crate::config::Config;
use crate::environment::Environment;
use crate::host::{guard, resources};
use crate::paths::{self, Home};

/// Most connections of clients; each takes two files of the thousand that a process may have open.
const MOST_CONNECTIONS: usize = 400;
/// Most that are told so at once; past it they are closed without a word.
const MOST_TURNED_AWAY: usize = 50;
/// How long exchanges may take that are open at the end.
const LAST_EXCHANGES: Duration = Duration::from_secs(1);
/// How long a stderr that nobody reads may hold up the last words.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long nobody is let in when there are no more files or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// What `km monitor --http` was asked to do.
#[derive(Debug, Clone)]
pub(crate) struct HttpOptions {
    pub(crate) listen: Listen,
    pub(crate) upstream: UpstreamUrl,
    /// Who looks on.
    pub(crate) audience: Audience,
}

/// Runs a session until a signal ends it.
pub(crate) fn run(options: HttpOptions, environment: Environment) -> Result<ExitCode, Failure> {
    let HttpOptions { listen, upstream, audience } = options;
    let local = |e: io::Error| Failure::new(Kind::Local, format_args!("cannot start the session: {e}"));
    resources::share_heaps();
    // Before there are threads.
    let guard = guard::start_without_server().map_err(local)?;
    paths::survive_size_limits();
    let certificates = certificates(&upstream, &environment)?;
    let target = Upstream::new(upstream.clone(), &certificates, &environment.proxy)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(local)?;
    let listener = runtime.block_on(TcpListener::bind(listen.0)).map_err(|e| cannot_listen(listen, &e))?;
    let address = listener.local_addr().map_err(local)?;
    Remarks.start().map_err(local)?;
    let signals = watch_signals().map_err(local)?;

    let ends = audience.looks_on().then(tap);
    let tap = ends.as_ref().map(|(tap, _)| tap.clone());
    let watchers = match ends {
        Some(ends) => {
            let guard = guard.try_clone().map_err(local)?;
            Some(Watchers::start(environment, audience, ends, Some(guard)).map_err(local)?)
        }
        None => None,
    };
    let (end, ending) = watch::channel(false);
    let (observation, unreachable) = (Observation::new(tap), Unreachable::default());
    let proxy = Arc::new(Proxy { listen, upstream: target, unreachable, observation, ending });
    Remarks.say(&format!("listening on http://{address}, upstream {upstream}"));
    runtime.block_on(serve(listener, proxy, signals.clone(), &end));
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();

    let words = watchers.map(|watchers| watchers.finish(&|| *signals.borrow() > 1)).unwrap_or_default();
    guard.finish();
    // What plugins left.
    guard::end_orphans();
    words.iter().for_each(|words| Remarks.say(words));
    Remarks.finish(LAST_WORDS);
    Ok(ExitCode::SUCCESS)
}

/// Those that are trusted besides the system's.
fn certificates(upstream: &UpstreamUrl, environment: &Environment) -> Result<Vec<u8>, Failure> {
    if !upstream.is_https() {
        return Ok(Vec::new());
    }
    let config = Config::load(&Home::find(environment)?)?;
    auth::read_certificates(config.api_certificates.as_deref())
}

fn cannot_listen(listen: Listen, error: &io::Error) -> Failure {
    Failure::new(Kind::Local, format_args!("cannot listen on {listen}: {error}"))
        .help("port 0 takes one that is free")
}

/// Counts the signals that end the session.
fn watch_signals() -> io::Result<watch::Receiver<u32>> {
    let (count, counted) = watch::channel(0);
    let mut signals = signal_hook::iterator::Signals::new(guard::signals_to_pass_on())?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            count.send_modify(|count| *count += 1);
        }
    })?;
    Ok(counted)
}

/// Serves clients until the first signal, and those that are being answered a little longer.
async fn serve(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    mut signals: watch::Receiver<u32>,
    end: &watch::Sender<bool>,
) {
    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept(listener, &proxy, &mut connections) => {}
        _ = signals.wait_for(|count| *count > 0) => {}
    }
    end.send_replace(true);
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        _ = signals.wait_for(|count| *count > 1) => {}
        () = tokio::time::sleep(LAST_EXCHANGES) => {}
    }
}

async fn accept(listener: TcpListener, proxy: &Arc<Proxy>, connections: &mut JoinSet<()>) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let turned_away = Arc::new(Semaphore::new(MOST_TURNED_AWAY));
    loop {
        // Those that have ended are let go.
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        prepare(&client);
        if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
            let served = connection::serve(client, Arc::clone(proxy));
            connections.spawn(async move {
                served.await;
                drop(place);
            });
        } else if let Ok(place) = Arc::clone(&turned_away).try_acquire_owned() {
            connections.spawn(async move {
                connection::turn_away(client).await;
                drop(place);
            });
        }
    }
}

/// Each piece is sent when it is written; a client that vanished is noticed some day.
fn prepare(client: &TcpStream) {
    let _ = client.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(client, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(client, KEEP_ALIVE);
}
