//! What goes wrong between a host and a plugin, each as a test: what the original does not survive,
//! and what a hostile or broken plugin may do.
//!
//! This program is the tests, the plugins they start, and the hosts they kill: which of them, it
//! finds in its environment.

#![allow(clippy::unwrap_used)]

mod ground;
mod handshake;
mod life;
mod output;
mod plugin;
mod runner;

use libtest_mimic::Arguments;

fn main() -> std::process::ExitCode {
    if let Some(exit) = plugin::run_if_asked() {
        return exit;
    }
    if ground::hold_if_asked() {
        return std::process::ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let trials = [handshake::trials(), life::trials(), output::trials(), runner::trials()];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}
