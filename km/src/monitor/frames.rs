//! Messages out of pieces: one sequence over all streams.

use std::collections::HashMap;

use bytes::Bytes;
use km_package::digest::Hasher;

use super::message::Cut;
use super::tap::{Framing, Moment, Piece, PieceContent, StreamKind};

/// What became of lines.
#[derive(Debug)]
pub(super) enum Framed<'a> {
    /// One is complete.
    Frame(Frame<'a>),
    /// So many were left out; the sequence number of the first.
    Lost { first: u64, count: u64 },
}

/// A message that is complete.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) sequence: u64,
    pub(super) received: Moment,
    /// What stream it came in.
    pub(super) stream: &'a StreamKind,
    /// Without the newline, and no more than the framer keeps of one message.
    pub(super) data: Bytes,
    pub(super) cut: Option<Cut>,
}

/// Cuts streams into messages.
#[derive(Debug)]
pub(super) struct Framer {
    streams: HashMap<u64, Stream>,
    sequence: u64,
    /// Most bytes of one message that are kept. The rest is counted and digested.
    keep: usize,
}

#[derive(Debug)]
struct Stream {
    kind: StreamKind,
    open: Line,
}

/// A message that is not complete.
#[derive(Debug, Default)]
struct Line {
    bytes: Buffer,
    /// Only for one that is longer than what is kept: all of it so far.
    overlong: Option<(Hasher, u64)>,
    /// Something of it was left out.
    torn: bool,
}

/// Bytes that are not copied as long as they came in one piece.
#[derive(Debug)]
enum Buffer {
    One(Bytes),
    Many(Vec<u8>),
}

impl Framer {
    /// Keeps so many bytes of one message.
    pub(super) fn new(keep: usize) -> Self {
        Self { streams: HashMap::new(), sequence: 0, keep }
    }

