//! What kind of JSON-RPC 2.0 message a line is: kind, method and id, as [`crate::mcp`] reads it.

use std::borrow::Cow;

use crate::mcp::Reading;

/// What kind of message a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A method with an id.
    Request,
    /// A method without one.
    Notification,
    /// The answer to a request.
    Result,
    /// The refusal of a request.
    Error,
    /// An array of messages (MCP 2025-03-26 only).
    Batch,
    /// JSON, but no JSON-RPC message.
    Other,
    /// Not JSON, or not UTF-8.
    Invalid,
}

impl Kind {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Notification => "notification",
            Self::Result => "result",
            Self::Error => "error",
            Self::Batch => "batch",
            Self::Other => "other",
            Self::Invalid => "invalid",
        }
    }

    /// Reads that word.
    pub fn parse(text: &str) -> Option<Self> {
        use Kind::{Batch, Error, Invalid, Notification, Other, Request, Result};
        [Request, Notification, Result, Error, Batch, Other, Invalid]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// Kind, method and id of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What kind of message it is.
    pub kind: Kind,
    /// The method of a request or notification.
    pub method: Option<String>,
    /// The id as it is written: `7`, `"a"`.
    pub id: Option<String>,
}

impl Summary {
    /// The summary of one line, with or without its newline.
    pub fn of(line: &[u8]) -> Self {
        Reading::of(line).into()
    }
}

impl From<Reading<'_>> for Summary {
    fn from(Reading { kind, method, id, .. }: Reading<'_>) -> Self {
        Self { kind, method: method.map(Cow::into_owned), id: id.map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(line: &str) -> (Kind, Option<String>, Option<String>) {
        let Summary { kind, method, id } = Summary::of(line.as_bytes());
        (kind, method, id)
    }

    #[test]
    fn messages_are_told_apart() {
        let some = |text: &str| Some(text.to_owned());
        for (line, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
                (Kind::Request, some("tools/call"), some("1")),
            ),
            (r#"{"method":"a\/b","id":"x"}"#, (Kind::Request, some("a/b"), some("\"x\""))),
            (r#"{"method":"n"}"#, (Kind::Notification, some("n"), None)),
            (
                r#"{"id":12345678901234567890123,"result":null}"#,
                (Kind::Result, None, some("12345678901234567890123")),
            ),
            (r#"{"id":1,"error":{"code":-1}}"#, (Kind::Error, None, some("1"))),
            (r#"{"error":{"code":-1}}"#, (Kind::Error, None, None)),
            (r#" [{"method":"n"}]"#, (Kind::Batch, None, None)),
            ("{}", (Kind::Other, None, None)),
            ("[]", (Kind::Batch, None, None)),
            ("7", (Kind::Other, None, None)),
            (r#"{"method":7}"#, (Kind::Other, None, None)),
            ("", (Kind::Invalid, None, None)),
            ("{", (Kind::Invalid, None, None)),
        ] {
            assert_eq!(summary(line), expected, "{line}");
        }
        assert_eq!(Summary::of(b"\"\xff\"").kind, Kind::Invalid);
    }
}
