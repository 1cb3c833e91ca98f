//! The thread beside the relay on which the plugins of a session are run.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use go_plugin::host::{Grace, RestartPolicy};
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;
use tokio::sync::{oneshot, watch};

use super::allowance::Allowance;
use super::calls::{self, Calls};
use super::control;
use super::journal::{Counters, Journal, Leftover, Reader, claim};
use super::observe::{Observed, Observer};
use super::remarks::Remarks;
use super::session_id::SessionId;
use super::tap::{Overflow, Tap, TapReader};
use crate::auth::Authority;
use crate::config::Config;
use crate::environment::Environment;
use crate::host::PluginHost;
use crate::host::guard::Guard;
use crate::host::report::{Life, Report};
use crate::host::supervise::{Context, Order, Supervisor};
use crate::paths::Home;
use crate::store::{self, State};
use crate::trust::Trust;

/// How long plugins may take to leave at the end of a session.
const GRACE: Grace = Grace { shutdown: Duration::from_millis(300), terminate: Duration::from_millis(150) };
/// How long all of that may take.
const LEAVE: Duration = Duration::from_millis(700);

/// How much of a message is kept to see what was called, and whether it went well.
const ENOUGH_TO_COUNT: usize = 64 << 20;

/// What a session may keep for its plugins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// In memory, in bytes.
    pub(crate) memory: usize,
    /// On disk, in bytes.
    pub(crate) disk: u64,
}

/// Which plugins a session has, and what each may keep in memory.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// Only these; all if there are none.
    pub(crate) names: Vec<PluginName>,
    /// What may be kept of messages that wait.
    pub(crate) limits: Limits,
    /// Most bytes of one message that are kept.
    pub(crate) max_message: usize,
    /// How long plugins have at the end for what still waits.
    pub(crate) drain_timeout: Duration,
    /// How much memory each plugin's process may take, in bytes.
    pub(crate) plugin_memory: u64,
    /// After so many deaths within a minute a plugin is given up.
    pub(crate) max_deaths: usize,
}

/// Who looks on in a session.
#[derive(Debug, Clone)]
pub(crate) struct Audience {
    /// Which plugins; none without a selection.
    pub(crate) plugins: Option<Selection>,
    /// Say at the end what was called, with or without plugins.
    pub(crate) summary: bool,
    /// Say at the end what was delivered, too.
    pub(crate) verbose: bool,
}

impl Audience {
    /// Whether there is anybody.
    pub(super) fn looks_on(&self) -> bool {
        self.plugins.is_some() || self.summary
    }
}

/// One plugin of the session, as what it reads and its report.
#[derive(Debug, Clone)]
pub(super) struct Watcher {
    pub(super) reader: Arc<Reader>,
    pub(super) report: Arc<Mutex<Report>>,
}

/// Those who look on, at work.
#[derive(Debug)]
pub(super) struct Watchers {
    tap: Tap,
    orders: watch::Sender<Order>,
    /// The plugins, once they were found.
    found: Arc<OnceLock<Vec<Watcher>>>,
    /// Ends when all plugins have left.
    done: mpsc::Receiver<()>,
    /// Whether its thread came to its end.
    is_sound: Arc<AtomicBool>,
    /// What was called, where that is to be said at the end.
    calls: Option<Arc<Mutex<Calls>>>,
    drain_timeout: Duration,
    verbose: bool,
}

impl Watchers {
    /// Starts the thread that takes what the tap gives. Whatever goes wrong on it is said, and stops nothing
    /// else.
    pub(super) fn start(
        environment: Environment,
        audience: Audience,
        (tap, pieces): (Tap, TapReader),
        guard: Option<Guard>,
    ) -> io::Result<Self> {
        let Audience { plugins: selection, summary, verbose } = audience;
        let calls: Option<Arc<Mutex<Calls>>> = summary.then(Arc::default);
        let (orders, receiver) = watch::channel(Order::Run);
        let (running, done) = mpsc::channel();
        let found = Arc::new(OnceLock::new());
        let finds = Arc::clone(&found);
        let is_sound = Arc::new(AtomicBool::new(false));
        let (ends, counting) = (Arc::clone(&is_sound), calls.clone());
        let drain_timeout = selection.as_ref().map(|selection| selection.drain_timeout).unwrap_or_default();
        thread::Builder::new().name("plugins".to_owned()).spawn(move || {
            let mut pieces = Some(pieces);
            let counted = counting.clone().unwrap_or_default();
            if let Some(selection) = selection {
                match run(&environment, &selection, &mut pieces, guard, receiver, &finds, counted) {
                    Err(failure) => Remarks.say(&format!("no plugins in this session: {failure}")),
                    Ok(()) if verbose && finds.get().is_none() => {
                        Remarks.say("no plugins in this session: none is installed that may run");
                    }
                    Ok(()) => {}
                }
            }
            // Plugins would have taken it.
            if let (Some(pieces), Some(calls)) = (pieces, counting) {
                count(pieces, calls);
            }
            ends.store(true, Ordering::Release);
            drop(running);
        })?;
        Ok(Self { tap, orders, found, done, is_sound, calls, drain_timeout, verbose })
    }

