//! Lines out of pieces: one sequence over both directions.

use std::time::SystemTime;

use bytes::Bytes;
use km_package::digest::{Digest, Hasher};
use km_proto::jsonrpc::{Kind, Summary};
use km_proto::{Direction, MAX_V1_MESSAGE};

use super::message::{Content, Message};
use super::tap::{Piece, PieceContent};

/// Most bytes of one line that are kept, to see what it is. The rest is counted and digested.
const KEPT: usize = 64 << 20;

/// What became of lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framed {
    /// One is complete.
    Message(Message),
    /// So many were left out; the sequence number of the first.
    Lost { first: u64, count: u64 },
}

/// Cuts both directions into lines.
#[derive(Debug, Default)]
pub(super) struct Framer {
    inbound: Line,
    outbound: Line,
    sequence: u64,
}

/// A line that is not complete.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    /// Only for a line longer than [`KEPT`]: all of it so far.
    overlong: Option<(Hasher, u64)>,
    /// Something of it was left out.
    torn: bool,
}

impl Framer {
    /// Takes a piece and reports the lines that are complete with it.
    pub(super) fn take(&mut self, piece: Piece, on_framed: &mut dyn FnMut(Framed)) {
        let Piece { direction, received, content } = piece;
        match content {
            PieceContent::Bytes(bytes) => self.take_bytes(direction, received, &bytes, on_framed),
            PieceContent::Gap { lines, ends_line } => self.take_gap(direction, lines, ends_line, on_framed),
            PieceContent::End | PieceContent::Finish => {
                let line = self.line(direction);
                if line.torn {
                    *line = Line::default();
                    self.lose(1, on_framed);
                } else if !line.is_empty() {
                    // The last line may lack its newline.
                    self.complete(direction, received, on_framed);
                }
            }
        }
    }

    fn take_bytes(
        &mut self,
        direction: Direction,
        received: SystemTime,
        mut bytes: &[u8],
        on_framed: &mut dyn FnMut(Framed),
    ) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            let open = self.line(direction);
            if open.torn {
                *open = Line::default();
                self.lose(1, on_framed);
            } else {
                open.extend(line);
                self.complete(direction, received, on_framed);
            }
        }
        let open = self.line(direction);
        if !open.torn {
            open.extend(bytes);
        }
    }

    /// Lines that end within a gap are lost, and so is the one that is open after it.
    fn take_gap(
        &mut self,
        direction: Direction,
        lines: u64,
        ends_line: bool,
        on_framed: &mut dyn FnMut(Framed),
    ) {
        *self.line(direction) = Line { torn: !ends_line, ..Line::default() };
        self.lose(lines, on_framed);
    }

    fn lose(&mut self, count: u64, on_framed: &mut dyn FnMut(Framed)) {
        if count > 0 {
            on_framed(Framed::Lost { first: self.sequence + 1, count });
            self.sequence += count;
        }
    }

    fn complete(&mut self, direction: Direction, received: SystemTime, on_framed: &mut dyn FnMut(Framed)) {
        self.sequence += 1;
        let content = std::mem::take(self.line(direction)).into_content();
        on_framed(Framed::Message(Message { sequence: self.sequence, direction, received, content }));
    }

    fn line(&mut self, direction: Direction) -> &mut Line {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.overlong.is_none()
    }

    fn extend(&mut self, bytes: &[u8]) {
        if let Some((hasher, size)) = &mut self.overlong {
            hasher.update(bytes);
            *size += bytes.len() as u64;
            return;
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > KEPT {
            let bytes = std::mem::take(&mut self.bytes);
            let mut hasher = Hasher::default();
            hasher.update(&bytes);
            self.overlong = Some((hasher, bytes.len() as u64));
        }
    }

    fn into_content(self) -> Content {
        if let Some((hasher, size)) = self.overlong {
            let summary = Summary { kind: Kind::Other, method: None, id: None };
            return Content::TooLarge { size, sha256: hasher.finish(), summary };
        }
        let bytes = self.bytes;
        if bytes.len() <= MAX_V1_MESSAGE {
            return Content::Whole(Bytes::from(bytes));
        }
        Content::TooLarge {
            size: bytes.len() as u64,
            sha256: Digest::of(&bytes),
            summary: Summary::of(&bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pieces: Vec<(Direction, PieceContent)>) -> Vec<Framed> {
        let (mut framer, mut framed) = (Framer::default(), Vec::new());
        for (direction, content) in pieces {
            let piece = Piece { direction, received: SystemTime::UNIX_EPOCH, content };
            framer.take(piece, &mut |one| framed.push(one));
        }
        framed
    }

    fn bytes(direction: Direction, text: &[u8]) -> (Direction, PieceContent) {
        (direction, PieceContent::Bytes(text.to_vec()))
    }

    fn text(framed: &Framed) -> (u64, Direction, String) {
        match framed {
            Framed::Message(Message { sequence, direction, content: Content::Whole(bytes), .. }) => {
                (*sequence, *direction, String::from_utf8_lossy(bytes).into_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    use Direction::{Inbound, Outbound};

    #[test]
    fn lines_are_numbered_when_they_are_complete() {
        let framed = frame(vec![
            bytes(Inbound, b"a"),
            bytes(Outbound, b"x\ny"),
            bytes(Inbound, b"b\r\n\n"),
            (Outbound, PieceContent::End),
            (Inbound, PieceContent::End),
        ]);
        let lines: Vec<_> = framed.iter().map(text).collect();
        let expected = [(1, Outbound, "x"), (2, Inbound, "ab\r"), (3, Inbound, ""), (4, Outbound, "y")];
        assert_eq!(lines, expected.map(|(n, direction, line)| (n, direction, line.to_owned())));
    }

    #[test]
    fn a_gap_loses_whole_lines_and_keeps_the_count() {
        let framed = frame(vec![
            bytes(Inbound, b"one\ntw"),
            (Inbound, PieceContent::Gap { lines: 2, ends_line: false }),
            bytes(Inbound, b"rest\nfive\n"),
        ]);
        assert_eq!(text(&framed[0]), (1, Inbound, "one".to_owned()));
        assert_eq!(framed[1], Framed::Lost { first: 2, count: 2 });
        assert_eq!(framed[2], Framed::Lost { first: 4, count: 1 });
        assert_eq!(text(&framed[3]), (5, Inbound, "five".to_owned()));
    }

    #[test]
    fn a_line_over_the_limit_is_known_by_size_and_digest() {
        let line = [br#"{"id":1,"result":""#, &vec![b'x'; 5 << 20][..], br#""}"#].concat();
        let framed = frame(vec![bytes(Outbound, &line), bytes(Outbound, b"\n")]);
        let [Framed::Message(Message { content: Content::TooLarge { size, sha256, summary }, .. })] =
            &framed[..]
        else {
            panic!("{}", framed.len());
        };
        assert_eq!(*size, line.len() as u64);
        assert_eq!(*sha256, Digest::of(&line));
        assert_eq!((summary.kind, summary.id.as_deref()), (Kind::Result, Some("1")));
    }
}
