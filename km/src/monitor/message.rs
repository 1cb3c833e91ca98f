//! A message on its way to the plugins.

use std::time::SystemTime;

use bytes::Bytes;
use km_package::digest::Digest;
use km_proto::Direction;
use km_proto::jsonrpc::Summary;

/// One line that passed, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// 1, 2, … in the order in which the lines were complete, over both directions.
    pub(crate) sequence: u64,
    pub(crate) direction: Direction,
    pub(crate) received: SystemTime,
    pub(crate) content: Content,
}

/// What was in it. One copy of the bytes is shared by all plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// The bytes without the newline.
    Whole(Bytes),
    /// Larger than the protocol carries: what is known of it.
    TooLarge { size: u64, sha256: Digest, summary: Summary },
}

impl Message {
    /// The id that plugins see: unique in the session.
    pub(crate) fn correlation_id(&self) -> String {
        self.sequence.to_string()
    }

    /// The memory it takes while it waits.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 128;
        OVERHEAD
            + match &self.content {
                Content::Whole(bytes) => bytes.len(),
                Content::TooLarge { .. } => 0,
            }
    }
}