    /// Takes a piece and reports the messages that are complete with it.
    pub(super) fn take(&mut self, piece: Piece, on_framed: &mut dyn FnMut(Framed<'_>)) {
        let Piece { stream: id, received, content } = piece;
        if let PieceContent::Open(kind) = content {
            self.streams.insert(id, Stream { kind, open: Line::default() });
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut out = Out { sequence: &mut self.sequence, keep: self.keep, received, on_framed };
        match content {
            PieceContent::Bytes(bytes) => match stream.kind.framing {
                Framing::Lines => out.lines(stream, bytes),
            },
            PieceContent::Gap { lines, ends_line } => out.gap(stream, lines, ends_line),
            PieceContent::End | PieceContent::Open(_) | PieceContent::Finish => {
                out.end(stream);
                self.streams.remove(&id);
            }
        }
    }

    /// Ends all streams that are open.
    pub(super) fn finish(&mut self, on_framed: &mut dyn FnMut(Framed<'_>)) {
        let mut open: Vec<u64> = self.streams.keys().copied().collect();
        open.sort_unstable();
        for stream in open {
            self.take(Piece { stream, received: Moment::now(), content: PieceContent::End }, on_framed);
        }
    }
}

/// What is needed to report one piece's messages.
struct Out<'a> {
    sequence: &'a mut u64,
    keep: usize,
    received: Moment,
    on_framed: &'a mut dyn for<'f> FnMut(Framed<'f>),
}

impl Out<'_> {
    fn lines(&mut self, stream: &mut Stream, mut bytes: Bytes) {
        while let Some(end) = memchr::memchr(b'\n', &bytes) {
            let line = bytes.split_to(end);
            let _newline = bytes.split_to(1);
            if stream.open.torn {
                stream.open = Line::default();
                self.lose(1);
            } else {
                stream.open.extend(line, self.keep);
                self.complete(stream);
            }
        }
        if !stream.open.torn {
            stream.open.extend(bytes, self.keep);
        }
    }

    /// Lines that end within a gap are lost, and so is the one that is open after it.
    fn gap(&mut self, stream: &mut Stream, lines: u64, ends_line: bool) {
        stream.open = Line { torn: !ends_line, ..Line::default() };
        self.lose(lines);
    }

    fn end(&mut self, stream: &mut Stream) {
        if stream.open.torn {
            self.lose(1);
        } else if !stream.open.is_empty() {
            // The last line may lack its newline.
            self.complete(stream);
        }
    }

    fn lose(&mut self, count: u64) {
        if count > 0 {
            (self.on_framed)(Framed::Lost { first: *self.sequence + 1, count });
            *self.sequence += count;
        }
    }

    fn complete(&mut self, stream: &mut Stream) {
        *self.sequence += 1;
        let (data, cut) = std::mem::take(&mut stream.open).into_message();
        let Self { received, .. } = *self;
        (self.on_framed)(Framed::Frame(Frame {
            sequence: *self.sequence,
            received,
            stream: &stream.kind,
            data,
            cut,
        }));
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.bytes.len() == 0 && self.overlong.is_none()
    }

    fn extend(&mut self, mut bytes: Bytes, keep: usize) {
        let room = keep - self.bytes.len();
        if bytes.len() <= room && self.overlong.is_none() {
            return self.bytes.extend(bytes);
        }
        let (hasher, size) = self.overlong.get_or_insert_with(|| {
            let mut hasher = Hasher::default();
            hasher.update(self.bytes.as_slice());
            (hasher, self.bytes.len() as u64)
        });
        hasher.update(&bytes);
        *size += bytes.len() as u64;
        self.bytes.extend(bytes.split_to(room));
    }

    fn into_message(self) -> (Bytes, Option<Cut>) {
        let cut = self.overlong.map(|(hasher, size)| Cut { size, sha256: hasher.finish() });
        (self.bytes.into_bytes(), cut)
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

impl Buffer {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes,
        }
    }

    fn extend(&mut self, more: Bytes) {
        match self {
            Self::One(bytes) if bytes.is_empty() => *bytes = more,
            Self::One(_) if more.is_empty() => {}
            Self::One(bytes) => {
                let mut many = Vec::with_capacity(2 * (bytes.len() + more.len()));
                many.extend_from_slice(bytes);
                many.extend_from_slice(&more);
                *self = Self::Many(many);
            }
            Self::Many(bytes) => bytes.extend_from_slice(&more),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::One(bytes) => bytes,
            // What grew is larger than it has to be.
            Self::Many(mut bytes) => {
                bytes.shrink_to_fit();
                bytes.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use km_package::digest::Digest;
    use km_proto::Direction::{self, Inbound, Outbound};

    use super::*;

    /// A sequence number and what it is: a message, or how many are lost.
    type Seen = (u64, Result<(Direction, String, Option<Cut>), u64>);

    fn frame(keep: usize, pieces: Vec<(Direction, PieceContent)>) -> Vec<Seen> {
        let mut framer = Framer::new(keep);
        let mut seen = Vec::new();
        let mut note = |framed: Framed<'_>| {
            seen.push(match framed {
                Framed::Frame(Frame { sequence, stream, data, cut, .. }) => {
                    let text = String::from_utf8_lossy(&data).into_owned();
                    (sequence, Ok((stream.direction, text, cut)))
                }
                Framed::Lost { first, count } => (first, Err(count)),
            });
        };
        let mut give = |direction: Direction, content| {
            let piece = Piece { stream: direction as u64, received: Moment::now(), content };
            framer.take(piece, &mut note);
        };
        for direction in [Inbound, Outbound] {
            let kind = StreamKind { direction, framing: Framing::Lines, channel: None };
            give(direction, PieceContent::Open(kind));
        }
        pieces.into_iter().for_each(|(direction, content)| give(direction, content));
        framer.finish(&mut note);
        seen
    }

    fn bytes(direction: Direction, text: &[u8]) -> (Direction, PieceContent) {
        (direction, PieceContent::Bytes(Bytes::copy_from_slice(text)))
    }

    fn line(sequence: u64, direction: Direction, text: &str) -> Seen {
        (sequence, Ok((direction, text.to_owned(), None)))
    }

    #[test]
    fn lines_are_numbered_when_they_are_complete() {
        let framed = frame(
            1 << 20,
            vec![
                bytes(Inbound, b"a"),
                bytes(Outbound, b"x\ny"),
                bytes(Inbound, b"b"),
                bytes(Inbound, b"c\r\n\n"),
                (Outbound, PieceContent::End),
            ],
        );
        assert_eq!(
            framed,
            [line(1, Outbound, "x"), line(2, Inbound, "abc\r"), line(3, Inbound, ""), line(4, Outbound, "y")]
        );
    }

    #[test]
    fn a_gap_loses_whole_lines_and_keeps_the_count() {
        let framed = frame(
            1 << 20,
            vec![
                bytes(Inbound, b"one\ntw"),
                (Inbound, PieceContent::Gap { lines: 2, ends_line: false }),
                bytes(Inbound, b"rest\nfive\n"),
                (Inbound, PieceContent::Gap { lines: 0, ends_line: false }),
            ],
        );
        let expected =
            [line(1, Inbound, "one"), (2, Err(2)), (4, Err(1)), line(5, Inbound, "five"), (6, Err(1))];
        assert_eq!(framed, expected);
    }

    #[test]
    fn of_a_message_over_the_limit_the_beginning_is_kept() {
        let text = "0123456789abcdef";
        for pieces in [vec![text], vec!["0123", "4567", "89abcdef"], vec!["01234567", "8", "9abcdef"]] {
            let mut given: Vec<_> = pieces.iter().map(|piece| bytes(Outbound, piece.as_bytes())).collect();
            given.push(bytes(Outbound, b"\nshort\n"));
            let cut = Some(Cut { size: 16, sha256: Digest::of(text.as_bytes()) });
            let expected = [(1, Ok((Outbound, "01234567".to_owned(), cut))), line(2, Outbound, "short")];
            assert_eq!(frame(8, given), expected);
        }
        assert_eq!(frame(8, vec![bytes(Inbound, b"12345678\n")]), [line(1, Inbound, "12345678")]);
    }
}
