//! `km plugins inspect`

use clap::Args;
use km_cli::Output;
use km_package::failure::Failure;
use km_package::manifest::Manifest;
use km_package::name::PluginName;

use super::Local;
use crate::store::{self, Inspection};

/// Show the signed manifest of an installed plugin
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km plugins inspect console-logger")]
pub(super) struct Inspect {
    /// The plugin
    name: PluginName,
}

impl Inspect {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let inspection = store::inspect(&local.home, &local.trust, &self.name)?;
        output.result(&inspection, text(&inspection));
        Ok(())
    }
}

fn text(inspection: &Inspection) -> String {
    let Manifest { plugin, customer, target, protocol, build, permissions, files, .. } = &inspection.manifest;
    let mut lines = vec![
        ("plugin", format!("{} {}", plugin.name, plugin.version)),
        ("description", plugin.description.clone()),
        ("customer", customer.id.to_string()),
        ("tier", format!("{} (the plugin needs {})", customer.tier, plugin.required_tier)),
        ("platform", format!("{} ({})", target.platform, target.triple)),
        ("protocol", format!("{:?}", protocol.versions)),
        ("sequence", plugin.sequence.to_string()),
        ("created", build.created.to_string()),
        ("base sha256", build.base_sha256.to_string()),
        ("signed by", inspection.key_ids.join(", ")),
        ("installed", inspection.installed_at.clone()),
        ("from", inspection.origin.to_string()),
        ("path", inspection.path.display().to_string()),
    ];
    if let Some(previous) = &inspection.previous {
        lines.push(("kept", format!("{previous} (km plugins rollback {})", inspection.name)));
    }
    for (name, values) in
        [("network", &permissions.network), ("read", &permissions.read), ("write", &permissions.write)]
    {
        if !values.is_empty() {
            lines.push((name, values.join(", ")));
        }
    }
    for file in files {
        lines.push(("file", format!("{} {} bytes, sha256 {}", file.path, file.size, file.sha256)));
    }
    lines.into_iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
}
