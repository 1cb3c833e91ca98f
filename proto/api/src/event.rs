//! `POST /api/events/batch`: what plugins saw, each event once.

use serde::{Deserialize, Serialize};
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

/// What became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAnswer {
    /// Always true; a failure is an [`ErrorAnswer`](crate::error::ErrorAnswer).
    pub success: bool,
    /// How many of the request's events the server has now, those that it had before included.
    pub accepted: u64,
}
