//! One readable line for a message: time, direction, what it is, id, size.

use jiff::Timestamp;
use km_plugin::{Kind, Message, Summary};

/// For example `12:00:00.123Z inbound  tools/call id=3 145 B`.
pub(crate) fn of(message: &Message) -> String {
    let Summary { kind, method, id } = message.summary();
    let what = match (kind, method) {
        (Kind::Request | Kind::Notification, Some(method)) => printable(method),
        _ => kind.as_str().to_owned(),
    };
    let id = id.as_deref().map(|id| format!(" id={}", printable(id))).unwrap_or_default();
    // A time that is out of all bounds is none.
    let time = Timestamp::try_from(message.received).unwrap_or_default().strftime("%H:%M:%S%.3fZ");
    format!("{time} {:<8} {what}{id} {} B", message.direction.as_str(), message.size())
}

/// Client and server choose these texts: one short line, whatever they hold.
fn printable(text: &str) -> String {
    text.chars().take(100).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use km_plugin::Direction;

    use super::*;

    fn line(direction: Direction, text: &'static str) -> String {
        let mut message = Message::new(direction, text);
        message.received = Timestamp::from_millisecond(1_795_305_600_123).unwrap().into();
        of(&message)
    }

    #[test]
    fn a_line_says_what_passed() {
        let request = r#"{"jsonrpc":"2.0","id":3,"method":"tools/call"}"#;
        assert_eq!(line(Direction::Inbound, request), "00:00:00.123Z inbound  tools/call id=3 46 B");
        assert_eq!(
            line(Direction::Outbound, r#"{"id":"a","result":{}}"#),
            "00:00:00.123Z outbound result id=\"a\" 22 B"
        );
        assert_eq!(
            line(Direction::Outbound, r#"{"id":1,"error":{}}"#),
            "00:00:00.123Z outbound error id=1 19 B"
        );
        assert_eq!(line(Direction::Outbound, "hello"), "00:00:00.123Z outbound invalid 5 B");
    }

    #[test]
    fn a_line_is_one_line_whatever_the_method_holds() {
        let line = line(Direction::Inbound, "{\"method\":\"a\\nb\\u001b[2J\"}");
        assert_eq!(line, "00:00:00.123Z inbound  a\u{fffd}b\u{fffd}[2J 26 B");
    }
}
