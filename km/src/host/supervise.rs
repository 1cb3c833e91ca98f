//! One plugin for the length of a session: started, fed, restarted when it dies, given up when it
//! dies too often, stopped while it may not run.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use go_plugin::host::{CrashBudget, Grace, RestartPolicy, Verdict};
use km_package::tier::Tier;
use tokio::sync::watch;

use super::authenticate::{Access, Delivery};
use super::renew::{Validity, wait_for_access};
use super::report::{AccessReport, Life, Report};
use super::{AuthenticatedPlugin, PluginFailure, PluginHost};
use crate::auth::Authority;
use crate::config::Config;
use crate::monitor::{Queue, Remarks};
use crate::paths::Home;
use crate::store::{self, PackageIdentity, Runnable};
use crate::trust::Trust;

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

/// What all plugins of a session share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) home: Home,
    pub(crate) trust: Trust,
    pub(crate) config: Config,
    pub(crate) host: PluginHost,
    pub(crate) authority: Arc<Authority>,
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
    /// It may not run until its access is back.
    Suspended(Suspension),
    /// It may not run.
    Refused(String),
}

/// What is needed to find out whether a plugin may run again.
struct Suspension {
    identity: PackageIdentity,
    required_tier: Tier,
    failure: PluginFailure,
}

impl From<PluginFailure> for Ended {
    fn from(failure: PluginFailure) -> Self {
        match failure {
            PluginFailure::Refused(why) | PluginFailure::Unauthorized { why, .. } => Self::Refused(why),
            PluginFailure::Crashed(why) => Self::Died(why),
        }
    }
}

