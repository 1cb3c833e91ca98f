//! `km plugins refresh`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use km_cli::Output;
use km_package::failure::Failure;

use super::Local;
use crate::auth::Settings;
use crate::provision::{Provision, Report, Request};
use crate::store::{LOCK_FILE, LockFile};

/// Install and update what this customer may run, and stop what it may not any more
///
/// What may be installed is said by an index that a release key has signed; the API and mirrors bring it
/// and the packages, and are not believed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km plugins refresh\n  km plugins refresh --offline --json")]
pub(super) struct Refresh {
    /// Open no connection: go by the last index that was seen, and say what is to be downloaded
    #[arg(long)]
    offline: bool,
    /// Install packages that are older than those that were installed before
    #[arg(long)]
    allow_downgrade: bool,
    /// Replace other content under the same version; packages are verified all the same
    #[arg(long)]
    force: bool,
    /// Install only what the lock file names, by digest
    #[arg(long)]
    locked: bool,
    /// The lock file, which `km plugins lock` writes
    #[arg(long, value_name = "PATH", default_value = LOCK_FILE, requires = "locked")]
    lock_file: PathBuf,
}

impl Refresh {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<ExitCode, Failure> {
        let request = Request {
            offline: self.offline,
            allow_downgrade: self.allow_downgrade,
            force: self.force,
            locked: self.locked.then(|| LockFile::read(&self.lock_file)).transpose()?,
        };
        let Local { environment, home, config, trust } = local;
        let settings = &Settings::load(environment, home, config)?;
        let report = super::block_on(Provision { home, trust, config, settings, output }.refresh(&request))??;
        if report.is_empty() {
            output.note("nothing is installed, and nothing is there to be installed");
        }
        output.result(&report, report.text());
        Ok(code(&report, output))
    }
}

/// The exit code of a refresh. People are told of the first failure once more, with what to do.
pub(super) fn code(report: &Report, output: &Output) -> ExitCode {
    let Some(first) = report.failure() else { return ExitCode::SUCCESS };
    if !output.is_json() {
        output.fail(first);
    }
    ExitCode::from(first.kind.code())
}
