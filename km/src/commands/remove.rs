//! `km plugins remove`

use clap::Args;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;

use super::install::{Document, Plugin};
use super::{Local, confirm};
use crate::store::{self, Action};
use crate::trust::Allowed;

/// Remove a plugin; sessions that run keep their process
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km plugins remove console-logger --yes")]
pub(super) struct Remove {
    /// The plugin
    name: PluginName,
    /// Ask nothing
    #[arg(long)]
    yes: bool,
    /// It is no error if it is not installed
    #[arg(long)]
    if_present: bool,
}

impl Remove {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let name = &self.name;
        let entries = store::list(&local.home, &local.trust, &local.config)?;
        let Some(entry) = entries.into_iter().find(|entry| entry.name == *name) else {
            // What an interrupted removal left is removed to its end.
            if store::remove(&local.home, name)? {
                output.result(&removed(name, None), format_args!("{name} removed"));
                return Ok(());
            }
            if self.if_present {
                output.result(&Document { plugins: Vec::new() }, format_args!("{name} is not installed"));
                return Ok(());
            }
            return Err(Failure::new(Kind::NotFound, format_args!("plugin {name} is not installed"))
                .help("`km plugins list` shows what is"));
        };
        if !self.yes && !confirm(&format!("Remove {name}?")) {
            return Err(Failure::new(Kind::Failed, format_args!("{name} stays")));
        }
        store::remove(&local.home, name)?;
        Allowed::forget(&local.home, name)?;
        output.result(&removed(name, entry.version), format_args!("{name} removed"));
        Ok(())
    }
}

fn removed(name: &PluginName, version: Option<String>) -> Document {
    let plugin = Plugin { name: name.clone(), version, action: Action::Removed, reason: None };
    Document { plugins: vec![plugin] }
}
