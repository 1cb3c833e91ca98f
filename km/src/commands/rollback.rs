//! `km plugins rollback`

use clap::Args;
use km_cli::Output;
use km_package::failure::Failure;
use km_package::name::PluginName;

use super::Local;
use super::install::{Document, Plugin, line};
use crate::store::{self, Action, RolledBack};

/// Go back to the version before; a second time goes forth again
///
/// The version before is verified first. Sessions that run keep their process.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km plugins rollback console-logger")]
pub(super) struct Rollback {
    /// The plugin
    name: PluginName,
}

impl Rollback {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let RolledBack { from, to } = store::rollback(&local.home, &local.trust, &local.config, &self.name)?;
        let (action, reason) = (Action::Updated, Some(format!("in place of {from}")));
        let text = line(&format!("{} {to}", self.name), action, reason.as_deref());
        let plugin = Plugin { name: self.name.clone(), version: Some(to), action, reason };
        output.result(&Document { plugins: vec![plugin] }, text);
        Ok(())
    }
}
