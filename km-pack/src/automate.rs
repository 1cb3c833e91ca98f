//! The automation suite: cleanup, build, test, report.
//!
//! Scenarios are Markdown files, the same that people read: `scenario` reads one, `play` runs its commands
//! in a `shell` (with a `keeper`, so that nothing is left) and lays each `transcript` beside what came.

mod accept;
mod build;
mod cleanup;
mod commands;
mod config;
mod facts;
mod ground;
mod keeper;
mod normal;
mod place;
mod plan;
mod play;
mod report;
mod scenario;
mod shell;
mod stale;
mod suite;
mod transcript;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use km_cli::Output;
use km_package::failure::{Failure, Kind};

use crate::environment::Environment;
pub(crate) use keeper::keep;
use place::Products;
pub use plan::Plan;
pub use report::{Phase, Report};
use suite::Suite;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Request {
    /// In their order; none means all.
    pub phases: Vec<Phase>,
    /// Debug builds, nothing slow.
    pub quick: bool,
    /// Names or groups of scenarios; none means all.
    pub scenarios: Vec<String>,
    /// Where reports go.
    pub report: PathBuf,
    /// Whether a phase that fails ends the run.
    pub keep_going: bool,
    /// Whether nothing is asked.
    pub yes: bool,
    /// A `KM_HOME` to clean up, too.
    pub home: Option<PathBuf>,
    /// The commands under test, where they are not those just built.
    pub bins: Option<PathBuf>,
    /// Whether files of scenarios are corrected.
    pub accept: bool,
}

/// Runs the suite of the checkout around the current folder.
///
/// # Errors
/// When it cannot begin; what fails in it stands in the report.
pub fn run(request: &Request, environment: &Environment, output: &Output) -> Result<Report, Failure> {
    let stop = stop_at_signals()?;
    keeper::adopt_orphans();
    let report = Suite::new(request, environment, output, &stop, Products::lock).and_then(Suite::run);
    keeper::kill_descendants();
    report
}

/// What [`run`] would do.
///
/// # Errors
/// When it could not begin.
pub fn plan(request: &Request, environment: &Environment, output: &Output) -> Result<Plan, Failure> {
    Suite::new(request, environment, output, &AtomicBool::new(false), Products::unlocked)?.plan()
}

/// Set at SIGINT, SIGTERM or SIGHUP.
fn stop_at_signals() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The second one ends it at once; what it started sees that, and goes too.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|e| Failure::new(Kind::Local, format_args!("cannot wait for signals: {e}")))?;
    }
    Ok(stop)
}
