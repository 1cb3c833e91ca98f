//! The thread beside the relay on which the plugins of a session are run.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use go_plugin::host::Grace;
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;
use tokio::sync::{oneshot, watch};

use super::control;
use super::observe::{Observed, Observer};
use super::queue::{Counters, Queue};
use super::remarks::Remarks;
use super::tap::TapReader;
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
/// How long before the end they are told to leave what still waits.
const LEAVE: Duration = Duration::from_millis(700);

/// Most bytes of one message that are kept.
const MAX_MESSAGE: usize = 64 << 20;

/// Which plugins a session has, and what each may keep in memory.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// Only these; all if there are none.
    pub(crate) names: Vec<PluginName>,
    /// Bytes of messages in memory for each plugin.
    pub(crate) buffer_size: usize,
}

/// One plugin of the session, as its queue and its report.
#[derive(Debug, Clone)]
pub(super) struct Watcher {
    pub(super) queue: Arc<Queue>,
    pub(super) report: Arc<Mutex<Report>>,
}

/// The plugins of a session.
#[derive(Debug)]
pub(super) struct Watchers {
    orders: watch::Sender<Order>,
    /// The queues, once the plugins were found.
    queues: Arc<OnceLock<Vec<Arc<Queue>>>>,
    /// Ends when all plugins have left.
    done: mpsc::Receiver<()>,
    verbose: bool,
}

impl Watchers {
    /// Starts the thread. Whatever goes wrong on it is said, and stops nothing else.
    pub(super) fn start(
        environment: Environment,
        selection: Selection,
        tap: TapReader,
        guard: Option<Guard>,
        verbose: bool,
    ) -> io::Result<Self> {
        let (orders, receiver) = watch::channel(Order::Run);
        let (running, done) = mpsc::channel();
        let queues = Arc::new(OnceLock::new());
        let found = Arc::clone(&queues);
        thread::Builder::new().name("plugins".to_owned()).spawn(move || {
            if let Err(failure) = run(&environment, &selection, tap, guard, receiver, &found) {
                Remarks.say(&format!("no plugins in this session: {failure}"));
            }
            drop(running);
        })?;
        Ok(Self { orders, queues, done, verbose })
    }

    /// What became of each plugin's messages so far; nothing before the plugins were found.
    pub(super) fn counters(&self) -> Vec<(PluginName, Counters)> {
        let queues = self.queues.get().map(Vec::as_slice).unwrap_or_default();
        queues.iter().map(|queue| (queue.plugin().clone(), queue.counters())).collect()
    }

    /// Lets plugins handle what waits, then leave, both before the deadline. `hurry` says that nobody
    /// has time any more.
    pub(super) fn finish(&self, deadline: Instant, hurry: &dyn Fn() -> bool) -> Vec<String> {
        self.orders.send_replace(Order::Finish);
        if !self.have_left(deadline - LEAVE, hurry) {
            self.orders.send_replace(Order::Leave);
            self.have_left(deadline, hurry);
        }
        let queues = self.queues.get().map(Vec::as_slice).unwrap_or_default();
        queues.iter().filter_map(|queue| queue.closing_words(self.verbose)).collect()
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
    tap: TapReader,
    guard: Option<Guard>,
    orders: watch::Receiver<Order>,
    found: &OnceLock<Vec<Arc<Queue>>>,
) -> Result<(), Failure> {
    let home = Home::find(environment)?;
    let (trust, config) = (Trust::load(&home)?, Config::load(&home)?);
    let names = discover(&home, &trust, &config, selection)?;
    if names.is_empty() {
        return Ok(());
    }
    let watchers: Vec<Watcher> = names
        .into_iter()
        .map(|name| Watcher {
            report: Arc::new(Mutex::new(Report::discovered(name.clone()))),
            queue: Arc::new(Queue::new(name, selection.buffer_size, home.spool())),
        })
        .collect();
    found.get_or_init(|| watchers.iter().map(|watcher| Arc::clone(&watcher.queue)).collect());
    let host = PluginHost::new(&home, environment.debug, guard.map(Arc::new))?;
    let authority = Arc::new(Authority::open(environment, &home, &config, |failure| {
        Remarks.say(&format!("plugins run without an API key: {failure}"));
    }));
    let context = Context { home, trust, config, host, authority, remarks: Remarks, grace: GRACE };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Kind::Local, e))?;
    let (framer, first) = hand_out(tap, &watchers)?;
    runtime.block_on(supervise(Arc::new(context), &watchers, first, orders));
    // A blocked read of a file must not hold up the end.
    runtime.shutdown_background();
    // What was not delivered is known when nothing more comes.
    let _ = framer.join();
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

/// Starts the thread that frames what passes and hands it to every queue. The receiver hears of the
/// first message.
fn hand_out(
    tap: TapReader,
    watchers: &[Watcher],
) -> Result<(thread::JoinHandle<()>, oneshot::Receiver<()>), Failure> {
    let (first, heard) = oneshot::channel();
    let queues: Vec<Arc<Queue>> = watchers.iter().map(|watcher| Arc::clone(&watcher.queue)).collect();
    let work = move || {
        let mut first = Some(first);
        let mut observer = Observer::new(MAX_MESSAGE).since(tap.begun());
        let mut hand_out = |observed: Observed| {
            if let Some(first) = first.take() {
                let _ = first.send(());
            }
            for queue in &queues {
                match &observed {
                    Observed::Message(message) => queue.push(message),
                    Observed::Lost { first, count } => queue.lost(*first, *count),
                }
            }
        };
        while let Some(piece) = tap.next() {
            observer.take(piece, &mut hand_out);
        }
        observer.finish(&mut hand_out);
        queues.iter().for_each(|queue| queue.close());
    };
    let framer = thread::Builder::new()
        .name("framer".to_owned())
        .spawn(work)
        .map_err(|e| Failure::new(Kind::Local, e))?;
    Ok((framer, heard))
}

/// Runs every plugin from the first message to the end of the session.
async fn supervise(
    context: Arc<Context>,
    watchers: &[Watcher],
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
        .map(|Watcher { queue, report }| {
            let supervisor = Supervisor {
                context: Arc::clone(&context),
                queue: Arc::clone(queue),
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
