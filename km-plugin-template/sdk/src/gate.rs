//! Who may use this plugin: judged by what is stamped into it, and by an API key (protocol 1) or a
//! token (protocol 2). Every message asks here.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use km_api::feature;
use km_api::key_set::KeySet;
use km_api::token::{self, CLOCK_SKEW, Expected};
use km_package::identity::{Identity, api_key_digest};
use km_package::tier::Tier;

use crate::About;
use crate::access::{Access, Api};
use crate::identity::Stamp;

/// Judges, and remembers the last verdict.
#[derive(Debug)]
pub(crate) struct Gate {
    about: About,
    stamp: Stamp,
    granted: Mutex<Option<Granted>>,
}

#[derive(Debug, Clone)]
struct Granted {
    access: Access,
    /// When it was: what it allows ends by both clocks, so that setting one back gains nothing.
    since: Instant,
    lasts: Option<Duration>,
}

/// What protocol 2 shows a plugin.
#[derive(Debug)]
pub(crate) struct Credentials<'a> {
    pub(crate) api: Api,
    /// The keys of the API's tokens, as JSON.
    pub(crate) key_set: &'a str,
}

/// Why a plugin may not be used, for people.
type Refusal = String;

impl Gate {
    pub(crate) fn new(about: About, stamp: Stamp) -> Self {
        Self { about, stamp, granted: Mutex::new(None) }
    }

    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    pub(crate) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// For the holder of an API key (empty: nobody in particular).
    ///
    /// A plugin that needs no more than Free runs on its stamp alone. One that needs more runs for
    /// the holder of the key it was built for.
    pub(crate) fn admit_key(&self, api_key: &str) -> Result<Access, Refusal> {
        self.remember(self.judge_key(api_key).map(|tier| (Access { tier, ..Access::default() }, None)))
    }

    fn judge_key(&self, api_key: &str) -> Result<Tier, Refusal> {
        let (identity, required) = (self.identity()?, self.about.required_tier);
        let tier = self.at_least_required(identity.map_or(Tier::Free, |identity| identity.tier))?;
        let key_digest = identity.and_then(|identity| identity.api_key_sha256);
        let own_key = !api_key.is_empty() && key_digest == Some(api_key_digest(api_key));
        if required > Tier::Free && !own_key {
            return Err(format!("needs tier {required}: the API key it was built for is needed"));
        }
        Ok(tier)
    }

    /// By a token; without one, what needs no more than Free runs on its stamp.
    pub(crate) fn admit_token(&self, credentials: Option<Credentials<'_>>) -> Result<Access, Refusal> {
        let verdict = match credentials {
            None => self.judge_stamp().map(|access| (access, None)),
            Some(credentials) => self.judge_token(credentials),
        };
        self.remember(verdict)
    }

    fn judge_stamp(&self) -> Result<Access, Refusal> {
        self.identity()?;
        match self.about.required_tier {
            Tier::Free => Ok(Access::default()),
            required => Err(format!("needs tier {required}, and was shown no token")),
        }
    }

    fn judge_token(&self, credentials: Credentials<'_>) -> Result<(Access, Option<Duration>), Refusal> {
        let identity = self.identity()?;
        let Credentials { api, key_set } = credentials;
        let keys: KeySet =
            serde_json::from_str(key_set).map_err(|e| format!("the keys for its token are none: {e}"))?;
        let plugin = self.about.name().parse().map_err(|e| format!("{e}"))?;
        let now = unix_now();
        let expected =
            Expected { plugin: &plugin, customer: identity.map(|identity| &identity.customer), now };
        let claims =
            token::verify(&api.token, &keys, &expected).map_err(|e| format!("token refused: {e}"))?;
        let stamped = identity.map_or(Tier::Free, |identity| identity.tier);
        let tier = self.at_least_required(stamped.min(claims.tier))?;
        let left = claims.exp.saturating_add(CLOCK_SKEW).saturating_sub(now);
        let mut features = claims.features;
        // The stamp bounds those that come with a tier, too; what a customer has besides stays.
        features.retain(|name| feature::tier_of(name).is_none_or(|tier| tier <= stamped));
        let access = Access { tier, features, expires_at: Some(claims.exp), api: Some(api) };
        Ok((access, Some(Duration::from_secs(left.unsigned_abs()))))
    }

    /// Who it was built for; none in a binary that was not stamped.
    fn identity(&self) -> Result<Option<&Identity>, Refusal> {
        match &self.stamp {
            Stamp::Wrong(error) => Err(error.to_string()),
            Stamp::None => Ok(None),
            Stamp::Signed { identity, .. } => Ok(Some(identity)),
        }
    }

    fn at_least_required(&self, tier: Tier) -> Result<Tier, Refusal> {
        let required = self.about.required_tier;
        if tier < required {
            return Err(format!("needs tier {required}, has {tier}"));
        }
        Ok(tier)
    }

    fn remember(&self, verdict: Result<(Access, Option<Duration>), Refusal>) -> Result<Access, Refusal> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        *granted = None;
        let (access, lasts) = verdict?;
        *granted = Some(Granted { access: access.clone(), since: Instant::now(), lasts });
        Ok(access)
    }

    /// What the plugin may do now.
    pub(crate) fn access(&self) -> Result<Access, &'static str> {
        self.now(|granted| granted.access.clone())
    }

    /// Whether it may do anything now: asked for every message.
    pub(crate) fn is_open(&self) -> Result<(), &'static str> {
        self.now(|_| ())
    }

    fn now<T>(&self, look: impl FnOnce(&Granted) -> T) -> Result<T, &'static str> {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = granted.as_ref().ok_or("not authenticated")?;
        if granted.is_over() { Err("the token has expired") } else { Ok(look(granted)) }
    }
}

impl Granted {
    fn is_over(&self) -> bool {
        self.access.expires_at.is_some_and(|end| unix_now() >= end.saturating_add(CLOCK_SKEW))
            || self.lasts.is_some_and(|lasts| self.since.elapsed() >= lasts)
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
