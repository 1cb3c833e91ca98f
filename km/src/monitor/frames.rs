//! Messages out of pieces: one sequence over all streams.

mod coding;
mod events;

use std::collections::HashMap;

use bytes::Bytes;
use km_package::digest::Hasher;

use self::coding::Decoder;
use self::events::Events;
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
    /// Of a stream of events: where in one it is.
    events: Events,
    /// Of a stream that is compressed.
    decoder: Option<Decoder>,
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
        let Piece { stream: id, received, content, .. } = piece;
        if let PieceContent::Open(kind) = content {
            let stream = Stream { kind, open: Line::default(), events: Events::default(), decoder: None };
            self.streams.insert(id, stream);
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut out = Out { sequence: &mut self.sequence, keep: self.keep, received, on_framed };
        match content {
            PieceContent::Coded(coding) => stream.decoder = Some(Decoder::new(coding)),
            PieceContent::Bytes(bytes) => match stream.decoder.take() {
                None => out.bytes(stream, bytes),
                Some(mut decoder) => {
                    let plain = decoder.decode(&bytes, &mut |plain| out.bytes(stream, plain));
                    // What cannot be read is lost, and nothing after it can be read either.
                    stream.open.torn |= plain.is_err();
                    stream.decoder = Some(decoder);
                }
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
            let (framing, content) = (Framing::Lines, PieceContent::End);
            self.take(Piece { stream, framing, received: Moment::now(), content }, on_framed);
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
    fn bytes(&mut self, stream: &mut Stream, bytes: Bytes) {
        match stream.kind.framing {
            Framing::Lines => self.lines(stream, bytes),
            Framing::Events => self.events(stream, bytes),
            Framing::Body if stream.open.torn => {}
            Framing::Body => stream.open.extend(bytes, self.keep),
        }
    }

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
        stream.events = Events::after_gap(ends_line);
        // After a hole nothing more can be decompressed.
        if let Some(decoder) = &mut stream.decoder {
            decoder.give_up();
            stream.open.torn = true;
        }
        self.lose(lines);
    }

    fn events(&mut self, stream: &mut Stream, bytes: Bytes) {
        let Stream { events, .. } = stream;
        let mut events = std::mem::take(events);
        events.take(bytes, &mut |part| match part {
            events::Part::Data(_) if stream.open.torn => {}
            events::Part::Data(bytes) => stream.open.extend(bytes, self.keep),
            events::Part::Ignored => stream.open = Line { torn: stream.open.torn, ..Line::default() },
            events::Part::End if stream.open.torn => {
                stream.open = Line::default();
                self.lose(1);
            }
            events::Part::End if stream.open.is_empty() => {}
            events::Part::End => self.complete(stream),
        });
        stream.events = events;
    }

    fn end(&mut self, stream: &mut Stream) {
        // A stream of events may end at any time; a body that is not whole is none.
        if let (Framing::Body, Some(decoder)) = (stream.kind.framing, stream.decoder.take()) {
            stream.open.torn |= decoder.finish().is_err();
        }
        if stream.open.torn {
            self.lose(1);
        } else if !stream.open.is_empty() && stream.kind.framing != Framing::Events {
            // The last line may lack its newline. An event without its end is none.
            self.complete(stream);
        }
    }

    fn lose(&mut self, count: u64) {
        if count > 0 {
            (self.on_framed)(Framed::Lost { first: self.sequence.saturating_add(1), count });
            *self.sequence = self.sequence.saturating_add(count);
        }
    }

    fn complete(&mut self, stream: &mut Stream) {
        *self.sequence = self.sequence.saturating_add(1);
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
        frame_as(Framing::Lines, keep, pieces)
    }

    fn frame_as(framing: Framing, keep: usize, pieces: Vec<(Direction, PieceContent)>) -> Vec<Seen> {
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
            let (stream, framing) = (direction as u64, Framing::Lines);
            let piece = Piece { stream, framing, received: Moment::now(), content };
            framer.take(piece, &mut note);
        };
        for direction in [Inbound, Outbound] {
            let kind = StreamKind { direction, framing, channel: None };
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

    #[test]
    fn a_body_is_one_message_and_an_event_is_one() {
        let body = vec![bytes(Inbound, b"{\n"), bytes(Inbound, b"\n}"), (Outbound, PieceContent::End)];
        assert_eq!(frame_as(Framing::Body, 1 << 20, body), [line(1, Inbound, "{\n\n}")]);
        let events = vec![
            bytes(Outbound, b": ping\n\ndata: 1\n\ndata: "),
            bytes(Outbound, b"2\ndata: 3\n\ndata: \n\nevent: ping\ndata: 4\n\ndata: 5"),
        ];
        let expected = [line(1, Outbound, "1"), line(2, Outbound, "2\n3")];
        assert_eq!(frame_as(Framing::Events, 1 << 20, events), expected);
    }

    #[test]
    fn a_gap_loses_the_body_or_the_events_that_it_is_in() {
        let gap = |direction, lines, ends_line| (direction, PieceContent::Gap { lines, ends_line });
        let body = vec![bytes(Inbound, b"{"), gap(Inbound, 0, false), bytes(Inbound, b"}")];
        assert_eq!(frame_as(Framing::Body, 1 << 20, body), [(1, Err(1))]);
        let events = vec![
            bytes(Outbound, b"data: 1\n\nda"),
            gap(Outbound, 2, false),
            bytes(Outbound, b"x\n\ndata: 5\n\n"),
            gap(Outbound, 1, true),
            bytes(Outbound, b"data: 7\n\n"),
        ];
        let expected = [
            line(1, Outbound, "1"),
            (2, Err(2)),
            (4, Err(1)),
            line(5, Outbound, "5"),
            (6, Err(1)),
            line(7, Outbound, "7"),
        ];
        assert_eq!(frame_as(Framing::Events, 1 << 20, events), expected);
    }

    #[test]
    fn what_is_compressed_is_read_and_what_is_damaged_is_lost() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let text: String = (0..60_000u32).map(|n| (n * n).to_string()).collect();
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        let packed = encoder.finish().unwrap();
        let coded = |pieces: Vec<(Direction, PieceContent)>| {
            let all =
                [vec![(Outbound, PieceContent::Coded(super::super::tap::Coding::Gzip))], pieces].concat();
            frame_as(Framing::Body, 1 << 20, all)
        };
        let expected = [line(1, Outbound, &text)];
        for size in [1, 7, packed.len()] {
            let pieces = packed.chunks(size).map(|piece| bytes(Outbound, piece)).collect();
            assert!(coded(pieces) == expected, "by {size}");
        }
        let damaged = [&packed[..100], b"damage", &packed[106..]].concat();
        assert_eq!(coded(vec![bytes(Outbound, &damaged)]), [(1, Err(1))]);
        assert_eq!(coded(vec![bytes(Outbound, &packed[..packed.len() - 1])]), [(1, Err(1))]);
        let gap = (Outbound, PieceContent::Gap { lines: 0, ends_line: false });
        assert_eq!(
            coded(vec![bytes(Outbound, &packed[..100]), gap, bytes(Outbound, &packed)]),
            [(1, Err(1))]
        );
    }
}
