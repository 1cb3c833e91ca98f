//! Plugins in Rust, by cargo.

use std::path::{Path, PathBuf};

use km_package::failure::{Failure, Kind};
use km_package::manifest::Target;
use serde::Deserialize;

use super::tool::Tool;
use super::{Profile, named_target};
use crate::environment::Environment;
use crate::source::CargoPackage;

/// cargo and rustc for one target.
#[derive(Debug, Clone)]
pub struct CargoBuild {
    /// What it compiles for.
    pub target: Target,
    /// The compiler and its version.
    pub toolchain: String,
    /// What the target was asked for as, if it was.
    asked: Option<String>,
    profile: Profile,
    target_dir: PathBuf,
    rust_flags: Option<String>,
    remap: Vec<String>,
}

impl CargoBuild {
    /// Finds the compiler that the source's folder uses.
    ///
    /// # Errors
    /// When there is none, or packages are not made for its target.
    pub fn find(
        source: &CargoPackage,
        target: Option<String>,
        profile: Profile,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let rustc = Rustc::find(source.folder())?;
        let named = named_target(target.clone().unwrap_or(rustc.host))?;
        if target.is_some() {
            has_library(source.folder(), &named.triple)?;
        }
        let base = match &environment.cargo_target_dir {
            Some(folder) => environment.current_dir.join(folder),
            None => source.target_directory.clone(),
        };
        // Paths of this machine do not belong into customers' binaries, and would make them differ. Those
        // of the workspace are relative already; a flag for them would compile everything anew for each.
        let remap = |home: &PathBuf| format!("--remap-path-prefix={}=/cargo", home.display());
        let remap = environment.cargo_home.iter().map(remap).collect();
        Ok(Self {
            target: named,
            toolchain: format!("rustc {}", rustc.release),
            asked: target,
            profile,
            target_dir: base.join("km-pack"),
            rust_flags: environment.rust_flags.clone(),
            remap,
        })
    }

    /// Compiles the plugin and gives the executable. cargo's own progress goes to stderr.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn compile(&self, source: &CargoPackage) -> Result<PathBuf, Failure> {
        let executable = source.about.name.executable();
        // See .cargo/config.toml, which plugins outside this workspace do not have.
        let mut cargo = Tool::new("cargo", source.folder())
            .args(["build", "--message-format", "json-render-diagnostics", "--bin", executable.as_str()])
            .args(["--manifest-path".as_ref(), source.manifest_path.as_os_str()])
            .args(["--target-dir".as_ref(), self.target_dir.as_os_str()]);
        cargo = cargo.env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1".to_owned());
        if self.profile == Profile::Release {
            cargo = cargo.args(["--release"]);
        }
        if let Some(target) = &self.asked {
            cargo = cargo.args(["--target", target]);
        }
        cargo = match &self.rust_flags {
            // Flags in the environment replace those in configuration files: ours join them.
            Some(flags) => {
                let flags = [std::slice::from_ref(flags), &self.remap].concat().join("\x1f");
                cargo.env("CARGO_ENCODED_RUSTFLAGS", flags)
            }
            None => {
                let flags = toml::Value::from(self.remap.clone());
                cargo.args(["--config".to_owned(), format!("target.'cfg(all())'.rustflags={flags}")])
            }
        };
        let messages = cargo.output()?;
        executable_of(&messages, executable.as_str()).ok_or_else(|| {
            let manifest = source.manifest_path.display();
            Failure::new(Kind::Failed, format_args!("{manifest} has no program {executable}"))
        })
    }
}

/// The executable that cargo says it made.
fn executable_of(messages: &str, name: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.target.as_ref().is_some_and(|target| target.name == name))
        .find_map(|message| message.executable)
}

/// What `rustc -vV` says.
struct Rustc {
    host: String,
    release: String,
}

impl Rustc {
    fn find(folder: &Path) -> Result<Self, Failure> {
        let version = Tool::new("rustc", folder).args(["-vV"]).output()?;
        let line = |prefix: &str| {
            version.lines().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned).ok_or_else(|| {
                Failure::new(Kind::Failed, format_args!("rustc -vV does not say its {prefix}"))
            })
        };
        Ok(Self { host: line("host: ")?, release: line("release: ")? })
    }
}

/// Fails where the standard library for a target is not installed.
fn has_library(folder: &Path, triple: &str) -> Result<(), Failure> {
    let library =
        Tool::new("rustc", folder).args(["--print", "target-libdir", "--target", triple]).output()?;
    if Path::new(library.trim()).is_dir() {
        return Ok(());
    }
    Err(Failure::new(Kind::NotFound, format_args!("Rust's library for {triple} is not installed"))
        .help(format_args!("rustup target add {triple}")))
}

/// `cargo metadata` in a folder, or of one manifest.
///
/// # Errors
/// When cargo is missing or refuses.
pub fn cargo_metadata(folder: &Path, manifest: Option<&Path>) -> Result<String, Failure> {
    // Without the filter cargo would fetch what other platforms need.
    let host = Rustc::find(folder)?.host;
    let cargo =
        Tool::new("cargo", folder).args(["metadata", "--format-version", "1", "--filter-platform", &host]);
    match manifest {
        Some(path) => cargo.args(["--manifest-path".as_ref(), path.as_os_str()]).output(),
        None => cargo.output(),
    }
}
