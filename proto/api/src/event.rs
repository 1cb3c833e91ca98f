//! `POST /api/events/batch`: what plugins saw, each event once.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Most events in one request.
pub const MAX_EVENTS: usize = 1000;
/// Most bytes of one request's body.
pub const MAX_BODY: usize = 4 << 20;
/// Longest id of an event, in bytes.
pub const MAX_ID: usize = 128;

/// One event. Its id is the sender's, and makes it idempotent: one that is sent twice is kept once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// 1 to [`MAX_ID`] bytes, unique among the events of a customer.
    pub id: String,
    /// The rest, as the plugin chose it.
    #[serde(flatten)]
    pub data: Map<String, Value>,
}

/// Several events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventBatch {
    /// At most [`MAX_EVENTS`].
    pub events: Vec<Event>,
}

/// One event as a server takes it: what it needs to know, and the text as it came. A tree of it would
/// take a hundred times the room.
#[derive(Debug, Clone)]
pub struct RawEvent {
    /// As [`Event::id`].
    pub id: String,
    /// The JSON object, `id` included.
    pub text: Box<RawValue>,
}

impl<'de> Deserialize<'de> for RawEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Id {
            id: String,
        }
        let text = Box::<RawValue>::deserialize(deserializer)?;
        if !text.get().starts_with('{') {
            return Err(D::Error::custom("an event is an object"));
        }
        let Id { id } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        Ok(Self { id, text })
    }
}

/// Several events, as a server takes them.
#[derive(Debug, Clone, Deserialize)]
pub struct RawEventBatch {
    /// At most [`MAX_EVENTS`].
    pub events: Vec<RawEvent>,
}

/// What became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAnswer {
    /// Always true; a failure is an [`ErrorAnswer`](crate::error::ErrorAnswer).
    pub success: bool,
    /// How many of the request's events the server has now, those that it had before included.
    pub accepted: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_text_and_must_have_one_id() {
        let read = |text: &str| serde_json::from_str::<RawEventBatch>(text);
        let batch = read(r#"{"events":[{"n": 1e999 , "id":"a"}]}"#).unwrap();
        assert_eq!(
            (batch.events[0].id.as_str(), batch.events[0].text.get()),
            ("a", r#"{"n": 1e999 , "id":"a"}"#)
        );
        for bad in
            [r#"{"events":[["a"]]}"#, r#"{"events":[{"id":1}]}"#, r#"{"events":[{}]}"#, r#"{"events":["a"]}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(r#"{"events":[{"id":"a","id":"b"}]}"#).is_err());
    }
}
