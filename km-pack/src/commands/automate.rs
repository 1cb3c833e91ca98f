//! `km-pack automate`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use km_cli::Output;
use km_package::failure::Failure;

use crate::automate::{self, Phase, Request};
use crate::environment::Environment;

/// Clean up, build everything, run all scenarios, and report
///
/// Reads automate.toml in the root of the checkout. Reports are report.md, junit.xml and report.json.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km-pack automate\n  km-pack automate --quick\n  \
                  km-pack automate --phase test --scenario errors --scenario plugins/list")]
pub(super) struct Automate {
    /// Only this phase; several times for several [default: all]
    #[arg(long, value_name = "PHASE")]
    phase: Vec<Phase>,
    /// Before a commit: debug builds, nothing that is slow, cargo's target folder stays
    #[arg(long)]
    quick: bool,
    /// Only this scenario, or this group of them; several times for several
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Where reports go
    #[arg(long, value_name = "FOLDER", default_value = "logs")]
    report: PathBuf,
    /// Go on with the next phase when one has failed
    #[arg(long)]
    keep_going: bool,
    /// Do not ask before removing what lies in --home
    #[arg(long)]
    yes: bool,
    /// Show what would be removed, built and run, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Clean up plugins and caches of this KM_HOME, too
    #[arg(long, value_name = "FOLDER")]
    home: Option<PathBuf>,
    /// Test the km and km-pack in this folder [default: those just built]
    #[arg(long, value_name = "FOLDER")]
    bins: Option<PathBuf>,
    /// Write what really came into the scenarios' files, where it differs
    #[arg(long)]
    accept: bool,
}

impl Automate {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<ExitCode, Failure> {
        let mut phases = self.phase.clone();
        phases.sort_unstable();
        phases.dedup();
        let folder = |path: &PathBuf| environment.current_dir.join(path);
        let request = Request {
            phases,
            quick: self.quick,
            scenarios: self.scenario.clone(),
            report: folder(&self.report),
            keep_going: self.keep_going,
            yes: self.yes,
            home: self.home.as_ref().map(folder),
            bins: self.bins.as_ref().map(folder),
            accept: self.accept,
        };
        if self.dry_run {
            let plan = automate::plan(&request, environment, output)?;
            output.result(&plan, plan.text());
            return Ok(ExitCode::SUCCESS);
        }
        let report = automate::run(&request, environment, output)?;
        let written = report.write();
        if written.is_err() && output.is_json() {
            // One document, and that is the error.
            return written.map(|()| ExitCode::FAILURE);
        }
        output.result(&report, report.text());
        written?;
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
