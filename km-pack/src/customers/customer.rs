//! A customer, their subscription and their keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use km_api::api_key::ApiKey;
use km_api::feature;
use km_package::failure::{Failure, Kind};
use km_package::name::CustomerId;
use km_package::tier::Tier;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::token::fill;

/// Whether a customer may use the API at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As the subscription says.
    Active,
    /// Stopped until somebody resumes it.
    Suspended,
}

impl State {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

/// A customer and their subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Who.
    pub id: CustomerId,
    /// The tier they pay for.
    pub tier: Tier,
    /// Whether they are suspended.
    pub state: State,
    /// When the subscription ends; none for one without an end.
    pub expires_at: Option<Timestamp>,
    /// What they have besides what the tier includes.
    pub features: Vec<String>,
    /// Since when they are known.
    pub created_at: Timestamp,
}

impl Customer {
    /// Somebody new, active, without an end and without features of their own.
    pub fn new(id: CustomerId, tier: Tier) -> Self {
        let created_at = Timestamp::now();
        Self { id, tier, state: State::Active, expires_at: None, features: Vec::new(), created_at }
    }

    /// Whether the subscription holds at this time.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.state == State::Active && self.expires_at.is_none_or(|end| now < end)
    }

    /// What the tier includes and what they have besides, each once.
    pub fn all_features(&self) -> Vec<String> {
        let mut all: Vec<String> = feature::of(self.tier).iter().map(|name| (*name).to_owned()).collect();
        for own in &self.features {
            if !all.contains(own) {
                all.push(own.clone());
            }
        }
        all
    }
}

/// What the database knows of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its digest, in hex.
    pub digest: String,
    /// Its masked form.
    pub hint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

impl KeyRecord {
    /// Whether a person means this key: by its masked form, the beginning of its digest (8 digits at
    /// least), or the key itself.
    pub fn is_named(&self, name: &str) -> bool {
        self.hint == name
            || (name.len() >= 8 && self.digest.starts_with(name))
            || name.parse::<ApiKey>().is_ok_and(|key| key.digest().to_string() == self.digest)
    }
}

/// A new API key: `km_live_` and 32 random bytes.
///
/// # Errors
/// When the system gives no randomness.
pub fn new_api_key() -> Result<ApiKey, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    fill(&mut bytes[..])?;
    let text = Zeroizing::new(format!("km_live_{}", URL_SAFE_NO_PAD.encode(&bytes[..])));
    text.parse().map_err(|e| Failure::new(Kind::Failed, e))
}

/// A customer as the tables have it: id, tier, state, expires_at, features, created_at.
pub(super) type CustomerRow = (String, String, String, Option<i64>, String, i64);

/// A key as the tables have it: digest, hint, created_at, revoked_at.
pub(super) type KeyRow = (String, String, i64, Option<i64>);

impl TryFrom<CustomerRow> for Customer {
    type Error = Failure;

    fn try_from((id, tier, state, expires_at, features, created_at): CustomerRow) -> Result<Self, Failure> {
        let state = match state.as_str() {
            "active" => State::Active,
            "suspended" => State::Suspended,
            other => return Err(unreadable(format_args!("{other:?} is not a state"))),
        };
        Ok(Self {
            id: id.parse().map_err(unreadable)?,
            tier: tier.parse().map_err(unreadable)?,
            state,
            expires_at: expires_at.map(time).transpose()?,
            features: serde_json::from_str(&features).map_err(unreadable)?,
            created_at: time(created_at)?,
        })
    }
}

impl TryFrom<KeyRow> for KeyRecord {
    type Error = Failure;

    fn try_from((digest, hint, created_at, revoked_at): KeyRow) -> Result<Self, Failure> {
        let revoked_at = revoked_at.map(time).transpose()?;
        Ok(Self { digest, hint, created_at: time(created_at)?, revoked_at })
    }
}

fn time(seconds: i64) -> Result<Timestamp, Failure> {
    Timestamp::from_second(seconds).map_err(unreadable)
}

fn unreadable(why: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Failed, format_args!("the database has a value that km-pack did not write: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_ends_at_its_end_and_while_suspended() {
        let now = Timestamp::from_second(1000).unwrap();
        let mut customer = Customer::new("c1".parse().unwrap(), Tier::Free);
        assert!(customer.is_active(now));
        customer.expires_at = Some(now);
        assert!(!customer.is_active(now));
        customer.expires_at = Some(Timestamp::from_second(1001).unwrap());
        assert!(customer.is_active(now));
        customer.state = State::Suspended;
        assert!(!customer.is_active(now));
    }

    #[test]
    fn own_features_come_after_those_of_the_tier_and_once() {
        let mut customer = Customer::new("c1".parse().unwrap(), Tier::Free);
        customer.features = vec!["beta".to_owned(), "console_logging".to_owned()];
        assert_eq!(customer.all_features(), ["console_logging", "beta"]);
    }

    #[test]
    fn a_key_is_found_by_hint_digest_or_itself() {
        let key = new_api_key().unwrap();
        let digest = key.digest().to_string();
        let (hint, now) = (key.masked(), Timestamp::now());
        let record = KeyRecord { digest: digest.clone(), hint, created_at: now, revoked_at: None };
        for name in [key.masked().as_str(), &digest, &digest[..8], key.reveal()] {
            assert!(record.is_named(name), "{name}");
        }
        for name in ["", "km_l", &digest[..7], new_api_key().unwrap().reveal()] {
            assert!(!record.is_named(name), "{name}");
        }
    }
}
