//! `km plugins list`

use clap::Args;
use km_cli::Output;
use km_package::failure::Failure;
use serde::Serialize;

use super::Local;
use crate::store::{self, Entry, State};

/// Show the installed plugins; starts none of them
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km plugins list --json")]
pub(super) struct List {}

#[derive(Debug, Serialize)]
struct Document {
    plugins: Vec<Entry>,
}

impl List {
    #[expect(clippy::unused_self, reason = "every command runs the same way")]
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let plugins = store::list(&local.home, &local.trust, &local.config)?;
        if plugins.is_empty() && !output.is_json() {
            output.note("no plugins are installed; `km plugins install <package>` installs one");
        }
        let text = table(&plugins);
        output.result(&Document { plugins }, text);
        Ok(())
    }
}

/// The table that people see.
pub(super) fn table(plugins: &[Entry]) -> String {
    if plugins.is_empty() {
        return String::new();
    }
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row = |entry: &Entry| {
        vec![
            entry.name.to_string(),
            dash(entry.version.clone()),
            dash(entry.tier.map(|tier| tier.to_string())),
            dash(entry.customer.as_ref().map(ToString::to_string)),
            state(entry.state).to_owned(),
            entry.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = plugins.iter().map(row).collect();
    km_cli::table(&["NAME", "VERSION", "TIER", "CUSTOMER", "STATE", ""], &rows)
}

fn state(state: State) -> &'static str {
    match state {
        State::Installed => "installed",
        State::Allowed => "allowed",
        State::Unsigned => "unsigned",
        State::Untrusted => "untrusted",
        State::Disabled => "disabled",
    }
}
