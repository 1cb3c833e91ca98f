//! `km plugins install`

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use km_cli::{Output, mask};
use km_package::digest::Digest;
use km_package::failure::{Failure, Kind};
use km_package::manifest::Manifest;
use km_package::name::{CustomerId, PluginName};
use km_package::verify::{Purpose, UntrustedPackage, verify};
use serde::Serialize;

use super::Local;
use crate::store::{self, Action, InstallOptions, LOCK_FILE, LockFile, Origin, Staging};

/// Verify packages, then install them; one that is refused does not stop the others
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km plugins install km-plugin-console-logger-0123456789ab.kmpkg")]
pub(super) struct Install {
    /// The packages
    #[arg(value_name = "PACKAGE", required = true)]
    packages: Vec<PathBuf>,
    /// Replace other content under the same version; the package is verified all the same
    #[arg(long)]
    force: bool,
    /// Install a package that is older than one that was installed before
    #[arg(long)]
    allow_downgrade: bool,
    /// Only what the lock file names, by digest
    #[arg(long)]
    locked: bool,
    /// The lock file, which `km plugins lock` writes
    #[arg(long, value_name = "PATH", default_value = LOCK_FILE, requires = "locked")]
    lock_file: PathBuf,
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

/// What became of several packages.
#[derive(Debug, Default, Serialize)]
struct Report {
    plugins: Vec<Outcome>,
    /// The first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Done(Plugin),
    Failed(FailedPackage),
}

/// A package that was not installed: whatever it says of itself is not believed.
#[derive(Debug, Serialize)]
struct FailedPackage {
    package: String,
    name: Option<PluginName>,
    version: Option<String>,
    action: Action,
    reason: Option<String>,
}

/// A package that was installed, or was already.
struct Installed {
    manifest: Manifest,
    action: Action,
    reason: Option<String>,
}

impl Install {
    pub(super) fn run(&self, local: &Local, output: &Output) -> Result<ExitCode, Failure> {
        let lock = self.locked.then(|| LockFile::read(&self.lock_file)).transpose()?;
        let install = |package: &PathBuf| {
            let installed = self.install(package, lock.as_ref(), local, output);
            installed.map_err(|e| e.context(package.display()))
        };
        if let [package] = &self.packages[..] {
            let installed = install(package)?;
            let text = installed.line();
            output.result(&Document { plugins: vec![installed.into()] }, text);
            return Ok(ExitCode::SUCCESS);
        }
        Ok(report(self.packages.iter().map(|package| (package, install(package))), output))
    }

    /// untrusted package → verified package → installed plugin
    fn install(
        &self,
        package: &Path,
        lock: Option<&LockFile>,
        local: &Local,
        output: &Output,
    ) -> Result<Installed, Failure> {
        let (file, length) = open(package)?;
        let progress = output.progress();
        let package = progress.reading(file, length, "verifying");
        let package = UntrustedPackage::open(package, Staging::new(&local.home)).map_err(store::refusal)?;

        let highest = |name: &PluginName, customer: &CustomerId| {
            if self.allow_downgrade {
                return None;
            }
            // Where the marks cannot be read, the store refuses.
            store::highest_seen(&local.home, name, customer).ok()?
        };
        let purpose = Purpose::Install { now: store::now()?, highest_sequence: &highest };
        let context = store::context(purpose, local.config.customer.clone())?;
        let verified = verify(package, &local.trust.keys(), &context).map_err(store::refusal)?;

        let manifest = verified.manifest().clone();
        if let Some(lock) = lock {
            let digest = Digest::of(&verified.head().manifest);
            let Manifest { plugin, target, .. } = &manifest;
            lock.check(&plugin.name, &plugin.version, &target.platform, &digest)
                .map_err(|e| e.context(self.lock_file.display()))?;
        }
        let options = InstallOptions {
            origin: Origin::File,
            force: self.force,
            replace_other_customer: false,
            allow_downgrade: self.allow_downgrade,
        };
        let is_sound = |name: &PluginName| store::is_sound(&local.home, &local.trust, &local.config, name);
        let (action, reason) = store::install(&local.home, verified, options, &is_sound)?;
        Ok(Installed { manifest, action, reason })
    }
}

fn open(path: &Path) -> Result<(File, u64), Failure> {
    if path.to_str().is_some_and(|text| text.starts_with("https://") || text.starts_with("http://")) {
        return Err(Failure::new(Kind::Usage, "this km installs from files only")
            .help("download the package first; its signature protects it on any way"));
    }
    // The caller says which package.
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Failure::new(Kind::NotFound, format_args!("cannot open it: {e}"))
            .help("give the path of a .kmpkg file; `km plugins refresh` gets what was published for you"),
        _ => Failure::new(Kind::Local, format_args!("cannot open it: {e}")),
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(Failure::new(Kind::NotFound, "this is a folder, not a package"));
    }
    Ok((file, metadata.len()))
}

/// Reports on several packages. The first failure decides the exit code.
fn report<'a>(
    packages: impl Iterator<Item = (&'a PathBuf, Result<Installed, Failure>)>,
    output: &Output,
) -> ExitCode {
    let mut report = Report::default();
    let mut lines = String::new();
    for (package, outcome) in packages {
        match outcome {
            Ok(installed) => {
                lines += &format!("{}\n", installed.line());
                report.plugins.push(Outcome::Done(installed.into()));
            }
            Err(failure) => {
                if !output.is_json() {
                    output.fail(&failure);
                }
                let failure = Failure { message: mask(&failure.message), ..failure };
                report.plugins.push(Outcome::Failed(FailedPackage::new(package, &failure)));
                report.error.get_or_insert(failure);
            }
        }
    }
    output.result(&report, lines);
    report.error.map_or(ExitCode::SUCCESS, |first| ExitCode::from(first.kind.code()))
}

impl FailedPackage {
    fn new(package: &Path, failure: &Failure) -> Self {
        let reason = Some(failure.message.clone());
        let package = mask(&package.to_string_lossy());
        Self { package, name: None, version: None, action: Action::Failed, reason }
    }
}

impl Installed {
    fn line(&self) -> String {
        let Manifest { plugin, customer, .. } = &self.manifest;
        let what = format!("{} {} for {} at {}", plugin.name, plugin.version, customer.id, customer.tier);
        line(&what, self.action, self.reason.as_deref())
    }
}

impl From<Installed> for Plugin {
    fn from(installed: Installed) -> Self {
        let Installed { manifest, action, reason } = installed;
        Self {
            name: manifest.plugin.name,
            version: Some(manifest.plugin.version.to_string()),
            action,
            reason,
        }
    }
}

/// What became of something, for people.
pub(super) fn line(what: &str, action: Action, reason: Option<&str>) -> String {
    let reason = reason.map(|reason| format!(", {reason}")).unwrap_or_default();
    format!("{what}: {action}{reason}")
}
