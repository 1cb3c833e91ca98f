//! One plugin for the length of a session: started, fed, restarted when it dies, given up when it
//! dies too often.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use go_plugin::host::Grace;
use km_package::name::PluginName;
use serde::Serialize;
use tokio::sync::watch;

use super::authenticate::Delivery;
use super::{AuthenticatedPlugin, PluginFailure, PluginHost};
use crate::config::Config;
use crate::monitor::{Queue, Remarks};
use crate::paths::Home;
use crate::store;
use crate::trust::Trust;

/// Pause before the first restart; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// So many deaths within this time and a plugin is given up.
const DEATHS: usize = 5;
const WITHIN: Duration = Duration::from_secs(60);

/// What a session wants of its plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Run.
    Run,
    /// No more messages come: handle what waits, then leave.
    Finish,
    /// Leave now.
    Leave,
}

/// Where a plugin stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Life {
    Discovered,
    Loading,
    Active,
    Error,
    ShuttingDown,
    Stopped,
}

/// What `km plugins status` shows of a plugin in a live session.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) name: PluginName,
    pub(crate) life: Life,
    pub(crate) pid: Option<u32>,
    pub(crate) start_ms: Option<f64>,
    pub(crate) restarts: u32,
    pub(crate) error: Option<String>,
}

/// What all plugins of a session share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) home: Home,
    pub(crate) trust: Trust,
    pub(crate) config: Config,
    pub(crate) host: PluginHost,
    pub(crate) remarks: Remarks,
    /// How long a plugin may take to leave at the end of the session.
    pub(crate) grace: Grace,
}

/// One plugin of a session.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) context: Arc<Context>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) orders: watch::Receiver<Order>,
    pub(crate) report: Arc<Mutex<Report>>,
}

/// Why a plugin's process is not running any more.
enum Ended {
    /// As ordered.
    Ordered,
    /// By itself, or because it did not answer.
    Died(String),
    /// It may not run.
    Refused(String),
}

impl Supervisor {
    /// Runs the plugin until the session ends or it is given up.
    pub(crate) async fn run(self) {
        let mut orders = self.orders.clone();
        let mut deaths = VecDeque::new();
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            match self.live().await {
                Ended::Ordered => return self.set(|report| report.life = Life::Stopped),
                Ended::Refused(why) => return self.give_up(&format!("is not used: {why}")),
                Ended::Died(why) => {
                    deaths.push_back(Instant::now());
                    while deaths.front().is_some_and(|death| death.elapsed() > WITHIN) {
                        deaths.pop_front();
                    }
                    if deaths.len() >= DEATHS {
                        return self.give_up(&format!(
                            "died {DEATHS} times within {WITHIN:?} and is given up for this session: {why}"
                        ));
                    }
                    if begun.elapsed() > WITHIN {
                        pause = FIRST_PAUSE;
                    }
                    self.remark(&format!("died, is started again in {pause:?}: {why}"));
                    self.set(|report| {
                        report.life = Life::Error;
                        report.pid = None;
                        report.error = Some(why);
                        report.restarts += 1;
                    });
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = orders.wait_for(|order| *order == Order::Leave) => {}
            }
            // At the end of a session it is started again only for what still waits.
            let order = *orders.borrow();
            if order == Order::Leave || (order == Order::Finish && self.queue.is_finished()) {
                return self.set(|report| report.life = Life::Stopped);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One life of the process: verified, started, authenticated, fed.
    async fn live(&self) -> Ended {
        self.set(|report| report.life = Life::Loading);
        let mut orders = self.orders.clone();
        let started = tokio::select! {
            started = self.start() => started,
            _ = orders.wait_for(|order| *order == Order::Leave) => return Ended::Ordered,
        };
        let mut plugin = match started {
            Ok(plugin) => plugin,
            Err(PluginFailure::Refused(why)) => return Ended::Refused(why),
            Err(PluginFailure::Crashed(why)) => return Ended::Died(why),
        };
        self.set(|report| {
            report.life = Life::Active;
            report.pid = Some(plugin.id());
            report.start_ms = Some(plugin.start_time().as_secs_f64() * 1000.0);
            report.error = None;
        });
        match self.feed(&mut plugin).await {
            Err(PluginFailure::Refused(why) | PluginFailure::Crashed(why)) => Ended::Died(why),
            Ok(()) => {
                self.set(|report| report.life = Life::ShuttingDown);
                plugin.stop(self.context.grace).await;
                Ended::Ordered
            }
        }
    }

    async fn start(&self) -> Result<AuthenticatedPlugin, PluginFailure> {
        let context = Arc::clone(&self.context);
        let name = self.queue.plugin().clone();
        // Reading and hashing a whole file takes milliseconds, during which other plugins go on.
        let opened = tokio::task::spawn_blocking(move || {
            store::open(&context.home, &context.trust, &context.config, &name)
        });
        let runnable = opened
            .await
            .map_err(|e| PluginFailure::Crashed(e.to_string()))?
            .map_err(|e| PluginFailure::Refused(e.message))?;
        self.context.host.spawn(runnable).await?.authenticate(self.context.host.debug).await
    }

    /// Delivers message after message until the order to end, or the plugin's end.
    async fn feed(&self, plugin: &mut AuthenticatedPlugin) -> Result<(), PluginFailure> {
        let mut orders = self.orders.clone();
        loop {
            let message = tokio::select! {
                biased;
                _ = orders.wait_for(|order| *order == Order::Leave) => return Ok(()),
                message = self.queue.next() => message,
                failure = plugin.died() => return Err(failure),
            };
            let Some(message) = message else { return Ok(()) };
            let delivery = tokio::select! {
                biased;
                delivery = plugin.deliver(&message) => delivery,
                _ = orders.wait_for(|order| *order == Order::Leave) => {
                    self.queue.failed(&message);
                    return Ok(());
                }
            };
            match delivery {
                Ok(Delivery::Handled) => self.queue.delivered(),
                Ok(Delivery::Failed(why)) => {
                    self.queue.failed(&message);
                    tracing::info!("{}: message {} failed: {why}", self.queue.plugin(), message.sequence);
                }
                Err(failure) => {
                    // It is not sent again: it may be what killed the plugin.
                    self.queue.failed(&message);
                    return Err(failure);
                }
            }
        }
    }

    fn give_up(&self, why: &str) {
        self.remark(why);
        self.queue.give_up();
        self.set(|report| {
            report.life = Life::Error;
            report.pid = None;
            report.error = Some(why.to_owned());
        });
    }

    fn remark(&self, text: &str) {
        self.context.remarks.say(&format!("plugin {} {text}", self.queue.plugin()));
    }

    fn set(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
