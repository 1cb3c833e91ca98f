//! What was done: phases, cases, steps.

mod junit;
mod markdown;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use km_package::failure::{Failure, Kind};
use serde::Serialize;

use super::build::Product;
use super::facts::{Facts, Program};

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Remove what the suite and cargo have made.
    Cleanup,
    /// Build the commands, the plugins and packages.
    Build,
    /// Run the scenarios.
    Test,
}

impl Phase {
    /// In the order in which they run.
    pub(super) const ALL: [Self; 3] = [Self::Cleanup, Self::Build, Self::Test];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Cleanup => "cleanup",
            Self::Build => "build",
            Self::Test => "test",
        }
    }
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// One thing that can fail: a scenario, something built, something removed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Case {
    pub(super) phase: Phase,
    pub(super) name: String,
    pub(super) title: String,
    /// Where it is written, from the root of the checkout.
    pub(super) file: Option<String>,
    pub(super) outcome: Outcome,
    /// Why it failed or was skipped, in one line.
    pub(super) why: Option<String>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) took: Duration,
    pub(super) steps: Vec<Done>,
}

/// One command, and what came of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Done {
    pub(super) line: Option<usize>,
    pub(super) command: String,
    pub(super) exit: Option<i32>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
    pub(super) why: Option<String>,
    /// Of what failed.
    pub(super) output: Option<String>,
    /// Lines that should have come (`-`) and that came (`+`).
    pub(super) difference: Option<String>,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// A time, for people.
pub(super) fn span(time: Duration) -> String {
    match time.as_secs() {
        0..100 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

impl Case {
    /// One that has nothing to say yet.
    pub(super) fn new(phase: Phase, name: impl Into<String>, title: impl Into<String>) -> Self {
        Self {
            phase,
            name: name.into(),
            title: title.into(),
            file: None,
            outcome: Outcome::Passed,
            why: None,
            took: Duration::ZERO,
            steps: Vec::new(),
        }
    }

    /// It failed, because of this.
    pub(super) fn fail(&mut self, why: impl Into<String>) {
        self.outcome = Outcome::Failed;
        self.why.get_or_insert(why.into());
    }

    /// It was not tried, because of this.
    pub(super) fn skip(&mut self, why: impl Into<String>) {
        self.outcome = Outcome::Skipped;
        self.why.get_or_insert(why.into());
    }

    /// `path:line` of the first step that failed.
    pub(super) fn place(&self) -> Option<String> {
        let file = self.file.as_ref()?;
        let failed = self.steps.iter().find(|step| step.outcome == Outcome::Failed);
        Some(match failed.and_then(|step| step.line) {
            Some(line) => format!("{file}:{line}"),
            None => file.clone(),
        })
    }

    /// One line as it ends.
    pub(super) fn line(&self) -> String {
        let word = match self.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        let mut line = format!("{word:<7}  {}", self.name);
        match (self.outcome, &self.why) {
            (Outcome::Skipped, why) => line.push_str(&format!("  {}", why.as_deref().unwrap_or_default())),
            (_, why) => {
                line.push_str(&format!("  {}", span(self.took)));
                if let Some(why) = why {
                    line.push_str(&format!("  {why}"));
                }
            }
        }
        line
    }

    /// All that is to be said of a failure.
    pub(super) fn account(&self) -> String {
        let mut text =
            format!("{} {}: {}\n", self.phase.as_str(), self.name, self.why.as_deref().unwrap_or("failed"));
        for step in self.steps.iter().filter(|step| step.outcome == Outcome::Failed) {
            let place = match (&self.file, step.line) {
                (Some(file), Some(line)) => format!("{file}:{line}: "),
                _ => String::new(),
            };
            text.push_str(&format!("\n{place}$ {}\n", step.command.replace('\n', "\n> ")));
            if let Some(why) = &step.why {
                text.push_str(&format!("{why}\n"));
            }
            match (&step.difference, &step.output) {
                (Some(difference), _) => text.push_str(difference),
                (None, Some(output)) => text.push_str(output.trim_end()),
                (None, None) => {}
            }
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        text
    }
}

/// The files of a report.
pub(super) const FILES: [&str; 3] = ["report.md", "junit.xml", "report.json"];

/// What each of them begins with, or soon after.
const MARKS: [&str; 3] = ["# Automation: ", "<testsuites name=\"km-pack automate\"", "\n  \"started\": "];

/// Whether one of [`FILES`] was written by the suite.
pub(super) fn is_ours(path: &Path) -> bool {
    let Some((_, mark)) = FILES.into_iter().zip(MARKS).find(|(name, _)| path.ends_with(name)) else {
        return false;
    };
    if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
        return false;
    }
    let mut begin = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(200).read_to_end(&mut begin));
    read.is_ok() && String::from_utf8_lossy(&begin).contains(mark)
}

/// Looks, before anything runs, whether reports can be written there without taking anything from anybody.
///
/// # Errors
/// When they cannot.
pub(super) fn check(folder: &Path, checkout: &Path) -> Result<(), Failure> {
    let refuse = |path: &Path, why: &str| {
        let what = format!("the report cannot be written to {}: {why}", path.display());
        Err(Failure::new(Kind::Local, what).help("--report names another folder"))
    };
    let plain: PathBuf = folder.components().collect();
    if plain.is_symlink() || super::place::link_to(&plain, checkout).is_some() {
        return refuse(&plain, "a symbolic link leads there");
    }
    let real = std::fs::canonicalize(&plain).unwrap_or(plain);
    for path in FILES.map(|name| real.join(name)) {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if !metadata.is_file() {
            return refuse(&path, "it is no file");
        }
        if !is_ours(&path) {
            return refuse(&path, "there is a file which is not the suite's");
        }
        // One that git cannot tell of is the suite's at least.
        let tracked = crate::compile::tracked_files(checkout).unwrap_or_default();
        if path.strip_prefix(checkout).is_ok_and(|path| tracked.iter().any(|tracked| tracked == path)) {
            return refuse(&path, "git keeps it");
        }
    }
    Ok(())
}

/// Makes the folder of a report, and sees that something can be written there.
///
/// # Errors
/// When it cannot.
pub(super) fn prepare(folder: &Path) -> Result<(), Failure> {
    let make = || std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder));
    make().map(drop).map_err(|e| Failure::file("make", folder, &e).help("--report names another folder"))
}

