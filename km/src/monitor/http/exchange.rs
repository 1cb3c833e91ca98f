//! Which bodies are messages, and of what channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use km_proto::Direction;

use super::super::remarks::Remarks;
use super::super::tap::{Coding, Framing, StreamKind, Tap, TapStream};
use super::head::{Headers, RequestHead, ResponseHead};

/// Copies the bodies of a session that are messages.
#[derive(Debug)]
pub(super) struct Observation {
    /// None where nobody looks on.
    tap: Option<Tap>,
    exchanges: AtomicU64,
    said_unreadable: AtomicBool,
}

/// One request, as far as it matters for its response.
#[derive(Debug)]
pub(super) struct Exchange {
    channel: Arc<str>,
    /// The request was a message: a response in JSON is one, too.
    is_message: bool,
    /// A response has no body.
    pub(super) is_head: bool,
}

impl Observation {
    pub(super) fn new(tap: Option<Tap>) -> Self {
        Self { tap, exchanges: AtomicU64::new(0), said_unreadable: AtomicBool::new(false) }
    }

    /// Begins an exchange; the stream takes the request's body, if that is a message.
    pub(super) fn request(&self, head: &RequestHead) -> (Exchange, Option<TapStream>) {
        let number = self.exchanges.fetch_add(1, Ordering::Relaxed) + 1;
        let channel = match head.headers.text("mcp-session-id") {
            Some(session) => session.into(),
            None => format!("#{number}").into(),
        };
        let is_message = is_json(&head.headers);
        let exchange = Exchange { channel, is_message, is_head: head.method == "HEAD" };
        let stream =
            is_message.then(|| self.open(&exchange, &head.headers, Direction::Inbound, Framing::Body));
        (exchange, stream.flatten())
    }

    /// The stream that takes the response's body, if it carries messages.
    pub(super) fn response(&self, exchange: &Exchange, head: &ResponseHead) -> Option<TapStream> {
        let framing = match media_type(&head.headers)?.as_str() {
            "text/event-stream" => Framing::Events,
            // What answers no message is none: metadata, tokens.
            "application/json" if exchange.is_message => Framing::Body,
            _ => return None,
        };
        self.open(exchange, &head.headers, Direction::Outbound, framing)
    }

    fn open(
        &self,
        exchange: &Exchange,
        headers: &Headers,
        direction: Direction,
        framing: Framing,
    ) -> Option<TapStream> {
        let tap = self.tap.as_ref()?;
        let mut codings = headers.list("content-encoding");
        codings.extend(headers.list("transfer-encoding").into_iter().filter(|coding| coding != "chunked"));
        codings.retain(|coding| coding != "identity");
        let coding = match &codings[..] {
            [] => None,
            [one] => match one.as_str() {
                "gzip" | "x-gzip" => Some(Coding::Gzip),
                "deflate" => Some(Coding::Deflate),
                other => return self.unreadable(other),
            },
            several => return self.unreadable(&several.join(", ")),
        };
        let channel = Some(Arc::clone(&exchange.channel));
        let stream = tap.open(StreamKind { direction, framing, channel });
        coding.into_iter().for_each(|coding| stream.coded(coding));
        Some(stream)
    }

    fn unreadable(&self, coding: &str) -> Option<TapStream> {
        if !self.said_unreadable.swap(true, Ordering::Relaxed) {
            Remarks.say(&format!(
                "plugins do not see bodies compressed as {}: they are passed on as they are",
                km_cli::printable_line(coding)
            ));
        }
        None
    }
}

fn is_json(headers: &Headers) -> bool {
    media_type(headers).is_some_and(|media_type| media_type == "application/json")
}

/// The type of a body, without parameters, in lower case.
fn media_type(headers: &Headers) -> Option<String> {
    let text = headers.text("content-type")?;
    Some(text.split(';').next()?.trim().to_ascii_lowercase())
}
