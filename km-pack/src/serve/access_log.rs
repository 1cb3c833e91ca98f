//! The access log: a line of JSON on stderr for each request.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use km_package::name::CustomerId;
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

/// Lines that may wait for stderr. Requests never wait: what is more is counted and lost.
const WAITING: usize = 8192;
/// How long the end of the server waits for the last lines to be taken.
const FLUSH: Duration = Duration::from_secs(1);

/// One line. It has no headers and no query string.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    pub(super) time: &'a str,
    pub(super) id: &'a str,
    pub(super) peer: Option<SocketAddr>,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// None: the client went away before there was an answer.
    pub(super) status: Option<u16>,
    pub(super) ms: f64,
    pub(super) customer: Option<&'a CustomerId>,
}

/// Writes lines from a thread of its own, since stderr may be a pipe that nobody reads.
#[derive(Debug)]
pub(super) struct AccessLog {
    writer: Mutex<Option<Writer>>,
    lines: Option<SyncSender<String>>,
    lost: Counter,
}

#[derive(Debug)]
struct Writer {
    stop: SyncSender<String>,
    stopped: Receiver<()>,
}

impl AccessLog {
    /// One that writes, or one that does not.
    pub(super) fn start(wanted: bool, lost: Counter) -> Self {
        let writer = wanted.then(|| {
            let (lines, waiting) = sync_channel(WAITING);
            let (done, stopped) = sync_channel(1);
            std::thread::spawn(move || {
                write(&waiting);
                // Nobody waits for it any more where the flush took too long.
                let _ = done.send(());
            });
            (lines, stopped)
        });
        let (lines, stopped) = writer.unzip();
        let writer = lines.clone().zip(stopped).map(|(stop, stopped)| Writer { stop, stopped });
        Self { writer: Mutex::new(writer), lines, lost }
    }

    /// Writes a line, or counts it as lost.
    pub(super) fn line(&self, line: &Line<'_>) {
        let (Some(lines), Ok(text)) = (&self.lines, serde_json::to_string(line)) else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = lines.try_send(text + "\n") {
            self.lost.inc();
        }
    }

    /// Gives the lines that still wait a moment to be written.
    pub(super) fn finish(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Writer { stop, stopped }) = writer
            && stop.try_send(String::new()).is_ok()
        {
            let _ = stopped.recv_timeout(FLUSH);
        }
    }
}

/// Writes until an empty text says that it was the last.
fn write(lines: &Receiver<String>) {
    let mut stderr = std::io::stderr();
    while let Ok(first) = lines.recv() {
        let mut batch = first;
        let mut last = batch.is_empty();
        for next in lines.try_iter() {
            last |= next.is_empty();
            batch.push_str(&next);
        }
        // There is nobody to tell when stderr takes nothing.
        let _ = stderr.write_all(batch.as_bytes());
        if last {
            return;
        }
    }
}
