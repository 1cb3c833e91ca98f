//! What became of each plugin: the document that scripts read, and the table that people see.

use km_package::failure::{Failure, Kind};
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
    pub(super) index: Option<IndexReport>,
    /// What is to be downloaded; only where nothing may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) needs: Option<Vec<Need>>,
    /// The first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    /// That of all failures; `failed` if they are of several kinds.
    #[serde(skip)]
    kind: Option<Kind>,
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

    fn fail(&mut self, failure: Failure) {
        let kind = match self.kind {
            Some(kind) if kind != failure.kind => Kind::Failed,
            _ => failure.kind,
        };
        self.kind = Some(kind);
        self.error.get_or_insert(failure);
    }

    /// The first failure, and the kind of all of them.
    pub(crate) fn failure(&self) -> Option<(&Failure, Kind)> {
        self.error.as_ref().zip(self.kind)
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
        if !self.not_entitled.is_empty() {
            let names: Vec<&str> = self.not_entitled.iter().map(PluginName::as_str).collect();
            text += &format!("not entitled: {}\n", names.join(", "));
        }
        for need in self.needs.iter().flatten() {
            text += &format!("needs: {} {}, {} bytes\n", need.name, need.version, need.size);
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
    use super::*;

    #[test]
    fn one_failure_gives_its_kind_and_several_kinds_give_none() {
        let mut report = Report::default();
        let version = "1.0.0".parse().unwrap();
        let mut fail = |name: &str, kind| {
            report.add(&name.parse().unwrap(), Some(&version), Err(Failure::new(kind, "no")));
            report.failure().map(|(first, kind)| (first.message.clone(), kind))
        };
        assert_eq!(fail("b", Kind::Unreachable), Some(("b: no".to_owned(), Kind::Unreachable)));
        assert_eq!(fail("a", Kind::Unreachable), Some(("b: no".to_owned(), Kind::Unreachable)));
        assert_eq!(fail("c", Kind::Conflict), Some(("b: no".to_owned(), Kind::Failed)));
        assert_eq!(fail("d", Kind::Unreachable), Some(("b: no".to_owned(), Kind::Failed)));
        report.add(&"e".parse().unwrap(), None, Ok((Action::Removed, None)));
        report.not_entitled.push("x".parse().unwrap());
        let text = report.text();
        assert!(
            text.contains("a     1.0.0    failed   no\n") && text.ends_with("not entitled: x\n"),
            "{text}"
        );
        let document = serde_json::to_value(&report).unwrap();
        assert_eq!(document["error"]["kind"], "unreachable");
        assert_eq!(document["plugins"][4]["action"], "removed");
        assert!(document.get("needs").is_none() && document["index"].is_null());
    }
}
