//! What messages have to do with each other: answers, progress and cancellations with their
//! requests, and requests with those that they go on with.
//!
//! Nothing is made of `initialize` or of a session, so both eras of MCP may pass in one stream. Both
//! sides use the same ids at the same time: a request is known by channel, direction and id. Members of
//! a batch are not looked at. Of one that was lost, or of ids longer ago than what is remembered, the
//! answer stands alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use km_proto::Direction;
use km_proto::mcp::{Reading, text};

use super::calls::Call;
use super::message::Exchange;

/// Most requests that are remembered while nobody answers. Of more, the oldest are forgotten.
const REQUESTS: usize = 10_000;
/// Most results that ask for input, and are remembered until the request comes again.
const RESUMABLE: usize = 10_000;
/// Longest name of a method that is remembered.
const METHOD: usize = 256;

/// A message that is to be related to those before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed<'a> {
    pub(super) sequence: u64,
    pub(super) direction: Direction,
    /// From the beginning of the session.
    pub(super) elapsed: Duration,
    pub(super) channel: Option<&'a str>,
    pub(super) reading: &'a Reading<'a>,
}

/// Requests without an answer, and results that want another request. Ids, tokens and states are
/// remembered as keyed hashes: what a peer makes them does not count, neither in memory nor in time.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    hasher: RandomState,
    /// By sequence number.
    requests: BTreeMap<u64, Request>,
    /// The newest request of each id.
    ids: HashMap<u64, u64>,
    /// The newest request of each progress token.
    tokens: HashMap<u64, u64>,
    resumable: HashMap<u64, Resumable>,
    /// The states of `resumable`, oldest first.
    states: VecDeque<u64>,
}

#[derive(Debug)]
struct Request {
    elapsed: Duration,
    method: Option<Arc<str>>,
    /// The number of the message that began the exchange.
    first: u64,
    cancelled: bool,
    id: u64,
    token: Option<u64>,
    /// One of the same id that was not answered either.
    older: Option<u64>,
    call: Call,
}

/// A request that was answered by `input_required`.
#[derive(Debug, Clone, Copy)]
struct Resumable {
    request: u64,
    first: u64,
}

impl Exchanges {
    /// Takes a request, and says what it goes on with.
    pub(super) fn begin(&mut self, passed: Passed<'_>, call: Call) -> Exchange {
        let Passed { sequence, direction, reading, .. } = passed;
        let state = reading.params.request_state.map(|state| self.state(state));
        let before = state.and_then(|state| self.resumable.get(&state)).copied();
        if let Some(id) = reading.id {
            let id = self.name(passed.channel, direction, id);
            let token = reading.params.meta.progress_token;
            let token = token.map(|token| self.name(passed.channel, direction, token));
            if let Some(token) = token {
                self.tokens.insert(token, sequence);
            }
            let request = Request {
                elapsed: passed.elapsed,
                method: reading.method.as_deref().filter(|name| name.len() <= METHOD).map(Arc::from),
                first: before.map_or(sequence, |before| before.first),
                cancelled: false,
                id,
                token,
                older: self.ids.insert(id, sequence),
                call,
            };
            self.requests.insert(sequence, request);
            self.forget_oldest();
        }
        match before {
            Some(Resumable { request, first }) => {
                Exchange { first, retry_of: Some(request), ..Exchange::default() }
            }
            None => Exchange::default(),
        }
    }

    /// Takes a result or an error: the answer to the newest request of the other side with its id. With the
    /// call that ends.
    pub(super) fn answer(&mut self, passed: Passed<'_>) -> Option<(Exchange, Call)> {
        let number = self.find(passed, opposite(passed.direction), passed.reading.id?)?;
        let request = self.forget(number)?;
        if let Some(state) = passed.reading.result.request_state.filter(|_| passed.reading.asks_for_input()) {
            self.resume_by(state, Resumable { request: number, first: request.first });
        }
        let exchange = Exchange {
            first: request.first,
            request: Some(number),
            latency: Some(passed.elapsed.saturating_sub(request.elapsed)),
            method: request.method,
            cancelled: request.cancelled,
            retry_of: None,
        };
        Some((exchange, request.call))
    }

    /// Takes a notification: progress, or one of a subscription.
    pub(super) fn notice(&self, passed: Passed<'_>) -> Exchange {
        let Passed { direction, reading, .. } = passed;
        let asked = opposite(direction);
        let number = match (reading.method.as_deref(), reading.params.progress_token) {
            (Some("notifications/progress"), Some(token)) => {
                self.tokens.get(&self.name(passed.channel, asked, token)).copied()
            }
            _ => reading.params.meta.subscription_id.and_then(|id| self.find_subscription(passed, asked, id)),
        };
        number.map(|number| self.belongs_to(number)).unwrap_or_default()
    }

    /// Takes a cancellation. The call is the one that is now cancelled, if it was not before.
    pub(super) fn cancel(&mut self, passed: Passed<'_>) -> (Exchange, Option<Call>) {
        let Some(id) = passed.reading.params.request_id else { return Default::default() };
        // Whoever asked cancels, but for subscriptions, which a server ends in this way.
        let number = self
            .find(passed, passed.direction, id)
            .or_else(|| self.find_subscription(passed, opposite(passed.direction), id));
        let Some(number) = number else { return Default::default() };
        let exchange = self.belongs_to(number);
        let newly = self.requests.get_mut(&number).filter(|request| !request.cancelled);
        let call = newly.map(|request| {
            request.cancelled = true;
            request.call
        });
        (exchange, call)
    }

    fn belongs_to(&self, number: u64) -> Exchange {
        let first = self.requests.get(&number).map_or(number, |request| request.first);
        Exchange { first, request: Some(number), ..Exchange::default() }
    }

    /// The newest request of this direction and id.
    fn find(&self, passed: Passed<'_>, direction: Direction, id: &str) -> Option<u64> {
        self.ids.get(&self.name(passed.channel, direction, id)).copied()
    }

    fn find_subscription(&self, passed: Passed<'_>, direction: Direction, id: &str) -> Option<u64> {
        let number = self.find(passed, direction, id)?;
        let method = self.requests.get(&number)?.method.as_deref();
        (method == Some("subscriptions/listen")).then_some(number)
    }

    /// An id or a token, as one side of a channel uses it.
    fn name(&self, channel: Option<&str>, direction: Direction, written: &str) -> u64 {
        self.hasher.hash_one((channel, direction, text(written).ok_or(written)))
    }

    /// A state is the server's own word, and the same on whatever channel it comes back.
    fn state(&self, written: &str) -> u64 {
        self.hasher.hash_one(text(written).ok_or(written))
    }

    fn resume_by(&mut self, state: &str, resumable: Resumable) {
        let state = self.state(state);
        if self.resumable.insert(state, resumable).is_none() {
            self.states.push_back(state);
        }
        if self.states.len() > RESUMABLE
            && let Some(oldest) = self.states.pop_front()
        {
            self.resumable.remove(&oldest);
        }
    }

    fn forget_oldest(&mut self) {
        if self.requests.len() > REQUESTS
            && let Some((&oldest, _)) = self.requests.first_key_value()
        {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, number: u64) -> Option<Request> {
        let request = self.requests.remove(&number)?;
        if self.ids.get(&request.id) == Some(&number) {
            match request.older.filter(|older| self.requests.contains_key(older)) {
                Some(older) => self.ids.insert(request.id, older),
                None => self.ids.remove(&request.id),
            };
        }
        if let Some(token) = request.token
            && self.tokens.get(&token) == Some(&number)
        {
            self.tokens.remove(&token);
        }
        Some(request)
    }
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    }
}
