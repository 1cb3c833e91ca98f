//! What `km plugins status` shows of a plugin in a live session.

use std::collections::VecDeque;

use jiff::Timestamp;
use km_package::name::PluginName;
use serde::Serialize;

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

/// A plugin of a session, as it stands.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) name: PluginName,
    pub(crate) life: Life,
    pub(crate) pid: Option<u32>,
    pub(crate) start_ms: Option<f64>,
    pub(crate) restarts: u32,
    pub(crate) error: Option<String>,
    /// The last steps, oldest first.
    events: VecDeque<Event>,
}

impl Report {
    pub(crate) fn discovered(name: PluginName) -> Self {
        let events = VecDeque::from([Event { at: Timestamp::now(), life: Life::Discovered }]);
        let life = Life::Discovered;
        Self { name, life, pid: None, start_ms: None, restarts: 0, error: None, events }
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
