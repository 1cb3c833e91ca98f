//! What was done: phases, cases, steps.

use std::time::Duration;

use serde::Serialize;

use super::build::Product;
use super::suite::any_failed;

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

/// What a run has to say: the document of `--json`.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// What was done, in its order.
    pub(super) cases: Vec<Case>,
    /// Packages that were built.
    pub(super) products: Vec<Product>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(super) took: Duration,
}

impl Report {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        !any_failed(&self.cases)
    }

    /// What is shown at the end.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for case in self.cases.iter().filter(|case| case.outcome == Outcome::Failed) {
            text.push_str(&case.account());
            text.push('\n');
        }
        let of = |phase, outcome| {
            let cases = self.cases.iter().filter(|case| case.phase == phase);
            cases.filter(|case| case.outcome == outcome).count().to_string()
        };
        let row = |phase: Phase| {
            let outcomes = [Outcome::Passed, Outcome::Failed, Outcome::Skipped];
            let counts = outcomes.map(|outcome| of(phase, outcome));
            [vec![phase.as_str().to_owned()], counts.to_vec()].concat()
        };
        let phases =
            Phase::ALL.into_iter().filter(|phase| self.cases.iter().any(|case| case.phase == *phase));
        let rows: Vec<_> = phases.map(row).collect();
        text.push_str(&km_cli::table(&["PHASE", "PASSED", "FAILED", "SKIPPED"], &rows));
        text.push_str(&format!("{} in {}", if self.passed() { "passed" } else { "FAILED" }, span(self.took)));
        text
    }
}
