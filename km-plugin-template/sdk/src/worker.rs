//! The thread on which the author's code runs, one call after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::{io, thread};

use tokio::sync::oneshot;

use crate::{Plugin, Result};

const STOPPED: &str = "the plugin has stopped";

type Call = Box<dyn FnOnce(&mut dyn Plugin) + Send>;

/// Hands calls to the author's thread. Clones share it.
#[derive(Clone)]
pub(crate) struct Worker {
    calls: mpsc::Sender<Call>,
    /// Whether the session has begun: nothing is told to a plugin before.
    begun: Arc<AtomicBool>,
}

impl Worker {
    pub(crate) fn start(mut plugin: impl Plugin) -> io::Result<Self> {
        let (calls, queue) = mpsc::channel::<Call>();
        thread::Builder::new().name("plugin".to_owned()).spawn(move || {
            for call in queue {
                call(&mut plugin);
            }
        })?;
        Ok(Self { calls, begun: Arc::default() })
    }

    /// Runs one call after all earlier ones.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut dyn Plugin) -> T + Send + 'static,
    ) -> Result<T> {
        Ok(self.queue(call)?.await.map_err(|_| STOPPED)?)
    }

    /// The same, for whoever has something else to do meanwhile.
    pub(crate) fn queue<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut dyn Plugin) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>> {
        let (done, outcome) = oneshot::channel();
        let call = move |plugin: &mut dyn Plugin| {
            // Whoever asked may have given up waiting.
            let _ = done.send(call(plugin));
        };
        self.calls.send(Box::new(call)).map_err(|_| STOPPED)?;
        Ok(outcome)
    }

    /// Runs the call that begins the session.
    pub(crate) async fn begin(
        &self,
        call: impl FnOnce(&mut dyn Plugin) -> Result + Send + 'static,
    ) -> Result {
        self.begun.store(true, Ordering::Relaxed);
        let started = self.run(call).await.flatten();
        self.begun.store(started.is_ok(), Ordering::Relaxed);
        started
    }

    /// Whether the session has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Tells the plugin something in a session that has begun, and does not wait.
    pub(crate) fn tell(&self, call: impl FnOnce(&mut dyn Plugin) -> Result + Send + 'static) {
        if !self.has_begun() {
            return;
        }
        let Ok(outcome) = self.queue(call) else { return };
        tokio::spawn(async move {
            if let Ok(Err(error)) = outcome.await {
                eprintln!("{error}");
            }
        });
    }

    /// The last call; bounded, since the host will not wait for ever either.
    pub(crate) async fn stop(&self) {
        let stopping = self.run(|plugin| plugin.stop());
        let stopped = tokio::time::timeout(std::time::Duration::from_secs(1), stopping).await;
        if let Ok(Ok(Err(error))) = stopped {
            eprintln!("{error}");
        }
    }
}
