//! Keeps a plugin's access up to date: asks again every few minutes, shows the plugin what changed,
//! and says when it may not run any more.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use km_package::failure::Kind;
use km_package::tier::Tier;
use tokio::sync::Notify;

use super::PluginFailure;
use super::authenticate::{Access, Door, admit};
use crate::auth::{Authority, Authorization, Grant};
use crate::store::PackageIdentity;

/// How long before a token's end it is renewed at the latest.
const BEFORE_EXPIRY: Duration = Duration::from_secs(60);
/// After the first failure; doubling, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The least time between two questions, where the interval is no shorter.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
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
        self.set(self.interval.mul_f64(0.9 + 0.2 * random_fraction()), grant);
    }

    /// After none: soon, then less and less often, and not before the API wants it. Neither puts it off
    /// for longer than an interval, nor past the end of the token that there is.
    fn failed(&mut self, retry_after: Option<Duration>, grant: Option<&Grant>) {
        let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(16));
        let pause = pause.mul_f64(0.5 + 0.5 * random_fraction()).max(retry_after.unwrap_or_default());
        self.failures += 1;
        self.set(pause.min(self.interval), grant);
    }

    fn set(&mut self, pause: Duration, grant: Option<&Grant>) {
        let latest = grant.map_or(pause, |grant| {
            let left = grant.left();
            left.saturating_sub(BEFORE_EXPIRY).max(left / 2)
        });
        // Whatever the API and its tokens say, it is not asked without a pause.
        let least = LEAST_PAUSE.min(self.interval);
        self.next = Instant::now() + pause.min(latest).max(least);
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

/// Until when a plugin may be shown messages: set by who renews its access, asked before each message.
#[derive(Debug)]
pub(crate) struct Validity {
    /// In Unix seconds.
    until: AtomicI64,
    /// A message waits for the renewal.
    wanted: Notify,
    renewed: Notify,
}

impl Validity {
    pub(crate) fn of(access: &Access) -> Self {
        let validity = Self { until: AtomicI64::new(0), wanted: Notify::new(), renewed: Notify::new() };
        validity.set(access);
        validity
    }

    fn set(&self, access: &Access) {
        let end = access.grant.as_ref().map_or(i64::MAX, |grant| grant.claims.exp);
        self.until.store(end, Ordering::Relaxed);
        self.renewed.notify_one();
    }

    /// Waits until messages may be shown: at once, but for a token that has ended meanwhile, as in a
    /// machine that slept.
    pub(crate) async fn wait(&self) {
        while Timestamp::now().as_second() >= self.until.load(Ordering::Relaxed) {
            self.wanted.notify_one();
            self.renewed.notified().await;
        }
    }
}

impl Door {
    /// Renews a plugin's access until it has none any more. Whoever listens hears of every answer, and
    /// whether it is the API's.
    pub(crate) async fn keep_open(
        &self,
        access: Access,
        validity: &Validity,
        heard: impl Fn(&Access, bool),
    ) -> PluginFailure {
        let (Some(identity), Some(interval)) = (&self.identity, self.authority.refresh_interval()) else {
            // There is nobody to ask.
            return std::future::pending().await;
        };
        let mut schedule = Schedule::new(interval);
        match &access.trouble {
            None => schedule.answered(access.grant.as_ref()),
            Some(trouble) => schedule.failed(trouble.retry_after, access.grant.as_ref()),
        }
        let mut access = access;
        loop {
            tokio::select! {
                () = schedule.nap(access.grant.as_ref().map(Grant::left)) => {}
                () = validity.wanted.notified() => {}
            }
            let is_over = |access: &Access| access.grant.as_ref().is_some_and(|grant| grant.left().is_zero());
            if !is_over(&access) && !schedule.is_due() {
                continue;
            }
            // Also what has ended is renewed, if somebody answers: the machine may have slept.
            access = match self.renew(identity, access, &mut schedule).await {
                Ok(access) => access,
                Err(failure) => return failure,
            };
            let renewed = access.trouble.is_none();
            if is_over(&access) {
                access = match self.expire(access).await {
                    Ok(access) => access,
                    Err(failure) => return failure,
                };
            }
            validity.set(&access);
            heard(&access, renewed);
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
                schedule.failed(trouble.retry_after, access.grant.as_ref());
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
        PluginFailure::Unauthorized { kind: Kind::Unreachable, .. } => schedule.failed(None, None),
        _ => schedule.answered(None),
    }
    loop {
        schedule.nap(None).await;
        if !schedule.is_due() {
            continue;
        }
        match authority.renew(identity).await {
            Authorization::NoToken(trouble) => schedule.failed(trouble.retry_after, None),
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
