//! One plugin for the length of a session: started, fed, restarted when it dies, given up when it
//! dies too often, stopped while it may not run.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use go_plugin::host::{CrashBudget, Grace, RestartPolicy, Verdict};
use km_package::tier::Tier;
use tokio::sync::watch;

use super::authenticate::Access;
use super::renew::{Validity, wait_for_access};

use super::report::{AccessReport, Life, Report};
use super::resources::takes_more_than;
use super::{AuthenticatedPlugin, PluginFailure, PluginHost};
use crate::auth::Authority;
use crate::config::Config;
use crate::monitor::{Reader, Remarks};
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
    /// How much memory a plugin may take, in bytes.
    pub(crate) memory: u64,
    /// When one that died is started again.
    pub(crate) restart: RestartPolicy,
}

/// One plugin of a session.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) context: Arc<Context>,
    /// The messages of this session, for this plugin.
    pub(crate) reader: Arc<Reader>,
    /// What earlier sessions left for it, oldest first.
    pub(crate) leftovers: Vec<Reader>,
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
            PluginFailure::Crashed(why) | PluginFailure::Killed(why) => Self::Died(why),
        }
    }
}

fn too_much(taken: u64, limit: u64) -> PluginFailure {
    let mib = |bytes| bytes >> 20;
    PluginFailure::Crashed(format!(
        "it takes {} MiB of memory and may take {} (--plugin-memory)",
        mib(taken),
        mib(limit)
    ))
}

impl Supervisor {
    /// Runs the plugin until the session ends or it is given up.
    pub(crate) async fn run(self) {
        let mut orders = self.orders.clone();
        let policy = self.context.restart;
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
                let times = if deaths == 1 { "once".to_owned() } else { format!("{deaths} times") };
                return self.give_up(&format!(
                    "died {times} within {within:?} and is given up for this session: {why}"
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
            if order == Order::Leave || (order == Order::Finish && self.is_finished()) {
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
        let name = self.reader.plugin().clone();
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
        self.reader.accept();
        self.reader.set_durable(plugin.is_durable);
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
        self.reader.refuse();
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

    /// Delivers message after message, those of earlier sessions first, until the order to end, the
    /// plugin's end, or that of its access.
    async fn feed(
        &self,
        plugin: &mut AuthenticatedPlugin,
        validity: &Validity,
        mut kept: Pin<&mut impl Future<Output = PluginFailure>>,
    ) -> Result<(), PluginFailure> {
        let mut orders = self.orders.clone();
        let mut gluttony = std::pin::pin!(takes_more_than(self.context.memory, plugin.id()));
        for reader in self.readers() {
            let fed = tokio::select! {
                biased;
                _ = orders.wait_for(|order| *order == Order::Leave) => None,
                failure = &mut kept => Some(Err(failure)),
                taken = &mut gluttony => Some(Err(too_much(taken, self.context.memory))),
                fed = plugin.feed(reader, validity) => Some(fed),
            };
            if !matches!(fed, Some(Ok(()))) {
                self.take_back(reader, plugin.is_resent_to(), &fed);
            }
            match fed {
                Some(fed) => fed?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// What becomes of the messages that the plugin had when it ended.
    fn take_back(&self, reader: &Reader, is_resent: bool, fed: &Option<Result<(), PluginFailure>>) {
        if !is_resent {
            // Of what died that is done: then there is nothing left in its hands.
            return reader.fail_first();
        }
        if !matches!(fed, Some(Err(PluginFailure::Crashed(_)))) {
            return reader.rewind();
        }
        if let Some(sequence) = reader.died() {
            self.remark(&format!("died twice of message {sequence}, which is not sent again"));
        }
    }

    fn readers(&self) -> impl Iterator<Item = &Reader> {
        self.leftovers.iter().chain([&*self.reader])
    }

    fn is_finished(&self) -> bool {
        self.readers().all(Reader::is_finished)
    }

    fn give_up(&self, why: &str) {
        self.remark(why);
        self.reader.refuse();
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
        self.context.remarks.say(&format!("plugin {} {text}", self.reader.plugin()));
    }

    fn enter(&self, life: Life) {
        self.change(|report| report.enter(life));
    }

    fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
