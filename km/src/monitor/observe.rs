//! What passed, as messages: cut out of the streams, read, and related to each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use km_proto::jsonrpc::Kind;
use km_proto::mcp::{Reading, text};

use super::calls::{Call, Calls, Ending};
use super::exchanges::{Exchanges, Passed};
use super::frames::{Frame, Framed, Framer};
use super::message::{Exchange, Message};
use super::tap::Piece;

/// What became of what passed.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "handed on at once, and nearly always the large one")]
pub(super) enum Observed {
    /// A message.
    Message(Message),
    /// So many were left out; the sequence number of the first.
    Lost { first: u64, count: u64 },
}

/// Makes messages of what passed.
#[derive(Debug)]
pub(super) struct Observer {
    framer: Framer,
    reader: Reader,
}

#[derive(Debug)]
struct Reader {
    begun: Instant,
    exchanges: Exchanges,
    calls: Arc<Mutex<Calls>>,
}

impl Observer {
    /// Keeps so many bytes of one message, and counts the calls there.
    pub(super) fn new(keep: usize, calls: Arc<Mutex<Calls>>) -> Self {
        let reader = Reader { begun: Instant::now(), exchanges: Exchanges::default(), calls };
        Self { framer: Framer::new(keep), reader }
    }

    /// Counts the time from here.
    pub(super) fn since(mut self, begun: Instant) -> Self {
        self.reader.begun = begun;
        self
    }

    /// Takes a piece and reports the messages that are complete with it.
    pub(super) fn take(&mut self, piece: Piece, on_observed: &mut dyn FnMut(Observed)) {
        let Self { framer, reader } = self;
        framer.take(piece, &mut |framed| on_observed(reader.read(framed)));
    }

    /// Reports what is still open at the end.
    pub(super) fn finish(&mut self, on_observed: &mut dyn FnMut(Observed)) {
        let Self { framer, reader } = self;
        framer.finish(&mut |framed| on_observed(reader.read(framed)));
    }
}

impl Reader {
    fn read(&mut self, framed: Framed<'_>) -> Observed {
        let Frame { sequence, received, stream, data, cut } = match framed {
            Framed::Frame(frame) => frame,
            Framed::Lost { first, count } => return Observed::Lost { first, count },
        };
        let elapsed = received.monotonic.saturating_duration_since(self.begun);
        let reading = if cut.is_some() { Reading::of_beginning(&data) } else { Reading::of(&data) };
        let (direction, channel) = (stream.direction, stream.channel.as_deref());
        let exchange = self.relate(Passed { sequence, direction, elapsed, channel, reading: &reading });
        Observed::Message(Message {
            sequence,
            direction,
            received: received.wall,
            elapsed,
            channel: stream.channel.clone(),
            summary: reading.into(),
            exchange,
            data,
            cut,
        })
    }

    fn relate(&mut self, passed: Passed<'_>) -> Exchange {
        match passed.reading.kind {
            Kind::Request => {
                let call = self.begin_call(passed);
                self.exchanges.begin(passed, call)
            }
            Kind::Result | Kind::Error => {
                let Some((exchange, call)) = self.exchanges.answer(passed) else {
                    return Exchange::default();
                };
                self.end_call(call, passed, &exchange);
                exchange
            }
            Kind::Notification if passed.reading.method.as_deref() == Some("notifications/cancelled") => {
                let (exchange, call) = self.exchanges.cancel(passed);
                if let Some(call) = call {
                    lock(&self.calls).cancel(call);
                }
                exchange
            }
            Kind::Notification => self.exchanges.notice(passed),
            Kind::Batch | Kind::Other | Kind::Invalid => Exchange::default(),
        }
    }

    fn begin_call(&self, passed: Passed<'_>) -> Call {
        let method = passed.reading.method.as_deref().unwrap_or_default();
        let tool = passed.reading.params.name.and_then(text);
        lock(&self.calls).begin(passed.direction, method, tool.as_deref())
    }

    fn end_call(&self, call: Call, passed: Passed<'_>, exchange: &Exchange) {
        let ending = Ending {
            latency: exchange.latency.unwrap_or_default(),
            failed: passed.reading.is_failure(),
            was_cancelled: exchange.cancelled,
        };
        lock(&self.calls).end(call, ending);
    }
}

fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
