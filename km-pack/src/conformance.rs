//! Whether a plugin keeps the whole contract of `docs/protocol.md`, point by point: what a plugin
//! author runs, whatever the plugin is written in.
//!
//! Each room of checks starts the plugin anew, as `km` does: `start` (handshake, versions, TLS),
//! `calls` (health, identity, authentication, messages), `tokens` and `deliver` (protocol 2), `leave`
//! (shutdown, signals, the end of its host).

mod calls;
mod deliver;
mod ground;
mod leave;
mod start;
mod tokens;

pub use ground::Subject;
pub use leave::hold;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use ground::Ground;

/// How long one check may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The plugin does as the contract says.
    Passed,
    /// It may do better, and `km` gets along.
    Warned,
    /// It breaks the contract.
    Failed,
    /// It could not be checked, since something before it failed or does not apply.
    Skipped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "ok",
            Self::Warned => "warning",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        })
    }
}

/// One point of the contract, checked.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Its name, for scripts.
    pub id: &'static str,
    /// What the contract says.
    pub what: &'static str,
    /// Whether it holds.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// How long the check took, in milliseconds.
    pub ms: u64,
}

/// What a check found, when the plugin did as it should, or nearly.
#[derive(Debug)]
enum Finding {
    Fine(String),
    Warning(String),
    Inapplicable(String),
}

/// What a check found, or how the plugin broke the contract.
type Found = Result<Finding, String>;

fn fine(detail: impl Into<String>) -> Found {
    Ok(Finding::Fine(detail.into()))
}

/// The checks of one plugin, as they are made.
pub(crate) struct Checks<'a> {
    made: Vec<Check>,
    observe: &'a mut dyn FnMut(&Check),
}

impl fmt::Debug for Checks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.made.fmt(f)
    }
}

impl Checks<'_> {
    /// Makes a check under the deadline; tells whether it holds.
    async fn make(
        &mut self,
        id: &'static str,
        what: &'static str,
        check: impl Future<Output = Found>,
    ) -> bool {
        let begun = std::time::Instant::now();
        let (outcome, detail) = match tokio::time::timeout(DEADLINE, check).await {
            Ok(Ok(Finding::Fine(detail))) => (Outcome::Passed, detail),
            Ok(Ok(Finding::Warning(detail))) => (Outcome::Warned, detail),
            Ok(Ok(Finding::Inapplicable(detail))) => (Outcome::Skipped, detail),
            Ok(Err(detail)) => (Outcome::Failed, detail),
            Err(_) => (Outcome::Failed, format!("not within {DEADLINE:?}")),
        };
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.add(Check { id, what, outcome, detail, ms });
        outcome != Outcome::Failed
    }

    /// Says that a check was not made.
    fn skip(&mut self, id: &'static str, what: &'static str, why: &str) {
        self.add(Check { id, what, outcome: Outcome::Skipped, detail: why.to_owned(), ms: 0 });
    }

    fn add(&mut self, check: Check) {
        (self.observe)(&check);
        self.made.push(check);
    }
}

/// Checks a plugin. `observe` hears of each check as it is made.
///
/// # Errors
/// When there is no place for the sockets, or this program cannot find itself.
pub async fn check(subject: Subject, observe: &mut dyn FnMut(&Check)) -> std::io::Result<Vec<Check>> {
    let ground = Ground::new(subject)?;
    let mut checks = Checks { made: Vec::new(), observe };
    if start::check(&ground, &mut checks).await {
        calls::check(&ground, &mut checks).await;
        tokens::check(&ground, &mut checks).await;
        deliver::check(&ground, &mut checks).await;
        leave::check(&ground, &mut checks).await;
    }
    Ok(checks.made)
}