impl Supervisor {
    /// Runs the plugin until the session ends or it is given up.
    pub(crate) async fn run(self) {
        let mut orders = self.orders.clone();
        let policy = RestartPolicy::default();
        let mut budget = CrashBudget::new(policy);
        loop {
            let begun = Instant::now();
            let why = match self.live().await {
                Ended::Ordered => return self.stopped(),
                Ended::Refused(why) => return self.give_up(&format!("is not used: {why}")),
                Ended::Suspended(suspension) => match self.sit_out(suspension).await {
                    true => continue,
                    false => return self.stopped(),
                },
                Ended::Died(why) => why,
            };
            let Verdict::RestartAfter(pause) = budget.died(begun, Instant::now()) else {
                let RestartPolicy { deaths, within, .. } = policy;
                return self.give_up(&format!(
                    "died {deaths} times within {within:?} and is given up for this session: {why}"
                ));
            };
            self.remark(&format!("died, is started again in {pause:?}: {why}"));
            self.fail(why);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = orders.wait_for(|order| *order == Order::Leave) => {}
            }
            // At the end of a session it is started again only for what still waits.
            let order = *orders.borrow();
            if order == Order::Leave || (order == Order::Finish && self.queue.is_finished()) {
                return self.stopped();
            }
            self.change(|report| report.restarts += 1);
        }
    }

    /// One life of the process: verified, started, authenticated, fed.
    async fn live(&self) -> Ended {
        self.enter(Life::Loading);
        let mut orders = self.orders.clone();
        let runnable = match self.open().await {
            Ok(runnable) => runnable,
            Err(failure) => return failure.into(),
        };
        let (identity, required_tier) = (runnable.identity.clone(), runnable.required_tier);
        let suspended = |failure: PluginFailure, required_tier| match (failure, identity.clone()) {
            (failure @ PluginFailure::Unauthorized { .. }, Some(identity)) => {
                Ended::Suspended(Suspension { identity, required_tier, failure })
            }
            (failure, _) => failure.into(),
        };
        let started = tokio::select! {
            started = self.start(runnable) => started,
            _ = orders.wait_for(|order| *order == Order::Leave) => return Ended::Ordered,
        };
        let mut plugin = match started {
            Ok(plugin) => plugin,
            Err(failure) => return suspended(failure, required_tier),
        };
        self.activate(&plugin);
        let (door, access) = (plugin.door.clone(), plugin.access.clone());
        let validity = Validity::of(&access);
        let kept = door.keep_open(access, &validity, |access, renewed| self.note_access(access, renewed));
        match self.feed(&mut plugin, &validity, std::pin::pin!(kept)).await {
            Ok(()) => {
                self.enter(Life::ShuttingDown);
                plugin.stop(self.context.grace).await;
                Ended::Ordered
            }
            Err(failure @ PluginFailure::Unauthorized { .. }) => {
                // At once: it gets no message more, and its process has as long as at a session's end.
                self.enter(Life::ShuttingDown);
                plugin.stop(self.context.grace).await;
                suspended(failure, door.required_tier)
            }
            Err(failure) => failure.into(),
        }
    }

    async fn open(&self) -> Result<Runnable, PluginFailure> {
        let context = Arc::clone(&self.context);
        let name = self.queue.plugin().clone();
        // Reading and hashing a whole file takes milliseconds, during which other plugins go on.
        let opened = tokio::task::spawn_blocking(move || {
            store::open(&context.home, &context.trust, &context.config, &name)
        });
        opened
            .await
            .map_err(|e| PluginFailure::Crashed(e.to_string()))?
            .map_err(|e| PluginFailure::Refused(e.message))
    }

    async fn start(&self, runnable: Runnable) -> Result<AuthenticatedPlugin, PluginFailure> {
        let Context { host, authority, .. } = &*self.context;
        let spawned = host.spawn(runnable).await?;
        self.enter(Life::Authenticating);
        spawned.authenticate(authority, host.debug).await
    }

    fn activate(&self, plugin: &AuthenticatedPlugin) {
        self.queue.accept();
        self.change(|report| {
            report.enter(Life::Active);
            report.pid = plugin.id();
            report.start_ms = Some(plugin.start_time().as_secs_f64() * 1000.0);
            report.error = None;
            report.access = Some(AccessReport::new(&plugin.access, None, false));
        });
    }

    fn note_access(&self, access: &Access, renewed: bool) {
        self.change(|report| {
            report.access = Some(AccessReport::new(access, report.access.as_ref(), renewed))
        });
    }

    /// Waits until the plugin may run again. False when the session ends before.
    async fn sit_out(&self, Suspension { identity, required_tier, failure }: Suspension) -> bool {
        self.remark(&format!("is suspended: {failure}"));
        self.queue.refuse();
        self.change(|report| {
            report.enter(Life::Suspended);
            report.pid = None;
            report.access = None;
            report.error = Some(failure.to_string());
        });
        let mut orders = self.orders.clone();
        tokio::select! {
            () = wait_for_access(&self.context.authority, &identity, required_tier, &failure) => {
                self.remark("may be used again");
                true
            }
            _ = orders.wait_for(|order| *order != Order::Run) => false,
        }
    }

    /// Delivers message after message until the order to end, the plugin's end, or that of its access.
    async fn feed(
        &self,
        plugin: &mut AuthenticatedPlugin,
        validity: &Validity,
        mut kept: Pin<&mut impl Future<Output = PluginFailure>>,
    ) -> Result<(), PluginFailure> {
        let mut orders = self.orders.clone();
        loop {
            let message = tokio::select! {
                biased;
                _ = orders.wait_for(|order| *order == Order::Leave) => return Ok(()),
                // Before the next message: who is gone already loses none.
                failure = plugin.died() => return Err(failure),
                failure = &mut kept => return Err(failure),
                message = self.queue.next() => message,
            };
            let Some(message) = message else { return Ok(()) };
            let delivery = tokio::select! {
                biased;
                delivery = async {
                    // After the message has come: that may be hours after the last one.
                    validity.wait().await;
                    plugin.deliver(&message).await
                } => delivery,
                _ = orders.wait_for(|order| *order == Order::Leave) => {
                    self.queue.failed(&message);
                    return Ok(());
                }
                failure = &mut kept => {
                    self.queue.failed(&message);
                    return Err(failure);
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
        self.queue.refuse();
        self.fail(why.to_owned());
    }

    fn fail(&self, why: String) {
        self.change(|report| {
            report.enter(Life::Error);
            report.pid = None;
            report.access = None;
            report.error = Some(why);
        });
    }

    fn stopped(&self) {
        self.change(|report| {
            report.enter(Life::Stopped);
            report.pid = None;
            report.access = None;
        });
    }

    fn remark(&self, text: &str) {
        self.context.remarks.say(&format!("plugin {} {text}", self.queue.plugin()));
    }

    fn enter(&self, life: Life) {
        self.change(|report| report.enter(life));
    }

    fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