    /// What became of each plugin's messages so far; nothing before the plugins were found.
    pub(super) fn counters(&self) -> Vec<(PluginName, Counters)> {
        let found = self.found.get().map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|watcher| (watcher.reader.plugin().clone(), watcher.reader.counters())).collect()
    }

    /// Nothing more passes: lets plugins handle what waits as long as that was granted, then leave. `hurry`
    /// says that nobody has time any more. What is to be said at the end.
    pub(super) fn finish(&self, hurry: &dyn Fn() -> bool) -> Vec<String> {
        self.tap.finish();
        self.orders.send_replace(Order::Finish);
        let mut have_left = self.have_left(Instant::now() + self.drain_timeout, hurry);
        if !have_left {
            self.orders.send_replace(Order::Leave);
            have_left = self.have_left(Instant::now() + LEAVE, hurry);
        }
        if have_left && !self.is_sound.load(Ordering::Acquire) {
            Remarks.say("plugins of this session were lost by a fault in km itself");
        }
        let found = self.found.get().map(Vec::as_slice).unwrap_or_default();
        let delivered = found.iter().filter_map(|watcher| watcher.reader.closing_words(self.verbose));
        let words = delivered.chain(self.calls.as_deref().map(calls::summary)).collect();
        if let Some(watcher) = found.first() {
            watcher.reader.journal().finish();
        }
        words
    }

    fn have_left(&self, deadline: Instant, hurry: &dyn Fn() -> bool) -> bool {
        while Instant::now() < deadline && !hurry() {
            if self.done.recv_timeout(Duration::from_millis(10)) == Err(mpsc::RecvTimeoutError::Disconnected)
            {
                return true;
            }
        }
        false
    }
}

/// The thread: finds the plugins, hands the messages out, runs the processes.
fn run(
    environment: &Environment,
    selection: &Selection,
    tap: &mut Option<TapReader>,
    guard: Option<Guard>,
    orders: watch::Receiver<Order>,
    found: &OnceLock<Vec<Watcher>>,
    calls: Arc<Mutex<Calls>>,
) -> Result<(), Failure> {
    let home = Home::find(environment)?;
    let (trust, config) = (Trust::load(&home)?, Config::load(&home)?);
    let names = discover(&home, &trust, &config, selection)?;
    if names.is_empty() {
        return Ok(());
    }
    let leftovers = claim(&home.spool());
    let allowance = Arc::new(Allowance::new(selection.limits.disk));
    let overflow = Overflow::new(home.spool(), Arc::clone(&allowance));
    let journal = Journal::new(SessionId::new(), selection.limits.memory, allowance, &home.spool());
    let watchers: Vec<Watcher> = names
        .into_iter()
        .map(|name| Watcher {
            report: Arc::new(Mutex::new(Report::discovered(name.clone()))),
            reader: Arc::new(journal.subscribe(name)),
        })
        .collect();
    found.get_or_init(|| watchers.clone());
    let host = PluginHost::new(&home, environment.debug, guard.map(Arc::new))?;
    let authority = Arc::new(Authority::open(environment, &home, &config, |failure| {
        Remarks.say(&format!("plugins run without an API key: {failure}"));
    }));
    let context = Context {
        home,
        trust,
        config,
        host,
        authority,
        remarks: Remarks,
        grace: GRACE,
        memory: selection.plugin_memory,
        restart: RestartPolicy { deaths: selection.max_deaths, ..RestartPolicy::default() },
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Kind::Local, e))?;
    let Some(mut tap) = tap.take() else { return Ok(()) };
    tap.overflow_to(overflow);
    let observer = Observer::new(selection.max_message, calls).since(tap.begun());
    let (framer, first) = hand_out(tap, observer, journal)?;
    runtime.block_on(supervise(Arc::new(context), &watchers, &leftovers, first, orders));
    leftovers.iter().for_each(|leftover| leftover.journal().finish());
    // A blocked read of a file must not hold up the end.
    runtime.shutdown_background();
    // What was not delivered is known when nothing more comes.
    if framer.join().is_err() {
        Remarks.say("messages of this session were lost by a fault in km itself");
    }
    Ok(())
}

