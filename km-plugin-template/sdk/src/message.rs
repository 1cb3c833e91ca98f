//! One message of the monitored session.

use bytes::Bytes;
use km_proto::Direction;
use km_proto::event::MessageTooLarge;
use km_proto::jsonrpc::Summary;
use km_proto::v1::HandleMessageRequest;

/// One message between client and server, as it passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Which way it went.
    pub direction: Direction,
    /// `km`'s id for it, unique in the session.
    pub correlation_id: String,
    /// What was in it.
    pub body: Body,
}

/// The bytes of a message, or what is known of one that protocol 1 cannot carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// All of them, without the newline.
    Bytes(Bytes),
    /// Over 4 MiB: everything but the bytes.
    TooLarge {
        /// Length in bytes.
        size: u64,
        /// SHA-256 of the bytes, in hex.
        sha256: String,
        /// What it is.
        summary: Summary,
    },
}

impl Message {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::TooLarge { size, .. } => *size,
        }
    }

    /// Kind, method and id, if it is JSON-RPC.
    pub fn summary(&self) -> Summary {
        match &self.body {
            Body::Bytes(bytes) => Summary::of(bytes),
            Body::TooLarge { summary, .. } => summary.clone(),
        }
    }
}

impl TryFrom<HandleMessageRequest> for Message {
    type Error = String;

    fn try_from(request: HandleMessageRequest) -> Result<Self, String> {
        let HandleMessageRequest { data, direction, correlation_id } = request;
        let direction =
            Direction::parse(&direction).ok_or_else(|| format!("no such direction: {direction:?}"))?;
        Ok(Self { direction, correlation_id, body: Body::Bytes(data) })
    }
}

impl From<MessageTooLarge> for Message {
    fn from(event: MessageTooLarge) -> Self {
        let MessageTooLarge { direction, correlation_id, size, sha256, summary } = event;
        Self { direction, correlation_id, body: Body::TooLarge { size, sha256, summary } }
    }
}
