//! Copies of what passes, taken by whoever forwards it without ever waiting.

mod overflow;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use km_proto::Direction;

pub(super) use overflow::Overflow;

/// Most bytes that may wait for the framer in memory: as many as pass while a disk is slow for a moment.
const BUDGET: usize = 64 << 20;
/// When so many wait, those that come are put on disk first.
const FLOOD: usize = 4 << 20;

/// A piece of what passed, or what had to be left out.
#[derive(Debug)]
pub(super) struct Piece {
    /// Which stream it belongs to.
    pub(super) stream: u64,
    /// How that is cut.
    pub(super) framing: Framing,
    pub(super) received: Moment,
    pub(super) content: PieceContent,
}

/// One moment by two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall: SystemTime,
    pub(super) monotonic: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }
}

#[derive(Debug, Clone)]
pub(super) enum PieceContent {
    /// A stream begins.
    Open(StreamKind),
    Bytes(Bytes),
    /// The bytes that follow are compressed.
    Coded(Coding),
    /// Left out: so many line ends (of events: empty lines), and whether the last byte was one.
    Gap {
        lines: u64,
        ends_line: bool,
    },
    /// Nothing more comes in this stream.
    End,
    /// The session has ended, whatever may still come.
    Finish,
}

/// What a stream carries.
#[derive(Debug, Clone)]
pub(super) struct StreamKind {
    pub(super) direction: Direction,
    pub(super) framing: Framing,
    /// Over HTTP: in what the ids of its messages are unique.
    pub(super) channel: Option<Arc<str>>,
}

/// How a stream is cut into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// One message a line.
    Lines,
    /// One message in all.
    Body,
    /// One message in each event of a `text/event-stream`.
    Events,
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    /// With the header of zlib, as HTTP means it.
    Deflate,
}

impl Framing {
    /// How many messages end in bytes that are left out, as far as they show it.
    fn ends_in(self, bytes: &[u8]) -> u64 {
        let count = |end: &[u8]| memchr::memmem::find_iter(bytes, end).count() as u64;
        match self {
            Self::Lines => memchr::memchr_iter(b'\n', bytes).count() as u64,
            Self::Events => count(b"\n\n") + count(b"\n\r\n"),
            Self::Body => 0,
        }
    }

    /// What stands for bytes that are left out.
    fn gap(self, bytes: &[u8]) -> PieceContent {
        PieceContent::Gap { lines: self.ends_in(bytes), ends_line: self.ends_with(bytes) }
    }

    /// Whether a message ends with these bytes.
    fn ends_with(self, bytes: &[u8]) -> bool {
        match self {
            Self::Lines => bytes.ends_with(b"\n"),
            Self::Events => bytes.ends_with(b"\n\n") || bytes.ends_with(b"\n\r\n"),
            Self::Body => false,
        }
    }
}

/// Where streams are copied to.
#[derive(Debug, Clone)]
pub(super) struct Tap {
    pieces: mpsc::Sender<Piece>,
    waiting: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    begun: Instant,
}

/// One stream that is copied. It ends when dropped.
#[derive(Debug)]
pub(super) struct TapStream {
    tap: Tap,
    stream: u64,
    framing: Framing,
}

/// The framer's end. When it is dropped nothing is copied any more.
#[derive(Debug)]
pub(super) struct TapReader {
    pieces: mpsc::Receiver<Piece>,
    overflow: Option<Overflow>,
    waiting: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
    begun: Instant,
}

