//! Sends events from a thread of its own, so that nobody waits for the network.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{fmt, io};

use km_plugin::{Access, Message};
use tokio::sync::{Notify, watch};

use crate::api::Timeouts;
use crate::event::{self, Ids};
use crate::queue::Limits;
use state::State;
use thread::Loop;

mod state;
#[cfg(test)]
mod tests;
mod thread;

/// Takes the lines that people read.
pub(crate) type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// What bounds a sender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    /// How long the last events may take, at the end.
    pub(crate) stop: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { limits: Limits::default(), timeouts: Timeouts::default(), stop: Duration::from_millis(250) }
    }
}

/// Takes messages, and sends them as events.
pub(crate) struct Sender {
    bounds: Bounds,
    ids: Ids,
    shared: Arc<Shared>,
    /// Ends when the thread does; none before there is something to send.
    thread: Option<mpsc::Receiver<()>>,
}

/// What both threads look at.
struct Shared {
    state: Mutex<State>,
    /// Something has come that the thread may wait for.
    changed: Notify,
    /// When all must be over; none before the end.
    end: watch::Sender<Option<Instant>>,
    say: Say,
}

impl Sender {
    /// A sender for one session.
    ///
    /// # Errors
    /// Without randomness for its ids.
    pub(crate) fn new(bounds: Bounds, say: Say) -> Result<Self, getrandom::Error> {
        let state = State::new(bounds.limits);
        let shared =
            Shared { state: Mutex::new(state), changed: Notify::new(), end: watch::Sender::new(None), say };
        Ok(Self { bounds, ids: Ids::new()?, shared: Arc::new(shared), thread: None })
    }

    /// What it may do from now on. Says so where that changes what it does.
    pub(crate) fn set_access(&self, access: &Access) {
        let line = self.shared.lock().set_access(access);
        if let Some(line) = line {
            (self.shared.say)(&line);
        }
        self.shared.changed.notify_one();
    }

    /// Takes a message; waits for nothing.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn message(&mut self, message: &Message) -> km_plugin::Result {
        if !self.shared.lock().takes_events() {
            return Ok(());
        }
        let event = event::of(message, &mut self.ids)?;
        self.shared.lock().push(event, Instant::now());
        self.shared.changed.notify_one();
        if self.thread.is_none() {
            self.thread = Some(self.start()?);
        }
        Ok(())
    }

    fn start(&self) -> io::Result<mpsc::Receiver<()>> {
        let (ended, thread) = mpsc::channel::<()>();
        let shared = Arc::clone(&self.shared);
        let timeouts = self.bounds.timeouts;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("sender".to_owned()).spawn(move || {
            runtime.block_on(Loop::new(shared, timeouts).run());
            // A name that is still being looked up holds up nothing.
            runtime.shutdown_background();
            drop(ended);
        })?;
        Ok(thread)
    }

    /// Sends what waits as far as time allows, and says what became of everything.
    pub(crate) fn stop(&mut self) {
        let end = Instant::now() + self.bounds.stop;
        self.shared.end.send_replace(Some(end));
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // Either way there is nothing else to do: it ended, or it is too late.
            let _ = thread.recv_timeout(self.bounds.stop);
        }
        let summary = self.shared.lock().summary();
        for line in summary {
            (self.shared.say)(&line);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when all must be over.
    async fn ended(&self) {
        let mut end = self.end.subscribe();
        // The other half lives as long as this one.
        let Ok(at) = end.wait_for(Option::is_some).await.map(|at| *at) else { return };
        if let Some(at) = at {
            tokio::time::sleep_until(at.into()).await;
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}
