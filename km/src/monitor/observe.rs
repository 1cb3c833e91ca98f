//! What passed, as messages: cut out of the streams, read, and related to each other.

use std::time::Instant;

use km_proto::jsonrpc::Summary;

use super::frames::{Frame, Framed, Framer};
use super::message::{Exchange, Message};
use super::tap::Piece;

/// What became of what passed.
#[derive(Debug)]
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
}

impl Observer {
    /// Keeps so many bytes of one message.
    pub(super) fn new(keep: usize) -> Self {
        Self { framer: Framer::new(keep), reader: Reader { begun: Instant::now() } }
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
        Observed::Message(Message {
            sequence,
            direction: stream.direction,
            received: received.wall,
            elapsed: received.monotonic.saturating_duration_since(self.begun),
            channel: stream.channel.clone(),
            summary: Summary::of(&data),
            exchange: Exchange::default(),
            data,
            cut,
        })
    }
}
