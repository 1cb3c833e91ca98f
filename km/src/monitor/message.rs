//! A message on its way to the plugins.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use km_package::digest::Digest;
use km_proto::jsonrpc::{Kind, Summary};
use km_proto::{Direction, v2};

/// One line that passed, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// 1, 2, … in the order in which the messages were complete, over both directions.
    pub(crate) sequence: u64,
    pub(crate) direction: Direction,
    pub(crate) received: SystemTime,
    /// The same moment, from the beginning of the session, by a clock that is never set.
    pub(crate) elapsed: Duration,
    /// Over HTTP: the MCP session, or else the connection's own number. Ids are unique in it.
    pub(crate) channel: Option<Arc<str>>,
    pub(crate) summary: Summary,
    pub(crate) exchange: Exchange,
    /// The bytes without the newline, or the first of them. All plugins share them.
    pub(crate) data: Bytes,
    /// What is known of a message whose copy was cut.
    pub(crate) cut: Option<Cut>,
}

/// A message that is longer than its observed copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Its true length in bytes.
    pub(crate) size: u64,
    /// Of all its bytes.
    pub(crate) sha256: Digest,
}

/// What a message has to do with others of the session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// The number of the message that began it; 0 where that is the message itself.
    pub(crate) first: u64,
    /// Of an answer, of progress, of a cancellation: the number of the request that is meant.
    pub(crate) request: Option<u64>,
    /// Of an answer: the method of its request.
    pub(crate) method: Option<Arc<str>>,
    /// Of an answer: from the request to this.
    pub(crate) latency: Option<Duration>,
    /// Of an answer: its request had been cancelled.
    pub(crate) cancelled: bool,
    /// Of a request that goes on with one that was answered by `input_required`: that one's number.
    pub(crate) retry_of: Option<u64>,
}

impl Message {
    /// The id that protocol 1 has: unique in the session.
    pub(crate) fn number(&self) -> String {
        self.sequence.to_string()
    }

    /// Its true length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.cut.map_or(self.data.len() as u64, |cut| cut.size)
    }

    /// The memory it takes while it waits.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 256;
        OVERHEAD + self.data.len()
    }

    /// As protocol 2 and the spool have it, but for its data.
    pub(crate) fn head(&self) -> v2::Message {
        let Summary { kind, method, id } = &self.summary;
        let exchange = &self.exchange;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let related = (exchange.request.is_some() || exchange.retry_of.is_some()).then(|| v2::Exchange {
            request: exchange.request.unwrap_or_default(),
            latency_ns: exchange.latency.map(nanos).unwrap_or_default(),
            cancelled: exchange.cancelled,
            retry_of: exchange.retry_of.unwrap_or_default(),
        });
        let first = if exchange.first == 0 { self.sequence } else { exchange.first };
        v2::Message {
            sequence: self.sequence,
            received: Some(self.received.into()),
            monotonic_ns: nanos(self.elapsed),
            direction: match self.direction {
                Direction::Inbound => v2::Direction::Inbound.into(),
                Direction::Outbound => v2::Direction::Outbound.into(),
            },
            correlation_id: first.to_string(),
            kind: kind.as_str().to_owned(),
            method: match (method, &exchange.method) {
                (Some(method), _) => method.clone(),
                (None, Some(method)) => method.to_string(),
                (None, None) => String::new(),
            },
            id: id.clone().unwrap_or_default(),
            data: Bytes::new(),
            more: false,
            size: self.size(),
            sha256: self.cut.map(|cut| Bytes::copy_from_slice(cut.sha256.as_bytes())).unwrap_or_default(),
            exchange: related,
            channel: self.channel.as_deref().unwrap_or_default().to_owned(),
        }
    }

    /// The other way round. None where something is missing that [`Message::head`] writes.
    pub(crate) fn of(head: v2::Message, data: Bytes) -> Option<Self> {
        let text = |text: String| if text.is_empty() { None } else { Some(text) };
        let number = |number: u64| if number == 0 { None } else { Some(number) };
        let kind = Kind::parse(&head.kind)?;
        let direction = match head.direction() {
            v2::Direction::Inbound => Direction::Inbound,
            v2::Direction::Outbound => Direction::Outbound,
            v2::Direction::Unspecified => return None,
        };
        let related = head.exchange.unwrap_or_default();
        let is_answer = matches!(kind, Kind::Result | Kind::Error);
        let method = text(head.method);
        let (method, answered) = if is_answer { (None, method.map(Arc::from)) } else { (method, None) };
        let first: u64 = head.correlation_id.parse().ok()?;
        Some(Self {
            sequence: head.sequence,
            direction,
            received: head.received?.try_into().ok()?,
            elapsed: Duration::from_nanos(head.monotonic_ns),
            channel: text(head.channel).map(Arc::from),
            summary: Summary { kind, method, id: text(head.id) },
            exchange: Exchange {
                first: if first == head.sequence { 0 } else { first },
                request: number(related.request),
                method: answered,
                latency: (is_answer && related.request != 0)
                    .then(|| Duration::from_nanos(related.latency_ns)),
                cancelled: related.cancelled,
                retry_of: number(related.retry_of),
            },
            cut: match head.sha256.is_empty() {
                true => None,
                false => {
                    Some(Cut { size: head.size, sha256: <[u8; 32]>::try_from(&head.sha256[..]).ok()?.into() })
                }
            },
            data,
        })
    }
}