pub(super) fn tap() -> (Tap, TapReader) {
    let (sender, receiver) = mpsc::channel();
    let (waiting, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let begun = Instant::now();
    let tap = Tap {
        pieces: sender,
        waiting: Arc::clone(&waiting),
        closed: Arc::clone(&closed),
        opened: Arc::default(),
        begun,
    };
    (tap, TapReader { pieces: receiver, overflow: None, waiting, closed, begun })
}

impl Tap {
    /// Begins a stream.
    pub(super) fn open(&self, kind: StreamKind) -> TapStream {
        let (stream, framing) = (self.opened.fetch_add(1, Ordering::Relaxed), kind.framing);
        self.send(Piece { stream, framing, received: Moment::now(), content: PieceContent::Open(kind) });
        TapStream { tap: self.clone(), stream, framing }
    }

    /// Says that the session has ended: no stream goes on after this.
    pub(super) fn finish(&self) {
        self.send(Piece::finish());
    }

    /// When the session began.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// How many bytes wait for the framer; none when nobody takes them.
    pub(super) fn waiting(&self) -> usize {
        if self.closed.load(Ordering::Relaxed) { 0 } else { self.waiting.load(Ordering::Relaxed) }
    }

    fn send(&self, piece: Piece) {
        // Fails when nobody listens any more.
        let _ = self.pieces.send(piece);
    }
}

impl TapStream {
    /// Whether somebody takes copies. Nobody who has ceased to begins again.
    pub(super) fn is_taken(&self) -> bool {
        !self.tap.closed.load(Ordering::Relaxed)
    }

    /// Says that what follows is compressed.
    pub(super) fn coded(&self, coding: Coding) {
        self.send(Moment::now(), PieceContent::Coded(coding));
    }

    /// Takes a copy of these bytes, if there is room.
    pub(super) fn copy(&self, bytes: &Bytes) {
        self.copy_at(Moment::now(), bytes);
    }

    /// The same, of what passed at another time.
    pub(super) fn copy_at(&self, moment: Moment, bytes: &Bytes) {
        let tap = &self.tap;
        if !self.is_taken() || bytes.is_empty() {
            return;
        }
        let weight = weight(bytes);
        let room = tap.waiting.load(Ordering::Relaxed) + weight <= BUDGET;
        let content = if room {
            tap.waiting.fetch_add(weight, Ordering::Relaxed);
            PieceContent::Bytes(bytes.clone())
        } else {
            self.framing.gap(bytes)
        };
        self.send(moment, content);
    }

    /// Says that so many line ends are missing, and whether the last byte that is missing was one.
    pub(super) fn gap_at(&self, moment: Moment, lines: u64, ends_line: bool) {
        self.send(moment, PieceContent::Gap { lines, ends_line });
    }

    /// Ends it at another time than now.
    pub(super) fn end_at(self, moment: Moment) {
        // The end that dropping it says besides comes after the last.
        self.send(moment, PieceContent::End);
    }

    fn send(&self, received: Moment, content: PieceContent) {
        let Self { tap, stream, framing } = self;
        tap.send(Piece { stream: *stream, framing: *framing, received, content });
    }
}

impl Drop for TapStream {
    fn drop(&mut self) {
        self.send(Moment::now(), PieceContent::End);
    }
}

impl TapReader {
    /// When the session began.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Where pieces wait that are too many for memory.
    pub(super) fn overflow_to(&mut self, overflow: Overflow) {
        self.overflow = Some(overflow);
    }

    /// The next piece; none when the session has ended.
    pub(super) fn next(&mut self) -> Option<Piece> {
        let piece = self.next_of_any()?;
        if matches!(piece.content, PieceContent::Finish) { None } else { Some(piece) }
    }

    fn next_of_any(&mut self) -> Option<Piece> {
        let Self { pieces, waiting, overflow, .. } = self;
        let is_flooded = waiting.load(Ordering::Relaxed) > FLOOD;
        let Some(overflow) = overflow.as_mut().filter(|overflow| is_flooded || !overflow.is_empty()) else {
            return Some(taken(pieces.recv().ok()?, waiting));
        };
        while let Ok(piece) = pieces.try_recv() {
            overflow.push(taken(piece, waiting));
        }
        overflow.pop()
    }
}

/// Notes that a piece waits no more.
fn taken(piece: Piece, waiting: &AtomicUsize) -> Piece {
    if let PieceContent::Bytes(bytes) = &piece.content {
        waiting.fetch_sub(weight(bytes), Ordering::Relaxed);
    }
    piece
}

/// The memory that a piece takes while it waits.
fn weight(bytes: &[u8]) -> usize {
    const OVERHEAD: usize = 256;
    OVERHEAD + bytes.len()
}

impl Drop for TapReader {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_away_is_left_out_and_counted() {
        let (tap, mut reader) = tap();
        let kind = StreamKind { direction: Direction::Inbound, framing: Framing::Lines, channel: None };
        let stream = tap.open(kind);
        stream.copy(&vec![b'x'; BUDGET - 256].into());
        stream.copy(&"a\nb\n".into());
        assert!(matches!(reader.next().unwrap().content, PieceContent::Open(_)));
        assert!(
            matches!(reader.next().unwrap().content, PieceContent::Bytes(bytes) if bytes.len() == BUDGET - 256)
        );
        assert!(matches!(reader.next().unwrap().content, PieceContent::Gap { lines: 2, ends_line: true }));
        stream.copy(&"c".into());
        assert!(matches!(reader.next().unwrap().content, PieceContent::Bytes(bytes) if bytes == "c"));
        drop(stream);
        assert!(matches!(reader.next().unwrap().content, PieceContent::End));
    }
}
