//! The thread on which the author's code runs, one call after the other.

use std::sync::mpsc;
use std::{io, thread};

use tokio::sync::oneshot;

use crate::{Plugin, Result};

type Call = Box<dyn FnOnce(&mut dyn Plugin) -> Result + Send>;

/// Hands calls to the author's thread. Clones share it.
#[derive(Clone)]
pub(crate) struct Worker(mpsc::Sender<(Call, oneshot::Sender<Result>)>);

impl Worker {
    pub(crate) fn start(mut plugin: impl Plugin) -> io::Result<Self> {
        let (calls, queue) = mpsc::channel::<(Call, oneshot::Sender<Result>)>();
        thread::Builder::new().name("plugin".to_owned()).spawn(move || {
            for (call, done) in queue {
                // Whoever asked may have given up waiting.
                let _ = done.send(call(&mut plugin));
            }
        })?;
        Ok(Self(calls))
    }

    /// Runs one call after all earlier ones.
    pub(crate) async fn run(&self, call: impl FnOnce(&mut dyn Plugin) -> Result + Send + 'static) -> Result {
        let (done, outcome) = oneshot::channel();
        self.0.send((Box::new(call), done)).map_err(|_| "the plugin has stopped")?;
        outcome.await.map_err(|_| "the plugin has stopped")?
    }

    /// The last call; bounded, since the host will not wait for ever either.
    pub(crate) async fn stop(&self) {
        let stopping = self.run(|plugin| plugin.stop());
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), stopping).await;
    }
}
