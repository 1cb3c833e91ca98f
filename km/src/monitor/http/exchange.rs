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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::super::tap::{PieceContent, tap};
    use super::*;

    /// Of a request and its response with these headers: what each is copied as.
    fn observed(observation: &Observation, request: &str, response: &str) -> [bool; 2] {
        let request = Bytes::from(format!("POST / HTTP/1.1\r\n{request}\r\n"));
        let response = Bytes::from(format!("HTTP/1.1 200 OK\r\n{response}\r\n"));
        let (exchange, inbound) = observation.request(&RequestHead::parse(&request).unwrap());
        let outbound = observation.response(&exchange, &ResponseHead::parse(&response).unwrap());
        [inbound.is_some(), outbound.is_some()]
    }

    #[test]
    fn an_exchange_is_of_its_session_or_of_its_own_channel() {
        const JSON: &str = "Content-Type: application/json\r\n";
        let events = "Content-Type: Text/Event-Stream;charset=utf-8\r\n";
        let (tap, mut reader) = tap();
        let observation = Observation::new(Some(tap.clone()));
        let session = format!("{JSON}mcp-session-id: abc\r\n");
        assert_eq!(observed(&observation, JSON, &session), [true, true]);
        assert_eq!(observed(&observation, &session, events), [true, true]);
        assert_eq!(observed(&observation, "", events), [false, true]);
        for (request, response) in [
            ("", JSON),
            ("Content-Type: application/x-www-form-urlencoded\r\n", JSON),
            ("Content-Type: text/plain\r\n", "Content-Type: text/html\r\n"),
        ] {
            assert_eq!(observed(&observation, request, response), [false, false], "{request} {response}");
        }
        tap.finish();
        let mut opened = Vec::new();
        while let Some(piece) = reader.next() {
            if let PieceContent::Open(StreamKind { direction, framing, channel }) = piece.content {
                opened.push((direction, framing, channel.unwrap().to_string()));
            }
        }
        let of = |direction, framing, channel: &str| (direction, framing, channel.to_owned());
        let expected = [
            of(Direction::Inbound, Framing::Body, "#1"),
            of(Direction::Outbound, Framing::Body, "#1"),
            of(Direction::Inbound, Framing::Body, "abc"),
            of(Direction::Outbound, Framing::Events, "abc"),
            of(Direction::Outbound, Framing::Events, "#3"),
        ];
        assert_eq!(opened, expected);
    }

    #[test]
    fn what_is_compressed_otherwise_is_not_seen() {
        let observation = Observation::new(Some(tap().0));
        let json = |coding: &str| format!("Content-Type: application/json\r\n{coding}\r\n");
        for (coding, seen) in [
            ("Content-Encoding: identity", true),
            ("Content-Encoding: GZIP", true),
            ("Transfer-Encoding: gzip, chunked", true),
            ("Content-Encoding: br", false),
            ("Content-Encoding: gzip, gzip", false),
        ] {
            assert_eq!(observed(&observation, &json("X: y"), &json(coding)), [true, seen], "{coding}");
        }
    }
}
