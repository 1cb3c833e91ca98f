//! What has come in and waits to be handled: messages in one piece, in order, each once.

use bytes::{Bytes, BytesMut};
use km_proto::v2;
use tonic::Status;

use super::WINDOW;
use crate::message::{Message, SessionId};
use crate::protocol2::MAX_MESSAGE;

/// Most messages that wait, however little is in them.
const MAX_WAITING: usize = 1 << 16;

/// The messages of one stream.
#[derive(Debug)]
pub(super) struct Intake {
    session: SessionId,
    /// Up to here they were handled before this stream.
    position: u64,
    /// The last one that came.
    last: u64,
    /// The one of which there is more to come.
    open: Option<Open>,
    waiting: Vec<Message>,
    /// Of data, in those that wait.
    bytes: usize,
}

#[derive(Debug)]
struct Open {
    head: v2::Message,
    data: BytesMut,
}

impl Intake {
    /// For the messages after a position.
    pub(super) fn new(session: SessionId, position: u64) -> Self {
        Self { session, position, last: 0, open: None, waiting: Vec::new(), bytes: 0 }
    }

    /// Whether more is to be read.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.bytes < WINDOW
    }

    /// Takes what came in one request.
    pub(super) fn take(&mut self, messages: Vec<v2::Message>) -> Result<(), Status> {
        messages.into_iter().try_for_each(|message| self.take_piece(message))
    }

    /// All that wait; none if nothing does.
    pub(super) fn next_batch(&mut self) -> Option<Vec<Message>> {
        self.bytes = 0;
        Some(std::mem::take(&mut self.waiting)).filter(|messages| !messages.is_empty())
    }

    /// Whether the stream may end here.
    pub(super) fn finish(&self) -> Result<(), Status> {
        match &self.open {
            Some(open) => Err(refused(open.head.sequence, "the stream ended in the middle of it")),
            None => Ok(()),
        }
    }

    fn take_piece(&mut self, mut piece: v2::Message) -> Result<(), Status> {
        let more = piece.more;
        if self.open.is_none() && !more {
            let data = std::mem::take(&mut piece.data);
            return self.complete(piece, data);
        }
        let mut open = match self.open.take() {
            Some(mut open) => {
                open.add(&piece)?;
                open
            }
            None => Open::new(piece)?,
        };
        if more {
            self.open = Some(open);
            return Ok(());
        }
        open.head.more = false;
        self.complete(open.head, open.data.freeze())
    }

    fn complete(&mut self, head: v2::Message, data: Bytes) -> Result<(), Status> {
        let (sequence, length) = (head.sequence, data.len());
        if sequence <= self.last {
            return Err(refused(sequence, format_args!("it comes after {}", self.last)));
        }
        let message = Message::delivered(head, data, &self.session).map_err(|why| refused(sequence, why))?;
        self.last = sequence;
        if sequence > self.position {
            self.waiting.push(message);
            self.bytes += length;
        }
        Ok(())
    }
}

impl Open {
    fn new(mut head: v2::Message) -> Result<Self, Status> {
        let first = std::mem::take(&mut head.data);
        // The data of a cut message is shorter than its size.
        let expected = usize::try_from(head.size).unwrap_or(MAX_MESSAGE).min(MAX_MESSAGE);
        let mut open = Self { data: BytesMut::with_capacity(expected), head };
        open.append(&first)?;
        Ok(open)
    }

    fn add(&mut self, piece: &v2::Message) -> Result<(), Status> {
        if piece.sequence != self.head.sequence {
            let why = format_args!("message {} is not complete", self.head.sequence);
            return Err(refused(piece.sequence, why));
        }
        self.append(&piece.data)
    }

    fn append(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.data.len() + data.len() > MAX_MESSAGE {
            let why = format!("message {}: longer than {MAX_MESSAGE} bytes", self.head.sequence);
            return Err(Status::resource_exhausted(why));
        }
        self.data.extend_from_slice(data);
        Ok(())
    }
}

