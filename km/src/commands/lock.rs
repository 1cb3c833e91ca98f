//! `km plugins lock`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use km_cli::Output;
use km_package::failure::{Failure, Kind};
use km_package::platform::Platform;
use serde::Serialize;

use super::Local;
use crate::provision;
use crate::store::{self, Entry, LOCK_FILE, LockFile, LockedPlugin, State};

/// Write down which packages are installed, for people to commit
///
/// `km plugins install --locked` then takes these packages and no others. Other platforms stay in the
/// file as long as the version does.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km plugins lock && git add km-plugins.lock")]
pub(super) struct Lock {
    /// The file
    #[arg(long, value_name = "PATH", default_value = LOCK_FILE)]
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    path: &'a Path,
    plugins: &'a [LockedPlugin],
}

impl Lock {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<(), Failure> {
        let path = std::path::absolute(&self.file).map_err(|e| Failure::file("write", &self.file, &e))?;
        let mut plugins = Vec::new();
        for entry in store::list(&local.home, &local.trust, &local.config)? {
            match lock(local, &entry)? {
                Some(plugin) => plugins.push(plugin),
                None => output.note(left_out(&entry)),
            }
        }
        let mut file = LockFile::new(plugins);
        match LockFile::read(&path) {
            Ok(older) => file.keep_platforms_of(&older),
            Err(failure) if failure.kind == Kind::NotFound => {}
            Err(failure) => return Err(failure),
        }
        file.write(&path)?;
        output.result(&Document { path: &path, plugins: &file.plugins }, text(&file, &path));
        Ok(())
    }
}

/// What is written of a plugin; nothing of one that does not run, or is not from a package.
fn lock(local: &Local, entry: &Entry) -> Result<Option<LockedPlugin>, Failure> {
    let installed = store::installed(&local.home, &entry.name).filter(|_| entry.state == State::Installed);
    let Some(installed) = installed else { return Ok(None) };
    let here = Platform::current().map_err(|e| Failure::new(Kind::Failed, e))?;
    let mut plugin = LockedPlugin {
        name: entry.name.clone(),
        version: installed.version,
        sequence: installed.sequence,
        customer: installed.customer,
        platforms: BTreeMap::from([(here.to_string(), installed.manifest_sha256)]),
    };
    if let Some(index) = provision::last_index(&local.home, &local.trust.keys(), &plugin.customer)? {
        plugin.add_published(index.index());
    }
    Ok(Some(plugin))
}

fn left_out(entry: &Entry) -> String {
    let why = entry.reason.as_deref().unwrap_or("it is not from a package");
    format!("{} is left out: {why}", entry.name)
}

fn text(file: &LockFile, path: &Path) -> String {
    let line = |plugin: &LockedPlugin| {
        let platforms: Vec<&str> = plugin.platforms.keys().map(String::as_str).collect();
        format!("{} {} for {}: {}\n", plugin.name, plugin.version, plugin.customer, platforms.join(", "))
    };
    let lines: String = file.plugins.iter().map(line).collect();
    format!("{lines}{} plugins locked in {}", file.plugins.len(), path.display())
}
