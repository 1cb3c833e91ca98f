//! The slowest that a download may be.

use std::time::Duration;

use tokio::time::Instant;

/// What it must bring each second on average, in bytes.
const BYTES_PER_SECOND: u128 = 1024;

/// Within each window it must bring its share, or it is given up: a byte now and then is not enough.
#[derive(Debug)]
pub(super) struct MinimumRate {
    window: Duration,
    share: u64,
    /// When the current window ends.
    deadline: Instant,
    /// What has come in it.
    received: u64,
}

impl MinimumRate {
    pub(super) fn new(window: Duration, now: Instant) -> Self {
        let share = window.as_millis() * BYTES_PER_SECOND / 1000;
        let share = u64::try_from(share).unwrap_or(u64::MAX).max(1);
        Self { window, share, deadline: now + window, received: 0 }
    }

    /// Until when something must have come.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Something came. The next window begins when the share of this one is there.
    pub(super) fn received(&mut self, bytes: usize, now: Instant) {
        self.received += bytes as u64;
        if self.received >= self.share {
            self.received = 0;
            self.deadline = now + self.window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_long_enough_for_its_share_and_not_for_less() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rate = MinimumRate::new(Duration::from_secs(10), start);
        assert_eq!(rate.deadline(), at(10));
        // A byte each second moves nothing.
        for second in 1..=9 {
            rate.received(1, at(second));
        }
        assert_eq!(rate.deadline(), at(10));
        rate.received(10 * 1024 - 10, at(9));
        assert_eq!(rate.deadline(), at(10));
        rate.received(1, at(9));
        assert_eq!(rate.deadline(), at(19));
        // The next window begins with nothing.
        rate.received(10 * 1024 - 1, at(10));
        assert_eq!(rate.deadline(), at(19));
    }

    #[test]
    fn the_shortest_window_has_a_share_too() {
        let now = Instant::now();
        let mut rate = MinimumRate::new(Duration::from_millis(100), now);
        rate.received(101, now + Duration::from_millis(50));
        assert_eq!(rate.deadline(), now + Duration::from_millis(100));
        rate.received(1, now + Duration::from_millis(60));
        assert_eq!(rate.deadline(), now + Duration::from_millis(160));
    }
}
