//! Keeps a plugin's access up to date: asks again every few minutes, shows the plugin what changed,
//! and says when it may not run any more.

use std::time::{Duration, Instant};

use km_package::failure::Kind;
use km_package::tier::Tier;

use super::PluginFailure;
use super::authenticate::{Access, Door, admit};
use crate::auth::{Authority, Authorization, Grant};
use crate::store::PackageIdentity;

/// How long before a token's end it is renewed at the latest.
const BEFORE_EXPIRY: Duration = Duration::from_secs(60);
/// After the first failure; doubling, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest that the API can put off the next question.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);
/// Longest sleep: a machine that slept, or a clock that was set, is noticed by then.
const NAP: Duration = Duration::from_secs(20);

/// When access is asked for again.
#[derive(Debug)]
struct Schedule {
    interval: Duration,
    failures: u32,
    next: Instant,
}

impl Schedule {
    fn new(interval: Duration) -> Self {
        Self { interval, failures: 0, next: Instant::now() }
    }

    /// After an answer: in an interval, give or take a tenth, and before the token ends.
    fn answered(&mut self, grant: Option<&Grant>) {
        self.failures = 0;
        let regular = self.interval.mul_f64(0.9 + 0.2 * random_fraction());
        let latest = grant.map_or(regular, |grant| {
            let left = grant.left();
            left.saturating_sub(BEFORE_EXPIRY).max(left / 2)
        });
        self.next = Instant::now() + regular.min(latest);
    }

    /// After none: soon, then less and less often, and not before the API wants it, within reason.
    fn failed(&mut self, retry_after: Option<Duration>) {
        let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(self.interval);
        let pause = pause.mul_f64(0.5 + 0.5 * random_fraction());
        self.failures += 1;
        let wanted = retry_after.unwrap_or_default().min(LONGEST_WAIT);
        self.next = Instant::now() + pause.max(wanted);
    }

    /// Sleeps until then, or until `end`, but not for long.
    async fn nap(&self, end: Option<Duration>) {
        let until_next = self.next.saturating_duration_since(Instant::now());
        tokio::time::sleep(until_next.min(end.unwrap_or(NAP)).min(NAP)).await;
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }
}

impl Door {
    /// Renews a plugin's access until it has none any more. Whoever listens hears of every answer.
    pub(crate) async fn keep_open(&self, access: Access, heard: impl Fn(&Access, bool)) -> PluginFailure {
        let (Some(identity), Some(interval)) = (&self.identity, self.authority.refresh_interval()) else {
            // There is nobody to ask.
            return std::future::pending().await;
        };
        let mut schedule = Schedule::new(interval);
        match &access.trouble {
            None => schedule.answered(access.grant.as_ref()),
            Some(trouble) => schedule.failed(trouble.retry_after),
        }
        let mut access = access;
        loop {
            schedule.nap(access.grant.as_ref().map(Grant::left)).await;
            let renewed = if access.grant.as_ref().is_some_and(|grant| grant.left().is_zero()) {
                self.expire(access).await
            } else if schedule.is_due() {
                self.renew(identity, access, &mut schedule).await
            } else {
                continue;
            };
            access = match renewed {
                Ok(access) => access,
                Err(failure) => return failure,
            };
            heard(&access, access.trouble.is_none());
        }
    }

    async fn renew(
        &self,
        identity: &PackageIdentity,
        access: Access,
        schedule: &mut Schedule,
    ) -> Result<Access, PluginFailure> {
        match self.authority.renew(identity).await {
            // Nobody said no: what was granted holds until it ends.
            Authorization::NoToken(trouble) => {
                tracing::info!("plugin {}: {trouble}", identity.name);
                schedule.failed(trouble.retry_after);
                Ok(Access { trouble: Some(trouble), ..access })
            }
            answer => {
                let (grant, _) = self.admit(Some(answer))?;
                schedule.answered(grant.as_ref());
                self.present(grant, None).await
            }
        }
    }

    /// The token has ended and nobody gave another: what needs no more than Free goes on without.
    async fn expire(&self, access: Access) -> Result<Access, PluginFailure> {
        let trouble = access.trouble;
        if self.required_tier > Tier::Free {
            let why = trouble.map_or_else(|| "nobody renewed it".to_owned(), |trouble| trouble.why);
            return Err(PluginFailure::Unauthorized {
                kind: Kind::Unreachable,
                why: format!("its token has expired, and {why}"),
            });
        }
        self.present(None, trouble).await
    }
}

/// Waits until a plugin that may not run may run again.
pub(crate) async fn wait_for_access(
    authority: &Authority,
    identity: &PackageIdentity,
    required_tier: Tier,
    since: &PluginFailure,
) {
    let Some(interval) = authority.refresh_interval() else { return std::future::pending().await };
    let mut schedule = Schedule::new(interval);
    match since {
        PluginFailure::Unauthorized { kind: Kind::Unreachable, .. } => schedule.failed(None),
        _ => schedule.answered(None),
    }
    loop {
        schedule.nap(None).await;
        if !schedule.is_due() {
            continue;
        }
        match authority.renew(identity).await {
            Authorization::NoToken(trouble) => schedule.failed(trouble.retry_after),
            answer => match admit(required_tier, Some(identity), Some(answer)) {
                Ok(_) => return,
                Err(_) => schedule.answered(None),
            },
        }
    }
}

/// From 0 to 1, for jitter: nobody gains by guessing it.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the clients of one server ask at the same time; that is all.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
