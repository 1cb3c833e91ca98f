//! How often one may ask.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use km_package::name::CustomerId;

use super::refusal::Refusal;

/// Failed authentications of one peer: ten a second, a hundred at once.
const FAILURES: (NonZeroU32, NonZeroU32) = (NonZeroU32::new(10).unwrap(), NonZeroU32::new(100).unwrap());

/// Who has proved who they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// The holder of the API key with this digest.
    Key([u8; 32]),
    /// A plugin of this customer, by its token.
    Customer(CustomerId),
}

/// A bucket for each caller, and one for what fails from each peer.
#[derive(Debug)]
pub(super) struct Limits {
    callers: DefaultKeyedRateLimiter<Caller>,
    peers: DefaultKeyedRateLimiter<IpAddr>,
}

impl Limits {
    /// So many requests a second for each caller, four times as many at once.
    pub(super) fn new(rate: NonZeroU32) -> Self {
        let quota = |rate, burst| Quota::per_second(rate).allow_burst(burst);
        Self {
            callers: RateLimiter::keyed(quota(rate, rate.saturating_mul(NonZeroU32::MIN.saturating_add(3)))),
            peers: RateLimiter::keyed(quota(FAILURES.0, FAILURES.1)),
        }
    }

    /// Counts a request of somebody who may ask.
    pub(super) fn count(&self, caller: &Caller) -> Result<(), Refusal> {
        check(&self.callers, caller)
    }

    /// Counts a failed authentication. Callers with a good key behind the same address are not affected.
    pub(super) fn count_failure(&self, peer: IpAddr) -> Result<(), Refusal> {
        check(&self.peers, &network(peer))
    }

    /// Forgets those whose bucket is full again, so that memory does not grow with all who ever asked.
    pub(super) fn forget_idle(&self) {
        self.callers.retain_recent();
        self.callers.shrink_to_fit();
        self.peers.retain_recent();
        self.peers.shrink_to_fit();
    }
}

fn check<K: Hash + Eq + Clone>(limiter: &DefaultKeyedRateLimiter<K>, key: &K) -> Result<(), Refusal> {
    limiter.check_key(key).map_err(|no| {
        let wait: Duration = no.wait_time_from(DefaultClock::default().now());
        Refusal::limited(wait)
    })
}

/// One machine may have all addresses of an IPv6 network of 64 bits.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{StatusCode, header};
    use axum::response::IntoResponse as _;

    use super::*;

    #[test]
    fn a_burst_is_four_times_the_rate_and_each_caller_has_their_own() {
        let limits = Limits::new(NonZeroU32::new(2).unwrap());
        let (one, other) = (Caller::Key([1; 32]), Caller::Key([2; 32]));
        for _ in 0..8 {
            limits.count(&one).unwrap();
        }
        let refused = limits.count(&one).unwrap_err().into_response();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
        limits.count(&other).unwrap();
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
