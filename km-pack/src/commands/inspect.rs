//! `km-pack inspect`

use std::path::PathBuf;

use clap::Args;
use km_cli::Output;
use km_package::failure::Failure;
use km_package::manifest::Manifest;
use km_package::verify::{Discard, UntrustedPackage};
use serde::Serialize;

use crate::environment::Environment;

/// Show what a package says it is; nothing of it is checked
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km-pack inspect dist/km-plugin-console-logger-0123456789ab.kmpkg")]
pub(super) struct Inspect {
    /// The package
    #[arg(value_name = "PACKAGE")]
    package: PathBuf,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    path: &'a PathBuf,
    size: u64,
    key_ids: Vec<String>,
    tar_sha256: String,
    manifest: &'a Manifest,
}

impl Inspect {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let path = environment.current_dir.join(&self.package);
        let (file, size) = super::open_package(&path)?;
        let refused = |e| Failure::from(e).context(self.package.display());
        let package = UntrustedPackage::open(file, Discard).map_err(refused)?;
        let (manifest, key_ids) = package.peek().map_err(refused)?;
        let document = Document {
            path: &self.package,
            size,
            key_ids: key_ids.iter().map(ToString::to_string).collect(),
            tar_sha256: manifest.payload.tar_sha256.to_string(),
            manifest: &manifest,
        };
        output.result(&document, text(&document));
        Ok(())
    }
}

fn text(document: &Document<'_>) -> String {
    let Manifest { plugin, customer, target, protocol, build, identity, permissions, payload, files, .. } =
        document.manifest;
    let mut lines = vec![
        ("plugin", format!("{} {}", plugin.name, plugin.version)),
        ("description", plugin.description.clone()),
        ("customer", customer.id.to_string()),
        ("tier", format!("{} (the plugin needs {})", customer.tier, plugin.required_tier)),
        ("platform", format!("{} ({})", target.platform, target.triple)),
        ("protocol", format!("{:?}", protocol.versions)),
        ("sequence", plugin.sequence.to_string()),
        ("created", build.created.to_string()),
        ("signed by", format!("{} (not checked: km-pack verify)", document.key_ids.join(", "))),
        ("package", format!("{} bytes, {} frames", document.size, payload.frames.len())),
        ("archive", format!("{} bytes, sha256 {}", payload.tar_size, payload.tar_sha256)),
        ("base sha256", build.base_sha256.to_string()),
    ];
    if let Some(expires) = plugin.expires {
        lines.push(("expires", expires.to_string()));
    }
    if let Some(slot) = identity {
        lines.push(("identity", format!("{} bytes at {}", slot.size, slot.offset)));
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