fn refused(sequence: u64, why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("message {sequence}: {why}"))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::Body;

    fn message(sequence: u64, data: &'static [u8]) -> v2::Message {
        v2::Message {
            sequence,
            received: Some(prost_types::Timestamp { seconds: 7, nanos: 0 }),
            direction: v2::Direction::Inbound.into(),
            data: Bytes::from_static(data),
            size: data.len() as u64,
            kind: "invalid".to_owned(),
            ..v2::Message::default()
        }
    }

    fn piece(sequence: u64, data: &'static [u8], more: bool) -> v2::Message {
        v2::Message { sequence, data: Bytes::from_static(data), more, ..v2::Message::default() }
    }

    fn intake(position: u64) -> Intake {
        Intake::new("s".into(), position)
    }

    fn code(messages: Vec<v2::Message>) -> Code {
        intake(0).take(messages).unwrap_err().code()
    }

    #[test]
    fn messages_come_in_order_and_after_the_position() {
        let mut intake = intake(2);
        intake.take(vec![message(1, b"a"), message(2, b"b"), message(3, b"c"), message(7, b"d")]).unwrap();
        let batch = intake.next_batch().unwrap();
        assert_eq!(batch.iter().map(|message| message.sequence).collect::<Vec<_>>(), [3, 7]);
        assert_eq!((batch[1].session.clone(), batch[1].data()), (Some("s".into()), &b"d"[..]));
        assert!(intake.next_batch().is_none());
        let refused = intake.take(vec![message(7, b"e")]).unwrap_err();
        assert_eq!(refused.message(), "message 7: it comes after 7");
        assert_eq!(code(vec![message(0, b"")]), Code::InvalidArgument);
    }

    #[test]
    fn pieces_are_put_together() {
        let mut intake = intake(0);
        let first = v2::Message { size: 5, more: true, ..message(1, b"ab") };
        intake.take(vec![first]).unwrap();
        assert!(intake.next_batch().is_none());
        assert_eq!(intake.finish().unwrap_err().code(), Code::InvalidArgument);
        intake.take(vec![piece(1, b"c", true), piece(1, b"", true)]).unwrap();
        intake.take(vec![piece(1, b"de", false), message(2, b"f")]).unwrap();
        let batch = intake.next_batch().unwrap();
        assert_eq!(batch[0].body, Body::Bytes("abcde".into()));
        assert_eq!(batch[1].body, Body::Bytes("f".into()));
        intake.finish().unwrap();
    }

    #[test]
    fn a_cut_message_says_what_it_was() {
        let cut = v2::Message { size: 100, sha256: vec![0xab; 32].into(), ..message(1, b"abc") };
        let mut intake = intake(0);
        intake.take(vec![cut.clone()]).unwrap();
        let message = intake.next_batch().unwrap().remove(0);
        assert_eq!((message.size(), message.data()), (100, &b"abc"[..]));
        assert!(matches!(message.body, Body::Cut { sha256, .. } if sha256 == "ab".repeat(32)));
        assert_eq!(code(vec![v2::Message { sha256: vec![1].into(), ..cut }]), Code::InvalidArgument);
    }

    #[test]
    fn what_breaks_the_contract_is_refused() {
        let open = || v2::Message { more: true, size: 9, ..message(1, b"ab") };
        let timeless = v2::Message { received: None, ..message(1, b"") };
        let nowhere = v2::Message { direction: 0, ..message(1, b"") };
        for broken in [
            vec![open(), message(2, b"")],
            vec![open(), piece(1, b"c", false)],
            vec![timeless],
            vec![nowhere],
            vec![message(2, b""), message(1, b"")],
        ] {
            assert_eq!(code(broken.clone()), Code::InvalidArgument, "{broken:?}");
        }
        let whole: &'static [u8] = vec![0; MAX_MESSAGE].leak();
        let longer = v2::Message { more: true, ..message(1, whole) };
        assert_eq!(code(vec![longer, piece(1, b"x", false)]), Code::ResourceExhausted);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut intake = intake(0);
        let large: &'static [u8] = vec![0; WINDOW].leak();
        assert!(intake.has_room());
        intake.take(vec![message(1, large)]).unwrap();
        assert!(!intake.has_room());
        intake.next_batch().unwrap();
        assert!(intake.has_room());
        intake.take((2..=MAX_WAITING as u64 + 1).map(|sequence| message(sequence, b"")).collect()).unwrap();
        assert!(!intake.has_room());
    }
}