/// The plugins that may run, and a word about each that was asked for and may not.
fn discover(
    home: &Home,
    trust: &Trust,
    config: &Config,
    selection: &Selection,
) -> Result<Vec<PluginName>, Failure> {
    let entries = store::list(home, trust, config)?;
    for name in &selection.names {
        if !entries.iter().any(|entry| entry.name == *name) {
            Remarks.say(&format!("plugin {name} is not installed"));
        }
    }
    let mut names = Vec::new();
    for entry in entries {
        let asked = selection.names.contains(&entry.name);
        if !asked && !selection.names.is_empty() {
            continue;
        }
        match entry.state {
            State::Installed | State::Allowed => names.push(entry.name),
            State::Unsigned | State::Untrusted | State::Disabled => {
                let why = entry.reason.unwrap_or_default();
                Remarks.say(&format!("plugin {} is not used: {why}", entry.name));
            }
        }
    }
    Ok(names)
}

/// Starts the thread that makes messages of what passes and keeps them. The receiver hears of the
/// first message.
fn hand_out(
    mut tap: TapReader,
    mut observer: Observer,
    journal: Arc<Journal>,
) -> Result<(thread::JoinHandle<()>, oneshot::Receiver<()>), Failure> {
    let (first, heard) = oneshot::channel();
    let work = move || {
        let mut first = Some(first);
        let mut hand_out = |observed: Observed| {
            if let Some(first) = first.take() {
                let _ = first.send(());
            }
            match observed {
                Observed::Message(message) => journal.push(message),
                Observed::Lost { first, count } => journal.lost(first, count),
            }
        };
        while let Some(piece) = tap.next() {
            observer.take(piece, &mut hand_out);
            journal.settle();
        }
        observer.finish(&mut hand_out);
        journal.close();
    };
    let framer = thread::Builder::new()
        .name("framer".to_owned())
        .spawn(work)
        .map_err(|e| Failure::new(Kind::Local, e))?;
    Ok((framer, heard))
}

/// Counts calls where there are no plugins to make messages for.
fn count(mut tap: TapReader, calls: Arc<Mutex<Calls>>) {
    let mut observer = Observer::new(ENOUGH_TO_COUNT, calls);
    while let Some(piece) = tap.next() {
        observer.take(piece, &mut |_| {});
    }
}

/// Runs every plugin from the first message to the end of the session.
async fn supervise(
    context: Arc<Context>,
    watchers: &[Watcher],
    leftovers: &[Leftover],
    first: oneshot::Receiver<()>,
    mut orders: watch::Receiver<Order>,
) {
    let _control = control::serve(&context.home, watchers.to_vec());
    tokio::select! {
        heard = first => if heard.is_err() { return },
        _ = orders.wait_for(|order| *order == Order::Leave) => return,
    }
    let running: Vec<_> = watchers
        .iter()
        .map(|Watcher { reader, report }| {
            let supervisor = Supervisor {
                context: Arc::clone(&context),
                reader: Arc::clone(reader),
                leftovers: leftovers.iter().filter_map(|left| left.reader(reader.plugin())).collect(),
                orders: orders.clone(),
                report: Arc::clone(report),
            };
            tokio::spawn(supervisor.run())
        })
        .collect();
    for (plugin, watcher) in running.into_iter().zip(watchers) {
        if plugin.await.is_err() {
            let mut report = watcher.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.enter(Life::Error);
            Remarks.say(&format!("plugin {} was lost by a fault in km itself", report.name));
        }
    }
    // The session goes on without plugins, and can still be asked about them.
    let _ = orders.wait_for(|order| *order != Order::Run).await;
}
