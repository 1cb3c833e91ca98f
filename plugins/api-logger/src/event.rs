//! The event of one message: what is known of it, and the message itself without its secrets.

use std::borrow::Cow;

use jiff::Timestamp;
use km_plugin::event::MAX_ID;
use km_plugin::{Body, Kind, Message, Summary};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::redact::{self, Json};

/// Longest JSON that is sent along, in bytes. Of what is longer, size and digest go.
const MAX_MESSAGE: usize = 256 << 10;
/// Most of a text that is sent along, in bytes.
const MAX_TEXT: usize = 64 << 10;
/// Most of a method's name or an id; both are the client's to choose.
const MAX_NAME: usize = 256;
/// Deepest JSON that is sent as such: the server reads 128 levels, the batch around it counted.
const MAX_DEPTH: usize = 100;

/// Makes the ids of events: unique everywhere, and the same however often an event is sent.
#[derive(Debug)]
pub(crate) struct Ids {
    session: String,
    next: u64,
}

impl Ids {
    /// For one session.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        Ok(Self { session: hex::encode(random), next: 0 })
    }

    /// `km`'s session and its number there, which are the same when it delivers a message again. Without
    /// a session the correlation id, which is unique in it; where that is missing, too, a number does.
    fn of(&mut self, message: &Message) -> String {
        let Self { session, next } = self;
        *next += 1;
        let id = match &message.session {
            Some(session) => format!("{session}-{}", message.sequence),
            None if message.correlation_id.is_empty() => String::new(),
            None => format!("{session}-{}", message.correlation_id),
        };
        if (1..=MAX_ID).contains(&id.len()) { id } else { format!("{session}-#{next}") }
    }
}

/// As it is sent. Members of JSON are fields of `km_plugin::event::Event`.
#[derive(Debug, Serialize)]
struct Event<'a> {
    id: String,
    time: Timestamp,
    direction: &'a str,
    correlation_id: &'a str,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<Box<RawValue>>,
    size: u64,
    #[serde(flatten)]
    content: Content,
}

/// What is sent of a message's bytes.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content {
    Json {
        message: Box<RawValue>,
    },
    Text {
        text: String,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    Digest {
        sha256: String,
    },
}

/// The event of a message, as JSON and without secrets.
pub(crate) fn of(message: &Message, ids: &mut Ids) -> serde_json::Result<String> {
    let Summary { kind, method, id } = message.summary();
    let content = match &message.body {
        Body::Cut { sha256, .. } | Body::TooLarge { sha256, .. } => {
            Content::Digest { sha256: sha256.clone() }
        }
        Body::Bytes(bytes) if *kind != Kind::Invalid && bytes.len() > MAX_MESSAGE => digest(bytes),
        Body::Bytes(bytes) => content(bytes),
    };
    let event = Event {
        id: ids.of(message),
        // A time that is out of all bounds is none.
        time: Timestamp::try_from(message.received).unwrap_or_default(),
        direction: message.direction.as_str(),
        correlation_id: cut(&message.correlation_id, MAX_NAME),
        kind: kind.as_str(),
        method: method.as_deref().map(|method| cut(&redact::text(method), MAX_NAME).to_owned()),
        request_id: id.as_deref().and_then(request_id),
        size: message.size(),
        content,
    };
    serde_json::to_string(&event)
}

fn content(bytes: &[u8]) -> Content {
    let text = String::from_utf8_lossy(bytes);
    let is_text = matches!(text, Cow::Borrowed(_));
    let clean = match redact::json(&text) {
        Some(json) => match readable(&json).filter(|_| is_text) {
            Some(message) if message.get().len() > MAX_MESSAGE => return digest(bytes),
            Some(message) => return Content::Json { message },
            // JSON but for a byte or its depth: its names have told the secrets in it.
            None => json.text,
        },
        None => redact::text(&text),
    };
    // Cut only now: half a secret would not have been found.
    Content::Text { text: cut(&clean, MAX_TEXT).to_owned(), truncated: clean.len() > MAX_TEXT }
}

