//! Copies of what passes, taken by the relay without ever waiting.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::SystemTime;

use km_proto::Direction;

/// Most bytes that may wait for the framer.
const BUDGET: usize = 64 << 20;

/// A piece of what passed, or what had to be left out.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) direction: Direction,
    pub(super) received: SystemTime,
    pub(super) content: PieceContent,
}

#[derive(Debug)]
pub(super) enum PieceContent {
    Bytes(Vec<u8>),
    /// Left out: so many line ends, and whether the last byte was one.
    Gap {
        lines: u64,
        ends_line: bool,
    },
    /// Nothing more comes this way.
    End,
    /// The session has ended, whatever may still come.
    Finish,
}

/// The relay's end.
#[derive(Debug, Clone)]
pub(super) struct Tap {
    pieces: mpsc::Sender<Piece>,
    waiting: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
}

/// The framer's end. When it is dropped the relay stops copying.
#[derive(Debug)]
pub(super) struct TapReader {
    pieces: mpsc::Receiver<Piece>,
    waiting: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
}

pub(super) fn tap() -> (Tap, TapReader) {
    let (sender, receiver) = mpsc::channel();
    let (waiting, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let tap = Tap { pieces: sender, waiting: Arc::clone(&waiting), closed: Arc::clone(&closed) };
    (tap, TapReader { pieces: receiver, waiting, closed })
}

impl Tap {
    /// Takes a copy of these bytes, if there is room.
    pub(super) fn copy(&self, direction: Direction, bytes: &[u8]) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let room = self.waiting.load(Ordering::Relaxed) + bytes.len() <= BUDGET;
        let content = if room {
            self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
            PieceContent::Bytes(bytes.to_vec())
        } else {
            let lines = memchr::memchr_iter(b'\n', bytes).count() as u64;
            PieceContent::Gap { lines, ends_line: bytes.ends_with(b"\n") }
        };
        self.send(direction, content);
    }

    pub(super) fn end(&self, direction: Direction) {
        self.send(direction, PieceContent::End);
    }

    /// Says that the session has ended.
    pub(super) fn finish(&self) {
        self.end(Direction::Inbound);
        self.send(Direction::Outbound, PieceContent::Finish);
    }

    fn send(&self, direction: Direction, content: PieceContent) {
        // Fails when nobody listens any more.
        let _ = self.pieces.send(Piece { direction, received: SystemTime::now(), content });
    }
}

impl TapReader {
    /// The next piece; none when the session has ended.
    pub(super) fn next(&self) -> Option<Piece> {
        let piece = self.pieces.recv().ok()?;
        match &piece.content {
            PieceContent::Bytes(bytes) => {
                self.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            }
            PieceContent::Finish => return None,
            PieceContent::Gap { .. } | PieceContent::End => {}
        }
        Some(piece)
    }
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
        let (tap, reader) = tap();
        let chunk = vec![b'x'; BUDGET];
        tap.copy(Direction::Inbound, &chunk);
        tap.copy(Direction::Inbound, b"a\nb\n");
        assert!(
            matches!(reader.next().unwrap().content, PieceContent::Bytes(bytes) if bytes.len() == BUDGET)
        );
        assert!(matches!(reader.next().unwrap().content, PieceContent::Gap { lines: 2, ends_line: true }));
        tap.copy(Direction::Inbound, b"c");
        assert!(matches!(reader.next().unwrap().content, PieceContent::Bytes(bytes) if bytes == b"c"));
    }
}
