//! `km plugins allow`

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use clap::Args;
use km_cli::Output;
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::name::PluginName;
use serde::Serialize;

use super::Local;
use crate::store;
use crate::trust::Allowed;

/// Trust one local binary by its digest, for developing plugins
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  cp target/debug/km-plugin-mine ~/.km/plugins/\n  km plugins allow ~/.km/plugins/km-plugin-mine"
)]
pub(super) struct Allow {
    /// The binary, named `km-plugin-<name>`
    #[arg(value_name = "BINARY")]
    path: PathBuf,
}

#[derive(Debug, Serialize)]
struct Document {
    plugins: Vec<AllowedPlugin>,
}

#[derive(Debug, Serialize)]
struct AllowedPlugin {
    name: PluginName,
    path: PathBuf,
    sha256: Digest,
    action: &'static str,
}

impl Allow {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |e| Failure::file("read", &path, &e);
        let metadata = std::fs::metadata(&path).map_err(failed)?;
        let name = path.file_name().and_then(|name| name.to_str()).and_then(PluginName::of_executable);
        let Some(name) = name.filter(|_| metadata.is_file()) else {
            return Err(Failure::new(
                Kind::Failed,
                format_args!("{} is not a file named km-plugin-<name>", path.display()),
            ));
        };
        let resolved = std::fs::canonicalize(&path).map_err(failed)?;
        if std::fs::canonicalize(local.home.store()).is_ok_and(|store| resolved.starts_with(store)) {
            let message =
                format!("{} belongs to an installed package, which is not changed by hand", path.display());
            return Err(Failure::new(Kind::Conflict, message).help(format_args!(
                "`km plugins remove {name}` first, then put your binary there; installing the package again repairs it"
            )));
        }
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err(Failure::new(Kind::Failed, format_args!("{} is not executable", path.display()))
                .help(format_args!("chmod +x {}", path.display())));
        }
        let sha256 = store::digest_of(&path).map_err(failed)?;
        let added = Allowed::add(&local.home, &name, sha256, metadata.len())?;
        let place = local.home.plugin(&name);
        if !place.exists() {
            output.note(format_args!("km runs it once it lies at {}", place.display()));
        }
        let text = if added {
            format!("{name} may run, as long as the file stays as it is")
        } else {
            format!("{name} was allowed already")
        };
        let action = if added { "allowed" } else { "kept" };
        output.result(&Document { plugins: vec![AllowedPlugin { name, path, sha256, action }] }, text);
        Ok(())
    }
}
