//! How long to wait before trying again.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// Bound of the first pause.
const FIRST: Duration = Duration::from_millis(250);
/// Bound of all pauses.
const LONGEST: Duration = Duration::from_secs(30);
/// Most that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Pauses that grow from failure to failure.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    failures: u32,
}

impl Pauses {
    /// The next pause: at least what the server asked for. Otherwise any length up to a bound that
    /// doubles each time, so that many plugins do not come back at the same moment.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let asked = asked.unwrap_or_default().min(LONGEST_ASKED);
        bound.mul_f64(random_share()).max(asked)
    }

    /// It worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// From 0 to 1. Without randomness the whole pause is waited.
fn random_share() -> f64 {
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}

/// What a `Retry-After` header asks for: seconds, or a date.
pub(crate) fn asked(header: &str, now: Timestamp) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(header).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_are_never_alike() {
        let mut pauses = Pauses::default();
        let mut bound = FIRST;
        for _ in 0..40 {
            assert!(pauses.next(None) <= bound);
            bound = (bound * 2).min(LONGEST);
        }
        let ten: std::collections::HashSet<_> = (0..10).map(|_| pauses.next(None)).collect();
        assert!(ten.len() > 1);
        pauses.reset();
        assert!(pauses.next(None) <= FIRST);
    }

    #[test]
    fn what_the_server_asks_for_is_the_least_within_reason() {
        let mut pauses = Pauses::default();
        let minute = Duration::from_secs(60);
        assert_eq!(pauses.next(Some(minute)), minute);
        assert_eq!(pauses.next(Some(Duration::MAX)), LONGEST_ASKED);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let seconds = |header| asked(header, now).map(|asked| asked.as_secs());
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds(" 120 "), Some(120));
        assert_eq!(seconds("Sun, 22 Nov 2026 12:01:30 GMT"), Some(90));
        assert_eq!(seconds("Sun, 22 Nov 2026 11:00:00 GMT"), Some(0));
        for header in ["", "soon", "-1", "1.5", "99999999999999999999999", "2026-11-22"] {
            assert_eq!(seconds(header), None, "{header}");
        }
    }
}
