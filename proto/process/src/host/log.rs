//! Lines of hclog, the logger of Go plugins: one JSON object for each, on stderr
//! (go-plugin `log_entry.go`). Whatever else a line holds, it is text, and never more than that.

use std::fmt;

use serde_json::{Map, Value};

/// How important an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who follow every step.
    Trace,
    /// For those who look for a fault.
    Debug,
    /// What happened.
    Info,
    /// What should be looked at.
    Warn,
    /// What went wrong.
    Error,
}

/// One entry of a plugin's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// How important it is.
    pub level: Level,
    /// What it says.
    pub message: String,
    /// Everything else in it but its time, as text.
    pub fields: Vec<(String, String)>,
}

impl LogEntry {
    /// Reads a line; none if it is not an entry.
    pub fn parse(line: &[u8]) -> Option<Self> {
        if !line.starts_with(b"{") {
            return None;
        }
        let mut object: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let level = match object.remove("@level")?.as_str()? {
            "trace" => Level::Trace,
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warn" => Level::Warn,
            "error" => Level::Error,
            _ => return None,
        };
        let message = match object.remove("@message")? {
            Value::String(message) => message,
            _ => return None,
        };
        object.remove("@timestamp");
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let fields = object.into_iter().map(|(name, value)| (name, text(value))).collect();
        Some(Self { level, message, fields })
    }
}

/// For example `warn: disk is nearly full free=7 path=/x`.
impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        write!(f, "{level}: {}", self.message)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_hclog_are_read() {
        let line = br#"{"@level":"warn","@message":"disk","@timestamp":"2026-11-22T19:07:26.954468Z","free":7,"path":"/x"}"#;
        let expected = LogEntry {
            level: Level::Warn,
            message: "disk".to_owned(),
            fields: vec![("free".to_owned(), "7".to_owned()), ("path".to_owned(), "/x".to_owned())],
        };
        assert_eq!(expected.to_string(), "warn: disk free=7 path=/x");
        assert_eq!(LogEntry::parse(line), Some(expected));
    }

    #[test]
    fn anything_else_is_text() {
        // The first one brings a Go host down.
        for line in [
            &br#"{"@message":1}"#[..],
            br#"{"@level":"info","@message":1}"#,
            br#"{"@level":1,"@message":"x"}"#,
            br#"{"@level":"loud","@message":"x"}"#,
            br#"{"@level":"info""#,
            b"[]",
            b"{",
            b"{\xff}",
            b"",
            b"text",
        ] {
            assert_eq!(LogEntry::parse(line), None, "{line:?}");
        }
        let deep = [b"{\"@level\":".repeat(100_000), b"1".to_vec()].concat();
        assert_eq!(LogEntry::parse(&deep), None);
    }
}
