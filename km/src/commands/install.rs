//! `km plugins install`

use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::manifest::Manifest;
use km_package::name::{CustomerId, PluginName};
use km_package::verify::{Purpose, UntrustedPackage, verify};
use serde::Serialize;

use super::Local;
use crate::store::{self, Action, HighestSequences, InstallOptions, Staging};

/// Verify a package, then install it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km plugins install km-plugin-console-logger-0123456789ab.kmpkg")]
pub(super) struct Install {
    /// The package
    #[arg(value_name = "PACKAGE")]
    package: PathBuf,
    /// Replace other content under the same version; the package is verified all the same
    #[arg(long)]
    force: bool,
    /// Install a package that is older than one that was installed before
    #[arg(long)]
    allow_downgrade: bool,
}

/// What became of plugins, for scripts.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    pub(super) plugins: Vec<Plugin>,
}

#[derive(Debug, Serialize)]
pub(super) struct Plugin {
    pub(super) name: PluginName,
    pub(super) version: Option<String>,
    pub(super) action: Action,
    pub(super) reason: Option<String>,
}

impl Install {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let (manifest, action, reason) =
            self.install(local, output).map_err(|e| e.context(self.package.display()))?;
        let Manifest { plugin, customer, .. } = manifest;
        let text = format!(
            "{} {} for {} at {}: {}{}",
            plugin.name,
            plugin.version,
            customer.id,
            customer.tier,
            match action {
                Action::Installed => "installed",
                Action::Updated => "updated",
                Action::Kept => "kept",
                Action::Removed => "removed",
            },
            reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default()
        );
        let version = Some(plugin.version.to_string());
        output
            .result(&Document { plugins: vec![Plugin { name: plugin.name, version, action, reason }] }, text);
        Ok(())
    }

    /// untrusted package → verified package → installed plugin
    fn install(&self, local: &Local, output: &Output) -> Result<(Manifest, Action, Option<String>), Failure> {
        let (file, length) = self.open()?;
        let progress = output.progress();
        let package = progress.reading(file, length, "verifying");
        let package = UntrustedPackage::open(package, Staging::new(&local.home))?;

        let highest = |name: &PluginName, customer: &CustomerId| {
            if self.allow_downgrade {
                return None;
            }
            // Where the marks cannot be read, the store refuses.
            HighestSequences::load(&local.home, name).ok()?.of(customer)
        };
        let purpose = Purpose::Install { now: store::now()?, highest_sequence: &highest };
        let context = store::context(purpose, local.config.customer.clone())?;
        let verified = verify(package, &local.trust.keys(), &context)?;

        let manifest = verified.manifest().clone();
        let options = InstallOptions { force: self.force, allow_downgrade: self.allow_downgrade };
        let is_sound =
            |name: &PluginName| store::open(&local.home, &local.trust, &local.config, name).is_ok();
        let (action, reason) = store::install(&local.home, verified, options, &is_sound)?;
        Ok((manifest, action, reason))
    }

    fn open(&self) -> Result<(File, u64), Failure> {
        let path = &self.package;
        if path.to_str().is_some_and(|text| text.starts_with("https://") || text.starts_with("http://")) {
            return Err(Failure::new(Kind::Usage, "this km installs from files only")
                .help("download the package first; its signature protects it on any way"));
        }
        let failed = |e| Failure::file("open", path, &e);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(Failure::new(Kind::NotFound, "this is a folder, not a package"));
        }
        Ok((file, metadata.len()))
    }
}
