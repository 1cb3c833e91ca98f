//! Events of protocol 1 that `km` itself sends.

use std::collections::HashMap;

use crate::Direction;
use crate::jsonrpc::Summary;

/// Stands in for a message that is too large for protocol 1: everything but its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageTooLarge {
    /// Which way it went.
    pub direction: Direction,
    /// Its correlation id.
    pub correlation_id: String,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// What it is.
    pub summary: Summary,
}

impl MessageTooLarge {
    /// The type of the stream event.
    pub const TYPE: &str = "message_too_large";

    /// As the event's data.
    pub fn to_data(&self) -> HashMap<String, String> {
        let Summary { kind, method, id } = &self.summary;
        let mut data = HashMap::from([
            ("direction".to_owned(), self.direction.as_str().to_owned()),
            ("correlation_id".to_owned(), self.correlation_id.clone()),
            ("size".to_owned(), self.size.to_string()),
            ("sha256".to_owned(), self.sha256.clone()),
            ("kind".to_owned(), kind.as_str().to_owned()),
        ]);
        data.extend(method.clone().map(|method| ("method".to_owned(), method)));
        data.extend(id.clone().map(|id| ("id".to_owned(), id)));
        data
    }

    /// From an event's data; `None` when something is missing.
    pub fn from_data(data: &HashMap<String, String>) -> Option<Self> {
        Some(Self {
            direction: Direction::parse(data.get("direction")?)?,
            correlation_id: data.get("correlation_id")?.clone(),
            size: data.get("size")?.parse().ok()?,
            sha256: data.get("sha256")?.clone(),
            summary: Summary {
                kind: crate::jsonrpc::Kind::parse(data.get("kind")?)?,
                method: data.get("method").cloned(),
                id: data.get("id").cloned(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let event = MessageTooLarge {
            direction: Direction::Outbound,
            correlation_id: "s-7".to_owned(),
            size: 5 << 20,
            sha256: "00".repeat(32),
            summary: Summary::of(br#"{"jsonrpc":"2.0","id":7,"result":{}}"#),
        };
        assert_eq!(MessageTooLarge::from_data(&event.to_data()), Some(event.clone()));
        let mut data = event.to_data();
        data.remove("size");
        assert_eq!(MessageTooLarge::from_data(&data), None);
    }
}
