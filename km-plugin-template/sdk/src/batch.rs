//! Messages that are handed over together, and what became of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use km_proto::v2::{DeliverResponse, Failure};

use crate::gate::Gate;
use crate::message::{Message, SessionId};
use crate::{Plugin, Result};

/// Longest error that is passed on, in bytes.
const MAX_ERROR: usize = 1000;
/// Most failures in one response.
const MAX_FAILURES: usize = 1000;

/// The next messages, in order: all that came while the plugin was busy, at least one.
///
/// They all count as handled when [`Plugin::batch`] returns. Until then `km` learns within
/// milliseconds of what [`Batch::handled`] and [`Batch::failed`] say; after a crash it sends again what
/// they did not name.
#[derive(Debug)]
pub struct Batch {
    messages: Vec<Message>,
    progress: Arc<Progress>,
}

impl Batch {
    pub(crate) fn new(messages: Vec<Message>, progress: Arc<Progress>) -> Self {
        Self { messages, progress }
    }

    /// The session that they belong to; none in protocol 1.
    pub fn session(&self) -> Option<&SessionId> {
        self.messages.first()?.session.as_ref()
    }

    /// The messages.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// This message, and all before it, need not be delivered again.
    pub fn handled(&self, message: &Message) {
        self.progress.lock().advance(message.sequence);
    }

    /// This message could not be handled, for a reason that `km` logs; all before it were.
    pub fn failed(&self, message: &Message, error: impl ToString) {
        let mut state = self.progress.lock();
        state.fail(message.sequence, &error.to_string());
        state.advance(message.sequence);
    }

    /// Handles one message after the other, for as long as the plugin may.
    pub(crate) fn each(&self, mut handle: impl FnMut(&Message) -> Result) {
        for message in &self.messages {
            if !self.progress.goes_on() {
                self.progress.lock().is_cut_short = true;
                return;
            }
            match handle(message) {
                Ok(()) => self.handled(message),
                Err(error) => self.failed(message, error),
            }
        }
    }

    /// Has it handled by the author's code.
    pub(crate) fn hand_to(&self, plugin: &mut dyn Plugin) {
        let outcome = plugin.batch(self);
        let mut state = self.progress.lock();
        if std::mem::take(&mut state.is_cut_short) {
            return;
        }
        if let Err(error) = outcome {
            let error = error.to_string();
            for message in &self.messages {
                if Some(message.sequence) > state.handled {
                    state.fail(message.sequence, &error);
                }
            }
        }
        if let Some(last) = self.messages.last() {
            state.advance(last.sequence);
        }
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Message;
    type IntoIter = std::slice::Iter<'a, Message>;

    fn into_iter(self) -> Self::IntoIter {
        self.messages.iter()
    }
}

/// How far the messages of one stream are handled: written by the author's thread, read by the
/// connection's.
#[derive(Debug)]
pub(crate) struct Progress {
    gate: Arc<Gate>,
    is_halted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last message that was handled; none before the first.
    handled: Option<u64>,
    /// What was acknowledged of it.
    acknowledged: Option<u64>,
    /// What the host has not heard of.
    failures: Vec<Failure>,
    /// The batch in work ended before its last message.
    is_cut_short: bool,
}

impl Progress {
    /// From a position on that the plugin has reached.
    pub(crate) fn new(gate: Arc<Gate>, position: Option<u64>) -> Self {
        let state = State { handled: position, acknowledged: position, ..State::default() };
        Self { gate, is_halted: AtomicBool::new(false), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No further message is to be handled: nobody would hear of it.
    pub(crate) fn halt(&self) {
        self.is_halted.store(true, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.is_halted.load(Ordering::Relaxed) && self.gate.is_open().is_ok()
    }

    /// The last message that was handled.
    pub(crate) fn handled(&self) -> Option<u64> {
        self.lock().handled
    }

    /// What became of a single message.
    pub(crate) fn verdict(&self) -> Result {
        let mut state = self.lock();
        match (state.failures.pop(), state.handled) {
            (Some(failure), _) => Err(failure.error.into()),
            (None, None) => Err("its access has ended".into()),
            (None, Some(_)) => Ok(()),
        }
    }

    /// What the host has to be told; nothing if it knows all. Responses of a bounded size.
    pub(crate) fn news(&self) -> Vec<DeliverResponse> {
        let (handled, mut failures) = {
            let mut state = self.lock();
            if state.handled == state.acknowledged {
                return Vec::new();
            }
            state.acknowledged = state.handled;
            (state.handled.unwrap_or_default(), std::mem::take(&mut state.failures))
        };
        let mut responses = Vec::new();
        while failures.len() > MAX_FAILURES {
            let rest = failures.split_off(MAX_FAILURES);
            let acknowledged = failures.last().map_or(0, |failure| failure.sequence);
            responses.push(DeliverResponse { acknowledged, window: 0, failures });
            failures = rest;
        }
        responses.push(DeliverResponse { acknowledged: handled, window: 0, failures });
        responses
    }
}

impl State {
    fn advance(&mut self, sequence: u64) {
        self.handled = self.handled.max(Some(sequence));
    }

    fn fail(&mut self, sequence: u64, error: &str) {
        let error = error[..error.floor_char_boundary(MAX_ERROR)].to_owned();
        self.failures.push(Failure { sequence, error });
    }
}