/// What a run has to say: the document of `--json`, and `report.json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// When it began.
    pub(super) started: jiff::Timestamp,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) took: Duration,
    pub(super) passed: bool,
    /// Whether somebody ended it before its end.
    pub(super) interrupted: bool,
    pub(super) quick: bool,
    pub(super) environment: Facts,
    /// The commands under test.
    pub(super) programs: Vec<Program>,
    /// Packages that were built.
    pub(super) packages: Vec<Product>,
    pub(super) phases: Vec<Counts>,
    /// What was done, in its order.
    pub(super) cases: Vec<Case>,
    /// Where the report lies.
    pub(super) report: PathBuf,
    /// The arguments that a run of one scenario takes, besides its name.
    #[serde(skip)]
    pub(super) again: String,
}

/// How many of a phase's cases ended how.
#[derive(Debug, Serialize)]
pub(super) struct Counts {
    pub(super) phase: Phase,
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) took: Duration,
}

impl Counts {
    /// Counts the cases of a phase.
    pub(super) fn of(phase: Phase, cases: &[Case], took: Duration) -> Self {
        let count =
            |outcome| cases.iter().filter(|case| case.phase == phase && case.outcome == outcome).count();
        let [passed, failed, skipped] = [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(count);
        Self { phase, passed, failed, skipped, took }
    }
}

impl Report {
    /// Whether all of it was done, and nothing failed.
    pub fn passed(&self) -> bool {
        self.passed
    }

    /// What failed.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| case.outcome == Outcome::Failed)
    }

    /// The command that runs one case again.
    pub(super) fn again(&self, case: &Case) -> String {
        match case.phase {
            // What is tested without `--bins` is this checkout, whose source may have been mended by then.
            Phase::Test if self.again.is_empty() => {
                format!("cargo km-pack automate --quick --phase build --phase test --scenario {}", case.name)
            }
            Phase::Test => format!("km-pack automate --phase test --scenario {}{}", case.name, self.again),
            phase => format!("cargo km-pack automate --phase {}{}", phase.as_str(), self.again),
        }
    }

    /// What is shown at the end.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for case in self.failures() {
            let account = super::transcript::beginning(&case.account());
            text.push_str(&format!("{account}\nagain: {}\n\n", self.again(case)));
        }
        text.push_str(&self.table());
        let place = self.report.display();
        let failed: Vec<_> = self.failures().collect();
        for case in &failed {
            text.push_str(&format!("FAILED   {}  {}\n", case.name, case.place().unwrap_or_default()));
        }
        text.push_str(&format!("{} in {}; report: {place}/report.md", self.verdict(), span(self.took)));
        text
    }

    pub(super) fn verdict(&self) -> &'static str {
        match (self.interrupted, self.passed) {
            (true, _) => "interrupted",
            (false, true) => "passed",
            (false, false) => "FAILED",
        }
    }

    fn table(&self) -> String {
        let row = |counts: &Counts| {
            let numbers = [counts.passed, counts.failed, counts.skipped].map(|number| number.to_string());
            [vec![counts.phase.as_str().to_owned()], numbers.to_vec(), vec![span(counts.took)]].concat()
        };
        let rows: Vec<_> = self.phases.iter().map(row).collect();
        km_cli::table(&["PHASE", "PASSED", "FAILED", "SKIPPED", "TIME"], &rows)
    }

    /// Writes all files of the report.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Failure::new(Kind::Failed, e))?;
        let contents = [markdown::write(self), junit::write(self)?, json + "\n"];
        for (name, content) in FILES.into_iter().zip(contents) {
            super::accept::replace(&self.report.join(name), &content)?;
        }
        Ok(())
    }
}
