//! The control socket of a live session: whoever connects gets its report as one JSON document.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::journal::Counters;
use super::watchers::Watcher;
use crate::host::report::Report;
use crate::paths::{self, Home};

/// How long a session may take to answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// What a session reports, as it came.
pub(crate) type Session = serde_json::Value;

#[derive(Debug, Serialize)]
struct SessionDocument {
    pid: u32,
    /// As plugins know it; none without plugins.
    session: Option<String>,
    plugins: Vec<PluginDocument>,
}

#[derive(Debug, Serialize)]
struct PluginDocument {
    #[serde(flatten)]
    report: Report,
    #[serde(flatten)]
    counters: Counters,
}

/// A listening socket. Gone when dropped.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    task: JoinHandle<()>,
}

/// Listens. Without a socket (its path may be too long) the session is just not listed.
pub(super) fn serve(home: &Home, watchers: Vec<Watcher>) -> Option<Control> {
    let folder = home.run();
    let path = folder.join(format!("{}.sock", std::process::id()));
    let listen = || {
        paths::create_private(&folder)?;
        // What an earlier process of this id left.
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(&path)
    };
    let listener = match listen() {
        Ok(listener) => listener,
        Err(e) => {
            tracing::debug!("no control socket at {}: {e}", path.display());
            return None;
        }
    };
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let document = serde_json::to_vec(&describe(&watchers)).unwrap_or_default();
            // Whoever asked may be gone.
            let _ = tokio::time::timeout(DEADLINE, stream.write_all(&document)).await;
        }
    });
    Some(Control { path, task })
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

fn describe(watchers: &[Watcher]) -> SessionDocument {
    let plugin = |watcher: &Watcher| PluginDocument {
        report: watcher.report.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        counters: watcher.reader.counters(),
    };
    let session = watchers.first().map(|watcher| watcher.reader.journal().session().to_string());
    SessionDocument { pid: std::process::id(), session, plugins: watchers.iter().map(plugin).collect() }
}

/// The reports of all live sessions. Sockets that nobody answers at any more are removed.
pub(crate) fn sessions(home: &Home) -> Vec<Session> {
    let entries = std::fs::read_dir(home.run()).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect();
    paths.sort();
    paths.iter().filter_map(|path| ask(path)).collect()
}

fn ask(path: &Path) -> Option<Session> {
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(e) => {
            if e.kind() == std::io::ErrorKind::ConnectionRefused {
                let _ = std::fs::remove_file(path);
            }
            return None;
        }
    };
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let mut document = Vec::new();
    stream.read_to_end(&mut document).ok()?;
    serde_json::from_slice(&document).ok()
}