/// JSON as it goes into an event; none if the server could not read it: what is too deep, or a number
/// out of its bounds (`1e999`).
fn readable(json: &Json<'_>) -> Option<Box<RawValue>> {
    if json.depth > MAX_DEPTH {
        return None;
    }
    serde_json::from_str::<serde_json::Value>(&json.text).ok()?;
    RawValue::from_string(json.text.to_string()).ok()
}

/// The id of a request, unless it is none that anybody would choose.
fn request_id(id: &str) -> Option<Box<RawValue>> {
    redact::json(id).and_then(|json| readable(&json)).filter(|id| id.get().len() <= MAX_NAME)
}

fn digest(bytes: &[u8]) -> Content {
    Content::Digest { sha256: hex::encode(Sha256::digest(bytes)) }
}

/// At most so many bytes of a text, and no half characters.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use km_plugin::{Bytes, Direction};
    use serde_json::{Map, Value, json};

    use super::*;

    const TIME: &str = "2026-11-22T12:00:00.123456789Z";

    /// The event, as the server reads it.
    fn read(text: &str) -> (String, Map<String, Value>) {
        let km_plugin::event::Event { id, data } = serde_json::from_str(text).unwrap();
        (id, data)
    }

    fn message(data: impl Into<Bytes>, correlation_id: &str) -> Message {
        let mut message = Message::new(Direction::Inbound, data);
        message.received = TIME.parse::<Timestamp>().unwrap().into();
        message.correlation_id = correlation_id.to_owned();
        message
    }

    fn data_of(message: &Message) -> Map<String, Value> {
        let event = of(message, &mut Ids::new().unwrap()).unwrap();
        // What the server sees is what is in a batch.
        let batch: km_plugin::event::EventBatch =
            serde_json::from_str(&format!("{{\"events\":[{event}]}}")).unwrap();
        let (id, data) = read(&event);
        assert_eq!(batch.events[0].id, id);
        assert!(event.len() < 1 << 20, "fits into a batch");
        data
    }

    fn data(bytes: impl AsRef<[u8]>) -> Map<String, Value> {
        data_of(&message(bytes.as_ref().to_vec(), "7"))
    }

    #[test]
    fn an_event_says_what_passed() {
        let message = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"n":1.50,"token":"x"}}"#;
        let expected = json!({
            "time": TIME, "direction": "inbound", "correlation_id": "7", "kind": "request",
            "method": "tools/call", "request_id": "a", "size": message.len(),
            "message": {
                "jsonrpc": "2.0", "id": "a", "method": "tools/call",
                "params": { "n": 1.5, "token": "[redacted]" },
            },
        });
        assert_eq!(Value::Object(data(message)), expected);
    }

    #[test]
    fn ids_are_the_session_s_and_the_message_s() {
        let mut ids = Ids::new().unwrap();
        let mut id = |correlation_id: &str| read(&of(&message("{}", correlation_id), &mut ids).unwrap()).0;
        let (session, seven) = id("7").split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert_eq!((session.len(), seven.as_str()), (32, "7"));
        assert_eq!(id("7"), format!("{session}-7"));
        assert_eq!([id(""), id("")], [format!("{session}-#3"), format!("{session}-#4")]);
        assert_eq!(id(&"x".repeat(96)), format!("{session}-#5"));
        assert_eq!(id(&"x".repeat(95)).len(), MAX_ID);
        assert_ne!(Ids::new().unwrap().session, session);
    }

    #[test]
    fn a_message_that_is_delivered_again_has_the_same_id() {
        let id = |session: &str| {
            let mut message = message("{}", "7");
            (message.session, message.sequence) = (Some(session.into()), 9);
            read(&of(&message, &mut Ids::new().unwrap()).unwrap()).0
        };
        assert_eq!(id("0a1b"), "0a1b-9");
        assert!(id(&"x".repeat(MAX_ID)).ends_with("-#1"));
    }

    #[test]
    fn a_message_without_secrets_is_sent_to_the_byte() {
        let text = r#"{ "n" : 12345678901234567890123, "x": 1.10 }"#;
        let event = of(&message(text, "1"), &mut Ids::new().unwrap()).unwrap();
        assert!(event.contains(text), "{event}");
    }

    #[test]
    fn what_is_no_json_is_text() {
        let data_of_text = data("hello\nAPI_KEY=abc\n");
        assert_eq!(data_of_text["text"], "hello\nAPI_KEY=[redacted]\n");
        assert_eq!(data_of_text["kind"], "invalid");
        assert_eq!(data_of_text.get("truncated"), None);
        assert_eq!(data("")["text"], "");
        // Cut at a character, and after the secrets went.
        let text = format!("{}\u{e4}ghp_0123456789abcdef", "x".repeat(MAX_TEXT - 1));
        let long = data(text);
        assert_eq!(long["text"].as_str().unwrap().len(), MAX_TEXT - 1);
        assert_eq!(long["truncated"], true);
        let secret = format!("{} ghp_{}", "x".repeat(MAX_TEXT - 8), "a".repeat(100));
        assert!(!data(secret)["text"].as_str().unwrap().contains("ghp"));
        // Escapes make a text longer; it fits all the same.
        assert_eq!(data("\u{1}".repeat(1 << 20))["truncated"], true);
    }

    #[test]
    fn invalid_utf8_hides_no_secret() {
        let event = data(b"{\"password\":\"hunter2\",\"a\":\"\xff\",\"b\":\"ghp_0123456789abcdef\xff\"}");
        assert_eq!(
            event["text"],
            "{\"password\":\"[redacted]\",\"a\":\"\u{fffd}\",\"b\":\"[redacted]\u{fffd}\"}"
        );
        assert_eq!(data(b"\xff\xfepassword=x\xff")["text"], "\u{fffd}\u{fffd}password=[redacted]");
    }

    #[test]
    fn what_the_server_could_not_read_is_text_without_secrets() {
        for depth in [MAX_DEPTH + 1, 126, 10_000] {
            let open = "[".repeat(depth - 1);
            let deep = format!("{open}{{\"password\":\"x\"}}{}", "]".repeat(depth - 1));
            let text = data(&deep)["text"].as_str().unwrap().to_owned();
            assert_eq!(text, deep.replace("\"x\"", "\"[redacted]\""));
        }
        assert_eq!(data("[1e999]")["text"], "[1e999]");
        let deepest = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(data(deepest)["message"].is_array());
        assert_eq!(data(r#"{"id":1e999,"method":"m"}"#).get("request_id"), None);
    }

    #[test]
    fn of_what_is_too_long_size_and_digest_go() {
        let long = format!("{{\"id\":1,\"method\":\"m\",\"x\":\"{}\"}}", "a".repeat(MAX_MESSAGE));
        let event = data(&long);
        assert_eq!(event["sha256"], hex::encode(Sha256::digest(&long)));
        assert_eq!((&event["size"], &event["method"]), (&json!(long.len()), &json!("m")));
        assert_eq!((event.get("message"), event.get("text")), (None, None));
        // Redaction can make it longer.
        let grows = format!("[{}0]", "{\"pwd\":1},".repeat(MAX_MESSAGE / 11 - 1));
        assert!(grows.len() < MAX_MESSAGE);
        assert_eq!(data(&grows)["sha256"], hex::encode(Sha256::digest(&grows)));

        let head = r#"{"id":7,"method":"m"}"#;
        let (size, sha256) = (5 << 20, "ab".to_owned());
        let cut = Body::Cut { first: head.into(), size, sha256: sha256.clone() };
        for body in [Body::TooLarge { size, sha256 }, cut] {
            let mut message = message(head, "7");
            message.body = body;
            let event = data_of(&message);
            assert_eq!(event["size"], 5 << 20);
            assert_eq!((&event["sha256"], &event["request_id"]), (&json!("ab"), &json!(7)));
        }
    }

    #[test]
    fn methods_and_ids_are_cut_and_hold_no_secrets() {
        let event = data(format!(r#"{{"id":"ghp_0123456789abcdef","method":"a {}"}}"#, "\u{e4}".repeat(300)));
        assert_eq!(event["request_id"], "[redacted]");
        assert!(event["method"].as_str().unwrap().len() <= MAX_NAME);
        let event = data(format!(r#"{{"id":"{}","method":"Bearer abcdef1"}}"#, "x".repeat(300)));
        assert_eq!(event.get("request_id"), None);
        assert_eq!(event["method"], "Bearer [redacted]");
    }
}
