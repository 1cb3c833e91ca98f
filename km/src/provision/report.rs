//! What became of each plugin: the document that scripts read, and the table that people see.

use km_package::failure::Failure;
use km_package::index::{IndexEntry, VerifiedIndex};
use km_package::name::PluginName;
use serde::Serialize;

use super::offer::Source;
use crate::store::Action;

/// What a refresh did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(super) plugins: Vec<Outcome>,
    pub(super) not_entitled: Vec<PluginName>,
    /// Why, of each of them; for people.
    #[serde(skip)]
    denials: Vec<String>,
    pub(super) index: Option<IndexReport>,
    /// What is to be downloaded; only where nothing may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) needs: Option<Vec<Need>>,
    /// The first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

/// What became of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Outcome {
    pub(super) name: PluginName,
    pub(super) version: Option<String>,
    pub(super) action: Action,
    pub(super) reason: Option<String>,
}

/// What was gone by.
#[derive(Debug, Serialize)]
pub(super) struct IndexReport {
    counter: u64,
    expires: String,
    source: Source,
}

impl IndexReport {
    pub(super) fn new(index: &VerifiedIndex, source: Source) -> Self {
        let index = index.index();
        Self { counter: index.counter, expires: index.expires.to_string(), source }
    }
}

/// A package that would have to be downloaded.
#[derive(Debug, Serialize)]
pub(super) struct Need {
    pub(super) name: PluginName,
    version: String,
    /// In bytes.
    size: u64,
}

impl From<&IndexEntry> for Need {
    fn from(entry: &IndexEntry) -> Self {
        Self { name: entry.name.clone(), version: entry.version.to_string(), size: entry.size() }
    }
}

impl Report {
    /// Nothing could be done about any plugin.
    pub(crate) fn failed(failure: Failure) -> Self {
        let mut report = Self::default();
        report.fail(failure);
        report
    }

    /// Adds what became of a plugin, of which this version is meant.
    pub(super) fn add(
        &mut self,
        name: &PluginName,
        version: Option<&semver::Version>,
        outcome: Result<(Action, Option<String>), Failure>,
    ) {
        let (action, reason) = outcome.unwrap_or_else(|failure| {
            let reason = failure.message.clone();
            self.fail(failure.context(name));
            (Action::Failed, Some(reason))
        });
        let version = version.map(ToString::to_string);
        self.plugins.push(Outcome { name: name.clone(), version, action, reason });
        self.plugins.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Adds a plugin that the customer's tier does not reach, for this reason.
    pub(super) fn deny(&mut self, name: &PluginName, reason: &str) {
        self.not_entitled.push(name.clone());
        self.denials.push(reason.to_owned());
    }

    fn fail(&mut self, failure: Failure) {
        self.error.get_or_insert(failure);
    }

    /// The first failure, which decides the exit code.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.error.as_ref()
    }

    /// Whether there is nothing to be told.
    pub(crate) fn is_empty(&self) -> bool {
        self.plugins.is_empty() && self.not_entitled.is_empty() && self.needs.iter().all(Vec::is_empty)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if !self.plugins.is_empty() {
            let rows: Vec<Vec<String>> = self.plugins.iter().map(row).collect();
            text += &km_cli::table(&["NAME", "VERSION", "ACTION", "REASON"], &rows);
        }
        for (name, reason) in self.not_entitled.iter().zip(&self.denials) {
            text += &format!("not entitled: {name}, {}\n", km_cli::printable_line(reason));
        }
        for need in self.needs.iter().flatten() {
            text += &format!("needs: {} {}, {:.1} MB\n", need.name, need.version, need.size as f64 / 1e6);
        }
        text
    }
}

fn row(outcome: &Outcome) -> Vec<String> {
    let Outcome { name, version, action, reason } = outcome;
    let reason = km_cli::printable_line(reason.as_deref().unwrap_or_default());
    vec![name.to_string(), version.clone().unwrap_or_else(|| "-".to_owned()), action.to_string(), reason]
}

#[cfg(test)]
mod tests {
    use km_package::failure::Kind;

    use super::*;

    #[test]
    fn the_first_failure_is_told() {
        let mut report = Report::default();
        let version = "1.0.0".parse().unwrap();
        let mut fail = |name: &str, kind| {
            report.add(&name.parse().unwrap(), Some(&version), Err(Failure::new(kind, "no")));
            report.failure().map(|first| (first.message.clone(), first.kind))
        };
        for (name, kind) in
            [("b", Kind::Unreachable), ("a", Kind::Conflict), ("c", Kind::Unreachable), ("d", Kind::Failed)]
        {
            assert_eq!(fail(name, kind), Some(("b: no".to_owned(), Kind::Unreachable)));
        }
        report.add(&"e".parse().unwrap(), None, Ok((Action::Removed, None)));
        report.deny(&"x".parse().unwrap(), "needs Pro");
        let text = report.text();
        assert!(
            text.contains("a     1.0.0    failed   no\n") && text.ends_with("not entitled: x, needs Pro\n"),
            "{text}"
        );
        let document = serde_json::to_value(&report).unwrap();
        assert_eq!(document["error"]["kind"], "unreachable");
        assert_eq!(document["plugins"][4]["action"], "removed");
        assert!(document.get("needs").is_none() && document["index"].is_null());
    }
}
