//! What `km plugins status` shows of a plugin in a live session.

use std::collections::VecDeque;

use jiff::Timestamp;
use km_package::name::PluginName;
use serde::Serialize;

use super::authenticate::Access;
use crate::auth::Grant;

/// Steps that are remembered.
const EVENTS: usize = 32;

/// Where a plugin stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Life {
    /// It is installed and will be started with the first message.
    Discovered,
    /// Its files are verified, its process is started.
    Loading,
    /// The process runs, and has yet to prove that it may see messages.
    Authenticating,
    /// It gets messages.
    Active,
    /// It died or was refused; it may be started again.
    Error,
    /// It may not run now: the API said no, or nobody vouches for it. It may again.
    Suspended,
    /// It was asked to leave.
    ShuttingDown,
    /// It has left.
    Stopped,
}

/// A step in the life of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// When it was taken.
    at: Timestamp,
    life: Life,
}

/// What a plugin may do, why, and until when.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AccessReport {
    /// `token`, or `identity`: what is stamped into it alone.
    by: &'static str,
    tier: String,
    features: Vec<String>,
    /// The token's end.
    expires_at: Option<Timestamp>,
    /// When the API was last asked with success in this session, and how often in all.
    renewed_at: Option<Timestamp>,
    renewals: u64,
    /// Why it was not renewed when it should have been.
    trouble: Option<String>,
}

impl AccessReport {
    /// What holds now, after an answer of the API (`renewed`) or for want of one.
    pub(crate) fn new(access: &Access, before: Option<&Self>, renewed: bool) -> Self {
        let (renewed_at, renewals) = before.map_or((None, 0), |before| (before.renewed_at, before.renewals));
        let end = |grant: &Grant| Timestamp::from_second(grant.claims.exp).ok();
        Self {
            by: if access.grant.is_some() { "token" } else { "identity" },
            tier: access.tier.clone(),
            features: access.features.clone(),
            expires_at: access.grant.as_ref().and_then(end),
            renewed_at: if renewed { Some(Timestamp::now()) } else { renewed_at },
            renewals: renewals + u64::from(renewed),
            trouble: access.trouble.as_ref().map(ToString::to_string),
        }
    }
}

/// A plugin of a session, as it stands.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) name: PluginName,
    pub(crate) life: Life,
    pub(crate) pid: Option<u32>,
    pub(crate) start_ms: Option<f64>,
    pub(crate) restarts: u32,
    pub(crate) error: Option<String>,
    /// What it may do, while it is active.
    pub(crate) access: Option<AccessReport>,
    /// The last steps, oldest first.
    events: VecDeque<Event>,
}

impl Report {
    pub(crate) fn discovered(name: PluginName) -> Self {
        let events = VecDeque::from([Event { at: Timestamp::now(), life: Life::Discovered }]);
        let life = Life::Discovered;
        Self { name, life, pid: None, start_ms: None, restarts: 0, error: None, access: None, events }
    }

    /// Takes a step.
    pub(crate) fn enter(&mut self, life: Life) {
        tracing::debug!("plugin {}: {life:?}", self.name);
        self.life = life;
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event { at: Timestamp::now(), life });
    }
}
