//! When a plugin that died is started again, and when it is given up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Pause before the first restart; it doubles with each death.
    pub first_pause: Duration,
    /// It never grows over this.
    pub longest_pause: Duration,
    /// So many deaths within [`within`](Self::within) and the plugin is given up. A life longer than
    /// that begins anew with the first pause.
    pub deaths: usize,
    /// See [`deaths`](Self::deaths).
    pub within: Duration,
}

/// Restart after 100 ms, doubling, at most 10 s; given up after five deaths in a minute.
impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            deaths: 5,
            within: Duration::from_secs(60),
        }
    }
}

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this pause.
    RestartAfter(Duration),
    /// Leave it.
    GiveUp,
}

/// The deaths of one plugin, judged by a [`RestartPolicy`].
#[derive(Debug, Clone)]
pub struct CrashBudget {
    policy: RestartPolicy,
    deaths: VecDeque<Instant>,
    pause: Duration,
}

impl CrashBudget {
    /// No deaths yet.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, deaths: VecDeque::new(), pause: policy.first_pause }
    }

    /// Judges a death at `now` of a plugin that was started at `begun`.
    pub fn died(&mut self, begun: Instant, now: Instant) -> Verdict {
        let RestartPolicy { first_pause, longest_pause, deaths, within } = self.policy;
        self.deaths.push_back(now);
        self.deaths.retain(|death| now.duration_since(*death) <= within);
        if self.deaths.len() >= deaths {
            return Verdict::GiveUp;
        }
        if now.duration_since(begun) > within {
            self.pause = first_pause;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(longest_pause);
        Verdict::RestartAfter(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(policy: RestartPolicy, lives: &[u64]) -> Vec<Option<u64>> {
        let (mut budget, mut now) = (CrashBudget::new(policy), Instant::now());
        let judge = |millis: &u64| {
            let begun = now;
            now += Duration::from_millis(*millis);
            match budget.died(begun, now) {
                Verdict::RestartAfter(pause) => Some(pause.as_millis() as u64),
                Verdict::GiveUp => None,
            }
        };
        lives.iter().map(judge).collect()
    }

    #[test]
    fn five_deaths_in_a_minute_are_enough() {
        let quick = pauses(RestartPolicy::default(), &[0, 10, 10, 10, 10]);
        assert_eq!(quick, [Some(100), Some(200), Some(400), Some(800), None]);
        let slow = pauses(RestartPolicy::default(), &[15_001; 6]);
        assert_eq!(slow, [Some(100), Some(200), Some(400), Some(800), Some(1600), Some(3200)]);
    }

    #[test]
    fn the_pause_has_a_limit_and_a_long_life_resets_it() {
        let policy = RestartPolicy { deaths: 100, ..RestartPolicy::default() };
        let lives = [[0; 9].as_slice(), &[60_001], &[0]].concat();
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 100, 200].map(Some);
        assert_eq!(pauses(policy, &lives), expected);
    }
}
