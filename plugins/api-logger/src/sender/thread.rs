//! The thread that talks to the API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::state::Step;
use crate::api::{self, Destination, Site, Timeouts, Trouble, Verdict};
use crate::pause::Pauses;
use crate::queue::Batch;

/// What the thread runs.
pub(super) struct Loop {
    shared: Arc<Shared>,
    timeouts: Timeouts,
    pauses: Pauses,
    /// What sends to a site; made when there is something to send.
    client: Option<(Site, reqwest::Client)>,
}

impl Loop {
    pub(super) fn new(shared: Arc<Shared>, timeouts: Timeouts) -> Self {
        Self { shared, timeouts, pauses: Pauses::default(), client: None }
    }

    /// Sends what there is to send, until the end.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut not_before = None;
        while let Some((batch, destination)) = self.next(not_before).await {
            let verdict = tokio::select! {
                verdict = self.send(&batch, &destination) => verdict,
                () = shared.ended() => return shared.lock().put_back(batch),
            };
            let is_single = batch.len() == 1;
            not_before = self.pause(verdict, is_single).map(|pause| Instant::now() + pause);
            let line = shared.lock().settle(batch, verdict, &destination);
            if let Some(line) = line {
                (shared.say)(&line);
            }
        }
    }

    /// Waits for the next batch; none at the end.
    async fn next(&self, not_before: Option<Instant>) -> Option<(Batch, Arc<Destination>)> {
        loop {
            let end = *self.shared.end.borrow();
            let step = self.shared.lock().step(Instant::now(), not_before, end);
            match step {
                Step::Send(batch, destination) => return Some((batch, destination)),
                Step::End => return None,
                Step::Wait(None) => self.shared.changed.notified().await,
                Step::Wait(Some(until)) => {
                    tokio::select! {
                        () = self.shared.changed.notified() => {}
                        () = tokio::time::sleep_until(until.into()) => {}
                    }
                }
            }
        }
    }

    async fn send(&mut self, batch: &Batch, destination: &Destination) -> Verdict {
        match self.client(&destination.site) {
            Ok(client) => api::send(&client, destination, batch.body()).await,
            // Certificates that are none reach nobody.
            Err(_) => Verdict::Later { trouble: Trouble::Unreachable, asked: None },
        }
    }

    fn client(&mut self, site: &Site) -> reqwest::Result<reqwest::Client> {
        match &self.client {
            Some((known, client)) if known == site => Ok(client.clone()),
            _ => {
                let client = site.client(self.timeouts)?;
                self.client = Some((site.clone(), client.clone()));
                Ok(client)
            }
        }
    }

    /// How long to wait after that.
    fn pause(&mut self, verdict: Verdict, is_single: bool) -> Option<Duration> {
        match verdict {
            Verdict::Taken => {
                self.pauses.reset();
                None
            }
            Verdict::Later { asked, .. } => Some(self.pauses.next(asked)),
            // A server that refuses every single event is not to be flooded with them.
            Verdict::Smaller if !is_single => None,
            Verdict::Smaller | Verdict::Never(_) => Some(self.pauses.next(None)),
            // The next token or access ends the wait.
            Verdict::OtherToken | Verdict::Forbidden => None,
        }
    }
}
