//! The one order a plugin gets: leave.

use std::io;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Tells every part of a plugin that it is to leave. Clones share the order.
#[derive(Debug, Clone)]
pub struct Leave(watch::Sender<bool>);

impl Default for Leave {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Leave {
    /// Gives the order; giving it again does nothing.
    pub fn ask(&self) {
        self.0.send_replace(true);
    }

    /// Waits for the order.
    pub fn asked(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut order = self.0.subscribe();
        async move {
            // The sender lives as long as whoever waits: an error cannot come before the order.
            let _ = order.wait_for(|asked| *asked).await;
        }
    }

    /// What is received, as the answer to a call, until the order: a server waits for its streams.
    pub(super) fn until<T: Send + 'static>(
        &self,
        receiver: mpsc::Receiver<T>,
    ) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
        let asked = Box::pin(self.asked());
        Box::pin(ReceiverStream::new(receiver).map(Ok).take_until(asked))
    }

    /// SIGTERM is the order; SIGINT is ignored, since Ctrl-C is the host's to handle.
    pub(super) fn watch_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let leave = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => leave.ask(),
                    _ = interrupt.recv() => {}
                }
            }
        });
        Ok(())
    }
}
