//! One message of the monitored session.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use km_package::digest::Digest;
use km_proto::event::MessageTooLarge;
use km_proto::jsonrpc::{Kind, Summary};
use km_proto::v1::HandleMessageRequest;
use km_proto::{Direction, v2};

/// A session's id: unique everywhere, and the same whenever messages of that session are delivered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SessionId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One message between client and server, as it passed.
///
/// A host that speaks protocol 1 only tells less: what is none there, says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The session that it belongs to; none in protocol 1.
    pub session: Option<SessionId>,
    /// 1, 2, … over both directions. A number that is missing is a message that was lost on the way.
    /// In protocol 1 the correlation id, or 0 if that is no number.
    pub sequence: u64,
    /// When it passed; in protocol 1 when it arrived here.
    pub received: SystemTime,
    /// The same from the beginning of the session, by a clock that is never set; none in protocol 1.
    pub elapsed: Option<Duration>,
    /// Which way it went.
    pub direction: Direction,
    /// The same for all messages of one exchange: a request, its progress and its answer. In protocol 1
    /// each message has one of its own.
    pub correlation_id: String,
    /// Of an answer, of progress, of a cancellation: the number of the request that is meant. None in
    /// protocol 1, as all that follows from it.
    pub request: Option<u64>,
    /// Of an answer: from the request to this.
    pub latency: Option<Duration>,
    /// Of an answer: its request had been cancelled.
    pub cancelled: bool,
    /// Of a request that goes on with one which was answered by `input_required`: that one's number.
    pub retry_of: Option<u64>,
    /// Over HTTP: the MCP session, or else the connection's own number.
    pub channel: Option<String>,
    /// What was in it.
    pub body: Body,
    summary: Summary,
}

/// The bytes of a message, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// All of them, without the newline. They share memory with the messages around them: copy what is
    /// kept for long.
    Bytes(Bytes),
    /// Longer than `km monitor --max-message`: the first of them.
    Cut {
        /// So many as fit.
        first: Bytes,
        /// The message's length in bytes.
        size: u64,
        /// SHA-256 of all bytes, in hex.
        sha256: String,
    },
    /// Over 4 MiB, by protocol 1, which carries no such message: everything but the bytes.
    TooLarge {
        /// Length in bytes.
        size: u64,
        /// SHA-256 of the bytes, in hex.
        sha256: String,
    },
}

impl Message {
    /// A message of these bytes, as protocol 1 would bring it: for the tests of a plugin.
    pub fn new(direction: Direction, data: impl Into<Bytes>) -> Self {
        let data = data.into();
        let summary = Summary::of(&data);
        Self::bare(direction, String::new(), Body::Bytes(data), summary)
    }

    fn bare(direction: Direction, correlation_id: String, body: Body, summary: Summary) -> Self {
        Self {
            session: None,
            sequence: correlation_id.parse().unwrap_or_default(),
            received: SystemTime::now(),
            elapsed: None,
            direction,
            correlation_id,
            request: None,
            latency: None,
            cancelled: false,
            retry_of: None,
            channel: None,
            body,
            summary,
        }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Cut { size, .. } | Body::TooLarge { size, .. } => *size,
        }
    }

    /// The bytes that are known: all of them, the first of them, or none.
    pub fn data(&self) -> &[u8] {
        match &self.body {
            Body::Bytes(bytes) => bytes,
            Body::Cut { first, .. } => first,
            Body::TooLarge { .. } => &[],
        }
    }

    /// Kind, method and id, if it is JSON-RPC. The method of an answer is that of its request, where
    /// that is known.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// What protocol 2 delivers, with its data in one piece.
    pub(crate) fn delivered(head: v2::Message, data: Bytes, session: &SessionId) -> Result<Self, String> {
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let number = |number: u64| Some(number).filter(|number| *number != 0);
        let direction = match head.direction() {
            v2::Direction::Inbound => Direction::Inbound,
            v2::Direction::Outbound => Direction::Outbound,
            v2::Direction::Unspecified => return Err("it has no direction".to_owned()),
        };
        let received = head.received.ok_or("it has no time")?;
        // What later hosts tell apart is nothing in particular here.
        let kind = Kind::parse(&head.kind).unwrap_or(Kind::Other);
        let related = head.exchange.unwrap_or_default();
        let is_answer = matches!(kind, Kind::Result | Kind::Error) && related.request != 0;
        Ok(Self {
            session: Some(session.clone()),
            sequence: head.sequence,
            received: received.try_into().map_err(|e| format!("its time: {e}"))?,
            elapsed: Some(Duration::from_nanos(head.monotonic_ns)),
            direction,
            correlation_id: head.correlation_id,
            request: number(related.request),
            latency: is_answer.then(|| Duration::from_nanos(related.latency_ns)),
            cancelled: related.cancelled,
            retry_of: number(related.retry_of),
            channel: text(head.channel),
            body: Body::delivered(data, head.size, &head.sha256)?,
            summary: Summary { kind, method: text(head.method), id: text(head.id) },
        })
    }
}

impl Body {
    fn delivered(data: Bytes, size: u64, sha256: &[u8]) -> Result<Self, String> {
        if sha256.is_empty() {
            return match data.len() as u64 {
                length if length == size => Ok(Self::Bytes(data)),
                length => Err(format!("{length} bytes arrived, and it should have {size}")),
            };
        }
        let digest: [u8; 32] = sha256.try_into().map_err(|_| "its SHA-256 is none".to_owned())?;
        Ok(Self::Cut { first: data, size, sha256: Digest::from(digest).to_string() })
    }
}

impl TryFrom<HandleMessageRequest> for Message {
    type Error = String;

    fn try_from(request: HandleMessageRequest) -> Result<Self, String> {
        let HandleMessageRequest { data, direction, correlation_id } = request;
        let direction =
            Direction::parse(&direction).ok_or_else(|| format!("no such direction: {direction:?}"))?;
        let summary = Summary::of(&data);
        Ok(Self::bare(direction, correlation_id, Body::Bytes(data), summary))
    }
}

impl From<MessageTooLarge> for Message {
    fn from(event: MessageTooLarge) -> Self {
        let MessageTooLarge { direction, correlation_id, size, sha256, summary } = event;
        Self::bare(direction, correlation_id, Body::TooLarge { size, sha256 }, summary)
    }
}
