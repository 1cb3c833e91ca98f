//! `km-pack test`

use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use km_cli::Output;
use km_package::failure::{ErrorDocument, Failure, Kind};
use km_package::manifest::FileEntry;
use km_package::name::PluginName;
use km_package::verify::Sink;
use serde::Serialize;

use super::verify::{context, trusted_keys, verify_package};
use crate::conformance::{self, Check, Outcome, Subject};
use crate::environment::Environment;

/// Start a plugin and check the whole contract, point by point
///
/// The plugin is a package, or an executable of any language named km-plugin-<name>. A package is
/// verified before anything of it is run. Exit code 8 if the plugin breaks a point of the contract.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  km-pack test target/debug/km-plugin-console-logger")]
pub(super) struct Test {
    /// The package or executable
    #[arg(value_name = "PACKAGE|BINARY")]
    plugin: PathBuf,
    /// The API key that the plugin was built for; `-` reads it from stdin
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Trust this public key for a package [default: as km-pack verify]
    #[arg(long, value_name = "PEM")]
    key: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    path: &'a Path,
    ok: bool,
    checks: &'a [Check],
    /// As every command that fails says it.
    #[serde(flatten)]
    error: Option<ErrorDocument<'a>>,
}

impl Test {
    pub(super) fn run(&self, environment: &Environment, output: &Output) -> Result<ExitCode, Failure> {
        let api_key = super::read_api_key(self.api_key.as_deref())?.unwrap_or_default();
        // What of a package is run lies there; it goes with this scope.
        let folder = tempfile::tempdir().map_err(|e| Failure::file("make", Path::new("a folder"), &e))?;
        let subject = self.subject(environment, output, folder.path(), api_key)?;
        let progress = output.progress();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::new(Kind::Local, e))?;
        let mut observe = |check: &Check| progress.step(check.what);
        let checks = runtime
            .block_on(conformance::check(subject, &mut observe))
            .map_err(|e| Failure::new(Kind::Local, format_args!("cannot prepare the checks: {e}")))?;
        drop(progress);
        let failed = checks.iter().filter(|check| check.outcome == Outcome::Failed).count();
        let failure = (failed > 0).then(|| {
            Failure::new(Kind::Plugin, format_args!("{}: {failed} checks failed", self.plugin.display()))
                .help("docs/protocol.md says what a plugin does; -v shows what this one wrote")
        });
        let document = Document {
            path: &self.plugin,
            ok: failure.is_none(),
            checks: &checks,
            error: failure.as_ref().map(ErrorDocument::from),
        };
        output.result(&document, text(&checks));
        Ok(ExitCode::from(failure.map_or(0, |failure| failure.kind.code())))
    }

    fn subject(
        &self,
        environment: &Environment,
        output: &Output,
        folder: &Path,
        api_key: String,
    ) -> Result<Subject, Failure> {
        let path = environment.current_dir.join(&self.plugin);
        if path.extension().is_none_or(|extension| extension != "kmpkg") {
            // Whether it is there and can be read, in the words of every command.
            super::open_package(&path)?;
            let name = path.file_name().and_then(|name| PluginName::of_executable(name.to_str()?));
            return Ok(Subject { executable: path, name, manifest: None, api_key });
        }
        let keys = trusted_keys(&self.key, environment)?;
        let sink = Unpack { folder: folder.to_owned(), file: None };
        let verified = verify_package(&path, sink, &keys, &context(None)?, output)
            .map_err(|failure| failure.context(self.plugin.display()))?;
        let manifest = verified.manifest().clone();
        let name = manifest.plugin.name.clone();
        let executable = folder.join(name.executable().as_str());
        Ok(Subject { executable, name: Some(name), manifest: Some(manifest), api_key })
    }
}

fn text(checks: &[Check]) -> String {
    let mut text = String::new();
    for Check { what, outcome, detail, id, .. } in checks {
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        text += &format!("{outcome:<8} {id:<22} {what}{detail}\n");
    }
    let count = |wanted| checks.iter().filter(|check| check.outcome == wanted).count();
    text + &format!(
        "\n{} passed, {} failed, {} warnings, {} skipped\n",
        count(Outcome::Passed),
        count(Outcome::Failed),
        count(Outcome::Warned),
        count(Outcome::Skipped)
    )
}

/// Writes a package's files into a folder.
#[derive(Debug)]
struct Unpack {
    folder: PathBuf,
    file: Option<File>,
}

impl Sink for Unpack {
    fn begin(&mut self, file: &FileEntry) -> io::Result<()> {
        let mode = if file.executable { 0o700 } else { 0o600 };
        let path = self.folder.join(file.path.as_str());
        self.file = Some(File::options().write(true).create_new(true).mode(mode).open(path)?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    fn end(&mut self) -> io::Result<()> {
        self.file = None;
        Ok(())
    }
}
